"""1:N identification: whose image is it? Rank-k against enrolled classes, and N-way one-shot trials.

Unlike Recall@K, which ranks images, identification ranks *classes*: a class has one score, however many of its images
are enrolled. A tie counts against the true class, so an encoder that maps everything to one point scores 0, not chance.

>>> import torch
>>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
>>> y = torch.tensor([0, 0, 1, 1])
>>> identification(x, y, ks=(1,)).rank_k
{1: 1.0}
>>> one_shot(x, y, ways=2, trials=100).accuracy
1.0

Intervals are over classes, as in :mod:`linear_eval.matching.verification`: what would another set of classes of the same kind
and number give?
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args

import torch
from torch import Tensor

from linear_eval.features.numbers import Listed
from linear_eval.matching.similarity import (
    CHUNK_BYTES,
    Distance,
    Embeddings,
    block_scores,
    class_sizes,
    pair_scores,
    prepare,
    query_and_gallery,
)
from linear_eval.metrics import interval_over_classes
from simclr.errors import ConfigError, DataError

__all__ = ["IdentificationResult", "OneShotResult", "Template", "identification", "one_shot"]

Template = Literal["nearest", "mean"]


@dataclass(frozen=True, kw_only=True)
class IdentificationResult:
    """Closed-set identification: every scored probe's class is enrolled. ``as_dict()`` can be written as JSON."""

    rank_k: dict[int, float]
    """Share of probes whose class is among the k best classes (the cumulative match characteristic at k)."""

    interval: tuple[float, float] | None
    """95 % interval of the rank-1 share (of the smallest k asked for), over classes; None for a single class."""

    probes: int
    """Probes that were scored."""

    excluded: int
    """Probes left out because their class is not enrolled."""

    classes: int
    """Enrolled classes, those without a probe among them."""

    enrolled: int
    """Enrolled images."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; the ks become keys such as ``"5"``."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))


@dataclass(frozen=True, kw_only=True)
class OneShotResult:
    """N-way one-shot trials. ``as_dict()`` can be written as JSON."""

    accuracy: float
    """Share of trials in which the one image of the query's class was strictly the most alike."""

    interval: tuple[float, float] | None
    """95 % interval over classes."""

    chance: float
    """What guessing gives: 1 / ways."""

    ways: int
    trials: int
    classes: int
    """Classes with at least two images: trials draw from these."""

    excluded: int
    """Classes left out because they have one image."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))


def identification(
    x: Annotated[Tensor, "N D"] | Listed,
    y: Annotated[Tensor, "N"] | Listed,
    ks: Sequence[int] = (1, 5, 10),
    *,
    gallery_x: Annotated[Tensor, "M D"] | Listed | None = None,
    gallery_y: Annotated[Tensor, "M"] | Listed | None = None,
    enrol: int = 1,
    template: Template = "nearest",
    distance: Distance = "cosine",
    seed: int = 0,
) -> IdentificationResult:
    """Rank the enrolled classes for every probe.

    Args:
        x, y: (N, F) floating and (N,) int64: the probes; without a gallery ``enrol`` images of each class, drawn under
            ``seed``, are enrolled and the others are probes. A class with no image left to probe stays as a distractor.
        ks: ranks to report.
        gallery_x, gallery_y: (M, F) and (M,): the enrolled images.
        template: a class is as alike as its ``"nearest"`` enrolled image, or as the ``"mean"`` of its images.

    Raises:
        DataError: nothing to score, rows that are not finite, or no probe whose class is enrolled.
        ConfigError: an unknown distance or template, a rank or ``enrol`` below 1, or half a gallery.
    """
    if not ks or min(ks) < 1 or enrol < 1:
        raise ConfigError(f"ranks and enrol must be positive, got ks={tuple(ks)}, enrol={enrol}")
    if template not in get_args(Template):
        raise ConfigError(f"unknown template {template!r}; expected one of {', '.join(get_args(Template))}")
    probes, gallery = query_and_gallery(x, y, gallery_x, gallery_y, distance)
    if gallery is probes:
        drawn = _drawn_of_each_class(probes.labels.cpu(), enrol, seed).to(probes.labels.device)
        probes, gallery = _rows(probes, ~drawn), _rows(probes, drawn)
    known = class_sizes(probes.labels, gallery.labels) > 0
    total, probes = len(probes), _rows(probes, known)
    if len(probes) == 0:
        raise DataError(
            f"none of {total} probes is of an enrolled class; give a class more than {enrol} images, or another gallery"
        )
    classes, column = gallery.labels.unique(return_inverse=True)
    enrolled = gallery.rows
    if template == "mean":
        sums = enrolled.new_zeros(len(classes), enrolled.shape[1]).index_add_(0, column, enrolled)
        enrolled = prepare(sums / torch.bincount(column)[:, None], classes, distance).rows
        column = torch.arange(len(classes), device=enrolled.device)
    ranks = []
    for start, stop in probes.row_chunks(len(enrolled)):
        scores = block_scores(probes.rows[start:stop], enrolled, distance)  # (Q, M)
        best = scores.new_full((stop - start, len(classes)), -torch.inf)
        best.scatter_reduce_(1, column.expand_as(scores), scores, "amax")  # (Q, C)
        true = best.gather(1, torch.searchsorted(classes, probes.labels[start:stop])[:, None])
        ranks.append((best >= true).sum(1))  # the true class itself makes a rank start at 1
    rank = torch.cat(ranks)
    return IdentificationResult(
        rank_k={int(k): float((rank <= k).double().mean()) for k in ks},
        interval=interval_over_classes(rank <= min(ks), probes.labels, len(probes)),
        probes=len(probes),
        excluded=total - len(probes),
        classes=len(classes),
        enrolled=len(gallery),
    )


def one_shot(
    x: Annotated[Tensor, "N D"] | Listed,
    y: Annotated[Tensor, "N"] | Listed,
    ways: int = 20,
    *,
    trials: int = 10_000,
    distance: Distance = "cosine",
    seed: int = 0,
) -> OneShotResult:
    """N-way one-shot accuracy (Koch et al. 2015; Lake et al. 2011).

    Each trial draws ``ways`` classes, one image of each, and a second image of the first class, which must be more
    alike to its own class's image than to every other. Use classes that were never trained on.

    Raises:
        DataError: nothing to score, rows that are not finite, or fewer than ``ways`` classes with two images.
        ConfigError: an unknown distance, fewer than two ways, or no trial.
    """
    if ways < 2 or trials < 1:
        raise ConfigError(f"one-shot needs at least 2 ways and 1 trial, got ways={ways}, trials={trials}")
    embeddings = prepare(x, y, distance)
    labels, sizes = embeddings.labels.cpu().unique(return_counts=True)
    members = embeddings.labels.cpu().argsort(stable=True)  # rows of the first class, then of the second, ...
    usable = torch.nonzero(sizes > 1).flatten()
    if len(usable) < ways:
        raise DataError(f"{ways}-way one-shot needs {ways} classes with two images, there are {len(usable)}")
    first, sizes = (sizes.cumsum(0) - sizes)[usable], sizes[usable]
    generator = torch.Generator().manual_seed(seed)
    # The width of the embeddings has no say in how trials are drawn: encoders of any width are given the same ones.
    step = max(1, 2**22 // max(len(usable), ways))
    at_once = max(1, CHUNK_BYTES // (8 * embeddings.rows.shape[1]))
    targets, right = [], []
    for start in range(0, trials, step):
        count = min(step, trials - start)
        drawn = torch.rand(count, len(usable), generator=generator).topk(ways, dim=1).indices  # (T, W) classes
        within = torch.rand(count, ways + 1, generator=generator, dtype=torch.float64)
        offset = (within[:, :ways] * sizes[drawn]).long()  # (T, W) which image of each class
        target, size = drawn[:, 0], sizes[drawn[:, 0]]
        other = (
            offset[:, 0] + 1 + (within[:, ways] * (size - 1)).long()
        ) % size  # an image of the target, not that one
        support, query = members[first[drawn] + offset], members[first[target] + other]
        pairs = torch.stack([query[:, None].expand_as(support), support], dim=2).view(-1, 2)
        parts = pairs.to(embeddings.rows.device).split(at_once)
        scores = torch.cat([pair_scores(embeddings, part) for part in parts]).view(count, ways)
        right.append((scores[:, :1] > scores[:, 1:]).all(1).cpu())
        targets.append(target)
    hit, target = torch.cat(right), torch.cat(targets)
    return OneShotResult(
        accuracy=float(hit.double().mean()),
        interval=interval_over_classes(hit, target, min(trials, int(sizes.sum()))),
        chance=1 / ways,
        ways=ways,
        trials=trials,
        classes=len(usable),
        excluded=len(labels) - len(usable),
    )


def _drawn_of_each_class(labels: Tensor, count: int, seed: int) -> Tensor:
    """Mask (N,) of up to ``count`` rows of each class, drawn under ``seed``."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    grouped = shuffled[labels[shuffled].argsort(stable=True)]  # by class, in random order within each
    _, sizes = labels.unique(return_counts=True)
    position = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[grouped[position < count]] = True
    return mask


def _rows(embeddings: Embeddings, mask: Tensor) -> Embeddings:
    return Embeddings(rows=embeddings.rows[mask], labels=embeddings.labels[mask], distance=embeddings.distance)
