"""N-way K-shot episodes: which of N classes, K images of each, is another image of?

A class is compared through its prototype, the mean of its K images (Snell et al. 2017), or by any ``Likeness`` that is
given. A tie counts against the true class, as in :mod:`linear_eval.matching.identification`.

>>> import torch
>>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.1], [0.0, 1.0], [0.1, 0.9], [0.1, 0.7]])
>>> y = torch.tensor([0, 0, 0, 1, 1, 1])
>>> few_shot(x, y, ways=2, shots=2, episodes=50).accuracy
1.0

Two intervals: ``interval`` is over episodes, as papers print it, and says how far other episodes of the same images would
move the figure; ``interval_over_classes`` says how far other classes of the same kind and number would.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from linear_eval.features.numbers import Listed, as_whole_numbers
from linear_eval.matching.similarity import CHUNK_BYTES, Distance, block_scores, prepare
from linear_eval.metrics import clustered_interval, difference_over_classes, interval_over_classes
from simclr.distances import pairwise_distance
from simclr.errors import ConfigError, DataError
from simclr.losses import SiameseLoss
from simclr.numerics import l2_normalize

__all__ = ["FewShotResult", "Likeness", "few_shot", "likeness_of", "paired_gain", "same_class_likeness"]

Likeness = Callable[
    [Annotated[Tensor, "float64 E Q D"], Annotated[Tensor, "float64 E N K D"]], Annotated[Tensor, "float64 E Q N"]
]
"""Queries (E, Q, F) and the K images of each of N classes (E, N, K, F), float64 -> (E, Q, N), larger is more alike."""


@dataclass(frozen=True, kw_only=True)
class FewShotResult:
    """N-way K-shot episodes. ``as_dict()`` can be written as JSON and leaves the tensors out."""

    accuracy: float
    """Share of queries whose class was strictly the most alike."""

    interval: tuple[float, float] | None
    """95 % interval over episodes, drawn from these very images; None for a single episode."""

    interval_over_classes: tuple[float, float] | None
    """95 % interval over the queries' classes."""

    chance: float
    """What guessing gives: 1 / ways."""

    ways: int
    shots: int
    queries: int
    """Queries of each class in an episode."""

    episodes: int
    classes: int
    """Classes that episodes draw from."""

    excluded: int
    """Classes left out: too few images, or too few classes beside them ``within`` their group."""

    rows: Annotated[Tensor, "int64 E N M"] = field(compare=False, repr=False)
    """(E, N, K + Q): rows of ``x`` in each episode; of each class K shots, then its queries."""

    chosen: Annotated[Tensor, "int64 E N Q"] = field(compare=False, repr=False)
    """(E, N, Q): which of the episode's classes each query was most alike to."""

    hits: Annotated[Tensor, "bool E N Q"] = field(compare=False, repr=False)
    """(E, N, Q): whether that was its own, and no other as much."""

    @property
    def clusters(self) -> Annotated[Tensor, "int64 A"]:
        """The episode of each of ``hits``, flattened."""
        return torch.arange(self.episodes).repeat_interleave(self.ways * self.queries)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return plain(self)


def plain(result: Any) -> dict[str, Any]:
    """The fields of a dataclass that are no tensors, tuples as lists."""
    found = {one.name: getattr(result, one.name) for one in fields(result)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if not isinstance(value, Tensor)
    }


def few_shot(
    x: Annotated[Tensor, "N D"] | Listed,
    y: Annotated[Tensor, "N"] | Listed,
    ways: int = 20,
    shots: int = 1,
    *,
    episodes: int = 1_000,
    queries: int = 1,
    within: Annotated[Tensor, "N"] | Listed | None = None,
    distance: Distance | Likeness = "cosine",
    seed: int = 0,
) -> FewShotResult:
    """N-way K-shot accuracy over random episodes (Vinyals et al. 2016), by prototypes (Snell et al. 2017).

    An episode draws ``ways`` classes, and of each ``shots`` images and ``queries`` others, all without replacement. The draws
    depend on ``y``, ``within`` and ``seed`` alone: embeddings of the same images are given the same episodes.

    Args:
        x, y: (N, F) floating and (N,) int64: embeddings of classes that were never trained on.
        within: (N,) int64: a group of each image, the same for all images of a class. The classes of an episode are then of
            one group, drawn evenly among those that have enough: characters of one alphabet, say.
        distance: ``"euclidean"`` compares with the mean of a class's rows, which ranks as Snell's squared one does;
            ``"cosine"`` with the mean of its rows of unit length; or a ``Likeness`` of rows as they are.

    Raises:
        DataError: nothing to score, rows that are not finite, classes in several groups, or fewer than ``ways`` classes of
            ``shots + queries`` images.
        ConfigError: an unknown distance, fewer than two ways, or no shot, query or episode.
    """
    if ways < 2 or min(shots, queries, episodes) < 1:
        raise ConfigError(
            f"episodes need at least 2 ways, 1 shot, 1 query and 1 episode, got ways={ways}, shots={shots}, "
            f"queries={queries}, episodes={episodes}"
        )
    embeddings = prepare(x, y, distance if isinstance(distance, str) else "euclidean")
    labels = embeddings.labels.cpu()
    known, sizes = labels.unique(return_counts=True)
    enough = sizes >= shots + queries
    group = torch.zeros_like(known) if within is None else _groups(labels, as_whole_numbers(within, "within").cpu())
    here = torch.bincount(
        group[enough], minlength=int(group.max()) + 1
    )  # classes of each group that have enough images
    usable = torch.nonzero(enough & (here[group] >= ways)).flatten()
    if not len(usable):
        one = "" if within is None else " in one group"
        raise DataError(
            f"{ways}-way {shots}-shot needs {ways} classes of {shots + queries} images{one}, there are {int(here.max())}"
        )
    rows, drawn = _draw(labels, usable, group, ways, shots + queries, episodes, seed)
    chosen, hits = _answers(embeddings.rows, rows, shots, likeness_of(distance))
    right = hits.flatten(1).sum(1)
    which = known[drawn][:, :, None].expand_as(hits).flatten()
    return FewShotResult(
        accuracy=float(hits.double().mean()),
        interval=clustered_interval(right.numpy(), torch.full_like(right, ways * queries).numpy(), hits.numel()),
        interval_over_classes=interval_over_classes(hits.flatten(), which, min(hits.numel(), int(sizes[usable].sum()))),
        chance=1 / ways,
        ways=ways,
        shots=shots,
        queries=queries,
        episodes=episodes,
        classes=len(usable),
        excluded=len(known) - len(usable),
        rows=rows,
        chosen=chosen,
        hits=hits,
    )


def likeness_of(distance: Distance | Likeness) -> Likeness:
    """How a query is compared with the K images of a class; by name, with their prototype."""
    if not isinstance(distance, str):
        return distance

    def to_prototypes(queries: Tensor, shots: Tensor) -> Tensor:
        means = shots.mean(2)  # (E, N, F)
        if distance == "cosine":
            means = means / means.norm(dim=2, keepdim=True).clamp_min(torch.finfo(means.dtype).tiny)
        return block_scores(queries, means, distance)

    return to_prototypes


def same_class_likeness(loss: SiameseLoss) -> Likeness:
    """A class is as alike as the mean over its images of p(same) = sigmoid(w (t - d)), w > 0 (Koch et al. 2015).

    d is the distance that ``loss`` was trained with, of rows that are what it was given: outputs of the projection head. Of
    one image p falls as d rises, so the answers are those of d itself. Of several the mean of p is another rule than the
    prototype: it saturates, and one near image counts for more than the mean of all. The log-odds of that mean are returned,
    which float64 can still tell apart where it has 1 for p.
    """

    def alike(queries: Tensor, shots: Tensor) -> Tensor:
        if loss.normalize:
            queries, shots = l2_normalize(queries), l2_normalize(shots)
        found = []
        with torch.no_grad():
            for mine, theirs in zip(queries, shots, strict=True):
                d = pairwise_distance(mine, theirs.flatten(0, 1), kind=loss.distance)  # (Q, N K)
                odds = loss.logits(d).unflatten(1, theirs.shape[:2])  # (Q, N, K)
                same, other = logsigmoid(odds).logsumexp(2), logsigmoid(-odds).logsumexp(2)
                found.append(same - other)
        return torch.stack(found).float().double()  # what is equal on paper is equal

    return alike


def paired_gain(
    a: Annotated[Tensor, "bool N"], b: Annotated[Tensor, "bool N"], clusters: Annotated[Tensor, "int64 N"]
) -> dict[str, Any]:
    """How much more often ``a`` is right than ``b``, answers to the same N questions.

    Returns:
        difference, its 95 % interval over ``clusters`` (runs, episodes; None for a single one), and a_only / b_only: questions
        that only one of them answered. Plain JSON types.
    """
    gains = a.double() - b.double()
    interval = difference_over_classes(gains, clusters)
    return {
        "difference": float(gains.mean()),
        "interval": None if interval is None else list(interval),
        "a_only": int((a & ~b).sum()),
        "b_only": int((b & ~a).sum()),
    }


def _groups(labels: Tensor, within: Tensor) -> Tensor:
    """The group of each class (C,), numbered from 0."""
    if within.shape != labels.shape or within.is_floating_point():
        raise DataError(
            f"within is {within.dtype} of shape {tuple(within.shape)}: expected whole numbers ({len(labels)},), one an image"
        )
    _, which = labels.unique(return_inverse=True)
    _, number = within.unique(return_inverse=True)
    group = torch.zeros(int(which.max()) + 1, dtype=torch.int64).scatter_(0, which, number)
    astray = torch.nonzero(group[which] != number).flatten()
    if len(astray):
        raise DataError(
            f"class {int(labels[astray[0]])} has images in several groups of within; each class belongs to one"
        )
    return group


def _draw(
    labels: Tensor, usable: Tensor, group: Tensor, ways: int, each: int, episodes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Rows (E, N, K + Q) of every episode, and its classes (E, N), as numbers among the sorted labels."""
    _, sizes = labels.unique(return_counts=True)
    members = labels.argsort(stable=True)  # rows of the first class, then of the second, ...
    first = sizes.cumsum(0) - sizes
    groups, own = group[usable].unique(), group[usable]
    generator = torch.Generator().manual_seed(seed)
    rows, classes = [], []
    step = max(1, 2**22 // max(len(usable), ways * each))
    for start in range(0, episodes, step):
        count = min(step, episodes - start)
        of = groups[torch.randint(len(groups), (count,), generator=generator)]
        keys = torch.rand(count, len(usable), generator=generator)
        drawn = usable[keys.masked_fill(of[:, None] != own, -1.0).topk(ways, dim=1).indices]  # (E, N)
        random = torch.rand(count, ways, each, generator=generator, dtype=torch.float64)
        offsets: list[Tensor] = []
        for taken in range(each):  # the next of those that are left, counted past those that are taken
            offset = (random[:, :, taken] * (sizes[drawn] - taken)).long()
            if offsets:
                for earlier in torch.stack(offsets).sort(0).values:
                    offset = offset + (offset >= earlier)
            offsets.append(offset)
        rows.append(members[first[drawn][:, :, None] + torch.stack(offsets, 2)])
        classes.append(drawn)
    return torch.cat(rows), torch.cat(classes)


def _answers(x: Tensor, rows: Tensor, shots: int, alike: Likeness) -> tuple[Tensor, Tensor]:
    """Which class each query was most alike to (E, N, Q), and whether that is its own and no other as much."""
    ways, each = rows.shape[1:]
    own = torch.eye(ways, dtype=torch.bool, device=x.device)[None, :, None]  # (1, N, 1, N)
    chosen, hits = [], []
    for part in rows.split(max(1, CHUNK_BYTES // (8 * x.shape[1] * ways * each))):
        z = x[part.to(x.device)]  # (E, N, K + Q, F)
        scores = alike(z[:, :, shots:].flatten(1, 2), z[:, :, :shots])  # (E, N Q, N)
        scores = scores.unflatten(1, (ways, each - shots))  # (E, N, Q, N)
        true = scores.diagonal(dim1=1, dim2=3).mT  # (E, N, Q)
        chosen.append(scores.argmax(3).cpu())
        hits.append((true > scores.masked_fill(own, -torch.inf).amax(3)).cpu())
    return torch.cat(chosen), torch.cat(hits)
