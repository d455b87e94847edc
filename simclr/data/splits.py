"""How a set is divided: test images, validation images, classes held out of training, a share of the labels.

Every division is drawn with ``data.split_seed``, not with the run's seed, so that runs of several seeds agree on it.
Classes too are divided, not images alone: some to train on, others that training never sees.

>>> y = torch.arange(10).repeat_interleave(5)
>>> split = class_disjoint_split(y, test=0.4, validation=2, seed=0)
>>> len(split.train), len(split.validation), len(split.test)
(4, 2, 4)
>>> int(split.rows(y, "test").sum())
20
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simclr.config.data import DataConfig
from simclr.data.groups import count_groups, divide_groups, one_of_each_group_first
from simclr.data.image_set import ImageSet
from simclr.distributed import derive_seed
from simclr.errors import ConfigError, DataError
from simclr.objectives import ObjectiveConfig

__all__ = [
    "ClassSplit",
    "class_disjoint_split",
    "divide_classes",
    "divide_training",
    "hold_out",
    "keep_validation",
    "split_by_class",
    "with_targets",
]


def split_by_class(images: ImageSet, share: float, seed: int, *, every_class: bool = False) -> tuple[Tensor, Tensor]:
    """Rising indices, int64, of the images kept and of the ``share`` of every class held out (at least one image).

    Where the set has groups, whole groups are held out, about as many images as that, and with ``every_class`` a group of
    every class that has two: see ``divide_groups``.

    Raises:
        DataError: none would be left, or one group holds all images.
    """
    labels = None if images.labels is None else images.labels.numpy()
    classes = None if labels is None else _without_single_images(labels)
    n_out = max(1, round(share * len(images)))
    if n_out >= len(images):
        raise DataError(f"a share of {share:g} of the {len(images)} images of {images.name} leaves none to train on")
    by_class = classes is not None and len(np.unique(classes)) <= min(n_out, len(images) - n_out)
    if images.groups is not None and _grouped(images):
        if count_groups(images.groups) < 2:
            raise DataError(
                f"all {len(images)} images of {images.name} are of one group, which cannot be on two sides of a division; "
                "give --data.group a pattern or a column that tells them apart"
            )
        mask = divide_groups(images.labels, images.groups, share, seed, every_class=every_class and by_class)
        return (~mask).nonzero().flatten(), mask.nonzero().flatten()
    from sklearn.model_selection import train_test_split

    kept, out = train_test_split(
        np.arange(len(images)), test_size=n_out, random_state=seed, stratify=classes if by_class else None
    )
    return torch.from_numpy(np.sort(kept)), torch.from_numpy(np.sort(out))


def _grouped(images: ImageSet) -> bool:
    return images.groups is not None and bool((images.groups >= 0).any())


def hold_out(images: ImageSet, config: DataConfig, split: Literal["train", "test"]) -> ImageSet:
    """The part of a set without a test part of its own: ``config.test_fraction`` of every class is held out.

    Raises:
        DataError: fewer than two images, or than two groups.
    """
    if len(images) < 2:
        raise DataError(f"{images.name} has {len(images)} image; a training and a test part need at least 2")
    train, test = split_by_class(images, config.test_fraction, config.split_seed, every_class=True)
    part = images.subset(train if split == "train" else test)
    if images.groups is None or not _grouped(images):
        return part
    found, held = count_groups(images.groups), count_groups(images.groups[test])
    return replace(part, notes=(*part.notes, f"groups: {found}; {held} of them, {len(test)} images, are the test part"))


def _without_single_images(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """``labels`` (N,) for a division class by class; None where there is no class of two images.

    A class of one image cannot be in both parts, and scikit-learn refuses it. It goes with the largest class, and is left
    to chance there; so does a single image without a label. The other classes are divided as if it were not there.
    """
    names, counts = np.unique(labels, return_counts=True)
    if not len(names) or counts.max() < 2:
        return None
    return np.where(np.isin(labels, names[counts == 1]), names[counts.argmax()], labels)


def divide_classes(
    images: ImageSet, config: DataConfig
) -> tuple[Callable[[ImageSet], ImageSet], Callable[[ImageSet], ImageSet]]:
    """Two functions of a part of the set that ``images`` is the training part of: its images of the classes that are
    trained on, and those of the classes held out, each with labels numbered from 0.

    Raises:
        DataError: no labels, or too few classes for the share.
    """
    if images.labels is None:
        raise DataError(f"data.held_out_classes={config.held_out_classes:g} needs labels, and {images.name} has none")
    known = images.labels[images.labels >= 0]
    split = class_disjoint_split(known, test=float(config.held_out_classes), seed=config.split_seed)

    def only(classes: tuple[int, ...]) -> Callable[[ImageSet], ImageSet]:
        return lambda part: part.of_classes(classes)

    return only(split.train), only(split.test)


def divide_training(
    images: ImageSet, config: DataConfig, split: Literal["train", "validation", "held-out"]
) -> ImageSet:
    """The images to train on, or with ``split="validation"`` those kept from it.

    ``limit`` and ``label_fraction`` come first: a user with few labels has to spare the validation images from them.
    """
    if config.limit is not None and config.limit < len(images):
        generator = torch.Generator().manual_seed(derive_seed(config.split_seed, "limit"))
        images = images.subset(torch.randperm(len(images), generator=generator)[: config.limit].sort().values)
    if config.label_fraction < 1:
        images = images.subset(_share_of_each_class(images, config))
    return keep_validation(images, config, split)


def keep_validation(
    images: ImageSet, config: DataConfig, split: Literal["train", "validation", "held-out"]
) -> ImageSet:
    """Of the images that there are for training, those to train on, or with ``split="validation"`` those kept from it.

    Raises:
        DataError: too few to spare any.
    """
    if not config.validation:
        if split == "validation":
            raise DataError("no validation images were asked for; set --data.validation, e.g. 0.1")
        return images
    if len(images) < 2:
        raise DataError(f"{images.name} has {len(images)} training image; validation images need at least 2")
    train, validation = split_by_class(images, config.validation, config.split_seed)
    if images.labels is not None and not _grouped(images):
        train, validation = _every_class_in_training(images.labels, train, validation)
    if not len(validation):
        raise DataError(
            f"{images.name} has one training image a class: there is none to spare for validation; set --data.validation 0"
        )
    return images.subset(train if split == "train" else validation)


def _every_class_in_training(labels: Tensor, train: Tensor, validation: Tensor) -> tuple[Tensor, Tensor]:
    """Give back the first validation image of every class that chance, among rare classes, left without a training one."""
    missing = set(labels[validation].unique().tolist()) - set(labels[train].unique().tolist())
    back = torch.zeros(len(validation), dtype=torch.bool)
    for label in missing:
        back[(labels[validation] == label).nonzero()[0]] = True
    return torch.cat([train, validation[back]]).sort().values, validation[~back]


def _share_of_each_class(images: ImageSet, config: DataConfig) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed(config.split_seed, "label fraction"))
    labels = torch.zeros(len(images), dtype=torch.int64) if images.labels is None else images.labels
    order = torch.randperm(len(images), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # class by class, each in random order
    _, counts = labels[order].unique_consecutive(return_counts=True)
    classes = order.split(counts.tolist())
    if images.groups is not None:  # two frames of a video say little more than one
        classes = tuple(one_of_each_group_first(rows, images.groups) for rows in classes)
    taken = [rows[: max(1, round(config.label_fraction * len(rows)))] for rows in classes]
    return torch.cat(taken).sort().values


@dataclass(frozen=True, kw_only=True)
class ClassSplit:
    """Classes divided into three groups without overlap, each rising."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    seed: int

    def rows(self, y: Tensor, part: Literal["train", "validation", "test"]) -> Tensor:
        """Mask (N,) of the rows whose class (N,) is in ``part``."""
        return torch.isin(y, torch.tensor(getattr(self, part), dtype=torch.int64, device=y.device))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def class_disjoint_split(
    y: Tensor | Iterable[int], *, test: float | int = 0.5, validation: float | int = 0, seed: int = 0
) -> ClassSplit:
    """Divide the classes that occur in ``y`` (any shape, integers) under ``seed``.

    The same set of classes and the same seed give the same split, whatever the number and order of the images.

    Args:
        test, validation: a share of the classes (float below 1), or a number of them (int). The others train.

    Raises:
        ConfigError: a share outside [0, 1) or a negative number.
        DataError: no labels, or a label below 0 (which means none); fewer than two classes to test on, or one to
            validate on (a pair of different classes takes two), or none left to train on.
    """
    labels = torch.as_tensor(y if isinstance(y, Tensor) else list(y))
    if labels.is_floating_point() or labels.numel() == 0 or int(labels.min()) < 0:
        raise DataError(
            f"a split needs integer labels from 0 up, got {tuple(labels.shape)} {labels.dtype}; images without a label "
            "(-1) belong to no class: leave them out"
        )
    classes = labels.to("cpu", torch.int64).unique()
    counts = [_class_count(share, len(classes), name) for share, name in ((test, "test"), (validation, "validation"))]
    left = len(classes) - sum(counts)
    if counts[0] < 2 or counts[1] == 1 or left < 1:
        raise DataError(
            f"{len(classes)} classes cannot be divided into {left} to train, {counts[1]} to validate, {counts[0]} to "
            "test: testing needs at least 2, validation 0 or at least 2, training at least 1"
        )
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    groups = [tuple(sorted(group.tolist())) for group in classes[order].split([*counts, left])]
    return ClassSplit(test=groups[0], validation=groups[1], train=groups[2], seed=seed)


def _class_count(share: float | int, classes: int, name: str) -> int:
    if isinstance(share, int) and not isinstance(share, bool) and share >= 0:
        return share
    if isinstance(share, float) and 0 <= share < 1:
        return round(share * classes)
    raise ConfigError(f"{name} must be a share of the classes in [0, 1) or a number of classes, got {share!r}")


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
