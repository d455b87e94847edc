"""NT-Xent against a float64 brute force written from the paper's formula, and against lightly."""

import math

import pytest
import torch
from torch import Tensor

from simclr.losses.ntxent.loss import NTXentLoss, nt_xent, nt_xent_reference, textbook_matrices
from simclr.numerics import unit_rows

FORMS = pytest.mark.parametrize("loss", [nt_xent, nt_xent_reference], ids=["trained", "textbook"])


def brute_force(views: Tensor, temperature: float) -> Tensor:
    """Equation 1 in float64, one ordered pair of views at a time, Python loops and all."""
    z = views.double()
    rows = [z[v, b] / z[v, b].norm() for v in range(len(z)) for b in range(z.shape[1])]
    batch = z.shape[1]
    terms = []
    for i in range(len(rows)):
        others = torch.stack([rows[i] @ rows[k] / temperature for k in range(len(rows)) if k != i])
        denominator = others.max().detach() + (others - others.max().detach()).exp().sum().log()
        for p in range(i % batch, len(rows), batch):
            if p != i:
                terms.append(denominator - rows[i] @ rows[p] / temperature)
    return torch.stack(terms).mean()


def decoupled_brute_force(views: Tensor, temperature: float) -> Tensor:
    """L_DC of Yeh et al. 2022 in float64: only rows of other images in the denominator, pair by pair."""
    z = torch.nn.functional.normalize(views.double(), dim=-1)
    num_views, batch, _ = z.shape
    terms = []
    for b in range(batch):
        negatives = torch.stack([z[w, k] for w in range(num_views) for k in range(batch) if k != b])
        for v in range(num_views):
            denominator = (negatives @ z[v, b] / temperature).logsumexp(0)
            terms += [denominator - z[v, b] @ z[w, b] / temperature for w in range(num_views) if w != v]
    return torch.stack(terms).mean()


def value_and_gradient(loss, views: Tensor, *args) -> tuple[float, Tensor]:
    views = views.clone().requires_grad_()
    value = loss(views, *args)
    value.backward()
    assert views.grad is not None
    return value.item(), views.grad


def embeddings(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_textbook_shapes_of_four_images_and_two_views():
    m = textbook_matrices(embeddings(2, 4, 16))
    assert m.labels.shape == (8, 8)
    assert m.labels_off_diagonal.shape == (8, 7)
    assert m.positives.shape == (8, 1)
    assert m.negatives.shape == (8, 6)
    assert m.logits.shape == (8, 7)
    assert m.targets.tolist() == [0] * 8
    # Row 1 is view 0 of image 1: the only other row with its image is row 5, which is column 4 without the diagonal.
    assert m.labels[1].nonzero().flatten().tolist() == [1, 5]
    assert m.labels_off_diagonal[1].nonzero().flatten().tolist() == [4]


@FORMS
@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5, 5.0])
@pytest.mark.parametrize("shape", [(2, 4, 16), (2, 7, 3), (3, 5, 8), (4, 2, 2), (3, 1, 4)], ids=str)
def test_equals_brute_force_in_float64(loss, shape, temperature):
    views = embeddings(*shape, dtype=torch.float64)
    value, gradient = value_and_gradient(loss, views, temperature)
    expected, expected_gradient = value_and_gradient(brute_force, views, temperature)
    assert value == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-11)


@FORMS
@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5])
def test_float32_has_the_value_and_gradient_of_float64(loss, temperature):
    views = embeddings(2, 16, 64)
    value, gradient = value_and_gradient(loss, views, temperature)
    expected, expected_gradient = value_and_gradient(brute_force, views, temperature)
    assert value == pytest.approx(expected, rel=1e-6)
    assert (gradient - expected_gradient).norm() <= 2e-6 * expected_gradient.norm()


@FORMS
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_equals_lightly(loss, temperature):
    lightly_loss = pytest.importorskip("lightly.loss").NTXentLoss(temperature=temperature)
    views = embeddings(2, 32, 24, dtype=torch.float64)
    value, gradient = value_and_gradient(loss, views, temperature)
    expected, expected_gradient = value_and_gradient(lambda z: lightly_loss(z[0], z[1]), views)
    assert value == pytest.approx(expected, rel=1e-6)  # lightly computes in float64 here, its own constants do not
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(2, 4, 16), (2, 7, 3), (3, 5, 8), (4, 2, 2)], ids=str)
def test_decoupled_equals_brute_force_in_float64(shape, temperature):
    views = embeddings(*shape, dtype=torch.float64)
    value, gradient = value_and_gradient(nt_xent, views, temperature, True)
    expected, expected_gradient = value_and_gradient(decoupled_brute_force, views, temperature)
    assert value == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_decoupled_equals_lightly(temperature):
    lightly_loss = pytest.importorskip("lightly.loss").DCLLoss(temperature=temperature)
    views = embeddings(2, 32, 24, dtype=torch.float64)
    value, gradient = value_and_gradient(lambda z: NTXentLoss(temperature, decoupled=True)(z), views)
    expected, expected_gradient = value_and_gradient(lambda z: lightly_loss(z[0], z[1]), views)
    assert value == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("num_views", [2, 3])
def test_decoupled_loss_of_one_image_is_exactly_zero_with_a_graph(num_views):
    value, gradient = value_and_gradient(nt_xent, embeddings(num_views, 1, 8), 0.5, True)
    assert value == 0
    assert not gradient.any()


@FORMS
def test_low_temperature_with_distant_positives_does_not_saturate(loss):
    """Positives at a right angle, a negative on each anchor: the loss is close to (1 - 0) / temperature = 100."""
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    views = torch.stack([torch.stack([x, x]), torch.stack([y, y])])
    value, gradient = value_and_gradient(loss, views, 0.01)
    assert value == pytest.approx(100.0, rel=1e-6)
    # Each row is pulled to its positive by 1 / (N temperature) twice: once as the anchor, once as the positive.
    assert gradient[0, 0, 1].item() == pytest.approx(-2 * 100 / 4, rel=1e-5)


@FORMS
def test_one_image_of_two_views_is_exactly_zero_with_a_graph(loss):
    value, gradient = value_and_gradient(loss, embeddings(2, 1, 5), 0.1)
    assert value == 0.0
    assert gradient.tolist() == torch.zeros(2, 1, 5).tolist()


def test_collapsed_embeddings_give_the_log_of_the_other_rows():
    assert nt_xent(torch.ones(2, 8, 4), 0.1).item() == pytest.approx(math.log(2 * 8 - 1), rel=1e-6)


@FORMS
def test_zero_rows_give_a_finite_loss_and_no_gradient_of_their_own(loss):
    views = embeddings(2, 6, 8)
    views[0, 2] = 0.0
    value, gradient = value_and_gradient(loss, views, 0.5)
    assert math.isfinite(value)
    assert gradient.isfinite().all()
    assert gradient[0, 2].abs().max() == 0
    assert gradient[1, 2].abs().max() > 0


@FORMS
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_never_gives_a_finite_loss(loss, bad):
    views = embeddings(2, 6, 8)
    views[1, 3, 0] = bad
    assert not loss(views, 0.5).isfinite()
    assert not loss(views[:, 3:4], 0.5).isfinite()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_length_does_not_matter_even_where_its_square_leaves_float32(scale):
    views = embeddings(2, 5, 8)
    torch.testing.assert_close(nt_xent(views * scale, 0.2), nt_xent(views, 0.2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32(dtype):
    views = embeddings(2, 6, 8).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = nt_xent(views, 0.1)
        float32_value = nt_xent(views.float(), 0.1)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(brute_force(views, 0.1).item(), rel=1e-6)
    assert float32_value.item() == value.item()
    _, gradient = value_and_gradient(nt_xent, views, 0.1)
    assert gradient.dtype == dtype


def test_unit_rows_has_the_gradient_of_the_normalisation():
    assert torch.autograd.gradcheck(unit_rows, embeddings(5, 4, dtype=torch.float64).requires_grad_())


def test_module_is_the_function_with_its_temperature():
    views = embeddings(3, 5, 8)
    assert NTXentLoss(temperature=0.3)(views).item() == nt_xent(views, 0.3).item()
    assert NTXentLoss()(views).item() == nt_xent(views, 0.5).item()
    assert "0.3" in repr(NTXentLoss(temperature=0.3))


@FORMS
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 16), "expects (V, B, D)"),
        ((1, 8, 16), "V >= 2"),
        ((2, 0, 16), "at least one image"),
        ((2, 4, 0), "dimension"),
    ],
    ids=str,
)
def test_wrong_shapes_are_refused_by_name(loss, shape, expected):
    with pytest.raises(ValueError, match="views has shape") as error:
        loss(torch.zeros(shape), 0.5)
    assert str(shape) in str(error.value)
    assert expected in str(error.value)


@FORMS
def test_integers_and_temperatures_not_above_zero_are_refused(loss):
    with pytest.raises(TypeError, match="int64"):
        loss(torch.zeros(2, 4, 8, dtype=torch.int64), 0.5)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature"):
            loss(torch.zeros(2, 4, 8), temperature)
        with pytest.raises(ValueError, match="temperature"):
            NTXentLoss(temperature=temperature)
