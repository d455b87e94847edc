"""A linear classifier on features, and its score on a test set, by whatever protocol it was fitted."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from linear_eval.features.numbers import Listed, as_numbers
from linear_eval.features.rows import parts_of
from linear_eval.metrics import (
    balanced_accuracy,
    bootstrap_interval,
    confusion_matrix,
    per_class_accuracy,
    per_class_precision,
)
from linear_eval.written import LEFT_OUT, Written

__all__ = ["LinearClassifier", "ProbeResult", "ProbeScore", "score_predictions"]


@dataclass(frozen=True)
class LinearClassifier:
    """A linear classifier on features: standardise, multiply, add."""

    weight: Tensor
    """(C, F) float32, on standardised features."""

    bias: Tensor
    """(C,) float32."""

    mean: Tensor
    """(F,) float32, of the training features."""

    scale: Tensor
    """(F,) float32: their standard deviation, 1 for a constant feature."""

    classes: Tensor
    """(C,) int64: label of each row of ``weight``."""

    def logits(self, x: Annotated[Tensor, "N F"] | Listed) -> Annotated[Tensor, "float32 N C"]:
        """Logits (N, C) float32 of features x (N, F): a tensor, an array or a list, of any type of numbers."""
        x = as_numbers(x, "features").to(self.weight.dtype)
        return ((x - self.mean) / self.scale) @ self.weight.t() + self.bias

    def predict(self, x: Annotated[Tensor, "N F"] | Listed) -> Annotated[Tensor, "int64 N"]:
        """Labels (N,) int64 of features x (N, F)."""
        labels = [self.classes[self.logits(part).argmax(1)] for _, part in parts_of(as_numbers(x, "features"))]
        return torch.cat(labels) if labels else self.classes[:0]


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """The score of a probe on the test set, and how it came about."""

    accuracy: float
    """Share of the test images that were recognised."""

    interval: tuple[float, float]
    """95 % bootstrap interval of the accuracy, over test images."""

    balanced: float
    """Mean over the classes with test images of the share that was recognised."""

    balanced_interval: tuple[float, float]
    """95 % bootstrap interval of ``balanced``, over test images."""

    classes: tuple[int, ...]
    """Labels that occur in training or test, sorted; ``per_class`` and ``confusion`` are in this order."""

    per_class: tuple[float, ...]
    """Accuracy of each class; NaN where the test set has no image of it."""

    confusion: Tensor
    """(C, C) int64: row the true class, column the predicted one."""

    unseen: tuple[int, ...]
    """Classes of the test set without a training image. Their images count as wrong."""

    predictions: Tensor
    """(N,) int64: the predicted label of every test image."""

    correct: Tensor
    """(N,) bool: whether it was right; pair two of these with ``metrics.paired_difference``."""

    chosen: float | None
    """The strength chosen on held-out training images; None for a protocol without one."""

    strengths: tuple[float, ...] = ()
    """The strengths that were tried."""

    validation: tuple[float, ...] = ()
    """Held-out accuracy of each strength; empty when nothing could be held out."""

    held_out: int = 0
    """Training images held out for the choice."""

    train_accuracy: float = float("nan")
    """Share of the training images that the final classifier recognises."""

    objective: float = float("nan")
    """Value of the objective on the training set, see ``linear_eval.classify.logistic``."""

    converged: bool = True
    """Whether the final fit reached its tolerance."""

    classifier: LinearClassifier | None = None
    """The classifier itself."""

    def score(self) -> "ProbeScore":
        """What goes into ``result.json``: everything but the tensors of a size with the set."""
        return ProbeScore(
            accuracy=self.accuracy,
            interval=self.interval,
            balanced_accuracy=self.balanced,
            balanced_interval=self.balanced_interval,
            classes=self.classes,
            precision=_written(per_class_precision(self.confusion)),
            support=tuple(self.confusion.sum(1).tolist()),
            per_class=_written(self.per_class),
            confusion=tuple(map(tuple, self.confusion.tolist())),
            unseen_classes=self.unseen,
            strength=self.chosen,
            strengths=self.strengths,
            validation_accuracy=self.validation,
            held_out=self.held_out,
            train_accuracy=None if self.train_accuracy != self.train_accuracy else self.train_accuracy,
            converged=self.converged,
        )

    def to_dict(self) -> dict[str, Any]:
        """``score`` as plain JSON types."""
        return self.score().to_dict()


@dataclass(frozen=True, kw_only=True)
class ProbeScore(Written):
    """A ``ProbeResult`` as it is written."""

    accuracy: float
    interval: tuple[float, float]

    balanced_accuracy: float | None = field(default=None, metadata=LEFT_OUT)
    """Mean of ``per_class`` over the classes with test images; None in what was written before there was one."""

    balanced_interval: tuple[float, float] | None = field(default=None, metadata=LEFT_OUT)
    classes: tuple[int, ...] = ()

    per_class: tuple[float | None, ...] = ()
    """Share of each class's test images that was recognised (recall); None where the test set has no image of the class."""

    precision: tuple[float | None, ...] = ()
    """Share of what was taken for each class that is of it; None where nothing was taken for it."""

    support: tuple[int, ...] = ()
    """Test images of each class."""

    confusion: tuple[tuple[int, ...], ...] = ()
    unseen_classes: tuple[int, ...] = ()

    strength: float | None = None
    """The one that was chosen; None for a protocol without one."""

    strengths: tuple[float, ...] = ()

    validation_accuracy: tuple[float, ...] = ()
    """Of each strength."""

    held_out: int = 0
    train_accuracy: float | None = None
    converged: bool = True


def _written(values: tuple[float, ...]) -> tuple[float | None, ...]:
    return tuple(None if value != value else value for value in values)


def score_predictions(
    predictions: Tensor, truth: Tensor, train_labels: Tensor, *, resamples: int = 10_000, seed: int = 0, **rest: Any
) -> ProbeResult:
    """A ``ProbeResult`` from predicted and true labels (N,); ``train_labels`` are those the classifier knows."""
    known = train_labels.unique()
    classes = torch.cat([known, truth]).unique()
    correct = predictions == truth
    confusion = confusion_matrix(truth, predictions, classes)
    balanced, balanced_interval = balanced_accuracy(
        confusion.diagonal().numpy(), confusion.sum(1).numpy(), resamples=resamples, seed=seed
    )
    return ProbeResult(
        accuracy=correct.double().mean().item(),
        interval=bootstrap_interval(correct.numpy(), resamples=resamples, seed=seed),
        balanced=balanced,
        balanced_interval=balanced_interval,
        classes=tuple(classes.tolist()),
        per_class=per_class_accuracy(confusion),
        confusion=confusion,
        unseen=tuple(sorted(set(truth.tolist()) - set(known.tolist()))),
        predictions=predictions,
        correct=correct,
        **rest,
    )
