"""Diagnostics against float64 loops over pairs, and the sentences they lead to."""

import math
import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from simclr.run.diagnostics import contrastive_diagnostics, effective_rank, warnings_in_words


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


@pytest.mark.parametrize("blocks", ["one block", "many blocks"])
@pytest.mark.parametrize(("views", "batch"), [(1, 700), (2, 350), (3, 233)])
def test_figures_of_a_larger_batch_equal_a_brute_force_in_float64(
    blocks: str, views: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_blocks(rows: int, *_: object) -> list[slice]:
        step = rows if blocks == "one block" else 97
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    monkeypatch.setattr("simclr.run.diagnostics.row_chunks", in_blocks)
    torch.manual_seed(0)
    image = torch.randn(batch, 24)
    z = image + 0.8 * torch.randn(views, batch, 24)
    found = contrastive_diagnostics(z, torch.randn(50, 9))
    rows = torch.nn.functional.normalize(z.double().flatten(0, 1), dim=1)
    number = torch.arange(batch).repeat(views)
    squared = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    itself = torch.eye(len(rows), dtype=torch.bool)
    positive = (number[:, None] == number) & ~itself
    nearest = squared.masked_fill(itself, math.inf).argmin(1)
    top1 = (number[nearest] == number).double().mean().item()
    assert found["uniformity"] == pytest.approx(squared[~itself].mul(-2).exp().mean().log().item(), rel=1e-6)
    if views == 1:
        assert "contrastive_top1" not in found and "alignment" not in found
        return
    assert 0.2 < top1 < 0.98
    assert found["contrastive_top1"] == torch.tensor(top1, dtype=torch.float32).item()
    assert found["alignment"] == pytest.approx(squared[positive].mean().item(), rel=1e-6)


def test_nothing_of_the_size_of_all_pairs_is_held() -> None:
    class Largest(TorchDispatchMode):
        """Notes the largest storage that any operation gives back."""

        bytes = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                if isinstance(leaf, torch.Tensor):
                    self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
            return out

    views, batch = 2, 2048
    with Largest() as largest:
        contrastive_diagnostics(torch.randn(views, batch, 8), torch.randn(64, 8))
    assert views * batch * 8 * 4 <= largest.bytes < (views * batch) ** 2 / 8  # not even a bit for every pair


def test_effective_rank_of_known_matrices() -> None:
    assert effective_rank(torch.eye(7)).item() == pytest.approx(7, rel=1e-4)
    assert effective_rank(torch.outer(torch.randn(20), torch.randn(8))).item() == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(5, 4)).isfinite()


def test_collapse_and_guessing_are_said_in_words() -> None:
    same = torch.ones(2, 8, 4) + 1e-6 * torch.randn(2, 8, 4)
    collapsed = contrastive_diagnostics(same, same.flatten(0, 1))
    said = warnings_in_words(collapsed, math.log(15), math.log(15))
    assert set(said) == {"guessing", "collapse"}
    assert "2.708" in said["guessing"]  # ln 15
    assert re.search(r"rank of the features 1\.0, spread of the embeddings z 0\.000", said["collapse"])
    healthy = contrastive_diagnostics(torch.randn(2, 64, 32), torch.randn(128, 32))
    assert warnings_in_words(healthy, 3.0, math.log(127)) == {}


def test_where_no_level_of_chance_is_known_only_embeddings_that_are_alike_are_a_collapse() -> None:
    flat = contrastive_diagnostics(torch.randn(2, 64, 32), torch.outer(torch.randn(128), torch.randn(8)))
    assert set(warnings_in_words(flat, 9.0, math.log(127))) == {"collapse"}
    assert warnings_in_words(flat, 9.0, None) == {}  # as many dimensions as classes, perhaps
    same = torch.ones(2, 8, 4) + 1e-6 * torch.randn(2, 8, 4)
    assert set(warnings_in_words(contrastive_diagnostics(same, torch.randn(16, 8)), 9.0, None)) == {"collapse"}
