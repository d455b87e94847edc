"""The encoder as two public files, safetensors and JSON; what they describe is built and loaded whole, or refused.

``encoder.json`` says how to build the backbone, how to prepare an image for it, and the SHA-256 of ``encoder.safetensors``,
which holds its tensors. Nothing in them is pickled, so a file from a stranger cannot run code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from augment import AugmentConfig
from simclr.config import EncoderConfig
from simclr.data.decode import Reader
from simclr.errors import CheckpointError
from simclr.exchange.description import (
    EncoderDescription,
    find_encoder,
    read_description,
    write_description,
)
from simclr.exchange.encoder_module import Encoder, Output
from simclr.exchange.positions import at_other_size
from simclr.exchange.sealed import refuse_changed
from simclr.files import write_tensors
from simclr.model.encoder import build_backbone, feature_width

__all__ = [
    "Encoder",
    "EncoderDescription",
    "assemble",
    "build_encoder",
    "export_encoder",
    "find_encoder",
    "match_tensors",
    "read_description",
    "read_tensors",
]


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


def build_encoder(
    folder: Path,
    described: EncoderDescription,
    *,
    untrained: bool = False,
    size: int | None = None,
    output: Output = "vector",
) -> Encoder:
    """``load_encoder`` of a folder whose ``encoder.json`` has been read already."""
    file, description = folder / "encoder.safetensors", folder / "encoder.json"
    tensors = None if untrained else read_tensors(file)
    if file.exists():
        _refuse_larger(described.config, file, description)
    what = f"{file} is not a {described.config.name} as encoder.json describes it"
    encoder = assemble(described, tensors, what=what, where=description, size=size, output=output)
    if tensors is not None:
        refuse_changed(file, described.digests)
    return encoder


def assemble(
    described: EncoderDescription,
    tensors: Mapping[str, Tensor] | None,
    *,
    what: str,
    where: Path | str,
    size: int | None = None,
    output: Output = "vector",
) -> Encoder:
    """An encoder in eval mode on the CPU: the network that is ``described``, with ``tensors``, or untrained without any.

    Args:
        described: how to build it, and how it prepares an image.
        tensors: of its backbone, all of them.
        what: how the message begins that names those which are not.
        where: what describes it, for messages.
        size: pixels that it is fed, where they are others than in training: embeddings of positions and tables of relative
            positions are then resampled by timm's own functions.
        output: a vector an image, or a map.

    Raises:
        CheckpointError: it cannot be built, ``tensors`` are not exactly its own, or it cannot take that size.
    """
    config = replace(described.config, pretrained=False)

    try:
        backbone = build_backbone(config, described.size, described.init_seed, described.channels)
        encoder = Encoder(
            backbone, size=described.size, mean=described.mean, std=described.std, reader=described.reader
        )
    except Exception as error:  # timm raises whatever it meets in numbers that no model has
        raise CheckpointError(f"{where} describes an encoder that cannot be built: {_first_line(error)}") from error
    if encoder.features != described.features:
        raise CheckpointError(
            f"{where}: features is {described.features}; expected {encoder.features}, which {config.name} as it is "
            "described gives"
        )
    if tensors is not None:
        match_tensors(backbone, tensors, what=what)
        backbone.load_state_dict(tensors)
    if size in (None, described.size) and output == "vector":
        return encoder.eval()
    size = described.size if size is None else size
    try:
        if size != described.size:
            resized = build_backbone(config, size, described.init_seed, described.channels, trained_size=described.size)
            if tensors is not None:
                state, _ = at_other_size(backbone.state_dict(), resized)
                match_tensors(resized, state, what=f"{config.name} cannot take images of {size} px")
                resized.load_state_dict(state)
            backbone = resized
        reader = replace(described.reader, size=round(described.reader.size * size / described.size))
        return Encoder(backbone, size=size, mean=described.mean, std=described.std, reader=reader, output=output).eval()
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"the encoder of {where} cannot take images of {size} px: {_first_line(error).removeprefix('encoder.')}"
        ) from error


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


def match_tensors(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
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
