"""``runs/NAME/images.index``: what a walk through a folder of very many files found, and what the run's list says of them.

It stands for `images.csv` and for the walk as long as neither the table nor a folder has changed; it can be removed.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from simclr.data.file_list import FileList
from simclr.data.listed_files import ListedFiles, Words
from simclr.data.listing import Listing
from simclr.data.mapped_arrays import map_arrays, write_arrays

__all__ = ["INDEX", "read_index", "write_index"]

INDEX = "images.index"

_FORMAT = 1


def write_index(table: Path, listing: Listing, listed: ListedFiles, head: dict[str, Any]) -> None:
    """Write the index beside the ``table`` of ``listed``, files of ``listing``; from now on their names are mapped from it.

    Raises:
        WriteError: the disk refuses.
    """
    files, index = listing.paths, table.with_name(INDEX)
    arrays = {
        **files.arrays(),
        "changed": listing.changed,
        "rows": listed.rows,
        "bytes": listed.bytes,
        **{name: column.of for name, column in _columns(listed).items()},
    }
    said = {
        "format": _FORMAT,
        "table": _identity(table),
        "head": head,
        "folders": listing.folders,
        "holding": files.folders,
        "others": listing.others,
        "linked": files.linked,
        "words": {name: column.words for name, column in _columns(listed).items()},
    }
    write_arrays(index, arrays, said)
    if (found := map_arrays(index)) is not None:
        files.map_from(index, check=False)
        listed.rows, listed.bytes = found[1]["rows"], found[1]["bytes"]
        listed.part, listed.of, listed.label = (
            replace(column, of=found[1][name]) for name, column in _columns(listed).items()
        )


def read_index(table: Path) -> tuple[Listing, ListedFiles, dict[str, Any]] | None:
    """The listing, below no root yet, the list, and its head; None where there is no index, or ``table`` is another by now."""
    index = table.with_name(INDEX)
    found = map_arrays(index) if index.exists() else None
    if found is None:
        return None
    head, arrays = found
    if head["format"] != _FORMAT or head["table"] != _identity(table):
        return None
    files = FileList(
        Path(),
        head["holding"],
        arrays["folder"],
        arrays["ends"],
        arrays["names"],
        ordered=True,
        linked=head["linked"],
    )
    files.mapped = index.absolute()
    listing = Listing(
        root=Path(), paths=files, others=head["others"], folders=tuple(head["folders"]), changed=arrays["changed"]
    )
    words = {name: Words(words=tuple(known), of=arrays[name]) for name, known in head["words"].items()}
    return listing, ListedFiles(files=files, rows=arrays["rows"], bytes=arrays["bytes"], **words), head["head"]


def _columns(listed: ListedFiles) -> dict[str, Words]:
    return {"part": listed.part, "of": listed.of, "label": listed.label}


def _identity(table: Path) -> list[int]:
    found = os.stat(table)  # noqa: PTH116
    return [found.st_size, found.st_mtime_ns]
