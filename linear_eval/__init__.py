"""From an encoder to numbers that can be trusted.

``extract_features`` runs a frozen encoder over a set once; ``linear_probe``, ``knn_accuracy`` and ``few_labels`` score
the features; ``protocol.evaluate`` does all of it for an encoder, the same encoder untrained and raw pixels.
"""

from linear_eval.config import EvalConfig
from linear_eval.features import Features, encoder_digest, extract_features, pixel_features
from linear_eval.few_labels import few_labels
from linear_eval.knn import knn_accuracy, knn_predictions
from linear_eval.metrics import bootstrap_interval, paired_difference
from linear_eval.probe import LinearClassifier, ProbeResult, linear_probe
from linear_eval.report import print_report, result_table, write_report, write_result
from linear_eval.retrieval import map_at_r, recall_at_k
from linear_eval.sgd_probe import sgd_probe
from linear_eval.verification import VerificationResult, verification

__all__ = [
    "EvalConfig",
    "Features",
    "LinearClassifier",
    "ProbeResult",
    "VerificationResult",
    "bootstrap_interval",
    "encoder_digest",
    "extract_features",
    "few_labels",
    "knn_accuracy",
    "knn_predictions",
    "linear_probe",
    "map_at_r",
    "paired_difference",
    "pixel_features",
    "print_report",
    "recall_at_k",
    "result_table",
    "sgd_probe",
    "verification",
    "write_report",
    "write_result",
]
