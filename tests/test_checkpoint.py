"""Checkpoints: whole or not there, whatever is done to them; the newest whole one is the one that loads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from simclr.errors import CheckpointError
from simclr.run.checkpoint import newest_checkpoint, save_checkpoint


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


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "progress.json"])
def test_a_full_disk_is_one_line_and_leaves_the_earlier_one(file: str, tmp_path: Path, small_disk: Any) -> None:
    save(tmp_path, 1)
    sizes = {name: 100_000 if name == file else 10 for name in ("model.safetensors", "state.pt", "progress.json")}
    model, state = {"w": torch.ones(sizes["model.safetensors"])}, {"optimizer": torch.ones(sizes["state.pt"])}
    notes = {"note": "x" * sizes["progress.json"]}
    with small_disk(20_000), pytest.raises(CheckpointError) as error:
        save_checkpoint(tmp_path, 2, model, state, notes)
    said = str(error.value)
    assert said.startswith(f"the checkpoint {tmp_path / 'step-00000002'} could not be written (") and "\n" not in said
    assert "File too large" in said  # what the system calls it, not how a library trips over it
    assert said.endswith("earlier ones are untouched; free some space and run the same command again")
    assert newest_checkpoint(tmp_path)[0].progress["step"] == 1
    save(tmp_path, 2)  # the leftovers of the failed write are in nobody's way
    assert newest_checkpoint(tmp_path)[0].progress["step"] == 2
    assert not list(tmp_path.glob(".partial*"))


def test_what_is_no_fault_of_the_disk_keeps_its_name(tmp_path: Path) -> None:
    shared = torch.ones(4)
    with pytest.raises(RuntimeError, match="share memory"):
        save_checkpoint(tmp_path, 1, {"a": shared, "b": shared}, {}, {})


def test_a_damaged_later_checkpoint_does_not_count_as_kept(tmp_path: Path) -> None:
    save(tmp_path, 10)
    (save(tmp_path, 20) / "model.safetensors").write_bytes(b"damaged")
    assert newest_checkpoint(tmp_path)[0].progress["step"] == 10  # where the run continues, to be stopped at 15
    save(tmp_path, 15, keep=1)
    assert newest_checkpoint(tmp_path)[0].progress["step"] == 15
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000015"]


def test_a_damaged_earlier_checkpoint_goes_before_a_whole_one(tmp_path: Path) -> None:
    save(tmp_path, 10)
    (save(tmp_path, 15) / "state.pt").write_bytes(b"damaged")
    save(tmp_path, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000020"]


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "progress.json"])
@pytest.mark.parametrize("manifest", ["nothing", "without it", "names alone", "a number"])
def test_a_manifest_that_does_not_vouch_for_every_file_vouches_for_none(
    manifest: str, file: str, tmp_path: Path
) -> None:
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    whole = json.loads((folder / "manifest.json").read_text())
    without = {name: digest for name, digest in whole.items() if name != file}
    content = {"nothing": {}, "without it": without, "names alone": list(whole), "a number": 7}[manifest]
    (folder / "manifest.json").write_text(json.dumps(content))
    (folder / file).write_bytes(b"not as it was")
    checkpoint, said = newest_checkpoint(tmp_path)
    assert checkpoint.progress["step"] == 1
    assert len(said) == 1 and "manifest.json does not name model.safetensors, state.pt, progress.json" in said[0]


def test_every_so_many_steps_and_the_best_are_kept_for_good(tmp_path: Path) -> None:
    for step, score in ((10, 0.3), (20, 0.9), (25, None), (30, 0.9), (40, 0.4), (45, None), (50, 0.1)):
        progress = {} if score is None else {"score": score}
        save_checkpoint(tmp_path, step, {"w": torch.ones(1)}, {}, progress, keep=2, every=25)
    assert sorted(int(path.name[5:]) for path in tmp_path.iterdir()) == [20, 25, 45, 50]
    # A run that is continued from before them starts those of later steps anew.
    save_checkpoint(tmp_path, 22, {"w": torch.ones(1)}, {}, {}, keep=2, every=25)
    assert sorted(int(path.name[5:]) for path in tmp_path.iterdir()) == [20, 22]
