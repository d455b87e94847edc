"""One image of a data set that somebody else has, or of a file of many: read when it is asked for, and decoded by ours."""

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any, Protocol, overload

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from simclr.data.bands import Bands
from simclr.data.opened import Opened, limited, opened_array
from simclr.errors import DataError, PipelineError, shown

__all__ = [
    "IMAGE_KEYS",
    "LABEL_KEYS",
    "Row",
    "Store",
    "Stored",
    "StoredRows",
    "image_and_label",
    "is_image",
    "opened_row",
]

IMAGE_KEYS = ("image", "img", "picture", "pixel_values", "jpg", "png")
"""What a row of a table calls its image, the first that is there."""

LABEL_KEYS = ("label", "labels", "target", "class", "fine_label", "category", "y")

_one_at_a_time = threading.Lock()
"""Images are decoded by threads; a Dataset of the user's need not be safe for that."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_at_a_time._at_fork_reinit)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Row:
    """Image ``index`` of ``images``, anything with ``images[index]``, which messages call ``name``."""

    images: Any
    index: int
    name: str

    def __str__(self) -> str:
        return f"image {self.index} of {self.name}"

    def read(self) -> tuple[Any, Any]:
        """The image and its label, None where there is none.

        Raises:
            DataError: whatever their code raises, with its file and line.
        """
        try:
            with _one_at_a_time:
                item = self.images[self.index]
        except PipelineError:
            raise
        except Exception as error:
            at = extract_tb(error.__traceback__)[-1]
            said = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
            raise DataError(f"{self} cannot be read: {said} ({at.filename}, line {at.lineno})") from error
        return image_and_label(item, str(self))

    @property
    def suffix(self) -> str:
        """How the name of its file ends; empty where it has none."""
        return ""

    def image(self) -> Any:
        """A path, the bytes of a file, an image of Pillow's, or an array (H, W), (H, W, C) or (C, H, W)."""
        image, _ = self.read()
        if isinstance(image, Mapping):  # as Hugging Face has it before it is decoded
            image = image["path"] if image.get("bytes") is None else image["bytes"]
        if isinstance(image, str | os.PathLike):
            return Path(image)
        return bytes(image) if isinstance(image, bytearray) else image


class Store(Protocol):
    """Images whose files, as they are, lie in larger ones: the members of tars, the cells of a table."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The bytes of an image's file. Raises DataError where they are not there."""

    def describe(self, index: int) -> str:
        """What messages call it."""

    def suffix(self, index: int) -> str:
        """How its name ends, ``.jpg``; empty where that is not known."""


@dataclass(frozen=True)
class Stored(Row):
    """Image ``index`` of a ``Store``: what is done with a file is done with its bytes."""

    def __str__(self) -> str:
        return str(self.images.describe(self.index))

    @property
    def suffix(self) -> str:
        """How the name of its file ends; empty where it has none."""
        return str(self.images.suffix(self.index))

    def read(self) -> tuple[Any, Any]:
        """The bytes of its file, and no label: those of a store are read all at once."""
        return self.images.read(self.index), None


@dataclass(frozen=True)
class StoredRows(Sequence[Row]):
    """Every image of a store; each is made when it is asked for."""

    store: Store

    def __len__(self) -> int:
        return len(self.store)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return Stored(self.store, range(len(self))[index], "")


def is_image(thing: object) -> bool:
    """Whether it can be an image: a path, Pillow's, bytes, an array or a tensor of two or three axes."""
    if isinstance(thing, Mapping):
        return thing.keys() >= {"bytes", "path"}
    array = isinstance(thing, np.ndarray | Tensor) and thing.ndim in (2, 3)
    return array or isinstance(thing, Image.Image | str | os.PathLike | bytes | bytearray)


def image_and_label(item: Any, name: str) -> tuple[Any, Any]:
    """Image and label of an item: an image alone, ``(image, label)``, or keys and values.

    Raises:
        DataError: there is no image in it, or a pair of images.
    """
    if isinstance(item, Mapping) and not is_image(item):
        key = next((key for key in IMAGE_KEYS if key in item), None)
        key = next((key for key, value in item.items() if isinstance(value, Image.Image)), key) if key is None else key
        if key is None:
            raise DataError(
                f"{name} has the keys {', '.join(map(str, item))}, none of which is {' or '.join(IMAGE_KEYS)}"
            )
        label = next((item[key] for key in LABEL_KEYS if key in item), None)
        return item[key], label
    if isinstance(item, tuple | list) and item:
        image, label = item[0], item[1] if len(item) > 1 else None
        if isinstance(image, tuple | list) or (is_image(label) and not isinstance(label, str)):
            raise DataError(
                f"{name} is several images: the views are made here, so leave out the transform that makes two of one"
            )
    else:
        image, label = item, None
    if not is_image(image):
        raise DataError(
            f"{name} is {shown(image)}; expected an image: of Pillow's, a path, or an array or tensor of two or three axes"
        )
    return image, label


def opened_row(image: Any, name: object, max_pixels: int) -> Opened:
    """An image that was read already, which messages call ``name``."""
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
        if image.ndim == 3 and image.shape[0] <= 4:  # torch has channels first, also where the width is as small
            image = image.transpose(1, 2, 0)
    if isinstance(image, Image.Image):
        try:
            image = ImageOps.exif_transpose(image)
            image.load()
        except Exception as error:  # decoders raise whatever they please
            raise DataError(f"{name}: {next(iter(str(error).splitlines()), type(error).__name__)}") from error
        if not image.mode.startswith(("I", "F")):
            return _picture(image, name, max_pixels)
        image = np.asarray(image)
    kind = image.dtype.kind
    if kind == "f" and image.size and not (image.min() >= -0.01 and image.max() <= 1.01):
        held = "values that are NaN" if np.isnan(image).any() else f"floats from {image.min():.3g} to {image.max():.3g}"
        raise DataError(
            f"{name} holds {held}; expected 0 to 1, without a normalisation "
            "(the run normalises by itself), or uint8 of 0 to 255"
        )
    if kind not in "buif" or (kind in "ui" and image.dtype.itemsize > 2):
        raise DataError(f"{name} holds {image.dtype}; expected uint8 (0 to 255), uint16, or floats from 0 to 1")
    return opened_array(image, name, max_pixels)


def _picture(image: Image.Image, name: object, max_pixels: int) -> Opened:
    limited(name, *image.size, max_pixels)

    def decode(channels: int, factor: float) -> Image.Image | Bands:
        return image

    size = image.size
    return Opened(
        kind=f"PIL {image.mode}", pixels=size[0] * size[1], deep="", shape=lambda: (size[1], size[0]), decode=decode
    )
