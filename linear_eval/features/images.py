"""Any set of images as batches on the device: what the encoder is fed when it is evaluated."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from simclr.data.worker_start import way_to_start
from simclr.data.workers import read_by_workers
from simclr.errors import DataError

ArrayImages = np.ndarray | Annotated[Tensor, "N A B C"] | tuple[Any, Any]
"""Images (N, H, W, C) or (N, C, H, W), alone or with labels (N,)."""

Square = Callable[[Tensor], Tensor]
"""Makes images (1, C, H, W) of any size ones of the size that an encoder wants."""

__all__ = [
    "ArrayImages",
    "SizedImages",
    "all_groups",
    "all_labels",
    "as_images",
    "batch_and_labels",
    "image_and_label",
    "image_batches",
    "image_shape",
]


@runtime_checkable
class SizedImages(Protocol):
    """N images, each ``(image, label)``, just the image, or a row such as those of Hugging Face: a dictionary of both.

    An image is uint8 (C, H, W), floating point in [0, 1] (C, H, W), an array (H, W, C), or a PIL image. A label is a whole
    number; -1 or ``None`` where there is none. A set that has the attribute ``pixels``, uint8 (N, C, H, W), is read from that
    tensor, and one that has ``labels``, int64 (N,) or ``None``, gives its labels without an image being decoded.
    One that has ``groups``, int64 (N,) or ``None``, says which images belong together, see ``Features.groups``.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


IMAGE_KEYS = ("image", "img", "pixel_values", "pixels", "picture")
LABEL_KEYS = ("label", "labels", "target", "class", "fine_label", "y")
"""What rows of tables call their columns; the first that is there is taken."""


def image_and_label(item: Any, which: str) -> tuple[Tensor, int]:
    """A tensor (C, H, W) and a label of an item of any set; ``which`` is what messages call it.

    Raises:
        DataError: no image in it, or a label that is no whole number.
    """
    image, label = _parts(item, which)
    if hasattr(image, "convert"):
        image = np.array(image.convert("RGB"))
    if isinstance(image, np.ndarray) and image.ndim in (2, 3):
        image = torch.from_numpy(np.ascontiguousarray(image if image.ndim == 3 else image[..., None]))
        last = image.shape[2] in (1, 3) and (image.shape[0] not in (1, 3) or image.dtype == torch.uint8)
        image = image.permute(2, 0, 1).contiguous() if last else image
    if not isinstance(image, Tensor):
        raise DataError(
            f"{which} is a {type(image).__name__}: expected a tensor (C, H, W), an array (H, W, C) or a PIL image"
        )
    if image.ndim != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise DataError(f"{which} is {image.dtype} of shape {tuple(image.shape)}: expected uint8 or float, (C, H, W)")
    return image, _whole(label, which)


def batch_and_labels(batch: Any, which: str) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) and labels (B,) int64 on the CPU of a DataLoader's batch: a pair, images alone, or a row of both.

    Raises:
        DataError: no images in it, or labels that are no whole numbers.
    """
    images, labels = _parts(batch, which)
    if not isinstance(images, Tensor) or images.ndim != 4:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise DataError(
            f"{which} has images of {shape}: expected a tensor (B, C, H, W); ToTensor() makes one of pictures"
        )
    if labels is None:
        return images, torch.full((len(images),), -1)
    labels = torch.as_tensor(labels).cpu()
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise DataError(
            f"{which} has labels {labels.dtype} of shape {tuple(labels.shape)}: expected int64 ({len(images)},)"
        )
    return images, labels.long()


def _parts(item: Any, which: str) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        found = next((key for key in IMAGE_KEYS if key in item), None)
        if found is None:
            raise DataError(
                f"{which} is a row with {', '.join(map(str, item))}: expected a column {' or '.join(IMAGE_KEYS)}"
            )
        return item[found], next((item[key] for key in LABEL_KEYS if key in item), None)
    if isinstance(item, tuple | list) and item:
        return item[0], item[1] if len(item) > 1 else None  # one alone is of a TensorDataset without labels
    return item, None


def _whole(label: Any, which: str) -> int:
    if label is None:
        return -1
    try:
        number = int(label)
        if number == label:
            return number
    except (TypeError, ValueError):
        pass
    raise DataError(f"the label of {which} is {label!r:.60}: expected a whole number; number the classes first")


class _Chosen:
    """What a worker does: image numbers (B,) -> images (B, C, H, W) and labels (B,)."""

    def __init__(self, dataset: SizedImages, square: Square | None) -> None:
        self.dataset, self.square = dataset, square

    def __call__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        items = [(*image_and_label(self.dataset[index], f"image {index}"), index) for index in indices.tolist()]
        return _stack(items, self.square)


def _stack(items: list[tuple[Tensor, int, int]], square: Square | None) -> tuple[Tensor, Tensor]:
    images = [image for image, _, _ in items]
    if square is not None and any(image.shape != images[0].shape or image.dtype != images[0].dtype for image in images):
        images = [square(image[None])[0] for image in images]
        items = [(image, label, index) for image, (_, label, index) in zip(images, items, strict=True)]
    for image, _, index in items:
        if image.shape != images[0].shape or image.dtype != images[0].dtype:
            raise DataError(
                f"image {index} is {image.dtype} {tuple(image.shape)} and image {items[0][2]} is {images[0].dtype} "
                f"{tuple(images[0].shape)}: one size and type is needed; resize when the set is read"
            )
    return torch.stack(images), torch.tensor([label for _, label, _ in items], dtype=torch.int64)


def image_batches(
    dataset: SizedImages,
    indices: Tensor,
    batch_size: int,
    device: torch.device,
    workers: int = 0,
    square: Square | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (B, C, H, W) on the device and labels (B,) int64 on the CPU, in the order of ``indices`` (M,).

    Every index is read exactly once; the last batch holds what is left. Images of several sizes become squares by ``square``,
    or are refused.

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
    chosen = _Chosen(dataset, square)
    batches = read_by_workers(
        chosen,
        [part for part in indices.split(batch_size) if len(part)],
        workers=workers,
        context=way_to_start(chosen) if workers else None,
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
    image = pixels[0] if isinstance(pixels, Tensor) else image_and_label(dataset[0], "image 0")[0]
    channels, height, width = image.shape
    return channels, height, width


class _Arrays:
    """Images (N, C, H, W) in memory, with labels or without."""

    def __init__(self, pixels: Tensor, labels: Tensor | None) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        return self.pixels[index], -1 if self.labels is None else int(self.labels[index])


class _Listed:
    """Images in a list, and their labels in another."""

    def __init__(self, images: Sequence[Any], labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> tuple[Any, int]:
        return self.images[index], int(self.labels[index])


def as_images(given: Any) -> SizedImages:
    """A set of images, as it is or in arrays: (N, H, W, C), (N, C, H, W) or (N, H, W), of numpy or torch, alone or in a pair
    with labels (N,); a list of images in a pair with labels.

    Raises:
        DataError: something else.
    """
    images, labels = given, None
    if isinstance(given, tuple) and len(given) == 2 and _are_labels(given[1]):
        images, labels = given[0], _whole_numbers(given[1])
        if not hasattr(images, "__len__") or len(images) != len(labels):
            count = len(images) if hasattr(images, "__len__") else type(images).__name__
            raise DataError(f"{count} images and {len(labels)} labels: expected a label for each image")
    if isinstance(images, np.ndarray | Tensor):
        return _Arrays(_channels_second(images), labels)
    if (
        not hasattr(images, "__len__")
        or not hasattr(images, "__getitem__")
        or isinstance(images, str | bytes | Mapping)
    ):
        raise DataError(
            f"the images are a {type(images).__name__}: expected a set of (image, label) with a length, a DataLoader, an "
            "array (N, H, W, C) or (N, C, H, W), or a list of images"
        )
    return images if labels is None else _Listed(images, labels)


def _are_labels(given: Any) -> bool:
    if isinstance(given, Tensor | np.ndarray):
        return given.ndim == 1
    kinds = (int | np.integer, str)
    return isinstance(given, list | tuple | range) and any(all(isinstance(one, k) for one in given) for k in kinds)


def _whole_numbers(labels: Any) -> Tensor:
    """Labels (N,) int64 on the CPU, or a DataError."""
    if not isinstance(labels, Tensor):
        array = np.asarray(labels)
        if array.dtype.kind not in "biuf":
            raise DataError(
                f"the labels are such as {labels[0]!r:.40}: expected whole numbers; number the classes first"
            )
        labels = torch.from_numpy(array.astype(np.float64 if array.dtype.kind == "f" else np.int64))
    whole = labels.cpu().long()
    if not torch.equal(whole.to(labels.dtype), labels.cpu()):
        raise DataError(f"the labels are {labels.dtype} with fractions: expected whole numbers, one a class")
    return whole


def _channels_second(images: np.ndarray | Tensor) -> Tensor:
    shape = tuple(images.shape)
    pixels = torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4:
        first, last = shape[1] in (1, 3), shape[3] in (1, 3)
        if last and (not first or (pixels.dtype == torch.uint8 and isinstance(images, np.ndarray))):
            pixels = pixels.permute(0, 3, 1, 2).contiguous()
    if pixels.ndim != 4 or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
        raise DataError(
            f"the images are {images.dtype} of shape {shape}: expected uint8 of 0 to 255 or floating point in [0, 1], "
            "(N, H, W, C) or (N, C, H, W)"
        )
    return pixels if pixels.dtype == torch.uint8 else pixels.float()
