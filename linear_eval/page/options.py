"""What a report can be told."""

from dataclasses import dataclass
from pathlib import Path

from simclr.errors import ConfigError
from simclr.paths import expand_fields

__all__ = ["FILE", "SEVERAL", "PageOptions"]

FILE, SEVERAL = "report.html", "comparison.html"
"""What the page of a run, or of a folder of runs, is called, and that of several runs."""


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """What a report can be told."""

    out: Path | None = None
    """The page: .html, or .md with its pictures beside it. By default report.html in the run's folder; of several
    runs comparison.html in the folder that holds them, and of a folder of runs report.html in it."""

    follow: bool = False
    """Serve the page on this machine and keep its curves fresh while the runs go on, until Ctrl-C."""

    def __post_init__(self) -> None:
        expand_fields(self, "out")
        if self.out is not None and self.out.suffix not in (".html", ".md"):
            raise ConfigError(f"out is {self.out}; expected a file that ends in .html or .md")
        if self.follow and self.out is not None:
            raise ConfigError(
                "--follow serves the page and writes none; leave --out out, and write it when the run has ended"
            )
