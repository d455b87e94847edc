"""FSDP2 through accelerate: two gloo processes with the weights in shards end where two whole ones and a single one do."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from simclr.config import EncoderConfig, SamplerConfig, TrainConfig
from simclr.errors import ConfigError
from simclr.losses import ArcFaceConfig, CrossEntropyConfig, MoCoConfig, NTXentConfig, TripletConfig
from simclr.optim.muon import Muon
from simclr.optim.optimizers import LARS
from simclr.run.log import read_metrics
from simclr.run.sharded import _blocks, clip_gradients, refuse_engine
from simclr.sharding import fill, local, whole

Ranks = Callable[..., None]
Port = Callable[[], int]

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def several_on(rank: int, world: int, runs: dict[int, tuple[TrainConfig, dict[str, str]]]) -> None:
    """Runs one after the other on this rank, each at a port and with settings of accelerate's of its own."""
    import simclr.train

    for name in ("draw_curves", "draw_first_views"):
        setattr(simclr.train, name, lambda *args: None)
    torch.set_num_threads(1)
    for port, (config, settings) in runs.items():
        here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {**here, "WORLD_SIZE": str(world), "ACCELERATE_USE_CPU": "true", **settings}
        try:
            simclr.pretrain(config)
        finally:
            for key in settings:
                del os.environ[key]


def begin(run: Path, other: Path, step: int) -> None:
    """Make of ``run`` an ``other`` that was stopped after ``step`` steps."""
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("encoder"))
    for folder in (other / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]


def scores(run: Path) -> list[float]:
    return [line[key] for line in read_metrics(run / "metrics.jsonl") for key in line if key.endswith(("knn", "cka"))]


def kept(run: Path, step: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    folder = run / "checkpoints" / f"step-{step:08}"
    return load_file(folder / "model.safetensors"), torch.load(folder / "state.pt", weights_only=True)["optimizer"]


def apart(one: Path, two: Path, step: int, begun: int) -> float:
    """How far the weights of two runs are apart after ``step`` steps, in parts of the way that the first took since ``begun``."""
    (before, _), (a, states), (b, others) = kept(one, begun), kept(one, step), kept(two, step)
    assert {n: t.shape for n, t in a.items()} == {n: t.shape for n, t in b.items()}
    assert states["param_groups"] == others["param_groups"] and states["state"].keys() == others["state"].keys()
    for number, state in states["state"].items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                assert (
                    value.shape == others["state"][number][key].shape
                    and value.dtype == others["state"][number][key].dtype
                )
    moving = [n for n in a if a[n].is_floating_point()]
    moved = sum((a[n].double() - before[n].double()).square().sum().item() for n in moving) ** 0.5
    assert moved > 1e-3
    return sum((a[n].double() - b[n].double()).square().sum().item() for n in moving) ** 0.5 / moved


@pytest.fixture
def base(tiny_run: TrainConfig, tmp_path: Path) -> TrainConfig:
    """A ViT of timm's on digits at 32 px, two epochs of two steps, a checkpoint after each step."""
    return replace(
        tiny_run,
        augment=replace(tiny_run.augment, size=32),
        encoder=EncoderConfig(name="test_vit"),
        head=replace(tiny_run.head, out_dim=15, batch_norm=False),
        objective=NTXentConfig(temperature_learned=True),
        optim=replace(tiny_run.optim, name="adamw", learning_rate=1e-3, clip_norm=1.0, layer_decay=0.8),
        schedule=replace(tiny_run.schedule, warmup_epochs=0, decay="constant"),
        train=replace(
            tiny_run.train, batch_size=24, checkpoint_every=1, keep_checkpoints=9, log_every=1, knn_every=1, ema=0.5
        ),
        data=replace(tiny_run.data, limit=48),
    )


def matrix(base: TrainConfig) -> dict[str, tuple[TrainConfig, float, bool]]:
    """Runs by what they try: the config, how far shards may end from whole weights, and whether one process is the same run."""

    def optim(name: str, rate: float, **more: Any) -> TrainConfig:
        return replace(base, optim=replace(base.optim, name=name, learning_rate=rate, **more))

    one_view, linear = replace(base.augment, views=1), replace(base.head, layers=1)
    plain = replace(base.train, ema=None)
    triplets = TripletConfig(mining="given", margin=0.5)
    norms = replace(base, encoder=EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 15)))
    moco = MoCoConfig(momentum=0.9, momentum_schedule="cosine", negatives="other", temperature_learned=True)
    return {
        "adamw": (base, 3e-4, True),
        "sgd": (optim("sgd", 0.05), 3e-4, True),
        "lars": (optim("lars", 0.5, trust=0.1, layer_decay=1.0), 3e-4, True),
        "muon": (optim("muon", 0.01), 0.4, True),
        "chunks": (replace(base, train=replace(base.train, cached_chunk=5)), 3e-4, True),
        "again": (replace(base, train=replace(base.train, activation_checkpointing=True)), 3e-4, True),
        "moco": (replace(base, objective=moco, train=plain), 3e-4, True),
        "head": (replace(base, schedule=replace(base.schedule, head_epochs=1)), 3e-4, True),
        "frozen": (replace(base, encoder=replace(base.encoder, frozen_layers=3)), 3e-4, True),
        "norms": (norms, 3e-4, False),
        "chunked-norms": (replace(norms, train=replace(base.train, cached_chunk=5, ema=None)), 3e-4, False),
        "convnext": (replace(base, encoder=EncoderConfig(name="test_convnext")), 3e-4, True),
        "classes": (replace(base, objective=ArcFaceConfig(scale=8.0), head=linear, augment=one_view), 3e-4, True),
        "mined": (
            replace(
                base,
                objective=triplets,
                head=linear,
                augment=one_view,
                train=plain,
                sampler=SamplerConfig(name="mined", mine_images=40),
            ),
            3e-4,
            True,
        ),
        "validated": (
            replace(
                base,
                objective=CrossEntropyConfig(),
                head=linear,
                augment=one_view,
                data=replace(base.data, validation=0.25, limit=64),
            ),
            3e-4,
            True,
        ),
        "half": (replace(base, train=replace(base.train, precision="bf16")), 2e-2, False),
    }


def parts_on(rank: int, world: int, port: int, path: str) -> None:
    """What processes make of parts, beside what one makes of the whole, in float64."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    torch.manual_seed(0)
    shapes = [(5, 7), (2, 6), (9, 2, 2, 2), (4,), (3, 3), (1,), (6, 9)]
    values = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    gradients = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    own = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))  # an objective's, whole in every process

    def parts(wholes: list[torch.Tensor]) -> list[torch.Tensor]:
        return [distribute_tensor(value.clone(), mesh, [Shard(0)]) for value in wholes]

    found: dict[str, Any] = {"rows": [local(part).shape[0] for part in parts(values)]}
    assert all(torch.equal(whole(part), value) for part, value in zip(parts(values), values, strict=True))
    emptied = parts([torch.zeros_like(value) for value in values])
    for part, value in zip(emptied, values, strict=True):
        fill(part, value)
    assert all(torch.equal(whole(part), value) for part, value in zip(emptied, values, strict=True))
    for name, build in (
        ("lars", lambda groups: LARS(groups, lr=0.3, weight_decay=0.1, trust=0.5)),
        ("lars clipped", lambda groups: LARS(groups, lr=0.3, weight_decay=0.1, trust=0.06, clip=True)),
        ("muon", lambda groups: Muon(groups, lr=0.3, weight_decay=0.1)),
        ("sgd", lambda groups: torch.optim.SGD(groups, lr=0.3, momentum=0.9, nesterov=True, foreach=True)),
        ("adamw", lambda groups: torch.optim.AdamW(groups, lr=0.3, foreach=True)),
    ):
        ends, lengths = [], []
        for make in (parts, lambda wholes: [value.clone() for value in wholes]):
            weights = [torch.nn.Parameter(part) for part in make(values)]
            optimizer = build([{"params": weights}, {"params": [own.detach().clone().requires_grad_()]}])
            learned = [p for group in optimizer.param_groups for p in group["params"]]
            for step in (1.0, -0.5):
                for p, gradient in zip(learned, [*make(gradients), torch.ones(3, dtype=torch.float64)], strict=True):
                    p.grad = gradient * step
                lengths.append(clip_gradients(learned, 2.0))
                optimizer.step()
            ends.append([whole(p).detach() for p in learned])
        near = 1e-6 if name.startswith("lars") else 1e-9  # its norms are float32
        torch.testing.assert_close(ends[0], ends[1], rtol=near, atol=near, msg=name)
        torch.testing.assert_close(lengths[:2], lengths[2:])
    torch.save(found, f"{path}/{rank}.pt")
    dist.destroy_process_group()


def parts_and_runs_on(rank: int, port: int, path: str, runs: dict[int, tuple[TrainConfig, dict[str, str]]]) -> None:
    parts_on(rank, 2, port, path)
    several_on(rank, 2, runs)


@pytest.mark.parametrize(
    ("settings", "precision", "said"),
    [
        (
            {"ACCELERATE_USE_FSDP": "true"},
            "fp32",
            "set to FSDP of version 1 .fsdp_version.; .* --use_fsdp --fsdp_version 2$",
        ),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true"},
            "fp32",
            "set to use_deepspeed, with which nothing trains here; .* 2$",
        ),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "fp32", "set to use_megatron_lm"),
        ({**FSDP, "ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "fp32", "set to use_parallelism_config"),
        (FSDP, "fp16", "train.precision=fp16 does not go with FSDP; set --train.precision bf16 or fp32"),
        (
            {**FSDP, "FSDP_OFFLOAD_PARAMS": "true"},
            "bf16",
            "fsdp_offload_params, which no run here can; set it to false",
        ),
        ({**FSDP, "FSDP_IGNORED_MODULES": ".*head"}, "bf16", "fsdp_ignored_modules, whose gradients nothing adds up"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(
    settings: dict[str, str], precision: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said):
        refuse_engine(precision)


def test_a_block_is_what_timm_calls_one() -> None:
    """The last block too, which timm's layers put together with the norm behind it."""
    with torch.device("meta"):
        vit, resnet, convnext = (
            timm.create_model(name, num_classes=0) for name in ("vit_tiny_patch16_224", "resnet26", "convnext_atto")
        )
    assert _blocks(vit) == list(vit.blocks)
    assert _blocks(resnet) == [block for layer in (1, 2, 3, 4) for block in getattr(resnet, f"layer{layer}")]
    found = _blocks(convnext)
    for stage in convnext.stages:  # what holds others comes behind them
        places = [found.index(block) for block in stage.blocks]
        assert stage not in found or max(places) < found.index(stage)


@pytest.mark.slow
def test_optimizers_step_parts_as_wholes_and_runs_move_between_the_two(
    ranks: Ranks, free_port: Port, base: TrainConfig, tmp_path: Path
) -> None:
    import simclr

    alone = replace(base, out=tmp_path / "alone")
    simclr.pretrain(alone)
    shards, to_whole = replace(base, out=tmp_path / "shards"), replace(base, out=tmp_path / "to_whole")
    to_shards = replace(base, out=tmp_path / "to_shards")
    begin(alone.run_dir, to_shards.run_dir, 2)
    runs = {free_port(): (shards, FSDP), free_port(): (to_shards, FSDP)}
    ranks(2, parts_and_runs_on, free_port(), str(tmp_path), runs)
    rows = [torch.load(tmp_path / f"{rank}.pt")["rows"] for rank in range(2)]
    assert rows == [[3, 1, 5, 2, 2, 1, 3], [2, 1, 4, 2, 1, 0, 3]]
    begin(shards.run_dir, to_whole.run_dir, 2)
    simclr.pretrain(to_whole)
    for run in (shards, to_shards, to_whole):
        assert apart(alone.run_dir, run.run_dir, 4, 1) < 3e-4
        assert losses(run.run_dir)[-2:] == pytest.approx(losses(alone.run_dir)[-2:], rel=1e-5)
        assert scores(run.run_dir)[-1] == pytest.approx(scores(alone.run_dir)[-1], abs=0.2)
        encoder = load_file(run.run_dir / "encoder" / "encoder.safetensors")
        average, _ = kept(run.run_dir, 4)
        assert all(
            torch.equal(tensor, average[f"average.module.model.backbone.{name}"]) for name, tensor in encoder.items()
        )


def poisoned_on(rank: int, port: int, config: TrainConfig, folder: str, at_once: bool) -> None:
    """Rank 1 alone has an embedding that is not finite at step 1, and at step 3 nothing but a gradient."""
    import simclr.train
    from simclr.model.contrastive import ContrastiveModel
    from simclr.run import parts
    from simclr.run.undo import Undo

    forward, taken, at = ContrastiveModel.forward, simclr.train.one_step, [0]
    unchanged: list[bool] = []

    def spoilt(self: ContrastiveModel, views: torch.Tensor) -> torch.Tensor:
        z = forward(self, views)
        if rank == 1 and self.training and at[0] == 1:
            z = z + torch.zeros_like(z).index_fill(1, torch.tensor([2]), torch.nan)
        if rank == 1 and self.training and at[0] == 3:
            z.register_hook(lambda gradient: gradient * torch.inf)
        return z

    def held(learner: Any) -> list[torch.Tensor]:
        states = (t for one in learner.optimizer.state.values() for t in one.values() if isinstance(t, torch.Tensor))
        return [local(tensor).clone() for tensor in (*learner.weights.state_dict().values(), *states)]

    def step(run: Any, learner: Any, number: int, *rest: Any) -> Any:
        at[0], before = number, held(learner)
        done = taken(run, learner, number, *rest)
        unchanged.append(all(torch.equal(one, other) for one, other in zip(before, held(learner), strict=False)))
        return done

    ContrastiveModel.forward, simclr.train.one_step = spoilt, step  # type: ignore[method-assign]
    parts.Undo = partial(Undo, at_once=at_once)  # type: ignore[misc]
    several_on(rank, 2, {port: (config, FSDP)})
    torch.save(unchanged, f"{folder}/{rank}.pt")


@pytest.mark.long
@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_not_finite_on_one_process_changes_no_shard(
    ranks: Ranks, free_port: Port, base: TrainConfig, tmp_path: Path, at_once: bool
) -> None:
    config = replace(base, optim=replace(base.optim, name="lars", layer_decay=1.0), data=replace(base.data, limit=120))
    config = replace(config, train=replace(config.train, epochs=1))
    ranks(2, poisoned_on, free_port(), config, str(tmp_path), at_once)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == [False, True, False, True, False]
    skipped = [line for line in read_metrics(config.run_dir / "metrics.jsonl") if line["kind"] == "skipped"]
    assert [(line["step"], line["what"]) for line in skipped] == [
        (1, ["embedding", "loss", "gradient"]),
        (3, ["gradient"]),
    ]
    weights = load_file(config.run_dir / "skipped" / "step-00000001" / "weights.safetensors")
    assert {n: t.shape for n, t in weights.items()} == {n: t.shape for n, t in kept(config.run_dir, 5)[0].items()}


@pytest.mark.long
def test_every_kind_of_run_in_shards(ranks: Ranks, free_port: Port, base: TrainConfig, tmp_path: Path) -> None:
    import simclr

    chosen = os.environ.get("FSDP_ONLY", "").split()
    runs = {name: run for name, run in matrix(base).items() if not chosen or name in chosen}
    both = {}
    for name, (config, _, _) in runs.items():
        both[free_port()] = (replace(config, name=name, out=tmp_path / "whole"), {})
        both[free_port()] = (replace(config, name=name, out=tmp_path / "shards"), FSDP)
    ranks(2, several_on, 2, both)
    wrong = {}
    for name, (config, near, same) in runs.items():
        whole, shards = tmp_path / "whole" / name, tmp_path / "shards" / name
        found = [apart(whole, shards, 4, 1)]
        if same:
            alone = simclr.pretrain(replace(config, name=name, out=tmp_path / "alone"))
            found.append(apart(alone.run_dir, shards, 4, 1))
        off = max(abs(a - b) / abs(a) for a, b in zip(losses(whole), losses(shards), strict=True))
        print(name, found, off, scores(whole), scores(shards))
        if max(*found, off) > near or scores(whole) != pytest.approx(scores(shards), abs=0.05):
            wrong[name] = (found, off, scores(whole), scores(shards))
        exported = [load_file(run / "encoder" / "encoder.safetensors") for run in (whole, shards)]
        assert exported[0].keys() == exported[1].keys()
    assert not wrong
