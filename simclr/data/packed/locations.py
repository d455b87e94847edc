"""Which shards ``data.path`` means: a file, a folder, a glob, braces, a URL, the output of a command.

>>> expand_braces("train-{000..002}.tar"), expand_braces("{a,b}/{8..10}.tar")[:3]
(('train-000.tar', 'train-001.tar', 'train-002.tar'), ('a/8.tar', 'a/9.tar', 'a/10.tar'))
>>> as_typed(Path("https://example.org/train-{0..9}.tar"))
'https://example.org/train-{0..9}.tar'
"""

import glob
import os
import re
from pathlib import Path

from simclr.data.part_names import PartName, part_of
from simclr.errors import DataError

__all__ = ["as_typed", "basename", "expand_braces", "find_files", "is_local", "part_by_name"]

_MOST = 1_000_000

_SCHEMES = "https?|s3|gs|hf|ais|az|abfss?|hdfs|ftps?|sftp|scp"

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def as_typed(path: Path) -> str:
    """A path as it was typed: a `Path` makes one slash of the two of a URL."""
    text = str(path)
    if text.startswith("file:/"):
        return f"/{text[5:].lstrip('/')}"
    return re.sub(rf"\b({_SCHEMES}):/+(?=[^/])", r"\1://", text)


def is_local(name: str) -> bool:
    """Whether it is a file's, rather than a URL or ``pipe:`` and a command."""
    return not name.startswith("pipe:") and "://" not in name


def basename(name: str) -> str:
    """The last part of a file's name, of a URL without its query, or of a command."""
    if name.startswith("pipe:"):
        words = [word for word in re.split(r"[\s'\"|;]+", name) if ".tar" in word]
        name = words[-1] if words else name.removeprefix("pipe:")
    return re.split(r"[?#]", name)[0].rstrip("/").rpartition("/")[2]


def part_by_name(name: str) -> PartName | None:
    """The part that a file's name says, ``train-000003.tar``, or that of the folder it is in."""
    folder, _, last = name.rpartition("/")
    return part_of(last.partition(".")[0]) or part_of(folder.rpartition("/")[2])


def expand_braces(text: str) -> tuple[str, ...]:
    """What a shell makes of ``{000..146}`` and ``{a,b}``, in order.

    Raises:
        DataError: more than a million.
    """
    found = [text]
    while True:
        begin = next((hit for one in found[:1] if (hit := _first(one)) is not None), None)
        if begin is None:
            return tuple(found)
        # All have the same braces, for each comes from one text.
        found = [
            f"{one[: hit.start()]}{choice}{one[hit.end() :]}"
            for one in found
            if (hit := _first(one))
            for choice in _choices(hit[1])
        ]
        if len(found) > _MOST:
            raise DataError(f"{text} names more than {_MOST} shards; is that range right?")


def _first(text: str) -> re.Match[str] | None:
    return next((hit for hit in _BRACES.finditer(text) if "," in hit[1] or _RANGE.fullmatch(hit[1])), None)


def _choices(inside: str) -> list[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = int(numbers[1]), int(numbers[2])
    if abs(last - first) > _MOST:
        raise DataError(f"{{{inside}}} names more than {_MOST} shards; is that range right?")
    width = len(numbers[1]) if numbers[1].startswith("0") or numbers[2].startswith("0") else 0
    return [
        f"{number:0{width}d}"
        for number in range(first, last + 1 if last >= first else last - 1, 1 if last >= first else -1)
    ]


def find_files(path: Path, ending: str, what: str) -> tuple[str, ...]:
    """The shards, or other files that end in ``ending``, that ``path`` means: local ones sorted, others in the order given.

    Files that braces name need not be there; of a folder, a glob and a lone name there is one at least.

    Raises:
        DataError: none there; ``what`` is what a message calls one.
    """
    text = as_typed(path)
    if not is_local(text):
        return expand_braces(text)
    named = expand_braces(text)
    if os.path.lexists(text):
        named = (text,)
    if len(named) > 1:
        return tuple(one for name in named for one in (_matching(name, ending) or (name,)))
    found = _matching(named[0], ending)
    if found:
        return found
    if os.path.isdir(named[0]):  # noqa: PTH112
        others = sorted({one.suffix for one in Path(named[0]).rglob("*") if one.is_file() and one.suffix})
        packed = (
            " (a compressed tar is to be unpacked to a plain .tar first)"
            if {".gz", ".tgz", ".zst"} & set(others)
            else ""
        )
        held = f"; it holds {', '.join(others[:8])}{packed}" if others else "; it is empty"
        raise DataError(f"no {what} ({ending}) below {text}{held}")
    raise DataError(
        f"there is no {text}; give {what}s: a folder of them, a file, a pattern such as 'DIR/train-*{ending}' or "
        f"'DIR/train-{{000000..000146}}{ending}'"
    )


def _matching(name: str, ending: str) -> tuple[str, ...]:
    if os.path.isdir(name):  # noqa: PTH112
        below = sorted(str(one) for one in Path(name).rglob(f"*{ending}"))
        return tuple(
            one for one in below if not any(part.startswith(".") for part in Path(one).relative_to(name).parts)
        )
    if os.path.lexists(name):
        return (name,)
    return tuple(sorted(glob.glob(name, recursive=True)))  # noqa: PTH207 - as a user types it, absolute too
