"""Score a run or an encoder file: the table on the screen, ``result.json`` and two pictures beside the encoder."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from linear_eval.config import EvalConfig
from linear_eval.progress import name_files, print_line, told
from linear_eval.projector import check_tensorboard
from linear_eval.protocol import evaluate
from linear_eval.report import print_report, write_report
from linear_eval.run_projector import write_run_projector
from linear_eval.seen import seen_in_training
from simclr import load_encoder
from simclr.config import DataConfig, TrainConfig
from simclr.config_io import load_config
from simclr.data import ImageSet, load_source, place
from simclr.distributed import derive_seed
from simclr.errors import DataError
from simclr.export import find_encoder

__all__ = [
    "all_of_training",
    "config_of_run",
    "data_of_run",
    "default_protocol",
    "evaluate_run",
    "images_to_score",
    "report_folder",
    "same_images",
    "same_labels",
]


def evaluate_run(
    path: Path, data: DataConfig | None = None, config: EvalConfig | None = None, *, tensorboard: bool = False
) -> dict[str, Any]:
    """Score the encoder at ``path`` beside the same encoder untrained and raw pixels, and write what was found.

    Args:
        path: a run directory, an encoder folder, or a file in it.
        data: labelled images to score on; the run's own if None.
        config: the protocol; ``default_protocol`` if None.
        tensorboard: also write the test images under every checkpoint for TensorBoard's projector.

    Returns:
        What ``linear_eval.evaluate`` returns. It is also written, with two pictures, to ``report_folder``.

    Raises:
        CheckpointError: no encoder there, or not all of it.
        DataError: images without labels, or none.
        MissingExtraError: ``tensorboard``, and it is not installed.
    """
    folder = find_encoder(path)
    if tensorboard:
        check_tensorboard()
    encoder, untrained = load_encoder(folder), load_encoder(folder, untrained=True)
    data = images_to_score(folder, data)
    config = default_protocol(folder) if config is None else config
    own = data_of_run(folder)
    if own is not None and not same_images(data, own):
        data = replace(data, held_out_classes=0.0)  # what the run held out of its own images
    train, test = (_labelled(all_of_training(data), split) for split in ("train", "test"))
    console = Console(stderr=True)
    with told(console) as say:
        result = evaluate(encoder, untrained, train, test, config, progress=say)
    result["data"]["test"]["trained_on"] = seen_in_training(own, test.labelled())
    print_report(result)
    files = write_report(result, report_folder(folder, data))
    if tensorboard:
        with told(console) as say:
            files.append(write_run_projector(folder, test.labelled(), report_folder(folder, data), config, say))
    name_files(console, files)
    return result


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


def _labelled(data: DataConfig, split: Literal["train", "test"]) -> ImageSet:
    images = load_source(data, split)
    if images.labels is None:
        raise DataError(
            f"{images.name} has no labels, and a score needs them: name a file of them with --data.labels FILE.csv, put the "
            "images of each class into a folder of its own, or evaluate on another set: --data.source folder --data.path DIR"
        )
    say = partial(print_line, Console(stderr=True))
    return place(images, torch.device("cpu"), data.device_resident, say=say)
