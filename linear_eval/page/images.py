"""Pictures inside a page: each image's small picture once, with what a reader is told of it."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from simclr.names import as_utf8, printable

__all__ = ["as_json", "data_address", "picture_address"]

_WIDEST = 1400
_EMPTY = (
    "data:image/svg+xml;base64,"
    + base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>").decode()
)


def picture_address(webp: bytes) -> str:
    """The bytes of a WebP picture as an address that a page can hold; of none an empty picture."""
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}" if webp else _EMPTY


def data_address(path: Path) -> Markup | None:
    """The picture at ``path``, at most 1,400 pixels wide, as an address; None where it is none."""
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError):
        return None
    if picture.width > _WIDEST:
        picture = picture.resize((_WIDEST, round(picture.height * _WIDEST / picture.width)))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=82)
    return Markup(picture_address(file.getvalue()))


def as_json(content: object) -> Markup:
    """JSON that may stand inside a script: no name in it can end that."""
    text = json.dumps(_plain(content), ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _plain(content: object) -> object:
    if isinstance(content, str):
        return as_utf8(printable(content))
    if isinstance(content, Mapping):
        return {_plain(key): _plain(value) for key, value in content.items()}
    return [_plain(one) for one in content] if isinstance(content, list | tuple) else content
