"""The same transforms as the reference, as one Kornia module of few passes over memory; it takes uint8 as it comes.

On a CPU, views that share an order of operations go together through ``augment/grouped.py``; elsewhere, or compiled,
all views take the same steps of ``augment/branchless.py``. Given equal parameters all of them agree to 1e-5.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from kornia.augmentation import AugmentationBase2D
from torch import Tensor

from augment.branchless import augment_rows
from augment.config import AugmentConfig
from augment.grouped import LARGE_VIEW, augment_groups
from augment.parameters import DRAWN, ViewParameters
from augment.sampling import sample_parameters

__all__ = ["FusedAugmentation"]

# Floats of views worked on at a time where the form is branchless: a thread's cache on a CPU, 256 MiB elsewhere.
_CHUNK_CPU = 2**17
_CHUNK_DEVICE = 2**26


class FusedAugmentation(AugmentationBase2D):
    """SimCLR's augmentation as one module: crop, flip, affine, jitter, gray, blur, solarize, normalise.

    As a Kornia augmentation it draws one view of every image, (B, C, H, W) -> (B, C, S, S), and composes with Kornia's
    own inside ``AugmentationSequential`` (images only: it moves no boxes, masks or keypoints). ``views`` makes all V of
    them from parameters drawn elsewhere; that is what ``ViewGenerator`` calls.

    Args:
        config: what is drawn, and from which ranges.
        dtype: of the views; the arithmetic is float32 whatever it is.
        compile: run the branchless form through ``torch.compile``, on a CPU only for small views, where it pays. The
            first batch takes its time; without a working compiler a warning says so and the eager form goes on.

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
        self._compiled: Callable[..., Tensor] | None = torch.compile(augment_rows) if compile else None

    def views(self, images: Tensor, parameters: ViewParameters, normalise: bool = True) -> Tensor:
        """All views of images (B, C, H, W), uint8 or floating point in [0, 1]: (V, B, C, S, S), channels last.

        ``normalise=False`` leaves out the last step, for operations that come before it.
        """
        if images.dtype != torch.uint8:
            images = images.float()
        size, channels, count = self.config.size, images.shape[1], parameters.views * len(images)
        pixels = torch.empty(count, size, size, channels, dtype=self.view_dtype, device=images.device)
        mean, std = self._moments(channels, images.device) if normalise else (None, None)

        def write(rows: Tensor | slice, views: Tensor) -> None:
            if mean is not None and std is not None:
                views = views.sub_(mean).div_(std)
            views = views.to(self.view_dtype).permute(0, 2, 3, 1)
            if isinstance(rows, slice):
                pixels[rows] = views
            elif views[0].numel() < LARGE_VIEW:
                pixels.index_copy_(0, rows, views.contiguous())
            else:  # the copy of a large view is worth a call of its own, and then needs no second one
                for row, view in zip(rows.tolist(), views, strict=True):
                    pixels[row].copy_(view)

        # Matrix products must not be lowered to half precision by a training step's autocast.
        with torch.autocast(images.device.type, enabled=False):
            if images.device.type == "cpu" and (self._compiled is None or channels * size**2 >= LARGE_VIEW):
                augment_groups(images, parameters, self.config, write)
            else:
                self._branchless(images, parameters, write)
        return pixels.permute(0, 3, 1, 2).unflatten(0, (parameters.views, len(images)))

    def _branchless(self, images: Tensor, parameters: ViewParameters, write: Callable[[slice, Tensor], None]) -> None:
        drawn = {name: tensor.flatten(0, 1) for name, tensor in parameters.tensors().items()}
        sources = torch.arange(len(images), device=images.device).repeat(parameters.views)
        floats = images.shape[1] * self.config.size**2
        on_cpu = images.device.type == "cpu"
        chunk = max(1, (_CHUNK_CPU * torch.get_num_threads() if on_cpu else _CHUNK_DEVICE) // floats)
        for start in range(0, len(sources), chunk):
            rows = slice(start, min(start + chunk, len(sources)))
            part = {name: tensor[rows] for name, tensor in drawn.items()}
            write(rows, self._run(images, sources[rows], part, self.config))

    def _run(self, *arguments: Any) -> Tensor:
        if self._compiled is None:
            return augment_rows(*arguments)
        try:
            return self._compiled(*arguments)
        except Exception as error:  # a compiler fails in more ways than it has exceptions
            views = augment_rows(*arguments)  # a fault of the input shows here, by its own name
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(f"torch.compile failed, the augmentation goes on without it: {reason}", stacklevel=2)
            self._compiled = None
            return views

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

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        height, width = int(batch_shape[-2]), int(batch_shape[-1])
        drawn = sample_parameters(replace(self.config, views=1), batch_shape[0], (height, width), device=self.device)
        return {name: tensor[0] for name, tensor in drawn.tensors().items()}

    def transform_tensor(self, input: Tensor, **kwargs: Any) -> Tensor:
        if input.dtype == torch.uint8:  # Kornia takes floating point only
            return input if input.ndim == 4 else input.reshape(-1, *input.shape[-3:])
        return super().transform_tensor(input, **kwargs)

    def validate_tensor(self, input: Tensor) -> None:
        if input.dtype != torch.uint8:
            super().validate_tensor(input)

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        drawn: dict[str, Any] = {name: params[name][None].to(input.device) for name in DRAWN}
        parameters = ViewParameters(image_size=(input.shape[-2], input.shape[-1]), **drawn)
        return self.views(input, parameters)[0]
