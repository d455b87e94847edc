"""Images: sources, decoding, the order they are seen in, and how they reach the device."""

from simclr.data.class_sampler import ClassSampler
from simclr.data.class_split import ClassSplit, class_disjoint_split
from simclr.data.image_set import ImageSet
from simclr.data.loader import Batches, Sampler, make_sampler, place
from simclr.data.mined_sampler import MinedSampler
from simclr.data.sampler import EpochSampler
from simclr.data.sources import load_source
from simclr.data.targets import with_targets

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
