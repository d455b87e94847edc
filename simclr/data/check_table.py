"""What a look through a folder found as a table: a row for each file and what is the matter with it."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from simclr.data.check_report import FolderReport
from simclr.files import atomically
from simclr.names import as_utf8

__all__ = ["write_table"]


def write_table(path: Path, report: FolderReport) -> None:
    """Write CSV: ``path``, ``finding``, ``with`` (another file, or the number of a group of copies) and ``words``.

    Raises:
        WriteError: the disk refuses.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("path", "finding", "with", "words"))
    table.writerows(tuple(map(as_utf8, row)) for row in _rows(report))
    atomically(path, lambda file: file.write(text.getvalue().encode()))


def _rows(report: FolderReport) -> Iterator[tuple[str, str, str, str]]:
    for path, reason in report.broken.items():
        yield str(path), "does not decode", "", reason
    faults = {"in several classes": set(report.contradicting), "in training and test": set(report.leaked)}
    for number, group in enumerate(report.duplicates, start=1):
        words = ", ".join(fault for fault, groups in faults.items() if group in groups)
        for path in group:
            yield str(path), "copy", f"group {number}", words
    for test, train in report.near:
        yield str(test), "near-copy in training", str(train), ""
    for first, second in report.near_in_training or ():
        yield str(first), "near-copy, both in training", str(second), ""
    for path, (width, height) in report.cropped.items():
        yield str(path), "the middle square shows less than half", "", f"{width} x {height} px"
    for path, odd in report.odd.items():
        for kind, words in odd:
            yield str(path), kind, "", words
