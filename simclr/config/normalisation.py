"""Mean and standard deviation of published weights, where the images have another number of channels than these."""

from dataclasses import replace

from augment import AugmentConfig
from simclr.errors import ConfigError

__all__ = ["averaged_values", "normalised_for"]

_PUBLISHED = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "Inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "CLIP": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""What comes from a preset or with weights of timm, rather than from the user."""


def normalised_for(channels: int, augment: AugmentConfig) -> AugmentConfig:
    """``augment`` with a normalisation that images of so many channels can have.

    Three values that are published ones become their average, one for all channels: nobody chose them for these images.

    Raises:
        ConfigError: mean and std have neither one value nor one a channel.

    >>> normalised_for(4, AugmentConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))).mean
    (0.449,)
    """
    if augment.mean is None or augment.std is None or len(augment.mean) in (1, channels):
        return augment
    for mean, std in _PUBLISHED.values():
        if (tuple(augment.mean), tuple(augment.std)) == (mean, std):
            return replace(augment, mean=_average(mean), std=_average(std))
    raise ConfigError(
        f"augment.mean and augment.std have {len(augment.mean)} values, data.channels is {channels}: expected one value for "
        f"all channels or {channels}; set --augment.mean and --augment.std, or --data.channels {len(augment.mean)}"
    )


def averaged_values(channels: int, augment: AugmentConfig) -> str | None:
    """Whose values ``normalised_for`` averaged, by name, or None where it did not.

    >>> averaged_values(4, AugmentConfig(mean=(0.449,), std=(0.226,)))
    'ImageNet'
    """
    for name, (mean, std) in _PUBLISHED.items():
        if channels != 3 and (augment.mean, augment.std) == (_average(mean), _average(std)):
            return name
    return None


def _average(values: tuple[float, ...]) -> tuple[float, ...]:
    return (round(sum(values) / len(values), 6),)
