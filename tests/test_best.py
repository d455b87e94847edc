"""Which weights come out, and when it is over, by the scores of a run: against its own checkpoints, and across stops."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import simclr
from simclr.config import LoopConfig, TrainConfig
from simclr.data import load_source
from simclr.errors import ConfigError
from simclr.run.log import read_metrics


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "encoder" / "encoder.safetensors")


def scored(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Epoch after epoch the online score is the next of ``scores``."""
    given: Iterator[float] = iter(scores)
    monkeypatch.setattr("simclr.run.validation.ValidationScore.__call__", lambda *_: {"online_knn": next(given)})


def of(config: TrainConfig, epochs: int, **train: Any) -> TrainConfig:
    loop = replace(config.train, epochs=epochs, knn_every=1, checkpoint_every=100, keep_checkpoints=1, batch_size=16)
    return replace(config, train=replace(loop, **train), data=replace(config.data, limit=80))


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_best_weights_are_what_comes_out(
    ema: float | None, tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    scored(monkeypatch, [0.2, 0.7, 0.5, 0.7])
    config = of(tiny_run, 4, keep="best", ema=ema)
    run = simclr.pretrain(config).run_dir
    tensors = load_file(run / "checkpoints" / "step-00000010" / "model.safetensors")
    prefix = "model.backbone." if ema is None else "average.module.model.backbone."
    best = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    found = weights(run)
    assert best.keys() == found.keys() and all(torch.equal(best[name], found[name]) for name in best)
    said = "the encoder is that of step 10, which has the best score (online kNN accuracy 0.7), rather than of the last, 20"
    assert said in capfd.readouterr().err
    last = simclr.pretrain(
        of(tiny_run, 4, keep="last", ema=ema)
    ).run_dir  # the same folder: no weight of training differs
    assert any(not torch.equal(best[name], tensor) for name, tensor in weights(last).items())
    again = simclr.pretrain(config).run_dir
    assert all(torch.equal(best[name], tensor) for name, tensor in weights(again).items())


def test_patience_ends_a_run_for_good_and_survives_a_stop(
    tiny_run: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: Callable[[int], Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    scored(monkeypatch, [0.2, 0.6, 0.5, 0.6])
    config = of(tiny_run, 8, patience=2)
    with stop_after(17):  # one score without a better one is behind it
        assert not simclr.pretrain(config).finished
    ended = simclr.pretrain(config)
    assert ended.finished and ended.steps == 20
    said = "online kNN accuracy 0.6 at step 10 was the best, and none of the 2 since was better: the run ends at step 20 of 40"
    assert said in capfd.readouterr().err
    before = weights(ended.run_dir)
    again = simclr.pretrain(config)  # no score is left to be taken
    assert again.finished and again.steps == 20
    assert "is finished: 20 steps" in capfd.readouterr().err
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(again.run_dir).items())
    scored(monkeypatch, [0.1, 0.1, 0.1])
    assert simclr.pretrain(of(tiny_run, 8, patience=4)).steps == 30  # more of it goes on


def test_without_labels_rankme_chooses(tiny_run: TrainConfig, image_folder: Path) -> None:
    data = replace(tiny_run.data, source="folder", path=image_folder, labels="none", limit=None)
    larger = replace(tiny_run.augment, size=16)  # of 8 px these features span fewer dimensions than they have
    config = replace(of(tiny_run, 3, keep="best", batch_size=8), data=data, augment=larger)
    run = simclr.pretrain(config).run_dir
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "epoch"]
    ranks = {line["step"]: line["online_rankme"] for line in lines}
    chosen = json.loads((run / "encoder" / "encoder.json").read_text())["training"]["step"]
    assert len(ranks) == 3 and chosen == max(ranks, key=lambda step: ranks[step])
    # The figure of the weights that came out, by numpy: all training images are looked at.
    encoder, images = simclr.load_encoder(run), load_source(config.data, "train")
    x = np.concatenate([encoder(image[None]).detach().numpy() for image, *_ in images])
    shares = np.linalg.svd(x, compute_uv=False)
    shares = shares / shares.sum()
    assert ranks[chosen] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)
    config = replace(of(tiny_run, 1, batch_size=8), data=data, name="plain")
    assert "online_rankme" not in simclr.pretrain(config).metrics


def test_what_goes_by_scores_needs_some() -> None:
    with pytest.raises(ConfigError, match=r"train\.keep=best goes by scores, and train\.knn_every=0"):
        LoopConfig(keep="best", knn_every=0)
    with pytest.raises(ConfigError, match=r"train\.patience=3 goes by scores"):
        LoopConfig(patience=3, knn_every=0)
    with pytest.raises(ConfigError, match=r"train\.patience is 0; it must be at least 1"):
        LoopConfig(patience=0)
