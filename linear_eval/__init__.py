"""From an encoder to numbers that can be trusted.

``extract_features`` runs a frozen encoder over a set once; ``linear_probe``, ``knn_accuracy`` and ``few_labels`` score
the features on classes that were trained on, ``retrieval``, ``verification``, ``identification``, ``one_shot``, ``few_shot``
and ``lake_trials`` on any classes. ``evaluate_run``, ``evaluate_open_set`` and ``evaluate_one_shot`` do all of it for a run,
beside the same encoder untrained and raw pixels. ``load_verification`` gives the stored threshold that decides whether two
images are of one class.
"""

import sys
from typing import TYPE_CHECKING

from augment.lazy import lazy_face

if TYPE_CHECKING:
    from linear_eval.classify.few_labels import few_labels
    from linear_eval.classify.knn import knn_accuracy, knn_predictions
    from linear_eval.classify.probe import linear_probe
    from linear_eval.classify.reliability import Reliability, expected_calibration_error, reliability
    from linear_eval.classify.result import LinearClassifier, ProbeResult
    from linear_eval.classify.sgd_probe import sgd_probe
    from linear_eval.config import EvalConfig
    from linear_eval.evaluate import evaluate_run
    from linear_eval.evaluate_few_shot import evaluate_one_shot
    from linear_eval.evaluate_open import evaluate_open_set
    from linear_eval.features.extract import Features, extract_features
    from linear_eval.features.frozen import encoder_digest
    from linear_eval.features.pixels import pixel_features
    from linear_eval.matching.calibration import (
        PairCalibration,
        Threshold,
        fit_pair_calibration,
        fit_threshold,
        pair_calibration_error,
    )
    from linear_eval.matching.few_shot import FewShotResult, few_shot, same_class_likeness
    from linear_eval.matching.identification import IdentificationResult, OneShotResult, identification, one_shot
    from linear_eval.matching.protocol import open_set
    from linear_eval.matching.retrieval import RetrievalResult, map_at_r, nmi, r_precision, recall_at_k, retrieval
    from linear_eval.matching.stored import load_verification, save_verification
    from linear_eval.matching.trials import OneShotRuns, TrialsResult, lake_trials, load_runs
    from linear_eval.matching.verification import VerificationResult, verification
    from linear_eval.metrics import bootstrap_interval, paired_difference
    from linear_eval.reports.closed import print_report, result_table, write_report, write_result
    from linear_eval.reports.embeddings import plot_map, plot_pairs, plot_roc
    from linear_eval.reports.projector import write_projector
    from simclr.data.splits import ClassSplit, class_disjoint_split

if sys.argv[:1] == ["-m"]:
    from simclr.commands import refuse_module

    refuse_module(__name__)

__all__ = [
    "ClassSplit",
    "EvalConfig",
    "Features",
    "FewShotResult",
    "IdentificationResult",
    "LinearClassifier",
    "OneShotResult",
    "OneShotRuns",
    "PairCalibration",
    "ProbeResult",
    "Reliability",
    "RetrievalResult",
    "Threshold",
    "TrialsResult",
    "VerificationResult",
    "bootstrap_interval",
    "class_disjoint_split",
    "encoder_digest",
    "evaluate_one_shot",
    "evaluate_open_set",
    "evaluate_run",
    "expected_calibration_error",
    "extract_features",
    "few_labels",
    "few_shot",
    "fit_pair_calibration",
    "fit_threshold",
    "identification",
    "knn_accuracy",
    "knn_predictions",
    "lake_trials",
    "linear_probe",
    "load_runs",
    "load_verification",
    "map_at_r",
    "nmi",
    "one_shot",
    "open_set",
    "pair_calibration_error",
    "paired_difference",
    "pixel_features",
    "plot_map",
    "plot_pairs",
    "plot_roc",
    "print_report",
    "r_precision",
    "recall_at_k",
    "reliability",
    "result_table",
    "retrieval",
    "same_class_likeness",
    "save_verification",
    "sgd_probe",
    "verification",
    "write_projector",
    "write_report",
    "write_result",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_face(
        __name__,
        {
            "linear_eval.classify.few_labels": ("few_labels",),
            "linear_eval.classify.knn": (
                "knn_accuracy",
                "knn_predictions",
            ),
            "linear_eval.classify.probe": ("linear_probe",),
            "linear_eval.classify.result": ("LinearClassifier", "ProbeResult"),
            "linear_eval.classify.reliability": (
                "Reliability",
                "expected_calibration_error",
                "reliability",
            ),
            "linear_eval.classify.sgd_probe": ("sgd_probe",),
            "linear_eval.config": ("EvalConfig",),
            "linear_eval.evaluate": ("evaluate_run",),
            "linear_eval.evaluate_few_shot": ("evaluate_one_shot",),
            "linear_eval.evaluate_open": ("evaluate_open_set",),
            "linear_eval.features.extract": (
                "Features",
                "extract_features",
            ),
            "linear_eval.features.frozen": ("encoder_digest",),
            "linear_eval.features.pixels": ("pixel_features",),
            "linear_eval.matching.stored": ("load_verification", "save_verification"),
            "linear_eval.matching.calibration": (
                "PairCalibration",
                "Threshold",
                "fit_pair_calibration",
                "fit_threshold",
                "pair_calibration_error",
            ),
            "linear_eval.matching.few_shot": ("FewShotResult", "few_shot", "same_class_likeness"),
            "linear_eval.matching.identification": (
                "IdentificationResult",
                "OneShotResult",
                "identification",
                "one_shot",
            ),
            "linear_eval.matching.protocol": ("open_set",),
            "linear_eval.matching.retrieval": (
                "RetrievalResult",
                "map_at_r",
                "nmi",
                "r_precision",
                "recall_at_k",
                "retrieval",
            ),
            "linear_eval.matching.trials": (
                "OneShotRuns",
                "TrialsResult",
                "lake_trials",
                "load_runs",
            ),
            "linear_eval.matching.verification": (
                "VerificationResult",
                "verification",
            ),
            "linear_eval.metrics": (
                "bootstrap_interval",
                "paired_difference",
            ),
            "linear_eval.reports.closed": (
                "print_report",
                "result_table",
                "write_report",
                "write_result",
            ),
            "linear_eval.reports.embeddings": (
                "plot_map",
                "plot_pairs",
                "plot_roc",
            ),
            "linear_eval.reports.projector": ("write_projector",),
            "simclr.data.splits": (
                "ClassSplit",
                "class_disjoint_split",
            ),
        },
    )
