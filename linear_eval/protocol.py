"""The evaluation: one encoder, the same encoder untrained, and raw pixels, through the same scores.

A number of its own says little: 0.45 on CIFAR-10 is what raw pixels give. Every score of the encoder therefore stands
beside those two, with an interval, and the result says in words how it was taken.
"""

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from linear_eval.classify.few_labels import few_labels
from linear_eval.classify.knn import knn_predictions
from linear_eval.classify.probe import linear_probe
from linear_eval.classify.result import ProbeResult
from linear_eval.classify.sgd_probe import sgd_probe
from linear_eval.config import AUTOCAST, EvalConfig
from linear_eval.features.extract import Features, check_features, extract_features
from linear_eval.features.frozen import frozen
from linear_eval.features.images import SizedImages, all_labels
from linear_eval.features.pixels import RawPixels
from linear_eval.metrics import bootstrap_interval, paired_difference
from linear_eval.progress import Progress, default_device, environment
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

    Returns:
        A JSON-able dictionary: ``rows`` ("encoder", "untrained", "raw pixels"), each with ``linear``, ``knn`` and
        ``few_labels``; ``comparison`` of the encoder with each other row on the same test images; ``protocol`` in
        words; ``config``, ``data``, ``encoder``, ``versions``, ``hardware`` and ``seconds``.

    Raises:
        DataError: a set without labels, fewer than two classes, features that are not finite.
        RuntimeError: the encoder changed its own state.
    """
    config = EvalConfig() if config is None else config
    device = default_device(device)
    for name, images in (("training", train_set), ("test", test_set)):
        labels = all_labels(images)
        if len(images) == 0 or (labels is not None and (labels < 0).all()):
            raise DataError(f"the {name} set has {len(images)} images and no labels: evaluation needs a labelled set")
    began = time.perf_counter()
    encoders: dict[str, nn.Module] = {"encoder": encoder}
    if untrained is not None:
        encoders["untrained"] = untrained
    encoders["raw pixels"] = RawPixels(config.pixel_size)
    digests: dict[str, str] = {}
    rows: dict[str, ClosedRow] = {}
    answers: dict[str, dict[str, np.ndarray]] = {}
    counts: dict[str, int] = {}
    for name, module in encoders.items():
        with frozen(module) as digests[name]:  # one proof for all that is scored in this row
            rows[name], answers[name], counts = _score(name, module, train_set, test_set, config, device, progress)
    run_on = environment(device)
    return ClosedResult(
        rows=rows,
        comparison={f"encoder - {name}": _compare(rows, answers, name, config) for name in rows if name != "encoder"},
        protocol=_in_words(config, counts),
        config=config,
        data=_describe(train_set, test_set, counts),
        encoder=EncoderFacts(
            sha256=digests["encoder"],
            features=rows["encoder"].features,
            parameters=sum(p.numel() for p in encoder.parameters()),
        ),
        versions=run_on["versions"],
        hardware=Hardware(**run_on["hardware"]),
        seconds=round(time.perf_counter() - began, 2),
    ).to_dict()


def _score(
    name: str,
    encoder: nn.Module,
    train_set: SizedImages,
    test_set: SizedImages,
    config: EvalConfig,
    device: torch.device,
    progress: Progress | None,
) -> tuple[ClosedRow, dict[str, np.ndarray], dict[str, int]]:
    """One row of the table, the right and wrong answers on the test images, and how many images there were."""
    show: Progress = progress if progress is not None else lambda _: None
    began = time.perf_counter()
    show(f"{name}: features of {len(train_set)} training and {len(test_set)} test images")
    autocast = AUTOCAST[config.precision] if not isinstance(encoder, RawPixels) else None
    train, test = (
        extract_features(encoder, images, config.batch_size, device, workers=config.workers, autocast=autocast)
        for images in (train_set, test_set)
    )
    counts = {"train": len(train), "test": len(test)}
    train, test = train.subset(train.y >= 0), test.subset(test.y >= 0)
    counts |= {"train labelled": len(train), "test labelled": len(test)}
    check_features(train, "training")
    check_features(test, "test")
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
        show(f"{name}: linear probe, {len(config.strengths)} strengths")
        linear = linear_probe(
            train, test, config.strengths, config.seed, config.validation, device, resamples=config.resamples
        )
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
    return row, {"linear": linear.correct.numpy(), "knn": knn}, counts


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


def _in_words(config: EvalConfig, counts: dict[str, int]) -> dict[str, str]:
    """The protocol, so that a reader of the result needs no code to repeat it."""
    train, test = counts["train labelled"], counts["test labelled"]
    lbfgs = (
        "L2-regularised multinomial logistic regression (intercept not penalised) on frozen features, standardised by the mean "
        f"and deviation of the training set; {len(config.strengths)} strengths from {min(config.strengths):g} to "
        f"{max(config.strengths):g} (scikit-learn's C is 1 / (strength x N)), chosen by accuracy on "
        f"{100 * config.validation:g} % of every training class, held out in turn until 500 images were, refitted on all "
        f"{train} training images"
    )
    sgd = (
        f"a linear layer on frozen features, not standardised, trained {config.sgd_epochs} epochs on random crops "
        f"(area 0.08 to 1) and flips (p = {config.sgd_flip:g}) of {train} images by SGD: Nesterov momentum 0.9, "
        f"learning rate {config.sgd_learning_rate:g} x batch / 256 with a cosine to 0, batch {config.sgd_batch_size}, "
        "no weight decay; nothing is chosen"
    )
    words = {
        "features": f"encoder in eval mode before the projection head, {config.precision}, each image once, whole "
        "(resized and centre-cropped as the encoder's file says); parameters and buffers proven unchanged by SHA-256",
        "linear": f"{lbfgs if config.probe == 'lbfgs' else sgd}; {test} test images scored once",
        "interval": f"95 % percentile bootstrap over test images, {config.resamples} resamples",
        "knn": f"{config.knn_k} nearest training images by cosine, each voting with exp(cosine / "
        f"{config.knn_temperature:g}) (Wu et al. 2018)",
        "raw pixels": f"pixels in [0, 1], averaged down to {config.pixel_size} x {config.pixel_size} where larger",
    }
    if config.trials:
        words["few labels"] = (
            f"{config.trials} draws of labelled images, the same for every row (seed {config.seed}); features "
            f"standardised by all training images, L2-regularised logistic regression at the fixed C = "
            f"{config.few_label_c:g}; mean and standard deviation over draws"
        )
    return words


def _describe(train_set: SizedImages, test_set: SizedImages, counts: dict[str, int]) -> ClosedData:
    def part(images: SizedImages, name: str) -> Part:
        return Part(
            name=str(getattr(images, "name", type(images).__name__)),
            images=counts[name],
            without_label_left_out=counts[name] - counts[f"{name} labelled"],
        )

    return ClosedData(
        train=part(train_set, "train"),
        test=part(test_set, "test"),
        classes=tuple(str(name) for name in getattr(train_set, "classes", ())),
    )
