"""Score a run or an encoder file: the table on the screen, ``result.json`` and two pictures beside the encoder."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from linear_eval.answers import Answers, certainty_of
from linear_eval.beside import Beside
from linear_eval.classify.held_out import held_out_temperature
from linear_eval.classify.result import ProbeResult
from linear_eval.classify.saved_probe import SavedProbe, write_probe
from linear_eval.config import EvalConfig
from linear_eval.features.extract import Features
from linear_eval.features.naming import Names, Naming
from linear_eval.progress import print_line, showing_progress
from linear_eval.protocol import evaluate
from linear_eval.protocol_numbers import evaluate_numbers
from linear_eval.protocol_row import Answered
from linear_eval.reports.closed import print_report, write_report
from linear_eval.reports.numbers import print_numbers, write_numbers
from linear_eval.scored_run import ScoredRun, all_of_training
from linear_eval.scoring import Scoring
from simclr.commands import command
from simclr.config import DataConfig
from simclr.data import ImageSet, load_source
from simclr.errors import ConfigError, DataError
from simclr.progress import terminal

__all__ = ["evaluate_run"]

PARTS: tuple[Literal["train", "test"], ...] = ("train", "test")


def evaluate_run(
    path: ScoredRun | Path | str,
    data: DataConfig | None = None,
    config: EvalConfig | None = None,
    *,
    tensorboard: bool = False,
    save_probe: bool = False,
    beside: Sequence[Beside | ScoredRun | Path | str] = (),
) -> dict[str, Any]:
    """Score the encoder at ``path`` beside the same encoder untrained and raw pixels, and write what was found.

    Args:
        path: a run, or whatever else ``simclr.load_encoder`` takes.
        data: labelled images to score on; the run's own if None.
        config: the protocol; ``ScoredRun.default_protocol`` if None.
        tensorboard: also write the test images under every checkpoint for TensorBoard's projector.
        save_probe: also write the encoder's linear probe beside the report, with the temperature that held-out training
            images give it, for ``predict_run``.
        beside: further encoders, each a row of its own: the same images in the same parts, each fed as it was trained.

    Returns:
        What ``linear_eval.evaluate`` returns, or of images with a number each ``NumbersResult`` as a dictionary.
        It is also written, with two pictures, to ``ScoredRun.report_folder``.

    Raises:
        CheckpointError: no encoder there, or not all of it.
        DataError: images without labels, or none.
        ConfigError: ``save_probe`` of images with a number each.
        MissingExtraError: ``tensorboard``, and it is not installed.
    """
    scoring = Scoring.begin(path, data, config, tensorboard, beside)
    if save_probe and scoring.run.given is not None:
        raise ConfigError(
            f"--save-probe is for a run that has finished, or an encoder's folder, beside which predict.py finds it; "
            f"{scoring.run.name} is none: leave it out, or fine-tune from it with {command('finetune')}"
        )
    train, test = _two_parts(scoring, scoring.data, scoring.run)
    encoder, untrained = scoring.encoders["encoder"], scoring.encoders["untrained"]
    further = {one.name: (one.encoder, _fed(scoring, one)) for one in scoring.beside}
    if train.labels is None or test.labels is None:
        if save_probe:
            raise ConfigError(
                f"--save-probe writes a classifier, and the images of {train.name} have numbers; leave it out"
            )
        with showing_progress(scoring.console) as progress:
            score, truth, predicted = evaluate_numbers(
                encoder, untrained, train, test, scoring.config, progress=progress, beside=further, kept=scoring.kept
            )
        score["data"]["test"]["trained_on"] = scoring.run.count_trained_on(test.labelled())
        print_numbers(score)
        scoring.end(write_numbers(score, truth, predicted, scoring.report_folder), test.labelled())
        return score
    probes: list[SavedProbe] = []
    answers = Answers()
    fed = scoring.run.size or scoring.run.description.size
    with showing_progress(scoring.console) as progress:

        def keep(row: Answered) -> None:
            answers.add("linear", row.name, row.probe.predictions)
            answers.add("kNN", row.name, row.neighbours)
            if row.name != "encoder":
                return
            answers.take(row.test.y, row.test.index, certainty_of(row.probe, row.test.x, row.test.y))
            if save_probe:
                progress("encoder: temperature of the linear probe on held-out training images")
                probes.append(_calibrated(row.train, row.probe, train, scoring.config, fed))

        result = evaluate(
            encoder,
            untrained,
            train,
            test,
            scoring.config,
            progress=progress,
            beside=further,
            answered=keep,
            kept=scoring.kept,
        )
    result["data"]["test"]["trained_on"] = scoring.run.count_trained_on(test.labelled())
    print_report(result)
    files = write_report(result, scoring.report_folder)
    naming = Naming(root=scoring.data.path, parts=(("test", len(test)),))
    files.append(answers.write(scoring.report_folder, Names(naming, test), train.classes))
    for probe in probes:
        files += write_probe(replace(probe, encoder=result["encoder"]["sha256"]), scoring.report_folder)
    scoring.end(files, test.labelled())
    return result


def _calibrated(features: Features, probe: ProbeResult, train: ImageSet, config: EvalConfig, size: int) -> SavedProbe:
    """``probe``, which was fitted on the ``features`` of ``train``, with its temperature; the encoder is still to be named."""
    if probe.classifier is None or probe.chosen is None:
        raise ConfigError("save_probe takes the probe 'lbfgs'; the other one leaves no training image to calibrate on")
    temperature, count = held_out_temperature(features, probe.chosen, config.seed, config.validation)
    labels = probe.classifier.classes.tolist()
    return SavedProbe(
        classifier=probe.classifier,
        names=tuple(train.classes[label] if label < len(train.classes) else str(label) for label in labels),
        temperature=temperature,
        calibrated_on=count,
        fitted_on=len(features),
        images=Path(train.name).name,
        encoder="",
        input_size=size,
        precision=config.precision,
        reader=train.reader,
    )


def _fed(scoring: Scoring, other: Beside) -> Callable[[], tuple[ImageSet, ImageSet]] | None:
    """What gives the images as another encoder is fed them; None where it is fed those of the first."""
    return None if other.reader is None else partial(_two_parts, scoring, *scoring.fed(other))


def _two_parts(scoring: Scoring, data: DataConfig, reads: ScoredRun | Beside) -> tuple[ImageSet, ImageSet]:
    kept, data = scoring.run.kept(scoring.data), all_of_training(data)
    parts = (_labelled(reads.read_as_trained(load_source(data, part, kept)), part) for part in PARTS)
    train, test = scoring.later(data, *parts)
    return train, test


def _labelled(images: ImageSet, split: str) -> ImageSet:
    if images.labels is None and images.values is None:
        raise DataError(
            f"{images.name} has no labels, and a score needs them: name a file of them with --data.labels FILE.csv, put the "
            "images of each class into a folder of its own, or evaluate on another set: --data.source folder --data.path DIR"
        )
    if split == "train":
        for note in images.first_lines():
            print_line(terminal(), note)
    return images
