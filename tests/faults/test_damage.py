"""Every file of a checkpoint and of an encoder, damaged: said, or of the same content; never silent, no traceback.

The counts are in the summary at the end of pytest's output. ``--long`` is the whole of it, in half a minute.
"""

import copy
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import simclr
from linear_eval import EvalConfig, Features, evaluate_run
from simclr.config import TrainConfig
from simclr.errors import CheckpointError
from simclr.exchange.classifier import load_classifier
from simclr.losses import CrossEntropyConfig
from simclr.run.checkpoint import newest_checkpoint
from simclr.run.checkpoint_content import RUN_PROGRESS, RUN_STATE

CHECKPOINT = ("manifest.json", "model.safetensors", "progress.json", "state.pt")
ENCODER = ("encoder.json", "encoder.safetensors", "head.json", "head.safetensors")
Extent = tuple[int, int]
WHOLE: Extent = (10, 100)
"""Truncations and flipped bits of every file."""

some_and_all = pytest.mark.parametrize(
    "extent", [pytest.param((4, 12), id="some"), pytest.param(WHOLE, marks=pytest.mark.long, id="all")]
)


def damages(file: Path, other: Path, extent: Extent) -> Iterator[tuple[str, Callable[[], object]]]:
    """Kinds of damage and what does them to ``file``, which is whole before each; ``other`` is the same file of another."""
    content, (cuts, flips) = file.read_bytes(), extent
    draw = random.Random(file.name)

    def written(new: bytes) -> Callable[[], object]:
        return lambda: file.write_bytes(new)

    for length in {1, len(content) - 1, *(draw.randrange(len(content)) for _ in range(cuts - 2))}:
        yield "cut", written(content[:length])
    for _ in range(flips):
        place, bit = draw.randrange(len(content)), 1 << draw.randrange(8)
        yield "flipped", written(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
    yield "empty", written(b"")
    yield "zeros", written(bytes(len(content)))
    yield "longer", written(content + b"\0" * 7)
    yield "gone", lambda: file.unlink()
    yield "a folder", lambda: (file.unlink(), file.mkdir())
    yield "a link to nothing", lambda: (file.unlink(), file.symlink_to("nowhere"))
    yield "that of another", written(other.read_bytes())
    for neighbour in sorted(file.parent.iterdir()):
        if neighbour != file:
            yield "its neighbour", written(neighbour.read_bytes())


def tried(file: Path, other: Path, extent: Extent, outcome: Callable[[], str]) -> Counter[str]:
    """How often every outcome was met; ``file`` is whole again."""
    content, counts = file.read_bytes(), Counter[str]()
    for kind, damage in list(damages(file, other, extent)):
        damage()
        try:
            counts[outcome()] += 1
        except Exception as error:
            raise AssertionError(f"{file.name}, {kind}: {type(error).__name__} {error}") from error
        finally:
            if file.is_dir():
                file.rmdir()
            file.unlink(missing_ok=True)
            file.write_bytes(content)
    return counts


def one_line(error: CheckpointError, folder: Path) -> str:
    assert str(folder) in str(error) and "\n" not in str(error), error
    return "refused"


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
        )
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two short runs on labels, of two seeds, each with two checkpoints, an encoder and a head."""
    start = simclr.preset("digits")
    config = replace(
        start,
        name="first",
        out=tmp_path_factory.mktemp("damaged"),
        data=replace(start.data, limit=128),
        augment=replace(start.augment, mean=(0.4,), std=(0.3,)),
        encoder=replace(start.encoder, layers=(1, 1, 1, 1), channels=(4, 4, 4, 4)),
        head=replace(start.head, out_dim=8),
        objective=CrossEntropyConfig(),
        schedule=replace(start.schedule, warmup_epochs=0),
        train=replace(start.train, epochs=2, batch_size=64, precision="fp32", knn_every=0, checkpoint_every=2),
    )
    return [
        simclr.pretrain(replace(config, name=name, seed=seed)).run_dir for seed, name in enumerate(("first", "other"))
    ]


@some_and_all
def test_of_a_damaged_checkpoint_none_loads_in_silence(
    extent: Extent, runs: list[Path], tmp_path: Path, tally: Callable[[str], None]
) -> None:
    shutil.copytree(runs[0] / "checkpoints", tmp_path / "checkpoints")
    folder, before = tmp_path / "checkpoints" / "step-00000004", tmp_path / "checkpoints" / "step-00000002"
    whole = newest_checkpoint(folder.parent, RUN_PROGRESS, RUN_STATE)[0]
    assert whole is not None and whole.path == folder
    # Copies: the tensors that are read are the file itself, in memory, which is about to be damaged.
    content = copy.deepcopy((whole.progress, whole.model(), whole.state()))

    def outcome() -> str:
        found, said = newest_checkpoint(folder.parent, RUN_PROGRESS, RUN_STATE)
        assert found is not None
        if found.path == before:
            assert len(said) == 1 and said[0].startswith(f"{folder} is damaged (") and "\n" not in said[0], said
            return "passed over"
        assert said == [] and equal((found.progress, found.model(), found.state()), content)
        return "of the same content"

    counts = sum((tried(folder / name, before / name, extent, outcome) for name in CHECKPOINT), Counter[str]())
    assert outcome() == "of the same content"
    folder.rename(folder.with_name("step-00000077"))
    (found, (said,)) = newest_checkpoint(folder.parent, RUN_PROGRESS, RUN_STATE)
    assert found is not None and found.path == before and "expected 77, as the folder's name says" in said
    counts["passed over"] += 1
    assert counts["passed over"] > 0.9 * counts.total()
    tally(f"checkpoint: {counts.total()} damages, {', '.join(f'{count} {what}' for what, count in counts.items())}")


@some_and_all
def test_of_a_damaged_encoder_none_loads_in_silence(
    extent: Extent, runs: list[Path], tmp_path: Path, tally: Callable[[str], None]
) -> None:
    folder, other = tmp_path / "encoder", runs[1] / "encoder"
    shutil.copytree(runs[0] / "encoder", folder)

    def loaded() -> tuple[Any, ...]:
        found = load_classifier(folder)
        encoder = found.encoder
        settings = (encoder.size, encoder.mean, encoder.std, encoder.reader, found.classes, found.temperature)
        return dict(found.state_dict()), *settings

    whole = loaded()

    def outcome() -> str:
        try:
            found = loaded()
        except CheckpointError as error:
            return one_line(error, folder)
        assert equal(found, whole), "another content was loaded in silence"
        return "of the same content"

    counts = sum((tried(folder / name, other / name, extent, outcome) for name in ENCODER), Counter[str]())
    for names in (
        ENCODER[:2],
        ENCODER[2:],
    ):  # the whole encoder of another run beside our head, and our encoder beside its
        for name in names:
            shutil.copy(other / name, folder)
        counts[outcome()] += 1
        for name in names:
            shutil.copy(runs[0] / "encoder" / name, folder)
    assert outcome() == "of the same content" and counts["refused"] > 0.9 * counts.total()
    tally(f"encoder: {counts.total()} damages, {', '.join(f'{count} {what}' for what, count in counts.items())}")


@some_and_all
def test_of_damaged_features_none_load_in_silence(
    extent: Extent, tmp_path: Path, tally: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder, other = tmp_path / "features", tmp_path / "other"
    for number, at in enumerate((folder, other)):
        x = torch.rand(40, 6, generator=torch.Generator().manual_seed(number))
        Features(x, torch.arange(40) % 3, torch.arange(40), groups=torch.arange(40) // 2 + number).save(at)
    whole = copy.deepcopy(Features.load(folder, mmap=False))

    def outcome() -> str:
        try:
            found = [Features.load(folder, mmap=mapped) for mapped in (True, False)]
        except CheckpointError as error:
            return one_line(error, folder)
        same = all(
            equal([one.x, one.y, one.index, one.groups], [whole.x, whole.y, whole.index, whole.groups]) for one in found
        )
        assert same, "another content was loaded in silence"
        return "of the same content"

    names = sorted(path.name for path in folder.iterdir())
    counts = sum((tried(folder / name, other / name, extent, outcome) for name in names), Counter[str]())
    assert outcome() == "of the same content" and counts["refused"] > 0.9 * counts.total()
    assert len(caplog.messages) == 4  # digests.json gone, and a link to nothing: read twice each
    tally(f"features: {counts.total()} damages, {', '.join(f'{count} {what}' for what, count in counts.items())}")


def test_a_score_and_a_start_refuse_a_damaged_encoder(runs: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    weights = bytearray((run / "encoder" / "encoder.safetensors").read_bytes())
    weights[-2] ^= 1
    (run / "encoder" / "encoder.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="not as it was written"):
        evaluate_run(run, config=EvalConfig(trials=0, resamples=10))
    assert not (run / "result.json").exists()
    config = simclr.config.yaml.load_config(run / "config.yaml")
    started = replace(config, name="started", out=tmp_path, encoder=replace(config.encoder, init=str(run)))
    with pytest.raises(CheckpointError, match="not as it was written"):
        simclr.pretrain(started)


@pytest.mark.long
@pytest.mark.parametrize("name", CHECKPOINT)
def test_the_same_run_ends_with_the_same_bits_whatever_is_damaged(name: str, runs: list[Path], tmp_path: Path) -> None:
    config: TrainConfig = replace(simclr.config.yaml.load_config(runs[0] / "config.yaml"), out=tmp_path)
    wanted = (runs[0] / "encoder" / "encoder.safetensors").read_bytes()
    for number, kind in enumerate(("cut", "flipped", "gone", "that of another")):
        run = tmp_path / f"damaged-{number}"
        shutil.copytree(runs[0], run)
        shutil.rmtree(run / "encoder")
        written = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(written.replace("name: first", f"name: {run.name}"))
        folder = run / "checkpoints" / "step-00000004"
        dict(damages(folder / name, folder.with_name("step-00000002") / name, (2, 1)))[kind]()
        assert simclr.pretrain(replace(config, name=run.name)).steps == 4
        assert (run / "encoder" / "encoder.safetensors").read_bytes() == wanted


def test_a_digest_that_is_gone_is_said(runs: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What no digest can tell: one bit in the very key of the digests makes a file of an earlier version of it."""
    shutil.copytree(runs[0] / "encoder", tmp_path / "encoder")
    file = tmp_path / "encoder" / "encoder.json"
    file.write_text(file.read_text().replace('"sha256"', '"sha257"'))
    assert "sha257" in json.loads(file.read_text())
    load_classifier(tmp_path / "encoder")
    assert len(caplog.messages) == 1 and "was written without a SHA-256" in caplog.messages[0]
