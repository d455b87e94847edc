"""Score a run or an encoder file: the table on the screen, ``result.json`` and two pictures beside the encoder."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from linear_eval.config import EvalConfig
from linear_eval.progress import name_files, print_line, told
from linear_eval.protocol import evaluate
from linear_eval.reports.closed import print_report, write_report
from linear_eval.reports.projector import check_tensorboard, write_run_projector
from linear_eval.scored_run import (
    all_of_training,
    data_of_run,
    default_protocol,
    images_to_score,
    report_folder,
    same_images,
    seen_in_training,
)
from simclr import load_encoder
from simclr.config import DataConfig
from simclr.data import ImageSet, load_source, place
from simclr.errors import DataError
from simclr.exchange.encoder import find_encoder

__all__ = ["evaluate_run"]


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


def _labelled(data: DataConfig, split: Literal["train", "test"]) -> ImageSet:
    images = load_source(data, split)
    if images.labels is None:
        raise DataError(
            f"{images.name} has no labels, and a score needs them: name a file of them with --data.labels FILE.csv, put the "
            "images of each class into a folder of its own, or evaluate on another set: --data.source folder --data.path DIR"
        )
    say = partial(print_line, Console(stderr=True))
    return place(images, torch.device("cpu"), data.device_resident, say=say)
