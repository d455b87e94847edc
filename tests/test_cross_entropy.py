"""The classifier baseline against a loop in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from augment import soft_targets
from simclr.errors import ConfigError
from simclr.losses import CrossEntropyConfig, CrossEntropyLoss, QualityFocalLoss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_a_loop_over_samples(smoothing):
    torch.manual_seed(0)
    loss = CrossEntropyLoss(5, 4, smoothing)
    z, labels = torch.randn(9, 4), torch.randint(5, (9,))
    wide = z.double().requires_grad_()
    weight, bias = (p.detach().double().requires_grad_() for p in loss.head.parameters())
    expected = 0.0
    for i in range(9):
        scores = weight @ wide[i] + bias
        log_share = scores - torch.log(torch.exp(scores).sum())
        expected = expected - (1 - smoothing) * log_share[labels[i]] - smoothing * log_share.mean()
    expected = expected / 9
    expected.backward()
    value = loss(z.requires_grad_(), labels)
    value.backward()
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(loss.head.weight.grad.double(), weight.grad, rtol=1e-5, atol=1e-6)
    accuracy = sum(int((weight @ wide[i] + bias).argmax()) == int(labels[i]) for i in range(9)) / 9
    assert float(loss.statistics["accuracy"]) == pytest.approx(accuracy)


def test_labels_out_of_range_are_named():
    with pytest.raises(ValueError, match="labels run from -1 to 3, expected 0 to 2"):
        CrossEntropyLoss(3, 4)(torch.zeros(2, 4), torch.tensor([-1, 3]))


def by_hand(logits, target, weight, smoothing):
    """-sum_c w_c t_c log softmax(logits)_c, the mean over the batch, in float64."""
    classes = logits.shape[1]
    total = 0.0
    for row, share in zip(logits.double(), target.double()):
        log_share = row - torch.log(torch.exp(row).sum())
        smooth = (1 - smoothing) * share + smoothing / classes * share.sum()
        total -= sum(float(weight[c]) * float(smooth[c]) * float(log_share[c]) for c in range(classes))
    return total / len(logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (0.2, 1.0, 3.0, 0.0)])
def test_soft_targets_and_class_weights_equal_a_loop_and_torch(smoothing, weights):
    torch.manual_seed(0)
    loss = CrossEntropyLoss(4, 6, smoothing, weights)
    z, labels = torch.randn(10, 6), torch.randint(4, (10,))
    soft = torch.rand(10, 4).softmax(1)
    logits = (z @ loss.head.weight.T + loss.head.bias).detach()
    weight = torch.ones(4) if weights is None else torch.tensor(weights)
    for target in (labels, soft):
        dense = F.one_hot(target, 4).float() if target.ndim == 1 else target
        value = loss(z.requires_grad_(), target)
        assert value.item() == pytest.approx(by_hand(logits, dense, weight, smoothing), rel=1e-5)
        theirs = F.cross_entropy(logits, target, weight, label_smoothing=smoothing, reduction="none")
        assert value.item() == pytest.approx(theirs.mean().item(), rel=1e-5)
        likeliest = dense.argmax(1)
        right = (logits.argmax(1) == likeliest).double().mean().item()
        assert float(loss.statistics["accuracy"]) == pytest.approx(right)
        (slope,) = torch.autograd.grad(value, z)
        wide = z.detach().double().requires_grad_()
        double = loss.head.weight.detach().double(), loss.head.bias.detach().double()
        goal = target if target.ndim == 1 else target.double()
        expected = F.cross_entropy(F.linear(wide, *double), goal, weight.double(), reduction="sum",
                                   label_smoothing=smoothing) / 10  # fmt: skip
        (exact,) = torch.autograd.grad(expected, wide)
        torch.testing.assert_close(slope.double(), exact, rtol=1e-4, atol=1e-6)
    hard_as_soft = loss(z, F.one_hot(labels, 4).float())
    torch.testing.assert_close(hard_as_soft, loss(z, labels), rtol=1e-5, atol=1e-6)


def test_a_quality_scales_its_sample():
    torch.manual_seed(0)
    loss = CrossEntropyLoss(3, 4)
    z, labels = torch.randn(5, 4), torch.randint(3, (5,))
    quality = torch.tensor([1.0, 0.5, 0.0, 0.25, 1.0])
    each = torch.stack([loss(z[i : i + 1], labels[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(loss(z, soft_targets(labels, 3, quality)), (each * quality).mean())


def test_half_types_and_gradcheck_with_soft_targets():
    torch.manual_seed(0)
    loss = CrossEntropyLoss(3, 4, 0.1, (0.5, 1.0, 2.0)).double()
    z = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    soft = torch.rand(6, 3).softmax(1)
    assert torch.autograd.gradcheck(lambda x: loss(x, soft), (z,))
    single = CrossEntropyLoss(3, 4, 0.1, (0.5, 1.0, 2.0))
    half = z.detach().bfloat16()
    torch.testing.assert_close(single(half, soft), single(half.float(), soft))
    assert loss(z[:0], soft[:0]).item() == 0
    spoilt = z.detach().clone()
    spoilt[2, 1] = float("nan")
    assert not bool(torch.isfinite(loss(spoilt, soft)))


LABELS = torch.tensor([0] * 60 + [1] * 25 + [2] * 14 + [4] * 1)


def test_balanced_weights_are_scikit_learns():
    fitted = CrossEntropyConfig(class_weights="balanced").fitted(LABELS, 6)
    present = np.unique(LABELS.numpy())
    expected = np.zeros(6)
    expected[present] = compute_class_weight("balanced", classes=present, y=LABELS.numpy())
    np.testing.assert_allclose(fitted.class_weights, expected, rtol=1e-12)
    assert fitted.fitted(LABELS[:3], 6) == fitted  # numbers are not fitted again


def test_effective_weights_are_the_papers():
    """Cui et al. 2019, eq. 2: E_n = (1 - b^n) / (1 - b), weights 1 / E_n, here with a mean of 1 over the images."""
    fitted = CrossEntropyConfig(class_weights="effective").fitted(LABELS, 5)
    counts, beta = [60, 25, 14, 0, 1], 1 - 1 / 100
    effective = [sum(beta**k for k in range(n)) for n in counts]  # the geometric series that the formula sums
    raw = [1 / e if e else 0.0 for e in effective]
    scale = 100 / sum(w * n for w, n in zip(raw, counts))
    np.testing.assert_allclose(fitted.class_weights, [w * scale for w in raw], rtol=1e-9)
    one = CrossEntropyConfig(class_weights="effective").fitted(torch.tensor([0]), 2)
    assert one.class_weights == (1.0, 0.0)
    many = CrossEntropyConfig(class_weights="effective").fitted(torch.tensor([0] * 500_000 + [1] * 500_000), 2)
    np.testing.assert_allclose(many.class_weights, [1, 1], rtol=1e-9)


def test_what_is_none_stays_none_and_unlabelled_images_do_not_count():
    assert CrossEntropyConfig().fitted(LABELS, 5) == CrossEntropyConfig()
    config = CrossEntropyConfig(class_weights="balanced")
    assert config.fitted(torch.tensor([-1, 0, 0, 1, -1]), 2).class_weights == (0.75, 1.5)
    module = config.fitted(LABELS, 5).build(5, 3, 0)
    assert module.class_weights.dtype == torch.float32 and "class_weights" in module.state_dict()
    assert "class_weights" not in CrossEntropyConfig().build(5, 3, 0).state_dict()


@pytest.mark.parametrize("weights", [(), (0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ConfigError, match="class_weights is"):
        CrossEntropyConfig(class_weights=weights)


def test_weights_for_another_number_of_classes_are_refused():
    for weights in ((0.2, 0.8), (1.0,) * 11):
        with pytest.raises(ConfigError, match="one for each of 10 classes"):
            CrossEntropyConfig(class_weights=weights).build(10, 4, 0)
    with pytest.raises(ConfigError, match="class_weights is 'balanced'; it must be fitted to labels before"):
        CrossEntropyConfig(class_weights="balanced").build(10, 4, 0)


@pytest.mark.parametrize(
    ("targets", "error"),
    [
        (torch.zeros(2, 4), ValueError),
        (torch.zeros(3, 3), ValueError),
        (torch.zeros(2, 3, dtype=torch.int64), ValueError),
        (torch.zeros(2), TypeError),
        (torch.zeros(2, 3, 1), ValueError),
    ],
)
@pytest.mark.parametrize("make", [CrossEntropyLoss, QualityFocalLoss])
def test_targets_of_a_wrong_kind_are_refused(make, targets, error):
    with pytest.raises(error):
        make(3, 4)(torch.zeros(2, 4), targets)
