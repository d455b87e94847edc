"""Which image a row of a metadata file means, however it writes the path."""

import os
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from simclr.data.decode import EXTENSIONS
from simclr.data.metadata_table import brief
from simclr.errors import DataError

__all__ = ["ImageFinder"]


class ImageFinder:
    """Finds images below ``root``, of which ``paths`` are known to be there."""

    def __init__(self, root: Path, paths: Sequence[Path]) -> None:
        self.root = root
        self._folders: dict[str, str] = {}
        self.images = tuple(map(self.real, paths))
        """The files behind ``paths``."""

        self.known = frozenset(self.images)
        self.by_name = 0
        """Rows found by the end of their path only."""

    def real(self, path: Path | str) -> Path:
        """The file behind links; a loop of links is left as it is (Path.resolve would raise)."""
        folder, name = os.path.split(path)
        if name in ("", ".", "..") or os.path.islink(path):  # noqa: PTH114 - False, not an error, for names too long
            return Path(os.path.realpath(path))
        if folder not in self._folders:  # once a folder: it looks at every folder above it
            self._folders[folder] = os.path.realpath(folder)
        return Path(self._folders[folder], name)

    def find(self, text: str, folders: Sequence[Path], where: str) -> Path | None:
        """The image that ``text`` names from one of ``folders``, or None.

        Backslashes may stand for slashes. What is not there may lack its ending or its first folders, or differ in case or
        in how letters are composed, where one image alone fits.

        Raises:
            DataError: ``text`` is no path, or several images fit; the message says ``where``.
        """
        written = text.strip()
        if not _can_be_a_path(written):
            raise DataError(f"{where}: {brief(written)!r} ({len(written)} letters) is no path of an image")
        spellings = dict.fromkeys((written, text, written.replace("\\", "/")))
        for spelling in spellings:
            for folder in folders:
                image = self.real(os.path.join(folder, spelling))  # noqa: PTH118 - for speed
                if image in self.known or os.path.isfile(image):  # noqa: PTH113 - False, not an error, for names too long
                    return image
        tail = _tail(written.replace("\\", "/"))
        fitting = [image for image in self._by_end.get(tail[-1], []) if _ends(image, tail)] if tail else []
        if len(fitting) > 1:
            named = ", ".join(str(image) for image in fitting[:3])
            raise DataError(
                f"{where}: {brief(written)} may be any of {len(fitting)} images ({named}); write its folder and ending"
            )
        self.by_name += len(fitting)
        return fitting[0] if fitting else None

    @cached_property
    def _by_end(self) -> dict[str, list[Path]]:
        """All images below the root by their name and by their name without its ending."""
        below = {
            self.real(os.path.join(folder, name))  # noqa: PTH118
            for folder, _, names in os.walk(self.root)
            for name in names
            if Path(name).suffix.lower() in EXTENSIONS
        }
        found: dict[str, list[Path]] = {}
        for image in sorted(below | self.known):
            for name in {_same(image.name), _same(image.stem)}:
                found.setdefault(name, []).append(image)
        return found


def _can_be_a_path(written: str) -> bool:
    try:
        return bool(written) and "\0" not in written and max(map(len, map(os.fsencode, written.split("/")))) <= 4096
    except UnicodeEncodeError:  # half of a letter, which JSON can hold and no file name
        return False


def _same(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _tail(written: str) -> tuple[str, ...]:
    path = PurePosixPath(written)
    return () if path.is_absolute() or ".." in path.parts else tuple(map(_same, path.parts))


def _ends(image: Path, tail: tuple[str, ...]) -> bool:
    return tuple(map(_same, image.parts[-len(tail) : -1])) == tail[:-1]
