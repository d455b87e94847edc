"""Tables and pictures as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from simclr.names import printable

__all__ = ["Picture", "Section", "as_markdown", "section_as_markdown"]


@dataclass(frozen=True)
class Section:
    """A table under a heading, with a note below it."""

    title: str

    header: tuple[str, ...]

    rows: list[tuple[str, ...]]
    """Each as long as the header."""

    note: str


@dataclass(frozen=True)
class Picture:
    """A PNG with its caption."""

    name: str
    """Short, for the name of a file."""

    caption: str

    png: bytes

    note: str = ""
    """Stands below it."""


def as_markdown(title: str, sections: Sequence[Section], pictures: Sequence[tuple[str, str]] = ()) -> str:
    """The tables as Markdown, and below them the pictures, each (caption, file).

    >>> print(as_markdown("One run", [Section("Scores", ("run", "a|b"), [("x", "1")], "in %")]))
    # One run
    <BLANKLINE>
    ## Scores
    <BLANKLINE>
    | run | a\\|b |
    |---|---|
    | x | 1 |
    <BLANKLINE>
    in %
    """
    parts = [f"# {printable(title)}"]
    parts += map(section_as_markdown, sections)
    parts += [f"![{printable(caption)}]({quote(file, errors='surrogateescape')})" for caption, file in pictures]
    return "\n\n".join(parts)


def section_as_markdown(section: Section, level: int = 2) -> str:
    """A table as Markdown under a heading of this level, with its note below it."""
    parts = [f"{'#' * level} {printable(section.title)}"]
    if section.rows:
        lines = [_markdown_row(section.header), "|" + "---|" * len(section.header)]
        parts.append("\n".join([*lines, *map(_markdown_row, section.rows)]))
    return "\n\n".join([*parts, printable(section.note)])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(printable(cell).replace("|", "\\|").replace("<", "\\<") for cell in cells) + " |"
