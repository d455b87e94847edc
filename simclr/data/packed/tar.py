"""Where the members of a tar file lie, from its headers alone: what lies between them is not read."""

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
    """The regular files of a tar of ``length`` bytes, in order: plain, GNU and pax headers (POSIX.1-2001, pax).

    Raises:
        TarFault: behind the last whole member, where it is cut off or a header is damaged.
    """
    at, name, size = 0, None, None
    while True:
        file.seek(at)
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            cut = "it is empty" if not length else f"it is cut off at byte {length}, without the mark of its end"
            raise TarFault(cut)
        if not at and (by := next((kind for mark, kind in _COMPRESSED.items() if header.startswith(mark)), None)):
            raise TarFault(f"it is compressed ({by}), and images are read out of its middle: unpack it to a plain .tar")
        if header[:1] == b"\0" and not header.strip(b"\0"):
            return
        try:
            own = _number(header[124:136])
            if _number(header[148:156]) != sum(header[:148]) + 8 * 32 + sum(header[156:]):
                raise ValueError
        except ValueError:
            what = f"the header at byte {at} is damaged" if at else "it is no tar file"
            raise TarFault(what) from None
        kind, at = header[156:157], at + BLOCK
        own = size if size is not None and kind in b"0\0" else own
        if own < 0 or at + own > length:
            raise TarFault(f"it is cut off at byte {length}, in {_text(_plain_name(header))}")
        if kind == b"L":
            name = _text(file.read(own).rstrip(b"\0"))
        elif kind == b"x":
            said = _records(file.read(own))
            name, size = said.get("path", name), int(said["size"]) if said.get("size", "").isdecimal() else size
        elif kind != b"g" and kind != b"K":
            if kind in (b"0", b"\0", b"7"):
                yield Member(name or _text(_plain_name(header)), at, own)
            name = size = None
        at += -(-own // BLOCK) * BLOCK


def _number(field: bytes) -> int:
    if field[:1] in (b"\x80", b"\xff"):  # beyond 8 GB, as GNU tar writes it
        return int.from_bytes(field[1:], "big", signed=field[0] == 0xFF)
    return int(field.split(b"\0")[0].strip() or b"0", 8)


def _plain_name(header: bytes) -> bytes:
    name, prefix = header[:100].split(b"\0")[0], b""
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0")[0]
    return prefix + b"/" + name if prefix else name


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def _records(content: bytes) -> dict[str, str]:
    """What a pax header says: lines of ``LENGTH KEY=VALUE``."""
    said, at = dict[str, str](), 0
    while at < len(content):
        length = content[at : at + 20].split(b" ")[0]
        if not length.isdigit() or not int(length):
            break
        key, _, value = content[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        said[_text(key)] = _text(value)
        at += int(length)
    return said
