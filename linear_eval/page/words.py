"""The verdict on a run: one line that a reader takes away, and the sentences behind it."""

from dataclasses import dataclass
from typing import Literal

from linear_eval.comparison.runs import RunRecord
from linear_eval.comparison.scores import Score, scored_sets
from linear_eval.reports.notes import COMMONEST
from linear_eval.results import ClosedResult, FinetunedClasses, FinetunedNumbers
from linear_eval.results_numbers import NumbersResult
from simclr.commands import command
from simclr.config.sources import GIVEN

__all__ = ["Tile", "Verdict", "tiles", "verdict_on"]

_ROWS = {"from scratch": "the same network from scratch", "linear probe": "a linear probe of the encoder"}

Kind = Literal["good", "watch", "bad", "none"]


@dataclass(frozen=True)
class Verdict:
    """What is to be thought of a run."""

    kind: Kind
    headline: str
    sentences: str


@dataclass(frozen=True)
class Tile:
    """A figure to be seen first."""

    value: str
    what: str
    beside: str


def verdict_on(run: RunRecord) -> Verdict:
    """From the run's first score; of one without a score, what is missing."""
    for result in run.results:
        if isinstance(result, ClosedResult | NumbersResult) and result.verdict:
            headline, _, rest = result.verdict.partition(": ")
            kind: Kind = "watch" if headline.startswith("No sign") or "but not" in headline else "good"
            return Verdict("bad" if "worse" in headline else kind, headline, _capital(rest))
        if isinstance(result, FinetunedClasses | FinetunedNumbers):
            return _on_finetuned(result)
    for one in (scored for scored in scored_sets(run) if scored.rows):
        first, *others = [(name, next(iter(row.values()), None)) for name, row in one.rows.items()]
        if first[1] is not None:
            beside = ", ".join(f"{name} {score}" for name, score in others if score is not None)
            measure = next(iter(one.rows[first[0]]))
            return Verdict("none", f"{measure} {first[1]}", f"{one.title}. Beside it: {beside or 'nothing'}.")
    if not run.finished:
        return Verdict(
            "none", "Not scored yet", "A run is scored at its end; one that was stopped goes on with the same command."
        )
    return Verdict(
        "none",
        "Trained, not scored",
        "A score needs labels, and these images have none."
        if run.config.get("data.source") == GIVEN
        else "A score needs labels: put the images of each class into a folder of its own, or name a file of them: "
        f"{command('evaluate')} {run.folder} --data.labels FILE.csv.",
    )


def _on_finetuned(result: FinetunedClasses | FinetunedNumbers) -> Verdict:
    unit = "points" if isinstance(result, FinetunedClasses) else "of mean absolute error"
    scale = 100 if isinstance(result, FinetunedClasses) else 1
    kinds, said = [], []
    for pair, gain in result.comparison.items():
        if gain.interval is None:
            continue
        low, high = gain.interval
        kinds.append("better" if low > 0 else "worse" if high < 0 else "equal")
        word = {"better": "better than", "worse": "behind", "equal": "not told apart from"}[kinds[-1]]
        other = pair.removeprefix("fine-tuned - ")
        said.append(
            f"{word} {_ROWS.get(other, other)} ({scale * gain.difference:+.3g} {unit}, 95 % "
            f"[{scale * low:.3g}, {scale * high:.3g}])"
        )
    if not kinds:
        return Verdict(
            "none", "Fine-tuned", "Nothing stands beside it: --train.scratch trains the same network from nothing."
        )
    if set(kinds) == {"better"}:
        return Verdict("good", "Fine-tuning helped", _capital("; ".join(said)) + ".")
    kind: Kind = "bad" if set(kinds) == {"worse"} else "watch"
    headline = "Fine-tuning made it worse" if kind == "bad" else "Fine-tuning is not ahead of everything"
    return Verdict(kind, headline, _capital("; ".join(said)) + ".")


def tiles(run: RunRecord, most: int = 4) -> list[Tile]:
    """The first measures of the first score, each beside the same of the other rows."""
    sets = [one for one in scored_sets(run) if one.rows]
    if not sets:
        return []
    name, *others = sets[0].rows
    found = []
    for measure, score in list(sets[0].rows[name].items())[:most]:
        beside = [
            f"{other} {_plain(sets[0].rows[other][measure])}"
            for other in others
            if measure in sets[0].rows[other] and other != COMMONEST
        ]
        found.append(Tile(_plain(score), measure, ", ".join(beside)))
    return found


def _plain(score: Score) -> str:
    return f"{score.value:.{score.digits}f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
