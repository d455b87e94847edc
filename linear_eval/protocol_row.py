"""One row of a closed-set score: an encoder's features of the training and test images, and what classifiers read off them."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from linear_eval.classify.few_labels import few_labels
from linear_eval.classify.knn import knn_predictions
from linear_eval.classify.probe import linear_probe
from linear_eval.classify.result import ProbeResult
from linear_eval.classify.sgd_probe import sgd_probe
from linear_eval.config import AUTOCAST, EvalConfig
from linear_eval.features.extract import Features, check_features
from linear_eval.features.images import SizedImages, image_shape
from linear_eval.features.kept import Kept, features_of
from linear_eval.features.pixels import CHEAP, RawPixels, without_fingerprints
from linear_eval.metrics import bootstrap_interval
from linear_eval.progress import Progress
from linear_eval.results import Accuracy, ClosedRow, FewLabels
from simclr.data.near_copies import near_copies
from simclr.errors import DataError

__all__ = ["Answered", "Scored", "class_names", "refuse_other_classes", "score_row"]

MOST_PAIRS = 2_000_000_000
"""Training images times test images up to which near-copies are looked for: half a minute on a processor."""


class Answered(NamedTuple):
    """A row's labelled features, and what was read off them."""

    name: str
    train: Features
    test: Features
    probe: ProbeResult

    neighbours: Tensor
    """(M,) int64: the label that the nearest training images gave each test image."""


class Scored(NamedTuple):
    """Labels (N,) of the training and (M,) of the test images, and how many of these have a near-copy in training."""

    train: Tensor
    test: Tensor
    near_copies: int | None


def score_row(
    name: str,
    encoder: nn.Module,
    train_set: SizedImages,
    test_set: SizedImages,
    config: EvalConfig,
    device: torch.device,
    progress: Progress | None,
    took: dict[str, tuple[float, int]],
    answered: Callable[[Answered], None] | None = None,
    kept: Kept | None = None,
) -> tuple[ClosedRow, dict[str, np.ndarray], dict[str, int], Scored]:
    """One row of the table, the right and wrong answers on the test images, how many images there were, and what they are."""
    show: Progress = progress if progress is not None else lambda _: None
    began = time.perf_counter()
    show(f"{name}: features of {len(train_set)} training and {len(test_set)} test images")
    raw = encoder if isinstance(encoder, RawPixels) else None
    autocast = AUTOCAST[config.precision] if raw is None else None
    if raw is not None:  # near-copies are looked for in the same pass over the images
        raw.with_fingerprints = len(train_set) * len(test_set) <= MOST_PAIRS
    train, test = (
        features_of(kept, name, encoder, images, config.batch_size, device, workers=config.workers, autocast=autocast)
        for images in (train_set, test_set)
    )
    counts = {"train": len(train), "test": len(test)}
    train, test = train.subset(train.y >= 0), test.subset(test.y >= 0)
    copies = None
    if raw is not None and raw.with_fingerprints:
        (train, first), (test, second) = (
            without_fingerprints(part, image_shape(train_set)[0]) for part in (train, test)
        )
        copies = int(near_copies(first, second, device=device).copied.sum())
        raw.with_fingerprints = False
    counts |= {"train labelled": len(train), "test labelled": len(test)}
    check_features(train, "training")
    check_features(test, "test")
    refuse_other_classes(train.y, test.y, class_names(train_set))
    linear: ProbeResult
    if config.probe == "sgd":
        linear = sgd_probe(
            encoder,
            *(images if kept is None else kept.read(images) for images in (train_set, test_set)),
            epochs=config.sgd_epochs,
            batch_size=config.sgd_batch_size,
            learning_rate=config.sgd_learning_rate,
            horizontal_flip=config.sgd_flip,
            seed=config.seed,
            device=device,
            workers=config.workers,
            autocast=autocast,
            resamples=config.resamples,
            progress=lambda done, total, loss: show(f"{name}: linear probe, epoch {done} of {total}, loss {loss:.4f}"),
        )
    else:
        show(f"{name}: linear probe, {len(config.strengths)} strengths{_expected(took, train.x.shape[1], len(train))}")
        fit_began = time.perf_counter()
        linear = linear_probe(
            train, test, config.strengths, config.seed, config.validation, device, resamples=config.resamples
        )
        took[name] = time.perf_counter() - fit_began, train.x.shape[1]
    show(f"{name}: nearest neighbours")
    neighbours = knn_predictions(train, test, config.knn_k, config.knn_temperature, device)
    if answered is not None:
        answered(Answered(name, train, test, linear, neighbours))
    knn = (neighbours == test.y).numpy()
    interval = bootstrap_interval(knn, resamples=config.resamples, seed=config.seed)
    few = None
    if config.trials:
        show(f"{name}: few labels, {config.trials} draws each")
        few = _few(train, test, config, device)
    row = ClosedRow(
        features=train.x.shape[1],
        linear=linear.score(),
        knn=Accuracy(accuracy=float(knn.mean()), interval=interval),
        few_labels=few,
        seconds=round(time.perf_counter() - began, 2),
    )
    return row, {"linear": linear.correct.numpy(), "knn": knn}, counts, Scored(train.y, test.y, copies)


def class_names(images: SizedImages) -> tuple[str, ...]:
    return tuple(str(name) for name in getattr(images, "classes", ()))


def refuse_other_classes(train: Tensor, test: Tensor, names: tuple[str, ...]) -> None:
    """Refuse labels (N,) and (M,), -1 for none, that have no class in common.

    Raises:
        DataError: it gives examples of both.
    """
    sides = [set(labels[labels >= 0].tolist()) for labels in (train, test)]
    if sides[0] & sides[1]:
        return
    shown = [
        ", ".join(names[label] if label < len(names) else str(label) for label in sorted(side)[:5])
        + (", ..." if len(side) > 5 else "")
        for side in sides
    ]
    raise DataError(
        f"training has the classes {shown[0]} and the test set has {shown[1]}: none in common, so nothing could be recognised; "
        "give both parts the same class names, or compare classes that training never saw with --protocol open-set"
    )


def _expected(took: dict[str, tuple[float, int]], width: int, images: int) -> str:
    """How long a probe of so many features will take, from the seconds and width of the first; nothing where that is short.

    >>> _expected({"encoder": (41.0, 512)}, 507, 50_000), _expected({}, 507, 50_000)
    (', about 40 s', '')
    """
    if not took or width * images <= CHEAP:
        return ""
    seconds, first = next(iter(took.values()))
    expected = seconds * width / first
    return "" if expected < 5 else f", about {float(f'{expected:.1g}'):.0f} s"


def _few(train: Features, test: Features, config: EvalConfig, device: torch.device) -> dict[str, FewLabels]:
    scores = few_labels(
        train,
        test,
        config.labels_per_class,
        config.trials,
        config.seed,
        fractions=config.label_fractions,
        c=config.few_label_c,
        device=device,
    )
    return {f"{key} a class" if isinstance(key, int) else key: FewLabels(**score) for key, score in scores.items()}
