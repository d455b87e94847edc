"""Checkpoints whose bytes are as they were written, and whose content cannot be: passed over or refused, in words."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import simclr
from simclr.config import OptimConfig, TrainConfig
from simclr.data.samplers import EpochSampler, MinedSampler
from simclr.errors import CheckpointError
from simclr.optim.optimizers import build_optimizer, parameter_groups
from simclr.run.checkpoint import Checkpoint, gather_state, newest_checkpoint, restore_state, save_checkpoint
from simclr.run.checkpoint_content import RUN_PROGRESS, RUN_STATE

NOTED = {"processes": 1, "epoch_loss": 2.5}
PLAIN: Any = SimpleNamespace(scaler=None)


class Shift(nn.Module):
    """One number, whose momentum is one number too, of either sign."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.by


def trained(name: str = "adamw", steps: int = 2) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), Shift())
    optimizer = build_optimizer(parameter_groups(network, 0.1), OptimConfig(name=name, learning_rate=0.1), 0.1)
    for _ in range(steps):
        network(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return network, optimizer


def stored(folder: Path, state: Any, step: int = 2) -> Checkpoint:
    network, _ = trained(steps=0)
    save_checkpoint(folder, step, network.state_dict(), state, NOTED)
    found = newest_checkpoint(folder)[0]
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw", "muon"])
def test_what_each_optimizer_keeps_comes_back(name: str, tmp_path: Path) -> None:
    network, optimizer = trained(name)
    sampler = EpochSampler(images=8, batch_size=4, seed=0)
    kept = [optimizer.state[network[3].by].get(key) for key in ("exp_avg", "velocity", "momentum_buffer", "mean")]
    assert any(one is not None and one.ndim == 0 and one < 0 for one in kept)
    save_checkpoint(tmp_path, 2, *gather_state(network, sampler, optimizer, PLAIN), NOTED)
    checkpoint, said = newest_checkpoint(tmp_path, RUN_PROGRESS, RUN_STATE)
    assert checkpoint is not None and said == []
    other, others = trained(name, steps=0)
    assert restore_state(checkpoint, other, sampler, others, PLAIN) == 2
    for one, two in ((network, optimizer), (other, others)):
        torch.manual_seed(1)
        one(torch.randn(8, 3)).square().mean().backward()
        two.step()
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values()))


def without(progress: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in progress.items() if name != key}


GOOD = {**NOTED, "step": 2}
PROGRESS: list[tuple[Any, str]] = [
    (GOOD | {"step": -5}, "progress.json: step is -5; expected a whole number from 0"),
    (GOOD | {"step": 3}, "progress.json: step is 3; expected 2, as the folder's name says"),
    (GOOD | {"step": 10**9}, "step is 1000000000; expected 2"),
    (GOOD | {"step": 2.0}, "step is 2.0; expected a whole number"),
    (GOOD | {"step": True}, "step is True; expected a whole number"),
    (GOOD | {"step": "2"}, "step is '2'; expected a whole number"),
    (GOOD | {"epoch_loss": None}, "epoch_loss is None; expected a finite number"),
    (GOOD | {"epoch_loss": float("nan")}, "epoch_loss is nan; expected a finite number"),
    (GOOD | {"epoch_loss": 10**400}, "epoch_loss is a whole number of 1329 bits"),
    (GOOD | {"processes": 0}, "processes is 0; expected a whole number from 1"),
    (without(GOOD, "epoch_loss"), "it has no epoch_loss"),
    (without(GOOD, "processes"), "it has no processes"),
    (without(GOOD, "step"), "it has no step"),
    ([], "progress.json holds no keys and values"),
    ("[" * 100_000, "progress.json is no JSON"),
    ('{"step": ' + "1" * 5000 + "}", "progress.json is no JSON"),
    (b"\xff{}", "progress.json is no JSON"),
    (b"", "progress.json is no JSON"),
]


@pytest.mark.parametrize(("content", "said"), PROGRESS, ids=[said for _, said in PROGRESS])
def test_notes_that_cannot_be_are_passed_over_with_a_sentence(content: Any, said: str, tmp_path: Path) -> None:
    network, optimizer = trained()
    kept = gather_state(network, EpochSampler(images=8, batch_size=4, seed=0), optimizer, PLAIN)
    save_checkpoint(tmp_path, 1, *kept, NOTED)
    folder = save_checkpoint(tmp_path, 2, *kept, NOTED)
    raw = content if isinstance(content, bytes) else content if isinstance(content, str) else json.dumps(content)
    (folder / "progress.json").write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    vouch_for(folder)
    checkpoint, sentences = newest_checkpoint(tmp_path, RUN_PROGRESS, RUN_STATE)
    assert checkpoint is not None and checkpoint.progress["step"] == 1
    (sentence,) = sentences
    assert sentence.startswith(f"{folder} is damaged (") and said in sentence and "\n" not in sentence


def vouch_for(folder: Path) -> None:
    """A manifest that fits, whatever the files hold."""
    names = ("model.safetensors", "state.pt", "progress.json")
    digests = {name: sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "manifest.json").write_text(json.dumps(digests))


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


STATES: list[tuple[Any, str]] = [
    ([], "state.pt holds list, expected keys and values"),
    ({}, "state.pt has no optimizer and no scaler"),
    ({"optimizer": {}}, "state.pt has no scaler"),
    ({"optimizer": {"state": {0: {"v": torch.tensor([1.0, float("nan")])}}}, "scaler": None}, "optimizer.state.0.v"),
    (b"no archive", "state.pt cannot be read"),
]


@pytest.mark.parametrize(("state", "said"), STATES, ids=[said for _, said in STATES])
def test_a_state_that_cannot_be_is_passed_over_with_a_sentence(state: Any, said: str, tmp_path: Path) -> None:
    network, optimizer = trained()
    tensors, good = gather_state(network, EpochSampler(images=8, batch_size=4, seed=0), optimizer, PLAIN)
    save_checkpoint(tmp_path, 1, tensors, good, NOTED)
    folder = save_checkpoint(tmp_path, 2, tensors, good if isinstance(state, bytes) else state, NOTED)
    if isinstance(state, bytes):
        (folder / "state.pt").write_bytes(state)
        vouch_for(folder)
    checkpoint, sentences = newest_checkpoint(tmp_path, RUN_PROGRESS, RUN_STATE)
    assert checkpoint is not None and checkpoint.progress["step"] == 1
    assert len(sentences) == 1 and said in sentences[0] and "\n" not in sentences[0]


@pytest.mark.parametrize("content", ["not finite", "no tensors"])
def test_weights_that_cannot_be_are_passed_over_with_a_sentence(content: str, tmp_path: Path) -> None:
    network, optimizer = trained()
    tensors, good = gather_state(network, EpochSampler(images=8, batch_size=4, seed=0), optimizer, PLAIN)
    save_checkpoint(tmp_path, 1, tensors, good, NOTED)
    wrong = tensors | {"0.bias": torch.tensor([0.0, float("inf"), 0.0, 0.0])}
    folder = save_checkpoint(tmp_path, 2, wrong if content == "not finite" else tensors, good, NOTED)
    if content == "no tensors":
        (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ..")
        vouch_for(folder)
    checkpoint, (sentence,) = newest_checkpoint(tmp_path, RUN_PROGRESS, RUN_STATE)
    assert checkpoint is not None and checkpoint.progress["step"] == 1
    assert ("holds NaN or infinity, in 0.bias" if content == "not finite" else "cannot be read") in sentence


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    network, optimizer = trained()
    _, state = gather_state(network, EpochSampler(images=8, batch_size=4, seed=0), optimizer, PLAIN)
    state = copy.deepcopy(state)
    change(state["optimizer"])
    return state


MISFITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "it has no optimizer's state": lambda o: o.clear(),
    "is no list of groups and a dictionary": lambda o: o.update(state=[1]),
    "1 groups of parameters, expected 2": lambda o: o["param_groups"].pop(),
    "group 0 has 1 parameters, expected 2": lambda o: o["param_groups"][0]["params"].pop(),
    "group 1 has 0 parameters, expected 5": lambda o: o["param_groups"][1].update(params=None),
    "lr of group 0 is 'fast'": lambda o: o["param_groups"][0].update(lr="fast"),
    "weight_decay of group 0 is nan": lambda o: o["param_groups"][0].update(weight_decay=float("nan")),
    "betas of group 1 is (0.9,)": lambda o: o["param_groups"][1].update(betas=(0.9,)),
    "group 0 has no lr": lambda o: o["param_groups"][0].pop("lr"),
    "it has a state of parameter 77, of 7": lambda o: o["state"].update({77: {}}),
    "the state of parameter 0 is int": lambda o: o["state"].update({0: 7}),
    "of parameter 0 it keeps velocity": lambda o: o["state"].update({0: {"velocity": torch.zeros(4, 3)}}),
    "of parameter 1 it keeps step, exp_avg": lambda o: o["state"][1].pop("exp_avg_sq"),
    "exp_avg of parameter 0 is float32 (3,)": lambda o: o["state"][0].update(exp_avg=torch.zeros(3)),
    "exp_avg of parameter 0 is float64 (4, 3)": lambda o: o["state"][0].update(exp_avg=torch.zeros(4, 3).double()),
    "step of parameter 2 is float32 ()": lambda o: o["state"][2].update(step=torch.tensor(-1.0)),
    "exp_avg of parameter 0 is [[[": lambda o: o["state"][0].update(exp_avg=nested(5)),
}


@pytest.mark.parametrize("said", MISFITS)
def test_a_state_of_another_run_is_refused_and_nothing_is_loaded(said: str, tmp_path: Path) -> None:
    checkpoint = stored(tmp_path, changed(MISFITS[said]))
    network, optimizer = trained(steps=1)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(CheckpointError) as error:
        restore_state(checkpoint, network, EpochSampler(images=8, batch_size=4, seed=0), optimizer, PLAIN)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(f"{checkpoint.path / 'state.pt'} does not fit this run: ")
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    "triplets",
    [None, torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, 3), torch.tensor([[0, 1, 99]]), torch.tensor([[0, -1, 2]])],
    ids=["none", "pairs", "float", "beyond", "negative"],
)  # fmt: skip
def test_triplets_of_other_images_are_refused(triplets: Any, tmp_path: Path) -> None:
    state = changed(lambda o: None) | {"triplets": triplets}
    network, optimizer = trained()
    sampler = MinedSampler(images=9, batch_size=3, mine_every=1)
    with pytest.raises(CheckpointError, match="triplets"):
        restore_state(stored(tmp_path, state), network, sampler, optimizer, PLAIN)


def test_a_scaler_of_another_kind_is_refused(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    state = changed(lambda o: None) | {"scaler": {"scale": "large"}}
    network, optimizer = trained()
    with pytest.raises(CheckpointError, match="does not fit this run"):
        restore_state(
            stored(tmp_path, state),
            network,
            EpochSampler(images=8, batch_size=4, seed=0),
            optimizer,
            SimpleNamespace(scaler=scaler),  # type: ignore[arg-type]
        )


def test_a_checkpoint_of_a_step_that_the_run_does_not_have_is_refused(tiny_run: TrainConfig) -> None:
    tiny_run = replace(tiny_run, train=replace(tiny_run.train, epochs=1, knn_every=0))
    result = simclr.pretrain(tiny_run)
    newest = max((result.run_dir / "checkpoints").iterdir())
    far = newest.rename(newest.with_name("step-1000000000"))
    (far / "progress.json").write_text(json.dumps({**NOTED, "step": 10**9}))
    vouch_for(far)
    with pytest.raises(CheckpointError, match="says that 1000000000 steps are done, and the run has 5; remove that"):
        simclr.pretrain(tiny_run)
    (far / "progress.json").write_text(json.dumps({"step": 10**9}))
    vouch_for(far)
    assert simclr.pretrain(tiny_run).steps == 5
