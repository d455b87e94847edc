"""An ImageSet of whatever Python holds: a Dataset, rows of Hugging Face's, a list of pictures or paths, arrays.

>>> import numpy as np
>>> pixels = np.zeros((3, 16, 16, 3), dtype=np.uint8)
>>> images = as_image_set((pixels, ["wren", "owl", "wren"]), DataConfig(size=16))
>>> len(images), images.classes, images.labels
(3, ('owl', 'wren'), tensor([1, 0, 1]))
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset

from simclr.config.data import DataConfig
from simclr.data.decode import Reader, to_square
from simclr.data.image_set import ImageSet
from simclr.data.rows import LABEL_KEYS, Row, is_image
from simclr.data.survey import reader_for
from simclr.errors import ConfigError, DataError, shown

__all__ = ["as_image_set", "fingerprint"]

_WANTED = "a Dataset of (image, label), rows of Hugging Face's, a list of images or paths, arrays, or (images, labels)"


def as_image_set(images: Any, config: DataConfig, name: str = "") -> ImageSet:
    """``images`` as a set of ``config.size`` and ``config.channels``; read row by row where they are not arrays of that size.

    Args:
        images: an ImageSet; anything with a length whose items are images, ``(image, label)`` or rows with the keys
            ``image`` and ``label`` (torch's and Hugging Face's data sets); arrays or tensors (N, H, W), (N, H, W, C) or
            (N, C, H, W); or ``(images, labels)``. An image is one of Pillow's, a path, or an array or tensor, uint8, uint16
            or floats in [0, 1]. Labels are whole numbers or texts, None or -1 where there is none; floats are numbers to
            predict.
        config: how they are stored.
        name: what messages call the set.

    Raises:
        DataError: none of these, empty, or without one order: an iterable without a length.
    """
    if isinstance(images, ImageSet):
        return _stored_as(images, config)
    labels: Any = None
    if isinstance(images, tuple) and len(images) == 2 and _many(images[0]) and not is_image(images[1]):
        images, labels = images
        if len(labels) != len(images):
            raise DataError(f"there are {len(images)} images and {len(labels)} labels; expected one for each")
    _expect_rows(images)
    name = name or f"your {type(images).__name__}"
    names = _names(images)
    labels = _labels_of(images, name) if labels is None else list(labels)
    if isinstance(images, list) and all(isinstance(one, tuple | list) and _is_path(one[0]) for one in images):
        images = [one[0] for one in images]  # whose labels were read by now
    if isinstance(images, list | tuple) and all(map(_is_path, images)):
        paths = [Path(one) for one in images]
        reader, notes = reader_for(paths, config)
        whole = ImageSet.from_files(
            paths, reader, labels=None, classes=(), name=name, broken=config.broken, notes=notes
        )
    elif (pixels := _pixels(images, config)) is not None:
        whole = ImageSet.from_pixels(pixels, labels=None, classes=(), name=name)
    else:
        reader = Reader(
            size=config.size,
            channels=config.channels,
            fit=config.fit,
            value_range=None if isinstance(config.value_range, str) else config.value_range,
            max_pixels=config.max_pixels,
        )
        rows = tuple(Row(images, index, name) for index in range(len(images)))
        whole = ImageSet(name=name, reader=reader, rows=rows, broken=config.broken)
        if config.broken == "refuse":
            whole[0]  # what no image can be made of is one sentence, and at once
    return _labelled(whole, labels, names)


def fingerprint(images: ImageSet) -> str:
    """What a run writes down of images that it cannot load again: number, classes, and a digest of labels and some pixels.

    Images that are others every time they are read, by a random transform, leave no digest of their pixels.
    """
    digest = hashlib.sha256(repr((len(images), images.classes)).encode())
    for numbers in (images.labels, images.values):
        if numbers is not None:
            digest.update(numbers.numpy().tobytes())
    chosen = sorted({round(i * (len(images) - 1) / 15) for i in range(16)})
    varies = False
    with suppress(DataError):  # what does not decode is dealt with where it is used
        once, again = (torch.stack([images[i][0].cpu() for i in chosen]) for _ in range(2))
        varies = not torch.equal(once, again)
        digest.update(b"" if varies else once.numpy().tobytes())
    classes = f", {len(images.classes)} classes" if images.classes else ""
    how = ", other pixels at each reading" if varies else ""
    kind = images.name.removeprefix("your ")
    return f"{kind}: {len(images)} images{classes}{how}, sha256 {digest.hexdigest()[:12]}"


def _stored_as(images: ImageSet, config: DataConfig) -> ImageSet:
    if images.reader.channels != config.channels:
        raise ConfigError(
            f"{images.name} has images of {images.reader.channels} channels, and data.channels is {config.channels}; set "
            f"data.channels to {images.reader.channels}"
        )
    if images.size == config.size:
        return images
    pixels = images.pixels
    if pixels is not None:
        pixels = torch.stack([to_square(image.cpu(), config.size, config.fit) for image in pixels])
    return replace(images, reader=replace(images.reader, size=config.size), pixels=pixels, originals=None)


def _is_path(one: Any) -> bool:
    return isinstance(one, str | os.PathLike)


def _many(images: Any) -> bool:
    """Whether these are several images, rather than one of a pair."""
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim > 2
    return isinstance(images, Sequence) and not isinstance(images, str)


def _expect_rows(images: Any) -> None:
    kind = type(images).__name__
    if isinstance(images, Mapping):
        keys = list(images)[:5]
        first = f"give one of its parts: images[{keys[0]!r}]" if keys else "it is empty"
        raise DataError(f"images is a {kind} of {', '.join(map(str, keys))}; {first}")
    bare = isinstance(images, str | bytes | os.PathLike | Image.Image)
    if bare or isinstance(images, IterableDataset) or not hasattr(images, "__getitem__"):
        hint = ""
        if isinstance(images, str | os.PathLike):
            hint = "; a folder is data.source='folder' with data.path"
        elif hasattr(images, "__iter__") and not bare:
            hint = "; what can only be gone through once has no order to draw from: make a list of it, or a Dataset"
        raise DataError(f"images is {kind}; expected {_WANTED}{hint}")
    try:
        count = len(images)
    except TypeError as error:
        raise DataError(f"images is {kind}, which has no length; expected {_WANTED}") from error
    if not count:
        raise DataError("images is empty; expected one image at least")
    if isinstance(images, np.ndarray | Tensor) and images.ndim not in (3, 4):
        raise DataError(
            f"images is an array of shape {tuple(images.shape)}; expected (N, H, W), (N, H, W, C) or (N, C, H, W)"
        )


def _pixels(images: Any, config: DataConfig) -> Tensor | None:
    """Images uint8 (N, C, size, size) that need no decoding, or None."""
    if not isinstance(images, np.ndarray | Tensor) or str(images.dtype).removeprefix("torch.") != "uint8":
        return None
    pixels = torch.as_tensor(np.ascontiguousarray(images) if isinstance(images, np.ndarray) else images)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[1] not in (1, config.channels):
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.shape[2:] != (config.size, config.size) or not isinstance(config.value_range, str):
        return None
    if pixels.shape[1] == 1 and config.channels == 3:
        pixels = pixels.expand(-1, 3, -1, -1)
    return pixels.contiguous() if pixels.shape[1] == config.channels else None


def _labels_of(images: Any, name: str) -> list[Any]:
    """The label of every item, None where there is none; a column of them where there is one, so that no image is read."""
    first, last = (_plain(Row(images, index, name).read()[1]) for index in (0, len(images) - 1))
    column = _column(images)
    if column is not None and [_plain(column[0]), _plain(column[-1])] == [first, last]:
        return list(column)
    if first is None and last is None and not isinstance(images, list | tuple):
        return [None] * len(images)
    return [Row(images, index, name).read()[1] for index in range(len(images))]


def _column(images: Any) -> Sequence[Any] | None:
    if isinstance(images, Subset):
        inner = _column(images.dataset)
        return None if inner is None else [inner[i] for i in images.indices]
    if isinstance(images, ConcatDataset):
        parts = [_column(part) for part in images.datasets]
        return None if any(part is None for part in parts) else [one for part in parts for one in part or ()]
    if isinstance(images, TensorDataset):
        return images.tensors[1].tolist() if len(images.tensors) > 1 and images.tensors[1].ndim == 1 else None
    for key in (key for key in LABEL_KEYS if key in (getattr(images, "column_names", None) or ())):
        return list(images[key])  # Hugging Face's
    for key in ("targets", "labels"):
        found = getattr(images, key, None)
        if isinstance(found, list | tuple | np.ndarray | Tensor) and len(found) == len(images):
            return found if isinstance(found, list | tuple) else found.tolist()
    return None


def _names(images: Any) -> tuple[str, ...]:
    """The names of the labels 0, 1, ... where the data set says them."""
    if isinstance(images, Subset):
        return _names(images.dataset)
    features = getattr(images, "features", None)
    if isinstance(features, Mapping):
        key = next((key for key in LABEL_KEYS if key in features), None)
        return tuple(map(str, getattr(features.get(key), "names", None) or ()))
    found = getattr(images, "classes", None)
    return tuple(map(str, found)) if isinstance(found, list | tuple) else ()


def _labelled(images: ImageSet, given: list[Any], names: tuple[str, ...]) -> ImageSet:
    labels = [_plain(one) for one in given]
    there = [one for one in labels if one is not None]
    if not there:
        return images
    wrong = next((one for one in there if not isinstance(one, int | float | str)), None)
    if wrong is not None:
        raise DataError(f"a label of {images.name} is {shown(wrong)}; expected a whole number, a text, or None")
    number: dict[Any, int]
    if any(isinstance(one, str) for one in there):
        labels = [None if one is None else str(one) for one in labels]
        names = tuple(sorted({one for one in labels if one is not None}))
        number = {one: i for i, one in enumerate(names)}
    elif any(isinstance(one, float) for one in there):
        numbers = [float("nan") if one is None else float(one) for one in labels]
        said = "its labels are floats: numbers to predict, not classes"
        return replace(images, values=torch.tensor(numbers, dtype=torch.float32), notes=(*images.notes, said))
    elif names and max(there) < len(names):
        number = {i: i for i in range(len(names))}
    else:
        used = sorted(set(there))
        names, number = tuple(map(str, used)), {one: i for i, one in enumerate(used)}
    return replace(images, labels=torch.tensor([number.get(one, -1) for one in labels]), classes=names)


def _plain(label: Any) -> Any:
    """A label as Python has it: of a tensor or NumPy's of one number that number; NaN and negative numbers are none."""
    if isinstance(label, Tensor):
        label = label.detach().cpu().numpy()
    if isinstance(label, np.ndarray | np.generic) and label.size == 1:
        label = label.item()
    if isinstance(label, bool):
        return int(label)
    none = (isinstance(label, int) and label < 0) or (isinstance(label, float) and label != label)
    return None if none else label
