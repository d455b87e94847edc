"""The encoder f: any timm backbone without its classifier, with a stem that suits small images."""

import difflib
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from huggingface_hub import constants
from torch import Tensor, nn

from simclr.config import EncoderConfig
from simclr.errors import ConfigError
from simclr.model.modes import evaluating

__all__ = [
    "SMALL_IMAGE",
    "STEMS",
    "build_backbone",
    "checkpoint_activations",
    "feature_width",
    "is_network",
    "without_weights",
]

SMALL_IMAGE = 64
"""Up to this size in pixels, ``stem="auto"`` is the small-image stem."""


STEMS = {"small": (3, 1, 1), "patch": (4, 2, 1)}
"""Kernel, stride and padding of the convolution that stands for a ResNet's own stem and pool."""


def is_network(name: str) -> bool:
    """Whether timm has a network of this ``name``, with or without a tag behind a dot that says which weights."""
    import timm  # here and elsewhere where it is called: it imports for two seconds, which no mistake has to wait for

    return bool(timm.is_model(name.split(".")[0]))


def build_backbone(
    config: EncoderConfig, size: int, seed: int, channels: int = 3, *, trained_size: int | None = None
) -> nn.Module:
    """A backbone (B, C, size, size) -> (B, F), initialised under ``seed`` without touching the global generator.

    Args:
        config: timm name and what to change about it.
        size: height and width of the images, in pixels; transformers are built for it.
        seed: seed of the initial weights.
        channels: C of the images. Published weights are of three: timm makes those of the first layer fit, by adding them
            up for one channel and by repeating them, scaled down, for others.
        trained_size: height and width that ``stem="auto"`` goes by, where they are others than ``size``.

    Raises:
        ConfigError: an unknown name, an option the model does not take, or a model that cannot take images this small.
    """
    import timm

    if not is_network(config.name):
        close = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them"
        raise ConfigError(
            f"encoder.name is {config.name!r}, which timm does not have; {hint}; one of your own comes with --plugin MODULE"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = _create(config, size, channels)
        if (stem := _stem(config, size if trained_size is None else trained_size, backbone)) in STEMS:
            _put_stem(backbone, *STEMS[stem])
    try:
        feature_width(backbone, size, channels)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"encoder.name={config.name} cannot take images of {size} px: {reason}") from error
    return backbone


def checkpoint_activations(backbone: nn.Module, name: str) -> None:
    """Have ``backbone`` keep no activations of its blocks but compute them again in the backward pass.

    Args:
        backbone: of timm.
        name: what messages call it.

    Raises:
        ConfigError: this network has no such way.
    """
    try:
        backbone.set_grad_checkpointing(True)  # type: ignore[operator]  # a method, where there is one
        has_way = any(getattr(module, "grad_checkpointing", False) for module in backbone.modules())
    except (AttributeError, AssertionError, TypeError):
        has_way = False
    if not has_way:
        raise ConfigError(
            f"train.activation_checkpointing=true, but timm's {name} cannot compute its activations again; use "
            "--train.cached-chunk, which any network can"
        )


def without_weights(config: EncoderConfig) -> EncoderConfig:
    """The same network with no weights to start from or to fetch, all of it free to learn."""
    # stem="auto" depends on whether published weights are loaded: what it meant for them is written out.
    stem = "imagenet" if config.pretrained and config.stem == "auto" else config.stem
    return replace(config, init=None, init_partial=False, pretrained=False, frozen_layers=0, stem=stem)


@torch.no_grad()
def feature_width(backbone: nn.Module, size: int, channels: int = 3) -> int:
    """The width F of the features that ``backbone`` gives for images (B, channels, size, size), found by one forward pass.

    It is made where ``backbone`` is, and leaves it there, in its mode.
    """
    device = next((tensor.device for tensor in backbone.parameters()), None)
    with evaluating(backbone):
        features = backbone(torch.zeros(1, channels, size, size, device=device))
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ValueError(f"expected features of shape (1, F), the model gives {getattr(features, 'shape', features)}")
    return features.shape[1]


def _create(config: EncoderConfig, size: int, channels: int) -> nn.Module:
    import timm

    options: dict[str, Any] = {"num_classes": 0, "pretrained": config.pretrained}
    try:
        pretrained_cfg = timm.get_pretrained_cfg(config.name)
    except RuntimeError as error:
        raise ConfigError(f"encoder.name is {config.name!r}, whose weights timm does not know: {error}") from error
    if pretrained_cfg is not None and pretrained_cfg.fixed_input_size:
        options["img_size"] = size
    chosen: dict[str, Any] = {
        "layers": config.layers and list(config.layers),
        "channels": config.channels,
        "patch_size": config.patch_size,
        "drop_path_rate": config.drop_path or None,
        "in_chans": channels if channels != 3 else None,
    }
    options |= {name: value for name, value in chosen.items() if value is not None}
    try:
        with _one_try() if config.pretrained else nullcontext():
            model = timm.create_model(config.name, **options)
    except TypeError as error:
        given = ", ".join(f"{k}={v}" for k, v in options.items() if k in chosen)
        raise ConfigError(f"encoder.name={config.name} does not take {given}: {error}") from error
    except (RuntimeError, OSError, ValueError, AssertionError, LookupError, ArithmeticError) as error:
        what = "timm could not load the weights of" if config.pretrained else "timm could not build"
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        file = "; a file of them, fetched elsewhere, does: --encoder.init FILE" if config.pretrained else ""
        raise ConfigError(f"{what} {config.name}: {reason}{file}") from error
    for name, values in (("layers", config.layers), ("channels", config.channels)):
        if values is not None and len(values) != 4:
            raise ConfigError(f"encoder.{name} is {values}; a ResNet has four stages, each with a number of its own")
    return model


@contextmanager
def _one_try() -> Iterator[None]:
    """Where the hub has no address from here, take what was downloaded before: its library would ask for a minute."""
    host = urlsplit(constants.ENDPOINT)
    before = constants.HF_HUB_OFFLINE
    try:
        if not getproxies():  # which may know where there is no name server
            socket.getaddrinfo(host.hostname, host.port or host.scheme)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _stem(config: EncoderConfig, size: int, backbone: nn.Module) -> str:
    is_resnet = hasattr(backbone, "conv1") and hasattr(backbone, "maxpool")
    if config.stem in STEMS and not is_resnet:
        raise ConfigError(
            f"encoder.stem={config.stem} is for ResNets; {config.name} has no conv1 and maxpool; use --encoder.stem auto"
        )
    if config.stem == "auto":
        # Published weights are kept whole: a fresh stem would feed them features they have never seen.
        return "small" if is_resnet and size <= SMALL_IMAGE and not config.pretrained else "imagenet"
    return config.stem


def _put_stem(resnet: nn.Module, kernel: int, stride: int, padding: int) -> None:
    old = resnet.conv1
    first, last = (old[0], old[-1]) if isinstance(old, nn.Sequential) else (old, old)  # deep stems have three convs
    assert isinstance(first, nn.Conv2d) and isinstance(last, nn.Conv2d)
    conv = nn.Conv2d(first.in_channels, last.out_channels, kernel, stride, padding, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    resnet.conv1 = conv
    resnet.maxpool = nn.Identity()
