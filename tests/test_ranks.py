"""Every loss on several gloo processes is the loss of one: value, gradients, statistics, and what it remembers."""

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from test_every_mode import modes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from simclr.losses import (
    ArcFaceConfig,
    CosFaceConfig,
    CrossEntropyConfig,
    EmbeddedBatch,
    GivenLoss,
    LossConfig,
    MarginConfig,
    NTXentConfig,
    NTXentLoss,
    SIGRegLoss,
    SupConLoss,
    TripletLoss,
    nt_xent_reference,
)
from simclr.losses.loss import Loss
from simclr.losses.pair_loss import PairLossConfig
from simclr.objectives import OBJECTIVES, build_objective
from simclr.run.grad_cache import cached_step
from simclr.run.sharded import clip_gradients
from simclr.sharding import cut, is_sharded, local, on_host, whole

Ranks = Callable[..., None]
Port = Callable[[], int]


def port_of_its_own() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


IMAGES, DIM, CLASSES = 12, 5, 8


def each_mode() -> Iterator[tuple[str, LossConfig]]:
    """Every objective with each value of its switches, and what no single switch shows."""
    for config in OBJECTIVES:
        yield from modes(config)
        if issubclass(config, PairLossConfig):
            yield f"{config.name}, memory", config(memory=7, memory_from=0)
    yield "arcface, share", ArcFaceConfig(sample_share=0.1, subcenters=2)
    yield "margin, betas", MarginConfig(class_beta=True, sample_beta=True, nu=0.1, mining="all")
    yield "margin, betas, semi-hard", MarginConfig(class_beta=True, sample_beta=True, nu=0.1, mining="semi-hard")
    yield "nt-xent, cold", NTXentConfig(temperature=1e-3)


MODES = dict(each_mode())


def batch_of(views: int, config: LossConfig) -> EmbeddedBatch:
    generator = torch.Generator().manual_seed(views)
    z, keys = torch.randn(2, views, IMAGES, DIM, generator=generator, dtype=torch.float64).unbind()
    labels = torch.tensor([0, 1, 2, 0, 0, 1, 2, 1, 0, 2, 2, 1])
    if views == 1:  # a half in which no image has another of its class
        labels = torch.tensor([0, 0, 1, 1, 0, 1, 2, 3, 4, 5, 6, 7])
    return EmbeddedBatch(z, labels, torch.arange(IMAGES), 3, keys if config.needs_keys else None)


def found_by(config: LossConfig, batch: EmbeddedBatch) -> list[Any]:
    """Loss, gradient of z, those of parameters, statistics, and those of a next call where it remembers; at last its state."""
    objective = build_objective(config, classes=CLASSES, dim=DIM, samples=IMAGES, seed=0).double()
    found: list[Any] = []
    for step in range(1 + any(True for _ in objective.buffers())):
        z = batch.z.clone().add_(0.1 * step).requires_grad_()
        taken = dataclasses.replace(batch, z=z, seed=batch.seed + step)
        loss = objective(taken)
        objective.zero_grad()
        loss.backward()
        found.append((loss.detach(), z.grad, [p.grad for p in objective.parameters()], dict(objective.statistics)))
    return [*found, objective.state_dict()]


def own(batch: EmbeddedBatch, rank: int, world: int) -> EmbeddedBatch:
    part = slice(rank * IMAGES // world, (rank + 1) * IMAGES // world)
    keys = None if batch.keys is None else batch.keys[:, part]
    return EmbeddedBatch(batch.z[:, part], batch.labels[part], batch.indices[part], batch.seed, keys)


def meet(rank: int, world: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)


def all_found(rank: int, world: int, cases: list[tuple[str, int]]) -> dict[Any, Any]:
    found = {}
    for name, views in cases:
        try:
            found[name, views] = found_by(MODES[name], own(batch_of(views, MODES[name]), rank, world))
        except Exception as error:
            raise RuntimeError(f"{name} of {views} views") from error
    return found


def losses_on(rank: int, world: int, port: int, path: str, cases: list[tuple[str, int]]) -> None:
    meet(rank, world, port)
    torch.save(all_found(rank, world, cases), f"{path}/{rank}.pt")
    dist.destroy_process_group()


def assert_same(found: list[Any], wanted: list[Any], part: slice, world: int, said: str) -> None:
    close = {"rtol": 1e-9, "atol": 1e-11, "equal_nan": True, "msg": lambda text: f"{said}: {text}"}
    for ours, theirs in zip(found[:-1], wanted[:-1], strict=True):
        torch.testing.assert_close(ours[0], theirs[0], **close)
        torch.testing.assert_close(ours[1] / world, theirs[1][:, part], **close)
        torch.testing.assert_close(ours[2], theirs[2], **close)
        assert ours[3].keys() == theirs[3].keys(), said
        for name, value in theirs[3].items():
            torch.testing.assert_close(ours[3][name].double(), value.double(), **(close | {"rtol": 1e-6, "atol": 1e-7}))
    torch.testing.assert_close(found[-1], wanted[-1], **close)


def assert_all_same(parts: list[Any], cases: list[tuple[str, int]]) -> None:
    world = len(parts)
    for name, views in cases:
        wanted = found_by(MODES[name], batch_of(views, MODES[name]))
        for rank, found in enumerate(parts):
            part = slice(rank * IMAGES // world, (rank + 1) * IMAGES // world)
            assert_same(found[name, views], wanted, part, world, f"{name}, {views} views, rank {rank} of {world}")


class Sent(NamedTuple):
    """Bytes that a process receives, as good algorithms have it: a gather all other parts, a sum twice (W - 1) / W of them."""

    calls: dict[str, float]

    @contextmanager
    def counted(self) -> Iterator[None]:
        world, calls = dist.get_world_size(), self.calls

        def size(x: Tensor) -> float:
            return x.numel() * x.element_size() * (world - 1) / world

        def gather(parts: list[Tensor], x: Tensor, of: Any = dist.all_gather) -> Any:
            calls["gather"] = calls.get("gather", 0) + world * size(x)
            return of(parts, x)

        def scatter(out: Tensor, parts: list[Tensor], of: Any = dist.reduce_scatter) -> Any:
            calls["scatter"] = calls.get("scatter", 0) + world * size(out)
            return of(out, parts)

        def reduce(x: Tensor, of: Any = dist.all_reduce, **more: Any) -> Any:
            calls["sum"] = calls.get("sum", 0) + 2 * size(x)
            return of(x, **more)

        with (
            patch.object(dist, "all_gather", gather),
            patch.object(dist, "reduce_scatter", scatter),
            patch.object(dist, "all_reduce", reduce),
        ):
            yield


class Changed(NTXentLoss):
    """Says nothing of a part, and changes what the class that it derives from shares."""

    def forward(self, views: Tensor) -> Tensor:
        return 2 * super().forward(views) + views.square().mean()


def by_hand(z: Tensor) -> Tensor:
    return nt_xent_reference(z, 0.3)


SENT: dict[str, Loss] = {
    "nt-xent": NTXentLoss(),
    "supcon": SupConLoss(),
    "lejepa": SIGRegLoss(slices=8),
    "cross-entropy": build_objective(CrossEntropyConfig(), classes=CLASSES, dim=DIM, samples=1, seed=0).loss,
}
OWN: dict[str, Loss] = {"changed": Changed(0.3), "given": GivenLoss(by_hand), "given, ours": GivenLoss(NTXentLoss(0.3))}


DIVIDED: dict[str, tuple[LossConfig, int, bool]] = {
    "arcface": (ArcFaceConfig(), 10, False),
    "arcface, easy, sub-centres": (ArcFaceConfig(easy_margin=True, subcenters=3), 10, False),
    "arcface, narrow": (ArcFaceConfig(scale=2000.0), 10, True),
    "cosface, of a draw": (CosFaceConfig(sample_share=0.1, subcenters=2), 60, False),
    "cosface, fewer classes than processes": (CosFaceConfig(), 4, False),
}
"""Classes that no three processes divide evenly, and whether rows travel as bfloat16."""


def steps_of_divided(name: str, rank: int = 0, world: int = 1) -> list[Any]:
    """Steps with directions that are cut into rows of the processes, where there are several, clipped and with momentum."""
    config, classes, narrow = DIVIDED[name]
    objective = build_objective(config, classes=classes, dim=DIM, samples=IMAGES, seed=0).double()
    objective.narrow = narrow
    if world > 1:
        assert vars(type(objective.loss))["divides"]
        for key, together in objective.loss.divisible().items():
            value = objective.loss.get_parameter(key)
            setattr(objective.loss, key, nn.Parameter(cut(value, value.device, together)))
    weights = list(objective.parameters())
    optimizer = (torch.optim.AdamW if config.name == "arcface" else partial(torch.optim.SGD, momentum=0.9))(
        weights, 0.1
    )
    found: list[Any] = []
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        z = torch.randn(2, IMAGES, DIM, generator=generator, dtype=torch.float64)
        labels = torch.randint(classes, (IMAGES,), generator=generator)
        part = own(EmbeddedBatch(z, labels, torch.arange(IMAGES), step, None), rank, world)
        z = part.z.clone().requires_grad_()
        loss = objective(dataclasses.replace(part, z=rounded(z) if narrow and world == 1 else z))
        loss.backward()
        gradients, norm = [whole(p.grad).clone() for p in weights], clip_gradients(weights, 0.05)
        found.append((loss.detach(), z.grad, gradients, {**objective.statistics, "norm": norm}))
        optimizer.step()
        optimizer.zero_grad()
    state = [value for one in optimizer.state.values() for value in one.values()]
    with patch("simclr.sharding.AT_ONCE", 0):
        ends = [on_host(value, rank < 2) for value in (*weights, *state)]
        assert rank < 2 or ends == [None] * len(ends)
    found.append([*(whole(value).detach() for value in (*weights, *state)), objective.scores(z[0])])
    assert rank == 2 or all(map(torch.equal, ends, found[-1]))
    if world > 1:
        assert all(map(is_sharded, weights)) and sum(len(local(p)) for p in weights) < sum(map(len, weights))
        bad = z.detach().index_fill(1, torch.tensor([1]), torch.nan) if rank == 1 else z.detach()
        assert objective(dataclasses.replace(part, z=bad)).isnan()
    return found


def everything_on(rank: int, world: int, port: int, path: str, cases: list[tuple[str, int]]) -> None:
    meet(rank, world, port)
    found = all_found(rank, world, cases)
    part = own(batch_of(2, NTXentConfig()), rank, world)
    for name, loss in OWN.items():
        z = part.z.clone().requires_grad_()
        value = loss.on_ranks(dataclasses.replace(part, z=z))
        value.backward()
        found[name] = value.detach(), z.grad
    for narrow in (False, True):
        for name, loss in SENT.items():
            z, sent = part.z.float().requires_grad_(), Sent({})
            with sent.counted():
                value = loss.on_ranks(dataclasses.replace(part, z=z), narrow)
                value.backward()
            found["sent", name, narrow] = sent.calls
            z = part.z.clone().requires_grad_()
            value = loss.on_ranks(dataclasses.replace(part, z=z), narrow)
            value.backward()
            found["wire", name, narrow] = value.detach(), z.grad
    for name in DIVIDED:
        found["divided", name] = steps_of_divided(name, rank, world)
    loss = ArcFaceConfig().build(CLASSES, DIM, 1)
    loss.weight = nn.Parameter(cut(loss.weight, loss.weight.device))
    with (sent := Sent({})).counted():
        loss.on_ranks(dataclasses.replace(part, z=part.z.float().requires_grad_())).backward()
    found["divided"] = sent.calls
    with pytest.raises(RuntimeError, match="divided among processes: each calls on_ranks"):
        loss.on_batch(part)
    z = part.z.clone().requires_grad_()
    for loss in (NTXentLoss(), TripletLoss()):
        (gradient,) = torch.autograd.grad(loss.on_ranks(dataclasses.replace(part, z=z)), z, create_graph=True)
        with pytest.raises(NotImplementedError, match="gathered from 3 processes cannot be differentiated again; take"):
            gradient.square().sum().backward()
    torch.save(found, f"{path}/{rank}.pt")
    dist.destroy_process_group()


AS_THEY_ARE = [(name, 2) for name, config in MODES.items() if config == type(config)()]


@pytest.fixture(scope="module")
def on_three(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What three processes find, in one start of them."""
    path = tmp_path_factory.mktemp("three")
    ranks(3, everything_on, 3, port_of_its_own(), str(path), AS_THEY_ARE)
    return [torch.load(path / f"{rank}.pt") for rank in range(3)]


def test_every_objective_on_three_processes_is_that_of_one(on_three: list[Any]) -> None:
    assert {config for config, _ in AS_THEY_ARE} == {config.name for config in OBJECTIVES}
    assert_all_same(on_three, AS_THEY_ARE)


@pytest.mark.parametrize("name", OWN)
def test_a_loss_that_knows_nothing_of_processes_gets_the_whole_batch(on_three: list[Any], name: str) -> None:
    z = batch_of(2, NTXentConfig()).z.requires_grad_()
    wanted = 2 * by_hand(z) + z.square().mean() if name == "changed" else by_hand(z)
    wanted.backward()
    for rank, found in enumerate(on_three):
        value, gradient = found[name]
        torch.testing.assert_close(value, wanted.detach(), rtol=1e-9, atol=0)
        torch.testing.assert_close(gradient / 3, z.grad[:, 4 * rank : 4 * rank + 4], rtol=1e-9, atol=1e-12)


def rounded(z: Tensor) -> Tensor:
    return z + (z.detach().bfloat16().to(z.dtype) - z.detach())


def wanted_of_the_wire(name: str, batch: EmbeddedBatch, narrow: bool) -> tuple[Tensor, Tensor]:
    """NT-Xent of rows that were rounded at length 1, SupCon of rows that were rounded as they are; the others send none."""
    z, as_sent = batch.z.clone().requires_grad_(), rounded if narrow else lambda z: z
    if name == "nt-xent":
        rows = as_sent(F.normalize(z, dim=-1)).flatten(0, 1)
        logits = (rows @ rows.T / 0.5).fill_diagonal_(-torch.inf)
        loss = (logits.logsumexp(1) - logits[torch.arange(24), torch.arange(24).roll(12)]).mean()
    else:
        loss = SENT[name].on_batch(dataclasses.replace(batch, z=as_sent(z) if name == "supcon" else z))
    loss.backward()
    return loss.detach(), z.grad


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", SENT)
def test_what_is_sent_is_counted_and_what_rounding_changes_is_known(
    on_three: list[Any], name: str, narrow: bool
) -> None:
    views, images, dim, knots, slices = 2, IMAGES, DIM, 17, 8
    rows, width, share = views * images, 2 if narrow else 4, 2 / 3  # (W - 1) / W
    wanted = {
        "nt-xent": {"gather": (rows * dim * width + rows * 4) * share, "sum": 2 * 8 * share},
        "supcon": {
            "gather": (rows * dim * width + rows * 8) * share,
            "scatter": rows * dim * 4 * share,
            "sum": 2 * 16 * share,
        },
        "lejepa": {"sum": 2 * 8 * (2 * knots * views * slices + views * dim + 2) * share},
        "cross-entropy": {"sum": 2 * (4 * CLASSES * (dim + 1) + 8 * 3) * share},
    }[name]
    value, gradient = wanted_of_the_wire(name, batch_of(2, NTXentConfig()), narrow)
    for rank, found in enumerate(on_three):
        assert found["sent", name, narrow] == pytest.approx(wanted)
        ours, of_ours = found["wire", name, narrow]
        torch.testing.assert_close(ours, value, rtol=1e-9, atol=0)
        torch.testing.assert_close(of_ours / 3, gradient[:, 4 * rank : 4 * rank + 4], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", DIVIDED)
def test_directions_that_processes_divide_are_those_of_one(on_three: list[Any], name: str) -> None:
    wanted = steps_of_divided(name)
    for rank, found in enumerate(on_three):
        part = slice(4 * rank, 4 * rank + 4)
        ours, theirs = ([*steps["divided", name][:-1], None] for steps in (found, {("divided", name): wanted}))
        assert_same(ours, theirs, part, 3, f"{name}, rank {rank}")
        weights, *states, scores = found["divided", name][-1]
        torch.testing.assert_close([weights, *states], wanted[-1][:-1], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(scores, wanted[-1][-1][part], rtol=1e-9, atol=1e-11)


def test_what_divided_directions_send_does_not_grow_with_classes(on_three: list[Any]) -> None:
    rows = 2 * IMAGES
    for found in on_three:
        assert found["divided"] == pytest.approx(
            {
                "gather": 2 / 3 * rows * (4 * DIM + 8),
                "scatter": 2 / 3 * rows * 4 * DIM,
                "sum": 2 * 2 / 3 * (rows * (2 * 4 + 2 * 8) + 3 * 8),
            }
        )


@pytest.mark.slow
def test_every_switch_on_two_processes(ranks: Ranks, free_port: Port, tmp_path: Path) -> None:
    cases = [(name, 2) for name in MODES if (name, 2) not in AS_THEY_ARE]
    cases += [(name, 1) for name, config in MODES.items() if config.views == 1]
    ranks(2, losses_on, 2, free_port(), str(tmp_path), cases)
    assert_all_same([torch.load(tmp_path / f"{rank}.pt") for rank in range(2)], cases)


@pytest.mark.long
@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_switch(ranks: Ranks, free_port: Port, tmp_path: Path, world: int, views: int) -> None:
    cases = [(name, views) for name in MODES]
    ranks(world, losses_on, world, free_port(), str(tmp_path), cases)
    assert_all_same([torch.load(tmp_path / f"{rank}.pt") for rank in range(world)], cases)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(DIM, 16), nn.Tanh(), nn.Linear(16, DIM)).double()


def trained(name: str, views: int, cached: bool, rank: int = 0, world: int = 1) -> list[Any]:
    """Losses of 20 steps, the gradients of the last, and the weights of network and loss after it."""
    config = MODES[name]
    objective = build_objective(config, classes=CLASSES, dim=DIM, samples=IMAGES, seed=0).double()
    plain, frozen = network(0), network(1)
    net = DistributedDataParallel(plain) if world > 1 else plain
    learning = [*plain.parameters(), *objective.parameters()]
    optimizer = torch.optim.SGD(learning, lr=0.02, momentum=0.9)
    losses = []
    for step in range(20):
        x = torch.randn(views, IMAGES, DIM, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        whole = dataclasses.replace(batch_of(2, config), z=x, keys=frozen(x).detach() if config.needs_keys else None)
        part = own(dataclasses.replace(whole, seed=step), rank, world)
        done = cached_step(
            net,
            part.z,
            lambda z, part=part: objective(dataclasses.replace(part, z=z)),  # type: ignore[misc]
            chunk=1 if cached else IMAGES,
        )
        losses.append(done.loss.item())
        gradients = [None if p.grad is None else p.grad.clone() for p in learning]
        optimizer.step()
        optimizer.zero_grad()
    return [losses, gradients, [*plain.state_dict().values(), *objective.state_dict().values()]]


RUNS = [(name, 2 if number % 2 else 4, number % 3 == 0) for number, name in enumerate(MODES)]
"""Two and four views, and gradient caching, in turn."""


def trained_on(rank: int, world: int, path: str, runs: list[tuple[str, int, bool]], port: int | None = None) -> None:
    if port is not None:
        meet(rank, world, port)
    torch.save([trained(*run, rank, world) for run in runs], f"{path}/{rank}.pt")
    dist.destroy_process_group()


def assert_trained_alike(path: Path, world: int, runs: list[tuple[str, int, bool]]) -> None:
    wanted = [trained(*run) for run in runs]
    for rank in range(world):
        for run, ours, theirs in zip(runs, torch.load(path / f"{rank}.pt"), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9, msg=lambda text, run=run: f"{run}: {text}")


@pytest.mark.long
@pytest.mark.parametrize("world", [2, 3, 4])
def test_twenty_steps(ranks: Ranks, free_port: Port, tmp_path: Path, world: int) -> None:
    port = free_port()
    ranks(world, start_training, world, str(tmp_path), RUNS, port)
    assert_trained_alike(tmp_path, world, RUNS)


def start_training(rank: int, world: int, path: str, runs: list[tuple[str, int, bool]], port: int) -> None:
    trained_on(rank, world, path, runs, port)


LAUNCHERS = {
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port"],
    "torchrun": ["torch.distributed.run", "--nproc_per_node", "2", "--master_port"],
}


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_twenty_steps_as_people_start_them(launcher: str, free_port: Port, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import os\n"
        "from accelerate import Accelerator\n"
        "import test_ranks\n"
        "torch_of = Accelerator()\n"
        "assert torch_of.num_processes == 2\n"
        f"test_ranks.trained_on(torch_of.process_index, 2, {str(tmp_path)!r}, test_ranks.RUNS[:12])\n"
    )
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", *LAUNCHERS[launcher], str(free_port()), str(script)]
    environment = os.environ | {"PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_trained_alike(tmp_path, 2, RUNS[:12])
