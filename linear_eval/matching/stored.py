"""The threshold and the calibration that an evaluation leaves beside an encoder: ``verification.json``."""

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

from linear_eval.matching.calibration import PairCalibration, Threshold
from linear_eval.matching.similarity import Distance
from simclr.errors import CheckpointError, ConfigError
from simclr.files import write_json

__all__ = ["VERIFICATION_FILE", "load_verification", "save_verification"]

VERIFICATION_FILE = "verification.json"
FORMAT = 1


def save_verification(
    folder: str | os.PathLike[str], threshold: Threshold, calibration: PairCalibration | None = None
) -> Path:
    """Write ``verification.json`` into the encoder's ``folder`` (which must exist), in one step; returns its path.

    Raises:
        CheckpointError: no such folder.
        ConfigError: threshold and calibration of different distances.
    """
    path = Path(folder) / VERIFICATION_FILE
    if not path.parent.is_dir():
        raise CheckpointError(f"{path.parent} is not a folder; export the encoder first, its threshold lives beside it")
    if calibration is not None and calibration.distance != threshold.distance:
        raise ConfigError(f"the threshold is on {threshold.distance}, the calibration on {calibration.distance}")
    content = {
        "format": FORMAT,
        "threshold": asdict(threshold),
        "calibration": None if calibration is None else asdict(calibration),
    }
    write_json(path, content)
    return path


def load_verification(path: str | os.PathLike[str]) -> tuple[Threshold, PairCalibration | None]:
    """Read what :func:`save_verification` wrote, from a run directory, the folder that holds the file, or the file.

    Raises:
        CheckpointError: no file, or one that is damaged or of another format.
    """
    path = _verification_file(Path(path))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise CheckpointError(f"{path} is of format {content['format']}, this version reads {FORMAT}; fit it again")
        threshold = Threshold(**content["threshold"])
        calibration = content["calibration"]
        if calibration is not None:
            knots = {key: tuple(map(float, calibration[key])) for key in ("similarity", "same")}
            calibration = PairCalibration(**{**calibration, **knots})
            _check_knots(calibration)
        if threshold.distance not in get_args(Distance) or not math.isfinite(threshold.value):
            raise ValueError(f"threshold {threshold.value} on {threshold.distance!r}")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; fit and save a threshold for this encoder first") from error
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}: {error}); fit and save it again"
        ) from error
    return threshold, calibration


def _verification_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    of_run = path / "encoder" / VERIFICATION_FILE
    return of_run if of_run.exists() and not (path / VERIFICATION_FILE).exists() else path / VERIFICATION_FILE


def _check_knots(calibration: PairCalibration) -> None:
    knots: Any = np.asarray([calibration.similarity, calibration.same])
    if knots.ndim != 2 or knots.shape[1] == 0 or not np.isfinite(knots).all() or (np.diff(knots[0]) < 0).any():
        raise ValueError("the knots of the calibration are not finite, rising and of equal number")
