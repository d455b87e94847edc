"""More epochs for a run that is finished: it ends with the bits of one that had them from the start, or is refused in words."""

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
from simclr.config.yaml import load_config
from simclr.errors import ConfigError
from simclr.run.log import read_metrics


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "encoder" / "encoder.safetensors")


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def of(config: TrainConfig, epochs: int, decay: str = "wsd", name: str = "run") -> TrainConfig:
    """Epochs of five steps; of two of them the last two steps decay, of four the last four."""
    schedule = replace(config.schedule, decay=decay, warmup_epochs=0.5)
    train = replace(config.train, epochs=epochs, ema=0.9, checkpoint_every=100, keep_checkpoints=1, knn_every=1)
    small = {"data": replace(config.data, limit=80), "encoder": replace(config.encoder, drop_path=0.2)}
    return replace(config, name=name, schedule=schedule, train=replace(train, batch_size=16), **small)


@pytest.mark.parametrize("decay", ["wsd", pytest.param("constant", marks=pytest.mark.slow)])
def test_a_longer_run_is_one_that_had_its_length_from_the_start(
    decay: str, tiny_run: TrainConfig, stop_after: Callable[[int], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    short, long = (of(tiny_run, epochs, decay) for epochs in (2, 4))
    assert simclr.pretrain(short).finished
    kept = sorted(path.name for path in (short.run_dir / "checkpoints").iterdir())
    assert ("step-00000008" in kept) == (decay == "wsd")
    first = weights(short.run_dir)
    with stop_after(1):  # between, when only one step of the longer run is done
        assert not simclr.pretrain(long).finished
    said = capfd.readouterr().err
    begins = 8 if decay == "wsd" else 10
    assert f"the run is made longer, from 2 epochs to 4: it goes on from step {begins}" in said
    assert load_config(long.run_dir / "config.yaml").train.epochs == 4
    assert all(torch.equal(first[name], tensor) for name, tensor in weights(long.run_dir).items())  # until the new end
    assert simclr.pretrain(long).steps == 20
    fresh = of(tiny_run, 4, decay, "fresh")
    simclr.pretrain(fresh)
    assert same(long.run_dir, fresh.run_dir)
    ours, theirs = (
        [
            (line["kind"], line["step"], line.get("loss"), line.get("online_knn"))
            for line in read_metrics(run / "metrics.jsonl")
        ]
        for run in (long.run_dir, fresh.run_dir)
    )
    assert ours == theirs
    with pytest.raises(ConfigError, match=r"another config: train\.epochs: 4 -> 2"):
        simclr.pretrain(short)


def test_a_longer_run_that_is_killed_before_it_begins_goes_on_all_the_same(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the removal of the decay and the new config, and before the first step of the longer run."""
    short, long = of(tiny_run, 2), of(tiny_run, 3)
    simclr.pretrain(short)
    for place in ("simclr.run.folder.save_config", "simclr.train.loop"):
        with monkeypatch.context() as patch:

            def killed(*args: Any) -> None:
                raise KeyboardInterrupt

            patch.setattr(place, killed)
            with pytest.raises(KeyboardInterrupt):
                simclr.pretrain(long)
    assert simclr.pretrain(long).steps == 15
    fresh = of(tiny_run, 3, name="fresh")
    simclr.pretrain(fresh)
    assert same(long.run_dir, fresh.run_dir)


def test_what_cannot_be_made_longer_says_what_can_be_done(tiny_run: TrainConfig) -> None:
    cosine = of(tiny_run, 1, "cosine")
    simclr.pretrain(cosine)
    said = r"1 epochs, and its learning rate \(cosine\).*--encoder\.init .*run and a --name.*--schedule\.decay wsd"
    with pytest.raises(ConfigError, match=said):
        simclr.pretrain(of(tiny_run, 2, "cosine"))
    with pytest.raises(ConfigError, match=r"another config: seed: 0 -> 1; train\.epochs: 1 -> 2"):
        simclr.pretrain(replace(of(tiny_run, 2, "cosine"), seed=1))
    wsd = of(tiny_run, 1, name="wsd")
    simclr.pretrain(wsd)
    shutil.rmtree(wsd.run_dir / "checkpoints" / "step-00000004")
    with pytest.raises(ConfigError, match=r"its decay began, and that is not there any more; .*--encoder\.init"):
        simclr.pretrain(of(tiny_run, 2, name="wsd"))
    assert simclr.pretrain(wsd).finished
    grown = replace(of(tiny_run, 1, name="grown"), schedule=replace(wsd.schedule, view_sizes=((0.5, 8),)))
    simclr.pretrain(grown)
    with pytest.raises(ConfigError, match="the sizes of its views go by their number"):
        simclr.pretrain(replace(grown, train=replace(grown.train, epochs=2)))
