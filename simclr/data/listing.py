"""The files below a folder: those that hold images, in a fixed order, and a count of those that do not."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from simclr.data.opening import EXTENSIONS
from simclr.errors import DataError

__all__ = ["Listing", "list_images"]

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


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What lies below a folder."""

    root: Path

    paths: tuple[Path, ...]
    """Image files; those of a folder in the order of their names, before those of its sub-folders."""

    others: dict[str, int]
    """Files that may hold pictures but are not read here, by ending in lower case, the most frequent first."""

    def notes(self) -> list[str]:
        """A line on the files that are left out, or none."""
        if not self.others:
            return []
        named = ", ".join(f"{count} {ending}" for ending, count in list(self.others.items())[:8])
        more = ", ..." if len(self.others) > 8 else ""
        heif = any(ending in self.others for ending in (".heic", ".heif", ".hif"))
        mend = "; pip install pillow-heif makes .heic files images" if heif else ""
        return [f"left out: {named}{more}, which are not read as images{mend}"]


def list_images(root: Path) -> Listing:
    """Find the images below ``root``, whatever their depth; each folder once, however many links lead to it.

    Hidden files and folders, and what systems leave behind (``__MACOSX``, ``Thumbs.db``), are not looked at.

    Raises:
        DataError: no folder, one that cannot be read, or no image in it.
    """
    if not root.exists():
        raise DataError(f"the folder {root} does not exist; give a folder of images: --data.path DIR")
    if not root.is_dir():
        raise DataError(f"{root} is a file; --data.path takes the folder that holds the images")
    unreadable: list[OSError] = []
    paths: list[Path] = []
    others: Counter[str] = Counter()
    entered, no_pictures = {_identity(root)}, set(_NO_PICTURE_FILES.split())
    real_root = os.path.realpath(root)
    for folder, folders, names in os.walk(root, onerror=unreadable.append, followlinks=True):
        folders[:] = [name for name in sorted(folders) if _enters(os.path.join(folder, name), name, entered, real_root)]  # noqa: PTH118
        for name in sorted(names):
            ending = os.path.splitext(name)[1].lower()  # noqa: PTH122 - of a hundred thousand names
            if name.startswith(".") or name.lower() in _LEFT_BEHIND:
                continue
            if ending in EXTENSIONS:
                paths.append(Path(folder, name))
            elif not ending:
                others[_WITHOUT_ENDING] += _begins_like_an_image(os.path.join(folder, name))  # noqa: PTH118
            elif ending not in no_pictures:
                others[ending] += 1
    if unreadable:
        raise DataError(
            f"the folder {unreadable[0].filename} cannot be read ({unreadable[0].strerror}); check its rights"
        )
    found = Listing(root=root, paths=tuple(paths), others=dict((+others).most_common()))
    if not paths:
        endings = " ".join(sorted(EXTENSIONS))
        left = "".join(f"; {note}" for note in found.notes())
        raise DataError(f"no image below {root}; files with these endings are images: {endings}{left}")
    return found


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


def _enters(path: str, name: str, entered: set[tuple[int, int]], root: str) -> bool:
    """Whether to look into a folder: not a hidden one, and none that was entered before, under this name or another."""
    if name.startswith(".") or name.lower() in _NO_PICTURES:
        return False
    if os.path.islink(path) and _is_met_by_itself(os.path.realpath(path), root):  # noqa: PTH114
        return False
    try:
        identity = _identity(path)
    except OSError:
        return True  # os.walk says why it cannot be read
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
