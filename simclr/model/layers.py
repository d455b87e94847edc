"""A backbone as a stack of layers, from the image upwards: what to freeze, and how fast each layer learns."""

from collections.abc import Callable
from typing import Any

from timm.models import group_parameters
from torch import nn

from simclr.errors import ConfigError

__all__ = ["freeze", "layer_decay", "layer_numbers"]


def layer_numbers(backbone: nn.Module) -> dict[str, int]:
    """Number of the layer that each parameter of a timm ``backbone`` belongs to; 0 is the stem.

    Layers are timm's (``group_matcher``): a residual or transformer block each, and whatever follows the last of them.

    Raises:
        ConfigError: a backbone for which timm names no layers.
    """
    matcher: Any = getattr(backbone, "group_matcher", None)
    if matcher is None:
        raise ConfigError(
            f"{type(backbone).__name__} has no layers that timm knows; leave out encoder.frozen_layers and optim.layer_decay"
        )
    return group_parameters(backbone, matcher(coarse=False), reverse=True)


def freeze(backbone: nn.Module, layers: int) -> list[nn.Module]:
    """Take the first ``layers`` layers (-1: all) out of training.

    Returns:
        The modules all of whose parameters are frozen, which should stay in eval mode.

    Raises:
        ConfigError: more layers than there are.
    """
    if layers == 0:
        return []
    numbers = layer_numbers(backbone) if layers > 0 else {name: 0 for name, _ in backbone.named_parameters()}
    count = max(numbers.values()) + 1
    if layers > count:
        raise ConfigError(
            f"encoder.frozen_layers is {layers}; this backbone has {count} layers (-1 freezes all of them)"
        )
    for name, parameter in backbone.named_parameters():
        if layers < 0 or numbers[name] < layers:
            parameter.requires_grad_(False)
    if layers < 0:
        return [backbone]
    return [m for m in backbone.modules() if (own := list(m.parameters())) and not any(p.requires_grad for p in own)]


def layer_decay(backbone: nn.Module, decay: float) -> Callable[[str], float]:
    """Learning rate scale of a parameter of a model that holds ``backbone`` by that name: decay ** layers above it.

    The head is the layer above the last of the backbone and learns at full rate (Clark et al. 2020, section 3).
    """
    if decay == 1.0:
        return lambda name: 1.0
    numbers = layer_numbers(backbone)
    head = max(numbers.values()) + 1
    of_model = {f"backbone.{name}": number for name, number in numbers.items()}
    return lambda name: decay ** (head - of_model.get(name, head))
