"""A step as a CUDA graph: the GPU is handed the whole of it at once, where Python would launch its kernels one by one.

A step of a small network is hundreds of kernels of some microseconds each, and launching one takes as long: a fast GPU waits
for its host. Captured once, a step is one launch. What a step takes from its number is fed in from outside: the batch, the
learning rates, and the seeds of the generators, so that it is the step that Python would have taken.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from augment import ViewGenerator
from augment.sampling import device_generator
from simclr.data.loader import Batch
from simclr.run.parts import Learner, Run, Step
from simclr.run.profile import StepProfile
from simclr.run.undo import Bits

__all__ = ["Captured"]

_PLAIN = 3
"""Steps before a capture: they compile, choose algorithms, and make the optimizer's state."""

_TOLERANCE = 1e-2
"""Relative: how far loss, gradient norm and way of a captured step may be from those of the plain one, on the same batch."""

Take = Callable[[Run, Learner, int, Batch, StepProfile], Step]


class Captured:
    """``take``, a step of ``run``, as a CUDA graph where that can be; elsewhere ``take`` itself.

    It can be where each step launches the same kernels and none asks the host for anything: one process on a GPU, whole
    batches of resident images, a loss whose config says that it is ``steady``. The first captured step is taken by ``take`` as
    well; should they not agree, or the capture fail, a warning says so and training goes on without.
    """

    def __init__(self, take: Take, run: Run, learner: Learner) -> None:
        self._take, self._run, self._learner = take, run, learner
        self._able = _can_be_captured(run, learner)
        self._of: tuple[ViewGenerator, bool] | None = None
        self._seen = 0
        self._graph: _Graph | None = None

    def __call__(self, step: int, batch: Batch, profile: StepProfile) -> Step:
        """Take ``step`` on ``batch``. What it leaves behind may be overwritten by the next."""
        if self._able:
            now = self._learner.views_at(step), self._learner.model.only_head
            if now != self._of:  # views of another size: other kernels
                self._of, self._seen, self._graph = now, 0, None
            self._seen += 1
            if self._graph is not None:
                return self._graph.replay(step, batch)
            if self._seen > _PLAIN:
                return self._captured(step, batch, profile)
        return self._take(self._run, self._learner, step, batch, profile)

    def _captured(self, step: int, batch: Batch, profile: StepProfile) -> Step:
        """Take ``step`` plainly, then as the graph that later ones are. Waits for the device."""
        state = Bits(_all_that_moves(self._learner))
        state.note()
        weights: list[Tensor] = list(self._learner.weights.parameters())
        with torch.no_grad():
            before = torch._foreach_add(weights, 0)
        plain = _figures(self._take(self._run, self._learner, step, batch, profile), weights, before)
        state.put_back()
        try:
            self._graph = _Graph(self._take, self._run, self._learner, step, batch, profile)
        except Exception as error:  # what cannot be captured says so in many ways
            fault = f"cannot be captured ({next(iter(str(error).splitlines()), type(error).__name__)})"
        else:
            state.note()
            done = self._graph.replay(step, batch)
            found = _figures(done, weights, before)
            if torch.allclose(found, plain, rtol=_TOLERANCE, equal_nan=True):
                return done
            state.put_back()
            fault = f"gives loss, gradient norm and way of the weights {found.tolist()} for {plain.tolist()}"
        self._able, self._graph = False, None
        self._learner.optimizer.zero_grad()
        warnings.warn(f"a step as a CUDA graph {fault}; training goes on without, and slower", stacklevel=3)
        return self._take(self._run, self._learner, step, batch, profile)


class _Graph:
    """A step that is captured and not taken."""

    def __init__(self, take: Take, run: Run, learner: Learner, step: int, batch: Batch, profile: StepProfile) -> None:
        self._run, self._learner = run, learner
        device, groups = run.accelerator.device, learner.optimizer.param_groups
        self._rates = [torch.full((), float(group["lr"]), device=device) for group in groups]
        assert isinstance(batch.images, Tensor)
        values = None if batch.values is None else batch.values.clone()
        self._batch = Batch(batch.images.clone(), batch.labels.clone(), batch.indices.clone(), values)
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(device_generator(device))
        self._seed(step)
        torch.cuda.synchronize(device)
        # A checkpoint may be written meanwhile, by a thread that is free to wait for the device.
        with _fed(learner, self._rates), torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._done = take(run, learner, step, self._batch, profile)
        self._features = learner.model.features

    def replay(self, step: int, batch: Batch) -> Step:
        """Take ``step`` on ``batch``."""
        for mine, given in zip(_tensors(self._batch), _tensors(batch), strict=True):
            mine.copy_(given)
        for rate, group in zip(self._rates, self._learner.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self._seed(step)
        self._graph.replay()
        self._learner.model.features = self._features
        return self._done

    def _seed(self, step: int) -> None:
        """As the step does it itself, for the generators that the graph reads its seeds from."""
        run = self._run
        device_generator(run.accelerator.device).manual_seed(run.seed("views", step))
        torch.manual_seed(run.seed("model", step, run.accelerator.process_index))


def _can_be_captured(run: Run, learner: Learner) -> bool:
    config = run.config
    return (
        run.accelerator.device.type == "cuda"
        and run.accelerator.num_processes == 1
        and getattr(learner.optimizer, "scaler", None) is None
        and run.images.pixels is not None
        and run.images.originals is None
        and config.objective.steady
        and config.ema is None
        and not config.profile
        and not config.mix.active
        and not config.augment.extra
        and not run.given.augments
        and not config.train.activation_checkpointing
        and (config.train.cached_chunk or run.local) >= run.local
        and config.train.compile in ("no", "default")  # the other modes make graphs of their own
    )


def _tensors(batch: Batch) -> list[Tensor]:
    return [t for t in (batch.images, batch.labels, batch.indices, batch.values) if isinstance(t, Tensor)]


@torch.no_grad()
def _figures(done: Step, weights: list[Tensor], before: tuple[Tensor, ...]) -> Tensor:
    """(3,): loss, gradient norm, and how far all weights together have gone from ``before``."""
    way = torch.stack(torch._foreach_norm(torch._foreach_sub(weights, before))).norm()
    return torch.stack([done.loss, done.gradient_norm, way]).float()


def _all_that_moves(learner: Learner) -> list[Tensor]:
    states = (value for one in learner.optimizer.state.values() for value in one.values())
    weights = learner.weights
    return [*weights.parameters(), *weights.buffers(), *(state for state in states if isinstance(state, Tensor))]


@contextmanager
def _fed(learner: Learner, rates: list[Tensor]) -> Iterator[None]:
    """The optimizer reads its learning rates from ``rates``, on the device, instead of having them fixed in a graph."""
    groups = learner.optimizer.param_groups
    before: list[dict[str, Any]] = [
        {key: group[key] for key in ("lr", "capturable") if key in group} for group in groups
    ]
    try:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        yield
    finally:
        for group, values in zip(groups, before, strict=True):
            group.update(values)
