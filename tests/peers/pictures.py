"""One operation of ours on images, for the files that hold it beside another library's."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from augment import AugmentConfig, ViewGenerator, ViewParameters
from augment.parameters import JITTER_OPS


def images(size: int = 24, height: int | None = None, batch: int = 3) -> Tensor:
    """Images (B, 3, H, W) uint8 with edges, gradients and noise."""
    height = size if height is None else height
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, size), indexing="ij")
    noise = torch.rand(batch, 3, height, size, generator=torch.Generator().manual_seed(0))
    smooth = torch.stack([rows, columns, (rows - columns).abs()]) * torch.linspace(0.4, 1, batch).view(-1, 1, 1, 1)
    return ((0.6 * smooth + 0.4 * noise) * 255).round().to(torch.uint8)


def unchanged(batch: int, height: int, width: int) -> ViewParameters:
    """What changes nothing: the whole image, mirrored, moved and coloured not at all."""
    flat = torch.zeros(1, batch)
    return ViewParameters(
        image_size=(height, width),
        crop=torch.tensor([0, 0, height, width]).expand(1, batch, 4),
        flip=flat.bool(),
        affine=torch.tensor([0.0, 0, 0, 1, 0]).expand(1, batch, 5),
        jitter=torch.tensor([1.0, 1, 1, 0]).expand(1, batch, 4),
        order=torch.arange(4).expand(1, batch, 4),
        gray=flat.bool(),
        blur=flat,
        solarize=flat.bool(),
    )


def ours(
    given: Tensor, backend: Any = "fused", size: int | None = None, settings: Any = None, **changes: Any
) -> Tensor:
    """The view (B, 3, S, S) of ``given`` with some of the parameters, the same for every image, changed."""
    batch, _, height, width = given.shape
    drawn = unchanged(batch, height, width)
    for name, value in changes.items():
        if name in JITTER_OPS:
            jitter = drawn.jitter.clone()
            jitter[..., JITTER_OPS.index(name)] = value
            drawn = replace(drawn, jitter=jitter)
        else:
            like = getattr(drawn, name)
            drawn = replace(drawn, **{name: torch.as_tensor(value, dtype=like.dtype).expand_as(like).contiguous()})
    config = AugmentConfig(size=size or width, views=1, **(settings or {}))
    return ViewGenerator(config, backend=backend).apply(given, drawn)[0]
