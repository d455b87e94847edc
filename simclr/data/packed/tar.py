"""Where the members of a tar file lie, from its headers alone: what lies between them is not read."""

import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

__all__ = ["BLOCK", "Member", "TarFault", "members"]

BLOCK = 512

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int
    """Where its bytes begin."""
    size: int


class TarFault(Exception):
    """What is wrong with a tar, and from which byte on: what comes before it is whole."""


def members(file: BinaryIO, length: int) -> Iterator[Member]:
    """The regular files of a tar of ``length`` bytes, in order.

    tarfile by itself ends in silence where a tar is cut off or a header is damaged.

    Raises:
        TarFault: behind the last whole member, where it is cut off or a header is damaged.
    """
    at, tar = 0, None
    while True:
        file.seek(at)
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            cut = "it is empty" if not length else f"it is cut off at byte {length}, without the mark of its end"
            raise TarFault(cut)
        if not at and (by := next((kind for mark, kind in _COMPRESSED.items() if header.startswith(mark)), None)):
            raise TarFault(f"it is compressed ({by}), and images are read out of its middle: unpack it to a plain .tar")
        if not header.strip(b"\0"):
            return
        try:
            file.seek(at)
            if tar is None:
                tar = tarfile.TarFile(fileobj=file, errors="backslashreplace")
                file.seek(at)
            member = tarfile.TarInfo.fromtarfile(tar)
        except (tarfile.TarError, ValueError, OverflowError):
            raise TarFault(f"the header at byte {at} is damaged or cut off" if at else "it is no tar file") from None
        if member.size < 0 or member.offset_data + member.size > length:
            raise TarFault(f"it is cut off at byte {length}, in {member.name}")
        if member.isreg() and not member.issparse():
            yield Member(member.name, member.offset_data, member.size)
        at = tar.offset
