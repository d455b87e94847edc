"""Score a run or an encoder file: the table on the screen, ``result.json`` and two pictures beside the encoder."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from linear_eval.config import EvalConfig
from linear_eval.protocol import evaluate
from linear_eval.report import print_report, write_report
from simclr import load_encoder
from simclr.config import DataConfig
from simclr.config_io import load_config
from simclr.data import ImageSet, load_source, place
from simclr.errors import DataError
from simclr.export import find_encoder

__all__ = ["data_of_run", "default_protocol", "evaluate_run", "report_folder"]


def evaluate_run(path: Path, data: DataConfig | None = None, config: EvalConfig | None = None) -> dict[str, Any]:
    """Score the encoder at ``path`` beside the same encoder untrained and raw pixels, and write what was found.

    Args:
        path: a run directory, an encoder folder, or a file in it.
        data: labelled images to score on; the run's own if None.
        config: the protocol; ``default_protocol`` if None.

    Returns:
        What ``linear_eval.evaluate`` returns. It is also written, with two pictures, to ``report_folder``.

    Raises:
        CheckpointError: no encoder there, or not all of it.
        DataError: images without labels, or none.
    """
    folder = find_encoder(path)
    encoder, untrained = load_encoder(folder), load_encoder(folder, untrained=True)
    own = data_of_run(folder)
    if data is None:
        if own is None:
            raise DataError(
                f"{folder} does not say what it was trained on; give the images: --data.source, --data.path"
            )
        data = own
    if config is None:
        config = default_protocol(folder)
    train, test = (_labelled(replace(data, limit=None), split) for split in ("train", "test"))
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("") as status:
            result = evaluate(encoder, untrained, train, test, config, progress=status.update)
    else:
        result = evaluate(encoder, untrained, train, test, config, progress=partial(print, file=sys.stderr))
    print_report(result)
    for file in write_report(result, report_folder(folder, data)):
        console.print(str(file), highlight=False, soft_wrap=True)
    return result


def data_of_run(encoder_folder: Path) -> DataConfig | None:
    """The data config of the run that wrote ``encoder_folder``, or None for an encoder folder of its own."""
    written = encoder_folder.parent / "config.yaml"
    return load_config(written).data if written.exists() else None


def report_folder(encoder_folder: Path, data: DataConfig) -> Path:
    """Where the report goes: the run directory, and for images other than the run's a folder of their own in it."""
    own = data_of_run(encoder_folder)
    if own is None:
        return encoder_folder
    same = (own.source, own.path, own.size) == (data.source, data.path, data.size)
    name = data.source if data.path is None else f"{data.source}-{data.path.name}"
    return encoder_folder.parent if same else encoder_folder.parent / f"on-{name}"


def default_protocol(encoder_folder: Path) -> EvalConfig:
    """The default protocol, without mirror images where the run's augmentation leaves them out (digits, text)."""
    written = encoder_folder.parent / "config.yaml"
    return EvalConfig(sgd_flip=load_config(written).augment.horizontal_flip) if written.exists() else EvalConfig()


def _labelled(data: DataConfig, split: Any) -> ImageSet:
    images = load_source(data, split)
    if images.labels is None:
        raise DataError(
            f"{images.name} has no labels, and a score needs them: put the images of each class into a folder of its own, "
            f"or evaluate on another set, e.g. --data.source folder --data.path DIR"
        )

    return place(images, torch.device("cpu"), data.device_resident)
