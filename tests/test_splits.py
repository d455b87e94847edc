"""How a set is divided: held-out classes, label shares, validation images."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from simclr.config import DataConfig
from simclr.data import ImageSet, load_source
from simclr.data.splits import split_by_class
from simclr.errors import ConfigError, DataError


def digest(images):
    """Every image as bytes: what a set holds, whatever its order."""
    return Counter(pixels.numpy().tobytes() for pixels in images.pixels)


DIGITS = DataConfig(source="digits", size=8)


def test_held_out_classes_are_in_no_part_that_training_sees():
    config = replace(DIGITS, held_out_classes=0.4, validation=0.2)
    parts = {split: load_source(config, split) for split in ("train", "validation", "test", "held-out")}
    seen = {name for split in ("train", "validation", "test") for name in parts[split].classes}
    assert len(seen) == 6 and len(parts["held-out"].classes) == 4 and not seen & set(parts["held-out"].classes)
    for images in parts.values():
        assert images.labels.unique().tolist() == list(range(len(images.classes)))
    together = sum((digest(images) for images in parts.values()), Counter())
    whole = digest(load_source(DIGITS, "train")) + digest(load_source(DIGITS, "test"))
    assert together == whole  # every image exactly once


def test_labels_keep_their_meaning_after_renumbering():
    config = replace(DIGITS, held_out_classes=0.5)
    name_of = {}
    for split in ("train", "test"):
        images = load_source(DIGITS, split)
        name_of |= {p.numpy().tobytes(): images.classes[c] for p, c in zip(images.pixels, images.labels.tolist())}
    for split in ("train", "test", "held-out"):
        images = load_source(config, split)
        for pixels, label in zip(images.pixels, images.labels.tolist()):
            assert name_of[pixels.numpy().tobytes()] == images.classes[label]


def test_a_share_of_the_labels_is_a_share_of_every_class_and_drawn_by_the_split_seed():
    full = load_source(DIGITS, "train")
    some = load_source(replace(DIGITS, label_fraction=0.1), "train")
    for label, count in Counter(full.labels.tolist()).items():
        assert Counter(some.labels.tolist())[label] == round(0.1 * count)
    one = load_source(replace(DIGITS, label_fraction=1e-6), "train")
    assert sorted(one.labels.tolist()) == list(range(10))
    again = load_source(replace(DIGITS, label_fraction=0.1), "train")
    other = load_source(replace(DIGITS, label_fraction=0.1, split_seed=1), "train")
    assert torch.equal(some.pixels, again.pixels) and not torch.equal(some.pixels, other.pixels)


def test_validation_images_come_out_of_the_labelled_share_and_not_out_of_the_test_images():
    config = replace(DIGITS, label_fraction=0.2, validation=0.25)
    labelled = digest(load_source(replace(DIGITS, label_fraction=0.2), "train"))
    train, validation = (digest(load_source(config, split)) for split in ("train", "validation"))
    assert train + validation == labelled
    assert abs(validation.total() / labelled.total() - 0.25) < 0.01
    assert digest(load_source(config, "test")) == digest(load_source(DIGITS, "test"))


def test_a_split_that_was_not_asked_for_says_how_to_ask():
    with pytest.raises(DataError, match=r"--data\.held-out-classes"):
        load_source(DIGITS, "held-out")
    with pytest.raises(DataError, match=r"--data\.validation"):
        load_source(DIGITS, "validation")


@pytest.mark.parametrize("wrong", [{"held_out_classes": 1.0}, {"label_fraction": 0.0}, {"validation": -0.1}])
def test_shares_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"data.{next(iter(wrong))}"):
        replace(DIGITS, **wrong)


def test_validation_images_leave_every_class_a_training_image():
    rare = replace(DIGITS, label_fraction=0.014)  # two of each class
    whole = digest(load_source(rare, "train"))
    for seed in range(8):
        # Nine of twenty images: too few to take one of every class, so that chance decides.
        config = replace(rare, validation=0.45, split_seed=seed)
        train, validation = (load_source(config, split) for split in ("train", "validation"))
        assert set(train.labels.tolist()) == set(range(10))
        assert 0 < len(validation) <= 9
        assert len(train) + len(validation) == sum(whole.values())


def test_one_image_a_class_has_none_to_spare():
    config = replace(DIGITS, label_fraction=1e-6, validation=0.1)
    for split in ("train", "validation"):
        with pytest.raises(DataError, match=r"one training image a class.*--data\.validation 0"):
            load_source(config, split)


@pytest.mark.parametrize("odd", [(), (7,), (-1,), (7, 8, -1), (7, 8, 9, 10)], ids=str)
def test_images_that_are_the_only_ones_of_their_class_leave_the_others_divided_by_class(odd):
    """90, 40 and 10 images of three classes: a fifth of each, whatever else is there."""
    labels = torch.cat(
        [torch.tensor(odd, dtype=torch.int64), torch.arange(3).repeat_interleave(torch.tensor([90, 40, 10]))]
    )
    images = ImageSet.from_pixels(torch.zeros(len(labels), 3, 8, 8), labels=labels, classes=(), name="set")
    sides = set()
    for seed in range(12):
        kept, out = split_by_class(images, 0.2, seed)
        assert sorted([*kept.tolist(), *out.tolist()]) == list(range(len(labels)))
        counts = Counter(labels[out].tolist())
        assert counts[1] == 8 and counts[2] == 2
        assert counts[0] + sum(counts[label] for label in odd) == len(out) - 10
        sides |= {(label, counts[label]) for label in odd}
    assert all((label, 0) in sides for label in odd)  # left to chance: not always on one side


def test_a_division_by_class_is_the_one_of_scikit_learn():
    from sklearn.model_selection import train_test_split

    labels = torch.arange(5).repeat(20)
    images = ImageSet.from_pixels(torch.zeros(100, 3, 8, 8), labels=labels, classes=(), name="set")
    kept, out = train_test_split(range(100), test_size=20, random_state=3, stratify=labels.numpy())
    assert [part.tolist() for part in split_by_class(images, 0.2, 3)] == [sorted(kept), sorted(out)]
