"""The first verdict on a pretrained encoder in words, and what guessing would give: nothing that needs the figures explained."""

from collections.abc import Mapping

import torch
from torch import Tensor

from linear_eval.beside import RESERVED, START
from linear_eval.metrics import bootstrap_interval
from linear_eval.results import ClosedRow, Commonest, Gain
from linear_eval.results_numbers import NumberProbeRow

__all__ = ["always_the_commonest", "verdict", "verdict_on_numbers"]


def always_the_commonest(train: Tensor, test: Tensor, *, resamples: int = 10_000, seed: int = 0) -> Commonest:
    """What the commonest of the training labels (N,) gives when every test image, labels (M,), is called by it."""
    labels, counts = train.unique(return_counts=True)
    label = int(labels[counts.argmax()])
    right = (test == label).numpy()
    return Commonest(
        label=label,
        accuracy=float(right.mean()),
        interval=bootstrap_interval(right, resamples=resamples, seed=seed),
        balanced_accuracy=float(right.any()) / len(torch.unique(test)),
    )


def verdict(rows: dict[str, ClosedRow], comparison: dict[str, dict[str, Gain]], commonest: Commonest) -> str:
    """Whether the encoder beat the untrained one and raw pixels by more than chance, by its linear probe, in a sentence or two.

    The differences are paired over the test images; one whose 95 % interval holds 0 is none that these images show.
    """
    score = rows["encoder"].linear
    against, kinds = [], []
    for name, words in (("untrained", "the encoder untrained"), ("raw pixels", "raw pixels")):
        gain = comparison.get(f"encoder - {name}", {}).get("linear")
        if gain is None or gain.interval is None:
            continue
        low, high = gain.interval
        kinds.append("better" if low > 0 else "worse" if high < 0 else "equal")
        spread = f"{100 * gain.difference:+.1f} points, 95 % [{100 * low:.1f}, {100 * high:.1f}]"
        includes = ", which includes 0" if kinds[-1] == "equal" else ""
        against.append(f"{100 * rows[name].linear.accuracy:.1f} % of {words} ({spread}{includes})")
    said = [f"{_opening(kinds)}: {100 * score.accuracy:.1f} % against {' and '.join(against)}."] if kinds else []
    if score.interval[0] <= commonest.accuracy:
        said.append(
            f"Always naming the commonest class gives {100 * commonest.accuracy:.1f} %: no more than that is shown to be "
            "learned."
            if score.accuracy >= commonest.accuracy
            else f"Always naming the commonest class gives more: {100 * commonest.accuracy:.1f} %."
        )
    for name in _others(comparison):
        gain = comparison[f"encoder - {name}"]["linear"]
        theirs = f"{100 * rows[name].linear.accuracy:.1f} %"
        said += _beside(name, gain, theirs, ("{:+.1f} points", "{:.1f}"), 100)
    return " ".join(said)


def verdict_on_numbers(rows: dict[str, NumberProbeRow], comparison: dict[str, Gain]) -> str:
    """The same of a regression probe, by its mean absolute error; a gain is an error that is lower."""
    against, kinds = [], []
    for name, words in (("untrained", "the encoder untrained"), ("raw pixels", "raw pixels")):
        gain = comparison.get(f"encoder - {name}")
        if gain is None or gain.interval is None:
            continue
        low, high = gain.interval
        kinds.append("better" if low > 0 else "worse" if high < 0 else "equal")
        includes = ", which includes 0" if kinds[-1] == "equal" else ""
        lower = f"lower by {gain.difference:.3g}, 95 % [{low:.3g}, {high:.3g}]{includes}"
        against.append(f"{rows[name].mean_absolute_error:.4g} of {words} ({lower})")
    mine = f"mean absolute error {rows['encoder'].mean_absolute_error:.4g}"
    said = [f"{_opening(kinds)}: {mine} against {' and '.join(against)}."] if kinds else []
    mean = comparison.get("encoder - always the mean")
    if mean is not None and mean.interval is not None and mean.interval[0] <= 0:
        error = rows["always the mean"].mean_absolute_error
        said.append(f"Always naming the mean gives {error:.4g}: it is not shown that anything was learned.")
    for name in _others(comparison):
        theirs = f"{rows[name].mean_absolute_error:.4g}"
        said += _beside(name, comparison[f"encoder - {name}"], theirs, ("lower by {:.3g}", "{:.3g}"), 1)
    return " ".join(said)


def _others(comparison: Mapping[str, object]) -> list[str]:
    """The rows that not every table has."""
    return [name for pair in comparison if (name := pair.removeprefix("encoder - ")) not in RESERVED]


def _beside(name: str, gain: Gain, theirs: str, words: tuple[str, str], scale: float) -> list[str]:
    """Whether the encoder is better than another one, by more than chance; ``words`` show a gain and an end of its interval."""
    if gain.interval is None:
        return []
    low, high = gain.interval
    if name == START:
        name = "the weights it started from"
        kinds = (
            "Adapting helped: better than",
            "Adapting made it worse: behind",
            "No sign that adapting helped: not told apart from",
        )
    else:
        kinds = ("Better than", "Behind", "Not told apart from")
    kind = kinds[0 if low > 0 else 1 if high < 0 else 2]
    includes = ", which includes 0" if low <= 0 <= high else ""
    ends = ", ".join(words[1].format(scale * end) for end in (low, high))
    return [f"{kind} {name}, {theirs} ({words[0].format(scale * gain.difference)}, 95 % [{ends}]{includes})."]


def _opening(kinds: list[str]) -> str:
    if set(kinds) == {"better"}:
        return "Pretraining helped"
    if set(kinds) == {"worse"}:
        return "Pretraining made it worse"
    if "worse" in kinds:
        return "No sign that pretraining helped: the encoder is behind one of the two"
    if "better" in kinds:
        return "Pretraining helped, but not against both by more than chance"
    return "No sign that pretraining helped"
