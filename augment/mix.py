"""Mixup and CutMix: two images of a batch shown as one, and their labels in the same shares.

mixup (Zhang et al. 2018, eq. 1): x = share * x_i + (1 - share) * x_j, share ~ Beta(alpha, alpha).
CutMix (Yun et al. 2019, eq. 1): a box of area 1 - share of x_i shows x_j; share is then that of the box inside the image.

Neighbours in the batch are mixed with each other, 0 with 1, 2 with 3: their order is random anyway, and a slice of a
batch that several processes share keeps its pairs.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Mix", "MixConfig", "soft_targets"]


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Mixed images, for objectives that take soft labels."""

    mixup: float = 0.0
    """alpha of mixup's Beta(alpha, alpha); 0 is off. With both, every pair of images takes one of the two."""

    cutmix: float = 0.0
    """alpha of CutMix's Beta(alpha, alpha); 0 is off."""

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"mix.{name} is {getattr(self, name)}; it must be 0 (off) or a positive alpha")

    @property
    def active(self) -> bool:
        """Whether anything is mixed."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How each image of a batch is mixed with its neighbour.

    >>> mix = Mix.sample(MixConfig(mixup=0.4), batch=4, size=8, seed=0)
    >>> white_black = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 4, 1, 1, 1).expand(1, 4, 3, 8, 8)
    >>> torch.allclose(mix.apply(white_black)[0, 0], mix.share[0].expand(3, 8, 8))
    True
    """

    share: Annotated[Tensor, "float32 B"]
    """float32 (B,): how much of an image is its own; the same for both of a pair."""

    box: Annotated[Tensor, "int64 B 4"]
    """int64 (B, 4): top, bottom, left, right of what shows the neighbour; empty for mixup."""

    @classmethod
    def sample(cls, config: MixConfig, batch: int, size: int, seed: int) -> "Mix":
        """Draw for ``batch`` images (an even number) of ``size`` x ``size`` pixels: a pure function of its arguments.

        Raises:
            ValueError: an odd batch.
        """
        if batch % 2:
            raise ValueError(f"a batch of {batch} images cannot be mixed in pairs; it must be even")
        random = np.random.default_rng(seed)
        pairs = batch // 2
        both = config.mixup > 0 and config.cutmix > 0
        cut = random.random(pairs) < 0.5 if both else np.full(pairs, config.cutmix > 0)
        share = np.where(
            cut,
            random.beta(config.cutmix or 1.0, config.cutmix or 1.0, pairs),
            random.beta(config.mixup or 1.0, config.mixup or 1.0, pairs),
        )
        half = size * np.sqrt(1 - share) / 2
        centre = random.uniform(0, size, (2, pairs))
        low, high = (np.clip(np.rint(centre + sign * half), 0, size).astype(np.int64) for sign in (-1, 1))
        low, high = low * cut, high * cut  # empty for mixup
        area = (high - low).prod(0) / size**2
        share = np.where(cut, 1 - area, share)
        box = np.stack([low[0], high[0], low[1], high[1]], 1)
        return cls(
            share=torch.from_numpy(share).float().repeat_interleave(2),
            box=torch.from_numpy(box).repeat_interleave(2, dim=0),
        )

    def rows(self, rows: slice) -> "Mix":
        """The part of the batch that one process sees.

        Raises:
            ValueError: a part that cuts a pair.
        """
        start, stop, _ = rows.indices(len(self.share))
        if start % 2 or stop % 2:
            raise ValueError(f"rows {start} to {stop} cut a pair of mixed images; both ends must be even")
        return Mix(share=self.share[rows], box=self.box[rows])

    def apply(self, views: Annotated[Tensor, "float V B C S S"]) -> Annotated[Tensor, "float V B C S S"]:
        """Mixed views (V, B, C, S, S) of the same shape and type."""
        side = torch.arange(views.shape[-1], device=views.device)
        share = self.share.to(views).view(-1, 1, 1, 1)
        top, bottom, left, right = (edge.view(-1, 1) for edge in self.box.to(views.device).unbind(1))
        inside_rows, inside_columns = (side >= top) & (side < bottom), (side >= left) & (side < right)  # (B, S)
        inside = (inside_rows[:, None, :, None] & inside_columns[:, None, None, :]).to(views.dtype)  # (B, 1, S, S)
        has_box = (bottom > top).view(-1, 1, 1, 1)
        own = torch.where(has_box, 1 - inside, share)
        return torch.lerp(_neighbours(views, 1), views, own)

    def targets(self, soft: Annotated[Tensor, "float B C"]) -> Annotated[Tensor, "float B C"]:
        """Soft labels (B, C) in the shares of the images."""
        share = self.share.to(soft).view(-1, 1)
        return torch.lerp(_neighbours(soft, 0), soft, share)


def soft_targets(
    labels: Annotated[Tensor, "int64 B"], classes: int, quality: Annotated[Tensor, "float B"] | None = None
) -> Annotated[Tensor, "float32 B {classes}"]:
    """One-hot labels (B, C) float32, times ``quality`` (B,) where it is given.

    >>> soft_targets(torch.tensor([1, 0]), 2, torch.tensor([1.0, 0.25]))
    tensor([[0.0000, 1.0000],
            [0.2500, 0.0000]])
    """
    hot = F.one_hot(labels, classes).float()
    return hot if quality is None else hot * quality.to(hot).unsqueeze(1)


def _neighbours(rows: Tensor, dim: int) -> Tensor:
    """``rows`` with 0 and 1, 2 and 3, ... exchanged along ``dim``."""
    return rows.unflatten(dim, (-1, 2)).flip(dim + 1).flatten(dim, dim + 1)
