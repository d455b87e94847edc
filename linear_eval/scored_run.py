"""A run as those who score it know it: its encoder, what it was trained on, and where the report of a score goes."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from linear_eval.beside import read_as
from linear_eval.config import EvalConfig
from simclr.config import DataConfig, TrainConfig
from simclr.config.sources import PACKED
from simclr.config.yaml import load_config
from simclr.data import ImageSet, load_source
from simclr.data.decode import Reader
from simclr.data.packed.kept import expect_packed, same_packed
from simclr.data.parts_list import FILE, PartsList, read_parts
from simclr.distributed import derive_seed
from simclr.errors import ConfigError, DataError, PipelineError
from simclr.exchange.encoder import Encoder, EncoderDescription, build_encoder, read_description
from simclr.exchange.given import GivenEncoder, given_encoder

__all__ = [
    "ScoredRun",
    "all_of_training",
    "as_trained",
    "count_trained_on",
    "note_on_trained_images",
    "same_images",
    "same_labels",
]


@dataclass(frozen=True)
class ScoredRun:
    """A run, an encoder folder of its own, or weights of others. Each of its files is read when it is first needed, and once.

    Raises:
        CheckpointError: in ``at``, no encoder there; in ``encoder`` and ``untrained``, not all of it.
        ConfigError: in ``config`` and what follows from it, a ``config.yaml`` that this version cannot read.
    """

    folder: Path
    """The folder of the encoder, which holds ``encoder.json`` where it is one."""

    given: GivenEncoder | None = None
    """What it is where no ``encoder.json`` says it: a checkpoint, or weights of others."""

    size: int | None = None
    """Height and width that its network is fed, where they are others than in training."""

    out: Path | None = None
    """Where the report goes, where that is asked for."""

    @classmethod
    def at(cls, path: "ScoredRun | GivenEncoder | Path | str") -> "ScoredRun":
        """The run at ``path``: whatever ``simclr.load_encoder`` takes, or what was found before."""
        if isinstance(path, ScoredRun):
            return path
        given = path if isinstance(path, GivenEncoder) else given_encoder(path)
        if given.folder is None:
            return cls(given.home / "encoder", given)
        found = cls(given.folder)
        found.__dict__["description"] = given.description  # it was read already
        return found

    def but(self, *, size: int | None = None, out: Path | None = None) -> "ScoredRun":
        """The same run with another ``size`` or ``out``, which of its files has read what this one has."""
        other = replace(self, size=size or self.size, out=out or self.out)
        read = ("description", "config", "parts")
        other.__dict__.update({name: value for name, value in self.__dict__.items() if name in read})
        return other

    @property
    def name(self) -> str:
        """What a table calls it: the run's folder, or what the weights of others were called."""
        if self.given is not None:
            return self.given.name
        own = self.folder.resolve()
        return own.parent.name if own.name == "encoder" else own.name

    @property
    def run_dir(self) -> Path:
        """The run's folder; that of an encoder folder of its own, or of weights of others, holds no ``config.yaml``."""
        return self.folder.parent if self.given is None or self.given.step is None else self.given.home.parent

    @property
    def home(self) -> Path:
        """Where what is written about it goes: the run's folder, that of a checkpoint in it, the encoder's own folder."""
        if self.given is not None:
            return self.given.home
        return self.folder if self.config is None else self.run_dir

    @cached_property
    def description(self) -> EncoderDescription:
        """What ``encoder.json`` says, or would."""
        return read_description(self.folder) if self.given is None else self.given.description

    @cached_property
    def config(self) -> TrainConfig | None:
        """What the encoder was trained with, or None where nobody knows."""
        written = self.run_dir / "config.yaml"
        return load_config(written) if written.exists() else None

    @property
    def data(self) -> DataConfig | None:
        """The images it was trained on, or None where nobody knows. Where they lie in memory is decided anew: nothing is cut."""
        return None if self.config is None else replace(self.config.data, device_resident="auto")

    def encoder(self) -> Encoder:
        """The encoder, in eval mode on the CPU; a new one every time."""
        return self._built(untrained=False)

    def untrained(self) -> Encoder:
        """The same encoder with the random weights it started from."""
        return self._built(untrained=True)

    def _built(self, untrained: bool) -> Encoder:
        if self.given is not None:
            return self.given.build(untrained=untrained, size=self.size)
        return build_encoder(self.folder, self.description, untrained=untrained, size=self.size)

    def start(self) -> Encoder | None:
        """The weights that the run started from, as they were, which it keeps; None where it started from random ones.

        Raises:
            CheckpointError: they are damaged.
        """
        kept = self.run_dir / "start"
        if self.config is None or kept == self.folder or not (kept / "encoder.json").exists():
            return None
        return build_encoder(kept, read_description(kept), size=self.size)

    def default_protocol(self) -> EvalConfig:
        """The default protocol, without mirror images where the run's augmentation leaves them out (digits, text)."""
        return EvalConfig() if self.config is None else EvalConfig(sgd_flip=self.config.augment.horizontal_flip)

    def images(self, data: DataConfig | None) -> DataConfig:
        """The images to score on: ``data``, or where that is None the run's own; read as the encoder's, see ``as_trained``.

        Raises:
            DataError: None, and the run is not known.
            ConfigError: images of another number of channels than the encoder's.
        """
        data = self.data if data is None else data
        if data is None:
            raise DataError(
                f"{self.folder} does not say what it was trained on; give the images: --data.source, --data.path"
            )
        data = as_trained(data, self.description.reader, self.data)
        if not self.has_other_images_than(data):
            expect_packed(self.run_dir, data)
        # Classes that the run held out are of its own images.
        return replace(data, held_out_classes=0.0) if self.has_other_images_than(data) else data

    def read_as_trained(self, images: ImageSet) -> ImageSet:
        """What ``load_source`` made of ``images``: a range that training found in deep files leaves those of 8 bits alone."""
        return read_as(self.description.reader, images)

    def has_other_images_than(self, data: DataConfig) -> bool:
        """Whether ``data`` names another set than the one that was trained on; False where that is not known."""
        if self.data is None or same_images(data, self.data) or same_packed(self.run_dir, data):
            return False
        # A mount that moved, or a copy: the same files below another folder.
        by_list = data.source == "folder" == self.data.source and self.parts is not None
        return not (by_list and self.parts is not None and self.parts.is_of(data.path))

    @cached_property
    def parts(self) -> PartsList | None:
        """The list of the run's images and their parts; None for sets that are no folder, and runs of earlier versions.

        Raises:
            CheckpointError: it is damaged.
        """
        return read_parts(self.run_dir / FILE)

    def kept(self, data: DataConfig) -> PartsList | None:
        """The list that divides ``data``, or None for other images than the run's, and where another division is asked for."""
        own, parts = self.data, self.parts
        if own is None or parts is None or self.has_other_images_than(data) or not parts.any_of(data.path):
            return None
        same = (own.test_fraction, own.split_seed) == (data.test_fraction, data.split_seed)
        return parts if same else None

    def report_folder(self, data: DataConfig) -> Path:
        """Where the report goes: the run directory, and for other images or labels than the run's, or its images in
        another size or way to a square or range of values, a folder of its own in it.
        """
        own = self.data
        if self.out is not None:
            return self.out
        if own is None and self.given is None:
            return self.folder
        # Labels from a file divide the images in another way; those of sub-folders are there whether a run read them or not.
        files = [one.labels if one is not None and isinstance(one.labels, Path) else None for one in (own, data)]
        if own is not None and not self.has_other_images_than(data) and _real_path(files[0]) == _real_path(files[1]):
            alike = (own.size, own.fit) == (data.size, data.fit) and (
                data.value_range == own.value_range or data.value_range == self.description.value_range
            )
            if alike:
                return self.home
        read = [path for path in (data.path, files[1]) if path is not None]
        name = "-".join([data.source, *(path.stem for path in read)])
        if read:  # other folders may have the same name
            name += f"-{derive_seed(*map(os.path.realpath, read)) % 16**4:04x}"
        return self.home / f"on-{name}"

    def count_trained_on(self, test: ImageSet) -> int | None:
        """How many files of ``test`` were trained on; None where that cannot be told, see ``count_trained_on``."""
        if self.data is None:
            return None
        if self.parts is None or self.data.path is None or test.paths is None:
            return count_trained_on(self.data, test)
        roots = {self.data.path}
        if self.parts.is_of(Path(test.name)):  # the same set by another path
            roots.add(Path(test.name))
        return self.parts.count_trained(test.paths, roots)


def as_trained(data: DataConfig, reader: Reader, trained_on: DataConfig | None) -> DataConfig:
    """``data`` read as ``reader`` read the images that an encoder was trained on: in so many channels, made square in that
    way, in that range of values; but what ``data`` says of its own, other than ``trained_on`` and the defaults, stays. Where
    nobody knows what it was trained on, the size of files in training stands for the default one.

    Raises:
        ConfigError: another number of channels.
    """
    if data.channels not in (DataConfig.channels, reader.channels):
        raise ConfigError(
            f"data.channels is {data.channels}, and the encoder was trained on images of {reader.channels}; leave "
            f"--data.channels out, or give {reader.channels}"
        )
    fits, ranges = [DataConfig.fit], [DataConfig.value_range]
    if trained_on is not None:
        fits.append(trained_on.fit)
        ranges.append(trained_on.value_range)
    size = reader.size if trained_on is None and data.size == DataConfig.size else data.size
    values = data.value_range
    if reader.value_range is not None and values in ranges:
        values = reader.value_range
    return replace(
        data,
        size=size,
        channels=reader.channels,
        fit=reader.fit if data.fit in fits else data.fit,
        value_range=values,
    )


def all_of_training(data: DataConfig) -> DataConfig:
    """The same images without what made training see fewer of them; classes that are held out stay so."""
    return replace(data, limit=None, label_fraction=1.0, validation=0.0)


def same_images(a: DataConfig, b: DataConfig) -> bool:
    """Whether both name the same set, of whatever stored size: a folder by whatever path, a named set wherever it lies."""
    return a.source == b.source and (a.source not in ("folder", *PACKED) or _real_path(a.path) == _real_path(b.path))


def same_labels(a: DataConfig, b: DataConfig) -> bool:
    """Whether both take their labels from the same place: folders, nowhere, or one file by whatever path."""
    places = [_real_path(data.labels) if isinstance(data.labels, Path) else data.labels for data in (a, b)]
    return places[0] == places[1]


def _real_path(path: Path | None) -> str | None:
    """What is the same for every path that leads there, relative or through links; a loop of links leads nowhere."""
    return None if path is None else os.path.realpath(path)


def count_trained_on(trained_on: DataConfig, test: ImageSet) -> int | None:
    """How many files of ``test`` are among the training images of ``trained_on``, a run's data.

    None where that cannot be told: images that are no files, or training images that are not where they were.
    """
    if test.paths is None:
        return None
    try:
        training = load_source(trained_on, "train").paths
    except PipelineError:
        return None
    if training is None:
        return None
    # Path.resolve raises at a loop of links; a set that skips what does not decode may hold one.
    there = {os.path.realpath(path) for path in training}
    return sum(os.path.realpath(path) in there for path in test.paths)


def note_on_trained_images(count: int | None, images: int) -> list[str]:
    """A line for whoever reads the score, where one is needed.

    >>> note_on_trained_images(0, 61), note_on_trained_images(43, 61)
    ([], ['the encoder was trained on 43 of the 61 test images, without or with labels: the score is too good for new images'])
    """
    if not count:
        return []
    return [
        f"the encoder was trained on {count} of the {images} test images, without or with labels: the score is too good "
        "for new images"
    ]
