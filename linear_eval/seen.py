"""Test images that the encoder was trained on: a set that is labelled after pretraining divides in another way."""

import os

from simclr.config import DataConfig
from simclr.data import ImageSet, load_source
from simclr.errors import PipelineError

__all__ = ["seen_in_training", "seen_in_words"]


def seen_in_training(trained_on: DataConfig | None, test: ImageSet) -> int | None:
    """How many files of ``test`` are among the training images of ``trained_on``, a run's data.

    None where that cannot be told: an encoder without its run, images that are no files, or training images that are
    not where they were.
    """
    if trained_on is None or test.paths is None:
        return None
    try:
        training = load_source(trained_on, "train").paths
    except PipelineError:
        return None
    if training is None:
        return None
    # Path.resolve raises at a loop of links; a set that skips what does not decode may hold one.
    there = {os.path.realpath(path) for path in training}
    return sum(os.path.realpath(path) in there for path in test.paths)


def seen_in_words(count: int | None, images: int) -> list[str]:
    """A line for whoever reads the score, where one is needed.

    >>> seen_in_words(0, 61), seen_in_words(43, 61)
    ([], ['the encoder was trained on 43 of the 61 test images, without or with labels: the score is too good for new images'])
    """
    if not count:
        return []
    return [
        f"the encoder was trained on {count} of the {images} test images, without or with labels: the score is too good "
        "for new images"
    ]
