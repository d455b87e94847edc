"""Which images an objective can learn from."""

from simclr.data.image_set import ImageSet
from simclr.errors import DataError
from simclr.objectives import ObjectiveConfig

__all__ = ["with_targets"]


def with_targets(images: ImageSet, config: ObjectiveConfig) -> ImageSet:
    """The ``images`` that ``config`` can learn from: all of them, or for an objective on labels those that have one.

    Raises:
        DataError: it needs labels or numbers that the set has not.
    """
    if not config.needs_labels:
        return images
    if images.labels is None and (images.values is None or not config.reads_numbers):
        what = "numbers to predict" if images.values is not None else "no labels"
        hint = "; objective:distribution-focal learns them" if images.values is not None else ""
        raise DataError(f"the objective {config.name} needs labels, and {images.name} has {what}{hint}")
    return images.labelled()
