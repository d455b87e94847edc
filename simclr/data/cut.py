"""The random crops of a picture, cut out of its own pixels where it is decoded; the device does the rest of its views."""

import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, JpegImagePlugin
from torch import Tensor
from torch.nn import functional as F

from augment import AugmentConfig
from augment.crops import crop_boxes, crop_uniforms
from simclr.data.bands import turned
from simclr.data.decode import Reader, enough_memory
from simclr.data.opening import refuse_irregular
from simclr.data.pillow_open import expect_few_scans
from simclr.data.rows import Row, Stored
from simclr.distributed import derive_seed

__all__ = ["CropPlan", "Cut", "cut_views"]


@dataclass(frozen=True, kw_only=True)
class CropPlan:
    """Which crops the images of a step give: a function of the step, of an image's place in the batch, and of its size."""

    configs: tuple[AugmentConfig, ...]
    """How views are made, first to last."""

    ends: tuple[int, ...]
    """The step before which each of them but the last is used."""

    batch: int
    """Images of a step in all processes."""

    seed: int
    """Of the run."""

    def config(self, step: int) -> AugmentConfig:
        """How the views of ``step`` are made."""
        return self.configs[sum(step >= end for end in self.ends)]

    def uniforms(self, step: int) -> Tensor:
        """What the boxes of ``step`` are drawn from: (K, V, B), see ``augment.crops``."""
        return crop_uniforms(self.config(step), self.batch, derive_seed(self.seed, "views", step))

    def boxes(self, step: int, places: Tensor, sizes: Tensor) -> Tensor:
        """Boxes (V, B, 4) int64 of images of the ``sizes`` (B, 2), height and width, at ``places`` (B,) of the batch."""
        return crop_boxes(self.config(step), self.uniforms(step)[..., places], sizes[:, 0], sizes[:, 1])


@dataclass(frozen=True)
class Cut:
    """The crops of one image, or of several."""

    views: Tensor
    """uint8 (V, C, S, S); of several (V, B, C, S, S), and floating point in [0, 1] where they were cut on the device."""

    boxes: Tensor
    """int64 (V, 4): top, left, height and width in the whole image; of several (V, B, 4)."""

    size: Tensor
    """int64 (2,): height and width of the whole image; of several (B, 2)."""


def cut_views(
    reader: Reader,
    path: Path | Row,
    page: int,
    boxes_of: Callable[[int, int], Tensor],
    size: int,
    antialias: bool = True,
) -> Cut:
    """Decode a picture once and cut its views out, each resized to ``size`` x ``size``.

    A JPEG is decoded at the smallest of its scales at which no crop has fewer pixels than its view, if it has so many.

    Args:
        reader: how the file becomes pixels.
        path, page: of the picture.
        boxes_of: height and width of the whole picture -> boxes (V, 4).
        size: of the views, in pixels.
        antialias: widen the filter where a crop shrinks.

    Raises:
        DataError: as ``Reader.read``.
    """

    def shrink(height: int, width: int) -> float:
        return max(1.0, int(boxes_of(height, width)[:, 2:].min()) / size)

    pixels, (height, width) = _read_jpeg(reader, path, page, shrink) or reader.read(path, page, shrink)
    boxes = boxes_of(height, width)
    with enough_memory(path):
        if pixels.shape[1:] == (height, width):
            views = [_resized(pixels[:, t : t + h, le : le + w], size, antialias) for t, le, h, w in boxes.tolist()]
        else:  # boxes have fractions of the pixels of a smaller scale, which Pillow takes
            picture = Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy())
            down, across = pixels.shape[1] / height, pixels.shape[2] / width
            views = []
            for top, left, box_height, box_width in boxes.tolist():
                right, bottom = (left + box_width) * across, (top + box_height) * down
                box = (left * across, top * down, min(right, picture.width), min(bottom, picture.height))
                view = np.array(picture.resize((size, size), Image.Resampling.BILINEAR, box))
                views.append(torch.from_numpy(view.reshape(size, size, -1)).permute(2, 0, 1))
        return Cut(torch.stack(views), boxes, torch.tensor([height, width]))


def _resized(crop: Tensor, size: int, antialias: bool) -> Tensor:
    if crop.shape[1:] == (size, size):
        return crop
    return F.interpolate(crop[None], (size, size), mode="bilinear", align_corners=False, antialias=antialias)[0]


def _read_jpeg(
    reader: Reader, path: Path | Row, page: int, shrink: Callable[[int, int], float]
) -> tuple[Tensor, tuple[int, int]] | None:
    """What ``reader.read`` gives, in half its time; None for all but a whole plain JPEG that is needed at its full scale."""
    decode = _jpeg_decoder()
    if (
        decode is None
        or (isinstance(path, Row) and not isinstance(path, Stored))
        or page
        or reader.channels != 3
        or not (reader.value_range is None or reader.deep_only)
    ):
        return None
    try:
        if isinstance(path, Row):
            data = path.image()
        else:
            refuse_irregular(path)
            data = path.read_bytes()
        if not (data.startswith(b"\xff\xd8\xff") and data.rstrip(b"\0").endswith(b"\xff\xd9")):
            return None
        header = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        if header.info.get("progressive"):
            expect_few_scans(header, io.BytesIO(data))
        if header.mode not in ("RGB", "L") or header.width * header.height > reader.max_pixels:
            return None
        orientation = header.getexif().get(_ORIENTATION, 1)
        height, width = header.size if orientation in (5, 6, 7, 8) else header.size[::-1]
        if shrink(height, width) >= 2:  # Pillow's decoder leaves out what is not needed
            return None
        pixels: Tensor = decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB)
    except (OSError, SyntaxError, ValueError, RuntimeError, TypeError, MemoryError, Image.DecompressionBombError):
        return None  # the reader says what is wrong with it
    if orientation != 1:
        pixels = torch.from_numpy(turned(pixels.permute(1, 2, 0).numpy(), orientation).copy()).permute(2, 0, 1)
    return pixels, (height, width)


@cache
def _jpeg_decoder() -> Callable[[Tensor, int], Tensor] | None:
    """torchvision's, where it has one: its face warns since 0.29 that a later version will have none."""
    try:
        importlib.import_module("torchvision.io")
        decoder: Callable[[Tensor, int], Tensor] = torch.ops.image.decode_jpeg
    except (ImportError, AttributeError, RuntimeError):
        return None
    return decoder


_RGB = 3  # torchvision.io.ImageReadMode.RGB

_ORIENTATION = 0x0112
