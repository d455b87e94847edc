"""An encoder as timm's own folder: ``model.safetensors`` under timm's names, and ``config.json`` that rebuilds the network.

It is what timm pushes to a hub and loads from one: ``timm.create_model("local-dir:FOLDER", pretrained=True)``. timm has no
name for the small-image stem, so that a ResNet with it takes three more lines.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from simclr.config import EncoderConfig
from simclr.config.yaml import to_dict
from simclr.exchange.encoder import Encoder
from simclr.files import write_json, write_tensors
from simclr.model.encoder import STEMS

__all__ = ["has_timms_name", "load_timm", "loading_lines", "stem_of", "write_timm"]

_CROP_MODE = {"crop": "center", "pad": "border", "stretch": "squash"}
"""What timm calls each way to a square."""


def write_timm(encoder: Encoder, built: EncoderConfig, partial: Path, target: Path) -> tuple[str, ...]:
    """Write both files to ``partial``.

    Args:
        encoder: what is written.
        built: how its network was built.
        partial: where to write.
        target: where the files will be, for the lines that load them.

    Returns:
        Lines of Python that load the network.
    """
    write_tensors(partial / "model.safetensors", encoder.backbone.state_dict())
    name, arguments = _arguments(encoder, built)
    channels, size, published = encoder.channels, encoder.size, getattr(encoder.backbone, "pretrained_cfg", {})
    described = {
        "architecture": name,
        "num_classes": 0,
        "num_features": encoder.features,
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [channels, size, size],
            "fixed_input_size": "img_size" in arguments,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": _CROP_MODE[encoder.fit],
            "mean": _one_each(channels, encoder.mean, 0.0),
            "std": _one_each(channels, encoder.std, 1.0),
            # By these timm fits a first layer to other channels, and leaves room for a classifier of any size.
            "first_conv": published.get("first_conv") if has_timms_name(encoder) else "conv1",
            "classifier": published.get("classifier"),
        },
        "value_range": encoder.value_range,
        "small_stem": not has_timms_name(encoder),
        "stem": stem_of(encoder.backbone),
        "load": list(loading_lines(encoder, built, ".")),  # wherever the folder goes
    }
    write_json(partial / "config.json", described)
    return loading_lines(encoder, built, str(target))


def has_timms_name(encoder: Encoder) -> bool:
    """Whether ``timm.create_model`` can build the network: timm has no name for the small-image stem of a ResNet."""
    return stem_of(encoder.backbone) is None


def loading_lines(encoder: Encoder, built: EncoderConfig, folder: str) -> tuple[str, ...]:
    """Lines of Python that load the network from ``folder`` by timm alone, and call it on uint8 ``images``."""
    stem = stem_of(encoder.backbone)
    if stem is None:
        made = [f"model = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True).eval()"]
    else:
        name, arguments = _arguments(encoder, built)
        given = "".join(f", {key}={value!r}" for key, value in arguments.items())
        made = [
            "from safetensors.torch import load_file",
            f"model = timm.create_model({name!r}, num_classes=0{given}).eval()",
            f"model.conv1, model.maxpool = {_conv(stem, encoder)}, torch.nn.Identity()",
            f"model.load_state_dict(load_file({str(Path(folder) / 'model.safetensors')!r}), strict=True)",
        ]
    return ("import timm, torch", *made, *_call(encoder))


def _arguments(encoder: Encoder, built: EncoderConfig) -> tuple[str, dict[str, Any]]:
    """timm's name of the network, and what it is given beside it."""
    import timm

    config = to_dict(built)
    arguments = {key: config[key] for key in ("layers", "channels", "patch_size") if config.get(key) is not None}
    published = timm.get_pretrained_cfg(config["name"])
    if published is not None and bool(published.fixed_input_size):
        arguments["img_size"] = encoder.size
    if encoder.channels != 3:
        arguments["in_chans"] = encoder.channels
    return config["name"].split(".")[0], arguments


def load_timm(folder: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The network in ``folder`` by timm alone: uint8 images (B, C, S, S) -> (features (B, F),)."""
    import timm

    config = json.loads((folder / "config.json").read_text())
    if config["small_stem"]:
        model = timm.create_model(config["architecture"], num_classes=0, **config["model_args"])
        tensors = load_file(folder / "model.safetensors")
        outputs, channels = tensors["conv1.weight"].shape[:2]
        model.conv1 = nn.Conv2d(channels, outputs, *STEMS[config.get("stem") or "small"], bias=False)
        model.maxpool = nn.Identity()
        model.load_state_dict(tensors, strict=True)
    else:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    model.eval()
    mean, std = (torch.tensor(config["pretrained_cfg"][key]).view(-1, 1, 1) for key in ("mean", "std"))
    return lambda images: (model((images.float() / 255 - mean) / std),)


def stem_of(backbone: Any) -> str | None:
    """Which of `STEMS` the backbone has, or None where it has timm's own."""
    if not isinstance(getattr(backbone, "maxpool", None), nn.Identity):
        return None
    kernel = getattr(backbone.conv1, "kernel_size", (0,))[0]
    return next((name for name, numbers in STEMS.items() if numbers[0] == kernel), None)


def _conv(stem: str, encoder: Encoder) -> str:
    kernel, stride, padding = STEMS[stem]
    strided = f", stride={stride}" if stride > 1 else ""
    outputs = encoder.backbone.get_parameter("conv1.weight").shape[0]
    return f"torch.nn.Conv2d({encoder.channels}, {outputs}, {kernel}{strided}, padding={padding}, bias=False)"


def _call(encoder: Encoder) -> list[str]:
    """Lines that give the network uint8 images as it was trained to see them."""
    channels = encoder.channels
    bands = {1: "gray", 3: "RGB"}.get(channels, f"{channels} bands")
    said = f"# uint8 (B, {channels}, {encoder.size}, {encoder.size}), {bands}, 0 to 255"
    if encoder.mean is None:
        return [f"features = model(images / 255)  {said}"]
    mean, std = _one_each(channels, encoder.mean, 0.0), _one_each(channels, encoder.std, 1.0)
    return [
        f"mean, std = torch.tensor([{mean}, {std}]).view(2, {channels}, 1, 1)",
        f"features = model((images / 255 - mean) / std)  {said}",
    ]


def _one_each(channels: int, values: tuple[float, ...] | None, otherwise: float) -> list[float]:
    """One value a channel, whether one, as many or none were given."""
    given = (otherwise,) if values is None else values
    return [float(value) for value in (given * channels if len(given) == 1 else given)]
