"""The knobs of the augmentation: SimCLR's defaults, every range checked."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from augment.extra import parse_operation
from augment.marks import Rare

__all__ = ["AugmentConfig"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How an image becomes views: crop, flip, affine, colour jitter, gray, blur, solarize, normalise, in this order.

    The defaults are those of SimCLR on CIFAR-10 (Chen et al. 2020, appendix A and B.9): colour strength s = 0.5, no
    blur, no normalisation. ImageNet's are ``AugmentConfig(size=224, brightness=0.8, contrast=0.8, saturation=0.8,
    hue=0.2, blur=0.5)``. A probability of 0 switches an operation off.

    Raises:
        ValueError: a field is out of its range; the message names field, value and constraint.

    Example:
        >>> AugmentConfig(size=96, blur=0.5).blur_kernel_size
        9
    """

    size: int = 32
    """Height and width of a view, in pixels."""

    views: Rare[int] = 2
    """Views drawn from every image."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's area, as a share of the image's."""

    crop_ratio: Rare[tuple[float, float]] = (3 / 4, 4 / 3)
    """Range of the crop's width / height; drawn uniformly in the logarithm."""

    antialias: Rare[bool] = True
    """Widen the bilinear filter where a crop shrinks, as PIL and torchvision do. Enlarged crops do not change."""

    horizontal_flip: float = 0.5
    """Probability of mirroring left and right. Set it to 0 where a mirror image means something else (digits, text)."""

    affine: Rare[float] = 0.0
    """Probability of the affine transform: bilinear, about the centre of the view."""

    outside: Rare[Literal["black", "border"]] = "black"
    """Affine: what lies outside the image. Black; or the nearest pixel of its border, for what is drawn or printed on white."""

    degrees: Rare[float] = 10.0
    """Affine: the rotation is drawn from [-degrees, degrees]."""

    translate: Rare[tuple[float, float]] = (0.1, 0.1)
    """Affine: largest shift in x and in y, as a share of the view's size; not rounded to whole pixels."""

    scale: Rare[tuple[float, float]] = (0.9, 1.1)
    """Affine: range of the factor by which the content is enlarged."""

    shear: Rare[float] = 0.0
    """Affine: the shear angle along x is drawn from [-shear, shear], in degrees."""

    jitter: float = 0.8
    """Probability of the colour jitter: brightness, contrast, saturation and hue, in an order drawn for every view."""

    brightness: Rare[float] = 0.4
    """Jitter: the factor on the image is drawn from [max(0, 1 - brightness), 1 + brightness]."""

    contrast: Rare[float] = 0.4
    """Jitter: the factor on the distance to the mean gray value, drawn as for brightness."""

    saturation: Rare[float] = 0.4
    """Jitter: the factor on the distance to the gray image, drawn as for brightness."""

    hue: Rare[float] = 0.1
    """Jitter: the shift of the hue is drawn from [-hue, hue], in turns of the colour circle; at most 0.5."""

    gray: Rare[float] = 0.2
    """Probability of replacing the colours by their luma (ITU-R BT.601)."""

    blur: float | tuple[float, ...] = 0.0
    """Probability of the Gaussian blur; or one for each view, such as 1.0 0.1 (BYOL, MoCo v3)."""

    blur_sigma: Rare[tuple[float, float]] = (0.1, 2.0)
    """Blur: range of the standard deviation, in pixels."""

    blur_kernel: Rare[float] = 0.1
    """Blur: width of the kernel as a share of the view's size; see ``blur_kernel_size``."""

    solarize: Rare[float | tuple[float, ...]] = 0.0
    """Probability of inverting the values at or above the threshold; or one for each view, such as 0.0 0.2."""

    solarize_threshold: Rare[float] = 0.5
    """Solarize: the threshold, in [0, 1]."""

    extra: Rare[tuple[str, ...]] = ()
    """Kornia augmentations to append, before the normalisation: class names of ``kornia.augmentation``, with arguments
    where needed, such as ``("RandomErasing(p=0.5)", "RandomGaussianNoise")``."""

    mean: Rare[tuple[float, ...] | None] = None
    """Subtracted from every channel at the end, in [0, 1] units; one value a channel, or one for all. None: SimCLR on
    CIFAR-10 does not normalise."""

    std: Rare[tuple[float, ...] | None] = None
    """Divides every channel at the end; given together with ``mean``."""

    def __post_init__(self) -> None:
        for name, least in (("size", 2), ("views", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}: expected an integer of at least {least}")
        for name in ("horizontal_flip", "affine", "jitter", "gray"):
            self._check_number(name, 0.0, 1.0, "a probability in [0, 1]")
        for name in ("blur", "solarize"):
            self._check_each_view(name)
        for name in ("brightness", "contrast", "saturation"):
            self._check_number(name, 0.0, math.inf, "a strength of at least 0")
        self._check_number("hue", 0.0, 0.5, "a strength in [0, 0.5]")
        self._check_number("degrees", 0.0, 180.0, "an angle in [0, 180]")
        self._check_number("shear", 0.0, 89.0, "an angle in [0, 89]")
        self._check_number("solarize_threshold", 0.0, 1.0, "a value in [0, 1]")
        self._check_pair("crop_scale", 0.0, 1.0, "0 < low <= high <= 1")
        self._check_pair("crop_ratio", 0.0, math.inf, "0 < low <= high")
        self._check_pair("scale", 0.0, math.inf, "0 < low <= high")
        self._check_pair("blur_sigma", 0.0, math.inf, "0 < low <= high")
        self._check_number("blur_kernel", 0.0, 1.0, "a share of the view in [0, 1]")
        if self.outside not in ("black", "border"):
            raise ValueError(f"outside is {self.outside!r}: expected 'black' or 'border'")
        shift = self.translate
        if not _is_numbers(shift) or len(shift) != 2 or not all(0 <= value <= 1 for value in shift):
            raise ValueError(f"translate is {shift!r}: expected two shares of the view, each in [0, 1]")
        self._check_normalisation()
        if not isinstance(self.extra, tuple | list) or not all(isinstance(text, str) for text in self.extra):
            raise ValueError(f"extra is {self.extra!r}: expected a tuple of names of Kornia augmentations")
        for text in self.extra:
            parse_operation(text)

    def _check_number(self, name: str, low: float, high: float, expected: str) -> None:
        value = getattr(self, name)
        if not _is_number(value) or not low <= value <= high or math.isinf(value):
            raise ValueError(f"{name} is {value!r}: expected {expected}")

    def _check_each_view(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, tuple | list):
            self._check_number(name, 0.0, 1.0, "a probability in [0, 1], or one for each view")
        elif not _is_numbers(value) or not all(0 <= one <= 1 for one in value):
            raise ValueError(f"{name} is {value!r}: expected a probability in [0, 1], or one for each view")
        elif len(value) != self.views:
            raise ValueError(
                f"{name} is {value!r} and views is {self.views}: expected one probability for all views, or one for each"
            )

    def each_view(self, probability: float | tuple[float, ...]) -> tuple[float, ...]:
        """`blur` or `solarize` view by view.

        >>> config = AugmentConfig(blur=(1.0, 0.1))
        >>> config.each_view(config.blur), config.each_view(config.solarize)
        ((1.0, 0.1), (0.0, 0.0))
        """
        return tuple(probability) if isinstance(probability, tuple | list) else (probability,) * self.views

    def of_view(self, view: int) -> "AugmentConfig":
        """How one view alone is made, as a config of one view.

        >>> AugmentConfig(blur=(1.0, 0.1)).of_view(1).blur
        0.1
        """
        blur, solarize = (self.each_view(probability)[view] for probability in (self.blur, self.solarize))
        return replace(self, views=1, blur=blur, solarize=solarize)

    def _check_pair(self, name: str, low: float, high: float, expected: str) -> None:
        pair = getattr(self, name)
        ordered = _is_numbers(pair) and len(pair) == 2 and low < pair[0] <= pair[1] <= high
        if not ordered or math.isinf(pair[1]):
            raise ValueError(f"{name} is {pair!r}: expected a pair (low, high) with {expected}")

    def _check_normalisation(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean is {self.mean!r} and std is {self.std!r}: give both or neither")
        if self.mean is None or self.std is None:
            return
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not _is_numbers(values) or not len(values) or not all(map(math.isfinite, values)):
                raise ValueError(
                    f"{name} is {values!r}: expected a tuple of finite numbers, one a channel or one for all"
                )
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}: expected as many of each")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std!r}: expected values above 0")

    @property
    def blur_kernel_size(self) -> int:
        """Width of the Gaussian kernel in pixels: odd, at least 3, radius half of ``blur_kernel`` times the size."""
        # google-research/simclr: kernel_size = size // 10, radius = kernel_size // 2, 2 * radius + 1 taps.
        radius = max(1, int(self.blur_kernel * self.size) // 2)
        # Reflection at the border needs a radius below the size.
        return 2 * min(radius, self.size - 1) + 1


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_numbers(value: object) -> bool:
    return isinstance(value, tuple | list) and all(map(_is_number, value))
