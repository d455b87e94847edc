"""Diagnostics against float64 loops over pairs, and the sentences they lead to."""

import math

import pytest
import torch

from simclr.diagnostics import contrastive_diagnostics, effective_rank, warnings_in_words


@pytest.mark.parametrize("views", [2, 3])
def test_figures_equal_loops_over_pairs(views: int) -> None:
    torch.manual_seed(0)
    z, h = torch.randn(views, 6, 5), torch.randn(views * 6, 9)
    found = contrastive_diagnostics(z, h)
    rows = torch.nn.functional.normalize(z.double().flatten(0, 1), dim=1)
    image = [i % 6 for i in range(len(rows))]
    near, positive, spread = 0, [], []
    for i, row in enumerate(rows):
        distances = [float((row - other).square().sum()) if j != i else math.inf for j, other in enumerate(rows)]
        near += image[min(range(len(rows)), key=distances.__getitem__)] == image[i]
        positive += [d for j, d in enumerate(distances) if j != i and image[j] == image[i]]
        spread += [math.exp(-2 * d) for d in distances if d < math.inf]
    assert found["contrastive_top1"] == pytest.approx(near / len(rows))
    assert found["alignment"] == pytest.approx(sum(positive) / len(positive), rel=1e-5)
    assert found["uniformity"] == pytest.approx(math.log(sum(spread) / len(spread)), rel=1e-5)
    singular = torch.linalg.svdvals(h.double())
    p = singular / singular.sum()
    assert found["effective_rank"] == pytest.approx(math.exp(-(p * p.log()).sum()), rel=1e-4)


def test_effective_rank_of_known_matrices() -> None:
    assert effective_rank(torch.eye(7)).item() == pytest.approx(7, rel=1e-4)
    assert effective_rank(torch.outer(torch.randn(20), torch.randn(8))).item() == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(5, 4)).isfinite()


def test_collapse_and_guessing_are_said_in_words() -> None:
    same = torch.ones(2, 8, 4) + 1e-6 * torch.randn(2, 8, 4)
    collapsed = contrastive_diagnostics(same, same.flatten(0, 1))
    said = warnings_in_words(collapsed, math.log(15), 16, "nt-xent")
    assert set(said) == {"guessing", "collapse"}
    assert "2.708" in said["guessing"]  # ln 15
    healthy = contrastive_diagnostics(torch.randn(2, 64, 32), torch.randn(128, 32))
    assert warnings_in_words(healthy, 3.0, 128, "nt-xent") == {}
