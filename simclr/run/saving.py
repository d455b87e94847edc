"""When a run's state is saved, while training goes on: checkpoints written behind the loop's back, and a disk that refuses.

The loop hands over a copy of all that has weights and goes on; a thread writes it as the transaction that a checkpoint is
(``simclr/run/checkpoint.py``). What went wrong there is said at the next step. At a run's end, and before it stops, the loop
waits.
"""

import copy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from simclr.distributed import any_rank, from_all_ranks
from simclr.errors import DataError
from simclr.files import WriteError, free_space
from simclr.run.best import Score, best_known
from simclr.run.checkpoint import STEADY, gather_state, save_checkpoint
from simclr.run.division import expect_whole_file
from simclr.run.folder import claim
from simclr.run.log import RunLog
from simclr.run.meter import Meter
from simclr.run.nan_guard import FiniteGuard, refuse_weights
from simclr.run.parts import Learner, Run
from simclr.sharding import is_sharded, on_host
from simclr.stopping import StopFlag

__all__ = ["PATIENCE", "STOP_PATIENCE", "Saving", "checkpoint_bytes", "expect_space", "other_processes", "persist"]

PATIENCE = 600.0
"""Seconds for which a finished run tries again to write what a disk refuses: hours of training are worth the wait."""

STOP_PATIENCE = 15.0
"""The same where it was asked to stop: whoever asks kills it soon."""

_BETWEEN = 5.0
"""Seconds between two tries."""

_AGREE_SECONDS = 3.0
"""Several processes agree at least so often on whether one of them was asked to stop."""

Result = TypeVar("Result")


def persist(write: Callable[[], Result], say: Callable[[str], object], stop: StopFlag | None = None) -> Result:
    """What ``write`` returns; where the disk refuses it is tried again for a while, which is said once.

    Raises:
        WriteError: it still refuses after ``PATIENCE`` seconds, or ``STOP_PATIENCE`` once a stop was asked for.
    """
    began, said = time.monotonic(), False
    while True:
        try:
            return write()
        except WriteError as error:
            patience = STOP_PATIENCE if stop is not None and stop.raised is not None else PATIENCE
            if time.monotonic() - began >= patience:
                raise
            if not said:
                say(f"warning: {error}. It is tried again for {patience:.0f} seconds")
                said = True
        time.sleep(min(_BETWEEN, PATIENCE / 2, STOP_PATIENCE / 2))


def checkpoint_bytes(run: Run, learner: Learner) -> int:
    """What a checkpoint of the run takes on the disk, about."""
    weights = sum(t.numel() * t.element_size() for t in learner.weights.state_dict().values())
    learns = sum(p.numel() * p.element_size() for p in learner.parameters)
    return weights + learns * (2 if run.config.optim.name == "adamw" else 1)


def expect_space(run: Run, learner: Learner) -> list[str]:
    """A line where the disk has less room than the run's checkpoints will take; none where it has, or nobody knows.

    Raises:
        WriteError: not even one fits.
    """
    one = checkpoint_bytes(run, learner)
    keeps = run.config.train.keep_checkpoints + 1  # an old one goes when a new one is there
    free = free_space(run.config.run_dir)
    if free is None or free > keeps * one:
        return []
    there = f"a checkpoint takes about {one / 1e6:,.0f} MB, and {run.config.run_dir} has room for {free / 1e6:,.0f} MB"
    if free < one:
        raise WriteError(f"{there}; free some space, or choose another --out", "no space")
    return [f"warning: {there}, where {keeps} have to be for a moment (--train.keep-checkpoints)"]


def other_processes(run: Run) -> list[str]:
    """A line where another number of processes wrote the checkpoint than goes on from it; else none."""
    before = None if run.checkpoint is None else run.checkpoint.progress.get("processes")
    now = run.accelerator.num_processes
    if before in (None, now):
        return []
    means = "" if run.accelerator.device.type == "cuda" else "; BatchNorm sees each process's images alone"
    return [f"the checkpoint is of {before} processes, this is {now}: the batches are the same{means}"]


class Saving:
    """The saving of one run: what is due, what is being written, and whether somebody asks for an end."""

    def __init__(self, run: Run, learner: Learner, guard: FiniteGuard, meter: Meter, log: RunLog, start: int) -> None:
        self.run, self.learner, self.guard, self.meter, self.log = run, learner, guard, meter, log
        self.stop = StopFlag()
        self.step = start
        """Of the newest state that was handed over."""
        noted = {} if run.checkpoint is None else run.checkpoint.progress
        self.best = noted.get("best", -float("inf"))
        self.best_step, self.since_best = noted.get("best_step", 0), noted.get("since_best", 0)
        self._scored: tuple[int, Score] | None = None
        self._at: int | None = None
        self._vote = _Vote(start, run.accelerator.device)
        self._writer: threading.Thread | None = None
        self._failed: WriteError | None = None

    def asked(self, step: int) -> bool:
        """Whether any process was asked to stop. All of them must call it after every step; they agree every few seconds."""
        raised = self.stop.raised is not None
        return raised if self.run.accelerator.num_processes == 1 else self._vote(raised, step)

    def is_best(self, step: int, figures: dict[str, float]) -> bool:
        """Whether the online score among the ``figures`` taken at ``step`` is the best so far. All processes have the same."""
        score = best_known(figures)
        self._scored = None if score is None else (step, score)
        if score is None:
            return False
        better = score.value > self.best
        self.since_best = 0 if better else self.since_best + 1
        if self.is_over and step < self.run.total_steps:
            self.log.say(
                f"{score.in_words(self.best)} at step {self.best_step} was the best, and none of the {self.since_best} since "
                f"was better: the run ends at step {step} of {self.run.total_steps} (--train.patience)"
            )
        return better

    @property
    def is_over(self) -> bool:
        """Whether ``train.patience`` is over."""
        patience = self.run.config.train.patience
        return patience is not None and self.since_best >= patience

    def save(self, step: int, wait: bool = False) -> None:
        """Hand over the state after ``step`` steps; with ``wait`` it is on the disk afterwards. All processes must call it.

        Raises:
            NotFiniteError: it is not finite.
            WriteError: with ``wait``, a disk that refuses for longer than ``persist`` waits.
        """
        self.guard.check()
        refuse_weights(self.learner.weights, self.learner.optimizer, step - 1)
        score = self._scored[1] if self._scored is not None and self._scored[0] == step else None
        if score is not None and score.value > self.best:
            self.best, self.best_step = score.value, step
        main = self.run.accelerator.is_main_process
        if main:
            self.settle()
            self._claim_again()
        sharded = any(map(is_sharded, self.learner.weights.state_dict().values()))
        write = self._state(step, score) if main or sharded else None  # shards are gathered by all
        if main and write is not None:
            if wait:
                persist(write, self.log.say, self.stop)
            else:
                self._writer = threading.Thread(target=self._write, args=[write], name="checkpoint")
                self._writer.start()
        self.step = step
        if wait:
            self.run.accelerator.wait_for_everyone()

    def reached(self, step: int) -> None:
        """So many steps are done. Call it after every one: it costs nothing, and says it where the disk refused a checkpoint."""
        self._at = step
        self._tell()

    def _tell(self) -> None:
        if self._failed is not None:
            self.log.say(
                f"warning: {self._failed.args[0].split(';')[0]}; training goes on, and the next checkpoint is tried at its time "
                f"(every {self.run.config.train.checkpoint_every} steps)"
            )
            self._failed = None

    def settle(self) -> None:
        """Wait until nothing is being written."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        self._tell()

    @contextmanager
    def nothing_lost(self) -> Iterator[StopFlag]:
        """Around the loop. What images do wrong ends the run between two steps, in all processes: the last one is saved first."""
        with self.stop as stop:
            try:
                yield stop
            except DataError as error:
                expect_whole_file(self.run.config, error)
                if self._at is not None and self._at != self.step:
                    self.save(self._at, wait=True)
                # A signal to the whole group ends the workers too: a stop like any other.
                if not any_rank(stop.raised is not None, self.run.accelerator.device):
                    raise
            finally:
                self.settle()

    def _state(self, step: int, score: Score | None) -> Callable[[], Path]:
        run, train = self.run, self.run.config.train
        modules, state = gather_state(self.learner.weights, run.sampler, self.learner.optimizer, run.accelerator)
        progress: dict[str, Any] = {
            "processes": run.accelerator.num_processes,
            "epoch_loss": self.meter.epoch_loss.item(),
        }
        if score is not None:
            progress |= {"score": score.value, "score_of": score.name}
        if self.best > -float("inf"):
            progress |= {"best": self.best, "best_step": self.best_step, "since_best": self.since_best}
        if run.decay_begins is not None:
            progress[STEADY] = step <= run.decay_begins
        main = run.accelerator.is_main_process
        tensors, state = _copied(modules, main), _copied(state, main)

        def write() -> Path:
            return save_checkpoint(
                run.config.run_dir / "checkpoints",
                step,
                tensors,
                state,
                progress,
                keep=train.keep_checkpoints,
                every=train.keep_every,
            )

        return write

    def _write(self, write: Callable[[], Path]) -> None:
        try:
            write()
        except WriteError as error:
            self._failed = error
        except Exception as error:  # of a thread nobody would hear
            self._failed = WriteError(f"the checkpoint could not be written ({type(error).__name__}: {error})")

    def _claim_again(self) -> None:
        """A folder that somebody moved or deleted is made anew, as a run's."""
        config, division = self.run.config, self.run.division
        if (config.run_dir / "config.yaml").exists():
            return
        with suppress(WriteError):
            claim(config, division.listed or division.kept)
            self.log.say(
                f"warning: {config.run_dir} was gone; it is made anew, without its earlier log and checkpoints"
            )


class _Vote:
    """Several processes agree on a flag every few seconds: at steps that all know alike, by the slowest one's clock."""

    def __init__(self, start: int, device: torch.device) -> None:
        self.device, self.last, self.next, self.began = device, start, start + 1, time.monotonic()

    def __call__(self, raised: bool, step: int) -> bool:
        if step < self.next:
            return False
        now = time.monotonic()
        mine = torch.tensor([float(raised), (now - self.began) / (step - self.last)], device=self.device)
        any_raised, seconds = from_all_ranks(mine).amax(dim=0).tolist()
        self.last, self.next, self.began = step, step + max(1, int(_AGREE_SECONDS / max(seconds, 1e-4))), now
        return bool(any_raised)


def _copied(state: Any, keep: bool) -> Any:
    """``state`` with every tensor in it copied to the host, whole: the loop goes on changing its own.

    One tensor after the other is gathered where they are sharded, by all processes; only where it is to ``keep`` it is copied.
    """
    if isinstance(state, Tensor):
        return on_host(state, keep)
    if isinstance(state, dict):
        return {key: _copied(value, keep) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_copied(value, keep) for value in state)
    return copy.copy(state)
