"""What was drawn for every view of every image: all the randomness of an augmented batch, as tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor

__all__ = ["BRIGHTNESS", "CONTRAST", "DRAWN", "HUE", "JITTER_OPS", "SATURATION", "ViewParameters"]

JITTER_OPS = ("brightness", "contrast", "saturation", "hue")
"""The operations of the colour jitter; ``ViewParameters.order`` holds indices into this tuple."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

DRAWN = ("crop", "flip", "affine", "jitter", "order", "gray", "blur", "solarize")
"""The fields of ``ViewParameters`` that hold one value a view, in the order the operations act."""


@dataclass(frozen=True, kw_only=True)
class ViewParameters:
    """The parameters of V views of B images. An operation that does not act carries the value that changes nothing.

    There is no separate "applied" flag: probabilities are folded into the values when they are drawn, so a backend
    needs no branches and the same tensors describe what happened.

    Example:
        >>> from augment import AugmentConfig, ViewGenerator
        >>> parameters = ViewGenerator(AugmentConfig()).sample(batch=8, image_size=(48, 64), seed=0)
        >>> parameters.crop.shape, parameters.rows(slice(2, 4)).crop.shape
        (torch.Size([2, 8, 4]), torch.Size([2, 2, 4]))
    """

    image_size: tuple[int, int] | Annotated[Tensor, "int64 B 2"]
    """Height and width of the images the boxes were drawn for; (B, 2) int64 on the CPU where each has its own."""

    crop: Annotated[Tensor, "int64 V B 4"]
    """(V, B, 4) int64: top, left, height, width of the crop, in pixels of the image."""

    flip: Annotated[Tensor, "bool V B"]
    """(V, B) bool: mirrored left and right."""

    affine: Annotated[Tensor, "float32 V B 5"]
    """(V, B, 5) float32: angle (degrees, clockwise as displayed), shift in x and y (pixels of the view), scale, shear
    along x (degrees). (0, 0, 0, 1, 0) changes nothing."""

    jitter: Annotated[Tensor, "float32 V B 4"]
    """(V, B, 4) float32: brightness, contrast and saturation factor (1 changes nothing), hue shift in turns (0)."""

    order: Annotated[Tensor, "int64 V B 4"]
    """(V, B, 4) int64: the k-th jitter operation applied, as an index into ``JITTER_OPS``. A permutation."""

    gray: Annotated[Tensor, "bool V B"]
    """(V, B) bool: colours replaced by their luma."""

    blur: Annotated[Tensor, "float32 V B"]
    """(V, B) float32: standard deviation of the Gaussian in pixels of the view; 0 changes nothing."""

    solarize: Annotated[Tensor, "bool V B"]
    """(V, B) bool: values at or above the threshold inverted."""

    extra: tuple[dict[str, Annotated[Tensor, "V B ..."]], ...] = ()
    """What was drawn for each of ``AugmentConfig.extra``: Kornia's own parameters, (V, B, ...)."""

    extra_seed: int = 0
    """Seeds whatever these operations draw while they are applied."""

    @property
    def views(self) -> int:
        """V, the number of views an image."""
        return int(self.flip.shape[0])

    @property
    def batch(self) -> int:
        """B, the number of images."""
        return int(self.flip.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.flip.device

    def rows(self, index: int | slice | Sequence[int] | Annotated[Tensor, "int64|bool N"]) -> "ViewParameters":
        """The parameters of some of the images, in every view: what one process needs of a global batch."""
        if isinstance(index, int):
            index = [index]
        elif not isinstance(index, slice | Tensor):
            index = list(index)
        return self._map(lambda tensor: tensor[:, index], lambda sizes: sizes[index])

    def to(self, device: torch.device | str) -> "ViewParameters":
        """The same parameters on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def flat(self) -> "ViewParameters":
        """The same parameters as one view of V*B images, in the order of ``views.flatten(0, 1)``."""
        return self._map(lambda tensor: tensor.flatten(0, 1)[None], lambda sizes: sizes.repeat(self.views, 1))

    def cropped(self, size: int) -> "ViewParameters":
        """What is left to do to V*B views that were cut out already, S x S each: one view of each, see ``flat``."""
        box = torch.tensor([0, 0, size, size]).expand(1, self.views * self.batch, 4)
        return replace(self.flat(), image_size=(size, size), crop=box.to(self.device, non_blocking=True))

    def tensors(self) -> dict[str, Annotated[Tensor, "V B ..."]]:
        """Field name -> tensor, for the fields in ``DRAWN``."""
        return {name: getattr(self, name) for name in DRAWN}

    def _map(
        self, change: Callable[[Tensor], Tensor], sizes: Callable[[Tensor], Tensor] = lambda sizes: sizes
    ) -> "ViewParameters":
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in self.tensors().items()}
        extra = tuple({name: change(tensor) for name, tensor in drawn.items()} for drawn in self.extra)
        if isinstance(self.image_size, Tensor):
            changed["image_size"] = sizes(self.image_size)
        return replace(self, extra=extra, **changed)

    def describe(self, view: int, image: int, channels: int = 3) -> list[str]:
        """The operations that acted on one view of one image, in the order they acted, with their values.

        Args:
            view, image: which of them.
            channels: C of the images; where it is not 3, saturation, hue and gray did not act.

        Example:
            >>> from augment import AugmentConfig, ViewGenerator
            >>> parameters = ViewGenerator(AugmentConfig(jitter=0, gray=1)).sample(batch=1, image_size=(32, 32), seed=2)
            >>> parameters.describe(0, 0)
            ['crop 22x30 +7+1', 'gray']
        """
        values: dict[str, Any] = {name: tensor[view, image].tolist() for name, tensor in self.tensors().items()}
        acted = []
        top, left, height, width = values["crop"]
        size = self.image_size[image].tolist() if isinstance(self.image_size, Tensor) else self.image_size
        if (height, width) != tuple(size):
            acted.append(f"crop {width}x{height} +{left}+{top}")
        if values["flip"]:
            acted.append("flip")
        acted += _describe_affine(*values["affine"])
        for op in values["order"]:
            if op in (SATURATION, HUE) and channels != 3:
                continue
            factor = values["jitter"][op]
            if op == HUE and factor != 0:
                acted.append(f"hue {360 * factor:+.0f}°")
            elif op != HUE and factor != 1:
                acted.append(f"{JITTER_OPS[op]} ×{factor:.2f}")
        if values["gray"] and channels == 3:
            acted.append("gray")
        if values["blur"] > 0:
            acted.append(f"blur σ{values['blur']:.1f}")
        if values["solarize"]:
            acted.append("solarize")
        return acted


def _describe_affine(angle: float, shift_x: float, shift_y: float, scale: float, shear: float) -> list[str]:
    if (angle, shift_x, shift_y, scale, shear) == (0, 0, 0, 1, 0):
        return []
    parts = []
    if angle:
        parts.append(f"rotate {angle:+.0f}°")
    if shift_x or shift_y:
        parts.append(f"shift {shift_x:+.1f},{shift_y:+.1f}")
    if scale != 1:
        parts.append(f"scale ×{scale:.2f}")
    if shear:
        parts.append(f"shear {shear:+.0f}°")
    return parts
