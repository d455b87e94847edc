"""Test images that the encoder was trained on: a set that is labelled after pretraining divides in another way."""

from pathlib import Path

from simclr.config_io import load_config
from simclr.data import ImageSet, load_source
from simclr.errors import PipelineError

__all__ = ["seen_in_training", "seen_in_words"]


def seen_in_training(encoder_folder: Path, test: ImageSet) -> int | None:
    """How many files of ``test`` are among those that the run of ``encoder_folder`` was trained on.

    None where that cannot be told: an encoder without its run, images that are no files, or training images that are
    not where they were.
    """
    written = encoder_folder.parent / "config.yaml"
    if test.paths is None or not written.exists():
        return None
    try:
        trained = load_source(load_config(written).data, "train")
    except PipelineError:
        return None
    if trained.paths is None:
        return None
    there = {path.resolve() for path in trained.paths}
    return sum(path.resolve() in there for path in test.paths)


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
