"""Templates of the pages, and their style and script: whatever names hold, markup or line breaks, they stay text."""

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from simclr.names import as_utf8, printable

__all__ = ["filled"]


def filled(template: str, **content: Any) -> bytes:
    """The template of that name with ``content``, beside the style and the script, as UTF-8."""
    style, code = (Markup(_file(name)) for name in ("page.css", "page.js"))
    text = _template(template).render(style=style, code=code, **content)
    return text.encode(errors="backslashreplace")


def _file(name: str) -> str:
    return (files("linear_eval.page") / name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> Any:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    environment.globals["dict"] = dict
    return environment.from_string(_file(name))


def _shown(value: Any) -> Any:
    return as_utf8(printable(value)) if isinstance(value, str) and not isinstance(value, Markup) else value
