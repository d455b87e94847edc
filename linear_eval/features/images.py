"""Any set of images as batches on the device: what the encoder is fed when it is evaluated."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from simclr.data.workers import read_by_workers
from simclr.errors import DataError

__all__ = ["SizedImages", "all_groups", "all_labels", "image_batches", "image_shape"]


@runtime_checkable
class SizedImages(Protocol):
    """N images, each ``(image, label)`` or just the image.

    An image is uint8 (C, H, W), floating point in [0, 1] (C, H, W), or a PIL image. A label is an int; -1 or ``None``
    where there is none. A set that has the attribute ``pixels``, uint8 (N, C, H, W), is read from that tensor, and one
    that has ``labels``, int64 (N,) or ``None``, gives its labels without an image being decoded.
    One that has ``groups``, int64 (N,) or ``None``, says which images belong together, see ``Features.groups``.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def _image_and_label(dataset: SizedImages, index: int) -> tuple[Tensor, int]:
    item = dataset[index]
    image, label = item[:2] if isinstance(item, tuple | list) else (item, None)
    if not isinstance(image, Tensor):
        if not hasattr(image, "convert"):
            raise DataError(f"image {index} is a {type(image).__name__}: expected a tensor (C, H, W) or a PIL image")
        image = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
    if image.ndim != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise DataError(
            f"image {index} is {image.dtype} of shape {tuple(image.shape)}: expected uint8 or float, (C, H, W)"
        )
    return image, -1 if label is None else int(label)


class _Chosen:
    """What a worker does: image numbers (B,) -> images (B, C, H, W) and labels (B,)."""

    def __init__(self, dataset: SizedImages) -> None:
        self.dataset = dataset

    def __call__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return _stack([(*_image_and_label(self.dataset, index), index) for index in indices.tolist()])


def _stack(items: list[tuple[Tensor, int, int]]) -> tuple[Tensor, Tensor]:
    images = [image for image, _, _ in items]
    for image, _, index in items:
        if image.shape != images[0].shape or image.dtype != images[0].dtype:
            raise DataError(
                f"image {index} is {image.dtype} {tuple(image.shape)} and image {items[0][2]} is {images[0].dtype} "
                f"{tuple(images[0].shape)}: one size and type is needed; resize when the set is read"
            )
    return torch.stack(images), torch.tensor([label for _, label, _ in items], dtype=torch.int64)


def image_batches(
    dataset: SizedImages, indices: Tensor, batch_size: int, device: torch.device, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (B, C, H, W) on the device and labels (B,) int64 on the CPU, in the order of ``indices`` (M,).

    Every index is read exactly once; the last batch holds what is left.

    Raises:
        DataError: an image that cannot be read, whichever process reads it, or a worker that died.
    """
    pixels = getattr(dataset, "pixels", None)
    if isinstance(pixels, Tensor):
        labels = all_labels(dataset)
        assert labels is not None
        for part in indices.split(batch_size):
            yield pixels[part.to(pixels.device)].to(device), labels[part]
        return
    batches = read_by_workers(
        _Chosen(dataset),
        [part for part in indices.split(batch_size) if len(part)],
        workers=workers,
        # A fork of a process that has started threads can hang, and Python warns of it.
        context="forkserver",
        pin_memory=device.type == "cuda",
    )
    for images, labels in batches:
        yield images.to(device, non_blocking=True), labels


def all_labels(dataset: SizedImages) -> Tensor | None:
    """Labels (N,) int64 on the CPU when the set knows them without reading images, all -1 if it has none."""
    if not hasattr(dataset, "labels"):
        return torch.full((len(dataset),), -1) if isinstance(getattr(dataset, "pixels", None), Tensor) else None
    labels = dataset.labels
    if labels is None:
        return torch.full((len(dataset),), -1)
    labels = torch.as_tensor(labels).cpu().to(torch.int64)
    if labels.shape != (len(dataset),):
        raise DataError(
            f"the set has {len(dataset)} images but labels of shape {tuple(labels.shape)}: expected one each"
        )
    return labels


def all_groups(dataset: SizedImages) -> Tensor | None:
    """Groups (N,) int64 on the CPU, see ``Features.groups``, or None where the set has none."""
    groups = getattr(dataset, "groups", None)
    return None if groups is None else torch.as_tensor(groups).cpu().to(torch.int64)


def image_shape(dataset: SizedImages) -> tuple[int, int, int]:
    """(C, H, W) of the images, by the first of them."""
    pixels = getattr(dataset, "pixels", None)
    image = pixels[0] if isinstance(pixels, Tensor) else _image_and_label(dataset, 0)[0]
    channels, height, width = image.shape
    return channels, height, width
