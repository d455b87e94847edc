"""``--help`` on one screen: what a command does, how it is called, examples, and the flags that many need, a line each.

A command's text is its module's docstring: a first sentence with the call behind a colon, paragraphs, and indented lines,
which are examples. ``--help-all`` is tyro's, with every flag and all that is said of it.
"""

import ast
import dataclasses
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from simclr.config.marks import FIXED, RARE, marked
from simclr.config.presets import PRESETS
from simclr.config.yaml import config_fields
from simclr.flags import choices, more_flags

__all__ = ["PLUGIN", "short_help"]

PLUGIN = "--plugin MODULE or FILE.py, with any command: backbones, objectives, sources and presets of your own"

_WIDEST = 110


def short_help(cls: type, default: Any, called: str, about: str, chosen: Sequence[str] = ()) -> str:
    """The first help.

    Args:
        cls: what the flags set.
        default: with the values that are shown.
        called: the command with the words that it needs.
        about: the command's text.
        chosen: ``objective:NAME`` where one is asked about.
    """
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    first, *paragraphs = about.strip().split("\n\n") if about.strip() else [""]
    found = re.match(r"(.*?): ``(.*)``\.?$", " ".join(first.split()))
    title, usage = (found[1], found[2]) if found else (first, called)
    blocks = [f"{title.rstrip('.')}.", f"usage: {usage}"] if title else [f"usage: {usage}"]
    examples = [one for one in paragraphs if one.startswith("    ")]
    if examples:
        blocks.append("examples:\n" + "\n".join(f"  {line.strip()}" for one in examples for line in one.splitlines()))
    said = [one for one in paragraphs if one not in examples and not one.startswith("Presets:")]
    blocks += [textwrap.fill(" ".join(one.split()), width) for one in said]
    if "PRESET" in usage:
        blocks.append(_named("presets", list(PRESETS), width))
    for name, options in choices(cls).items():
        blocks.append(_named(f"{name}:NAME, for NAME", [option.name for option in options], width))
        given = [word.split(":")[1] for word in chosen if word.startswith(f"{name}:")]
        picked = next((option for option in options if given and option.name == given[-1]), None)
        if picked is not None and picked is not type(getattr(default, name)):
            default = dataclasses.replace(_loose(default), **{name: picked()}) if picked.name else default
    rows = list(_rows(cls, default, marked(cls, RARE) | marked(cls, FIXED)))
    wide = max((len(row) for row, _ in rows), default=0)
    wide = min(wide, 34)
    flags = [_line(row, words, wide, width) for row, words in rows]
    flags.append(_line("  -h, --help", "This screen", wide, width))
    blocks.append("\n".join(["flags, and what they are without being given:", *flags]))
    return "\n\n".join([*blocks, "\n".join([PLUGIN, *([more_flags(cls)] if more_flags(cls) else [])])])


def _named(what: str, names: list[str], width: int) -> str:
    return textwrap.fill(f"{what}: {', '.join(names)}", width, subsequent_indent="  ", break_on_hyphens=False)


def _line(row: str, said: str, wide: int, width: int) -> str:
    room = width - wide - 2
    if room < 20:
        return row
    said = said if len(said) <= room else textwrap.shorten(said, room, placeholder=" ...")
    return f"{row:{wide}}  {said}" if len(row) <= wide else f"{row}\n{'':{wide}}  {said}"


def _loose(config: Any) -> Any:
    """A config whose fields are not looked at together: another objective may want other views."""
    body = {"__post_init__": lambda self: None}
    kind = dataclasses.make_dataclass(type(config).__name__, (), bases=(type(config),), namespace=body, frozen=True)
    return kind(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})


def _rows(cls: type, default: Any, hidden: AbstractSet[str], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A flag with its value, and what it is in a sentence, for each that is not ``hidden``."""
    hints, said = config_fields(cls), _docstrings(cls)
    for field in dataclasses.fields(cls):
        value, hint = getattr(default, field.name), hints[field.name]
        path = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _rows(type(value), value, hidden, f"{path}.")
        if path in hidden or dataclasses.is_dataclass(value):
            continue
        words = _sentence(said.get(field.name, ""))
        if value is True:  # what would be typed is the other one
            path, words = f"{prefix}no_{field.name}", f"Do not: {words[:1].lower()}{words[1:]}"
        yield f"  --{path.replace('_', '-')} {_shown(value, hint)}".rstrip(), words


def _shown(value: Any, hint: Any) -> str:
    if isinstance(value, bool):
        return ""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "..."
    if value is None:
        kinds = {int: "N", float: "X", Path: "PATH"}
        members = [member for member in (hint, *get_args(hint)) if member is not type(None)]
        return next(
            (kinds[member] for member in members if member in kinds), "WORD" if get_origin(hint) is not Literal else ""
        )
    return str(value)


def _sentence(text: str) -> str:
    return re.split(r"\. (?=[A-Z`])|; ", " ".join(text.split()))[0].rstrip(".").replace("`", "")


def _docstrings(cls: type) -> dict[str, str]:
    """What stands behind each field of a config."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(one) or one.__module__ == "builtins":
            continue
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        except (OSError, TypeError, SyntaxError, ValueError):  # made, not written
            continue
        assert isinstance(tree, ast.ClassDef)
        for before, after in zip(tree.body, tree.body[1:]):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(before.target, ast.Name)
            ):
                found[before.target.id] = (
                    str(ast.literal_eval(after.value)) if isinstance(after.value, ast.Constant) else ""
                )
    return found
