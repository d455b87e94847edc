"""Groups of images that belong on one side of a division: the frames of a video, the pictures of a patient.

Two pictures of one group are nearly the same picture. With one of them trained on and the other tested on, a classifier
that remembers pictures seems to know classes: random labels of 40 videos are told apart in 97 % of the frames.

>>> groups = torch.tensor([0, 0, 0, 1, 1, 2, -1, -1])
>>> count_groups(groups)
5
>>> out = divide_groups(None, groups, 0.25, seed=0)
>>> int(out.sum()), all(len(set(out[groups == g].tolist())) == 1 for g in range(3))
(2, True)
"""

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

__all__ = ["across_parts", "count_groups", "divide_groups", "group_folds", "one_of_each_group_first", "with_pages"]


def count_groups(groups: Tensor) -> int:
    """How many groups there are in ``groups`` (N,), where each -1 is a group of its own."""
    return len(groups[groups >= 0].unique()) + int((groups < 0).sum())


def divide_groups(
    labels: Tensor | None, groups: Tensor, share: float, seed: int, *, every_class: bool = False
) -> Tensor:
    """Whole groups that hold about ``share`` of the images, and about as much of every class: bool (N,).

    Groups are taken in an order drawn with ``seed``, each that brings the shares nearer to what is wanted. No class loses
    its last image in training, unless nothing could be held out otherwise.

    Args:
        labels: int64 (N,), -1 where there is none; or None.
        groups: int64 (N,), -1 for a group of its own. There must be at least two, see ``count_groups``.
        every_class: hold out a group of every class that has two, even where that is far more than ``share`` of it.

    Returns:
        At least one group, and never all.
    """
    number, counts = _table(labels, groups)  # (N,), the images of each class in each group
    total: dict[int, int] = defaultdict(int)
    groups_of: dict[int, list[int]] = defaultdict(list)
    for group, held in enumerate(counts):
        for label, count in held.items():
            total[label] += count
            groups_of[label].append(group)
    left, out = dict(total), set[int]()

    def move(group: int, sign: int) -> None:
        (out.add if sign > 0 else out.remove)(group)
        for label, count in counts[group].items():
            left[label] -= sign * count

    def gain(group: int) -> float:
        """By how much the squared distance from what is wanted shrinks, each class divided by its size."""
        found = 0.0
        for label, count in counts[group].items():
            missing = share * total[label] - (total[label] - left[label])
            found += count * (2 * missing - count) / total[label]
        return found

    def spares(group: int) -> bool:
        return all(label < 0 or left[label] > count for label, count in counts[group].items())

    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed)).tolist()
    place = {group: i for i, group in enumerate(order)}

    def size(group: int) -> tuple[int, int]:
        return sum(counts[group].values()), place[group]

    for group in order:
        if gain(group) > 0 and spares(group):
            move(group, 1)
    if every_class:
        for label in sorted(total):
            if label >= 0 and left[label] == total[label] and (free := list(filter(spares, groups_of[label]))):
                move(min(free, key=size), 1)
    if not out:  # large groups, or classes of one group each
        move(min(list(filter(spares, order)) or order, key=size), 1)
    if len(out) == len(counts):
        move(order[-1], -1)
    return torch.isin(number, torch.tensor(sorted(out)))


def group_folds(labels: Tensor, groups: Tensor, folds: int, seed: int) -> Tensor:
    """Divide whole groups into ``folds`` parts of about the same number of every class: the part of each row, int64 (N,).

    A group that has all images of a class, or has them together with the others of its part, is in no part: -1. It stays in
    training, for a class that training lacks cannot be scored.
    """
    number, counts = _table(labels, groups)
    total = torch.bincount(labels.clamp_min(0), minlength=1).tolist()
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed)).tolist()
    order.sort(key=lambda group: -sum(counts[group].values()))
    held: list[dict[int, int]] = [defaultdict(int) for _ in range(folds)]
    part = torch.full((len(counts),), -1)
    for group in order:
        # The squared distance from equal parts grows least where there are fewest of its classes; then of all images.
        least = min(
            range(folds),
            key=lambda fold: (
                sum(count * held[fold][label] / total[label] for label, count in counts[group].items() if label >= 0),
                sum(held[fold].values()),
            ),
        )
        if any(label >= 0 and held[least][label] + count >= total[label] for label, count in counts[group].items()):
            continue
        part[group] = least
        for label, count in counts[group].items():
            held[least][label] += count
    return part[number]


def one_of_each_group_first(order: Tensor, groups: Tensor) -> Tensor:
    """``order`` (M,), rows of a set with ``groups`` (N,), as rows that begin with one of each group, then a second of each.

    The first k are of k different groups as far as there are so many.

    >>> one_of_each_group_first(torch.tensor([0, 1, 2, 3, 4]), torch.tensor([7, 7, 7, 8, -1])).tolist()
    [0, 3, 4, 1, 2]
    """
    of = groups[order]
    together = of.argsort(stable=True)
    _, counts = of[together].unique_consecutive(return_counts=True)
    turn = torch.empty_like(order)
    turn[together] = torch.arange(len(order)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return order[torch.where(of >= 0, turn, 0).argsort(stable=True)]


def with_pages(groups: Tensor | None, pages: Tensor | None) -> Tensor | None:
    """``groups`` (N,), and where an image has none that of the file whose page it is, ``pages`` (N,); either may be missing.

    >>> with_pages(torch.tensor([5, 5, -1, -1, -1]), torch.tensor([0, 0, 1, 1, -1])).tolist()
    [5, 5, 7, 7, -1]
    """
    if groups is None or pages is None:
        return pages if groups is None else groups
    return torch.where((groups < 0) & (pages >= 0), pages + int(groups.max()) + 1, groups)


def across_parts(groups: Tensor, train: Tensor, test: Tensor) -> tuple[int, int]:
    """How many groups (N,) lie in both of two parts (N1,) and (N2,), and how many images of the second are of those.

    >>> across_parts(torch.tensor([0, 0, 1, 1, 1, -1]), torch.tensor([0, 2, 5]), torch.tensor([1, 3, 4, 5]))
    (2, 3)
    """
    tested = groups[test]
    both = (tested >= 0) & torch.isin(tested, groups[train])
    return len(tested[both].unique()), int(both.sum())


def _table(labels: Tensor | None, groups: Tensor) -> tuple[Tensor, list[dict[int, int]]]:
    """The number of each row's group, from 0 without gaps (N,), and how many images of each class a group has."""
    own = groups.clone()
    alone = groups < 0
    own[alone] = int(groups.max()) + 1 + torch.arange(int(alone.sum()))
    _, number = own.unique(return_inverse=True)
    label = np.zeros(len(groups), dtype=np.int64) if labels is None else labels.numpy()
    pairs, how_many = np.unique(np.stack([number.numpy(), label]), axis=1, return_counts=True)
    counts: list[dict[int, int]] = [{} for _ in range(int(number.max()) + 1)]
    for group, of, count in zip(*pairs.tolist(), how_many.tolist(), strict=True):
        counts[group][of] = count
    return number, counts
