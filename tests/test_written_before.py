"""Runs and encoders that earlier releases wrote still load, continue and answer: ``tests/written_before`` is of 0.1.0.

``stopped`` is a run of six steps that was stopped after three, ``undisturbed.safetensors`` the encoder of the same run
that nobody stopped; ``classes`` is a finished run on labels, and ``outputs.npz`` what its encoder and classifier gave for two
images.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import simclr
from linear_eval import EvalConfig, evaluate_run
from simclr.config.yaml import load_config

BEFORE = Path(__file__).parent / "written_before"


@pytest.fixture
def images() -> Tensor:
    return torch.arange(2 * 3 * 16 * 16).mul(37).remainder(256).to(torch.uint8).view(2, 3, 16, 16)


def test_a_stopped_run_goes_on_to_the_undisturbed_end(tmp_path: Path) -> None:
    shutil.copytree(BEFORE / "stopped", tmp_path / "stopped")
    result = simclr.pretrain(replace(load_config(tmp_path / "stopped" / "config.yaml"), out=tmp_path))
    assert result.finished
    assert result.steps == 6
    found, expected = (
        load_file(p) for p in (result.encoder / "encoder.safetensors", BEFORE / "undisturbed.safetensors")
    )
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(
            found[key], tensor, rtol=1e-3, atol=1e-5
        )  # to the bit where the processor is the same


def test_an_encoder_and_its_classifier_answer_as_before(images: Tensor) -> None:
    encoder, classifier = simclr.load_encoder(BEFORE / "classes"), simclr.load_classifier(BEFORE / "classes")
    expected = np.load(BEFORE / "outputs.npz")
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), torch.from_numpy(expected["features"]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(classifier(images), torch.from_numpy(expected["answers"]), rtol=1e-4, atol=1e-5)


def test_a_finished_run_is_scored(tmp_path: Path) -> None:
    shutil.copytree(BEFORE / "classes", tmp_path / "classes")
    result = evaluate_run(tmp_path / "classes", config=EvalConfig(trials=0, resamples=200))
    assert set(result["rows"]) == {"encoder", "untrained", "raw pixels"}
    assert (tmp_path / "classes" / "result.json").is_file()
