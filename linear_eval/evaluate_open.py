"""Score a run on classes it was not trained on: ``python scripts/evaluate.py RUN --protocol open-set``.

The encoder, the same encoder untrained and raw pixels go through :func:`linear_eval.matching.protocol.open_set`, each with a
threshold of its own. The encoder's threshold and calibration are stored for :func:`linear_eval.load_verification`.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from linear_eval.beside import Beside
from linear_eval.config import AUTOCAST, EvalConfig
from linear_eval.features.extract import Features
from linear_eval.features.frozen import frozen
from linear_eval.features.kept import Kept, features_of
from linear_eval.features.pixels import RawPixels
from linear_eval.matching.calibration import PairCalibration, Threshold
from linear_eval.matching.protocol import open_set
from linear_eval.matching.retrieval import retrieval_gains
from linear_eval.matching.stored import save_verification
from linear_eval.open_set_images import OpenSetImages, open_set_images
from linear_eval.progress import Progress, default_device, environment, print_line, showing_progress
from linear_eval.reports.open_set import print_open_set, write_open_set
from linear_eval.scored_run import ScoredRun
from linear_eval.scoring import Scoring
from simclr.config import DataConfig
from simclr.data import ImageSet
from simclr.errors import DataError

__all__ = ["evaluate_open_set"]

SHARED = ("protocol", "seed", "distance", "images", "classes", "disjoint_from_training")
"""What :func:`open_set` says of every row alike."""


def evaluate_open_set(
    path: ScoredRun | Path | str,
    data: DataConfig | None = None,
    config: EvalConfig | None = None,
    *,
    tensorboard: bool = False,
    beside: Sequence[Beside | ScoredRun | Path | str] = (),
) -> dict[str, Any]:
    """Score the encoder at ``path`` on classes that are new to it, beside the same encoder untrained and raw pixels.

    Prints a table and writes ``open-set.json``, ``roc.png``, ``pairs.png``, ``map-pca.png`` and ``map-tsne.png`` to
    ``ScoredRun.report_folder``. Threshold and calibration go to the encoder's folder, as ``verification.json``; those of
    another set's images stay with that report.

    Args:
        path: a run, or whatever else ``simclr.load_encoder`` takes.
        data: labelled images to score on; the run's own if None. See :func:`open_set_images` for what is taken of them.
        config: the protocol; ``ScoredRun.default_protocol`` if None.
        tensorboard: also write the test images under every checkpoint for TensorBoard's projector.
        beside: further encoders, each a row of its own: the same images, each fed as it was trained.

    Returns:
        What ``open-set.json`` holds: ``rows`` ("encoder", "untrained", "raw pixels", further ones) of :func:`open_set`'s
        figures, ``comparison`` of the encoder with each other row (:func:`retrieval_gains`),
        ``disjoint_from_training`` and ``threshold_from`` in words, and ``protocol``, ``data``, ``config``,
        ``encoder``, ``verification_file``, ``versions``, ``hardware``, ``seconds``.

    Raises:
        CheckpointError: no encoder there, or not all of it.
        DataError: no labels, too few classes, or a supervised run that held no class out.
        MissingExtraError: ``tensorboard``, and it is not installed.
    """
    began = time.perf_counter()
    scoring = Scoring.begin(path, data, config, tensorboard, beside)
    run, data, config = scoring.run, scoring.data, scoring.config
    images = _images(scoring, data, run)
    for note in images.test.first_lines():
        print_line(scoring.console, note)
    device = default_device()
    rows: dict[str, dict[str, Any]] = {}
    features: dict[str, Features] = {}
    digests: dict[str, str] = {}
    with showing_progress(scoring.console) as progress:
        for other in scoring.rows:
            fed = images if other.reader is None else _images(scoring, *scoring.fed(other))
            with frozen(other.encoder) as digests[other.name]:
                rows[other.name], features[other.name] = _row(
                    other.name, other.encoder, fed, config, device, progress, scoring.kept
                )
        progress("differences between the rows")
        comparison = _compare(features, config)
    scored = rows["encoder"]
    target = scoring.report_folder
    keeper = target if run.given is not None or run.has_other_images_than(data) else run.folder
    result = {
        "rows": {name: {key: value for key, value in row.items() if key not in SHARED} for name, row in rows.items()},
        "comparison": comparison,
        "disjoint_from_training": images.disjoint,
        "threshold_from": images.threshold_from,
        "protocol": scored["protocol"],
        "distance": scored["distance"],
        "data": {
            "name": images.test.name,
            "test": {
                **_describe(images.test),
                "trained_on": run.count_trained_on(images.test),
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
    with showing_progress(scoring.console) as progress:
        progress("pictures")
        files = write_open_set(result, features["encoder"], images.test.classes, target) + files
    scoring.end(files, images.test)
    return result


def _row(
    name: str,
    encoder: nn.Module,
    images: OpenSetImages,
    config: EvalConfig,
    device: torch.device,
    progress: Progress,
    kept: Kept,
) -> tuple[dict[str, Any], Features]:
    """The figures of one row of the table, and the features of the test images that they were taken from."""

    def features(part: ImageSet) -> Features:
        progress(f"{name}: features of {len(part)} images")
        autocast = None if isinstance(encoder, RawPixels) else AUTOCAST[config.precision]
        return features_of(
            kept, name, encoder, part, config.batch_size, device, workers=config.workers, autocast=autocast
        )

    validation = None if images.validation is None else features(images.validation)
    test = features(images.test)
    progress(f"{name}: pairs, neighbours and clusters of {len(test)} images")
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


def _images(scoring: Scoring, data: DataConfig, reads: ScoredRun | Beside) -> OpenSetImages:
    images = open_set_images(data, scoring.run.config, scoring.config.seed, scoring.run.kept(scoring.data))

    parts = [images.test] if images.validation is None else [images.test, images.validation]
    test, *validation = scoring.later(data, *map(reads.read_as_trained, parts))
    return replace(images, test=test, validation=validation[0] if validation else None)


def _compare(features: dict[str, Features], config: EvalConfig) -> dict[str, dict[str, dict[str, Any]]]:
    """The encoder minus each other row, on the same queries."""
    mine = features["encoder"]
    others = {name: rows for name, rows in features.items() if name != "encoder"}
    for name, rows in others.items():
        if not torch.equal(rows.y, mine.y):
            raise DataError(f"the images of the row {name!r} are not those of the others")
    found = retrieval_gains(mine.x, {name: rows.x for name, rows in others.items()}, mine.y, distance=config.distance)
    return {f"encoder - {name}": gains for name, gains in found.items()}


def _describe(images: ImageSet) -> dict[str, Any]:
    assert images.labels is not None
    return {"images": len(images), "classes": [images.classes[label] for label in images.labels.unique().tolist()]}
