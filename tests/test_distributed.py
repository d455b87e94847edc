"""Several processes are one: two and three gloo processes give the gradient and the weights of a single one."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from simclr.config import TrainConfig
from simclr.distributed import any_rank, derive_seed, gather_rows
from simclr.losses.nt_xent import NTXentLoss, nt_xent_reference


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


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
    loss = NTXentLoss(0.2)(gather_rows(z))
    loss.backward()
    assert any_rank(rank == world - 1, torch.device("cpu"))
    assert not any_rank(False, torch.device("cpu"))
    torch.save((loss.detach(), [p.grad for p in net.parameters()]), f"{path}/{rank}.pt")
    dist.destroy_process_group()


def test_gradient_equals_one_process(tmp_path: Path) -> None:
    world = 3
    torch.manual_seed(1)
    x = torch.randn(2, 6, 6, dtype=torch.float64)
    torch.save(x, tmp_path / "x.pt")
    net = model()
    loss = nt_xent_reference(net(x.flatten(0, 1)).unflatten(0, (2, 6)), 0.2)
    loss.backward()
    mp.spawn(gradient_on, (world, free_port(), str(tmp_path)), nprocs=world)
    for rank in range(world):
        value, gradients = torch.load(tmp_path / f"{rank}.pt")
        assert value.item() == pytest.approx(loss.item(), rel=1e-12)
        for ours, p in zip(gradients, net.parameters()):
            torch.testing.assert_close(ours, p.grad, rtol=1e-9, atol=1e-12)


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


def test_a_run_on_two_processes_ends_where_one_does(tiny_run: TrainConfig) -> None:
    """An encoder without batch statistics, so that nothing but rounding may differ."""
    import simclr

    config = replace(
        tiny_run,
        encoder=replace(tiny_run.encoder, name="convnext_atto", layers=None, channels=None),
        head=replace(tiny_run.head, batch_norm=False),
        augment=replace(tiny_run.augment, size=32),
        optim=replace(tiny_run.optim, name="sgd", learning_rate=0.05),
        train=replace(tiny_run.train, epochs=1, batch_size=32, checkpoint_every=100, knn_every=0),
        data=replace(tiny_run.data, limit=128),
    )
    one = simclr.pretrain(replace(config, name="one"))
    mp.spawn(pretrain_on, (2, free_port(), replace(config, name="two")), nprocs=2)
    alone, shared = simclr.load_encoder(one.run_dir), simclr.load_encoder(config.out / "two")
    start = simclr.load_encoder(one.run_dir, untrained=True)
    flat = [torch.cat([p.detach().flatten() for p in encoder.parameters()]) for encoder in (alone, shared, start)]
    moved, apart = (flat[0] - flat[2]).norm(), (flat[0] - flat[1]).norm()
    assert moved > 0.01
    assert apart < 1e-3 * moved


def test_seeds_are_spread_and_repeatable() -> None:
    seeds = {derive_seed(0, "views", step) for step in range(1000)} | {
        derive_seed(s, "views", 0) for s in range(1, 1000)
    }
    assert len(seeds) == 1999
    assert derive_seed(1, "2") != derive_seed("1", 2) != derive_seed(12)
