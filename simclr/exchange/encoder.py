"""The encoder as two public files, safetensors and JSON, and ``load_encoder``, which loads all of it or refuses.

``encoder.json`` says how to build the backbone and how to prepare an image for it; ``encoder.safetensors`` holds its
tensors. Nothing in them is pickled, so a file from a stranger cannot run code.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from augment import AugmentConfig, preprocess
from simclr.config import EncoderConfig
from simclr.config.yaml import from_dict, to_dict
from simclr.errors import CheckpointError
from simclr.files import write_json, write_tensors
from simclr.model.encoder import build_backbone, feature_width

__all__ = [
    "Encoder",
    "EncoderDescription",
    "build_encoder",
    "check_format",
    "export_encoder",
    "find_encoder",
    "load_encoder",
    "match_tensors",
    "read_description",
]

FORMAT = 1


class Encoder(nn.Module):
    """A backbone with its preprocessing: images (B, C, H, W), uint8 or float in [0, 1], any size -> features (B, F).

    Gray images (C = 1) are repeated to three channels. The shorter side is resized to ``size`` and the centre square
    taken, then mean and standard deviation are applied as they were in training.

    Raises:
        TypeError: no tensor, or one of integers other than uint8.
        ValueError: not (B, C, H, W) with C = 1 or 3, or floating point far outside [0, 1]; the range is looked at once,
            in the first batch of floating point.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        size: int,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.size, self.mean, self.std = size, mean, std
        self.features = feature_width(backbone, size)
        """Width F of the features."""
        self._range_known = False

    def forward(self, images: Tensor) -> Tensor:
        self._check(images)
        if images.ndim == 4 and images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        return self.backbone(preprocess(images, self.size, self.mean, self.std))

    def _check(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise TypeError(
                f"images are {type(images).__module__}.{type(images).__name__}: expected a tensor (B, C, H, W); of a PIL "
                'image make one with torchvision.transforms.functional.pil_to_tensor(image.convert("RGB"))[None]'
            )
        shape = tuple(images.shape)
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            hint = ""
            if images.ndim == 3:
                hint = "; a single image needs a batch of its own: image[None]"
            elif images.ndim == 4 and images.shape[3] in (1, 3, 4):
                hint = "; channels come second: images.permute(0, 3, 1, 2)"
            elif images.ndim == 4 and images.shape[1] == 4:
                hint = "; leave the alpha channel out: images[:, :3]"
            raise ValueError(f"images have the shape {shape}: expected (B, C, H, W) with C = 1 or 3{hint}")
        # Once, because on a GPU it waits for the device; a program that is traced has no values to look at.
        if not self._range_known and images.is_floating_point() and not torch.compiler.is_compiling() and len(images):
            low, high = (bound.item() for bound in images.aminmax())
            if low < -0.5 or high > 1.5:
                raise ValueError(
                    f"images hold values from {low:.3g} to {high:.3g}: expected floating point in [0, 1], or uint8. The "
                    "encoder normalises by itself; divide pixels of 0 to 255 by 255, or give them as uint8"
                )
            self._range_known = True


def export_encoder(
    backbone: nn.Module,
    folder: Path,
    *,
    config: EncoderConfig,
    augment: AugmentConfig,
    seed: int,
    training: dict[str, Any],
) -> Path:
    """Write ``folder/encoder.safetensors`` and ``folder/encoder.json``.

    Args:
        backbone: trained, without its head; it stays on its device and in its mode.
        folder: made where missing.
        config: what ``build_backbone`` was given.
        augment: its size, mean and std are what the backbone expects of an image.
        seed: seed of the initial weights, so that the same encoder untrained can be built to compare with.
        training: JSON-able notes on how it was trained.

    Raises:
        CheckpointError: the disk refuses.
    """
    write_tensors(folder / "encoder.safetensors", backbone.state_dict())
    description = {
        "format": FORMAT,
        "encoder": to_dict(config),
        "size": augment.size,
        "mean": augment.mean,
        "std": augment.std,
        "features": feature_width(backbone, augment.size),
        "init_seed": seed,
        "training": training,
    }
    write_json(folder / "encoder.json", description)
    return folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderDescription:
    """What ``encoder.json`` says: how to build the backbone, and how to prepare an image for it."""

    config: EncoderConfig
    """What ``build_backbone`` is given."""

    size: int
    """Height and width in pixels."""

    mean: tuple[float, ...] | None
    """Of the channels, None where they are not normalised."""

    std: tuple[float, ...] | None
    """Of the channels."""

    features: int
    """Width F of the features."""

    init_seed: int
    """Seed of the initial weights."""


def read_description(folder: Path) -> EncoderDescription:
    """Read ``folder/encoder.json``.

    Raises:
        CheckpointError: it is not there, not as ``export_encoder`` writes it, or of a format that another version writes.
    """
    file = folder / "encoder.json"
    try:
        described = json.loads(file.read_text())
        check_format(described, FORMAT, file)
        mean, std = described["mean"], described["std"]
        return EncoderDescription(
            config=from_dict(EncoderConfig, described["encoder"], where=f"{file}: encoder"),
            size=described["size"],
            mean=mean and tuple(mean),
            std=std and tuple(std),
            features=described["features"],
            init_seed=described["init_seed"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged: {type(error).__name__} {error}") from error


def load_encoder(path: str | Path, *, untrained: bool = False) -> Encoder:
    """Load an exported encoder, in eval mode on the CPU.

    Args:
        path: a run directory, its ``encoder`` folder, or one of the two files in it.
        untrained: build the same encoder with the random weights it started from; to compare with.

    Returns:
        A module: images (B, C, H, W), uint8 or float in [0, 1] -> features (B, F) float32.

    Raises:
        CheckpointError: nothing there, a damaged file, or tensors that are not exactly those of the backbone that
            ``encoder.json`` names; the message lists the differences. A format that another version writes.
    """
    folder = find_encoder(Path(path))
    return build_encoder(folder, read_description(folder), untrained=untrained)


def build_encoder(folder: Path, described: EncoderDescription, *, untrained: bool = False) -> Encoder:
    """``load_encoder`` of a folder whose ``encoder.json`` has been read already."""
    config, size = described.config, described.size
    backbone = build_backbone(dataclasses.replace(config, pretrained=False), size, described.init_seed)
    encoder = Encoder(backbone, size=size, mean=described.mean, std=described.std)
    if encoder.features != described.features:
        raise CheckpointError(
            f"{folder}: {config.name} gives {encoder.features} features, encoder.json says {described.features}"
        )
    if not untrained:
        file = folder / "encoder.safetensors"
        try:
            tensors = load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
        match_tensors(backbone, tensors, what=f"{file} is not a {config.name} as encoder.json describes it")
        backbone.load_state_dict(tensors)
    return encoder.eval()


def find_encoder(path: Path) -> Path:
    """The folder that holds ``encoder.json``, from a run directory, that folder, or a file in it."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a run directory or an encoder folder")
    for folder in (path, path / "encoder", path.parent if path.is_file() else path):
        if (folder / "encoder.json").is_file():
            return folder
    hint = (
        "training has not finished there: run the same training command again"
        if (path / "config.yaml").exists()
        else ("expected encoder.json and encoder.safetensors")
    )
    raise CheckpointError(f"{path} holds no encoder ({hint})")


def check_format(described: dict[str, Any], known: int, file: Path) -> None:
    """Raise CheckpointError unless the ``format`` that ``file`` gives itself is the ``known`` one; KeyError without any."""
    if described["format"] != known:
        raise CheckpointError(
            f"{file} is of format {described['format']!r}, this version reads {known}; install the version of "
            "simclr-pipeline that wrote it, or export it again with this one"
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
