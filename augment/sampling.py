"""Draw the parameters of a batch of views: every random number of the augmentation comes from here."""

import functools

import torch
from torch import Tensor

from augment.config import AugmentConfig
from augment.crops import CROP_DRAWS, DRAWS, crop_boxes
from augment.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, ViewParameters

__all__ = ["device_generator", "sample_parameters"]


def device_generator(device: torch.device) -> torch.Generator:
    """What draws on ``device``: on a GPU always the same one, since a CUDA graph takes the seeds of those that it knows."""
    return _kept_generator(device) if device.type == "cuda" else torch.Generator(device)


@functools.cache
def _kept_generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device)


class _Uniforms:
    """Hands out uniform numbers in [0, 1) by fixed position, so that a knob does not move its neighbours."""

    def __init__(self, draws: Tensor) -> None:
        self._draws = draws  # (K, V, B)
        self._next = 0

    def take(self, count: int) -> Tensor:
        """The next ``count`` numbers of every view: (count, V, B)."""
        self._next += count
        return self._draws[self._next - count : self._next]

    def one(self) -> Tensor:
        """The next number of every view: (V, B)."""
        return self.take(1)[0]


def sample_parameters(
    config: AugmentConfig,
    batch: int,
    image_size: tuple[int, int],
    seed: int | None = None,
    device: torch.device | str = "cpu",
) -> ViewParameters:
    """Draw the parameters of ``config.views`` views of ``batch`` images of ``image_size`` (height, width).

    Every image draws its own parameters in every view. The same seed gives the same parameters on the same kind of
    device; ``None`` draws from torch's default generator. Nothing here waits for the device. The crop has the
    distribution of torchvision's ``RandomResizedCrop.get_params``: up to ten boxes, the first that fits is taken, else
    a central one.

    Raises:
        ValueError: ``batch`` or ``image_size`` is not positive.
    """
    height, width = image_size
    if batch < 1 or height < 1 or width < 1:
        raise ValueError(f"batch is {batch} and image_size {tuple(image_size)}: expected positive integers")
    return _sample(config, batch, height, width, seed, device)


def _sample(
    config: AugmentConfig, batch: int, height: int, width: int, seed: int | None, device: torch.device | str
) -> ViewParameters:
    generator = None if seed is None else device_generator(torch.device(device)).manual_seed(seed)
    shape = (config.views, batch)
    # One launch for everything, always the same numbers: with blur switched on or off, a seed gives the same crops.
    uniforms = _Uniforms(torch.rand((DRAWS, *shape), generator=generator, device=device))

    crop = crop_boxes(config, uniforms.take(CROP_DRAWS), height, width)
    flip = uniforms.one() < config.horizontal_flip
    affine = _sample_affine(config, uniforms)
    jitter, order = _sample_jitter(config, uniforms)
    gray = uniforms.one() < config.gray
    blurred = uniforms.one() < _of_each_view(config.each_view(config.blur), crop.device)
    sigma = _between(uniforms.one(), *config.blur_sigma)
    solarize = uniforms.one() < _of_each_view(config.each_view(config.solarize), crop.device)
    return ViewParameters(
        image_size=(height, width),
        crop=crop,
        flip=flip,
        affine=affine,
        jitter=jitter,
        order=order,
        gray=gray,
        blur=sigma * blurred,
        solarize=solarize,
    )


def _of_each_view(probabilities: tuple[float, ...], device: torch.device) -> float | Tensor:
    """One number where all views have the same, else (V, 1), filled on the device: a copy from the host would wait for it."""
    if len(set(probabilities)) == 1:
        return probabilities[0]
    return torch.stack([torch.full((1,), float(one), device=device) for one in probabilities])


def _between(uniform: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * uniform


def _sample_affine(config: AugmentConfig, uniforms: _Uniforms) -> Tensor:
    """(V, B, 5): angle, shift x, shift y, scale, shear; (0, 0, 0, 1, 0) where the transform does not act."""
    acts = uniforms.one() < config.affine
    spread = 2 * uniforms.take(5) - 1  # uniform in [-1, 1)
    shift_x, shift_y = config.translate
    low, high = config.scale
    columns = (
        acts * config.degrees * spread[0],
        acts * (shift_x * config.size) * spread[1],
        acts * (shift_y * config.size) * spread[2],
        torch.where(acts, (low + high) / 2 + (high - low) / 2 * spread[3], 1.0),
        acts * config.shear * spread[4],
    )
    return torch.stack(columns, dim=-1)


def _sample_jitter(config: AugmentConfig, uniforms: _Uniforms) -> tuple[Tensor, Tensor]:
    """Factors (V, B, 4) and order (V, B, 4); (1, 1, 1, 0) where the jitter does not act."""
    acts = uniforms.one() < config.jitter
    amount = uniforms.take(4)
    factors = []
    for op, strength in ((BRIGHTNESS, config.brightness), (CONTRAST, config.contrast), (SATURATION, config.saturation)):
        drawn = _between(amount[op], max(0.0, 1.0 - strength), 1.0 + strength)
        # A strength of 0 must give exactly 1, which low + (high - low) * u does.
        factors.append(torch.where(acts, drawn, 1.0))
    factors.append(acts * _between(amount[HUE], -config.hue, config.hue))
    # Sorting independent keys gives a uniform permutation; ties have probability 2**-22 and only cost uniformity.
    order = uniforms.take(4).argsort(dim=0).movedim(0, -1)
    return torch.stack(factors, dim=-1), order.contiguous()
