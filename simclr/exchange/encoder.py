"""The encoder as two public files, safetensors and JSON, and ``load_encoder``, which loads all of it or refuses.

``encoder.json`` says how to build the backbone, how to prepare an image for it, and the SHA-256 of ``encoder.safetensors``,
which holds its tensors. Nothing in them is pickled, so a file from a stranger cannot run code.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from augment import AugmentConfig, preprocess
from simclr.config import EncoderConfig
from simclr.data.decode import Fit, Reader
from simclr.errors import CheckpointError
from simclr.exchange.description import (
    EncoderDescription,
    find_encoder,
    read_description,
    write_description,
)
from simclr.exchange.sealed import refuse_changed
from simclr.files import write_tensors
from simclr.model.encoder import build_backbone, feature_width

__all__ = [
    "Encoder",
    "EncoderDescription",
    "build_encoder",
    "export_encoder",
    "find_encoder",
    "load_encoder",
    "match_tensors",
    "read_description",
    "read_tensors",
]

RAW = (torch.int16, torch.uint16, torch.int32, torch.uint32)
"""Integers that are an instrument's own values, rather than those of a picture."""


class Encoder(nn.Module):
    """A backbone with its preprocessing: images (B, C, H, W), uint8 or float in [0, 1], any size -> features (B, F).

    C is ``channels``; where that is 3, gray images (C = 1) are repeated to three channels. Images become squares of
    ``size`` as ``fit`` says (``augment.preprocess``), then mean and standard deviation are applied as they were in
    training. ``int16``, ``uint16``, ``int32`` and ``uint32`` are an instrument's own values: they become 0 to 255 by
    ``value_range``, where that is None by the full range of their type. ``read`` reads a file as training did.

    Raises:
        TypeError: no tensor, or one of other integers.
        ValueError: not (B, C, H, W) with C as it was in training, or floating point far outside [0, 1]; the range is
            looked at once, in the first batch of floating point.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        size: int,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        reader: Reader | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.size, self.mean, self.std = size, mean, std
        self.reader = Reader(size=size) if reader is None else reader
        """How files became pixels in training; None is colours, cropped."""
        self.features = feature_width(backbone, size, self.channels)
        """Width F of the features."""
        self._range_known = False

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.reader.channels

    @property
    def fit(self) -> Fit:
        """How an image becomes a square: ``crop``, ``pad`` or ``stretch``."""
        return self.reader.fit

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Values of files that become 0 and 255; None is the full range of each kind of file."""
        return self.reader.value_range

    def read(self, path: str | Path, page: int = 0) -> Tensor:
        """A file as training read it: uint8 (1, C, S, S), whose features are those that ``scripts/embed.py`` writes.

        Raises:
            DataError: a file that does not decode, or has another number of bands.
        """
        return self.reader.square(Path(path), page)[None]

    def forward(self, images: Tensor) -> Tensor:
        self._check(images)
        if images.shape[1] == 1:
            images = images.expand(-1, self.channels, -1, -1)
        if images.dtype in RAW:
            images = _eight_bits(images, self.value_range)
        return self.backbone(preprocess(images, self.size, self.mean, self.std, self.fit))

    def _check(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise TypeError(
                f"images are {type(images).__module__}.{type(images).__name__}: expected a tensor (B, C, H, W); of a PIL "
                'image make one with torchvision.transforms.functional.pil_to_tensor(image.convert("RGB"))[None]'
            )
        shape, takes = tuple(images.shape), (1, 3) if self.channels == 3 else (self.channels,)
        if images.ndim != 4 or images.shape[1] not in takes:
            hint = ""
            if images.ndim == 3:
                hint = "; a single image needs a batch of its own: image[None]"
            elif images.ndim == 4 and images.shape[3] in {*takes, 4}:
                hint = "; channels come second: images.permute(0, 3, 1, 2)"
            elif images.ndim == 4 and images.shape[1] == 4 and self.channels == 3:
                hint = "; leave the alpha channel out: images[:, :3]"
            elif images.ndim == 4:
                hint = f"; got C = {images.shape[1]}, and the encoder was trained on {self.channels}"
            known = " or ".join(map(str, takes))
            raise ValueError(f"images have the shape {shape}: expected (B, C, H, W) with C = {known}{hint}")
        # Once, because on a GPU it waits for the device; a program that is traced has no values to look at.
        if not self._range_known and images.is_floating_point() and not torch.compiler.is_compiling() and len(images):
            low, high = (bound.item() for bound in images.aminmax())
            if low < -0.5 or high > 1.5:
                raise ValueError(
                    f"images hold values from {low:.3g} to {high:.3g}: expected floating point in [0, 1], or uint8. The "
                    "encoder normalises by itself; divide pixels of 0 to 255 by 255, or give them as uint8"
                )
            self._range_known = True


def _eight_bits(images: Tensor, value_range: tuple[float, float] | None) -> Tensor:
    """Raw values as uint8, rounded as a reader of files rounds them."""
    full = torch.iinfo(images.dtype)
    low, high = (full.min, full.max) if value_range is None else value_range
    return ((images.double() - low) / (high - low) * 255).clamp(0, 255).round().to(torch.uint8)


def export_encoder(
    backbone: nn.Module,
    folder: Path,
    *,
    config: EncoderConfig,
    augment: AugmentConfig,
    seed: int,
    training: dict[str, Any],
    reader: Reader | None = None,
    plugin: Sequence[str] = (),
) -> Path:
    """Write ``folder/encoder.safetensors`` and ``folder/encoder.json``.

    Args:
        backbone: trained, without its head; it stays on its device and in its mode.
        folder: made where missing.
        config: what ``build_backbone`` was given.
        augment: its size, mean and std are what the backbone expects of an image.
        seed: seed of the initial weights, so that the same encoder untrained can be built to compare with.
        training: JSON-able notes on how it was trained.
        reader: how the training images became pixels: channels, fit, value range; None is colours, cropped.
        plugin: modules of the user's own that the backbone needs, which are imported before it is built again.

    Raises:
        CheckpointError: the disk refuses.
    """
    write_tensors(folder / "encoder.safetensors", backbone.state_dict())
    reader = Reader(size=augment.size) if reader is None else reader
    features = feature_width(backbone, augment.size, reader.channels)
    write_description(
        folder,
        config=config,
        augment=augment,
        features=features,
        seed=seed,
        training=training,
        reader=reader,
        plugin=plugin,
    )
    return folder


def load_encoder(path: str | Path, *, untrained: bool = False) -> Encoder:
    """Load an exported encoder, in eval mode on the CPU.

    Args:
        path: a run directory, its ``encoder`` folder, or one of the two files in it.
        untrained: build the same encoder with the random weights it started from; to compare with.

    Returns:
        A module: images (B, C, H, W), uint8 or float in [0, 1], or raw integers -> features (B, F) float32; see ``Encoder``.

    Raises:
        CheckpointError: nothing there, a damaged file, or tensors that are not exactly those of the backbone that
            ``encoder.json`` names; the message lists the differences. A format that another version writes.
    """
    folder = find_encoder(Path(path))
    return build_encoder(folder, read_description(folder), untrained=untrained)


def build_encoder(folder: Path, described: EncoderDescription, *, untrained: bool = False) -> Encoder:
    """``load_encoder`` of a folder whose ``encoder.json`` has been read already."""
    config, size, file = described.config, described.size, folder / "encoder.safetensors"
    tensors = None if untrained else read_tensors(file)
    if file.exists():
        _refuse_larger(config, file, folder / "encoder.json")
    try:
        backbone = build_backbone(
            dataclasses.replace(config, pretrained=False), size, described.init_seed, described.channels
        )
        encoder = Encoder(backbone, size=size, mean=described.mean, std=described.std, reader=described.reader)
    except Exception as error:  # timm raises whatever it meets in numbers that no model has
        raise CheckpointError(
            f"{folder / 'encoder.json'} describes an encoder that cannot be built: {_first_line(error)}"
        ) from error
    if encoder.features != described.features:
        raise CheckpointError(
            f"{folder / 'encoder.json'}: features is {described.features}; expected {encoder.features}, which {config.name} "
            "as it is described gives"
        )
    if tensors is not None:
        match_tensors(backbone, tensors, what=f"{file} is not a {config.name} as encoder.json describes it")
        refuse_changed(file, described.digests)
        backbone.load_state_dict(tensors)
    return encoder.eval()


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU.

    Raises:
        CheckpointError: it cannot be read, is damaged, or holds NaN or infinity.
    """
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError, ValueError, KeyError) as error:  # the latter for types that torch does not have
        raise CheckpointError(f"{file} cannot be read: {_first_line(error)}") from error
    wrong = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{file} holds NaN or infinity, in {', '.join(wrong[:3])}{more}; take another copy of it")
    return tensors


def _refuse_larger(config: EncoderConfig, file: Path, description: Path) -> None:
    """Before anything is built: a damaged number would take all of the memory, or hours."""
    try:
        with safe_open(file, "pt") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {_first_line(error)}") from error
    widest = max((side for shape in shapes for side in shape), default=0)
    if max(config.channels or (0,)) > widest:
        raise CheckpointError(
            f"{description}: encoder.channels is {list(config.channels or ())}; expected numbers up to {widest}, the largest "
            f"side of a tensor in {file.name}"
        )
    if sum(config.layers or ()) > len(shapes):
        raise CheckpointError(
            f"{description}: encoder.layers is {list(config.layers or ())}; expected fewer blocks than the {len(shapes)} "
            f"tensors in {file.name}"
        )


def match_tensors(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Raise CheckpointError unless ``tensors`` are exactly the names, shapes and types of the state of ``module``."""
    wanted = module.state_dict()
    differences = [f"missing {name}" for name in wanted if name not in tensors]
    differences += [f"unexpected {name}" for name in tensors if name not in wanted]
    differences += [
        f"{name} is {_signature(tensors[name])}, expected {_signature(tensor)}"
        for name, tensor in wanted.items()
        if name in tensors and _signature(tensors[name]) != _signature(tensor)
    ]
    if differences:
        named = "; ".join(differences[:8]) + (f"; and {len(differences) - 8} more" if len(differences) > 8 else "")
        raise CheckpointError(f"{what}: {len(differences)} differences: {named}")


def _signature(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
