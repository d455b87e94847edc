"""Every folder below a root and what is in it: read by several threads, in a fixed order, each once whatever links lead to it."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simclr.data.file_list import THREADS, Numbers, encoded
from simclr.data.opening import EXTENSIONS

__all__ = ["Scanned", "changed_at", "walk"]

_NO_PICTURES = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information"})
"""Folders, in lower case, that systems leave behind: what is in them is a copy, a preview or rubbish."""

_LEFT_BEHIND = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db"})

_NO_PICTURE_FILES = (
    ".txt .md .rst .log .csv .tsv .json .jsonl .ndjson .geojson .xml .yaml .yml .toml .ini .cfg .conf .html .htm .css .js .py "
    ".pyc .ipynb .sh .bat .r .m .parquet .arrow .feather .sqlite .sqlite3 .doc .docx .odt .rtf .tex .bib .xls .xlsx .ods .ppt "
    ".pptx .md5 .sha1 .sha256 .sha512 .sfv .sum .url .lnk .torrent .aae .xmp .thm .srt .vtt .wav .mp3 .m4a .flac .ogg .tmp "
    ".bak .lock .part .crdownload .gitignore .ds_store .info .names .data .license .safetensors"
)
"""Endings of what lies beside pictures and holds none. Any other that is not read is counted: nobody should miss them later."""

_MARKS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"RIFF")
"""How files of the usual formats begin."""

_WITHOUT_ENDING = "without an ending"


_AHEAD = 4 * THREADS
"""Folders that are read before their turn comes."""


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """What one folder holds."""

    inside: str
    """Its path below the root."""

    names: bytes
    """The images' names, in order and one after the other."""

    lengths: Numbers
    """The bytes of each of them, int64 (N,)."""

    folders: list[tuple[str, bool]]
    """Folders that may be looked into, in order, and whether each is a link."""

    others: Counter[str]
    """Files that may hold pictures but are not read here, by ending in lower case."""

    linked: bool
    """Whether an image or a folder is a link."""

    changed: int
    """See ``changed_at``."""

    unreadable: OSError | None = None
    """Why nothing can be read."""


def walk(root: Path) -> Iterator[Scanned]:
    """The folders below ``root``: each before its sub-folders, which come in the order of their names.

    Sub-folders are read ahead; links only when their turn comes, since they may lead back.
    """
    real_root, endings = os.path.realpath(root), frozenset(_NO_PICTURE_FILES.split())
    entered = {_identity(root)}
    ahead: dict[str, Future[Scanned]] = {}
    waiting = [("", False)]
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            while waiting:
                if len(ahead) < _AHEAD // 2:
                    for inside, link in reversed(waiting[-_AHEAD:]):
                        if not link and inside not in ahead:
                            ahead[inside] = pool.submit(_scan, root, inside, endings)
                inside, link = waiting.pop()
                scanned = ahead.pop(inside).result() if inside in ahead else _scan(root, inside, endings)
                yield scanned
                below = [(f"{inside}/{name}" if inside else name, link) for name, link in scanned.folders]
                waiting += [one for one in below if _enters(f"{root}/{one[0]}", one[1], entered, real_root)][::-1]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _scan(root: Path, inside: str, no_pictures: frozenset[str]) -> Scanned:
    """What is in a folder itself."""
    folder = os.path.join(root, inside) if inside else os.fspath(root)  # noqa: PTH118
    names: list[bytes] = []
    folders: list[tuple[str, bool]] = []
    others: Counter[str] = Counter()
    linked, unreadable, changed = False, None, changed_at(folder, before=time.time_ns() - _JUST_BEFORE)
    try:
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError as error:
        entries, unreadable = [], error
    for entry in entries:
        name = entry.name
        if name.startswith("."):
            continue
        if _is_folder(entry):
            if name.lower() not in _NO_PICTURES:
                folders.append((name, entry.is_symlink()))
                linked = linked or entry.is_symlink()
            continue
        ending = os.path.splitext(name)[1].lower()  # noqa: PTH122 - of millions of names
        if name.lower() in _LEFT_BEHIND:
            continue
        if ending in EXTENSIONS:
            names.append(encoded(name))
            linked = linked or entry.is_symlink()
        elif not ending:
            others[_WITHOUT_ENDING] += _begins_like_an_image(entry.path)
        elif ending not in no_pictures:
            others[ending] += 1
    return Scanned(
        inside=inside,
        names=b"".join(names),
        lengths=np.fromiter(map(len, names), dtype=np.int64, count=len(names)),
        folders=folders,
        others=others,
        linked=linked,
        changed=changed,
        unreadable=unreadable,
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


_JUST_BEFORE = 2_000_000_000
"""Nanoseconds: a clock of files may be as coarse, and what changes a folder twice within them leaves one time."""


def changed_at(folder: str, before: int | None = None) -> int:
    """When a folder was changed last, in nanoseconds; 0 where that is not known, or not ``before`` some time."""
    try:
        then = os.stat(folder).st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0
    return then if before is None or then < before else 0


def _begins_like_an_image(path: str) -> bool:
    if not os.path.isfile(path):  # noqa: PTH113
        return False
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(4).startswith(_MARKS)
    except OSError:
        return False


def _identity(path: Path | str) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116
    return found.st_dev, found.st_ino


def _enters(path: str, link: bool, entered: set[tuple[int, int]], root: str) -> bool:
    """Whether to look into a folder: none that was entered before, under this name or another."""
    if link and _is_met_by_itself(os.path.realpath(path), root):
        return False
    try:
        identity = _identity(path)
    except OSError:
        return True  # the walk says why it cannot be read
    if identity in entered:
        return False
    entered.add(identity)
    return True


def _is_met_by_itself(target: str, root: str) -> bool:
    """Whether a folder lies below ``root`` where it is looked into: its own name is its class, not that of a link to it."""
    if not Path(target).is_relative_to(root):
        return False
    names = Path(target).relative_to(root).parts
    return not any(name.startswith(".") or name.lower() in _NO_PICTURES for name in names)
