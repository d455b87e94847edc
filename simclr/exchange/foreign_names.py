"""What others call the tensors of a network: numbers where it was cut into a Sequential, other words for the same part."""

import re
from collections.abc import Iterator

from torch import Tensor, nn

__all__ = ["namings"]

Rules = tuple[tuple[str, str], ...]

_TORCHVISION_VIT: Rules = (
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "encoder.pos_embedding"),
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^norm\.", "encoder.ln."),
    (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj\.", ".self_attention.out_proj."),
)
_MLP: tuple[Rules, ...] = (
    ((r"\.mlp\.fc1\.", ".mlp.0."), (r"\.mlp\.fc2\.", ".mlp.3.")),
    (
        (r"\.mlp\.fc1\.", ".mlp.linear_1."),
        (r"\.mlp\.fc2\.", ".mlp.linear_2."),
    ),  # in older files, which torchvision renames as it loads them
)
_TORCHVISION_CONVNEXT: Rules = (
    (r"^stem\.", "features.0."),
    (r"^head\.norm\.", "classifier.0."),
    (r"\.gamma$", ".layer_scale"),
    (r"\.conv_dw\.", ".block.0."),
    (r"\.blocks\.(\d+)\.norm\.", r".blocks.\1.block.2."),
    (r"\.mlp\.fc1\.", ".block.3."),
    (r"\.mlp\.fc2\.", ".block.5."),
    *((rf"^stages\.{stage}\.downsample\.", f"features.{2 * stage}.") for stage in range(4)),
    *((rf"^stages\.{stage}\.blocks\.", f"features.{2 * stage + 1}.") for stage in range(4)),
)


def namings(wanted: dict[str, Tensor], backbone: nn.Module) -> Iterator[dict[str, str]]:
    """For each way of naming that is known for networks like ``backbone``: its names of the tensors ``wanted`` -> theirs."""
    yield {name: name for name in wanted}
    if hasattr(backbone, "conv1") and hasattr(backbone, "layer1"):
        yield from _resnets(wanted)
    elif hasattr(backbone, "cls_token") and hasattr(backbone, "blocks"):
        for mlp in _MLP:
            yield {name: _replaced(name, (*_TORCHVISION_VIT, *mlp)) for name in wanted}
    elif hasattr(backbone, "stem") and hasattr(backbone, "stages"):
        yield {name: _replaced(name, _TORCHVISION_CONVNEXT) for name in wanted}


def _replaced(name: str, rules: Rules) -> str:
    for pattern, theirs in rules:
        name = re.sub(pattern, theirs, name)
    return name


def _resnets(wanted: dict[str, Tensor]) -> Iterator[dict[str, str]]:
    # lightly cuts ResNets into a Sequential of their children: torchvision's (with ReLU and pooling) or its own.
    stages = ("layer1", "layer2", "layer3", "layer4")
    torchvision = {"conv1": "0", "bn1": "1"} | {stage: str(i) for i, stage in enumerate(stages, start=4)}
    own = {"conv1": "0", "bn1": "1"} | {stage: str(i) for i, stage in enumerate(stages, start=2)}
    for numbers in ({}, torchvision, own):
        for shortcut in ("downsample", "shortcut"):
            theirs = {}
            for name in wanted:
                first, dot, rest = name.partition(".")
                theirs[name] = (numbers.get(first, first) + dot + rest).replace("downsample", shortcut)
            yield theirs
