"""Tables and pictures as Markdown, or as one HTML file with everything inside."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from simclr.names import printable

__all__ = ["Picture", "Section", "as_html", "as_markdown", "section_as_markdown"]

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
div { overflow-x: auto } table { border-collapse: collapse; font-size: 0.87rem }
th, td { text-align: left; padding: 0.25rem 0.8rem 0.25rem 0; border-bottom: 1px solid #ddd; white-space: nowrap }
td { font-variant-numeric: tabular-nums } p { color: #666; font-size: 0.87rem } img { max-width: 100% }
"""


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


def as_html(title: str, sections: Sequence[Section], pictures: Sequence[Picture]) -> str:
    """One page that needs nothing beside it: the pictures first, then the tables."""
    body = [f"<h1>{_shown(title)}</h1>"]
    for picture in pictures:
        data = base64.b64encode(picture.png).decode()
        body.append(f'<p><img alt="{_shown(picture.caption)}" src="data:image/png;base64,{data}"></p>')
        if picture.note:
            body.append(f"<p>{_shown(picture.note)}</p>")
    for section in sections:
        body.append(f"<h2>{_shown(section.title)}</h2>")
        if section.rows:
            header = "".join(f"<th>{_shown(cell)}</th>" for cell in section.header)
            rows = "".join(f"<tr>{''.join(f'<td>{_shown(cell)}</td>' for cell in row)}</tr>\n" for row in section.rows)
            body.append(f"<div><table>\n<tr>{header}</tr>\n{rows}</table></div>")
        body.append(f"<p>{_shown(section.note)}</p>")
    head = f'<meta charset="utf-8"><title>{_shown(title)}</title><style>{_STYLE}</style>'
    return f"<!doctype html>\n<html><head>{head}</head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"


def _shown(text: str) -> str:
    """``text`` as HTML shows it on one line."""
    return escape(printable(text))


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(printable(cell).replace("|", "\\|").replace("<", "\\<") for cell in cells) + " |"
