"""ArcFace against angles taken with acos in float64, its corners, and a long run where they are all met."""

import itertools
import math

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses

from simclr.losses import ArcFaceLoss


def brute_force(z, weight, labels, scale, margin, easy_margin, subcenters):
    total = 0.0
    classes = len(weight) // subcenters
    for i in range(len(z)):
        logits = []
        for c in range(classes):
            directions = weight[c * subcenters : (c + 1) * subcenters]
            cosines = [(z[i] @ w) / (z[i].norm() * w.norm()) for w in directions]
            cosine = max(cosines, key=torch.Tensor.item)
            if c == labels[i]:
                theta = torch.acos(cosine)
                if easy_margin:
                    cosine = torch.cos(theta + margin) if theta < math.pi / 2 else cosine
                elif theta + margin <= math.pi:
                    cosine = torch.cos(theta + margin)
                else:
                    cosine = cosine - margin * math.sin(margin)
            logits.append(scale * cosine)
        total = total + torch.logsumexp(torch.stack(logits), 0) - logits[labels[i]]
    return total / len(z)


@pytest.mark.parametrize("subcenters", [1, 3])
@pytest.mark.parametrize("easy_margin", [False, True])
@pytest.mark.parametrize(("scale", "margin"), [(64.0, 0.5), (10.0, 0.2), (5.0, 0.0), (30.0, 1.2)])
def test_equals_the_formula_with_angles(scale, margin, easy_margin, subcenters):
    torch.manual_seed(0)
    loss = ArcFaceLoss(4, 3, scale, margin, easy_margin, subcenters)
    z, labels = torch.randn(40, 3), torch.randint(4, (40,))  # three dimensions: angles from near 0 to near pi
    wide = z.double().requires_grad_()
    weight = loss.weight.detach().double().requires_grad_()
    expected = brute_force(wide, weight, labels, scale, margin, easy_margin, subcenters)
    expected.backward()
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=5e-6, atol=1e-6)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss.weight.grad.double(), weight.grad, rtol=1e-4, atol=1e-4)


def test_equals_pytorch_metric_learning_while_the_angle_and_margin_stay_below_pi():
    torch.manual_seed(1)
    loss = ArcFaceLoss(6, 32, 64.0, 0.5)
    theirs = pml_losses.ArcFaceLoss(6, 32, margin=math.degrees(0.5), scale=64)
    with torch.no_grad():
        theirs.W.copy_(loss.weight.T)
    z, labels = torch.randn(20, 32), torch.randint(6, (20,))
    other = z.clone().requires_grad_()
    expected = theirs(other, labels)
    expected.backward()
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(z.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_cosines_of_the_worked_example():
    loss = ArcFaceLoss(2, 3)
    with torch.no_grad():
        loss.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    cosines = loss.cosines(torch.tensor([[1.0, 2.0, 3.0]])).detach()
    torch.testing.assert_close(cosines, torch.tensor([[1.0, 0.97463]]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("easy_margin", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cosine", [1.0, -1.0, 0.0, 1 - 1e-7, -1 + 1e-7])
def test_exactly_aligned_and_opposite_rows_have_finite_gradients(cosine, dtype, easy_margin):
    loss = ArcFaceLoss(3, 2, easy_margin=easy_margin).to(dtype)
    with torch.no_grad():
        loss.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    z = torch.tensor([[cosine, math.sqrt(1 - cosine**2)]], dtype=dtype, requires_grad=True)
    value = loss(z, torch.tensor([0]))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(z.grad).all() and torch.isfinite(loss.weight.grad).all()


def test_the_target_falls_all_the_way_to_the_opposite_direction():
    """cos(theta + m) alone would rise again beyond pi - m, and pull a sample there to the wrong side."""
    loss = ArcFaceLoss(2, 2, scale=1.0, margin=0.5)
    with torch.no_grad():
        loss.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    angle = torch.linspace(0, math.pi, 400, dtype=torch.float64)
    values = []
    for a in angle:
        # The other class at a right angle to the plane of this one has no part: compare the target's logit alone.
        z = torch.stack([torch.cos(a), -torch.sin(a)]).unsqueeze(0)
        other = float(loss.cosines(z)[0, 1].detach())
        value = float(loss(z, torch.tensor([0])).detach())
        values.append(other - math.log(math.expm1(value)))  # the logit of class 0 behind this cross-entropy
    assert all(later < earlier + 1e-9 for earlier, later in itertools.pairwise(values))


def test_500_steps_in_bfloat16_on_exactly_aligned_features_stay_finite():
    torch.manual_seed(0)
    classes, dim = 8, 16
    loss = ArcFaceLoss(classes, dim, scale=64.0)
    encoder = torch.nn.Linear(dim, dim, bias=False)
    with torch.no_grad():
        encoder.weight.copy_(torch.eye(dim))
        loss.weight.copy_(torch.eye(dim)[:classes])
    labels = torch.arange(32) % classes
    x = torch.eye(dim)[labels]  # every feature is its class direction: the cosines are exactly 1 and 0
    optimizer = torch.optim.SGD([*encoder.parameters(), *loss.parameters()], lr=0.1, momentum=0.9)
    for step in range(500):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = encoder(x if step % 2 else -x)  # aligned, then opposite
            assert z.dtype == torch.bfloat16
            value = loss(z, labels)
        optimizer.zero_grad()
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(encoder.weight.grad).all() and torch.isfinite(loss.weight.grad).all()
        optimizer.step()
    assert loss.weight.dtype == torch.float32  # never cast in place


def test_subcentres_take_the_nearest_direction():
    loss = ArcFaceLoss(2, 2, subcenters=2)
    with torch.no_grad():
        loss.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    cosines = loss.cosines(torch.tensor([[-1.0, 0.0], [0.0, -1.0], [0.6, 0.8]])).detach()
    torch.testing.assert_close(cosines, torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))


def test_statistics():
    loss = ArcFaceLoss(2, 2)
    with torch.no_grad():
        loss.weight.copy_(torch.eye(2))
    loss(torch.tensor([[1.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1]))
    assert float(loss.statistics["angle"]) == pytest.approx((45 + 90) / 2, rel=1e-5)
    assert float(loss.statistics["accuracy"]) == 0.5
