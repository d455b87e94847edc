"""Images: sources, decoding, the order they are seen in, and how they reach the device."""

from simclr.data.image_set import ImageSet
from simclr.data.loader import Batches, place
from simclr.data.sampler import EpochSampler
from simclr.data.sources import load_source

__all__ = ["Batches", "EpochSampler", "ImageSet", "load_source", "place"]
