"""Retrieval: does an image's neighbourhood hold images of its class? Recall@K, R-precision, MAP@R, and clusters (NMI).

>>> import torch
>>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [0.7, 0.7]])
>>> y = torch.tensor([0, 0, 1, 1, 2])
>>> recall_at_k(x, y, ks=(1, 2))
{1: 1.0, 2: 1.0}
>>> result = retrieval(x, y)
>>> result.queries, result.excluded
(4, 1)

- A query is never its own answer: it is left out by its row number, so an exact duplicate of it does count.
- A query without another image of its class in the gallery has no right answer: it is left out of every mean, and
  counted in ``excluded``.
- Equal similarities are ordered by row number, lower first (see :mod:`linear_eval.matching.similarity`: equal means equal to
  5e-10). The result does not depend on chunk size, thread count or machine.
- With N gallery rows and R relevant ones: memory is linear in N, time is N^2.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from linear_eval.features.numbers import Listed
from linear_eval.matching.similarity import (
    CHUNK_BYTES,
    Distance,
    Embeddings,
    block_scores,
    class_sizes,
    prepare,
    query_and_gallery,
    rank_keys,
)
from linear_eval.metrics import difference_over_classes, interval_over_classes
from simclr.errors import ConfigError, DataError

__all__ = ["RetrievalResult", "map_at_r", "nmi", "r_precision", "recall_at_k", "retrieval", "retrieval_gains"]

KS = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """Means over the queries that have a right answer, all in [0, 1]. ``as_dict()`` can be written as JSON."""

    recall_at_k: dict[int, float]
    """Share of queries with at least one image of their class among the K nearest (Jegou et al. 2011)."""

    r_precision: float
    """Share of a query's class among its R nearest, R being the number of other images of the class."""

    map_at_r: float
    """Mean average precision over the R nearest (Musgrave et al. 2020)."""

    intervals: dict[str, tuple[float, float] | None]
    """95 % intervals over classes, by name: ``recall_at_8``, ``r_precision``, ``map_at_r``; None for a single class."""

    queries: int
    """Queries that were scored."""

    excluded: int
    """Queries left out because the gallery holds no (other) image of their class."""

    gallery: int
    """Rows that could be retrieved, the query's own row among them where query and gallery are one set."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; the Ks become keys such as ``"8"``."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))


def recall_at_k(
    x: Annotated[Tensor, "N D"] | Listed,
    y: Annotated[Tensor, "N"] | Listed,
    ks: Sequence[int] = KS,
    *,
    gallery_x: Annotated[Tensor, "M D"] | Listed | None = None,
    gallery_y: Annotated[Tensor, "M"] | Listed | None = None,
    distance: Distance = "cosine",
) -> dict[int, float]:
    """Share of queries with at least one of their class among the ``k`` nearest (Jegou et al. 2011), by ``k``.

    Args:
        x: (N, F) embeddings, a tensor, an array or a list, of the queries, and of the gallery where none is given.
        y: (N,) int64 classes.
        ks: how many neighbours to look at. A ``k`` beyond the gallery's size looks at all of it.
        gallery_x, gallery_y: (M, F) and (M,): search these instead. Nothing is then left out as the query itself.
        distance: ``"cosine"`` or ``"euclidean"``.

    Raises:
        DataError: nothing to score, rows that are not finite, or no query that has a right answer.
        ConfigError: an unknown distance, a ``k`` below 1, or half a gallery.
    """
    return _scores(*query_and_gallery(x, y, gallery_x, gallery_y, distance), ks, whole_class=False).recall_at_k


def map_at_r(
    x: Annotated[Tensor, "N D"] | Listed,
    y: Annotated[Tensor, "N"] | Listed,
    *,
    gallery_x: Annotated[Tensor, "M D"] | Listed | None = None,
    gallery_y: Annotated[Tensor, "M"] | Listed | None = None,
    distance: Distance = "cosine",
) -> float:
    """MAP@R (Musgrave et al. 2020, "A metric learning reality check"); arguments as :func:`recall_at_k`.

    For one query, 1/R * sum over i = 1..R of P(i), where P(i) is the precision among the i nearest if the i-th is of
    the query's class, else 0. R is the number of relevant gallery rows. The mean over the queries.
    """
    return _scores(*query_and_gallery(x, y, gallery_x, gallery_y, distance), (1,)).map_at_r


def r_precision(
    x: Annotated[Tensor, "N D"] | Listed,
    y: Annotated[Tensor, "N"] | Listed,
    *,
    gallery_x: Annotated[Tensor, "M D"] | Listed | None = None,
    gallery_y: Annotated[Tensor, "M"] | Listed | None = None,
    distance: Distance = "cosine",
) -> float:
    """Share of relevant rows among the R nearest, R being how many there are; arguments as :func:`recall_at_k`."""
    return _scores(*query_and_gallery(x, y, gallery_x, gallery_y, distance), (1,)).r_precision


def retrieval(
    x: Annotated[Tensor, "N D"] | Listed,
    y: Annotated[Tensor, "N"] | Listed,
    ks: Sequence[int] = KS,
    *,
    gallery_x: Annotated[Tensor, "M D"] | Listed | None = None,
    gallery_y: Annotated[Tensor, "M"] | Listed | None = None,
    distance: Distance = "cosine",
) -> RetrievalResult:
    """Every figure of retrieval in one pass, with the counts; arguments and errors as :func:`recall_at_k`."""
    return _scores(*query_and_gallery(x, y, gallery_x, gallery_y, distance), ks)


def nmi(
    x: Annotated[Tensor, "N D"] | Listed,
    y: Annotated[Tensor, "N"] | Listed,
    seed: int = 0,
    *,
    distance: Distance = "cosine",
    restarts: int = 4,
) -> float:
    """Normalised mutual information between classes and k-means clusters, one cluster a class.

    The rows are brought to unit length first for the cosine. The best of ``restarts`` k-means++ runs under ``seed`` is
    compared (scikit-learn), normalised by the mean of both entropies. Time grows with N times the number of classes.

    Raises:
        DataError: nothing to score, rows that are not finite, or a single class, which no clustering can miss.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import normalized_mutual_info_score

    embeddings = prepare(x, y, distance)
    classes = len(embeddings.labels.unique())
    if classes < 2:
        raise DataError(f"NMI needs at least two classes, all {len(embeddings)} rows are of one")
    rows = embeddings.rows.float().cpu().numpy()
    with warnings.catch_warnings():
        # fewer distinct rows than classes: a collapsed encoder, which the score itself shows
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters = KMeans(classes, n_init=restarts, random_state=seed).fit_predict(rows)
    return float(normalized_mutual_info_score(embeddings.labels.cpu().numpy(), clusters))


def retrieval_gains(
    x: Annotated[Tensor, "N D"] | Listed,
    others: Mapping[str, Annotated[Tensor, "N E"] | Listed],
    y: Annotated[Tensor, "N"] | Listed,
    *,
    distance: Distance = "cosine",
) -> dict[str, dict[str, dict[str, Any]]]:
    """By how much ``x`` retrieves better than each of ``others``, embeddings of the same rows: Recall@1 and MAP@R.

    Returns:
        Name of the other -> ``recall_at_1`` and ``map_at_r`` -> ``difference`` and ``interval``: 95 % over classes, paired
        over queries (``difference_over_classes``), None for a single class. Plain JSON types.
    """

    def of_queries(rows: Tensor | Listed) -> tuple[dict[str, Tensor], Tensor]:
        return _values(*query_and_gallery(rows, y, None, None, distance), (1,), True)

    mine, labels = of_queries(x)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, rows in others.items():
        theirs, _ = of_queries(rows)
        found[name] = {}
        for measure in ("recall_at_1", "map_at_r"):
            gain = mine[measure] - theirs[measure]
            interval = difference_over_classes(gain, labels)
            found[name][measure] = {
                "difference": float(gain.mean()),
                "interval": None if interval is None else list(interval),
            }
    return found


def _scores(queries: Embeddings, gallery: Embeddings, ks: Sequence[int], whole_class: bool = True) -> RetrievalResult:
    """``whole_class=False`` looks no further than the largest k, leaves R-precision and MAP@R at NaN, and takes no interval."""
    values, labels = _values(queries, gallery, ks, whole_class)
    return RetrievalResult(
        recall_at_k={int(k): float(values[f"recall_at_{k}"].mean()) for k in ks},
        r_precision=float(values["r_precision"].mean()) if whole_class else float("nan"),
        map_at_r=float(values["map_at_r"].mean()) if whole_class else float("nan"),
        intervals={name: interval_over_classes(share, labels) for name, share in values.items()} if whole_class else {},
        queries=len(labels),
        excluded=len(queries) - len(labels),
        gallery=len(gallery),
    )


def _values(
    queries: Embeddings, gallery: Embeddings, ks: Sequence[int], whole_class: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Each figure of every query that is scored, float64 (Q,), and the classes (Q,) of these queries."""
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks must be positive numbers of neighbours, got {tuple(ks)}")
    itself = queries is gallery
    relevant = class_sizes(queries.labels, gallery.labels) - int(itself)  # (N,)
    scored = relevant > 0
    if not bool(scored.any()):
        raise DataError(
            f"none of the {len(queries)} queries has {'another' if itself else 'an'} image of its class to find; "
            "give at least one class with two images"
        )
    of_queries: dict[str, list[Tensor]] = {f"recall_at_{k}": [] for k in ks}  # of every scored query, in order
    if whole_class:
        of_queries |= {"r_precision": [], "map_at_r": []}
    columns = len(gallery)
    for start, stop in queries.row_chunks(columns):
        rows = torch.arange(start, stop, device=queries.rows.device)[scored[start:stop]]  # (Q,)
        if len(rows) == 0:
            continue
        keys = rank_keys(block_scores(queries.rows[rows], gallery.rows, queries.distance), queries.distance)
        if itself:
            keys[torch.arange(len(rows), device=rows.device), rows] = torch.iinfo(torch.int64).min
        wanted = max(max(ks), int(relevant[rows].max()) if whole_class else 0)
        # the neighbours, with int64 indices and float64 precisions, may be as wide as the gallery: bound them too
        for part, part_keys in zip(rows.split(step := _rows_at_once(wanted)), keys.split(step), strict=True):
            nearest = part_keys.topk(min(wanted, columns - int(itself)), dim=1).indices  # (q, W)
            hit = gallery.labels[nearest] == queries.labels[part, None]  # (q, W)
            for k in ks:
                of_queries[f"recall_at_{k}"].append(hit[:, :k].any(1).cpu())
            if whole_class:
                size = relevant[part, None]  # (q, 1)
                places = torch.arange(1, hit.shape[1] + 1, device=hit.device)
                hit = hit & (places <= size)
                precision = hit.cumsum(1).double() / places * hit  # P(i) of the equation
                of_queries["r_precision"].append((hit.sum(1) / size[:, 0].double()).cpu())
                of_queries["map_at_r"].append((precision.sum(1) / size[:, 0]).cpu())
    values = {name: torch.cat(parts).double() for name, parts in of_queries.items()}
    return values, queries.labels[scored].cpu()


def _rows_at_once(width: int) -> int:
    return max(1, CHUNK_BYTES // (32 * width))
