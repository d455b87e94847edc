"""The files below a folder: those that hold images, in a fixed order, and a count of those that do not."""

import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from simclr.data.file_list import LONG, THREADS, FileList, Numbers, starts_of
from simclr.data.opening import EXTENSIONS
from simclr.data.walk import Scanned, changed_at, walk
from simclr.distributed import rank
from simclr.errors import DataError
from simclr.progress import progress, shows_bars

__all__ = ["Listing", "list_images", "listing_of", "remember"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """What lies below a folder."""

    root: Path

    paths: FileList
    """Image files; those of a folder in the order of their names, before those of its sub-folders."""

    others: dict[str, int]
    """Files that may hold pictures but are not read here, by ending in lower case, the most frequent first."""

    folders: tuple[str, ...] = ()
    """Every folder that was entered, below ``root``."""

    changed: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    """When each of them was changed last, in nanoseconds; 0 where it was while it was listed, or just before."""

    def notes(self) -> list[str]:
        """A line on the files that are left out, or none."""
        if not self.others:
            return []
        named = ", ".join(f"{count} {ending}" for ending, count in list(self.others.items())[:8])
        more = ", ..." if len(self.others) > 8 else ""
        heif = any(ending in self.others for ending in (".heic", ".heif", ".hif"))
        mend = "; pip install pillow-heif makes .heic files images" if heif else ""
        mend += "; tars of images are read with --data.source shards" if ".tar" in self.others else ""
        return [f"left out: {named}{more}, which are not read as images{mend}"]

    def is_still_so(self) -> bool:
        """Whether the same files are there: no folder had one added, removed or renamed since it was listed."""
        if not len(self.changed) or not self.changed.all():
            return False

        def ask(part: slice) -> bool:
            pairs = zip(self.folders[part], self.changed[part].tolist(), strict=True)
            return all(changed_at(os.path.join(self.root, inside)) == then for inside, then in pairs)  # noqa: PTH118

        with ThreadPoolExecutor(THREADS) as pool:
            return all(pool.map(ask, (slice(i, i + 256) for i in range(0, len(self.folders), 256))))


_latest: list[Listing] = []
"""The last long one of this process, whose parts are loaded one by one."""


def list_images(root: Path) -> Listing:
    """Find the images below ``root``, whatever their depth; each folder once, however many links lead to it.

    Hidden files and folders, and what systems leave behind (``__MACOSX``, ``Thumbs.db``), are not looked at. Folders are read
    by several threads, of which a network folder answers as many; after two seconds the files found so far are said.

    Raises:
        DataError: no folder, one that cannot be read, or no image in it.
    """
    if not root.exists():
        raise DataError(f"the folder {root} does not exist; give a folder of images: --data.path DIR")
    if not root.is_dir():
        raise DataError(f"{root} is a file; --data.path takes the folder that holds the images")
    if _latest and _latest[0].root == root and _latest[0].is_still_so():
        return _latest[0]
    found = _Found(root)
    with progress(f"listing {root}", unit="files", lines=False) as tell:
        for scanned in walk(root):
            found.add(scanned)
            tell(found.files)
    listing = found.listing()
    if not len(listing.paths):
        endings = " ".join(sorted(EXTENSIONS))
        left = "".join(f"; {note}" for note in listing.notes())
        raise DataError(f"no image below {root}; files with these endings are images: {endings}{left}")
    remember(listing)
    return listing


def remember(listing: Listing) -> None:
    """Give a long ``listing`` to whoever asks next for that of its folder, while that is as it was."""
    if len(listing.paths) >= LONG:
        _latest[:] = [listing]


def listing_of(files: FileList) -> Listing | None:
    """The listing that the long list ``files`` is of, where it is the last that was made."""
    return _latest[0] if _latest and _latest[0].paths is files else None


class _Found:
    """What was found so far, folder by folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.began, self.said = root, time.perf_counter(), 0.0
        self.folders: list[str] = []
        self.changed: list[int] = []
        self.lengths: list[Numbers] = []
        self.content = bytearray()
        self.others: Counter[str] = Counter()
        self.files, self.linked = 0, False

    def add(self, scanned: Scanned) -> None:
        if scanned.unreadable is not None:
            raise DataError(
                f"the folder {scanned.unreadable.filename} cannot be read ({scanned.unreadable.strerror}); check its rights"
            )
        self.folders.append(scanned.inside)
        self.changed.append(scanned.changed)
        self.lengths.append(scanned.lengths)
        self.content += scanned.names
        self.others += scanned.others
        self.linked |= scanned.linked
        self.files += len(scanned.lengths)
        self.say()

    def say(self, last: bool = False) -> None:
        """So many files after 2, 4, 8, ... seconds."""
        seconds = time.perf_counter() - self.began
        if seconds < max(2.0, 2 * self.said) and not (last and self.said):
            return
        self.said = seconds
        words = f"{self.files:,} files listed in {seconds:.0f} s" if last else f"{self.files:,} files ..."
        if not rank() and (last or not shows_bars()):
            print(f"{self.root}: {words}", file=sys.stderr, flush=True)

    def listing(self) -> Listing:
        self.say(last=True)
        counts = np.array(list(map(len, self.lengths)), dtype=np.int64)
        held = np.flatnonzero(counts)
        paths = FileList(
            self.root,
            [self.folders[i] for i in held],
            np.repeat(np.arange(len(held), dtype=np.int32), counts[held]),
            starts_of(np.concatenate([np.empty(0, np.int64), *self.lengths])),
            np.frombuffer(self.content, dtype=np.uint8),
            ordered=True,
            linked=self.linked,
        )
        return Listing(
            root=self.root,
            paths=paths,
            others=dict((+self.others).most_common()),
            folders=tuple(self.folders),
            changed=np.array(self.changed, dtype=np.int64),
        )
