"""Memory that runs out is one line with what takes it and what helps; activations that are not kept leave every bit as it was."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import simclr
from simclr.command_line import run_command
from simclr.config import EncoderConfig, TrainConfig
from simclr.errors import ConfigError, DataError, OutOfMemoryError
from simclr.memory import memory_in_words, ran_out
from simclr.model.encoder import checkpoint_activations
from simclr.run.grad_cache import cached_step

ROOT = Path(__file__).parent.parent

RAISED: dict[str, Callable[[], object]] = {
    "torch on a CPU": lambda: torch.empty(10**15),
    "torch, more than a number holds": lambda: torch.empty(10**10, 10**10),
    "numpy": lambda: np.empty(10**15),
    "Python": lambda: bytearray(10**17),
}
SAID: list[Exception] = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("Caught RuntimeError in a worker.\nOriginal Traceback\nDefaultCPUAllocator: can't allocate memory"),
    OSError(12, "Cannot allocate memory"),
]  # fmt: skip


@pytest.mark.parametrize("source", RAISED)
def test_what_allocators_raise_here_is_known(source: str) -> None:
    with pytest.raises(OutOfMemoryError) as error, memory_in_words("a", "b"):
        RAISED[source]()
    assert str(error.value).startswith("memory ran out: at most ") and str(error.value).endswith(
        "What takes it: a. What helps: b"
    )


@pytest.mark.parametrize("raised", SAID, ids=lambda error: str(error)[:30])
def test_what_allocators_say_elsewhere_is_known(raised: Exception) -> None:
    assert ran_out(raised)
    with pytest.raises(OutOfMemoryError) as error, memory_in_words("a", "b"):
        raise raised
    assert "\n" not in str(error.value)
    assert ("when 2.50 GiB more were asked for" in str(error.value)) == ("2.50 GiB" in str(raised))


@pytest.mark.parametrize(
    "raised", [RuntimeError("shapes cannot be multiplied"), OSError(28, "No space left"), DataError("x"), KeyError("x")]
)
def test_other_errors_pass_as_they_are(raised: Exception) -> None:
    with pytest.raises(type(raised)) as error, memory_in_words("a", "b"):
        raise raised
    assert error.value is raised


def test_words_of_training_are_not_told_again_by_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(words: list[str]) -> int:
        monkeypatch.setenv("RANK", "1")  # the others have nothing to say of it
        with memory_in_words("the batch", "less"):
            raise MemoryError

    assert run_command(main, keep_memory=False) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: process 1: memory ran out") and said.endswith("the batch. What helps: less\n")


def gone_on(rank: int, port: int, path: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)

    def main(words: list[str]) -> int:
        while True:
            torch.distributed.all_reduce(torch.ones(4))
            if rank == 1:
                torch.empty(10**15)

    with Path(f"{path}/{rank}.txt").open("w") as said, redirect_stderr(said):
        code = run_command(main, keep_memory=False)
        said.write(f"exit {code}\n")
    os._exit(0)


@pytest.mark.long
def test_where_one_process_runs_out_the_others_end_with_a_line(
    ranks: Callable[..., None], free_port: Callable[[], int], tmp_path: Path
) -> None:
    ranks(2, gone_on, free_port(), str(tmp_path))
    others, first = (Path(tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert first.startswith("error: process 1: memory ran out") and first.endswith("exit 2\n")
    assert others == "error: process 0: another process of this run is gone, and its own line says why\nexit 1\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--head.out-dim 1000000000", "head.out_dim 1000000000"),
        pytest.param("--data.size 100000", "data.size 100000", marks=pytest.mark.long),
        pytest.param("--augment.size 100000", "augment.size 100000", marks=pytest.mark.long),
    ],
)
def test_a_command_that_asks_for_too_much_is_one_line(flags: str, named: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "pretrain.py"), "--out", str(tmp_path), *flags.split()],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (10 << 30, 10 << 30)),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: memory ran out: at most ") and done.stderr.count("\n") == 1
    for word in (named, "--train.cached-chunk 64", "--train.activation-checkpointing", "more were asked for"):
        assert word in done.stderr


def test_memory_that_runs_out_in_a_step_ends_the_run_in_words_and_keeps_its_checkpoint(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = simclr.train.one_step

    def step(run: Any, learner: Any, number: int, *rest: Any) -> Any:
        return torch.empty(10**15) if number == 4 else taken(run, learner, number, *rest)

    monkeypatch.setattr("simclr.train.one_step", step)
    config = replace(tiny_run, train=replace(tiny_run.train, cached_chunk=30, activation_checkpointing=True))
    with pytest.raises(OutOfMemoryError, match=r"train\.batch_size 128, .*--train\.cached-chunk 15 ") as error:
        simclr.pretrain(config)
    assert "activation-checkpointing" not in str(error.value)
    assert [path.name for path in (config.run_dir / "checkpoints").iterdir()] == ["step-00000003"]


def weights_of(config: TrainConfig) -> dict[str, torch.Tensor]:
    simclr.pretrain(config)
    return simclr.load_encoder(config.run_dir).backbone.state_dict()


@pytest.mark.parametrize("change", [{}, {"cached_chunk": 48}, {"ema": 0.9}], ids=str)
def test_a_run_that_computes_activations_again_ends_with_the_same_bits(
    change: dict[str, Any], tiny_run: TrainConfig
) -> None:
    """BatchNorm's running statistics and dropped paths included."""
    config = replace(tiny_run, encoder=replace(tiny_run.encoder, drop_path=0.2))
    config = replace(config, train=replace(config.train, knn_every=0, **change))
    again = replace(config.train, activation_checkpointing=True)
    kept, computed = weights_of(config), weights_of(replace(config, name="again", train=again))
    assert all(torch.equal(kept[name], computed[name]) for name in kept)


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050", "efficientnet_b0", "regnetx_002"]
)  # fmt: skip
def test_gradients_and_statistics_are_those_of_kept_activations(name: str) -> None:
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        net = timm.create_model(name, num_classes=0, **({"img_size": 32} if name.startswith("vit") else {})).train()
        if again:
            checkpoint_activations(net, name)
        held = 0

        def saved(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal held
            held += tensor.nbytes
            return tensor

        views = torch.randn(2, 3, 3, 32, 32)
        forward = Views(net)
        with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
            forward_only = forward(views)
        kept = held
        del forward_only
        net.zero_grad()
        torch.manual_seed(1)
        for buffer in net.buffers():
            with suppress(RuntimeError):
                buffer.fill_(1)
        cached_step(forward, views, lambda z: z.square().mean(), chunk=3)
        found.append((kept, [p.grad for p in net.parameters()], list(net.buffers())))
    (all_kept, gradients, buffers), (some_kept, same_gradients, same_buffers) = found
    assert some_kept < 0.7 * all_kept
    assert all(torch.equal(one, other) for one, other in zip(gradients, same_gradients, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(buffers, same_buffers, strict=True))


class Views(torch.nn.Module):
    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        return self.backbone(views.flatten(0, 1)).unflatten(0, views.shape[:2])


def test_a_network_without_the_way_is_refused_by_name(tiny_run: TrainConfig) -> None:
    without = next(name for name in ("vgg11", "dla34", "selecsls42") if timm.is_model(name))
    net = timm.create_model(without, num_classes=0)
    with pytest.raises(ConfigError, match=f"timm's {without} cannot compute its activations again; use --train.cached"):
        checkpoint_activations(net, without)
    config = replace(tiny_run, encoder=EncoderConfig(name=without), augment=replace(tiny_run.augment, size=64))
    with pytest.raises(ConfigError, match="cannot compute its activations again"):
        simclr.pretrain(replace(config, train=replace(config.train, activation_checkpointing=True)))
    assert not config.run_dir.exists()
