"""The evaluation: one encoder, the same encoder untrained, and raw pixels, through the same scores.

A number of its own says little: 0.45 on CIFAR-10 is what raw pixels give. Every score of the encoder therefore stands
beside those two, with an interval, and the result says in words how it was taken.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from linear_eval.classify.few_labels import few_labels
from linear_eval.classify.knn import knn_predictions
from linear_eval.classify.probe import linear_probe
from linear_eval.classify.result import ProbeResult
from linear_eval.classify.sgd_probe import sgd_probe
from linear_eval.config import AUTOCAST, EvalConfig
from linear_eval.features.extract import Features, check_features, extract_features
from linear_eval.features.frozen import frozen
from linear_eval.features.images import SizedImages, all_labels, image_shape
from linear_eval.features.pixels import RawPixels, affordable_size, without_fingerprints
from linear_eval.metrics import bootstrap_interval, paired_difference
from linear_eval.progress import Progress, default_device, environment
from linear_eval.protocol_words import expected_time, in_words
from linear_eval.results import (
    Accuracy,
    ClosedData,
    ClosedResult,
    ClosedRow,
    EncoderFacts,
    FewLabels,
    Gain,
    Hardware,
    Part,
)
from linear_eval.verdict import always_the_commonest, verdict
from simclr.data.near_copies import near_copies
from simclr.errors import DataError

__all__ = ["EvalConfig", "evaluate"]


def evaluate(
    encoder: nn.Module,
    untrained: nn.Module | None,
    train_set: SizedImages,
    test_set: SizedImages,
    config: EvalConfig | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    fitted: Callable[[Features, ProbeResult], None] | None = None,
) -> dict[str, Any]:
    """Score ``encoder`` beside ``untrained`` and raw pixels on a labelled training and test set.

    Args:
        encoder: images (B, C, H, W), uint8 or in [0, 1] -> (B, F).
        untrained: the same architecture with its initial weights; None leaves the row out.
        train_set: labelled images. Single images without a label are left out and counted.
        test_set: labelled images with the same meaning of the labels, none of them in ``train_set``.
        config: the protocol; the default one if None.
        device: where to run; by default CUDA where there is one.
        progress: called with one line before each part.
        fitted: called with the encoder's training features and its linear probe, once that is fitted.

    Returns:
        A JSON-able dictionary: ``rows`` ("encoder", "untrained", "raw pixels"), each with ``linear``, ``knn`` and
        ``few_labels``; ``comparison`` of the encoder with each other row on the same test images; ``protocol`` in
        words; ``config``, ``data``, ``encoder``, ``versions``, ``hardware`` and ``seconds``.

    Raises:
        DataError: a set without labels, fewer than two classes, none of the test set's among those of the training set,
            features that are not finite.
        RuntimeError: the encoder changed its own state.
    """
    config = EvalConfig() if config is None else config
    device = default_device(device)
    for name, images in (("training", train_set), ("test", test_set)):
        labels = all_labels(images)
        if len(images) == 0 or (labels is not None and (labels < 0).all()):
            raise DataError(f"the {name} set has {len(images)} images and no labels: evaluation needs a labelled set")
    known = [all_labels(images) for images in (train_set, test_set)]
    if known[0] is not None and known[1] is not None:
        _refuse_other_classes(known[0], known[1], _class_names(train_set))
    began = time.perf_counter()
    encoders: dict[str, nn.Module] = {"encoder": encoder}
    if untrained is not None:
        encoders["untrained"] = untrained
    encoders["raw pixels"] = raw = RawPixels(config.pixel_size)
    digests: dict[str, str] = {}
    rows: dict[str, ClosedRow] = {}
    answers: dict[str, dict[str, np.ndarray]] = {}
    counts: dict[str, int] = {}
    scored: _Scored | None = None
    took: dict[str, tuple[float, int]] = {}
    for name, module in encoders.items():
        if module is raw:
            raw.bound = affordable_size(
                config.pixel_size, image_shape(train_set), rows["encoder"].features, len(train_set)
            )
        with frozen(module) as digests[name]:  # one proof for all that is scored in this row
            rows[name], answers[name], counts, scored = _score(
                name, module, train_set, test_set, config, device, progress, took, fitted if module is encoder else None
            )
    assert scored is not None
    run_on = environment(device)
    comparison = {f"encoder - {name}": _compare(rows, answers, name, config) for name in rows if name != "encoder"}
    commonest = always_the_commonest(scored.train, scored.test, resamples=config.resamples, seed=config.seed)
    return ClosedResult(
        rows=rows,
        commonest=commonest,
        comparison=comparison,
        verdict=verdict(rows, comparison, commonest),
        protocol=in_words(config, counts, raw.bound),
        config=config,
        data=_describe(train_set, test_set, counts, scored.near_copies),
        encoder=EncoderFacts(
            sha256=digests["encoder"],
            features=rows["encoder"].features,
            parameters=sum(p.numel() for p in encoder.parameters()),
        ),
        versions=run_on["versions"],
        hardware=Hardware(**run_on["hardware"]),
        seconds=round(time.perf_counter() - began, 2),
    ).to_dict()


MOST_PAIRS = 2_000_000_000
"""Training images times test images up to which near-copies are looked for: half a minute on a processor."""


class _Scored(NamedTuple):
    """Labels (N,) of the training and (M,) of the test images, and how many of these have a near-copy in training."""

    train: Tensor
    test: Tensor
    near_copies: int | None


def _score(
    name: str,
    encoder: nn.Module,
    train_set: SizedImages,
    test_set: SizedImages,
    config: EvalConfig,
    device: torch.device,
    progress: Progress | None,
    took: dict[str, tuple[float, int]],
    fitted: Callable[[Features, ProbeResult], None] | None,
) -> tuple[ClosedRow, dict[str, np.ndarray], dict[str, int], "_Scored"]:
    """One row of the table, the right and wrong answers on the test images, how many images there were, and what they are."""
    show: Progress = progress if progress is not None else lambda _: None
    began = time.perf_counter()
    show(f"{name}: features of {len(train_set)} training and {len(test_set)} test images")
    raw = encoder if isinstance(encoder, RawPixels) else None
    autocast = AUTOCAST[config.precision] if raw is None else None
    if raw is not None:  # near-copies are looked for in the same pass over the images
        raw.with_fingerprints = len(train_set) * len(test_set) <= MOST_PAIRS
    train, test = (
        extract_features(encoder, images, config.batch_size, device, workers=config.workers, autocast=autocast)
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
    _refuse_other_classes(train.y, test.y, _class_names(train_set))
    linear: ProbeResult
    if config.probe == "sgd":
        linear = sgd_probe(
            encoder,
            train_set,
            test_set,
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
        show(
            f"{name}: linear probe, {len(config.strengths)} strengths{expected_time(took, train.x.shape[1], len(train))}"
        )
        fit_began = time.perf_counter()
        linear = linear_probe(
            train, test, config.strengths, config.seed, config.validation, device, resamples=config.resamples
        )
        took[name] = time.perf_counter() - fit_began, train.x.shape[1]
    if fitted is not None:
        fitted(train, linear)
    show(f"{name}: nearest neighbours")
    knn = (knn_predictions(train, test, config.knn_k, config.knn_temperature, device) == test.y).numpy()
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
    return row, {"linear": linear.correct.numpy(), "knn": knn}, counts, _Scored(train.y, test.y, copies)


def _class_names(images: SizedImages) -> tuple[str, ...]:
    return tuple(str(name) for name in getattr(images, "classes", ()))


def _refuse_other_classes(train: Tensor, test: Tensor, names: tuple[str, ...]) -> None:
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


def _compare(
    rows: dict[str, ClosedRow], answers: dict[str, dict[str, np.ndarray]], other: str, config: EvalConfig
) -> dict[str, Gain]:
    """The encoder minus another row: on the same test images, and on the same draws of few labels."""
    found: dict[str, Gain] = {}
    for measure, mine in answers["encoder"].items():
        pair = paired_difference(mine, answers[other][measure], resamples=config.resamples, seed=config.seed)
        found[measure] = Gain(**pair)
    theirs = rows[other].few_labels or {}
    for setting, score in (rows["encoder"].few_labels or {}).items():
        gains = np.subtract(score.accuracies, theirs[setting].accuracies)
        found[setting] = Gain(
            difference=float(gains.mean()),
            std=float(gains.std(ddof=1)) if len(gains) > 1 else 0.0,
            draws_won=int((gains > 0).sum()),
        )
    return found


def _describe(train_set: SizedImages, test_set: SizedImages, counts: dict[str, int], copies: int | None) -> ClosedData:
    def part(images: SizedImages, name: str) -> Part:
        return Part(
            name=str(getattr(images, "name", type(images).__name__)),
            images=counts[name],
            without_label_left_out=counts[name] - counts[f"{name} labelled"],
        )

    return ClosedData(
        train=part(train_set, "train"),
        test=replace(part(test_set, "test"), near_copies=copies),
        classes=_class_names(train_set),
    )
