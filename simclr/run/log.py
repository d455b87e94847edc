"""The run's figures: ``metrics.jsonl``, lines on the screen, and accelerate's experiment trackers."""

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from simclr.config.yaml import flat_fields
from simclr.errors import ConfigError, MissingExtraError, PipelineError
from simclr.files import AGAIN, atomically, refused
from simclr.names import printable
from simclr.run.nan_guard import NotFiniteError

__all__ = ["Meter", "RunLog", "check_trackers", "figures_over", "read_metrics", "start_trackers"]

_LINE_SECONDS = 10.0
"""Without a terminal, a line at most this often."""


_LONG_SECONDS = 24 * 3600.0
"""A run this long is told what would shorten it."""


class RunLog:
    """Writes on the main process; on every other one all methods do nothing.

    A line that cannot be written, or a picture, never ends a run: the weights are worth more, and say so themselves.

    Raises:
        CheckpointError: when it is made, where the disk refuses a log without what is about to happen again.
    """

    def __init__(self, run_dir: Path, accelerator: Accelerator, *, total_steps: int, start_step: int) -> None:
        self.accelerator, self.total_steps = accelerator, total_steps
        self.path = run_dir / "metrics.jsonl"
        self.main = accelerator.is_main_process
        self.last: dict[str, Any] = {}
        self._console = Console(stderr=True)
        self._last_line = 0.0
        self._first_step: tuple[int, float] | None = None
        self._paced = False
        self._warned: set[str] = set()
        self._torn = False
        self._bar: Progress | None = None
        if not self.main:
            return
        # What a killed run logged after its last checkpoint is about to happen again, and so is what ended it.
        kept = [line for line in read_metrics(self.path) if line["step"] <= start_step and line["kind"] != "failed"]
        text = "".join(json.dumps(line) + "\n" for line in kept).encode()
        with refused(self.path, AGAIN):
            if not self.path.exists() or self.path.read_bytes() != text:
                atomically(self.path, lambda file: file.write(text))
        for line in kept:
            self.last |= line
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console)
            self._task = self._bar.add_task("starting", total=total_steps, completed=start_step, figures="")
            self._bar.start()

    def pace(self, step: int) -> None:
        """Where steps are slow, say once how slow, long before the first figures. Call it after every step."""
        if self._paced or not self.main:
            return
        now = time.monotonic()
        if self._first_step is None:  # it compiles, and waits for workers
            self._first_step = step, now
            return
        steps, seconds = step - self._first_step[0], now - self._first_step[1]
        if seconds > _LINE_SECONDS:
            self._paced = True
            each = seconds / steps
            left = each * (self.total_steps - step)
            self.say(f"step {step}/{self.total_steps}  {each:.1f} s a step  about {_clock(left)} left")
            if left > _LONG_SECONDS:
                self.say(
                    "a smaller encoder (--encoder.name resnet18), smaller views (--augment.size 96), fewer epochs "
                    "(--train.epochs), and the preset folder-small, take less; Ctrl-C stops with a checkpoint, the same "
                    "command continues there"
                )

    def step(self, step: int, epoch: int, figures: dict[str, float]) -> None:
        """Log the figures of a step: to the file, the trackers and the screen."""
        self._paced = True
        self._record({"kind": "step", "step": step, "epoch": epoch, **figures})
        if not self.main:
            return
        shown = (
            f"loss {figures['loss']:.3f}  lr {figures['learning_rate']:.4f}  "
            f"{figures['images_per_second']:.0f} images/s  data wait {100 * figures['data_wait']:.0f} %"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=f"epoch {epoch}", figures=shown)
        elif step >= self.total_steps or time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            left = _clock(figures["seconds_left"])
            self.say(f"step {step}/{self.total_steps}  epoch {epoch}  {shown}  {left} left")

    def epoch(self, step: int, epoch: int, figures: dict[str, float]) -> None:
        """Log the figures taken at an epoch's end."""
        self._record({"kind": "epoch", "step": step, "epoch": epoch, **figures})

    def say(self, text: str) -> None:
        """Print a line, above the progress bar where there is one."""
        if self.main:
            with suppress(OSError):  # where stderr goes to a full disk, training goes on in silence
                self._console.print(Text(printable(text)), soft_wrap=True)

    def warn(self, epoch: int, warnings: dict[str, str]) -> None:
        """Say each kind of warning when it first appears, and again only after an epoch without it."""
        for kind, text in warnings.items():
            if kind not in self._warned:
                self.say(f"epoch {epoch}: {text}")
        self._warned = set(warnings)

    def picture(self, path: Path, draw: Callable[[Path], object]) -> None:
        """Have a picture drawn to ``path``; one that cannot be drawn or written is a warning."""
        if not self.main:
            return
        try:
            draw(path)
        except PipelineError as error:
            self.say(f"warning: {error}; the run goes on without this picture")
        except Exception as error:  # whatever a plotting library raises, over a name or a figure
            reason = " ".join(str(error).split())
            self.say(
                f"warning: {path} could not be drawn ({type(error).__name__}: {reason}); the run goes on without it"
            )

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the progress bar down, whatever happened; what became NaN or infinite stays in the file."""
        if isinstance(error, NotFiniteError):
            self._record({"kind": "failed", "step": error.step, "what": error.what})
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _record(self, line: dict[str, Any]) -> None:
        self.last |= line
        if self.main:
            self._append(json.dumps(line) + "\n")
            numbers = {name: value for name, value in line.items() if name not in ("kind", "step")}
            self.accelerator.log(numbers, step=line["step"])

    def _append(self, text: str) -> None:
        try:
            with self.path.open("a") as file:
                file.write(f"\n{text}" if self._torn else text)  # half a line may stand there, which is left behind
            self._torn = False
        except OSError as error:
            if not self._torn:
                self.say(
                    f"warning: {self.path} cannot be written ({error.strerror}); the run goes on, its log has a gap"
                )
            self._torn = True


class Meter:
    """The loss since the last line of the log and since the epoch began, on the device, and the clock between lines."""

    def __init__(self, device: torch.device, epoch_loss: float = 0.0) -> None:
        self._loss, self._steps = torch.zeros((), device=device), 0
        self.epoch_loss = torch.full((), epoch_loss, device=device)
        """Sum over the steps of the epoch so far."""
        self._began, self._waited = time.perf_counter(), 0.0

    def add(self, loss: Tensor) -> None:
        """Count a step with this loss; waits for nothing."""
        self._loss, self._steps, self.epoch_loss = self._loss + loss, self._steps + 1, self.epoch_loss + loss

    def line(self, batch_size: int, steps_left: int, waited: float) -> dict[str, float]:
        """Figures since the last call: mean loss, speed, share of the time that batches were waited for.

        Waits for the device.

        Args:
            batch_size: images a step.
            steps_left: of the run, for the time that it will take.
            waited: seconds spent waiting for batches since the run's start.
        """
        mean_loss = self._loss.item() / self._steps
        seconds = time.perf_counter() - self._began
        figures = {
            "loss": mean_loss,
            "images_per_second": self._steps * batch_size / seconds,
            "data_wait": (waited - self._waited) / seconds,
            "seconds_left": steps_left * seconds / self._steps,
        }
        self._loss, self._steps = torch.zeros_like(self._loss), 0
        self._began, self._waited = time.perf_counter(), waited
        return figures

    def end_epoch(self) -> float:
        """The sum of the epoch's losses; the next epoch begins. Waits for the device."""
        total = self.epoch_loss.item()
        self.epoch_loss = torch.zeros_like(self.epoch_loss)
        return total


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl`` in order; what is damaged, or cut short by a crash, is left out.

    Each has ``kind`` (text), ``step`` (0 or more) and, unless it says what ended a run (``failed``), ``epoch`` (1 or more),
    and figures by their name.
    """
    if not path.exists():
        return []
    lines = []
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text.decode())
        except (ValueError, RecursionError):  # text that is not UTF-8 is a ValueError too
            continue
        if (
            isinstance(line, dict)
            and isinstance(line.get("kind"), str)
            and _whole(line.get("step"), 0)
            and (line["kind"] == "failed" or _whole(line.get("epoch"), 1))
        ):
            lines.append(line)
    return lines


def figures_over(lines: Iterable[dict[str, Any]], kind: str, name: str) -> list[tuple[dict[str, Any], float]]:
    """The lines of ``kind`` that have the figure ``name``, each with it."""
    chosen = ((line, line.get(name)) for line in lines if line["kind"] == kind)
    return [(line, value) for line, value in chosen if isinstance(value, int | float) and not isinstance(value, bool)]


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


_OUR_EXTRAS = ("tensorboard", "wandb", "trackio")


def check_trackers(names: tuple[str, ...]) -> None:
    """Refuse trackers that accelerate does not know or that are not installed.

    Raises:
        ConfigError: unknown; the message lists the known ones.
        MissingExtraError: not installed; the message says what to install.
    """
    known = sorted(str(kind) for kind in LOGGER_TYPE_TO_CLASS)
    installed = {str(kind) for kind in get_available_trackers()}
    for name in names:
        if name not in known:
            raise ConfigError(f"train.trackers names {name!r}; accelerate knows {', '.join(known)}")
        if name not in installed:
            package = f"'simclr-pipeline[{name}]'" if name in _OUR_EXTRAS else name
            raise MissingExtraError(f"the tracker {name} is not installed: pip install {package}")


def start_trackers(accelerator: Accelerator, names: tuple[str, ...], config: dict[str, Any]) -> None:
    """Start the trackers that the Accelerator was made with, and show them the config."""
    if names:
        shown = {
            path: value if isinstance(value, int | float | str | bool) else str(value)
            for path, value in flat_fields(config).items()
        }
        accelerator.init_trackers("simclr", config=shown)
