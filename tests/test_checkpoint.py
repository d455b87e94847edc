"""Checkpoints: whole or not there, whatever is done to them; the newest whole one is the one that loads."""

import json
from pathlib import Path

import pytest
import torch

from simclr.checkpoint import newest_checkpoint, save_checkpoint
from simclr.errors import CheckpointError


def save(folder: Path, step: int, keep: int = 2) -> Path:
    tensors = {"w": torch.full((3,), float(step)), "n": torch.tensor(step)}
    return save_checkpoint(folder, step, tensors, {"optimizer": {"m": torch.ones(2) * step}}, {"note": "x"}, keep=keep)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 7)
    checkpoint, said = newest_checkpoint(tmp_path)
    assert said == []
    assert checkpoint.progress == {"note": "x", "step": 7}
    assert torch.equal(checkpoint.model()["w"], torch.full((3,), 7.0))
    assert torch.equal(checkpoint.state()["optimizer"]["m"], torch.full((2,), 7.0))
    manifest = json.loads((checkpoint.path / "manifest.json").read_text())
    assert set(manifest) == {"model.safetensors", "state.pt", "progress.json"}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 20, 300, 300):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000020", "step-00000300"]


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "progress.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_checkpoint_is_passed_over(file: str, damage: str, tmp_path: Path) -> None:
    save(tmp_path, 1)
    target = save(tmp_path, 2) / file
    content = bytearray(target.read_bytes())
    if damage == "cut":
        target.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
        target.write_bytes(content)
    else:
        target.unlink()
    checkpoint, said = newest_checkpoint(tmp_path)
    assert checkpoint.progress["step"] == 1
    assert len(said) == 1
    assert "step-00000002 is damaged" in said[0]


def test_none_whole_is_refused_and_none_at_all_is_a_start(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "nothing") == (None, [])
    (save(tmp_path, 1) / "state.pt").unlink()
    with pytest.raises(CheckpointError, match=r"no whole checkpoint.*state\.pt.*Remove"):
        newest_checkpoint(tmp_path)


def test_an_interrupted_write_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    full = OSError(28, "No space left on device")

    def no_space(*args: object, **kwargs: object) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", no_space)
        with pytest.raises(CheckpointError, match=r"No space left on device.*earlier ones are untouched"):
            save(tmp_path, 2)
    assert newest_checkpoint(tmp_path)[0].progress["step"] == 1
    save(tmp_path, 2)  # the leftovers of the failed write are in nobody's way
    assert newest_checkpoint(tmp_path)[0].progress["step"] == 2
    assert not list(tmp_path.glob(".partial*"))
