"""Where a run runs: the Accelerator, the arithmetic that the device does natively, torch.compile, the run's first line."""

import os
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from simclr.config import LoopConfig, TrainConfig
from simclr.config.yaml import flat_fields, to_dict
from simclr.data import ImageSet
from simclr.distributed import rank
from simclr.errors import LaunchError
from simclr.numerics import native_bf16
from simclr.processes import agree, code_digest, on_cpu, process_group
from simclr.run.flops import model_flops, peak_flops
from simclr.run.profile import StepProfile
from simclr.run.sharded import refuse_engine, take_fsdp
from simclr.sharding import is_sharded

__all__ = [
    "CompiledModel",
    "make_accelerator",
    "maybe_compiled",
    "opening_line",
    "report_profile",
    "resolved_precision",
]


def make_accelerator(config: TrainConfig) -> Accelerator:
    """The process group, placement, precision and trackers of a run.

    Raises:
        ConfigError: processes that were started with different settings, versions or devices, or accelerate is set to what
            a run cannot do.
        LaunchError: processes that do not see each other, or are more than GPUs.
    """
    # accelerate keeps one state a process, which would refuse a second run of another precision.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    agree(_settings(config), "start the same command and the same version on all machines")
    process_group()
    several = int(os.environ.get("WORLD_SIZE", "1"))
    precision = resolved_precision(config.train)
    refuse_engine(precision)
    accelerator = Accelerator(
        cpu=True if several > 1 and on_cpu() else None,
        mixed_precision="no" if precision == "fp32" else precision,
        log_with=list(config.train.trackers) or None,
        project_dir=config.run_dir,
        # While only the head learns, the backbone's weights get no gradient that processes could wait for.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=config.schedule.head_epochs > 0)],
    )
    take_fsdp(accelerator)
    if several != accelerator.num_processes:
        raise LaunchError(
            f"the launcher started {several} processes (WORLD_SIZE), and each sees {accelerator.num_processes}: ask accelerate's "
            "config for nothing but data parallel training, or start one process"
        )
    if accelerator.gradient_accumulation_steps != 1:
        if accelerator.is_main_process:
            print(
                f"note: accelerate is set to accumulate gradients over {accelerator.gradient_accumulation_steps} batches, "
                "which this loop does not do: a contrastive loss gains no negatives by it. train.cached_chunk compares the "
                "whole of a batch that does not fit at once",
                file=sys.stderr,
            )
        accelerator.gradient_accumulation_steps = 1  # or accelerate divides every loss by it
    return accelerator


def _settings(config: TrainConfig) -> dict[str, object]:
    """What all processes must have in common before they begin."""
    settings = {name: value for name, value in flat_fields(to_dict(config)).items() if name not in ("data.path", "out")}
    versions = {f"the version of {name}": version(name) for name in ("torch", "torchvision", "timm", "accelerate")}
    device = "CPUs" if on_cpu() else "a GPU"
    code, precision = code_digest(), resolved_precision(config.train)
    return settings | versions | {"a digest of simclr": code, "to train on": device, "an arithmetic of": precision}


def resolved_precision(loop: LoopConfig) -> str:
    """The arithmetic of the encoder on this device: "fp32", "bf16" or "fp16", where ``auto`` is decided."""
    if loop.precision != "auto":
        return loop.precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bf16" if native_bf16(device) else "fp32"


def opening_line(
    config: TrainConfig, images: ImageSet, model: nn.Module, accelerator: Accelerator, done: int, total_steps: int
) -> str:
    """What is trained on what, where, and from which step on."""
    size = sum(p.numel() for p in model.parameters()) / 1e6
    where = f"{accelerator.num_processes} x {accelerator.device.type}{' (FSDP2)' if accelerator.is_fsdp2 else ''}"
    if done >= total_steps:
        return f"{config.run_dir} is finished: {done} steps"
    start = f"continuing {config.run_dir} at step {done} of {total_steps}" if done else f"starting {config.run_dir}"
    kept = "on the device" if images.pixels is not None else "decoded by workers"
    return (
        f"{start}: {len(images)} images of {images.name} ({kept}), {config.encoder.name} with its head {size:.2f}M "
        f"parameters, {config.objective.name}, {total_steps} steps of {config.train.batch_size} images, {where}, "
        f"{resolved_precision(config.train)}"
    )


def report_profile(
    profile: StepProfile, config: TrainConfig, model: nn.Module, views: Tensor, accelerator: Accelerator
) -> None:
    """Print where the profiled steps went, and write their trace into the run's folder.

    Args:
        profile: what was timed.
        config: the run.
        model: backbone and head.
        views: a batch of this process (V, B, C, S, S), to count the model's operations on.
        accelerator: of the run; the main process speaks.
    """
    if not accelerator.is_main_process:
        return
    trace = config.run_dir / "trace.json.gz"
    written = profile.write_trace(trace)  # first: what is counted and measured below is no part of a step
    peak = peak_flops(accelerator.device, resolved_precision(config.train))
    print(profile.report(model_flops(model, views), peak))
    if written:
        print(f"{trace}: for chrome://tracing or ui.perfetto.dev")


class CompiledModel(nn.Module):
    """``model`` through ``torch.compile`` in ``mode``; where compiling fails, a warning says why and it goes on eagerly.

    What the model itself raises, eagerly too, is raised by its own name. Views have few sizes: it is compiled for each.
    """

    def __init__(self, model: nn.Module, mode: str) -> None:
        super().__init__()
        self.model = model
        self._compiled: Callable[..., Any] | None = torch.compile(model.forward, mode=mode, dynamic=False)

    def forward(self, views: Tensor) -> Tensor:
        if self._compiled is None:
            z: Tensor = self.model(views)
            return z
        try:
            z = self._compiled(views)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler fails in more ways than it has exceptions
            z = self.model(views)  # a fault of the model shows here
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(f"torch.compile failed, training goes on without it: {reason}", stacklevel=2)
            self._compiled = None
        return z


def maybe_compiled(model: nn.Module, mode: str) -> nn.Module:
    """``model`` itself for the mode "no", and where its weights are sharded: what gathers them is no part of a graph."""
    if mode == "no":
        return model
    if any(map(is_sharded, model.parameters())):
        if rank() == 0:
            warnings.warn(f"train.compile={mode} does not go with FSDP; training goes on without it", stacklevel=2)
        return model
    return CompiledModel(model, mode)
