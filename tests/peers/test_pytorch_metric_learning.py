"""Losses, miners, distances and accuracies beside those of pytorch-metric-learning."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from agreement import assert_alike, embeddings, labels_of
from torch import Tensor

from linear_eval import map_at_r, nmi, r_precision, recall_at_k
from simclr.distances import pairwise_distance
from simclr.losses import (
    ArcFaceLoss,
    CircleLoss,
    ContrastiveLoss,
    CosFaceLoss,
    CrossEntropyLoss,
    MarginLoss,
    MultiSimilarityLoss,
    NPairLoss,
    NTXentLoss,
    ProxyAnchorLoss,
    SupConLoss,
    TripletLoss,
)
from simclr.mining import hard, semi_hard

pml = pytest.importorskip(
    "pytorch_metric_learning", reason="pytorch-metric-learning is not installed: pip install -e '.[test]'"
)
from pytorch_metric_learning import distances, losses, miners, reducers  # noqa: E402
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator  # noqa: E402
from pytorch_metric_learning.utils.inference import CustomKNN  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
KINDS = ("even", "uneven", "two")
EUCLIDEAN, SQUARED, COSINE = (
    lambda: distances.LpDistance(),
    lambda: distances.LpDistance(power=2),
    lambda: distances.CosineSimilarity(),
)


@pytest.mark.parametrize("images", [2, 5, 16])
@pytest.mark.parametrize("temperature", [0.07, 0.1, 0.5, 1.0])
def test_nt_xent_of_two_views(temperature: float, images: int) -> None:
    theirs, labels = losses.NTXentLoss(temperature=temperature), torch.arange(images).repeat(2)
    assert_alike(
        lambda z: NTXentLoss(temperature)(z.unflatten(0, (2, images))),
        lambda z: theirs(z, labels),
        embeddings(2 * images, 6),
        rtol=1e-6,  # they add 1e-5 or so of the type's own within the logarithm
    )


def test_nt_xent_where_theirs_saturates() -> None:
    """tau = 0.01 and positives that are far: all that theirs has left is the constant within the logarithm, and no gradient."""
    z = torch.tensor([[1.0, 0.0], [-0.95, 0.3], [-0.9, 0.43], [0.99, 0.14]])
    here, there = z.clone().requires_grad_(), z.clone().requires_grad_()
    unit = F.normalize(z.double())
    logits = (unit @ unit.T / 0.01).fill_diagonal_(-math.inf)
    truth = float((logits.logsumexp(1) - logits[torch.arange(4), torch.tensor([2, 3, 0, 1])]).mean())
    ours = NTXentLoss(0.01)(here.unflatten(0, (2, 2)))
    theirs = losses.NTXentLoss(temperature=0.01)(there, torch.tensor([0, 1, 0, 1]))
    ours.backward()
    theirs.backward()
    assert ours.item() == pytest.approx(truth, rel=1e-5) and truth > 189
    assert theirs.item() < 88 and not there.grad.any() and here.grad.abs().max() > 20


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_supcon(temperature: float, kind: str, views: int) -> None:
    labels = labels_of(kind)
    reducer = reducers.AvgNonZeroReducer() if kind == "uneven" and views == 1 else reducers.MeanReducer()
    theirs = losses.SupConLoss(temperature=temperature, reducer=reducer)
    assert_alike(
        lambda z: SupConLoss(temperature)(z.unflatten(0, (views, len(labels))), labels),
        lambda z: theirs(z, labels.repeat(views)),
        embeddings(views * len(labels), 8),
        rtol=1e-6,
    )


@pytest.mark.parametrize("reduction", ["active", "all"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("margin", [0.05, 0.2, 1.0])
@pytest.mark.parametrize(("name", "of_theirs"), [("euclidean", EUCLIDEAN), ("squared", SQUARED), ("cosine", COSINE)])
def test_triplet_of_every_triplet(name: Any, of_theirs: Any, margin: float, kind: str, reduction: Any) -> None:
    reducer = reducers.AvgNonZeroReducer() if reduction == "active" else reducers.MeanReducer()
    theirs, labels = losses.TripletMarginLoss(margin=margin, distance=of_theirs(), reducer=reducer), labels_of(kind)
    ours = TripletLoss(margin, "all", name, reduction)
    assert_alike(lambda z: ours(z, labels), lambda z: theirs(z, labels), embeddings(18, 5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_triplet_of_the_hardest(margin: float, kind: str) -> None:
    theirs, miner = losses.TripletMarginLoss(margin=margin, reducer=reducers.MeanReducer()), miners.BatchHardMiner()
    labels, ours = labels_of(kind), TripletLoss(margin, "hard", reduction="all")
    assert_alike(lambda z: ours(z, labels), lambda z: theirs(z, labels, miner(z, labels)), embeddings(18, 5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("margins", [(1.0, 0.0), (0.7, 0.3), (1.4, 0.1)])
@pytest.mark.parametrize(("name", "of_theirs"), [("euclidean", EUCLIDEAN), ("squared", SQUARED)])
def test_contrastive_is_half_the_squares_of_their_hinges(name: Any, of_theirs: Any, margins: Any, kind: str) -> None:
    """Theirs is the mean of the hinges above 0; the paper's, and ours, is half their squares over all pairs."""
    labels, (far, near) = labels_of(kind), margins
    theirs = losses.ContrastiveLoss(near, far, distance=of_theirs(), reducer=reducers.DoNothingReducer())

    def half_squares(z: Tensor) -> Tensor:
        parts = theirs(z, labels)
        hinges = torch.cat([parts["pos_loss"]["losses"].flatten(), parts["neg_loss"]["losses"].flatten()])
        return hinges.square().sum() / 2 / (len(z) * (len(z) - 1))

    ours = ContrastiveLoss(far, near, name)
    assert_alike(lambda z: ours(z, labels), half_squares, embeddings(18, 5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("alpha", "beta", "nu", "classes"),
    [(0.2, 1.2, 0.0, None), (0.1, 0.8, 0.0, None), (0.2, 1.2, 0.0, 10), (0.3, 1.0, 0.1, 10)],
)
def test_margin(alpha: float, beta: float, nu: float, classes: int | None, kind: str) -> None:
    """Where nu is above 0, with a boundary a class: with one for all they count its penalty once, ours once a triplet."""
    labels = labels_of(kind)
    theirs = losses.MarginLoss(margin=alpha, nu=nu, beta=beta, learn_beta=True, num_classes=classes).double()
    ours = MarginLoss(alpha, beta, classes, nu=nu, mining="hard").double()

    def of_theirs(z: Tensor) -> Tensor:
        chosen = hard(pairwise_distance(F.normalize(z.detach())), labels).indices()
        return theirs(z, labels, tuple(chosen.T))

    # float32 in their boundary
    assert_alike(lambda z: ours(z, labels), of_theirs, embeddings(18, 5), rtol=1e-6, atol=1e-8)
    slope = ours.beta.grad if ours.beta_class is None else ours.beta_class.grad
    torch.testing.assert_close(slope, theirs.beta.grad.view_as(slope).to(slope.dtype), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pairs", [2, 5, 12])
@pytest.mark.parametrize("normalised", [False, True])
def test_n_pair(normalised: bool, pairs: int) -> None:
    labels = torch.arange(pairs).repeat_interleave(2)
    theirs = losses.NPairsLoss(distance=distances.DotProductSimilarity(normalize_embeddings=normalised))
    anchors, nothing = torch.arange(0, 2 * pairs, 2), torch.zeros(0, dtype=torch.int64)
    ours = NPairLoss(temperature=1.0 if normalised else None)
    assert_alike(
        lambda z: ours(z, labels),
        lambda z: theirs(z, labels, (anchors, anchors + 1, nothing, nothing)),
        embeddings(2 * pairs, 6),
        rtol=1e-7,
    )


@pytest.mark.parametrize("subcenters", [1, 3])
@pytest.mark.parametrize("margin", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("scale", [1.0, 16.0, 64.0])
def test_arcface(scale: float, margin: float, subcenters: int) -> None:
    """Where theta + margin stays below pi: beyond it their target rises again, ours goes on falling (see test_arcface.py)."""
    labels, degrees = labels_of("even"), math.degrees(margin)
    ours = ArcFaceLoss(6, 8, scale, margin, subcenters=subcenters).double()
    if subcenters == 1:
        theirs = losses.ArcFaceLoss(6, 8, margin=degrees, scale=scale).double()
        theirs.W.data = ours.weight.data.t().clone()
    else:
        settings = {"margin": degrees, "scale": scale, "sub_centers": subcenters}
        theirs = losses.SubCenterArcFaceLoss(num_classes=6, embedding_size=8, **settings).double()
        theirs.W.data = ours.weight.data.t().clone()
    z = embeddings(18, 8)
    with torch.no_grad():
        own = ours.cosines(z).gather(1, labels.unsqueeze(1))
        assert bool((own.acos() + margin < math.pi).all())
    assert_alike(lambda z: ours(z, labels), lambda z: theirs(z, labels), z, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.35])
@pytest.mark.parametrize("scale", [1.0, 64.0])
def test_cosface(scale: float, margin: float) -> None:
    labels, ours = labels_of("even"), CosFaceLoss(6, 8, scale, margin).double()
    theirs = losses.CosFaceLoss(6, 8, margin=margin, scale=scale).double()
    theirs.W.data = ours.weight.data.t().clone()
    assert_alike(lambda z: ours(z, labels), lambda z: theirs(z, labels), embeddings(18, 8), rtol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("margin", "alpha"), [(0.1, 32.0), (0.0, 1.0), (0.3, 16.0)])
def test_proxy_anchor(margin: float, alpha: float, kind: str) -> None:
    labels, ours = labels_of(kind), ProxyAnchorLoss(10, 8, margin, alpha).double()
    theirs = losses.ProxyAnchorLoss(10, 8, margin=margin, alpha=alpha).double()
    theirs.proxies.data = ours.proxies.data.clone()
    assert_alike(lambda z: ours(z, labels), lambda z: theirs(z, labels), embeddings(18, 8), rtol=1e-7)
    torch.testing.assert_close(ours.proxies.grad, theirs.proxies.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["even", "two"])
@pytest.mark.parametrize("epsilon", [0.1, 0.5, None])
@pytest.mark.parametrize(("alpha", "beta", "base"), [(2.0, 50.0, 0.5), (2.0, 40.0, 1.0), (5.0, 5.0, 0.0)])
def test_multi_similarity(alpha: float, beta: float, base: float, epsilon: float | None, kind: str) -> None:
    """In classes of two and more: of an image alone theirs counts the negatives, ours nothing."""
    labels, ours = labels_of(kind), MultiSimilarityLoss(alpha, beta, base, epsilon)
    theirs = losses.MultiSimilarityLoss(alpha, beta, base, reducer=reducers.MeanReducer())

    def of_theirs(z: Tensor) -> Tensor:
        return theirs(z, labels, None if epsilon is None else miners.MultiSimilarityMiner(epsilon)(z, labels))

    assert_alike(lambda z: ours(z, labels), of_theirs, embeddings(18, 8), rtol=1e-7)


@pytest.mark.parametrize("kind", ["even", "two"])
@pytest.mark.parametrize(("margin", "gamma"), [(0.4, 80.0), (0.25, 256.0), (0.1, 1.0)])
def test_circle(margin: float, gamma: float, kind: str) -> None:
    labels, ours = labels_of(kind), CircleLoss(margin, gamma)
    theirs = losses.CircleLoss(m=margin, gamma=gamma, reducer=reducers.MeanReducer())
    assert_alike(lambda z: ours(z, labels), lambda z: theirs(z, labels), embeddings(18, 8), rtol=1e-6)


@pytest.mark.parametrize("kind", ["even", "two"])
def test_cross_entropy_of_normalised_rows(kind: str) -> None:
    labels, theirs = labels_of(kind), losses.NormalizedSoftmaxLoss(6, 8, temperature=1.0).double()
    ours = CrossEntropyLoss(6, 8).double()
    with torch.no_grad():
        ours.head.weight.copy_(F.normalize(theirs.W, dim=0).T)
        ours.head.bias.zero_()
    assert_alike(lambda z: ours(F.normalize(z), labels), lambda z: theirs(z, labels), embeddings(18, 8), rtol=1e-7)


@pytest.mark.parametrize("rows", [3, 40])
@pytest.mark.parametrize("dim", [2, 64])
@pytest.mark.parametrize(
    ("name", "of_theirs"),
    [
        ("euclidean", lambda: distances.LpDistance(normalize_embeddings=False)),
        ("squared", lambda: distances.LpDistance(normalize_embeddings=False, power=2)),
        ("manhattan", lambda: distances.LpDistance(normalize_embeddings=False, p=1)),
        ("cosine", lambda: distances.CosineSimilarity()),
    ],
    ids=["euclidean", "squared", "manhattan", "cosine"],
)
def test_distances(name: Any, of_theirs: Any, dim: int, rows: int) -> None:
    x, y = embeddings(rows, dim), embeddings(rows + 2, dim, seed=1)
    theirs = of_theirs()
    for found, expected in (
        (pairwise_distance(x, y, name), theirs(x, y)),
        (pairwise_distance(x, kind=name), theirs(x)),
    ):
        expected = 1 - expected if theirs.is_inverted else expected
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-6)  # their diagonal is a square root of rounding


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_hardest_triplets(kind: str, seed: int) -> None:
    z, labels = F.normalize(embeddings(18, 5, seed)), labels_of(kind)
    anchors, positives, negatives = miners.BatchHardMiner()(z, labels)
    expected = {tuple(one) for one in torch.stack([anchors, positives, negatives], 1).tolist()}
    assert {tuple(one) for one in hard(pairwise_distance(z), labels).indices().tolist()} == expected


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("margin", [0.1, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_hardest_of_the_semi_hard_triplets(kind: str, margin: float, seed: int) -> None:
    """Theirs are all semi-hard triplets; ours, one a positive pair, is the nearest negative of them."""
    z, labels = F.normalize(embeddings(18, 5, seed)), labels_of(kind)
    d = pairwise_distance(z)
    theirs = torch.stack(miners.TripletMarginMiner(margin, "semihard")(z, labels), 1).tolist()
    nearest: dict[tuple[int, int], int] = {}
    for a, p, n in theirs:
        if (a, p) not in nearest or d[a, n] < d[a, nearest[a, p]]:
            nearest[a, p] = n
    found = semi_hard(d, labels, margin, "skip").indices().tolist()
    assert {(a, p): n for a, p, n in found} == nearest


def groups(rows: int, dim: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    y = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))
    means = embeddings(classes, dim, seed + 1)
    return means[y] + 0.8 * embeddings(rows, dim, seed + 2), y


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("rows", "classes"), [(60, 4), (150, 12), (200, 40)])
def test_accuracies_of_retrieval(rows: int, classes: int, distance: Any) -> None:
    x, y = groups(rows, 8, classes, 3)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        knn_func=CustomKNN(distances.LpDistance(normalize_embeddings=distance == "cosine")),
    )
    theirs = calculator.get_accuracy(x, y)
    assert recall_at_k(x, y, (1,), distance=distance)[1] == pytest.approx(theirs["precision_at_1"], abs=1e-9)
    assert r_precision(x, y, distance=distance) == pytest.approx(theirs["r_precision"], abs=1e-9)
    assert map_at_r(x, y, distance=distance) == pytest.approx(theirs["mean_average_precision_at_r"], abs=1e-9)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_accuracies_of_queries_in_a_gallery(distance: Any) -> None:
    (x, y), (gallery_x, gallery_y) = groups(50, 8, 6, 3), groups(120, 8, 6, 4)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        knn_func=CustomKNN(distances.LpDistance(normalize_embeddings=distance == "cosine")),
    )
    theirs = calculator.get_accuracy(x, y, gallery_x, gallery_y)
    given: Any = {"gallery_x": gallery_x, "gallery_y": gallery_y, "distance": distance}
    assert recall_at_k(x, y, (1,), **given)[1] == pytest.approx(theirs["precision_at_1"], abs=1e-9)
    assert r_precision(x, y, **given) == pytest.approx(theirs["r_precision"], abs=1e-9)
    assert map_at_r(x, y, **given) == pytest.approx(theirs["mean_average_precision_at_r"], abs=1e-9)


def test_clusters() -> None:
    from sklearn.cluster import KMeans

    x, y = groups(90, 6, 5, 1)

    def same_clusters(rows: Tensor, count: int) -> Tensor:
        return torch.from_numpy(KMeans(count, n_init=4, random_state=0).fit_predict(F.normalize(rows).float().numpy()))

    theirs = AccuracyCalculator(
        include=("NMI",), knn_func=CustomKNN(distances.LpDistance()), kmeans_func=same_clusters
    ).get_accuracy(x, y)
    assert nmi(x, y) == pytest.approx(theirs["NMI"], abs=1e-9)
