"""Images: sources, decoding, the order they are seen in, and how they reach the device."""

from simclr.data.class_sampler import ClassSampler
from simclr.data.image_set import ImageSet
from simclr.data.loader import Batches, make_sampler, place
from simclr.data.sampler import EpochSampler
from simclr.data.sources import load_source

__all__ = ["Batches", "ClassSampler", "EpochSampler", "ImageSet", "load_source", "make_sampler", "place"]
