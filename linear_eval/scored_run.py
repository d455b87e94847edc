"""Which run an encoder comes from, which images it is scored on, and which of them it was trained on."""

import os
from dataclasses import replace
from pathlib import Path

from linear_eval.config import EvalConfig
from simclr.config import DataConfig, TrainConfig
from simclr.config.yaml import load_config
from simclr.data import ImageSet, load_source
from simclr.distributed import derive_seed
from simclr.errors import DataError, PipelineError

__all__ = [
    "all_of_training",
    "config_of_run",
    "data_of_run",
    "default_protocol",
    "images_to_score",
    "report_folder",
    "same_images",
    "same_labels",
    "seen_in_training",
    "seen_in_words",
]


def config_of_run(encoder_folder: Path) -> TrainConfig | None:
    """The config of the run that wrote ``encoder_folder``, or None for an encoder folder of its own."""
    written = encoder_folder.parent / "config.yaml"
    return load_config(written) if written.exists() else None


def data_of_run(encoder_folder: Path) -> DataConfig | None:
    """The data config of the run that wrote ``encoder_folder``, or None for an encoder folder of its own."""
    run = config_of_run(encoder_folder)
    return None if run is None else run.data


def images_to_score(encoder_folder: Path, data: DataConfig | None) -> DataConfig:
    """``data``, or where that is None the run's own images."""
    data = data_of_run(encoder_folder) if data is None else data
    if data is None:
        raise DataError(
            f"{encoder_folder} does not say what it was trained on; give the images: --data.source, --data.path"
        )
    return data


def all_of_training(data: DataConfig) -> DataConfig:
    """The same images without what made training see fewer of them; classes that are held out stay so."""
    return replace(data, limit=None, label_fraction=1.0, validation=0.0)


def same_images(a: DataConfig, b: DataConfig) -> bool:
    """Whether both name the same set, of whatever stored size: a folder by whatever path, a named set wherever it lies."""
    return a.source == b.source and (a.source != "folder" or _place(a.path) == _place(b.path))


def same_labels(a: DataConfig, b: DataConfig) -> bool:
    """Whether both take their labels from the same place: folders, nowhere, or one file by whatever path."""
    places = [_place(data.labels) if isinstance(data.labels, Path) else data.labels for data in (a, b)]
    return places[0] == places[1]


def _place(path: Path | None) -> str | None:
    """What is the same for every path that leads there, relative or through links; a loop of links leads nowhere."""
    return None if path is None else os.path.realpath(path)


def report_folder(encoder_folder: Path, data: DataConfig) -> Path:
    """Where the report goes: the run directory, and for other images or labels than the run's, or its images in another
    size, a folder of its own in it.
    """
    own = data_of_run(encoder_folder)
    if own is None:
        return encoder_folder
    # Labels from a file divide the images in another way; those of sub-folders are there whether a run read them or not.
    files = [labels if isinstance(labels, Path) else None for labels in (own.labels, data.labels)]
    if same_images(own, data) and own.size == data.size and _place(files[0]) == _place(files[1]):
        return encoder_folder.parent
    read = [path for path in (data.path, files[1]) if path is not None]
    name = "-".join([data.source, *(path.stem for path in read)])
    if read:  # other folders may have the same name
        name += f"-{derive_seed(*map(os.path.realpath, read)) % 16**4:04x}"
    return encoder_folder.parent / f"on-{name}"


def default_protocol(encoder_folder: Path) -> EvalConfig:
    """The default protocol, without mirror images where the run's augmentation leaves them out (digits, text)."""
    run = config_of_run(encoder_folder)
    return EvalConfig() if run is None else EvalConfig(sgd_flip=run.augment.horizontal_flip)


def seen_in_training(trained_on: DataConfig | None, test: ImageSet) -> int | None:
    """How many files of ``test`` are among the training images of ``trained_on``, a run's data.

    None where that cannot be told: an encoder without its run, images that are no files, or training images that are
    not where they were.
    """
    if trained_on is None or test.paths is None:
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


def seen_in_words(count: int | None, images: int) -> list[str]:
    """A line for whoever reads the score, where one is needed.

    >>> seen_in_words(0, 61), seen_in_words(43, 61)
    ([], ['the encoder was trained on 43 of the 61 test images, without or with labels: the score is too good for new images'])
    """
    if not count:
        return []
    return [
        f"the encoder was trained on {count} of the {images} test images, without or with labels: the score is too good "
        "for new images"
    ]
