"""The report of runs: Markdown on the screen, a page for people in a file, or the same page live while a run goes on."""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from linear_eval.answers import read_answers
from linear_eval.comparison.page import as_markdown
from linear_eval.comparison.runs import RunRecord, read_runs
from linear_eval.comparison.tables import compare_runs, write_markdown
from linear_eval.page.charts import curves_of
from linear_eval.page.document import page_of, rendered
from linear_eval.page.gallery import look_of
from linear_eval.page.live import Reply, as_reply, served
from linear_eval.page.look import confusion_of
from linear_eval.page.options import FILE, SEVERAL, PageOptions
from linear_eval.page.overview import list_runs, overview_page, overview_sections
from linear_eval.page.state import run_folders, state_of
from linear_eval.progress import print_line
from simclr.errors import ConfigError, PipelineError
from simclr.files import AGAIN, atomically, refused
from simclr.progress import screen, terminal
from simclr.stopping import request

__all__ = ["follow", "live_reply", "report", "write_page", "write_page_at_end"]

_PICTURES = b'id="images"'
"""What stands in a page that has pictures."""


def report(folders: Sequence[Path], options: PageOptions) -> tuple[str, Path]:
    """The comparison of the runs in ``folders`` as Markdown, and the page that was written.

    A folder that is no run but holds runs stands for all of them, and gives the table of where each stands.

    Raises:
        CheckpointError: a folder without a run, a damaged file in one, or a disk that refuses the page.
        ConfigError: runs that have no folder in common, and no ``out``.
    """
    if below := _runs_below(folders):
        listed = list_runs(below)
        out = options.out or folders[0] / FILE
        title = f"{len(listed)} runs in {folders[0].resolve().name}"
        text = as_markdown(title, overview_sections(listed))
        page = overview_page(title, listed, out.parent) if out.suffix == ".html" else f"{text}\n".encode()
        _write(out, page)
        return text, out
    if options.out is not None and options.out.suffix == ".md":
        return write_markdown(folders, options.out), options.out
    text = compare_runs(folders)
    out = options.out or _place(folders) / (FILE if len(folders) == 1 else SEVERAL)
    _write_page(out, folders)
    return text, out


def write_page(run_dir: Path) -> Path:
    """Write the report of the run in ``run_dir`` there, with its images where they can be had.

    Raises:
        CheckpointError: no run there, a damaged file in it, or a disk that refuses.
    """
    _write_page(run_dir / FILE, [run_dir])
    return run_dir / FILE


def _write_page(path: Path, folders: Sequence[Path]) -> None:
    page = page_in_bytes(folders)
    if _PICTURES not in page and path.exists() and _PICTURES in path.read_bytes():
        raise ConfigError(
            f"the images of {folders[0]} cannot be shown now, and {path} has them: it is kept. Where they have moved, call it "
            "from the folder that the run was started in; --out FILE.html writes a report without them"
        )
    _write(path, page)


def write_page_at_end(run_dir: Path) -> None:
    """``write_page`` where a run or a score ends: what goes wrong is a line, since the work is done and on the disk."""
    console = terminal()
    try:
        with screen():
            written = write_page(run_dir)
        print_line(console, str(written))
    except PipelineError as error:
        print_line(console, f"warning: no new report: {error}")
    except Exception as error:  # whatever a drawing library raises, over a name or a figure
        reason = " ".join(str(error).split())
        print_line(console, f"warning: the report could not be drawn ({type(error).__name__}: {reason})")


def page_in_bytes(folders: Sequence[Path]) -> bytes:
    """The page of the runs in ``folders``: of one with its images, of several side by side."""
    runs = read_runs(folders)
    stamp = time.strftime("%Y-%m-%d %H:%M")
    if len(runs) > 1:
        return rendered(page_of(runs, state=f"{len(runs)} runs side by side, {stamp}"))
    (run,) = runs
    answers = read_answers(run.folder)
    confusion = None if answers is None else confusion_of(answers)
    look, note = look_of(run, answers, confusion)
    state = " ".join(word for word in (state_of(run).line, note, f"Written {stamp}.") if word)
    return rendered(page_of([run], look, confusion, state=state))


def _place(folders: Sequence[Path]) -> Path:
    if len(folders) == 1:
        return folders[0]
    above = [folder.absolute().parent for folder in folders]
    shared = Path(os.path.commonpath(above)) if len({path.anchor for path in above}) == 1 else None
    if shared is None or (shared == shared.parent and shared not in above):
        raise ConfigError("the runs are in no folder together that a report would belong into; give --out FILE.html")
    return shared


def _write(path: Path, content: bytes) -> None:
    with refused(path, f"give another --out, or {AGAIN}"):
        atomically(path, lambda file: file.write(content))


def follow(folders: Sequence[Path], say: Callable[[str], None]) -> None:
    """Serve the live page of ``folders`` until this process is asked to stop; of a folder of runs a table, and a page each.

    Raises:
        CheckpointError: a folder without a run.
        ConfigError: no port is free.
    """
    if not _runs_below(folders):
        read_runs(folders)  # what is wrong is said here, and not in a browser
    with served(partial(live_reply, folders)) as address:
        say(f"{address} has the report, live; Ctrl-C ends it")
        while request() is None:
            time.sleep(0.2)


def live_reply(folders: Sequence[Path], path: str) -> Reply | None:
    """What is served under ``path``: the page, its figures as JSON, and of a folder of runs a page each."""
    if not _runs_below(folders):
        return _live(folders, path)
    known = {folder.name: folder for folder in _runs_below(folders)}
    if not path:
        page = overview_page(folders[0].resolve().name, list_runs(list(known.values())), folders[0], live=True)
        return "text/html; charset=utf-8", page
    name, _, rest = path.partition("/")
    return _live([known[name]], rest) if name in known else None


def _runs_below(folders: Sequence[Path]) -> list[Path]:
    """The runs that a single folder stands for, which is none itself."""
    return run_folders(folders[0]) if len(folders) == 1 and folders[0].is_dir() else []


def _live(folders: Sequence[Path], path: str) -> Reply | None:
    if path not in ("", FILE, "live.json"):
        return None
    try:
        runs = read_runs(folders)
    except PipelineError:
        if path:
            raise
        return "text/plain; charset=utf-8", b"nothing to show yet; load this page again in a moment"
    page = page_of(runs, state=_states(runs), live=True)
    if path != "live.json":
        return "text/html; charset=utf-8", rendered(page)
    curves = {
        f"{chart.key}/{curve.run}": {"x": curve.epochs, "y": curve.values, "run": [curve.name] * len(curve.epochs)}
        for chart, several in curves_of(runs).items()
        for curve in several
    }
    return as_reply({"shape": page.shape, "state": _states(runs), "curves": curves})


def _states(runs: Sequence[RunRecord]) -> str:
    if len(runs) == 1:
        return state_of(runs[0]).line
    return " ".join(f"{run.name}: {state_of(run).word}." for run in runs)
