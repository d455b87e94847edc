"""Center loss and the movement of its centres against the paper's equations in loops."""

import pytest
import torch
import torch.nn.functional as F

from simclr.losses import CenterConfig, CenterCrossEntropyLoss, CenterLoss


def batch(seed=0, samples=12, classes=5, dim=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, dim, generator=generator), torch.randint(classes, (samples,), generator=generator)


def moved_by_loops(centers, z, labels, alpha):
    centers, z = centers.double(), z.double()
    new = centers.clone()
    for j in range(len(centers)):
        own = [i for i in range(len(z)) if labels[i] == j]
        delta = sum((centers[j] - z[i] for i in own), torch.zeros(z.shape[1], dtype=torch.float64)) / (1 + len(own))
        new[j] = centers[j] - alpha * delta
    return new


@pytest.mark.parametrize("alpha", [0.5, 0.1, 1.0])
def test_loss_gradient_and_centres_follow_the_paper(alpha):
    loss = CenterLoss(5, 4, alpha)
    expected_centers = torch.zeros(5, 4, dtype=torch.float64)
    for seed in range(4):
        z, labels = batch(seed)
        wide = z.double().requires_grad_()
        expected = sum((wide[i] - expected_centers[labels[i]]).square().sum() / 2 for i in range(12)) / 12
        expected.backward()
        value = loss(z.requires_grad_(), labels)
        value.backward()
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-5, atol=1e-7)
        expected_centers = moved_by_loops(expected_centers, z.detach(), labels, alpha)
        torch.testing.assert_close(loss.centers.double(), expected_centers, rtol=1e-5, atol=1e-6)


def test_centres_are_a_buffer_that_eval_mode_leaves_alone():
    loss = CenterLoss(5, 4)
    z, labels = batch()
    assert list(loss.parameters()) == [] and set(loss.state_dict()) == {"centers"}
    loss.eval()
    loss(z, labels)
    assert torch.all(loss.centers == 0)
    loss.train()
    loss(z, labels)
    assert torch.any(loss.centers != 0)


def test_a_broken_row_moves_no_centre():
    loss, clean = CenterLoss(5, 4), CenterLoss(5, 4)
    z, labels = batch()
    broken = z.clone()
    broken[3, 1] = torch.nan
    assert torch.isnan(loss(broken, labels))
    rest = torch.arange(12) != 3
    clean(z[rest], labels[rest])
    torch.testing.assert_close(loss.centers, clean.centers)


def test_ranks_with_the_gathered_batch_agree():
    z, labels = batch(samples=64)
    ranks = [CenterLoss(5, 4) for _ in range(2)]
    for rank in ranks:
        rank(z, labels)
    assert torch.equal(ranks[0].centers, ranks[1].centers)


def test_many_classes_cost_no_memory_over_them():
    loss = CenterLoss(200_000, 4)
    z, labels = batch(classes=200_000)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        loss(z.requires_grad_(), labels).backward()
    assert max(event.cpu_memory_usage for event in profile.events()) <= 200_000 * 4  # a count a class, no centre each


def test_the_objective_is_cross_entropy_plus_lambda_times_center_loss():
    torch.manual_seed(0)
    loss = CenterCrossEntropyLoss(5, 4, alpha=0.5, weight=0.1, label_smoothing=0.2)
    z, labels = batch()
    center = CenterLoss(5, 4)
    for _ in range(2):
        logits = z @ loss.cross_entropy.head.weight.T + loss.cross_entropy.head.bias
        expected = F.cross_entropy(logits, labels, label_smoothing=0.2) + 0.1 * center(z, labels)
        torch.testing.assert_close(loss(z, labels), expected)
    assert torch.equal(loss.center.centers, center.centers)
    assert CenterConfig().build(5, 4, 0).weight == 0.003


def test_labels_out_of_range_are_named():
    with pytest.raises(ValueError, match="labels run from 2 to 9, expected 0 to 4 for 5 classes"):
        CenterLoss(5, 4)(torch.zeros(2, 4), torch.tensor([2, 9]))
