"""The open-set protocol: score an encoder on classes it was never trained on.

The classes, not the images, are divided: some to train on, some to fit a threshold on, some to test on. On the test
classes the encoder is scored as a search engine (retrieval), as a comparison of two images (verification, with the
threshold of the validation classes), and as a recogniser of new classes from one image each (identification, one-shot).

>>> import torch
>>> y = torch.arange(10).repeat_interleave(5)
>>> split = class_disjoint_split(y, test=0.4, validation=2, seed=0)
>>> len(split.train), len(split.validation), len(split.test)
(4, 2, 4)
>>> int(split.rows(y, "test").sum())
20
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from linear_eval.calibration import fit_pair_calibration, fit_threshold, pair_calibration_error
from linear_eval.features import Features, check_features
from linear_eval.identification import identification, one_shot
from linear_eval.retrieval import nmi, retrieval
from linear_eval.similarity import Distance
from linear_eval.verification import FARS, verification
from simclr.errors import ConfigError, DataError

__all__ = ["ClassSplit", "class_disjoint_split", "open_set"]

PROTOCOL = (
    "Every figure is on the test classes. Retrieval: every image queries all others; queries without another image of "
    "their class are left out. Verification: all pairs; threshold and calibration come from the validation classes "
    "where these are given. Identification: one image of each class is enrolled, the others are probes. One-shot: a "
    "query, one image of its class, one image of each other class. Intervals are 95 %, over classes."
)


@dataclass(frozen=True, kw_only=True)
class ClassSplit:
    """Classes divided into three groups without overlap, each rising."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    seed: int

    def rows(self, y: Tensor, part: Literal["train", "validation", "test"]) -> Tensor:
        """Mask (N,) of the rows whose class (N,) is in ``part``."""
        return torch.isin(y, torch.tensor(getattr(self, part), dtype=torch.int64, device=y.device))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def class_disjoint_split(
    y: Tensor | Iterable[int], *, test: float | int = 0.5, validation: float | int = 0, seed: int = 0
) -> ClassSplit:
    """Divide the classes that occur in ``y`` (any shape, integers) under ``seed``.

    The same set of classes and the same seed give the same split, whatever the number and order of the images.

    Args:
        test, validation: a share of the classes (float below 1), or a number of them (int). The others train.

    Raises:
        ConfigError: a share outside [0, 1) or a negative number.
        DataError: no labels, or a label below 0 (which means none); fewer than two classes to test on, or one to
            validate on (a pair of different classes takes two), or none left to train on.
    """
    labels = torch.as_tensor(y if isinstance(y, Tensor) else list(y))
    if labels.is_floating_point() or labels.numel() == 0 or int(labels.min()) < 0:
        raise DataError(
            f"a split needs integer labels from 0 up, got {tuple(labels.shape)} {labels.dtype}; images without a label "
            "(-1) belong to no class: leave them out"
        )
    classes = labels.to("cpu", torch.int64).unique()
    counts = [_class_count(share, len(classes), name) for share, name in ((test, "test"), (validation, "validation"))]
    left = len(classes) - sum(counts)
    if counts[0] < 2 or counts[1] == 1 or left < 1:
        raise DataError(
            f"{len(classes)} classes cannot be divided into {left} to train, {counts[1]} to validate, {counts[0]} to "
            "test: testing needs at least 2, validation 0 or at least 2, training at least 1"
        )
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    groups = [tuple(sorted(group.tolist())) for group in classes[order].split([*counts, left])]
    return ClassSplit(test=groups[0], validation=groups[1], train=groups[2], seed=seed)


def open_set(
    test: Features,
    validation: Features | None = None,
    *,
    trained_on: Sequence[int] | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    ranks: Sequence[int] = (1, 5, 10),
    ways: Sequence[int] = (5, 20),
    fars: Sequence[float] = FARS,
    trials: int = 10_000,
    distance: Distance = "cosine",
    seed: int = 0,
) -> dict[str, Any]:
    """Score frozen features of classes that were never trained on.

    Args:
        test: features of the test classes, all of them, once.
        validation: features of other held-out classes (or of held-out images of the training classes) to fit the
            threshold and the calibration on. Without them no threshold is reported as fitted.
        trained_on: the classes that were trained on, if that is known; none may occur in ``test``. The result says
            whether this was checked.
        ways: one-shot difficulties; one that exceeds the number of classes is reported as not possible.

    Returns:
        Plain JSON types. ``Threshold(**result["fitted_threshold"])`` and ``PairCalibration(**result["calibration"])``
        are what :func:`linear_eval.calibration.save_verification` stores beside the encoder.

    Raises:
        DataError: classes of ``test`` that are also in ``trained_on`` or in ``validation``; too few classes or images
            to form a pair of one class and one of different classes; rows that are not finite.
    """
    check_features(test, "test")
    if validation is not None:
        check_features(validation, "validation")
    _refuse_shared("trained_on", trained_on, test)
    _refuse_shared("validation", None if validation is None else validation.y.tolist(), test)
    x, y = test.x, test.y
    fitted = calibration = None
    if validation is not None:
        fitted = fit_threshold(validation.x, validation.y, distance=distance)
        calibration = fit_pair_calibration(validation.x, validation.y, prior=0.5, distance=distance)
    verified = verification(x, y, distance=distance, threshold=fitted.value if fitted else None, fars=fars)
    classes = len(y.unique())
    result = {
        "protocol": PROTOCOL,
        "seed": seed,
        "distance": distance,
        "images": len(y),
        "classes": classes,
        "disjoint_from_training": "checked" if trained_on is not None else "not checked: training classes not given",
        "retrieval": {**retrieval(x, y, ks, distance=distance).as_dict(), "nmi": nmi(x, y, seed, distance=distance)},
        "verification": verified.as_dict(),
        "fitted_threshold": asdict(fitted) if fitted else None,
        "calibration": asdict(calibration) if calibration else None,
        "calibration_error": pair_calibration_error(calibration, x, y) if calibration else None,
        "identification": identification(
            x, y, [rank for rank in ranks if rank <= classes] or [1], distance=distance, seed=seed
        ).as_dict(),
        "one_shot": {str(n): _one_shot(test, n, trials, distance, seed) for n in ways},
    }
    return json.loads(json.dumps(result, allow_nan=False))


def _one_shot(test: Features, ways: int, trials: int, distance: Distance, seed: int) -> dict[str, Any]:
    try:
        return one_shot(test.x, test.y, ways, trials=trials, distance=distance, seed=seed).as_dict()
    except DataError as error:  # fewer classes than ways: the other figures still stand
        return {"accuracy": None, "note": str(error)}


def _class_count(share: float | int, classes: int, name: str) -> int:
    if isinstance(share, int) and not isinstance(share, bool) and share >= 0:
        return share
    if isinstance(share, float) and 0 <= share < 1:
        return round(share * classes)
    raise ConfigError(f"{name} must be a share of the classes in [0, 1) or a number of classes, got {share!r}")


def _refuse_shared(name: str, other: Sequence[int] | None, test: Features) -> None:
    shared = sorted(set(other or ()) & set(test.y.unique().tolist()))
    if shared:
        shown = ", ".join(map(str, shared[:8])) + (", ..." if len(shared) > 8 else "")
        raise DataError(f"the test set shares {len(shared)} classes with {name}: {shown}; an open set shares none")
