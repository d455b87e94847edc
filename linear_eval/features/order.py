"""Images in the order of their paths, of which there may be millions, and those beside them that belong to no part."""

import os
from collections.abc import Iterator
from pathlib import Path

from simclr.data import ImageSet
from simclr.data.decode import EXTENSIONS

__all__ = ["images_elsewhere", "sorted_as"]


def sorted_as(path: Path) -> str:
    """What puts paths in order as comparing them does, part by part, and takes no more memory than a text."""
    return str(path).replace(os.sep, "\0")


def images_elsewhere(images: ImageSet, root: Path | None) -> int:
    """Images below ``root`` that are none of ``images``, which are in the order of their paths."""
    if images.paths is None or root is None:
        return 0
    known, count = (sorted_as(path) for path in images.paths), 0
    next_known = next(known, None)
    for path in _image_files(str(root)):
        key = path.replace(os.sep, "\0")
        while next_known is not None and next_known < key:
            next_known = next(known, None)
        count += next_known != key
    return count


def _image_files(folder: str) -> Iterator[str]:
    """Files below ``folder`` whose names end as images' do, but for hidden ones, in the order of their paths."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:  # one that may not be looked into
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _image_files(entry.path)
        elif Path(entry.name).suffix.lower() in EXTENSIONS:
            yield entry.path
