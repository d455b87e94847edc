"""Images whose label surprises: a probe that never saw them is sure of another class, and so are their neighbours.

Out-of-fold predictions of the linear probe are what confident learning ranks by (Northcutt et al. 2021, "Confident Learning:
Estimating Uncertainty in Dataset Labels"); the vote of an image's neighbours is SimiFeat's (Zhu et al. 2022, "Detecting
Corrupted Labels with Training-Free Methods"). ``docs/look.md`` has what they name of planted labels, alone and together.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from linear_eval.classify.logistic import fit_logistic
from linear_eval.classify.probe import STRENGTHS
from linear_eval.features.rows import Rows, column_statistics
from linear_eval.look.copies import group_numbers
from linear_eval.look.neighbours import nearest_rows
from linear_eval.look.seen import Seen
from linear_eval.progress import default_device
from simclr.cores import threads_for
from simclr.data.groups import group_folds
from simclr.errors import DataError
from simclr.progress import each

__all__ = ["FOLDS", "Surprise", "agreed", "neighbour_votes", "out_of_fold", "surprising"]

FOLDS = 5

_NEIGHBOURS, _DOUBT = 10, 0.05
"""Nearest images that vote, and what is added to the share of each class."""

_ENOUGH = 500
"""Rows by which a strength is chosen."""


@dataclass(frozen=True, kw_only=True)
class Surprise:
    """An image whose label is probably wrong."""

    row: int
    """Of ``Seen``."""

    given: int
    """Its label."""

    said: int
    """The class that it is likelier of."""

    confidence: float
    """Probability of that, of the probe and the nearest images together."""

    probability: float
    """That of the label."""

    neighbours: float
    """Share of its nearest images that bear its label."""


def surprising(seen: Seen, most: int = 50) -> list[Surprise]:
    """The labelled images whose label is most probably wrong, the most surprising first.

    Every image of every part is predicted by a probe that was fitted on four fifths of the images, and by the labels of its
    nearest; copies of it have no part in either. Images are ranked by the odds of their label against the likeliest other class.

    Args:
        seen: the images.
        most: how many; fewer where fewer labels are the less likely ones.

    Raises:
        DataError: fewer than two classes of two labelled images.
    """
    labelled = (seen.y >= 0).nonzero().flatten()
    classes, target = seen.y[labelled].unique(return_inverse=True)
    if len(classes) < 2 or int(target.bincount().sort(descending=True).values[1]) < 2:
        raise DataError(
            f"{seen.images.name} has {len(labelled)} labelled images of {len(classes)} classes: what is surprising takes two "
            "classes of two images at least"
        )
    x, groups = seen.x[labelled], group_numbers(seen)[labelled]
    p, votes = out_of_fold(x, target, groups), neighbour_votes(x, target, len(classes), groups)
    q = agreed(p, votes)
    own = q.gather(1, target[:, None]).flatten()
    best, said = q.scatter(1, target[:, None], -1.0).max(1)
    odds = own.log() - best.log()
    order = odds.argsort(stable=True)
    return [
        Surprise(
            row=int(labelled[i]),
            given=int(classes[target[i]]),
            said=int(classes[said[i]]),
            confidence=float(best[i]),
            probability=float(own[i]),
            neighbours=float(votes[i, target[i]]),
        )
        for i in order[odds[order] < 0][:most].tolist()
    ]


def agreed(p: Tensor, votes: Tensor) -> Tensor:
    """What the probe's probabilities (M, C) and the neighbours' shares (M, C) say together: their product, (M, C) float64.

    A class that no neighbour has is not ruled out by that, but becomes less likely.
    """
    together = (p.double() + 1e-9) * (votes.double() + _DOUBT)
    return together / together.sum(1, keepdim=True)


def out_of_fold(
    x: Tensor,
    target: Tensor,
    groups: Tensor | None = None,
    *,
    seed: int = 0,
) -> Tensor:
    """Probabilities (M, C) float32 of each row by the linear probe that was fitted on the other folds.

    One strength for all folds, that with the least cross-entropy of all rows.

    Args:
        x: (M, F) float32.
        target: (M,) int64, from 0 to C - 1.
        groups: (M,) int64, rows of one number are in one fold; -1 is a group of its own.
        seed: of the folds.
    """
    classes, device = int(target.max()) + 1, default_device()
    groups = torch.full_like(target, -1) if groups is None else groups
    fold_of = group_folds(target, groups, FOLDS, seed)
    mean, scale = column_statistics(x)
    rows = Rows(x, mean=mean, scale=scale, device=device)
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64)
    p = torch.nn.functional.one_hot(target, classes).float()  # of what is in no fold: the only group of its class
    with threads_for(x.numel() * len(strengths) * classes):
        chosen = _strength(rows, target, classes, strengths, fold_of)
        for fold in each(range(FOLDS), "probes", unit="folds"):
            out = fold_of == fold
            if out.any():
                p[out] = _held_out_logits(rows, target, classes, strengths[chosen : chosen + 1], out)[0].softmax(1)
    return p


def _strength(rows: Rows, target: Tensor, classes: int, strengths: Tensor, fold_of: Tensor) -> int:
    """Which of ``strengths`` has the least cross-entropy on the first folds, as many as it takes to hold out 500 rows."""
    entropy, count = torch.zeros(len(strengths), dtype=torch.float64), 0
    for fold in range(FOLDS):
        out = fold_of == fold
        if out.any() and count < _ENOUGH:
            z = _held_out_logits(rows, target, classes, strengths, out)  # (S, n, C)
            label = target[out].expand(len(strengths), -1)
            entropy -= z.log_softmax(2).gather(2, label[:, :, None]).sum((1, 2), dtype=torch.float64)
            count += int(out.sum())
    return int(entropy.argmin())


def _held_out_logits(rows: Rows, target: Tensor, classes: int, strengths: Tensor, out: Tensor) -> Tensor:
    """(S, n, C): what probes of each strength, fitted on the others, say of the rows in ``out`` (M,) bool, in their order."""
    mask = out.to(rows.device)
    fit = fit_logistic(
        rows,
        target.to(rows.device),
        classes,
        strengths,
        sample_weight=(~mask).float(),
        tolerance=1e-5,
        max_evaluations=250,
    )
    weight = fit.weight.reshape(-1, rows.width)
    found = [
        torch.addmm(fit.bias.reshape(-1), values[mask[part]], weight.t()).view(-1, len(strengths), classes).cpu()
        for part, values in rows.chunks(len(weight))
        if mask[part].any()
    ]
    return torch.cat(found).transpose(0, 1)


def neighbour_votes(
    x: Tensor, target: Tensor, classes: int, groups: Tensor | None = None, k: int = _NEIGHBOURS
) -> Tensor:
    """Shares (M, C) of the classes among each row's k nearest, of which copies of it are left out."""
    count = min(k + 5, len(x) - 1)
    _, near = nearest_rows(x, k=count)
    counts = torch.ones(near.shape)
    if groups is not None:
        counts[(groups[near] == groups[:, None]) & (groups[:, None] >= 0)] = 0
    counts *= counts.cumsum(1) <= k
    votes = torch.zeros(len(x), classes).scatter_add_(1, target[near], counts)
    return votes / votes.sum(1, keepdim=True).clamp_min(1)
