"""A step as a CUDA graph is the step that Python takes: needs a GPU."""

import warnings
from dataclasses import replace

import pytest
import torch

import simclr
from simclr.config import OptimConfig
from simclr.run import captured
from simclr.run.log import read_metrics

RATES = {"adamw": 3e-5, "sgd": 3e-5, "lars": 1e-2, "muon": 3e-5}

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch):
    """TF32 would round by 1e-3, and an untrained network makes 600 times that of it."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def run_of(folder, name, optimizer="adamw", epochs=4, **train):
    config = simclr.preset("digits")
    return replace(
        config,
        name=name,
        out=folder,
        optim=OptimConfig(name=optimizer, learning_rate=RATES[optimizer], scaling="none", weight_decay=1e-4),
        schedule=replace(config.schedule, warmup_epochs=1, view_sizes=((0.5, 12),)),
        train=replace(config.train, epochs=epochs, precision="fp32", log_every=1, evaluate=False, **train),
    )


def trained(config):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return simclr.pretrain(config)


def losses(config):
    result = trained(config)
    return torch.tensor(
        [line["loss"] for line in read_metrics(result.run_dir / "metrics.jsonl") if line["kind"] == "step"]
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars", "muon"])
def test_the_losses_are_those_of_plain_steps(tmp_path, monkeypatch, optimizer):
    taken = []
    replay = captured._Graph.replay
    monkeypatch.setattr(
        captured._Graph, "replay", lambda self, step, batch: taken.append(step) or replay(self, step, batch)
    )
    by_graph = losses(run_of(tmp_path, "graph", optimizer))
    assert len(taken) > len(by_graph) - 10  # all but the first of each size
    monkeypatch.setattr(captured, "_can_be_captured", lambda run, learner: False)
    plain = losses(run_of(tmp_path, "plain", optimizer))
    # Two plain runs part as well, as a GPU sums in no fixed order; at these rates they stay near each other. From one batch to
    # the next the loss moves by more: a seed, a rate or a batch that is not the step's own would show.
    torch.testing.assert_close(by_graph, plain, rtol=1e-2, atol=0)
    assert plain.diff().abs().median() > 1.5e-2 * plain.mean()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars", "muon"])
def test_the_weights_go_the_way_of_plain_steps(tmp_path, monkeypatch, optimizer):
    """Over eleven steps in which the rate rises; a rate that stands still would show. They are too few for runs to part: 7 % for
    weights that are 1e-5 away, on a CPU."""
    ways = []
    for name in ("graph", "plain"):
        config = run_of(tmp_path, name, optimizer, epochs=1)
        config = replace(config, schedule=replace(config.schedule, view_sizes=()))
        folder = trained(config).run_dir
        end, start = (simclr.load_encoder(folder, untrained=untrained) for untrained in (False, True))
        ways.append(torch.cat([(a - b).flatten() for a, b in zip(end.parameters(), start.parameters(), strict=True)]))
        monkeypatch.setattr(captured, "_can_be_captured", lambda run, learner: False)
    assert (ways[0] - ways[1]).norm() < 0.05 * ways[1].norm()


def test_a_step_that_cannot_be_captured_is_taken_plainly(tmp_path, monkeypatch):
    def refuses(self, *arguments):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(captured._Graph, "__init__", refuses)
    with pytest.warns(UserWarning, match="cannot be captured .operation not permitted"):
        assert simclr.pretrain(run_of(tmp_path, "run")).finished
