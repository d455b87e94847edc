"""How a set is divided: test images, validation images, classes held out of training, a share of the labels.

Every division is drawn with ``data.split_seed``, not with the run's seed, so that runs of several seeds agree on it.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from simclr.config_data import DataConfig
from simclr.data.class_split import class_disjoint_split
from simclr.data.image_set import ImageSet
from simclr.distributed import derive_seed
from simclr.errors import DataError

__all__ = ["divide_classes", "divide_training", "split_by_class"]


def split_by_class(images: ImageSet, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rising indices, int64, of the images kept and of the ``share`` of every class held out (at least one image)."""
    labels = None if images.labels is None else images.labels.numpy()
    groups = None if labels is None else _groups(labels)
    n_out = max(1, round(share * len(images)))
    if n_out >= len(images):
        raise DataError(f"a share of {share:g} of the {len(images)} images of {images.name} leaves none to train on")
    by_class = groups is not None and len(np.unique(groups)) <= min(n_out, len(images) - n_out)
    kept, out = train_test_split(
        np.arange(len(images)), test_size=n_out, random_state=seed, stratify=groups if by_class else None
    )
    return torch.from_numpy(np.sort(kept)), torch.from_numpy(np.sort(out))


def _groups(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """``labels`` (N,) for a division group by group; None where there is no class of two images.

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
    if not config.validation:
        if split == "validation":
            raise DataError("no validation images were asked for; set --data.validation, e.g. 0.1")
        return images
    if len(images) < 2:
        raise DataError(f"{images.name} has {len(images)} training image; validation images need at least 2")
    train, validation = split_by_class(images, config.validation, config.split_seed)
    if images.labels is not None:
        train, validation = _every_class_in_training(images.labels, train, validation)
    if not len(validation):
        raise DataError(
            f"{images.name} has one training image a class: there is none to spare for validation; set --data.validation 0"
        )
    return images.subset(train if split == "train" else validation)


def _every_class_in_training(labels: Tensor, train: Tensor, validation: Tensor) -> tuple[Tensor, Tensor]:
    """Give back the first validation image of every class that chance, among rare classes, left without a training one."""
    missing = set(labels[validation].tolist()) - set(labels[train].tolist())
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
    taken = [rows[: max(1, round(config.label_fraction * len(rows)))] for rows in order.split(counts.tolist())]
    return torch.cat(taken).sort().values
