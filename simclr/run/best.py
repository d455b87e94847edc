"""Which weights of a run are the best, by the scores that it takes while training goes on; the test set is never looked at."""

from collections.abc import Callable
from typing import NamedTuple

from simclr.run.checkpoint import best_checkpoint
from simclr.run.parts import Learner, Run

__all__ = ["Score", "best_known", "take_best"]

_ERROR = "validation_error"

_SCORES = {
    "validation_accuracy": "validation accuracy",
    "validation_knn": "kNN accuracy on the validation images",
    "online_knn": "online kNN accuracy",
    _ERROR: "validation error",
    "online_rankme": "RankMe",
}
"""Figures that tell which weights are better, the first that there is, and what a line calls them."""


class Score(NamedTuple):
    """A figure by which weights are told apart."""

    name: str
    """As the log has it."""

    value: float
    """The higher, the better: of an error, what it lacks to 0."""

    def in_words(self, value: float) -> str:
        """What a line calls such a ``value``."""
        return f"{_SCORES.get(self.name, 'online score')} {abs(value):.4g}"


def best_known(figures: dict[str, float]) -> Score | None:
    """Of the ``figures`` of an epoch the one that says most about the weights; None where there is none."""
    name = next((name for name in _SCORES if name in figures), None)
    if name is None:
        return None
    return Score(name, -figures[name] if name == _ERROR else figures[name])


def take_best(run: Run, learner: Learner, step: int, say: Callable[[str], object]) -> int:
    """Put the weights of the best score back into ``learner``, and say so, for the main process at a run's end.

    Returns the step that they are of: ``step`` where the last ones are the best, or no score is known.
    """
    best = best_checkpoint(run.config.run_dir / "checkpoints")
    if best is None:
        say("warning: no checkpoint has a score, so train.keep=best has none to choose by; the last weights are kept")
        return step
    chosen, score = best.progress["step"], Score(str(best.progress.get("score_of")), best.progress["score"])
    if chosen == step:
        say(f"the encoder is that of the last step, {step}, which has the best score ({score.in_words(score.value)})")
        return step
    learner.weights.load_state_dict(best.model())
    words = score.in_words(score.value)
    say(f"the encoder is that of step {chosen}, which has the best score ({words}), rather than of the last, {step}")
    return int(chosen)
