"""The score of a fine-tuned network, beside the same network from scratch and a linear probe of the encoder as it was.

The test images are scored once, by the weights at the end of training. Validation images, which came out of the training
images, set the temperature that makes the probabilities true (Guo et al. 2017); nothing is chosen on test images.
"""

from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn
from torch.nn import functional as F

from linear_eval.classify.probe import ProbeResult, linear_probe, score_predictions
from linear_eval.classify.reliability import reliability
from linear_eval.features.extract import Features, extract_features
from linear_eval.features.frozen import frozen
from linear_eval.metrics import mean_interval, paired_difference
from linear_eval.progress import Progress, default_device, environment, name_files, told
from linear_eval.reports.finetuned import print_finetuned, write_finetuned
from linear_eval.scored_run import data_of_run, seen_in_training
from simclr import load_encoder
from simclr.config import TrainConfig
from simclr.data import ImageSet, load_source, place, with_targets
from simclr.errors import CheckpointError
from simclr.exchange.classifier import Classifier, load_classifier, save_temperature
from simclr.exchange.encoder import Encoder, find_encoder
from simclr.exchange.imported import start_from
from simclr.finetune import from_scratch
from simclr.model.contrastive import build_model

__all__ = ["evaluate_finetuned", "fit_temperature"]

_BATCH = 256


def evaluate_finetuned(config: TrainConfig) -> dict[str, Any]:
    """Score the finished run of ``config``, and its run from scratch where there is one; print and write what was found.

    Returns:
        A JSON-able dictionary: ``rows`` ("fine-tuned", "from scratch", "linear probe") with accuracy, interval, per-class
        accuracy, confusion, calibration error (before and after the temperature); for numbers with mean absolute error,
        interval and R². Also ``comparison``, paired over the same test images, ``protocol`` in words, ``data``.
    """
    parts = {split: _images(config, split) for split in ("train", "validation", "test") if _exists(config, split)}
    device = default_device()
    console = Console(stderr=True)
    numbers = config.objective.reads_numbers
    rows: dict[str, dict[str, Any]] = {}
    answers: dict[str, np.ndarray] = {}
    runs = {"fine-tuned": config.run_dir}
    if config.train.scratch and (from_scratch(config).run_dir / "encoder" / "head.json").exists():
        runs["from scratch"] = from_scratch(config).run_dir
    with told(console) as say:
        for name, folder in runs.items():
            say(f"{name}: {len(parts['test'])} test images")
            classifier = load_classifier(folder).to(device)
            score = _score_numbers if numbers else _score_classes
            rows[name], answers[name] = score(classifier, folder, parts, device)
        if config.encoder.init is not None or config.encoder.pretrained:
            rows["linear probe"], answers["linear probe"] = _probe(config, parts, device, say)
    result = {
        "kind": "regression" if numbers else "classification",
        "rows": rows,
        "comparison": {
            f"fine-tuned - {other}": _compare(answers["fine-tuned"], answers[other], numbers)
            for other in rows
            if other != "fine-tuned"
        },
        "protocol": _in_words(config, parts, rows),
        "data": {split: len(images) for split, images in parts.items()}
        | {
            "name": parts["test"].name,
            "classes": list(parts["train"].classes),
            "trained_on": _seen_before(config, parts["test"]),
        },
        "started_from": config.encoder.init or f"timm's weights of {config.encoder.name}",
        **environment(device),
    }
    print_finetuned(result)
    name_files(console, write_finetuned(result, config.run_dir))
    return result


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T > 0 of the least cross-entropy of ``logits`` (N, C) / T against ``labels`` (N,): Guo et al. 2017, eq. 9.

    Cross-entropy is convex in 1 / T; the minimum is found by bisection of its slope, in [1/100, 100]. Where every label
    has the highest logit there is none, any more certainty is better: T is 1 then, since nothing was learned of it.

    >>> sure_and_right_half_the_time = torch.tensor([[10.0, 0.0]] * 4)
    >>> fit_temperature(sure_and_right_half_the_time, torch.tensor([0, 1, 0, 1])) > 50
    True
    """
    logits = logits.double()
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    if bool((own == logits.max(1).values).all()):
        return 1.0
    low, high = 0.01, 100.0  # of 1 / T
    for _ in range(60):
        middle = (low * high) ** 0.5
        slope = ((logits * (middle * logits).softmax(1)).sum(1) - own).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 1 / (low * high) ** 0.5


def _seen_before(config: TrainConfig, test: ImageSet) -> int | None:
    """How many of the test images the encoder was pretrained on; None where its run is not known."""
    init = config.encoder.init
    if init is None or not Path(init).exists():
        return None
    try:
        return seen_in_training(data_of_run(find_encoder(Path(init))), test)
    except CheckpointError:  # a file of another library
        return None


def _exists(config: TrainConfig, split: str) -> bool:
    return split != "validation" or config.data.validation > 0


def _images(config: TrainConfig, split: Any) -> ImageSet:
    images = with_targets(load_source(config.data, split), config.objective)
    return place(images, torch.device("cpu"), config.data.device_resident)


class _Embedding(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.embed(images)


def _score_classes(
    classifier: Classifier, folder: Path, parts: dict[str, ImageSet], device: torch.device
) -> tuple[dict[str, Any], np.ndarray]:
    embedding = _Embedding(classifier)
    with frozen(embedding):
        z = {split: extract_features(embedding, images, _BATCH, device) for split, images in parts.items()}
    with torch.no_grad():
        logits = {split: classifier.objective.scores(f.x.to(device)) for split, f in z.items()}
    if logits["test"] is None:  # triplet, margin, ...: a linear classifier reads the embeddings
        probe = linear_probe(z["train"], z["test"], device=device)
        return _row(probe, _probabilities(probe, z["test"]), None), probe.correct.numpy()
    temperature = None
    if "validation" in logits and logits["validation"] is not None:
        temperature = fit_temperature(logits["validation"].cpu(), z["validation"].y)
        save_temperature(folder, temperature)
    scores = logits["test"].cpu()
    found = score_predictions(scores.argmax(1), z["test"].y, z["train"].y, chosen=None)
    known = z["test"].y < scores.shape[1]
    return _row(found, (scores[known], z["test"].y[known]), temperature), found.correct.numpy()


def _row(found: ProbeResult, scored: tuple[Tensor, Tensor], temperature: float | None) -> dict[str, Any]:
    """What is said of a classifier: ``scored`` are its logits (N, C) and the labels (N,), as columns of them."""
    logits, labels = scored
    row = {
        key: value
        for key, value in found.to_dict().items()
        if key in ("accuracy", "interval", "classes", "per_class", "confusion", "unseen_classes")
    }
    row["balanced_accuracy"] = float(np.nanmean(found.per_class))
    row["cross_entropy"] = F.cross_entropy(logits, labels).item()
    row["calibration_error"] = reliability(logits.softmax(1), labels).error
    if temperature is not None:
        calibrated = logits / temperature
        row["temperature"] = temperature
        row["cross_entropy_calibrated"] = F.cross_entropy(calibrated, labels).item()
        row["calibration_error_calibrated"] = reliability(calibrated.softmax(1), labels).error
    return row


def _probabilities(probe: ProbeResult, test: Features) -> tuple[Tensor, Tensor]:
    assert probe.classifier is not None
    known = torch.isin(test.y, probe.classifier.classes)
    return probe.classifier.logits(test.x[known]), torch.searchsorted(probe.classifier.classes, test.y[known])


def _score_numbers(
    classifier: Classifier, folder: Path, parts: dict[str, ImageSet], device: torch.device
) -> tuple[dict[str, Any], np.ndarray]:
    z = extract_features(_Embedding(classifier), parts["test"], _BATCH, device)
    with torch.no_grad():
        predicted = classifier.objective.numbers(z.x.to(device))
    assert predicted is not None
    return _number_row(predicted.cpu().double().numpy(), _targets(parts["test"]))


def _number_row(predicted: np.ndarray, target: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    error = np.abs(predicted - target)
    spread = float(((target - target.mean()) ** 2).sum())
    row = {
        "mean_absolute_error": float(error.mean()),
        "interval": list(mean_interval(error)),
        "r_squared": float(1 - ((predicted - target) ** 2).sum() / spread) if spread else None,
        "error_of_the_mean": float(np.abs(target - target.mean()).mean()),
    }
    return row, error


def _targets(images: ImageSet) -> np.ndarray:
    values = images.values if images.labels is None else images.labels
    assert values is not None
    return values.double().numpy()


def _probe(
    config: TrainConfig, parts: dict[str, ImageSet], device: torch.device, say: Progress
) -> tuple[dict[str, Any], np.ndarray]:
    """A linear classifier (or ridge regression) on the features of the encoder before fine-tuning."""
    say("linear probe of the encoder as it was")
    encoder = _start(config).to(device)
    with frozen(encoder):
        test = extract_features(encoder, parts["test"], _BATCH, device)
        # Validation images too: the probe holds out its own, and gets no fewer labels than fine-tuning did.
        known = [extract_features(encoder, parts[s], _BATCH, device) for s in ("train", "validation") if s in parts]
    x = torch.cat([f.x for f in known])
    if config.objective.reads_numbers:
        target = np.concatenate([_targets(parts[s]) for s in ("train", "validation") if s in parts])
        mean, scale = x.mean(0), x.std(0).clamp_min(1e-8)
        ridge = RidgeCV(alphas=np.logspace(-2, 6, 17)).fit(((x - mean) / scale).double().numpy(), target)
        predicted = ridge.predict(((test.x - mean) / scale).double().numpy())
        return _number_row(predicted, _targets(parts["test"]))
    train = Features(x, torch.cat([f.y for f in known]), torch.arange(len(x)))
    found = linear_probe(train, test, device=device)
    return _row(found, _probabilities(found, test), None), found.correct.numpy()


def _start(config: TrainConfig) -> Encoder:
    """The encoder that fine-tuning started from, in eval mode."""
    init, augment = config.encoder.init, config.augment
    if init is not None and (Path(init).is_dir() or Path(init).name.startswith("encoder.")):
        return load_encoder(init)
    backbone = build_model(replace(config, encoder=replace(config.encoder, frozen_layers=0))).backbone
    if init is not None:
        start_from(backbone, config.encoder)
    return Encoder(backbone, size=augment.size, mean=augment.mean, std=augment.std).eval()


def _compare(mine: np.ndarray, other: np.ndarray, numbers: bool) -> dict[str, Any]:
    if not numbers:
        pair = paired_difference(mine, other)
        return {**pair, "interval": list(pair["interval"])}
    gain = other - mine
    return {"difference": float(gain.mean()), "interval": list(mean_interval(gain))}


def _in_words(config: TrainConfig, parts: dict[str, ImageSet], rows: Container[str]) -> dict[str, str]:
    labels = f"{len(parts['train'])} images trained on" + (
        f", {len(parts['validation'])} kept from them for validation" if "validation" in parts else ""
    )
    words = {
        "labels": f"{labels}; {100 * config.data.label_fraction:g} % of every class's labels, split seed "
        f"{config.data.split_seed}",
        "test": f"{len(parts['test'])} test images, each whole and once, by the weights after the last of "
        f"{config.train.epochs} epochs" + (", averaged" if config.ema else ""),
        "interval": "95 % bootstrap over test images",
    }
    others = {
        "from scratch": "the same network, images and recipe from random weights, without layer decay or a head's phase",
        "linear probe": "on the features of the encoder before fine-tuning, fitted on training and validation images",
    }
    words |= {name: said for name, said in others.items() if name in rows}
    if not config.objective.reads_numbers:
        words["calibration"] = (
            "expected calibration error over 15 bins of confidence (Guo et al. 2017), before and after dividing the logits by "
            "the temperature that minimises cross-entropy on the validation images"
        )
    return words
