"""One step of a run, taken by all processes together and by each of them alone, from the same weights on the same batch."""

import hashlib
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from simclr.data.loader import Batch
from simclr.distributed import alone
from simclr.run.parts import Learner, Run, Step
from simclr.run.profile import StepProfile
from simclr.selftest.finding import ROUNDING, Finding, same
from simclr.train import build, one_step, resume

__all__ = ["step_taken_twice"]


@dataclass
class _One:
    """What the loop asks of an Accelerator, for one process without a launcher."""

    device: torch.device
    process_index: int = 0
    num_processes: int = 1
    is_main_process: bool = True
    is_fsdp2: bool = False

    def prepare(self, *things: Any) -> tuple[Any, ...]:
        """They are as they should be."""
        return things

    def autocast(self) -> AbstractContextManager[None]:
        """There is none in float32."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Without a scaler."""
        loss.backward()

    def unscale_gradients(self) -> None:
        """Without a scaler."""


class _Taken(NamedTuple):
    """A step, and what it did to the weights of model and objective, by their names."""

    step: Step
    start: dict[str, Tensor]
    gradients: dict[str, Tensor]
    end: dict[str, Tensor]
    indices: Tensor
    """Numbers of this process's images, (B,)."""
    norms: str
    """What becomes of BatchNorm's statistics: "none", "own" to each process, or "shared"."""


def _take(run: Run, norms: str | None = None) -> _Taken:
    learner = build(run)
    batches = resume(run, learner)
    kinds = [module for module in learner.model.modules() if isinstance(module, _BatchNorm)]
    shared = any(isinstance(module, nn.SyncBatchNorm) for module in kinds)
    norms = norms or ("shared" if shared else "own" if kinds else "none")
    learner.model.eval()
    learner.model.training = True  # with its predictor, where it has one
    if norms == "shared":
        for module in kinds:
            module.train()
    optimizer: Any = learner.optimizer
    start, gradients, take = _weights(learner), dict[str, Tensor](), optimizer.step

    def noted(*words: Any) -> Any:
        gradients.update((name, _whole(p.grad)) for name, p in _named(learner) if p.grad is not None)
        return take(*words)

    optimizer.step = noted
    with closing(cast(Generator[Batch], iter(batches))) as reading:
        batch = next(reading)
        done = one_step(run, learner, 0, batch, StepProfile(0, run.accelerator.device))
    return _Taken(done, start, gradients, _weights(learner), batch.indices.cpu(), norms)


def _named(learner: Learner) -> Iterator[tuple[str, nn.Parameter]]:
    yield from learner.model.named_parameters(prefix="model")
    yield from learner.objective.named_parameters(prefix="objective")


def _weights(learner: Learner) -> dict[str, Tensor]:
    return {name: _whole(p.detach()) for name, p in _named(learner)}


def _whole(tensor: Tensor) -> Tensor:
    """A copy on the CPU, of all shards where it has some."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()
    return whole.cpu()


def step_taken_twice(run: Run) -> Iterator[Finding]:
    """What this process finds of a step taken with the others, beside the same step taken alone."""
    ours, one = _take(run), replace(run, accelerator=_One(run.accelerator.device), notes=[])
    if ours.norms != "shared":  # in the memory that a process's own part takes
        one = replace(one, config=replace(run.config, train=replace(run.config.train, cached_chunk=run.local)))
    with alone():
        whole = _take(one, ours.norms)
    apart = (ours.step.views - whole.step.views[:, run.own]).abs().max().item()
    yield Finding("views", f"those of one process within {apart:.1e}", apart < ROUNDING)
    read = torch.equal(ours.indices, whole.indices[run.own])
    yield Finding("images read", "those of one process's batch" if read else "others than those of the order", read)
    yield same("weights at the start", _digest(ours.start))
    loss, wanted = ours.step.loss.item(), whole.step.loss.item()
    near = abs(loss - wanted) <= ROUNDING * max(abs(wanted), ROUNDING)
    yield Finding(
        "loss",
        f"{loss:.6f}"
        + (f", one process's within {abs(loss - wanted):.1e}" if near else f"; one process has {wanted:.6f}"),
        near,
    )
    yield from (_gradient(part, ours.gradients, whole.gradients) for part in ("model", "objective"))
    yield same("weights after it", _digest(ours.end))
    words = {
        "none": "not in this network",
        "own": f"statistics of {run.local} images in each process by itself (at rest in the step above)",
        "shared": f"statistics of all {run.config.train.batch_size} images (SyncBatchNorm)",
    }
    yield Finding("BatchNorm", words[ours.norms])


def _gradient(part: str, ours: dict[str, Tensor], wanted: dict[str, Tensor]) -> Finding:
    """The gradients of model or objective beside those of one process: their relative difference, and what it looks like."""
    name, names = f"gradient of the {part}", [name for name in wanted if name.startswith(part)]
    if {one for one in ours if one.startswith(part)} != set(names):
        return Finding(name, "other parameters have one than in one process", False)
    if not names:
        return Finding(name, "nothing in it learns")
    x, y = (torch.cat([found[one].double().flatten() for one in names]) for found in (ours, wanted))
    error = ((x - y).norm() / y.norm().clamp_min(1e-30)).item()
    if error < ROUNDING:
        how = f"within {error:.1e} of its" if error else "to the bit,"
        return Finding(name, f"one process's {how} norm {y.norm():.3g}", True)
    angle = F.cosine_similarity(x, y, dim=0).item()
    return Finding(name, f"{x.norm() / y.norm():.3f} times one process's in length, cosine {angle:.4f}", False)


def _digest(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(name.encode() + tensor.double().numpy().tobytes())
    return f"sha256 {digest.hexdigest()[:12]}"
