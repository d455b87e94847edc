"""A skipped step is kept and can be taken again: the same batch, views and weights, and the module where it began is named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import simclr
from simclr.config import TrainConfig
from simclr.data import EpochSampler
from simclr.errors import CheckpointError, ConfigError
from simclr.files import WriteError, write_tensors
from simclr.losses import EmbeddedBatch
from simclr.replay import replay

Skips = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture
def skips(tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> Skips:
    """``skips(*steps)`` runs with a NaN at those steps; the folder of what was kept, and what the first of them was."""

    def run(*steps: int, **change: Any) -> tuple[Path, dict[str, Any]]:
        config = replace(tiny_run, train=replace(tiny_run.train, **change))
        at, was, forward, taken = [0], {}, simclr.objectives.Objective.forward, simclr.train.one_step

        def spoilt(self: Any, batch: EmbeddedBatch) -> torch.Tensor:
            loss = forward(self, batch)
            if at[0] == steps[0]:
                was["loss"] = loss.item()
            return loss * (float("nan") if at[0] in steps else 1.0)

        def step(run: Any, learner: Any, number: int, *rest: Any) -> Any:
            at[0] = number
            if number == steps[0]:
                was["weights"] = {name: t.clone() for name, t in learner.weights.state_dict().items()}
            return taken(run, learner, number, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(simclr.objectives.Objective, "forward", spoilt)
            patch.setattr("simclr.train.one_step", step)
            simclr.pretrain(config)
        return config.run_dir / "skipped", was

    return run


@pytest.mark.parametrize("change", [{}, {"ema": 0.9, "cached_chunk": 48}], ids=str)
def test_the_step_is_taken_again_with_its_own_weights_images_and_views(
    change: dict[str, Any], skips: Skips, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, was = skips(4, **change)
    kept = folder / "step-00000004"
    assert f"To see where it began: python scripts/replay.py {kept}\n" in capsys.readouterr().err
    written = load_file(kept / "weights.safetensors")
    assert written.keys() == was["weights"].keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in was["weights"].items())
    images = [one["number"] for one in json.loads((kept / "step.json").read_text())["images"]]
    assert images == EpochSampler(images=640, batch_size=128, seed=0).indices(4).tolist()
    before = sorted(folder.parent.rglob("*"))
    lines = replay(kept)
    assert lines[1].startswith(f"loss {was['loss']:g}, norm of the gradient ")
    assert lines[-1].startswith("this time the step is finite")
    assert sorted(folder.parent.rglob("*")) == before


def test_the_module_where_it_began_is_named_and_the_images(skips: Skips) -> None:
    folder, was = skips(4)
    kept = folder / "step-00000004"
    name = "model.backbone.layer2.0.conv2.weight"
    spoilt = was["weights"] | {name: was["weights"][name] * torch.inf}
    write_tensors(kept / "weights.safetensors", spoilt)
    lines = replay(kept)
    forward = next(line for line in lines if line.startswith("forward: "))
    assert "is that of backbone.layer2.0.conv2 (Conv2d): NaN" in forward and "256 of 256 rows" in forward
    assert any(line.startswith("backward: the first gradient that is not finite is at the output of") for line in lines)
    assert any(line.startswith("images whose embeddings are not finite: 128 of 128: image ") for line in lines)
    assert any(line.startswith("of them each by itself") and "128 of 128" in line for line in lines)


def test_a_gradient_alone_is_named(skips: Skips, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = skips(4)
    forward = torch.nn.AdaptiveAvgPool2d.forward

    def spoilt(self: Any, x: torch.Tensor) -> torch.Tensor:
        out = forward(self, x)
        if out.requires_grad:
            out.register_hook(lambda gradient: gradient * torch.inf)
        return out

    monkeypatch.setattr(torch.nn.AdaptiveAvgPool2d, "forward", spoilt)
    lines = replay(folder / "step-00000004")
    assert lines[2] == "forward: every output of every module is finite"
    assert lines[3].startswith("backward: the first gradient that is not finite is at the output of backbone.")
    assert "pool" in lines[3]


def test_the_first_of_each_row_is_kept_and_three_of_them_at_most(skips: Skips) -> None:
    folder, _ = skips(1, 2, 4, 6, 7, 8)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000001", "step-00000004", "step-00000006"]
    shutil.rmtree(folder.parent)
    folder, _ = skips(0, 2, 4, 6)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000004", "step-00000006"]


def test_weights_too_large_to_keep_are_said_and_the_checkpoint_takes_their_place(
    skips: Skips, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simclr.run.skipped._LARGEST", 1000)
    folder, _ = skips(4)
    assert [path.name for path in (folder / "step-00000004").iterdir()] == ["step.json"]
    assert "weights not written: they take 0.0 GiB" in replay(folder / "step-00000004")[0]


def test_a_full_disk_does_not_end_the_run(
    skips: Skips, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: object) -> None:
        raise WriteError(f"{path} could not be written (No space left on device)")

    monkeypatch.setattr("simclr.run.skipped.write_json", full)
    skips(4)
    assert "all weights are as before it (what it was is not kept: " in capsys.readouterr().err


NEGATIVE = '{"step": -1, "processes": 1, "images": [{"number": 0, "name": "x"}], "what": [], "weights": ""}'


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "[" * 5000, NEGATIVE], ids=["empty", "list", "object", "deep", "negative"]
)
def test_a_damaged_folder_is_one_line(content: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"step\.json cannot be read \(No such file or directory\); expected a"):
        replay(tmp_path)
    (tmp_path / "step.json").write_text(content)
    with pytest.raises(CheckpointError, match="is damaged") as error:
        replay(tmp_path)
    assert "\n" not in str(error.value)


def test_damaged_weights_and_other_images_are_one_line(skips: Skips) -> None:
    kept = skips(4)[0] / "step-00000004"
    whole, told = (kept / "weights.safetensors").read_bytes(), json.loads((kept / "step.json").read_text())
    (kept / "weights.safetensors").write_bytes(whole[:1000])
    with pytest.raises(CheckpointError, match="is damaged"):
        replay(kept)
    (kept / "weights.safetensors").write_bytes(whole)
    told["images"][0]["number"] = 640
    (kept / "step.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match="names images that the run"):
        replay(kept)


def test_the_command_takes_one_folder() -> None:
    from scripts.replay import main

    for words in ([], ["a", "b"], ["--step", "4"]):
        with pytest.raises(ConfigError, match=r"takes one word: the folder of a skipped step"):
            main(words)
    assert main(["--help"]) == 0
