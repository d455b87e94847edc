"""The same transforms as the reference, as one Kornia module of few passes over memory; it takes uint8 as it comes.

On a CPU each operation is done for the views it acts on (``augment/fused/grouped.py``); elsewhere all views take the same
steps (``augment/fused/branchless.py``), which can be compiled. Given equal parameters all of them agree to 1e-5.
"""

import warnings
from collections.abc import Callable
from typing import Annotated, Any

import torch
from kornia.augmentation import AugmentationBase2D
from torch import Tensor

from augment.config import AugmentConfig
from augment.fused.branchless import augment_rows
from augment.fused.grouped import augment_groups
from augment.fused.layout import copy_rows, normalised_pixels
from augment.parameters import DRAWN, ViewParameters
from augment.sampling import sample_parameters

__all__ = ["FusedAugmentation"]

# Floats of views worked on at a time where the form is branchless: 256 MiB.
_CHUNK = 2**26

_NEAR, _MAY_DIFFER = 0.05, 1e-3
"""How far a compiled pixel may be from the eager one, and the share that may be further: at a threshold either side is right."""


class FusedAugmentation(AugmentationBase2D):
    """SimCLR's augmentation as one module: crop, flip, affine, jitter, gray, blur, solarize, normalise.

    As a Kornia augmentation it draws one view of every image, (B, C, H, W) -> (B, C, S, S), the first where views differ
    (``config.of_view(1)`` has the second), and composes with Kornia's own inside ``AugmentationSequential`` (images only: it
    moves no boxes, masks or keypoints). ``views`` makes all V of them from parameters drawn elsewhere; that is what
    ``ViewGenerator`` calls.

    Args:
        config: what is drawn, and from which ranges.
        dtype: of the views; the arithmetic is float32 whatever it is.
        compile: run the branchless form, that of a GPU, through ``torch.compile``; the form of a CPU is faster without.
            The first batch takes its time, and is made by the eager form as well; where compiling fails or gives something
            else, a warning says so and the eager form goes on.

    Example:
        >>> from kornia.augmentation import AugmentationSequential, RandomErasing
        >>> chain = AugmentationSequential(FusedAugmentation(AugmentConfig(size=32)), RandomErasing(p=0.5))
        >>> chain(torch.rand(4, 3, 48, 64)).shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(self, config: AugmentConfig, dtype: torch.dtype = torch.float32, compile: bool = False) -> None:
        super().__init__(p=1.0)
        self.config = config
        self.view_dtype = dtype
        self._compiled: Callable[..., Tensor] | None = (
            torch.compile(_branchless_pixels, dynamic=False) if compile else None
        )
        self._proven = False

    def views(
        self, images: Annotated[Tensor, "uint8|float B C H W"], parameters: ViewParameters, normalise: bool = True
    ) -> Annotated[Tensor, "float V B C S S"]:
        """All views of images (B, C, H, W), uint8 or floating point in [0, 1]: (V, B, C, S, S), channels last.

        ``normalise=False`` leaves out the last step, for operations that come before it.
        """
        if images.dtype != torch.uint8:
            images = images.float()
        channels = images.shape[1]
        # Matrix products must not be lowered to half precision by a training step's autocast.
        with torch.autocast(images.device.type, enabled=False):
            mean, std = self._moments(channels, images.device) if normalise else (None, None)
            if images.device.type == "cpu":
                shape = (parameters.views * len(images), self.config.size, self.config.size, channels)
                pixels = torch.empty(shape, dtype=self.view_dtype)
                for rows, views in augment_groups(images, parameters, self.config):
                    copy_rows(pixels, rows, normalised_pixels(views, mean, std, self.view_dtype))
            else:
                pixels = self._branchless(images, parameters, mean, std)
        return pixels.permute(0, 3, 1, 2).unflatten(0, (parameters.views, len(images)))

    def _branchless(
        self, images: Tensor, parameters: ViewParameters, mean: Tensor | None, std: Tensor | None
    ) -> Tensor:
        """Pixels (V*B, S, S, C)."""
        drawn = {name: tensor.flatten(0, 1) for name, tensor in parameters.tensors().items()}
        sources = torch.arange(len(images), device=images.device).repeat(parameters.views)
        chunk = max(1, _CHUNK // (images.shape[1] * self.config.size**2))
        chunks = []
        for start in range(0, len(sources), chunk):
            rows = slice(start, start + chunk)
            part = {name: tensor[rows] for name, tensor in drawn.items()}
            chunks.append(self._pixels(images, sources[rows], part, self.config, mean, std, self.view_dtype))
        return torch.cat(chunks) if len(chunks) > 1 else chunks[0]

    def _pixels(self, *arguments: Any) -> Tensor:
        if self._compiled is None:
            return _branchless_pixels(*arguments)
        try:
            pixels = self._compiled(*arguments)
        except Exception as error:  # a compiler fails in more ways than it has exceptions
            plain = _branchless_pixels(*arguments)  # a fault of the input shows here, by its own name
            fault = f"failed: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
        else:
            if self._proven:
                return pixels
            plain = _branchless_pixels(*arguments)
            differ = ((pixels - plain).abs() > _NEAR).float().mean().item()
            self._proven = differ <= _MAY_DIFFER
            if self._proven:
                return pixels
            fault = f"gives other values in {differ:.1%} of the pixels"
        warnings.warn(f"torch.compile {fault}; the augmentation goes on without it", stacklevel=2)
        self._compiled = None
        return plain

    def _moments(self, channels: int, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Mean and standard deviation (1, C, 1, 1), filled on the device: a copy from the host would wait for it."""
        if self.config.mean is None or self.config.std is None:
            return None, None
        moments = []
        for values in (self.config.mean, self.config.std):
            columns = [torch.full((1, 1, 1, 1), float(value), device=device) for value in values]
            moments.append(torch.cat(columns, dim=1).expand(1, channels, 1, 1))
        return moments[0], moments[1]

    # What Kornia's base calls.

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Annotated[Tensor, "B ..."]]:
        height, width = int(batch_shape[-2]), int(batch_shape[-1])
        drawn = sample_parameters(self.config.of_view(0), batch_shape[0], (height, width), device=self.device)
        return {name: tensor[0] for name, tensor in drawn.tensors().items()}

    def transform_tensor(self, input: Annotated[Tensor, "... C H W"], **kwargs: Any) -> Annotated[Tensor, "B C H W"]:
        if input.dtype == torch.uint8:  # Kornia takes floating point only
            return input if input.ndim == 4 else input.reshape(-1, *input.shape[-3:])
        return super().transform_tensor(input, **kwargs)

    def validate_tensor(self, input: Annotated[Tensor, "... C H W"]) -> None:
        if input.dtype != torch.uint8:
            super().validate_tensor(input)

    def apply_transform(
        self,
        input: Annotated[Tensor, "uint8|float B C H W"],
        params: dict[str, Annotated[Tensor, "..."]],
        flags: dict[str, Any],
        transform: Annotated[Tensor, "B 3 3"] | None = None,
    ) -> Annotated[Tensor, "float B C S S"]:
        drawn: dict[str, Any] = {name: params[name][None].to(input.device) for name in DRAWN}
        parameters = ViewParameters(image_size=(input.shape[-2], input.shape[-1]), **drawn)
        return self.views(input, parameters)[0]


def _branchless_pixels(
    images: Tensor,
    rows: Tensor,
    drawn: dict[str, Tensor],
    config: AugmentConfig,
    mean: Tensor | None,
    std: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    return normalised_pixels(augment_rows(images, rows, drawn, config), mean, std, dtype)
