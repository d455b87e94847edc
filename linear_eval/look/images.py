"""All images of a set in one order, whatever part they are in: files by their paths, others as they are numbered."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from linear_eval.features.order import sorted_as
from linear_eval.scored_run import ScoredRun, all_of_training
from simclr.config import DataConfig
from simclr.data import ImageSet, load_source
from simclr.data.parts_list import PartsList
from simclr.data.sources import has_validation

__all__ = ["AllImages", "Part", "all_images"]

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True, eq=False)
class AllImages:
    """The parts of a set, and the order that brings their images together."""

    parts: Mapping[Part, ImageSet]
    """What is in each part, in its own order, which is that in which features are taken."""

    order: Tensor | None
    """int64 (N,): the images of all parts one after the other, in their order as a whole; None where they are in it."""

    @classmethod
    def of(cls, parts: Mapping[Part, ImageSet]) -> "AllImages":
        """These parts, files in the order of their paths."""
        return cls(parts=parts, order=_order(parts))

    @cached_property
    def images(self) -> ImageSet:
        """All of them."""
        first, *others = self.parts.values()
        if any(
            images.labels is not None for images in self.parts.values()
        ):  # else joining would lose those of one part
            first, *others = (_with_labels(images) for images in self.parts.values())
        for other in others:
            # A test part may have classes that training has not; their numbers come after the others.
            first = replace(first.joined(other), classes=max(first.classes, other.classes, key=len))
        return first if self.order is None else first.subset(self.order)

    @property
    def numbers(self) -> tuple[tuple[str, int], ...]:
        """Name and size of each part."""
        return tuple((part, len(images)) for part, images in self.parts.items())


def all_images(
    run: ScoredRun,
    data: DataConfig,
    part: Literal["all", "train", "test"] = "all",
    kept: PartsList | None = None,
) -> AllImages:
    """The images of ``data``, all that a part has, whatever training saw of them.

    Args:
        run: whose encoder they are for.
        data: which images, and how they are read.
        part: which of them.
        kept: the list that says which file is in which part; None divides what is there now.
    """
    whole = replace(all_of_training(data), held_out_classes=0.0)
    wanted: tuple[Part, ...] = (part,) if part != "all" else ("train", "test")
    if part == "all" and has_validation(whole):  # a part of the set's own
        wanted = ("train", "validation", "test")
    parts = {one: run.read_as_trained(load_source(whole, one, kept)) for one in wanted}
    return AllImages.of(parts)


def _order(parts: Mapping[Part, ImageSet]) -> Tensor | None:
    if any(images.paths is None for images in parts.values()):
        return None
    keys = [sorted_as(path) for images in parts.values() for path in images.paths or ()]
    if all(before <= key for before, key in itertools.pairwise(keys)):
        return None
    return torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))


def _with_labels(images: ImageSet) -> ImageSet:
    return images if images.labels is not None else replace(images, labels=torch.full((len(images),), -1))
