"""Rank-k and one-shot against loops that read like the definitions, and the exact expectation of one-shot trials."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

import linear_eval.matching.similarity
from linear_eval.matching.identification import identification, one_shot
from simclr.errors import ConfigError, DataError


def blobs(rows: int, width: int, classes: int, seed: int, spread: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (rows,), generator=generator)
    centres = torch.randn(classes, width, generator=generator)
    return centres[y] + spread * torch.randn(rows, width, generator=generator), y


def likeness(a: np.ndarray, b: np.ndarray, distance: str) -> float:
    if distance == "euclidean":
        return -float(np.linalg.norm(a - b))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("template", ["nearest", "mean"])
def test_rank_k_equal_to_a_loop(template, distance, monkeypatch):
    monkeypatch.setattr(linear_eval.matching.similarity, "CHUNK_BYTES", 8 * 25 * 7)
    probes, labels = blobs(60, 6, 8, 0)
    gallery, gallery_labels = blobs(25, 6, 7, 0)  # class 7 is not enrolled
    result = identification(
        probes, labels, (1, 3), gallery_x=gallery, gallery_y=gallery_labels, template=template, distance=distance
    )
    ranks = []
    for probe, label in zip(probes.double().numpy(), labels.tolist()):
        scores = {}
        for one in sorted(set(gallery_labels.tolist())):
            images = gallery.double().numpy()[gallery_labels.numpy() == one]
            if template == "mean":
                if distance == "cosine":
                    images = images / np.linalg.norm(images, axis=1, keepdims=True)
                images = images.mean(0, keepdims=True)
            scores[one] = max(likeness(probe, image, distance) for image in images)
        if label in scores:
            ranks.append(sum(score >= scores[label] for score in scores.values()))
    assert result.probes == len(ranks) and result.excluded == 60 - len(ranks) > 0
    assert result.rank_k == pytest.approx({k: np.mean(np.array(ranks) <= k) for k in (1, 3)})
    assert (result.classes, result.enrolled) == (len(set(gallery_labels.tolist())), 25)
    assert result.interval[0] < result.rank_k[1] < result.interval[1]


def test_drawn_enrolment_is_seeded_and_never_probes_itself():
    x, y = torch.randn(50, 8, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 5
    result = identification(x, y, (1, 5), enrol=3, seed=4)
    assert (result.enrolled, result.probes, result.classes) == (15, 35, 5)
    assert result.rank_k[1] < 0.6  # noise: a probe that met itself would be right
    assert result.rank_k[5] == 1.0
    assert identification(x, y, (1, 5), enrol=3, seed=4) == result
    assert any(identification(x, y, (1, 5), enrol=3, seed=seed) != result for seed in range(5, 8))


def test_single_images_stay_as_distractors():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.05]])
    result = identification(x, torch.tensor([0, 0, 1]), (1, 2))
    assert (result.probes, result.classes, result.enrolled) == (1, 2, 2)
    # the distractor lies between the two images of class 0
    assert result.rank_k == {1: 0.0, 2: 1.0}


def test_a_collapsed_encoder_scores_zero():
    x, y = torch.ones(40, 4), torch.arange(40) % 8
    assert identification(x, y, (1, 7, 8)).rank_k == {1: 0.0, 7: 0.0, 8: 1.0}
    assert one_shot(x, y, ways=5, trials=200).accuracy == 0.0


def test_one_shot_equals_its_expectation():
    # 4 classes of 3 images are few enough to list every possible trial
    x, y = blobs(12, 3, 1, 2)[0], torch.arange(4).repeat_interleave(3)
    x = x + 2 * torch.eye(4, 3)[y]
    rows, members = x.double().numpy(), [range(3 * c, 3 * c + 3) for c in range(4)]
    outcomes = []
    for target in range(4):
        for others in itertools.combinations([c for c in range(4) if c != target], 2):
            for query, own in itertools.permutations(members[target], 2):
                for a, b in itertools.product(*(members[c] for c in others)):
                    best = max(likeness(rows[query], rows[a], "cosine"), likeness(rows[query], rows[b], "cosine"))
                    outcomes.append(likeness(rows[query], rows[own], "cosine") > best)
    expected, trials = np.mean(outcomes), 20_000
    assert 0.4 < expected < 0.95
    result = one_shot(x, y, ways=3, trials=trials, seed=3)
    assert abs(result.accuracy - expected) < 4 * math.sqrt(expected * (1 - expected) / trials)
    assert (result.chance, result.classes, result.excluded) == (1 / 3, 4, 0)


def test_one_shot_of_noise_is_chance_and_of_blobs_is_right():
    y = torch.arange(300) % 30
    noise = torch.randn(300, 64, generator=torch.Generator().manual_seed(5))
    result = one_shot(noise, y, ways=20, trials=4000)
    assert abs(result.accuracy - 0.05) < 0.03
    assert result.interval[0] < result.accuracy < result.interval[1]
    blob = noise * 0.01 + torch.eye(30, 64)[y]
    assert one_shot(blob, y, ways=20, trials=500).accuracy == 1.0


def test_one_shot_is_seeded_and_leaves_singletons_out():
    x, y = blobs(40, 4, 5, 6)
    y = torch.cat([y, torch.tensor([50, 51])])
    x = torch.cat([x, torch.randn(2, 4)])
    one = one_shot(x, y, ways=4, trials=500, seed=1)
    assert (one.classes, one.excluded) == (5, 2)
    torch.rand(3)  # the global generator plays no part
    assert one_shot(x, y, ways=4, trials=500, seed=1) == one
    assert one_shot(x, y, ways=4, trials=500, seed=2) != one


def test_results_are_json():
    x, y = blobs(40, 4, 5, 7)
    stored = json.loads(json.dumps([identification(x, y).as_dict(), one_shot(x, y, 3).as_dict()], allow_nan=False))
    assert stored[0]["rank_k"]["10"] == 1.0 and stored[1]["ways"] == 3


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), "empty"),
        (torch.randn(1, 4), torch.tensor([0]), "none of 0 probes"),
        (torch.randn(5, 4), torch.arange(5), "none of 0 probes"),
        (torch.tensor([[1.0], [math.nan]]), torch.zeros(2, dtype=torch.int64), "not finite: 1"),
    ],
)
def test_bad_data_is_named(x, y, message):
    with pytest.raises(DataError, match=message):
        identification(x, y)


def test_bad_settings_are_named():
    x, y = blobs(20, 4, 3, 8)
    with pytest.raises(DataError, match="20-way one-shot needs 20 classes with two images, there are 3"):
        one_shot(x, y)
    with pytest.raises(DataError, match="none of 20 probes"):
        identification(x, y, gallery_x=x, gallery_y=y + 10)
    with pytest.raises(ConfigError, match="at least 2 ways"):
        one_shot(x, y, ways=1)
    with pytest.raises(ConfigError, match="median"):
        identification(x, y, template="median")
    with pytest.raises(ConfigError, match="must be positive"):
        identification(x, y, enrol=0)
