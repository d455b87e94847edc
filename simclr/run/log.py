"""The run's figures: ``metrics.jsonl``, lines on the screen, and accelerate's experiment trackers."""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from rich.text import Text

from simclr.config.yaml import flat_fields
from simclr.cores import Crowd
from simclr.errors import ConfigError, MissingExtraError, PipelineError
from simclr.files import AGAIN, atomically, refused
from simclr.names import printable
from simclr.progress import Work, clock, progress, shows_bars, terminal
from simclr.run.nan_guard import NotFiniteError
from simclr.streams import in_lines

__all__ = ["RunLog", "check_trackers", "figures_over", "read_metrics", "start_trackers"]

_LINE_SECONDS = 10.0
"""Without a terminal, a line at most this often."""


_MUCH_WAITED = 0.1
"""Share of the time spent waiting for images from which a bar has room for it."""

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
        self._console = terminal()
        self._last_line = 0.0
        self._first_step: tuple[int, float] | None = None
        self._paced = False
        self._warned: set[str] = set()
        self._torn = False
        self._bar: Work | None = None
        self._bars = ExitStack()
        self._crowd = Crowd() if accelerator.device.type == "cpu" else None
        if not self.main:
            return
        # What a killed run logged after its last checkpoint is about to happen again, and so is what ended it.
        kept = [line for line in read_metrics(self.path) if _happened(line, start_step)]
        text = "".join(json.dumps(line) + "\n" for line in kept).encode()
        with refused(self.path, AGAIN):
            if not self.path.exists() or self.path.read_bytes() != text:
                atomically(self.path, lambda file: file.write(text))
        for line in kept:
            self.last |= line
        self._bar = self._bars.enter_context(progress("starting", total_steps, "steps", done=start_step, lines=False))

    def pace(self, step: int, steps_left: float) -> None:
        """Where steps are slow, say once how slow, long before the first figures. Call it after every step.

        Args:
            step: how many are done.
            steps_left: as many steps like the last take as long as all that are left.
        """
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
            left = each * steps_left
            self.say(f"step {step}/{self.total_steps}  {each:.1f} s a step  about {clock(left)} left")
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
        if self._crowd is not None and (words := self._crowd.words()):
            self.say(words)
            self._crowd = None
        loss = f"{figures['loss']:.3f}" if math.isfinite(figures["loss"]) else "-"
        pace, waited = f"{figures['images_per_second']:.0f} images/s", f"data wait {100 * figures['data_wait']:.0f} %"
        shown = f"loss {loss}  lr {figures['learning_rate']:.4f}  {pace}  {waited}"
        left = figures["seconds_left"]
        if self._bar is not None:
            self._bar.what = f"epoch {epoch}"
            few = [f"loss {loss}", pace, *([waited] if figures["data_wait"] > _MUCH_WAITED else [])]
            self._bar(step, figures="  ".join(few), left=left)
        if step >= self.total_steps or (not shows_bars() and time.monotonic() - self._last_line > _LINE_SECONDS):
            self._last_line = time.monotonic()
            left_over = f"  {clock(left)} left" if step < self.total_steps else ""
            self.say(f"step {step}/{self.total_steps}  epoch {epoch}  {shown}{left_over}")

    def epoch(self, step: int, epoch: int, figures: dict[str, float]) -> None:
        """Log the figures taken at an epoch's end."""
        self._record({"kind": "epoch", "step": step, "epoch": epoch, **figures})
        if math.isfinite(figures.get("start_cka", math.nan)):
            shown = {"linear CKA with the start": "start_cka", "online kNN": "online_knn", "RankMe": "online_rankme"}
            self.say(
                f"epoch {epoch}: "
                + ", ".join(f"{word} {figures[key]:.3g}" for word, key in shown.items() if key in figures)
            )

    def skipped(self, step: int, epoch: int, parts: Sequence[str], images: Sequence[str], words: str) -> None:
        """Say that a step was skipped and note it in the file.

        Args:
            step: counted from 0.
            epoch: counted from 1.
            parts: what was not finite.
            images: those whose embeddings were not, by their names.
            words: the line to be said.
        """
        self.say(words)
        if self.main:
            line = {"kind": "skipped", "step": step, "epoch": epoch, "what": list(parts), "images": list(images)}
            self._append(json.dumps(line) + "\n")

    def say(self, text: str) -> None:
        """Print a line, above the progress bar where there is one."""
        if self.main:
            with suppress(OSError):  # where stderr goes to a full disk, training goes on in silence
                self._console.print(Text(in_lines(printable(text), self._console)), soft_wrap=True)

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
        self._bars.close()
        self._bar = None

    def _record(self, line: dict[str, Any]) -> None:
        # A skipped step has no loss and no norm of the gradient; no line of the file is to say NaN.
        line = {name: value for name, value in line.items() if not isinstance(value, float) or math.isfinite(value)}
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


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl`` in order; what is damaged, or cut short by a crash, is left out.

    Each has ``kind`` (text), ``step`` (0 or more) and, unless it says what ended a run (``failed``), ``epoch`` (1 or more),
    and figures by their name. Those of the kinds ``failed`` and ``skipped`` count steps from 0, as messages do.
    """
    if not path.exists():
        return []
    lines = []
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text.decode(), parse_int=_of_64_bits)
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
    """The lines of ``kind`` that have the figure ``name``, each with it; what is not finite, which no run writes, is none."""
    chosen = ((line, line.get(name)) for line in lines if line["kind"] == kind)
    numbers = (
        (line, value) for line, value in chosen if isinstance(value, int | float) and not isinstance(value, bool)
    )
    return [(line, value) for line, value in numbers if math.isfinite(value)]


def _happened(line: dict[str, Any], start: int) -> bool:
    """Whether the ``start`` steps that are done led to this line; a skipped step is counted from 0."""
    return line["kind"] != "failed" and line["step"] <= start - (line["kind"] == "skipped")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _of_64_bits(digits: str) -> int:
    # No count of a run has more digits, and what is more than a float holds raises wherever it is divided or drawn.
    if len(digits) > 20:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


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
