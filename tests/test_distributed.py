"""Several processes are one: two and three gloo processes give the gradient and the weights of a single one."""

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from augment import MixConfig
from simclr.config import SamplerConfig, TrainConfig
from simclr.data import EpochSampler, ImageSet
from simclr.data.decode import Reader
from simclr.distributed import any_rank, derive_seed, gather_rows
from simclr.losses import (
    ContrastiveConfig,
    CrossEntropyConfig,
    LeJEPAConfig,
    MoCoConfig,
    SIGRegLoss,
    TripletConfig,
)
from simclr.losses.ntxent.loss import NTXentLoss, nt_xent_reference
from simclr.model.contrastive import build_model
from simclr.run.diagnostics import contrastive_diagnostics
from simclr.run.log import read_metrics
from simclr.run.nan_guard import FiniteGuard, NotFiniteError, refuse_weights

Ranks = Callable[..., None]
Port = Callable[[], int]


LOSSES = (NTXentLoss(0.2, temperature_learned=True).double(), SIGRegLoss(0.5, slices=16))


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)).double()


def gradient_on(rank: int, world: int, port: int, path: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    x = torch.load(f"{path}/x.pt")
    share = x.shape[1] // world
    net = torch.nn.parallel.DistributedDataParallel(model())
    z = net(x[:, rank * share : (rank + 1) * share].flatten(0, 1)).unflatten(0, (len(x), share))
    (gradient,) = torch.autograd.grad(LOSSES[0](gather_rows(z)), net.module[0].weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="gathered from 3 processes cannot be differentiated again; take"):
        gradient.square().sum().backward()
    found = []
    for objective in LOSSES:
        net = torch.nn.parallel.DistributedDataParallel(model())
        z = net(x[:, rank * share : (rank + 1) * share].flatten(0, 1)).unflatten(0, (len(x), share))
        loss = objective(gather_rows(z))
        objective.zero_grad()
        loss.backward()
        found.append((loss.detach(), [p.grad for p in (*net.parameters(), *objective.parameters())]))
    assert any_rank(rank == world - 1, torch.device("cpu"))
    assert not any_rank(False, torch.device("cpu"))
    torch.save(found, f"{path}/{rank}.pt")
    dist.destroy_process_group()


def test_gradient_equals_one_process(ranks: Ranks, free_port: Port, tmp_path: Path) -> None:
    world = 3
    torch.manual_seed(1)
    x = torch.randn(2, 6, 6, dtype=torch.float64)
    torch.save(x, tmp_path / "x.pt")
    log_scale = torch.tensor(-math.log(0.2), requires_grad=True)
    ranks(world, gradient_on, world, free_port(), str(tmp_path))
    for number, whole in enumerate((lambda z: nt_xent_reference(z, torch.exp(-log_scale.double())), LOSSES[1])):
        net = model()
        loss = whole(net(x.flatten(0, 1)).unflatten(0, (2, 6)))
        loss.backward()
        for rank in range(world):
            value, gradients = torch.load(tmp_path / f"{rank}.pt")[number]
            assert value.item() == pytest.approx(loss.item(), rel=1e-12)
            for ours, p in zip(gradients, net.parameters()):
                torch.testing.assert_close(ours, p.grad, rtol=1e-9, atol=1e-12)
            if number == 0:
                assert gradients[-1].item() == pytest.approx(log_scale.grad.item(), rel=1e-6)


def watch_on(rank: int, world: int, port: int, path: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    views, features = torch.load(f"{path}/views.pt")
    figures = contrastive_diagnostics(views, features)

    images = ImageSet(name="birds", reader=Reader(size=8), pixels=torch.zeros(100, 3, 8, 8, dtype=torch.uint8))
    said: list[str] = []
    guard = FiniteGuard(2, torch.device("cpu"), images, lambda skips: said.extend(one.what(images) for one in skips))
    one, good, yes = torch.tensor(1.0), torch.ones(2, 2, 3), torch.tensor(True)
    numbers = torch.tensor([10 * rank, 10 * rank + 1])
    guard.watch(0, ~yes, one, good, one, numbers)
    guard.check()
    bad = good.clone()
    bad[1, 1, 0] = torch.nan
    guard.watch(1, yes, one * torch.nan, bad if rank else good, one, numbers)  # every rank has the loss, rank 1 the row

    net = torch.nn.BatchNorm1d(3)
    refuse_weights(net, None, 5)
    if rank:
        net.running_var[0] = torch.inf
    with pytest.raises(NotFiniteError) as failure:
        refuse_weights(net, None, 5)
    said.append(str(failure.value))
    torch.save((figures, said), f"{path}/{rank}.pt")
    dist.destroy_process_group()


def test_what_one_process_sees_all_of_them_say(ranks: Ranks, free_port: Port, tmp_path: Path) -> None:
    torch.manual_seed(2)
    views = torch.randn(300, 8) + 0.7 * torch.randn(2, 300, 8)
    torch.save((views, torch.randn(600, 5)), tmp_path / "views.pt")
    alone = contrastive_diagnostics(*torch.load(tmp_path / "views.pt"))
    ranks(2, watch_on, 2, free_port(), str(tmp_path))
    for rank in range(2):
        figures, (bad_step, bad_weight) = torch.load(tmp_path / f"{rank}.pt")
        assert figures == pytest.approx(alone, rel=1e-6)
        assert bad_step == "the embedding and the loss became NaN or infinite at step 1 of image 11 of birds"
        assert bad_weight.startswith("running_var became NaN or infinite at step 5")


def pretrain_on(rank: int, world: int, port: int, config: TrainConfig) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "ACCELERATE_USE_CPU": "true",
    }
    import simclr

    torch.set_num_threads(1)
    simclr.pretrain(config)


def test_a_run_on_two_processes_ends_where_one_does(
    ranks: Ranks, free_port: Port, tiny_run: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An encoder without batch statistics, so that nothing but rounding may differ."""
    import simclr

    config = replace(
        tiny_run,
        encoder=replace(tiny_run.encoder, name="test_convnext", layers=None, channels=None),
        head=replace(tiny_run.head, batch_norm=False),
        augment=replace(tiny_run.augment, size=32),
        optim=replace(tiny_run.optim, name="sgd", learning_rate=0.05),
        train=replace(tiny_run.train, epochs=1, batch_size=32, checkpoint_every=2, log_every=1, knn_every=0),
        data=replace(tiny_run.data, limit=128),
    )
    checkpointed = replace(config.train, activation_checkpointing=True)
    lejepa = replace(config, name="lejepa", objective=LeJEPAConfig(), train=checkpointed)
    moco = MoCoConfig(momentum=0.9, momentum_schedule="cosine", negatives="other", temperature_learned=True)
    asymmetric = replace(config.augment, blur=(1.0, 0.1), solarize=(0.0, 0.2))
    configs = [config, replace(config, name="moco", objective=moco, augment=asymmetric), lejepa]
    shared = [replace(config, out=tmp_path / "two") for config in configs]
    ranks(2, several_on, 2, {free_port(): config for config in shared}, str(tmp_path))
    for on_one, on_two in zip(configs, shared, strict=True):
        simclr.pretrain(on_one)
        alone, together = simclr.load_encoder(on_one.run_dir), simclr.load_encoder(on_two.run_dir)
        start = simclr.load_encoder(on_one.run_dir, untrained=True)
        flat = [torch.cat([p.detach().flatten() for p in encoder.parameters()]) for encoder in (alone, together, start)]
        moved, apart = (flat[0] - flat[2]).norm(), (flat[0] - flat[1]).norm()
        assert moved > 0.01
        assert apart < 1e-3 * moved

    # Begun on two processes, ended on one: said, and the same losses.
    shutil.rmtree(shared[0].run_dir / "encoder")
    shutil.rmtree(shared[0].run_dir / "checkpoints" / "step-00000004")
    capfd.readouterr()
    simclr.pretrain(shared[0])
    assert "the checkpoint is of 2 processes, this is 1" in capfd.readouterr().err
    losses = [
        [line["loss"] for line in read_metrics(run.run_dir / "metrics.jsonl") if line["kind"] == "step"]
        for run in (configs[0], shared[0])
    ]
    assert len(losses[0]) == 4 and losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_seeds_are_spread_and_repeatable() -> None:
    seeds = {derive_seed(0, "views", step) for step in range(1000)} | {
        derive_seed(s, "views", 0) for s in range(1, 1000)
    }
    assert len(seeds) == 1999
    assert derive_seed(1, "2") != derive_seed("1", 2) != derive_seed(12)


def several_on(rank: int, world: int, configs: dict[int, TrainConfig], folder: str) -> None:
    """Runs one after the other on this rank, each at a port of its own; what each mining found is written down."""
    from simclr.run.offline_mining import OfflineMiner

    mine = OfflineMiner.__call__

    def noted(self: OfflineMiner, step: int) -> None:
        mine(self, step)
        torch.save(self.sampler.triplets, f"{folder}/{rank}-{step}.pt")

    OfflineMiner.__call__ = noted  # type: ignore[method-assign]
    for port, config in configs.items():
        pretrain_on(rank, world, port, config)


def backbone_at(run: Path, step: int) -> dict[str, torch.Tensor]:
    tensors = load_file(run / "checkpoints" / f"step-{step:08}" / "model.safetensors")
    found = {name: tensor for name, tensor in tensors.items() if name.startswith("model.backbone.")}
    assert found
    return found


def test_mixing_mining_and_the_heads_phase_on_two_processes(
    ranks: Ranks, free_port: Port, tiny_run: TrainConfig, tmp_path: Path
) -> None:
    """One start of two processes for all of them: 2 epochs of 2 steps, the first epoch for the head alone."""
    import simclr

    base = replace(
        tiny_run,
        augment=replace(tiny_run.augment, views=1, size=32),
        encoder=replace(tiny_run.encoder, name="test_convnext", layers=None, channels=None),
        objective=CrossEntropyConfig(),
        optim=replace(tiny_run.optim, name="sgd", learning_rate=0.05),
        schedule=replace(tiny_run.schedule, head_epochs=1, warmup_epochs=0, decay="constant"),
        train=replace(tiny_run.train, batch_size=32, checkpoint_every=2, knn_every=0),
        data=replace(tiny_run.data, limit=64),
    )
    no_head, linear = replace(base.head, layers=0), replace(base.head, layers=1, batch_norm=False)
    norms = replace(base, encoder=tiny_run.encoder, head=replace(base.head, layers=1))
    configs = [
        replace(base, name="mixed", head=no_head, mix=MixConfig(mixup=0.5, cutmix=1.0)),
        replace(norms, name="norms", augment=replace(base.augment, size=16)),
        replace(
            base,
            name="mined",
            head=linear,
            objective=TripletConfig(mining="given", margin=0.5),
            sampler=SamplerConfig(name="mined", mine_images=40),
            train=replace(base.train, batch_size=24),
        ),
        replace(base, name="memory", head=linear, objective=ContrastiveConfig(memory=40, memory_from=1)),
    ]
    (tmp_path / "two").mkdir()
    shared = [replace(config, out=tmp_path / "two") for config in configs]
    ranks(2, several_on, 2, {free_port(): config for config in shared}, str(tmp_path))
    for config in configs:
        run, start = tmp_path / "two" / config.name, build_model(config).state_dict()
        resting, end = backbone_at(run, 2), backbone_at(run, 4)
        # With BatchNorm: its statistics and counters rest with the weights.
        assert all(torch.equal(tensor, start[name.removeprefix("model.")]) for name, tensor in resting.items())
        assert any(not torch.equal(resting[name], end[name]) for name in end)
        if config.name == "norms":  # each process has its own batch statistics: not to be compared with one process
            assert any("running_mean" in name and not torch.equal(resting[name], end[name]) for name in end)
            continue
        alone = simclr.pretrain(config)
        files = [folder / "encoder" / name for folder in (alone.run_dir, run) for name in ("encoder", "head")]
        one, two = (
            {**load_file(a.with_suffix(".safetensors")), **load_file(b.with_suffix(".safetensors"))}
            for a, b in (files[:2], files[2:])
        )
        moved = sum((one[n] - start[f"backbone.{n}"]).square().sum().item() for n in one if f"backbone.{n}" in start)
        apart = sum((one[n].double() - two[n].double()).square().sum().item() for n in one)
        assert one.keys() == two.keys() and moved > 1e-6
        assert apart < 1e-6 * moved, config.name
    for step in (0, 2):
        found = [torch.load(tmp_path / f"{rank}-{step}.pt") for rank in (0, 1)]
        assert len(found[0]) and torch.equal(found[0], found[1])


def poisoned_on(rank: int, world: int, port: int, config: TrainConfig, folder: str) -> None:
    """Rank 1 alone has an embedding that is not finite at step 1, and at step 3 nothing but a gradient."""
    import simclr.train
    from simclr.model.contrastive import ContrastiveModel

    forward, taken, at = ContrastiveModel.forward, simclr.train.one_step, [0]
    unchanged: list[bool] = []

    def spoilt(self: ContrastiveModel, views: torch.Tensor) -> torch.Tensor:
        z = forward(self, views)
        if rank == 1 and self.training and at[0] == 1:
            z = z + torch.zeros_like(z).index_fill(1, torch.tensor([2]), torch.nan)
        if rank == 1 and self.training and at[0] == 3:
            z.register_hook(lambda gradient: gradient * torch.inf)
        return z

    def step(run: Any, learner: Any, number: int, *rest: Any) -> Any:
        at[0], before = number, [tensor.clone() for tensor in learner.weights.state_dict().values()]
        done = taken(run, learner, number, *rest)
        after = learner.weights.state_dict().values()
        unchanged.append(all(torch.equal(one, other) for one, other in zip(before, after, strict=True)))
        return done

    ContrastiveModel.forward, simclr.train.one_step = spoilt, step  # type: ignore[method-assign]
    pretrain_on(rank, world, port, config)
    torch.save(unchanged, f"{folder}/{rank}.pt")


def test_what_is_not_finite_on_one_process_is_skipped_by_all(
    ranks: Ranks, free_port: Port, tiny_run: TrainConfig, tmp_path: Path
) -> None:
    from simclr.replay import replay
    from simclr.run.log import read_metrics
    from simclr.run.skipped import read_skipped

    loop = replace(tiny_run.train, epochs=1, batch_size=16, log_every=100, knn_every=0, ema=0.9)
    config = replace(tiny_run, train=loop, data=replace(tiny_run.data, limit=80))
    ranks(2, poisoned_on, 2, free_port(), config, str(tmp_path))
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == [False, True, False, True, False]
    lines = read_metrics(config.run_dir / "metrics.jsonl")
    skipped = [line for line in lines if line["kind"] == "skipped"]
    image = EpochSampler(images=80, batch_size=16, seed=0).indices(1)[8 + 2].item()
    assert [(line["step"], line["what"], line["images"]) for line in skipped] == [
        (1, ["embedding", "loss", "gradient"], [f"image {image} of digits"]),
        (3, ["gradient"], []),
    ]
    assert all(tensor.isfinite().all() for tensor in load_file(config.run_dir / "encoder/encoder.safetensors").values())
    kept = read_skipped(config.run_dir / "skipped" / "step-00000001")
    assert list(kept.images) == EpochSampler(images=80, batch_size=16, seed=0).indices(1).tolist()
    assert (
        kept.processes == 2 and "this time the step is finite" in replay(config.run_dir / "skipped/step-00000001")[-1]
    )
