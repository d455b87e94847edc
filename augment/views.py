"""A batch of images and a seed in, views out: what the training loop calls."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal, Self, get_args, overload

import torch
from torch import Tensor, nn

from augment.config import AugmentConfig
from augment.extra import ExtraOperations
from augment.fused.crop import crop_by_taps, crop_on_cpu
from augment.fused.module import FusedAugmentation
from augment.own import OwnOperation
from augment.parameters import ViewParameters
from augment.pixel_range import RangeWatch
from augment.reference import apply_reference, normalise
from augment.sampling import sample_parameters

__all__ = ["Backend", "ViewGenerator", "cut_out"]

Backend = Literal["fused", "reference"]

_ADVICE = ". Mean and deviation are AugmentConfig's (mean, std), behind the augmentation"


class ViewGenerator(nn.Module):
    """Draws the parameters of views (``sample``) and applies them (``apply``); a call does both.

    Args:
        config: what is drawn, and from which ranges.
        backend: "fused" makes few passes over memory; "reference" applies Kornia's operations one after the other,
            slowly and readably. Given equal parameters they agree to 1e-5.
        dtype: of the views. The arithmetic is float32 whatever it is.
        after: a further operation on the views (V * B, C, S, S) in [0, 1], before the normalisation; its randomness is its
            own.
        compile: let the fused backend go through ``torch.compile``.

    Shapes:
        images (B, C, H, W), uint8 or floating point in [0, 1] -> views (V, B, C, S, S). Where C is not 3, saturation, hue
        and gray do not act, and contrast is about the mean of all channels. From the fused backend,
        ``views.flatten(0, 1)`` is in channels-last order.

    Raises:
        ValueError: shapes that do not fit, or floating point far outside [0, 1] or NaN, which would become white or black: on
            a CPU by the batch that holds it, on a GPU, which nothing waits for, by a later one.
        TypeError: other integers than uint8.

    Example:
        >>> generator = ViewGenerator(AugmentConfig(size=32, views=2))
        >>> images = torch.randint(256, (4, 3, 48, 64), dtype=torch.uint8)
        >>> generator(images, seed=0).shape
        torch.Size([2, 4, 3, 32, 32])
        >>> torch.equal(generator(images, seed=0), generator(images, seed=0))
        True
    """

    def __init__(
        self,
        config: AugmentConfig,
        backend: Backend = "fused",
        *,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if backend not in get_args(Backend):
            raise ValueError(f"backend is {backend!r}: expected one of {', '.join(map(repr, get_args(Backend)))}")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}: expected a floating-point type")
        self.config = config
        self.backend = backend
        self.dtype = dtype
        self.extra = ExtraOperations(config.extra)
        self.after = None if after is None else OwnOperation(after)
        # With appended operations the fused part stays in [0, 1] and float32, and the rest is done behind them.
        self._more = bool(config.extra) or after is not None
        self.fused = FusedAugmentation(config, torch.float32 if self._more else dtype, compile)
        self._watch = RangeWatch()

    def extra_repr(self) -> str:
        return f"backend={self.backend!r}, dtype={self.dtype}, config={self.config}"

    def forward(
        self, images: Annotated[Tensor, "uint8|float B C H W"], seed: int | None = None
    ) -> Annotated[Tensor, "float V B C S S"]:
        """Views (V, B, C, S, S) of images (B, C, H, W). The same seed gives the same views; ``None`` draws afresh."""
        self._check(images)
        height, width = images.shape[-2:]
        return self._made(images, self.sample(len(images), (height, width), seed, images.device, images.shape[1]))

    def sample(
        self,
        batch: int,
        image_size: tuple[int, int],
        seed: int | None = None,
        device: torch.device | str = "cpu",
        channels: int = 3,
    ) -> ViewParameters:
        """Draw the parameters of ``batch`` images of ``image_size`` (height, width): all the randomness there is.

        Several processes that share a batch draw it whole under one seed and take their own images with ``rows``: the
        views then do not depend on how many processes there are. ``channels`` matters to the appended operations alone.
        """
        parameters = sample_parameters(self.config, batch, image_size, seed, device)
        if not self.config.extra:
            return parameters
        extra_seed = int(torch.randint(2**62, ()).item()) if seed is None else seed
        extra = self.extra.sample(self.config.views, batch, self.config.size, extra_seed, device, channels)
        return replace(parameters, extra=extra, extra_seed=extra_seed)

    @overload
    def apply(
        self, images: Annotated[Tensor, "uint8|float B C H W"], parameters: ViewParameters
    ) -> Annotated[Tensor, "float V B C S S"]: ...

    @overload
    def apply(self, images: Callable[[nn.Module], None], parameters: None = None) -> Self: ...

    def apply(
        self,
        images: Annotated[Tensor, "uint8|float B C H W"] | Callable[[nn.Module], None],
        parameters: ViewParameters | None = None,
    ) -> Annotated[Tensor, "float V B C S S"] | Self:
        """Apply drawn parameters to images (B, C, H, W): deterministic, (V, B, C, S, S).

        ``nn.Module.apply(fn)`` shares the name; called with a function alone, this is that method.

        Raises:
            ValueError: the parameters were drawn for another number or size of images.
        """
        if parameters is None:
            if isinstance(images, Tensor):
                raise TypeError("parameters are missing: draw them with sample(), or call the generator itself")
            return super().apply(images)
        if not isinstance(images, Tensor):
            raise TypeError(f"images are {type(images).__name__}: expected a tensor (B, C, H, W)")
        self._check(images)
        _check_parameters(images, parameters)
        return self._made(images, parameters)

    def _check(self, images: Tensor) -> None:
        _check_images(images, self.config)
        self._watch(images, _ADVICE)

    def _made(self, images: Tensor, parameters: ViewParameters) -> Tensor:
        if images.dtype != torch.uint8:
            images = images.float()
        if self.backend == "fused":
            views = self.fused.views(images, parameters, normalise=not self._more)
        else:
            images = images if images.is_floating_point() else images.float() / 255
            with torch.autocast(images.device.type, enabled=False):
                views = apply_reference(images, parameters, replace(self.config, mean=None, std=None))
        if self.config.extra:
            views = self.extra(views, parameters.extra, parameters.extra_seed)
        if self.after is not None:
            views = self.after(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        if self._more or self.backend == "reference":
            views = normalise(views, self.config)
        return views.to(self.dtype)

    def finish(
        self, views: Annotated[Tensor, "uint8|float V B C S S"], parameters: ViewParameters
    ) -> Annotated[Tensor, "float V B C S S"]:
        """All but the crop, for views (V, B, C, S, S) that were cut out of their images already, where they were decoded.

        Raises:
            ValueError: views of another number or size than ``parameters`` and the configuration say.
        """
        size = self.config.size
        if views.shape[:2] != (parameters.views, parameters.batch) or views.shape[3:] != (size, size):
            raise ValueError(
                f"views have the shape {tuple(views.shape)}: expected ({parameters.views}, {parameters.batch}, C, {size}, {size})"
            )
        flat, drawn = views.flatten(0, 1), parameters.cropped(size)
        _check_images(flat, self.config)  # not their range: these are ours
        _check_parameters(flat, drawn)
        return self._made(flat, drawn)[0].unflatten(0, views.shape[:2])


def cut_out(
    images: Annotated[Tensor, "uint8 B C H W"],
    boxes: Annotated[Tensor, "int64 V B 4"],
    size: int,
    antialias: bool,
) -> Annotated[Tensor, "float V B C {size} {size}"]:
    """The crops alone: boxes (V, B, 4) of images (B, C, H, W), resized to (V, B, C, S, S) in [0, 1], on whichever device."""
    flat = boxes.flatten(0, 1)
    rows = torch.arange(len(images), device=images.device).repeat(len(boxes))
    still = torch.zeros(len(flat), dtype=torch.bool, device=images.device)
    if images.device.type == "cpu":
        return crop_on_cpu(images, rows, flat, size, still, antialias).unflatten(0, boxes.shape[:2])
    each = max(1, 2**26 // (images.shape[1] * size * max(size, images.shape[3])))  # 256 MiB of rows at a time
    parts = [
        crop_by_taps(images, rows[part], flat[part], size, still[part], antialias)
        for part in (slice(start, start + each) for start in range(0, len(flat), each))
    ]
    return torch.cat(parts).unflatten(0, boxes.shape[:2])


def _check_images(images: Tensor, config: AugmentConfig) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images are {type(images).__name__}: expected a tensor (B, C, H, W), uint8 or floating point in [0, 1]"
        )
    if images.ndim != 4 or images.shape[1] < 1:
        raise ValueError(f"images have the shape {tuple(images.shape)}: expected (B, C, H, W)")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images are {images.dtype}: expected uint8, or floating point in [0, 1]")
    if config.mean is not None and len(config.mean) not in (1, images.shape[1]):
        raise ValueError(
            f"mean has {len(config.mean)} values and the images {images.shape[1]} channels: set one of each"
        )


def _check_parameters(images: Tensor, parameters: ViewParameters) -> None:
    size = parameters.image_size
    if parameters.batch != len(images) or isinstance(size, Tensor) or size != tuple(images.shape[-2:]):
        raise ValueError(
            f"parameters were drawn for {parameters.batch} images of {parameters.image_size}, but got {len(images)} of "
            f"{tuple(images.shape[-2:])}: sample() with this batch and image size, or take rows() of the global batch"
        )
    if parameters.device != images.device:
        raise ValueError(
            f"parameters are on {parameters.device} and images on {images.device}: move one of them with .to()"
        )
