"""How a fine-tuned network was scored, in words."""

from collections.abc import Container

from simclr.config import TrainConfig
from simclr.data import ImageSet

__all__ = ["finetuning_in_words"]


def finetuning_in_words(
    config: TrainConfig, parts: dict[str, ImageSet], rows: Container[str], sigmoids: bool
) -> dict[str, str]:
    """The protocol of a score of ``rows`` on ``parts``; with ``sigmoids`` every class has one of its own."""
    labels = f"{len(parts['train'])} images trained on" + (
        f", {len(parts['validation'])} kept from them for validation" if "validation" in parts else ""
    )
    words = {
        "labels": f"{labels}; {100 * config.data.label_fraction:g} % of every class's labels, split seed "
        f"{config.data.split_seed}",
        "test": f"{len(parts['test'])} test images, each whole and once, by the weights after the last of "
        f"{config.train.epochs} epochs" + (", averaged" if config.ema else ""),
        "interval": "95 % bootstrap over test images",
    }
    others = {
        "from scratch": "the same network, images and recipe from random weights, without layer decay or a head's phase",
        "linear probe": "on the features of the encoder before fine-tuning, fitted on training and validation images",
    }
    words |= {name: text for name, text in others.items() if name in rows}
    if not config.objective.reads_numbers:
        words["calibration"] = _SIGMOIDS if sigmoids else _SOFTMAX
    return words


_SOFTMAX = (
    "expected calibration error over 15 bins of confidence (Guo et al. 2017), before and after dividing the logits by "
    "the temperature that minimises cross-entropy on the validation images"
)
_SIGMOIDS = (
    "expected calibration error over 15 bins of confidence (Guo et al. 2017); every class is a sigmoid of its own, but for "
    "a linear probe: the confidence is the highest one, cross-entropy the sum of the binary ones over the classes, and no "
    "temperature is fitted"
)
