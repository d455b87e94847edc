"""The weighted vote against a float64 loop."""

import math

import pytest
import torch

from simclr.neighbours import nearest_neighbour_vote


@pytest.mark.parametrize(("k", "temperature", "chunk_bytes"), [(1, 0.1, 80), (5, 0.1, 2**26), (200, 0.5, 3000)])
def test_vote_equals_a_loop(k: int, temperature: float, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simclr.neighbours.CHUNK_BYTES", chunk_bytes)
    torch.manual_seed(0)
    train_x, test_x, train_y = torch.randn(60, 8), torch.randn(25, 8), torch.randint(0, 4, (60,))
    found = nearest_neighbour_vote(train_x, train_y, test_x, k=k, temperature=temperature)
    for row, predicted in zip(test_x.double(), found.tolist()):
        cosines = [float(torch.cosine_similarity(row, other, dim=0)) for other in train_x.double()]
        nearest = sorted(range(60), key=lambda i: -cosines[i])[:k]
        votes = [sum(math.exp(cosines[i] / temperature) for i in nearest if train_y[i] == c) for c in range(4)]
        assert predicted == max(range(4), key=votes.__getitem__)


def test_small_temperature_and_zero_rows_stay_finite() -> None:
    x = torch.cat([torch.eye(4), torch.zeros(1, 4)])
    found = nearest_neighbour_vote(x, torch.arange(5), x[:4], k=5, temperature=1e-4)
    assert found.tolist() == [0, 1, 2, 3]
