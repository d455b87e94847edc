"""What features depend on, as digests: the encoder with all that it does to an image, and the images with how they are read."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor, nn

from linear_eval.features.frozen import digest_of
from linear_eval.features.pixels import RawPixels
from simclr.data import ImageSet
from simclr.data.rows import Row, Stored
from simclr.exchange.encoder_module import Encoder

__all__ = ["digest_of_words", "encoder_identity", "images_identity"]

_THREADS, _AT_ONCE = 16, 1024
"""That ask a disk about files, of which a network folder answers as many at once; and files that each asks about."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def encoder_identity(encoder: nn.Module, device: torch.device, autocast: torch.dtype | None) -> tuple[str, str] | None:
    """Digests of an encoder's weights, and of all else that decides what it makes of a batch; None of a module that is not ours.

    The second holds how it is built and feeds itself (size, mean, standard deviation, reader), the precision, the device, and
    the versions of the libraries that do it.
    """
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    how = [torch.__version__, version("timm"), on, autocast]
    if isinstance(encoder, RawPixels):
        return digest_of_words("RawPixels"), digest_of_words(encoder.bound, encoder.with_fingerprints, *how)
    if type(encoder) is not Encoder:  # what another one hides in its forward nobody knows
        return None
    built = _ADDRESS.sub("", repr(encoder))
    fed = encoder.size, encoder.mean, encoder.std, encoder.reader, encoder.output
    return digest_of(encoder), digest_of_words(built, *fed, *how)


def images_identity(images: ImageSet) -> str | None:
    """Digest of a set's images in their order: of files name, size, time of change and page, of pixels the bytes.

    Labels have no part in it. None where it cannot be told: rows of somebody else's data set, files that are not there.
    """
    places, pages = images.places, images.pages
    if not places and images.pixels is None:
        return None
    read = (images.reader, PIL.__version__, len(images))
    if not places:
        assert images.pixels is not None
        return digest_of_words("pixels", tuple(images.pixels.shape), _of_bytes(images.pixels), *read)
    told = _of_files(places, images.name) if images.paths is not None else _of_rows(images.rows or ())
    return None if told is None else digest_of_words(told, pages, *read)


def _of_files(paths: Sequence[Path | Row], root: str) -> str | None:
    digest, above = hashlib.sha256(), f"{root.rstrip(os.sep)}{os.sep}"

    def ask(part: list[str]) -> bytes | None:
        found = []
        for path in part:
            try:
                told = os.stat(path)  # noqa: PTH116 - a million of them
            except OSError:
                return None
            found.append(f"{path.removeprefix(above)}\0{told.st_size}\0{told.st_mtime_ns}\n")
        return "".join(found).encode("utf-8", "surrogateescape")

    with ThreadPoolExecutor(_THREADS) as pool:
        for part in pool.map(ask, _parts(map(str, paths))):
            if part is None:
                return None
            digest.update(part)
    return digest.hexdigest()


def _of_rows(rows: Sequence[Row]) -> str | None:
    """The names and states of the files that a store reads, and which of its images are meant in which order."""
    stores = {id(row.images): row.images for row in rows if isinstance(row, Stored)}
    if len(stores) != 1 or not all(isinstance(row, Stored) for row in rows):
        return None
    files = getattr(next(iter(stores.values())), "files", None)
    told = None if files is None else _of_files(files(), "")
    return None if told is None else digest_of_words(told, _of_bytes(torch.tensor([row.index for row in rows])))


def _parts(paths: Iterator[str]) -> Iterator[list[str]]:
    while part := list(islice(paths, _AT_ONCE)):
        yield part


def _of_bytes(values: Tensor) -> str:
    digest = hashlib.sha256()
    for part in values.split(max(1, (1 << 26) // max(1, values[:1].numel()))):
        digest.update(np.ascontiguousarray(part.cpu().numpy()).data)
    return digest.hexdigest()


def digest_of_words(*told: object) -> str:
    """SHA-256 of plain values, one after the other."""
    return hashlib.sha256(repr(told).encode("utf-8", "surrogateescape")).hexdigest()
