"""A row more in the table of a score: another encoder on the same images, by the same protocol, compared image by image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from linear_eval.features.images import SizedImages
from simclr.config import DataConfig
from simclr.data import ImageSet
from simclr.data.decode import Reader
from simclr.errors import ConfigError

__all__ = ["RESERVED", "START", "Beside", "TwoParts", "read_as", "refuse_equal_names"]

TwoParts = Callable[[], tuple[SizedImages, SizedImages]]
"""Gives the training and the test images as an encoder is fed them, when its row is taken."""

RESERVED = (
    *("encoder", "untrained", "raw pixels", "always the mean", "always the commonest class"),
    *("p(same)", "with head"),
)
"""Names of rows that tables have of their own."""

START = "start"
"""The row of the weights that a run started from, untouched."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """An encoder that is scored beside another one."""

    name: str
    """What its row is called; no two rows have one name."""

    encoder: nn.Module
    """Images (B, C, H, W), uint8 or in [0, 1] -> (B, F); it normalises by itself."""

    reader: Reader | None = None
    """How its files became pixels in training; None where its images are read as those of the encoder it stands beside."""

    def images(self, data: DataConfig, reader: Reader) -> DataConfig:
        """The images ``data``, which are read for an encoder of ``reader``, as they are read for this one.

        What ``data`` says of its own, other than ``reader``, holds for this one too.

        Raises:
            ConfigError: images of another number of bands, which it cannot take.
        """
        own = self.reader
        if own is None:
            return data
        if own.channels != data.channels and not {own.channels, data.channels} <= {1, 3}:
            raise ConfigError(
                f"{self.name} takes images of {own.channels} channels, and these have {data.channels}; leave it out of --beside"
            )
        return replace(
            data,
            size=own.size,
            channels=own.channels,
            fit=own.fit if data.fit == reader.fit else data.fit,
            value_range=data.value_range if own.value_range is None else own.value_range,
        )

    def read_as_trained(self, images: ImageSet) -> ImageSet:
        """``images`` as a range that training found in deep files reads them: it leaves those of 8 bits alone."""
        return images if self.reader is None else read_as(self.reader, images)


def read_as(reader: Reader, images: ImageSet) -> ImageSet:
    """What ``load_source`` made of ``images``: a range that ``reader`` found in deep files leaves those of 8 bits alone."""
    if not reader.deep_only or images.reader.value_range != reader.value_range:
        return images
    return replace(images, reader=replace(images.reader, deep_only=True))


def refuse_equal_names(names: Sequence[str]) -> None:
    """Refuse two rows of one name, and a name that a row of every table has.

    Raises:
        ConfigError: it says which.
    """
    for number, name in enumerate(names):
        if name in RESERVED or name in names[:number]:
            raise ConfigError(f"two rows of the table would be called {name!r}; give every encoder a name of its own")
