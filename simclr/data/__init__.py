"""Images: sources, decoding, the order they are seen in, and how they reach the device."""

from typing import TYPE_CHECKING

from augment.lazy import lazy_face

if TYPE_CHECKING:
    from simclr.data.image_set import ImageSet
    from simclr.data.loader import Batches, place
    from simclr.data.samplers import ClassSampler, EpochSampler, MinedSampler, Sampler, make_sampler
    from simclr.data.sources import load_source
    from simclr.data.splits import ClassSplit, class_disjoint_split, with_targets

__all__ = [
    "Batches",
    "ClassSampler",
    "ClassSplit",
    "EpochSampler",
    "ImageSet",
    "MinedSampler",
    "Sampler",
    "class_disjoint_split",
    "load_source",
    "make_sampler",
    "place",
    "with_targets",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_face(
        __name__,
        {
            "simclr.data.image_set": ("ImageSet",),
            "simclr.data.loader": (
                "Batches",
                "place",
            ),
            "simclr.data.samplers": (
                "ClassSampler",
                "EpochSampler",
                "MinedSampler",
                "Sampler",
                "make_sampler",
            ),
            "simclr.data.sources": ("load_source",),
            "simclr.data.splits": (
                "ClassSplit",
                "class_disjoint_split",
                "with_targets",
            ),
        },
    )
