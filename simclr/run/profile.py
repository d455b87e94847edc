"""Where a training step's time goes: ``--profile`` times 20 steps, prints a table and writes a trace.

Between two parts of a step the device is waited for, so that a part's time is the time of its work and not of its launch:
a profiled step is a little slower than others. Off, nothing is called and nothing waits.

>>> ticks = iter(range(100))
>>> profile = StepProfile(1, torch.device("cpu"), warmup=0, traced=0, clock=lambda: float(next(ticks)))
>>> profile.mark("encoder"), profile.mark("optimizer"), profile.end_step()
(None, None, True)
>>> profile.seconds()
{'data': 1.0, 'augment': 0.0, 'encoder': 1.0, 'loss': 0.0, 'optimizer': 1.0, 'other': 0.0}
"""

import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, record_function

from simclr.files import atomically, refused
from simclr.run.flops import Peak, wait_for

__all__ = ["PARTS", "StepProfile"]

PARTS = ("data", "augment", "encoder", "loss", "optimizer", "other")
"""``data``: waiting for the batch. ``augment``: drawing and making views. ``encoder``: forward and backward of backbone and
head. ``loss``: the objective, forward and backward to the embeddings. ``optimizer``: clipping, step, zeroing gradients.
``other``: logs, learning rate, guards."""


class StepProfile:
    """The clock of a training loop: ``mark`` says what begins, ``end_step`` that a step is over.

    Each moment of a step belongs to exactly one part, so that the parts add up to the step. The first ``warmup`` steps
    count for nothing, then ``steps`` are timed, and ``traced`` more are recorded by ``torch.profiler``, whose own cost
    stays out of the times. The trace shows the parts as ranges of their own, ``loss`` inside ``encoder``.

    Args:
        steps: steps to time; 0 turns everything off.
        device: where the work is done.
        warmup: steps before the first that is timed: libraries choose kernels, compilers compile.
        traced: steps that are recorded for the trace.
        clock: seconds, rising.
    """

    def __init__(
        self,
        steps: int,
        device: torch.device,
        *,
        warmup: int = 5,
        traced: int = 3,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if steps < 0 or warmup < 0 or traced < 0:
            raise ValueError(f"steps={steps}, warmup={warmup}, traced={traced}: expected 0 or more of each")
        self.steps, self.warmup, self.traced = steps, warmup, traced
        self._device, self._clock = device, clock
        self._timed: list[dict[str, float]] = []
        self._range: record_function | None = None
        self._recorder: torch.profiler.profile | None = None
        self._stop: Callable[[], object] = lambda: None
        self._ended = 0
        if steps:
            self._spent = dict.fromkeys(PARTS, 0.0)
            self._part, self._since = "data", self._now()
            self._record()
            self._enter("data")

    def _now(self) -> float:
        wait_for(self._device)
        return self._clock()

    def mark(self, part: str) -> None:
        """From here on, until the next mark, the step is busy with ``part``, one of ``PARTS``."""
        if not self.steps:
            return
        if part not in PARTS:
            raise ValueError(f"{part!r} is no part of a step: expected one of {', '.join(PARTS)}")
        self._count(part)
        self._leave()
        self._enter(part)

    def _count(self, part: str) -> None:
        """The time until now goes to the part before, what follows to ``part``."""
        now = self._now()
        self._spent[self._part] += now - self._since
        self._part, self._since = part, now

    def _enter(self, part: str) -> None:
        self._range = record_function(part)
        self._range.__enter__()

    def _leave(self) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None

    def loss(self, objective: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """``objective``, its forward and backward marked as ``loss``; afterwards goes on what was marked before.

        Its backward ends when the gradient of the embeddings that it was called with is known. Where they want none (the
        objective alone learns) there is no such moment: all until the next mark is ``loss``.
        """
        if not self.steps:
            return objective

        def timed(z: Tensor) -> Tensor:
            around, backward = self._part, record_function("loss")

            def begin(_: Tensor) -> None:
                backward.__enter__()

            def end(_: Tensor) -> None:
                backward.__exit__(None, None, None)
                self._count(around)

            self._count("loss")
            with record_function("loss"):
                value = objective(z)
            # A tensor's hook runs when its gradient is complete: the loss's before its backward, that of z after it and before
            # the encoder's. On a GPU that is another thread than this one, and a range must end in the thread it began in.
            if value.requires_grad and z.requires_grad:
                value.register_hook(begin)
                z.register_hook(end)
            return value

        return timed

    def end_step(self) -> bool:
        """A step is over and the wait for the next batch begins. True when nothing is left to profile."""
        if not self.steps:
            return False
        self._count("data")
        self._leave()
        if self.warmup <= self._ended < self.warmup + self.steps:
            self._timed.append(self._spent)
        self._spent = dict.fromkeys(PARTS, 0.0)
        self._ended += 1
        self._record()
        self._enter("data")
        return self._ended >= self.warmup + self.steps + self.traced

    def _record(self) -> None:
        """Start or stop torch's profiler where that is due."""
        recorded = self._ended - self.warmup - self.steps
        if recorded == self.traced:
            self._stop()
        elif recorded == 0:
            activities = [ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            # Events are kept to be written: without this torch warns that a next cycle would clear them.
            recorder = torch.profiler.profile(activities=activities, acc_events=True)
            recorder.start()
            # However the run ends: a process that ends while torch still records ends in a segmentation fault.
            self._recorder, self._stop = recorder, weakref.finalize(self, recorder.stop)

    def seconds(self) -> dict[str, float]:
        """Mean seconds of every part in the timed steps; they add up to the mean step."""
        count = max(1, len(self._timed))
        return {part: sum(step[part] for step in self._timed) / count for part in PARTS}

    def report(self, flops: int | None = None, peak: Peak | None = None) -> str:
        """The table, in words and lines; nothing is timed where the run ended during the warm-up.

        Args:
            flops: operations of one forward and backward of the encoder on this process's batch, see
                ``simclr.run.flops.model_flops``; the second forward of gradient caching takes time but is no achievement.
            peak: the device's peak, see ``simclr.run.flops.peak_flops``.
        """
        if not self._timed:
            return f"profile: no step was timed; the run had fewer than {self.warmup + 1} steps left"
        seconds = self.seconds()
        step = sum(seconds.values())
        lines = [f"profile: mean of {len(self._timed)} steps after {self.warmup}, the device waited for between parts"]
        lines.append(f"  {'part':<10}{'ms a step':>11}{'share':>9}{'worst ms':>11}")
        for part in PARTS:
            worst = max(one[part] for one in self._timed)
            share = seconds[part] / step if step else 0.0
            lines.append(f"  {part:<10}{1e3 * seconds[part]:>11.3f}{100 * share:>7.1f} %{1e3 * worst:>11.3f}")
        worst = max(sum(one.values()) for one in self._timed)
        lines.append(f"  {'step':<10}{1e3 * step:>11.3f}{100:>7.1f} %{1e3 * worst:>11.3f}")
        if flops is None:
            lines.append("  encoder: its operations could not be counted")
        elif seconds["encoder"] > 0:
            speed = flops / seconds["encoder"]
            lines.append(f"  encoder: {flops / 1e9:.4g} GFLOP a step, forward and backward: {speed / 1e12:.4g} TFLOP/s")
            if peak is not None:
                share = speed / peak.flops
                lines.append(f"  which is {100 * share:.1f} % of {peak.flops / 1e12:.4g} TFLOP/s ({peak.source})")
        return "\n".join(lines)

    def write_trace(self, path: Path) -> bool:
        """Write what was recorded for chrome://tracing or ui.perfetto.dev; once. What runs from now on is not recorded.

        Args:
            path: of the file, gzipped JSON: ``trace.json.gz``.

        Returns:
            Whether there was anything: False where no recorded step was done, or it is written already.

        Raises:
            CheckpointError: the disk refuses.
        """
        recorder, self._recorder = self._recorder, None  # it gives its events once; asked again it ends the process
        self._leave()
        self._stop()
        if recorder is None or self._ended <= self.warmup + self.steps:
            return False
        with refused(f"the trace {path}"), tempfile.TemporaryDirectory() as folder:
            packed = Path(folder) / path.name
            recorder.export_chrome_trace(str(packed))
            atomically(path, lambda file: file.write(packed.read_bytes()))
        return True
