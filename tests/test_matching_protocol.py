"""The class-disjoint split is a pure function of classes and seed; the protocol's figures are those of its parts."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linear_eval.features.extract import Features
from linear_eval.matching.calibration import PairCalibration, Threshold, fit_threshold
from linear_eval.matching.protocol import open_set
from linear_eval.matching.retrieval import nmi, retrieval
from linear_eval.matching.stored import load_verification, save_verification
from linear_eval.matching.verification import verification
from simclr.data.splits import class_disjoint_split
from simclr.errors import ConfigError, DataError


def blobs(classes: list[int], each: int, seed: int, width: int = 12, spread: float = 1.0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(100, width, generator=torch.Generator().manual_seed(7))
    y = torch.tensor(classes).repeat_interleave(each)
    x = centres[y] + spread * torch.randn(len(y), width, generator=generator)
    return Features(x=x, y=y, index=torch.arange(len(y)))


@given(st.integers(3, 60), st.integers(0, 1000), st.floats(0.1, 0.6))
@settings(max_examples=50, deadline=None)
def test_split_is_a_partition(classes, seed, share):
    labels = torch.arange(classes) * 3 + 5  # labels need not be consecutive
    if round(share * classes) < 2:
        return
    split = class_disjoint_split(labels, test=share, seed=seed)
    assert sorted(split.train + split.validation + split.test) == labels.tolist()
    assert len(split.test) == round(share * classes)
    assert class_disjoint_split(labels.flip(0).repeat(3).tolist(), test=share, seed=seed) == split


def test_split_depends_on_the_seed_and_on_nothing_global():
    labels = torch.arange(40)
    split = class_disjoint_split(labels, test=10, validation=0.25, seed=3)
    assert (len(split.test), len(split.validation), len(split.train)) == (10, 10, 20)
    torch.manual_seed(11)
    assert class_disjoint_split(labels, test=10, validation=0.25, seed=3) == split
    assert class_disjoint_split(labels, test=10, validation=0.25, seed=4) != split
    assert json.loads(json.dumps(split.as_dict()))["test"] == list(split.test)


def test_rows_of_a_part():
    y = torch.tensor([4, 2, 9, 4, 7, 2])
    split = class_disjoint_split(y, test=2, seed=0)
    masks = [split.rows(y, part) for part in ("train", "validation", "test")]
    assert torch.equal(sum(mask.int() for mask in masks), torch.ones(6, dtype=torch.int32))
    assert set(y[masks[2]].tolist()) == set(split.test)


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (range(4), {"test": 1}, DataError, "testing needs at least 2"),
        (range(4), {"test": 2, "validation": 1}, DataError, "validation 0 or at least 2"),
        (range(4), {"test": 4}, DataError, "training at least 1"),
        (range(1), {}, DataError, "1 classes cannot be divided"),
        ([], {}, DataError, "integer labels"),
        ([0, 1, -1, 2, 3], {}, DataError, "without a label"),
        (range(4), {"test": 1.5}, ConfigError, "share of the classes"),
        (range(4), {"test": -1}, ConfigError, "share of the classes"),
        (range(4), {"validation": True}, ConfigError, "share of the classes"),
    ],
)
def test_bad_splits_are_named(labels, options, error, message):
    with pytest.raises(error, match=message):
        class_disjoint_split(labels, **options)


def test_protocol_is_made_of_its_parts_and_is_json(tmp_path):
    test, validation = blobs([0, 1, 2, 3, 4, 5], 12, 0), blobs([10, 11, 12, 13], 12, 1)
    result = open_set(test, validation, trained_on=[20, 21], ways=(3, 20), trials=300)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["retrieval"]["map_at_r"] == retrieval(test.x, test.y).map_at_r
    assert result["retrieval"]["nmi"] == nmi(test.x, test.y)
    fitted = fit_threshold(validation.x, validation.y)
    verified = verification(test.x, test.y, threshold=fitted.value)
    assert result["verification"]["tar_at_threshold"] == verified.tar_at_threshold
    assert result["verification"]["threshold_from"] == "given"
    assert result["disjoint_from_training"] == "checked"
    assert result["one_shot"]["3"]["accuracy"] > 1 / 3
    assert result["one_shot"]["20"]["accuracy"] is None and "20-way" in result["one_shot"]["20"]["note"]
    assert result["identification"]["rank_k"].keys() == {"1", "5"}  # rank 10 of 6 classes is always 1
    assert 0 <= result["calibration_error"] < 0.5
    # what the dictionary holds is enough to store the decision beside the encoder
    calibration = PairCalibration(**result["calibration"])
    save_verification(tmp_path, Threshold(**result["fitted_threshold"]), calibration)
    assert load_verification(tmp_path)[0] == fitted


def test_protocol_without_validation_says_so():
    result = open_set(blobs([0, 1, 2], 8, 2), ways=(2,), trials=100)
    assert result["fitted_threshold"] is result["calibration"] is result["calibration_error"] is None
    assert result["verification"]["threshold_from"] == "eer of these pairs"
    assert result["disjoint_from_training"].startswith("not checked")


def test_protocol_is_a_function_of_the_seed():
    test = blobs([0, 1, 2, 3], 10, 3, spread=3.0)
    assert open_set(test, trials=200, ways=(3,), seed=1) == open_set(test, trials=200, ways=(3,), seed=1)
    assert open_set(test, trials=200, ways=(3,), seed=1) != open_set(test, trials=200, ways=(3,), seed=2)


def test_encoders_of_any_width_are_given_the_same_trials():
    test = blobs([0, 1, 2, 3, 4], 9, 8, spread=3.0)
    wide = Features(x=torch.cat([test.x, torch.zeros(len(test), 8000)], dim=1), y=test.y, index=test.index)
    narrow, padded = (open_set(one, ways=(5,), trials=600)["one_shot"]["5"] for one in (test, wide))
    assert 0.2 < narrow["accuracy"] < 1 and narrow == padded


def test_shared_classes_are_refused():
    test = blobs([0, 1, 2, 3], 5, 4)
    with pytest.raises(DataError, match="shares 2 classes with trained_on: 1, 3"):
        open_set(test, trained_on=[1, 3, 9])
    with pytest.raises(DataError, match="shares 1 classes with validation: 3"):
        open_set(test, blobs([3, 4, 5], 5, 5))


@pytest.mark.parametrize("classes", [[0], [0, 1, 2]])
def test_too_little_to_score_is_refused(classes):
    each = 6 if len(classes) == 1 else 1
    with pytest.raises(DataError):
        open_set(blobs(classes, each, 6))
