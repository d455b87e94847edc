"""What a run does otherwise where its images have not three channels: said in its first lines, or refused."""

import torch

from augment import ViewGenerator
from simclr.config import TrainConfig
from simclr.config.normalisation import averaged_values
from simclr.errors import ConfigError

__all__ = ["channel_notes"]


def channel_notes(config: TrainConfig) -> list[str]:
    """Lines for whoever starts the run; none where the images have three channels.

    Raises:
        ConfigError: an operation of ``augment.extra`` that does not take so many channels.
    """
    channels, augment = config.data.channels, config.augment
    if channels == 3:
        return []
    said = f"{channels} channel{'s' if channels > 1 else ''}"
    if augment.extra:
        views = ViewGenerator(augment)
        drawn = views.sample(2, (augment.size, augment.size), seed=0, channels=channels)
        try:
            views.apply(torch.zeros(2, channels, augment.size, augment.size), drawn)
        except Exception as error:  # whatever Kornia raises: each of its operations has a complaint of its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"augment.extra={augment.extra} holds an operation that does not take images of {said}: {reason}; leave it "
                "out of --augment.extra"
            ) from error
    notes = []
    jittered = {"saturation": augment.saturation, "hue": augment.hue} if augment.jitter else {}
    idle = [name for name, value in {**jittered, "gray": augment.gray}.items() if value]
    if idle:
        listed = " and ".join(filter(None, [", ".join(idle[:-1]), idle[-1]]))
        verb = "does" if len(idle) == 1 else "do"
        notes.append(f"{said}: {listed} of the colour jitter {verb} not act, which need the three of a colour")
    published = averaged_values(channels, augment)
    if published is not None and augment.mean is not None and augment.std is not None:
        notes.append(
            f"{said}: normalised by mean {augment.mean[0]:g} and std {augment.std[0]:g}, the averages of {published}'s three"
        )
    return notes
