"""SupCon against a float64 brute force written from the paper's formula, NT-Xent and pytorch-metric-learning."""

import math

import pytest
import torch
from torch import Tensor

from simclr.losses.ntxent.loss import nt_xent
from simclr.losses.supcon import SupConLoss, sup_con


def brute_force(views: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """L_out in float64, one anchor and one positive at a time."""
    z = views.double()
    rows = [(z[v, b] / z[v, b].norm(), int(labels[b])) for v in range(len(z)) for b in range(z.shape[1])]
    anchors = []
    for i, (anchor, label) in enumerate(rows):
        similarity = {k: anchor @ row / temperature for k, (row, _) in enumerate(rows) if k != i}
        positives = [k for k in similarity if rows[k][1] == label]
        if positives:
            denominator = torch.logsumexp(torch.stack(list(similarity.values())), dim=0)
            anchors.append(torch.stack([denominator - similarity[p] for p in positives]).mean())
    return torch.stack(anchors).mean()


def value_and_gradient(loss, views: Tensor, *args) -> tuple[float, Tensor]:
    views = views.clone().requires_grad_()
    value = loss(views, *args)
    value.backward()
    assert views.grad is not None
    return value.item(), views.grad


def embeddings(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


LABELS = torch.tensor([0, 2, 2, 1, 0, 2, 7])


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_equals_brute_force_in_float64(num_views, temperature):
    views = embeddings(num_views, 7, 6)
    value, gradient = value_and_gradient(sup_con, views, LABELS, temperature)
    expected, expected_gradient = value_and_gradient(brute_force, views, LABELS, temperature)
    assert value == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-11)


def test_gradcheck():
    views = embeddings(2, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: sup_con(z, LABELS[:5], 0.2), views)


@pytest.mark.parametrize("num_views", [1, 2])
def test_equals_pytorch_metric_learning(num_views):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    reducers = pytest.importorskip("pytorch_metric_learning.reducers")
    theirs = losses.SupConLoss(temperature=0.2, reducer=reducers.AvgNonZeroReducer())
    labels = torch.tensor([0, 1, 1, 0, 2, 2])
    views = embeddings(num_views, 6, 8)
    value, gradient = value_and_gradient(sup_con, views, labels, 0.2)
    expected, expected_gradient = value_and_gradient(lambda z: theirs(z.flatten(0, 1), labels.repeat(num_views)), views)
    assert value == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-10)


def test_is_nt_xent_when_every_image_is_its_own_class():
    views = embeddings(3, 5, 8)
    assert sup_con(views, torch.arange(5), 0.3).item() == pytest.approx(nt_xent(views, 0.3).item(), rel=1e-12)


@pytest.mark.parametrize("images", [1, 4])
def test_no_positive_at_all_is_an_exact_zero_with_a_graph(images):
    value, gradient = value_and_gradient(sup_con, embeddings(1, images, 5), torch.arange(images))
    assert value == 0.0
    assert gradient.abs().max() == 0.0


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 1, 2, 3]])
def test_a_row_that_is_not_finite_never_gives_a_finite_loss(labels):
    views = embeddings(1, 4, 5)
    views[0, 1, 2] = float("nan")
    assert not sup_con(views, torch.tensor(labels)).isfinite()


def test_zero_rows_give_a_finite_loss_and_gradient():
    views = embeddings(2, 4, 5)
    views[0, 1] = 0.0
    value, gradient = value_and_gradient(sup_con, views, torch.tensor([0, 0, 1, 2]))
    assert math.isfinite(value)
    assert gradient.isfinite().all()


def test_labels_above_two_to_the_24_stay_apart():
    views = embeddings(1, 3, 4)
    close = torch.tensor([2**24, 2**24 + 1, 2**24 + 1])
    assert sup_con(views, close).item() == sup_con(views, torch.tensor([0, 1, 1])).item()


def test_bfloat16_under_autocast_is_computed_in_float32():
    views = embeddings(2, 4, 6).bfloat16()
    labels = torch.tensor([0, 0, 1, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = SupConLoss(temperature=0.1)(views, labels)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(brute_force(views, labels, 0.1).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("views", "labels", "error", "message"),
    [
        (torch.zeros(4, 8), torch.zeros(4, dtype=torch.int64), ValueError, r"\(4, 8\); SupCon expects \(V, B, D\)"),
        (torch.zeros(2, 4, 8), torch.zeros(8, dtype=torch.int64), ValueError, r"labels has shape \(8,\)"),
        (torch.zeros(2, 4, 8), torch.zeros(4), TypeError, "float32; SupCon expects int64"),
        (torch.zeros(2, 4, 8, dtype=torch.int32), torch.zeros(4, dtype=torch.int64), TypeError, "int32"),
    ],
)
def test_wrong_input_is_refused_by_name(views, labels, error, message):
    with pytest.raises(error, match=message):
        sup_con(views, labels)


def test_temperature_must_be_above_zero():
    with pytest.raises(ValueError, match="temperature"):
        SupConLoss(temperature=0.0)
    with pytest.raises(ValueError, match="temperature"):
        sup_con(torch.ones(2, 2, 2), torch.tensor([0, 1]), temperature=-1.0)
