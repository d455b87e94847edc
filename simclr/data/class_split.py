"""Classes, not images, divided: some to train on, others that training never sees.

>>> y = torch.arange(10).repeat_interleave(5)
>>> split = class_disjoint_split(y, test=0.4, validation=2, seed=0)
>>> len(split.train), len(split.validation), len(split.test)
(4, 2, 4)
>>> int(split.rows(y, "test").sum())
20
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from simclr.errors import ConfigError, DataError

__all__ = ["ClassSplit", "class_disjoint_split"]


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
