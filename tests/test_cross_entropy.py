"""The classifier baseline against a loop in float64."""

import pytest
import torch

from simclr.losses import CrossEntropyLoss


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
