"""Score a run on classes it was not trained on: ``python scripts/evaluate.py RUN --protocol open-set``.

The encoder, the same encoder untrained and raw pixels go through :func:`linear_eval.matching.protocol.open_set`, each with a
threshold of its own. The encoder's threshold and calibration are stored for :func:`linear_eval.load_verification`.
"""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from linear_eval.config import AUTOCAST, EvalConfig
from linear_eval.features.extract import Features, RawPixels, extract_features
from linear_eval.features.frozen import frozen
from linear_eval.matching.calibration import PairCalibration, Threshold, save_verification
from linear_eval.matching.protocol import open_set
from linear_eval.open_set_images import OpenSetImages, open_set_images
from linear_eval.progress import Progress, default_device, environment, name_files, told
from linear_eval.reports.open_set import print_open_set, write_open_set
from linear_eval.reports.projector import check_tensorboard, write_run_projector
from linear_eval.scored_run import (
    config_of_run,
    default_protocol,
    images_to_score,
    report_folder,
    same_images,
    seen_in_training,
)
from simclr import load_encoder
from simclr.config import DataConfig
from simclr.data import ImageSet, place
from simclr.exchange.encoder import find_encoder

__all__ = ["evaluate_open_set"]

SHARED = ("protocol", "seed", "distance", "images", "classes", "disjoint_from_training")
"""What :func:`open_set` says of every row alike."""


def evaluate_open_set(
    path: Path, data: DataConfig | None = None, config: EvalConfig | None = None, *, tensorboard: bool = False
) -> dict[str, Any]:
    """Score the encoder at ``path`` on classes that are new to it, beside the same encoder untrained and raw pixels.

    Prints a table and writes ``open-set.json``, ``roc.png``, ``pairs.png``, ``map-pca.png`` and ``map-tsne.png`` to
    ``report_folder``. Threshold and calibration go to the encoder's folder, as ``verification.json``; those of
    another set's images stay with that report.

    Args:
        path: a run directory, an encoder folder, or a file in it.
        data: labelled images to score on; the run's own if None. See :func:`open_set_images` for what is taken of them.
        config: the protocol; ``default_protocol`` if None.
        tensorboard: also write the test images under every checkpoint for TensorBoard's projector.

    Returns:
        What ``open-set.json`` holds: ``rows`` ("encoder", "untrained", "raw pixels") of :func:`open_set`'s figures,
        ``disjoint_from_training`` and ``threshold_from`` in words, and ``protocol``, ``data``, ``config``,
        ``encoder``, ``verification_file``, ``versions``, ``hardware``, ``seconds``.

    Raises:
        CheckpointError: no encoder there, or not all of it.
        DataError: no labels, too few classes, or a supervised run that held no class out.
        MissingExtraError: ``tensorboard``, and it is not installed.
    """
    began = time.perf_counter()
    folder = find_encoder(path)
    if tensorboard:
        check_tensorboard()
    encoder, untrained = load_encoder(folder), load_encoder(folder, untrained=True)
    data = images_to_score(folder, data)
    config = default_protocol(folder) if config is None else config
    run = config_of_run(folder)
    images = _placed(open_set_images(data, run, config.seed), data)
    device = default_device()
    encoders: dict[str, nn.Module] = {
        "encoder": encoder,
        "untrained": untrained,
        "raw pixels": RawPixels(config.pixel_size),
    }
    rows: dict[str, dict[str, Any]] = {}
    features: dict[str, Features] = {}
    digests: dict[str, str] = {}
    console = Console(stderr=True)
    with told(console) as say:
        for name, module in encoders.items():
            with frozen(module) as digests[name]:
                rows[name], features[name] = _row(name, module, images, config, device, say)
    scored = rows["encoder"]
    target = report_folder(folder, data)
    keeper = folder if run is None or same_images(data, run.data) else target
    result = {
        "rows": {name: {key: value for key, value in row.items() if key not in SHARED} for name, row in rows.items()},
        "disjoint_from_training": images.disjoint,
        "threshold_from": images.threshold_from,
        "protocol": scored["protocol"],
        "distance": scored["distance"],
        "data": {
            "name": images.test.name,
            "test": {
                **_describe(images.test),
                "trained_on": None if run is None else seen_in_training(run.data, images.test),
            },
            "validation": None if images.validation is None else _describe(images.validation),
        },
        "config": asdict(config),
        "encoder": {"sha256": digests["encoder"], "features": features["encoder"].x.shape[1]},
        "verification_file": None,
        **environment(device),
    }
    target.mkdir(parents=True, exist_ok=True)
    files = []
    if scored["fitted_threshold"] is not None:
        threshold, calibration = Threshold(**scored["fitted_threshold"]), PairCalibration(**scored["calibration"])
        files.append(save_verification(keeper, threshold, calibration))
        result["verification_file"] = str(files[0])
    result["seconds"] = round(time.perf_counter() - began, 2)
    print_open_set(result)
    with told(console) as say:
        say("pictures")
        files = write_open_set(result, features["encoder"], images.test.classes, target) + files
        if tensorboard:
            files.append(write_run_projector(folder, images.test, target, config, say))
    name_files(console, files)
    return result


def _row(
    name: str, encoder: nn.Module, images: OpenSetImages, config: EvalConfig, device: torch.device, say: Progress
) -> tuple[dict[str, Any], Features]:
    """The figures of one row of the table, and the features of the test images that they were taken from."""

    def features(part: ImageSet) -> Features:
        say(f"{name}: features of {len(part)} images")
        autocast = None if isinstance(encoder, RawPixels) else AUTOCAST[config.precision]
        return extract_features(encoder, part, config.batch_size, device, workers=config.workers, autocast=autocast)

    validation = None if images.validation is None else features(images.validation)
    test = features(images.test)
    say(f"{name}: pairs, neighbours and clusters of {len(test)} images")
    figures = open_set(
        test,
        validation,
        trained_on=images.trained_on,
        ranks=(1, 5),
        trials=config.one_shot_trials,
        distance=config.distance,
        seed=config.seed,
    )
    return figures, test


def _placed(images: OpenSetImages, data: DataConfig) -> OpenSetImages:
    def put(part: ImageSet) -> ImageSet:
        return place(part, torch.device("cpu"), data.device_resident)

    return replace(
        images, test=put(images.test), validation=None if images.validation is None else put(images.validation)
    )


def _describe(images: ImageSet) -> dict[str, Any]:
    assert images.labels is not None
    return {"images": len(images), "classes": [images.classes[label] for label in images.labels.unique().tolist()]}
