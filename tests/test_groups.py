"""Groups stay on one side: frames of a video, pictures of a patient, in every division there is."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from augment import AugmentConfig
from linear_eval.classify.few_labels import draw_rows
from linear_eval.classify.knn import knn_predictions
from linear_eval.classify.probe import held_out_parts, linear_probe
from linear_eval.features.extract import Features, extract_features
from simclr.config import DataConfig
from simclr.data import ImageSet, load_source
from simclr.data.splits import split_by_class
from simclr.errors import DataError
from simclr.run.validation import ValidationScore


def videos(
    count: int = 40, frames: int = 25, classes: int = 2, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, ImageSet]:
    """Features of frames that are nearly those of their video, labels that say nothing, and a set of as many images."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(count).repeat_interleave(frames)
    x = torch.randn(count, 64, generator=generator)[groups] + 0.05 * torch.randn(
        count * frames, 64, generator=generator
    )
    y = torch.arange(count)[torch.randperm(count, generator=generator)][groups] % classes
    shuffled = torch.randperm(len(y), generator=generator)
    images = ImageSet.from_pixels(torch.zeros(len(y), 3, 8, 8), labels=y[shuffled], classes=("a", "b"), name="videos")
    return x[shuffled], y[shuffled], replace(images, groups=groups[shuffled])


def together(groups: torch.Tensor, *parts: torch.Tensor) -> bool:
    """Whether no group has rows in two of the parts."""
    seen = [set(groups[part][groups[part] >= 0].tolist()) for part in parts]
    return sum(map(len, seen)) == len(set.union(*seen))


def test_random_labels_of_videos_are_learned_without_groups_and_not_with_them() -> None:
    accuracies = {}
    for grouped in (False, True):
        right, probed = [], []
        for seed in range(6):
            x, y, images = videos(seed=seed)
            train, test = split_by_class(
                images if grouped else replace(images, groups=None), 0.2, seed, every_class=True
            )
            parts = [Features(x[part], y[part], part, groups=images.groups[part]) for part in (train, test)]
            right.append((knn_predictions(*parts, 20, 0.1) == parts[1].y).float().mean())
            probed.append(linear_probe(*parts, strengths=(1e-3, 1e-1), resamples=10).accuracy)
        accuracies[grouped] = float(torch.stack(right).mean()), sum(probed) / len(probed)
    assert min(accuracies[False]) > 0.97
    assert min(accuracies[True]) > 0.3 and max(accuracies[True]) < 0.7


@pytest.mark.parametrize("seed", range(5))
def test_whole_groups_are_held_out_about_as_many_as_wanted_and_of_every_class(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(2, 30, (60,), generator=generator)
    groups = torch.arange(60).repeat_interleave(sizes)
    labels = (torch.arange(60) % 4).repeat_interleave(sizes)
    alone = torch.full((50,), -1)
    groups, labels = torch.cat([groups, alone]), torch.cat([labels, torch.arange(50) % 5 - 1])
    images = ImageSet.from_pixels(torch.zeros(len(labels), 3, 8, 8), labels=labels, classes=tuple("abcd"), name="set")
    images = replace(images, groups=groups)
    train, test = split_by_class(images, 0.2, seed, every_class=True)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(len(labels)))
    assert together(groups, train, test)
    assert abs(len(test) / len(labels) - 0.2) < 0.05
    for label in range(4):
        assert abs(float((labels[test] == label).sum() / (labels == label).sum()) - 0.2) < 0.1
    again = split_by_class(images, 0.2, seed, every_class=True)
    assert torch.equal(again[1], test) and not torch.equal(split_by_class(images, 0.2, seed + 9)[1], test)


def test_classes_of_two_videos_have_one_in_the_test_part_and_those_of_one_stay_in_training() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2]).repeat_interleave(10)
    images = ImageSet.from_pixels(torch.zeros(50, 3, 8, 8), labels=labels, classes=tuple("abc"), name="set")
    images = replace(images, groups=torch.arange(5).repeat_interleave(10))
    for seed in range(5):
        train, test = split_by_class(images, 0.2, seed, every_class=True)
        assert Counter(labels[test].tolist()) == {0: 10, 1: 10}
        assert set(labels[train].tolist()) == {0, 1, 2}


def test_where_every_class_is_one_group_a_class_is_held_out_all_the_same() -> None:
    labels = torch.arange(10).repeat_interleave(5)
    images = ImageSet.from_pixels(torch.zeros(50, 3, 8, 8), labels=labels, classes=tuple("abcdefghij"), name="set")
    train, test = split_by_class(replace(images, groups=labels), 0.2, 0, every_class=True)
    assert len(test) == 5 and len(train) == 45


def test_one_group_that_holds_everything_is_refused_in_words() -> None:
    images = ImageSet.from_pixels(torch.zeros(50, 3, 8, 8), labels=None, classes=(), name="set")
    with pytest.raises(DataError, match=r"all 50 images of set are of one group.*--data\.group"):
        split_by_class(replace(images, groups=torch.zeros(50, dtype=torch.int64)), 0.2, 0)


def test_images_that_are_groups_of_their_own_are_divided_as_if_there_were_none() -> None:
    _, _, images = videos()
    for share in (0.1, 0.2):
        plain = split_by_class(replace(images, groups=None), share, 3)
        alone = split_by_class(replace(images, groups=torch.full((len(images),), -1)), share, 3)
        assert all(torch.equal(a, b) for a, b in zip(plain, alone, strict=True))


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_a_folder_with_a_pattern_of_groups(validation: float, tmp_path: Path) -> None:
    for number in range(20):
        for frame in range(6):
            file = tmp_path / "ab"[number % 2] / f"patient{number:02d}-{frame}.png"
            file.parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (number, frame, 0)).save(file)
    config = DataConfig(source="folder", path=tmp_path, size=8, group=r"patient(\d+)", validation=validation)
    parts = {split: load_source(config, split) for split in ("train", "test", *(["validation"] if validation else []))}
    patients = {split: {path.name[:9] for path in images.paths} for split, images in parts.items()}
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == 20
    assert len(patients["test"]) == 4 and len(parts["test"]) == 24
    assert any("20; 4 of them" in note for note in parts["train"].notes)


def test_the_folds_of_the_probe_are_whole_groups_and_leave_every_class_in_training() -> None:
    _, y, images = videos(count=15, frames=8)
    y = torch.where(images.groups == 0, 7, y)  # a class of one video
    parts = held_out_parts(y, 0.1, 0, images.groups)
    assert len(parts) > 3 and torch.stack(parts).sum(0).max() == 1
    for part in parts:
        assert together(images.groups, part, ~part)
        assert set(y[~part].tolist()) == set(y.tolist())
    assert not torch.stack(parts).any(0)[y == 7].any()
    plain = held_out_parts(y, 0.1, 0, torch.full_like(y, -1))
    assert all(torch.equal(a, b) for a, b in zip(plain, held_out_parts(y, 0.1, 0), strict=True))


def test_the_labels_of_one_class_are_of_as_many_groups() -> None:
    _, y, images = videos(count=20, frames=10)
    for trial in range(5):
        one, five, many = (draw_rows(y, trial, 0, per_class=k, groups=images.groups) for k in (1, 5, 25))
        for label in (0, 1):
            assert len(images.groups[five[y[five] == label]].unique()) == 5
            assert sorted(Counter(images.groups[many[y[many] == label]].tolist()).values()) == [2] * 5 + [3] * 5
        assert set(one.tolist()) <= set(five.tolist()) <= set(many.tolist())
    alone = draw_rows(y, 0, 0, per_class=5, groups=torch.full_like(y, -1))
    assert torch.equal(alone, draw_rows(y, 0, 0, per_class=5))


def test_the_online_score_asks_for_other_videos_than_answer() -> None:
    _, _, images = videos()
    score = ValidationScore(images, AugmentConfig(size=8), 0)
    asked, answers = set(score.queries.groups.tolist()), set(score.bank.groups.tolist())
    assert asked and answers and not asked & answers and len(asked) == 8


def test_features_carry_their_groups_to_the_disk_and_back(tmp_path: Path) -> None:
    x, y, images = videos(count=4, frames=5)
    found = extract_features(torch.nn.Flatten(), images)
    assert torch.equal(found.groups, images.groups)
    found.save(tmp_path / "features")
    again = Features.load(tmp_path / "features")
    assert torch.equal(again.groups, images.groups)
    assert torch.equal(again.subset(y == 1).groups, images.groups[y == 1])
    written = extract_features(torch.nn.Flatten(), images, out=tmp_path / "streamed")
    assert torch.equal(written.groups, images.groups)
    for name in ("groups.npy", "digests.json"):
        (tmp_path / "features" / name).unlink()  # as an earlier version wrote it
    assert Features.load(tmp_path / "features").groups is None
    with pytest.raises(DataError, match="groups have the shape"):
        Features(x, y, torch.arange(20), groups=torch.zeros(3, dtype=torch.int64))


def test_a_class_of_one_image_leaves_validation_folds_and_few_labels_divided_by_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2])
    parts = held_out_parts(labels, 0.1, 0)
    for part in parts:
        assert Counter(labels[part].tolist()) == {0: 5, 1: 3}
    drawn = draw_rows(labels, 0, 0, per_class=5)
    assert Counter(labels[drawn].tolist()) == {0: 5, 1: 5, 2: 1}
    images = ImageSet.from_pixels(torch.zeros(81, 3, 8, 8), labels=labels, classes=tuple("abc"), name="set")
    for seed in range(5):
        _, out = split_by_class(images, 0.2, seed)
        assert Counter(labels[out].tolist())[1] == 6
