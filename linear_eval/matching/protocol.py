"""The open-set protocol: score an encoder on classes it was never trained on.

The classes, not the images, are divided: some to train on, some to fit a threshold on, some to test on. On the test
classes the encoder is scored as a search engine (retrieval), as a comparison of two images (verification, with the
threshold of the validation classes), and as a recogniser of new classes from one image each (identification, one-shot).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from linear_eval.features.extract import Features, check_features
from linear_eval.matching.calibration import fit_pair_calibration, fit_threshold, pair_calibration_error
from linear_eval.matching.identification import identification, one_shot
from linear_eval.matching.retrieval import nmi, retrieval
from linear_eval.matching.similarity import Distance
from linear_eval.matching.verification import FARS, verification
from simclr.data.splits import ClassSplit, class_disjoint_split
from simclr.errors import DataError

__all__ = ["ClassSplit", "class_disjoint_split", "open_set"]

PROTOCOL = (
    "Every figure is on the test classes. Retrieval: every image queries all others; queries without another image of "
    "their class are left out. Verification: all pairs; threshold and calibration come from the validation classes "
    "where these are given. Identification: one image of each class is enrolled, the others are probes. One-shot: a "
    "query, one image of its class, one image of each other class. Intervals are 95 %, over classes."
)


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
        are what :func:`linear_eval.save_verification` stores beside the encoder.

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
            x,
            y,
            [rank for rank in ranks if rank < classes] or [1],  # rank C of C classes is always reached
            distance=distance,
            seed=seed,
        ).as_dict(),
        "one_shot": {str(n): _one_shot(test, n, trials, distance, seed) for n in ways},
    }
    return json.loads(json.dumps(result, allow_nan=False))


def _one_shot(test: Features, ways: int, trials: int, distance: Distance, seed: int) -> dict[str, Any]:
    try:
        return one_shot(test.x, test.y, ways, trials=trials, distance=distance, seed=seed).as_dict()
    except DataError as error:  # fewer classes than ways: the other figures still stand
        return {"accuracy": None, "note": str(error)}


def _refuse_shared(name: str, other: Sequence[int] | None, test: Features) -> None:
    shared = sorted(set(other or ()) & set(test.y.unique().tolist()))
    if shared:
        shown = ", ".join(map(str, shared[:8])) + (", ..." if len(shared) > 8 else "")
        raise DataError(f"the test set shares {len(shared)} classes with {name}: {shown}; an open set shares none")
