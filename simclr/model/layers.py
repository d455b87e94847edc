"""A backbone as a stack of layers, from the image upwards: what to freeze, and how fast each layer learns."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from simclr.errors import ConfigError

__all__ = ["freeze", "layer_decay", "layer_numbers"]


def layer_numbers(backbone: nn.Module) -> dict[str, int]:
    """Number of the layer that each parameter of a timm ``backbone`` belongs to; 0 is the stem.

    Layers are timm's (``group_matcher``): a residual or transformer block each, and whatever follows the last of them.

    Raises:
        ConfigError: a backbone for which timm names no layers.
    """
    from timm.models import group_parameters

    matcher: Any = getattr(backbone, "group_matcher", None)
    if matcher is None:
        raise _no_layers(backbone)
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

    The scales are those of timm's ``param_groups_layer_decay`` for the same network with its classifier: the head learns at
    full rate (Clark et al. 2020, section 3), and so does what timm counts among the head's layer, such as a norm behind the
    pooling. A network without layers of timm's (``group_matcher``) gets twelve tensors a layer, as there.

    Raises:
        ConfigError: a backbone of which timm knows neither layers nor a classifier.
    """
    if decay == 1.0:
        return lambda name: 1.0
    from timm.optim import param_groups_layer_decay

    whole = _WithClassifier(backbone)
    scales = {
        id(p): group["lr_scale"]
        for group in param_groups_layer_decay(whole, layer_decay=decay)
        for p in group["params"]
    }
    of_model = {f"backbone.{name}": scales[id(p)] for name, p in backbone.named_parameters() if id(p) in scales}
    return lambda name: of_model.get(name, 1.0)


class _WithClassifier:
    """``backbone`` as timm's functions see the same network with its classifier, which was cut: its layer is the last one."""

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.pretrained_cfg: Any = getattr(backbone, "pretrained_cfg", {})
        cut = self.pretrained_cfg.get("classifier")
        self.cut: tuple[str, ...] = (cut,) if isinstance(cut, str) else tuple(cut or ())
        if hasattr(backbone, "group_matcher"):
            self.group_matcher = backbone.group_matcher
        elif not self.cut:
            raise _no_layers(backbone)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.backbone.named_parameters()
        for name in self.cut or ("head",):
            yield f"{name}.weight", nn.Parameter(torch.empty(1, 1))


def _no_layers(backbone: nn.Module) -> ConfigError:
    return ConfigError(
        f"{type(backbone).__name__} has no layers that timm knows; set --optim.layer-decay 1, and leave encoder.frozen_layers out"
    )
