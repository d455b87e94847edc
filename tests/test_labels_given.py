"""Labels and numbers of images that a loss or a miner cannot mean are refused in words, and those that it can are taken."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simclr.errors import ConfigError
from simclr.losses import (
    ArcFaceLoss,
    CenterCrossEntropyLoss,
    CenterLoss,
    CosFaceLoss,
    CrossEntropyLoss,
    DistributionFocalLoss,
    MarginLoss,
    ProxyAnchorLoss,
    QualityFocalLoss,
    TargetBins,
    distribution_focal_loss,
    quality_focal_loss,
    sup_con,
)
from simclr.mining import (
    batch_all,
    distance_weighted,
    hard,
    offline_triplets,
    positive_table,
    random_negatives,
    semi_hard,
)

CLASSES, DIM, ROWS = 3, 4, 6
Z = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(ROWS) // 2
INDICES = torch.arange(ROWS)
OF_CLASSES: dict[str, Callable[[], nn.Module]] = {
    "margin": lambda: MarginLoss(num_classes=CLASSES),
    "margin, all": lambda: MarginLoss(num_classes=CLASSES, mining="all"),
    "center": lambda: CenterLoss(CLASSES, DIM),
    "center and cross-entropy": lambda: CenterCrossEntropyLoss(CLASSES, DIM),
    "arcface": lambda: ArcFaceLoss(CLASSES, DIM),
    "arcface, sub-centres": lambda: ArcFaceLoss(CLASSES, DIM, subcenters=2),
    "arcface, a part of the classes": lambda: ArcFaceLoss(CLASSES, DIM, sample_share=0.4),
    "cosface": lambda: CosFaceLoss(CLASSES, DIM),
    "proxy-anchor": lambda: ProxyAnchorLoss(CLASSES, DIM),
    "cross-entropy": lambda: CrossEntropyLoss(CLASSES, DIM),
    "quality-focal": lambda: QualityFocalLoss(CLASSES, DIM),
}


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize("wrong", [-1, -100, CLASSES, 2**40])
def test_a_label_of_no_class_is_refused(name: str, wrong: int) -> None:
    loss, labels = OF_CLASSES[name](), LABELS.clone()
    state = {key: value.clone() for key, value in loss.state_dict().items()}
    labels[1] = wrong
    if name == "quality-focal" and wrong < 0:  # background
        assert loss(Z, labels).isfinite()
        return
    with pytest.raises(ValueError, match=rf"labels run from .*{wrong}.*, expected 0 to 2 for 3 classes; \w"):
        loss(Z, labels)
    assert all(torch.equal(value, state[key]) for key, value in loss.state_dict().items())
    assert loss(Z, LABELS).isfinite()


@pytest.mark.parametrize(
    ("indices", "said"),
    [
        (INDICES - 1, "indices run from -1 to 4, expected 0 to 5 for 6 samples; leave out"),
        (INDICES + 1, "indices run from 1 to 6, expected 0 to 5 for 6 samples; make the loss for at least 7"),
        (INDICES[:2], r"indices are torch.int64 of shape \(2,\), expected int64 \(6,\)"),
        (INDICES.float(), r"indices are torch.float32 of shape \(6,\), expected int64"),
        (None, "needs the images' indices"),
    ],
)
def test_an_index_of_no_sample_is_refused(indices: Tensor | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MarginLoss(num_samples=ROWS)(Z, LABELS, indices)


def test_each_boundary_gets_the_gradient_of_its_own_class_and_sample() -> None:
    loss = MarginLoss(num_classes=CLASSES, num_samples=ROWS, mining="all", reduction="all").double()
    loss(Z.double(), LABELS, INDICES).backward()
    unit = torch.nn.functional.normalize(Z.double(), dim=1)
    slope = torch.zeros(ROWS, dtype=torch.float64)
    for i in range(ROWS):
        for j in set(range(ROWS)) - {i}:
            side = 1 if LABELS[i] == LABELS[j] else -1
            active = 0.2 + side * ((unit[i] - unit[j]).norm() - 1.2) > 0
            slope[i] -= side * active / (ROWS * (ROWS - 1))
    torch.testing.assert_close(loss.beta_sample.grad, slope)
    torch.testing.assert_close(loss.beta_class.grad, slope.view(CLASSES, 2).sum(1))


@pytest.mark.parametrize(
    "loss",
    [
        CenterLoss(CLASSES, DIM),
        ArcFaceLoss(CLASSES, DIM),
        CosFaceLoss(CLASSES, DIM),
        ProxyAnchorLoss(CLASSES, DIM),
        CrossEntropyLoss(CLASSES, DIM),
        QualityFocalLoss(CLASSES, DIM),
        DistributionFocalLoss(DIM, TargetBins(low=0, high=2, count=3)),
    ],
    ids=lambda loss: type(loss).__name__,
)
@pytest.mark.parametrize("width", [1, DIM + 1])
def test_embeddings_of_another_width_are_refused(loss: nn.Module, width: int) -> None:
    with pytest.raises(ValueError, match=f"z has {width} dimensions, expected 4: make the loss with dim={width}"):
        loss(torch.ones(ROWS, width), LABELS)


@pytest.mark.parametrize(
    "kind",
    [ArcFaceLoss, CosFaceLoss, ProxyAnchorLoss, CenterLoss, CenterCrossEntropyLoss, CrossEntropyLoss, QualityFocalLoss],
)
@pytest.mark.parametrize(
    ("sizes", "name"), [((0, DIM), "num_classes"), ((CLASSES, -1), "dim"), ((2.0, DIM), "num_classes")]
)
def test_a_loss_of_no_classes_or_dimensions_is_refused(kind: Any, sizes: tuple[Any, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is .*; it must be a whole number, 1 or more"):
        kind(*sizes)


@pytest.mark.parametrize("wrong", [-0.2, 1.3, float("nan")])
@pytest.mark.parametrize("kind", [CrossEntropyLoss, QualityFocalLoss])
def test_shares_and_qualities_outside_0_to_1_are_refused(kind: Any, wrong: float) -> None:
    shares = torch.full((ROWS, CLASSES), 1 / CLASSES)
    loss = kind(CLASSES, DIM)
    assert loss(Z, shares).isfinite() and loss(Z, shares.half()).isfinite()
    shares[2, 1] = wrong
    with pytest.raises(ValueError, match=r"targets run from .* to .*, expected the share or quality of each class in"):
        loss(Z, shares)
    quality = torch.full((ROWS,), 0.5)
    quality[3] = wrong
    with pytest.raises(ValueError, match="targets run from"):
        quality_focal_loss(Z, LABELS, quality)
    labels = LABELS.clone()
    labels[3] = -1  # background, of which the quality is not looked at
    assert quality_focal_loss(Z, labels, quality).isfinite()


def test_other_counts_of_a_loss_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_samples is 0; it must be 1 or more"):
        MarginLoss(num_samples=0)
    with pytest.raises(ConfigError, match=r"class_weights is .*; it must be one for each of 3 classes"):
        CrossEntropyLoss(CLASSES, DIM, class_weights=[1.0, 2.0])


GIVEN = [
    LABELS.numpy(),
    LABELS.tolist(),
    LABELS.int(),
    LABELS.numpy().astype(np.uint64),
    LABELS.numpy().astype(">i4"),
    np.array(list(LABELS.numpy())),
]


@pytest.mark.parametrize("labels", GIVEN, ids=["int64", "list", "int32", "uint64", "big-endian", "of scalars"])
def test_a_function_takes_labels_of_any_kind(labels: Any) -> None:
    d = torch.cdist(Z, Z)
    for mine in (hard, lambda d, y: semi_hard(d, y, 0.2), lambda d, y: batch_all(d, y, 0.2)):
        for distances in (d, d.numpy()):
            torch.testing.assert_close(mine(distances, labels), mine(d, LABELS), rtol=0, atol=0, equal_nan=True)
    for draw in (random_negatives, lambda d, y, generator: distance_weighted(d, y, DIM, generator=generator)):
        one, other = (draw(d, y, generator=torch.Generator().manual_seed(3)) for y in (labels, LABELS))
        assert torch.equal(one.negative, other.negative)
    assert torch.equal(offline_triplets(Z.numpy(), labels, seed=0), offline_triplets(Z, LABELS, seed=0))
    assert torch.equal(positive_table(labels).samples, positive_table(LABELS).samples)
    assert torch.equal(sup_con(Z[None], labels), sup_con(Z[None], LABELS))
    quality = torch.linspace(0, 1, ROWS)
    assert torch.equal(quality_focal_loss(Z, labels, quality.numpy()), quality_focal_loss(Z, LABELS, quality))
    assert torch.equal(distribution_focal_loss(Z, labels), distribution_focal_loss(Z, LABELS))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda d: hard(d, LABELS[:3]), ValueError, r"labels have shape \(3,\), expected \(6,\)"),
        (lambda d: hard(d, LABELS.float()), TypeError, "labels are torch.float32, expected int64"),
        (lambda d: hard(d, None), TypeError, "labels are NoneType; expected int64"),
        (lambda d: semi_hard(d, ["a"] * 6, 0.2), TypeError, "labels are texts; a loss takes numbers"),
        (lambda d: batch_all(d[0], LABELS, 0.2), ValueError, r"distances are torch.float32 of shape \(6,\)"),
        (lambda d: random_negatives(d[:4], LABELS), ValueError, r"\(4, 6\), expected \(6, 6\): a row for each anchor"),
        (lambda d: distance_weighted(d, LABELS, 4, anchors=INDICES[:2]), ValueError, r"\(6, 6\), expected \(2, 6\)"),
        (lambda d: offline_triplets(Z, LABELS.double(), seed=0), TypeError, "labels are torch.float64"),
        (lambda d: positive_table(LABELS[:, None]), ValueError, r"labels have shape \(6, 1\)"),
    ],
)
def test_what_a_miner_cannot_mean_is_refused(call: Callable[[Tensor], Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call(torch.cdist(Z, Z))
