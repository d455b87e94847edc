"""What every score of a run begins and ends with: the run's encoders, images and protocol, and the files that are named."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from torch import nn

from linear_eval.beside import RESERVED, START, Beside, refuse_equal_names
from linear_eval.config import EvalConfig
from linear_eval.features.kept import Kept
from linear_eval.features.pixels import RawPixels
from linear_eval.keeping import kept_beside
from linear_eval.progress import name_files, print_line, showing_progress
from linear_eval.reports.projector import check_tensorboard, write_run_projector
from linear_eval.scored_run import ScoredRun
from simclr.config import DataConfig
from simclr.data import ImageSet
from simclr.exchange.given import GivenEncoder, given_encoder
from simclr.progress import terminal

__all__ = ["Scoring"]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """A run that is being scored."""

    run: ScoredRun

    data: DataConfig
    """The images."""

    config: EvalConfig
    """The protocol."""

    encoders: dict[str, nn.Module]
    """The rows that every table has: the encoder, the same encoder untrained, raw pixels."""

    beside: tuple[Beside, ...]
    """Those of other encoders; the first is that of the weights that the run started from, where it keeps any."""

    tensorboard: bool
    """Whether the test images are written for TensorBoard's projector as well."""

    console: Console
    """Where progress is shown and files are named."""

    kept: Kept = field(default_factory=lambda: Kept(None))
    """Features that earlier commands took of the same images."""

    @classmethod
    def begin(
        cls,
        path: ScoredRun | Path | str,
        data: DataConfig | None,
        config: EvalConfig | None,
        tensorboard: bool,
        beside: Sequence[Beside | ScoredRun | Path | str] = (),
    ) -> "Scoring":
        """Read what the run at ``path`` has, with its own images and protocol where none are given.

        ``beside`` are encoders to score with it, each of them whatever a run may be named by.

        Raises:
            CheckpointError: no encoder there, or not all of it.
            ConfigError: two encoders that would have one row.
            DataError: no images given, and the run is not known.
            MissingExtraError: ``tensorboard``, and it is not installed.
        """
        run = ScoredRun.at(path)
        if tensorboard:
            check_tensorboard()
        encoder, untrained = run.encoder(), run.untrained()
        data = run.images(data)
        config = run.default_protocol() if config is None else config
        console = terminal()
        return cls(
            run=run,
            data=data,
            config=config,
            encoders={"encoder": encoder, "untrained": untrained, "raw pixels": RawPixels(config.pixel_size)},
            beside=_beside(beside, run.start(), data.channels),
            tensorboard=tensorboard,
            console=console,
            kept=kept_beside(run, lambda line: print_line(terminal(), line)),
        )

    @property
    def rows(self) -> tuple[Beside, ...]:
        """All encoders of the table in its order: the run's, others, the run's untrained, raw pixels."""
        first, *baselines = (Beside(name=name, encoder=module) for name, module in self.encoders.items())
        return (first, *self.beside, *baselines)

    def fed(self, other: Beside) -> tuple[DataConfig, ScoredRun | Beside]:
        """The images as another encoder is fed them, and what reads them so."""
        return other.images(self.data, self.run.description.reader), self.run if other.reader is None else other

    def later(self, data: DataConfig, *parts: ImageSet) -> tuple[ImageSet, ...]:
        """``parts`` of the images ``data``, decoded when features of one of them have to be taken."""
        say = partial(print_line, self.console)
        return self.kept.later(*parts, resident=data.device_resident, batch_size=self.config.batch_size, say=say)

    @property
    def report_folder(self) -> Path:
        """Where the report goes."""
        return self.run.report_folder(self.data)

    def end(self, files: Sequence[Path], test: ImageSet) -> None:
        """Write the labelled images ``test`` for the projector if that was asked for, and name all files."""
        written = list(files)
        if self.tensorboard:
            with showing_progress(self.console) as progress:
                written.append(write_run_projector(self.run, test, self.report_folder, self.config, progress))
        name_files(self.console, written)


def _beside(
    given: Sequence[Beside | ScoredRun | Path | str], start: nn.Module | None, channels: int
) -> tuple[Beside, ...]:
    found = [] if start is None else [Beside(name=START, encoder=start)]
    for one in given:
        if not isinstance(one, Beside):
            run = ScoredRun.at(one if isinstance(one, ScoredRun) else _given(one, channels))
            taken = [other.name for other in found]
            home = run.folder if run.folder.name == START else run.home
            name = run.name if run.name not in (*taken, *RESERVED, START) else str(home)
            one = Beside(name=name, encoder=run.encoder(), reader=run.description.reader)
        found.append(one)
    refuse_equal_names([one.name for one in found])
    return tuple(found)


def _given(word: Path | str, channels: int) -> GivenEncoder:
    found = given_encoder(word, "--beside", channels=3 if channels == 1 else channels)
    for line in found.said:
        print_line(terminal(), f"{found.name}: {line}")
    return found
