"""JPEG decoding on the device: ``data.decode gpu``. Workers read files and look at their headers, nothing more.

torchvision hands a batch of JPEGs to nvJPEG. What that does not do right is decoded by the worker as always: other formats,
CMYK, and pictures whose camera noted an orientation.
"""

import io
import warnings
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg

from simclr.data.decode import decode, refuse_irregular

__all__ = ["decode_batch", "read_for_device"]

_ORIENTATION = 0x0112


def read_for_device(path: Path, size: int) -> Tensor:
    """The bytes of a plain JPEG, uint8 (bytes,); any other image decoded, uint8 (3, size, size).

    Raises:
        DataError: the file is missing or no image; the message names it.
    """
    try:
        refuse_irregular(path)
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            plain = image.format == "JPEG" and image.mode in ("RGB", "L") and image.getexif().get(_ORIENTATION, 1) == 1
    except (OSError, ValueError, SyntaxError):
        plain = False  # decode says what is wrong with it
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if plain else decode(path, size)


def decode_batch(read: list[Tensor], paths: list[Path], size: int, device: torch.device) -> Tensor:
    """What ``read_for_device`` gave for ``paths`` as uint8 (B, 3, size, size) on ``device``.

    Shorter side to ``size`` with antialiasing, then the centre square, as ``decode`` does on the CPU; the two differ by a
    few grey levels, since the decoders and the resizing round differently.

    Raises:
        DataError: a JPEG that does not decode; the message names it.
    """
    raw = [i for i, item in enumerate(read) if item.ndim == 1]
    images: list[Tensor] = [item.to(device, non_blocking=True) if item.ndim == 3 else item for item in read]
    if raw:
        try:
            with warnings.catch_warnings():
                # Deprecated since torchvision 0.29 for TorchCodec 0.16, which releases of torch that we support lack.
                warnings.simplefilter("ignore", DeprecationWarning)
                decoded = decode_jpeg([read[i] for i in raw], mode=ImageReadMode.RGB, device=device)
            for i, image in zip(raw, decoded, strict=True):
                images[i] = _to_stored_size(image, size)
        except RuntimeError:  # one of them is broken: one by one it is found, and named
            for i in raw:
                images[i] = decode(paths[i], size).to(device)
    return torch.stack(images)


def _to_stored_size(image: Tensor, size: int) -> Tensor:
    height, width = image.shape[-2:]
    if (height, width) == (size, size):
        return image
    scale = size / min(height, width)
    scaled = (max(size, round(height * scale)), max(size, round(width * scale)))
    resized = F.interpolate(image[None].float(), scaled, mode="bilinear", antialias=True, align_corners=False)[0]
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    return resized[:, top : top + size, left : left + size].round().clamp(0, 255).byte()
