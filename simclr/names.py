r"""Names as people give them, shown: in any script, with markup, formulas or line breaks in them, or in no encoding at all.

``printable`` is a name on a line of text, ``as_utf8`` one in a file of text. A picture is given ``drawn`` or, where names stand
in a row, ``drawable``, and goes through ``legible`` before it is written: letters that the usual font lacks are looked for
in the fonts that are installed, and what no font has is drawn as a number.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

__all__ = ["as_utf8", "drawable", "drawn", "legible", "numbered", "printable", "shortened"]

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Marks that turn the direction of all that follows, or that nobody sees."""

_UNSEEN = re.compile("[\u00ad\u034f\u200b-\u200d\u2060\ufe00-\ufe0f\U000e0020-\U000e007f\U000e0100-\U000e01ef]")
"""Marks that join or vary the letters beside them: without a glyph of their own they are left out of a picture."""

_PREFERRED = ("Noto Sans CJK", "Noto Sans", "Source Han Sans", "WenQuanYi", "Droid Sans", "Noto")
"""Beginnings of the names of font families that are asked first."""

_EMPTY = ("Last Resort", "STIXNonUnicode", "STIXSize", "cmb", "cmex", "cmmi", "cmr", "cmss", "cmsy", "cmtt")
"""Of families whose glyphs are boxes, or stand where other letters belong."""


def printable(text: str) -> str:
    r"""``text`` on one line: line breaks, control characters, and bytes that are not UTF-8 become escapes.

    >>> print(printable("a\nb\x1b[31m"), printable("caf\udce9"), printable("猫 [x] $y$"))
    a\nb\x1b[31m caf\udce9 猫 [x] $y$
    """
    if text.isprintable() and text.isascii():
        return text
    return "".join(map(_escaped, text))


def as_utf8(text: str) -> str:
    r"""``text`` as UTF-8 can hold it: bytes of a name that are not UTF-8 become escapes, all else stays.

    >>> print(as_utf8("caf\udce9"), as_utf8("猫"))
    caf\udce9 猫
    """
    return re.sub("[\ud800-\udfff]", lambda found: _escaped(found[0]), text)


def _escaped(letter: str) -> str:
    if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or _TURNING.match(letter):
        return letter.encode("unicode_escape", errors="backslashreplace").decode()
    return letter


def shortened(text: str, most: int) -> str:
    """``text``, its middle left out where it is wider than ``most`` letters; those of East Asia are two wide.

    >>> shortened("a_very_long_name", 9), shortened("short", 9)
    ('a_ver…ame', 'short')
    """
    if _width(text) <= most:
        return text
    end = _beginning(text[::-1], (most - 1) * 2 // 5)[::-1]
    return f"{_beginning(text, most - 1 - _width(end))}…{end}"


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _beginning(text: str, most: int) -> str:
    wide = 0
    for count, letter in enumerate(text):
        wide += _width(letter)
        if wide > most:
            return text[:count]
    return text


def drawn(text: str, most: int | None = None) -> str:
    r"""``text`` as a picture is given it, so that it is drawn as it stands, on one line, ``most`` letters of it.

    To matplotlib two "$" enclose a formula, a byte that is not UTF-8 is an error, and a legend leaves out what begins
    with "_".

    >>> print(drawn("US$ and CA$"), drawn("caf\udce9"), drawn("_other"))
    US\$ and CA\$ caf\udce9  _other
    """
    text = printable(text)
    text = (text if most is None else shortened(text, most)).replace("$", "\\$")
    return f" {text}" if text.startswith("_") else text


def drawable(names: Sequence[str], kind: str = "class", most: int = 32) -> list[str]:
    """What stands for each of ``names`` in a picture: the name, or ``kind`` and its number where no font has its letters.

    Names that become equal, by what is left out of their middle or as escapes, get their number too.

    >>> drawable(["猫"]) in (["猫"], ["class 0"]), drawable(["cat", "$5"])
    (True, ['cat', '\\\\$5'])
    """
    shown = [
        f"{kind} {number}" if _without_glyph(printable(name)) else drawn(name, most)
        for number, name in enumerate(names)
    ]
    names_of: dict[str, set[str]] = {}
    for text, name in zip(shown, names, strict=True):
        names_of.setdefault(text, set()).add(name)
    return [text if len(names_of[text]) == 1 else f"{text} ({number})" for number, text in enumerate(shown)]


def numbered(names: Sequence[str], kind: str = "class", most: int = 20) -> str | None:
    """A line that says which of ``names`` the numbers of ``drawable`` stand for; None where all are drawn as they are."""
    missing = [(number, printable(name)) for number, name in enumerate(names) if _without_glyph(printable(name))]
    if not missing:
        return None
    listed = ", ".join(f"{kind} {number} is {name}" for number, name in missing[:most])
    more = f", and {len(missing) - most} more" if len(missing) > most else ""
    return f"in the pictures, since no font that is installed has these letters: {listed}{more}"


def legible(figure: "Figure") -> "Figure":
    r"""Give every text of ``figure`` fonts that have its letters; a letter that no font has becomes the number of its code.

    Returns:
        The figure.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        words = text.get_text()
        if words.isascii():
            continue
        families, missing = _fonts(words)
        shown = (one for one in words if one not in missing or not _UNSEEN.match(one))
        text.set_text("".join(f"\\u{ord(one):04x}" if one in missing else one for one in shown))
        if families:
            text.set_fontfamily([*text.get_fontfamily(), *families])
            text.set_fontweight("normal")  # matplotlib warns where a family lacks a weight
    return figure


def _without_glyph(text: str) -> bool:
    return not text.isascii() and any(not _UNSEEN.match(letter) for letter in _fonts(text)[1])


def _fonts(text: str) -> tuple[list[str], set[str]]:
    """Families beside the usual one that together have the letters of ``text``, and the letters that none of them has."""
    from matplotlib import rcParams

    usual = _glyphs(tuple(rcParams["font.family"]))
    wanted = {one for one in text if ord(one) not in usual and one != "\n"}
    found = {letter: _family_with(ord(letter)) for letter in sorted(wanted)}
    families = list(dict.fromkeys(family for family in found.values() if family is not None))
    return families, {letter for letter, family in found.items() if family is None}


@cache
def _family_with(code: int) -> str | None:
    """The first family that has a glyph for the letter of this code."""
    return next((family for family in _families() if code in _glyphs((family,))), None)


@cache
def _families() -> tuple[str, ...]:
    """The font families that are installed in an upright face of usual weight, those made for many scripts first."""
    from matplotlib.font_manager import fontManager

    usual = (entry for entry in fontManager.ttflist if entry.weight in (400, "normal") and entry.style == "normal")
    names = sorted({entry.name for entry in usual if not entry.name.startswith(_EMPTY)})
    first: Iterable[str] = (name for start in ("DejaVu Sans", *_PREFERRED) for name in names if name.startswith(start))
    return tuple(dict.fromkeys([*first, *names]))


@cache
def _glyphs(families: tuple[str, ...]) -> frozenset[int]:
    """The codes that the first font of ``families`` has glyphs for; none where matplotlib cannot read it, as coloured ones."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    try:
        path = findfont(FontProperties(family=list(families)))
        font = get_font(os.fspath(path))
        codes = font.get_charmap()
        font.set_size(10, 72)
        font.load_char(next(iter(codes)))
    except (RuntimeError, OSError, ValueError, StopIteration):
        return frozenset()
    return frozenset(codes)
