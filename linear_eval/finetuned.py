"""The score of a fine-tuned network, beside the same network from scratch and a linear probe of the encoder as it was.

The test images are scored once, by the weights at the end of training. Validation images, which came out of the training
images, set the temperature that makes the probabilities true (Guo et al. 2017); nothing is chosen on test images.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linear_eval.answers import Answers, certainty_of
from linear_eval.classify.certainty import certainty, fit_temperature
from linear_eval.classify.probe import linear_probe
from linear_eval.classify.result import ProbeResult, score_predictions
from linear_eval.features.extract import Features, extract_features
from linear_eval.features.frozen import frozen
from linear_eval.features.naming import Names, Naming
from linear_eval.finetuned_words import finetuning_in_words
from linear_eval.metrics import mean_interval, paired_difference
from linear_eval.progress import Progress, default_device, environment, name_files, showing_progress
from linear_eval.reports.finetuned import print_finetuned, write_finetuned
from linear_eval.results import (
    ClassRow,
    FinetunedClasses,
    FinetunedData,
    FinetunedNumbers,
    FinetunedResult,
    Gain,
    Hardware,
    NumberRow,
)
from linear_eval.scored_run import ScoredRun
from linear_eval.sharing import placed
from linear_eval.verdict import always_the_commonest
from simclr import load_encoder
from simclr.config import TrainConfig
from simclr.data import ImageSet, load_source, with_targets
from simclr.data.decode import Reader
from simclr.data.sources import has_validation
from simclr.errors import CheckpointError
from simclr.exchange.classifier import Classifier, load_classifier, save_temperature
from simclr.exchange.encoder import Encoder
from simclr.exchange.imported import start_from
from simclr.finetune import from_scratch
from simclr.model.contrastive import build_model
from simclr.progress import terminal
from simclr.run.division import kept_parts

__all__ = ["evaluate_finetuned"]

_BATCH = 256

Row = ClassRow | NumberRow


def evaluate_finetuned(config: TrainConfig) -> dict[str, Any]:
    """Score the finished run of ``config``, and its run from scratch where there is one; print and write what was found.

    Returns:
        A JSON-able dictionary: ``rows`` ("fine-tuned", "from scratch", "linear probe") with accuracy, interval, per-class
        accuracy, confusion, calibration error (before and after the temperature); for numbers with mean absolute error,
        interval and R². Also ``comparison``, paired over the same test images, ``protocol`` in words, ``data``.
    """
    parts = {split: _images(config, split) for split in ("train", "validation", "test") if _exists(config, split)}
    device = default_device()
    console = terminal()
    numbers = config.objective.reads_numbers
    rows: dict[str, Row] = {}
    answers: dict[str, np.ndarray] = {}
    runs = {"fine-tuned": config.run_dir}
    if config.train.scratch and (from_scratch(config).run_dir / "encoder" / "head.json").exists():
        runs["from scratch"] = from_scratch(config).run_dir
    said = Answers()
    with showing_progress(console) as progress:
        for name, folder in runs.items():
            progress(f"{name}: {len(parts['test'])} test images")
            classifier = load_classifier(folder).to(device)
            sigmoids = classifier.objective.sigmoids
            if numbers:
                rows[name], answers[name] = _score_numbers(classifier, parts, device, config.data.workers)
                continue
            rows[name], found = _score_classes(classifier, folder, parts, device, config.data.workers, said)
            answers[name] = found.correct.numpy()
            said.add("class", name, found.predictions)
        if config.encoder.init is not None or config.encoder.pretrained:
            rows["linear probe"], answers["linear probe"] = _probe(config, parts, device, progress, said)
    run_on = environment(device)
    labels = [parts[split].labels for split in ("train", "test")]
    schema: Any = FinetunedNumbers
    if not numbers:
        assert labels[0] is not None and labels[1] is not None
        schema = partial(FinetunedClasses, commonest=always_the_commonest(labels[0], labels[1]))
    result: FinetunedResult = schema(
        kind="regression" if numbers else "classification",
        rows=rows,
        comparison={
            f"fine-tuned - {other}": _compare(answers["fine-tuned"], answers[other], numbers)
            for other in rows
            if other != "fine-tuned"
        },
        protocol=finetuning_in_words(config, parts, rows, sigmoids),
        data=FinetunedData(
            **{split: len(images) for split, images in parts.items()},
            name=parts["test"].name,
            classes=tuple(parts["train"].classes),
            trained_on=_pretrained_on(config, parts["test"]),
        ),
        started_from=config.encoder.init or f"timm's weights of {config.encoder.name}",
        versions=run_on["versions"],
        hardware=Hardware(**run_on["hardware"]),
    )
    print_finetuned(result)
    written = write_finetuned(result, config.run_dir)
    if not numbers:
        names = Names(Naming(root=config.data.path, parts=(("test", len(parts["test"])),)), parts["test"])
        written.append(said.write(config.run_dir, names, parts["train"].classes))
    name_files(console, written)
    return result.to_dict()


def _pretrained_on(config: TrainConfig, test: ImageSet) -> int | None:
    """How many of the test images the encoder was pretrained on; None where its run is not known."""
    init = config.encoder.init
    if init is None or not (Path(init).is_dir() or Path(init).name.startswith("encoder.")):
        return None  # a file of another library
    try:
        return ScoredRun.at(init).count_trained_on(test)
    except CheckpointError:  # what is gone since
        return None


def _exists(config: TrainConfig, split: str) -> bool:
    return split != "validation" or has_validation(config.data)


def _images(config: TrainConfig, split: Any) -> ImageSet:
    images = with_targets(load_source(config.data, split, kept_parts(config)), config.objective)
    return placed(images, config.data.device_resident, _BATCH)[0]


class _Embedding(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.embed(images)


def _score_classes(
    classifier: Classifier,
    folder: Path,
    parts: dict[str, ImageSet],
    device: torch.device,
    workers: int,
    said: Answers,
) -> tuple[ClassRow, ProbeResult]:
    embedding = _Embedding(classifier)
    with frozen(embedding):
        z = {s: extract_features(embedding, one, _BATCH, device, workers=workers) for s, one in parts.items()}
    with torch.no_grad():
        logits = {split: classifier.objective.scores(f.x.to(device)) for split, f in z.items()}
    if logits["test"] is None:  # triplet, margin, ...: a linear classifier reads the embeddings
        probe = linear_probe(z["train"], z["test"], device=device)
        said.take(z["test"].y, z["test"].index, certainty_of(probe, z["test"].x, z["test"].y))
        return _row(probe, _probabilities(probe, z["test"]), None), probe
    sigmoids, temperature = classifier.objective.sigmoids, None
    # A temperature divides the logits of a softmax; sigmoids of their own are given as they are.
    if not sigmoids and "validation" in logits and logits["validation"] is not None:
        temperature = fit_temperature(logits["validation"].cpu(), z["validation"].y)
        save_temperature(folder, temperature)
    scores = logits["test"].cpu()
    found = score_predictions(scores.argmax(1), z["test"].y, z["train"].y, chosen=None)
    known = z["test"].y < scores.shape[1]
    scored = scores[known], z["test"].y[known]
    probabilities = scores.sigmoid() if sigmoids else (scores / (temperature or 1.0)).softmax(1)
    true = probabilities.gather(1, z["test"].y.clamp_max(scores.shape[1] - 1)[:, None])[:, 0] * known
    said.take(z["test"].y, z["test"].index, (probabilities.amax(1), true))
    return _row(found, scored, temperature, sigmoids=sigmoids), found


def _row(
    found: ProbeResult, scored: tuple[Tensor, Tensor], temperature: float | None, *, sigmoids: bool = False
) -> ClassRow:
    """What is said of a classifier: ``scored`` are its logits (N, C) and the labels (N,), as columns of them."""
    logits, labels = scored
    score = found.score()
    entropy, error = certainty(logits, labels, sigmoids=sigmoids)
    row = ClassRow(
        accuracy=score.accuracy,
        interval=score.interval,
        classes=score.classes,
        per_class=score.per_class,
        confusion=score.confusion,
        unseen_classes=score.unseen_classes,
        balanced_accuracy=float(np.nanmean(found.per_class)),
        cross_entropy=entropy,
        calibration_error=error,
    )
    if temperature is None:
        return row
    entropy, error = certainty(logits / temperature, labels)
    return replace(row, temperature=temperature, cross_entropy_calibrated=entropy, calibration_error_calibrated=error)


def _probabilities(probe: ProbeResult, test: Features) -> tuple[Tensor, Tensor]:
    assert probe.classifier is not None
    known = torch.isin(test.y, probe.classifier.classes)
    return probe.classifier.logits(test.x[known]), torch.searchsorted(probe.classifier.classes, test.y[known])


def _score_numbers(
    classifier: Classifier, parts: dict[str, ImageSet], device: torch.device, workers: int
) -> tuple[NumberRow, np.ndarray]:
    z = extract_features(_Embedding(classifier), parts["test"], _BATCH, device, workers=workers)
    with torch.no_grad():
        predicted = classifier.objective.numbers(z.x.to(device))
    assert predicted is not None
    return _number_row(predicted.cpu().double().numpy(), _targets(parts["test"]))


def _number_row(predicted: np.ndarray, target: np.ndarray) -> tuple[NumberRow, np.ndarray]:
    error = np.abs(predicted - target)
    spread = float(((target - target.mean()) ** 2).sum())
    row = NumberRow(
        mean_absolute_error=float(error.mean()),
        interval=mean_interval(error),
        r_squared=float(1 - ((predicted - target) ** 2).sum() / spread) if spread else None,
        error_of_the_mean=float(np.abs(target - target.mean()).mean()),
    )
    return row, error


def _targets(images: ImageSet) -> np.ndarray:
    values = images.values if images.labels is None else images.labels
    assert values is not None
    return values.double().numpy()


def _probe(
    config: TrainConfig, parts: dict[str, ImageSet], device: torch.device, progress: Progress, said: Answers
) -> tuple[Row, np.ndarray]:
    """A linear classifier (or ridge regression) on the features of the encoder before fine-tuning."""
    progress("linear probe of the encoder as it was")
    encoder = _start(config).to(device)
    with frozen(encoder):
        features = partial(extract_features, batch_size=_BATCH, device=device, workers=config.data.workers)
        test = features(encoder, parts["test"])
        # Validation images too: the probe holds out its own, and gets no fewer labels than fine-tuning did.
        known = [features(encoder, parts[s]) for s in ("train", "validation") if s in parts]
    x = torch.cat([f.x for f in known])
    if config.objective.reads_numbers:
        target = np.concatenate([_targets(parts[s]) for s in ("train", "validation") if s in parts])
        mean, scale = x.mean(0), x.std(0).clamp_min(1e-8)
        from sklearn.linear_model import RidgeCV

        ridge = RidgeCV(alphas=np.logspace(-2, 6, 17)).fit(((x - mean) / scale).double().numpy(), target)
        predicted = ridge.predict(((test.x - mean) / scale).double().numpy())
        return _number_row(predicted, _targets(parts["test"]))
    groups = [f.groups for f in known if f.groups is not None]
    kept = torch.cat(groups) if len(groups) == len(known) else None
    train = Features(x, torch.cat([f.y for f in known]), torch.arange(len(x)), groups=kept)
    found = linear_probe(train, test, device=device)
    said.add("class", "linear probe", found.predictions)
    return _row(found, _probabilities(found, test), None), found.correct.numpy()


def _start(config: TrainConfig) -> Encoder:
    """The encoder that fine-tuning started from, in eval mode."""
    init, augment = config.encoder.init, config.augment
    if init is not None and (Path(init).is_dir() or Path(init).name.startswith("encoder.")):
        return load_encoder(init)
    backbone = build_model(replace(config, encoder=replace(config.encoder, frozen_layers=0))).backbone
    if init is not None:
        start_from(backbone, config.encoder, config.data.channels)
    reader = Reader(size=config.data.size, channels=config.data.channels, fit=config.data.fit)
    return Encoder(backbone, size=augment.size, mean=augment.mean, std=augment.std, reader=reader).eval()


def _compare(mine: np.ndarray, other: np.ndarray, numbers: bool) -> Gain:
    if not numbers:
        return Gain(**paired_difference(mine, other))
    gain = other - mine
    return Gain(difference=float(gain.mean()), interval=mean_interval(gain))
