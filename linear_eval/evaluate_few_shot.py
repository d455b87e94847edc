"""Score a run by one and few shots of new classes: ``python scripts/evaluate.py RUN --protocol one-shot [--runs ZIP]``.

Random episodes of classes that were never trained on (:mod:`linear_eval.matching.few_shot`), and where a file of them is given
Lake's trials (:mod:`linear_eval.matching.trials`). The encoder, others, the same encoder untrained and raw pixels are given the
same episodes; a supervised run has a row more, for the embeddings that its objective compared, in its own way where it has one.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linear_eval.beside import Beside
from linear_eval.config import AUTOCAST, EvalConfig
from linear_eval.features.extract import Features, check_features
from linear_eval.features.frozen import frozen
from linear_eval.features.kept import Kept, features_of
from linear_eval.features.pixels import RawPixels
from linear_eval.matching.few_shot import FewShotResult, Likeness, few_shot, paired_gain, same_class_likeness
from linear_eval.matching.similarity import Distance
from linear_eval.matching.trials import LAKE, OneShotRuns, TrialsResult, lake_trials, load_runs
from linear_eval.open_set_images import NewClasses, new_class_images
from linear_eval.progress import Progress, default_device, environment, print_line, showing_progress
from linear_eval.reports.one_shot import (
    RUNS,
    SIAMESE,
    WITH_HEAD,
    WITHIN,
    Row,
    print_one_shot,
    shown_trials,
    write_one_shot,
)
from linear_eval.scored_run import ScoredRun
from linear_eval.scoring import Scoring
from simclr.config import DataConfig
from simclr.data import ImageSet
from simclr.errors import DataError
from simclr.exchange.classifier import load_classifier
from simclr.losses import SiameseLoss

__all__ = ["evaluate_one_shot"]

WAYS, SHOTS = (5, 20), (1, 5)
"""Classes of an episode, and images of each (Vinyals et al. 2016)."""

PROTOCOL = (
    "Every figure is the share of queries that are named rightly; ties count as wrong. An episode draws N classes, K images of "
    "each and another one of each as queries. A class is compared through its prototype, the mean of its K images (of unit "
    "length for the cosine). within: the classes of an episode share the first part of their names. Given runs: each test "
    "image among the training images of its run. Intervals are 95 %: over episodes drawn from these very images "
    "(interval_over_classes: over classes), over runs. Differences are paired, with the same clusters."
)


@dataclass(frozen=True, kw_only=True)
class _Fed:
    """What the rows of one reader are scored on."""

    new: NewClasses | None
    runs: OneShotRuns | None
    left_out: str | None = None
    """Why there are no images of new classes."""


def evaluate_one_shot(
    path: ScoredRun | Path | str,
    data: DataConfig | None = None,
    config: EvalConfig | None = None,
    *,
    runs: Path | str | None = None,
    tensorboard: bool = False,
    beside: Sequence[Beside | ScoredRun | Path | str] = (),
) -> dict[str, Any]:
    """Score the encoder at ``path`` by one and few shots, beside the same encoder untrained and raw pixels.

    Prints a table and writes ``one-shot.json`` and ``one-shot.png`` to ``ScoredRun.report_folder``.

    Args:
        path: a run, or whatever else ``simclr.load_encoder`` takes.
        data: labelled images to draw episodes from; the run's own if None. See :func:`new_class_images` for what is taken.
        config: the protocol; ``ScoredRun.default_protocol`` if None.
        runs: trials in the form of Lake's, see :func:`load_runs`; with them a run none of whose own images are of new classes
            is scored on them alone.
        tensorboard: also write the images under every checkpoint for TensorBoard's projector.
        beside: further encoders, each a row of its own: the same images, each fed as it was trained.

    Returns:
        What ``one-shot.json`` holds: ``rows`` ("encoder", "untrained", "raw pixels", further ones) of figures by measure,
        ``comparison`` of the encoder with each other row, ``disjoint_from_training`` in words, ``runs``, and ``protocol``,
        ``data``, ``config``, ``encoder``, ``versions``, ``hardware``, ``seconds``.

    Raises:
        CheckpointError: no encoder there, or not all of it.
        DataError: runs in another form; images without labels, too few classes, or a supervised run that held no class out.
        MissingExtraError: ``tensorboard``, and it is not installed.
    """
    began = time.perf_counter()
    run = ScoredRun.at(path)
    if data is None and run.data is None and runs is not None:
        data = DataConfig(source="folder")
    scoring = Scoring.begin(run, data, config, tensorboard, beside)
    run, config = scoring.run, scoring.config
    fed = _first_fed(scoring, runs)
    new, trials = fed.new, fed.runs
    for note in [] if new is None else new.images.first_lines():
        print_line(scoring.console, note)
    device = default_device()
    rows: dict[str, Row] = {}
    digests: dict[str, str] = {}
    with showing_progress(scoring.console) as progress:
        for other, distance in _rows(scoring):
            theirs = _fed(fed, scoring, runs, other)
            with frozen(other.encoder) as digests[other.name]:
                rows[other.name] = _row(other, theirs, config, distance, device, progress, scoring.kept)
    result: dict[str, Any] = {
        "rows": {name: {key: _written(found) for key, found in row.items()} for name, row in rows.items()},
        "comparison": _compare(rows),
        "disjoint_from_training": None if new is None else new.disjoint,
        "left_out": fed.left_out,
        "runs": None if trials is None else _describe_runs(trials),
        "protocol": PROTOCOL,
        "distance": config.distance,
        "data": None if new is None else _describe(new.images, run),
        "config": asdict(config),
        "encoder": {"sha256": digests["encoder"], "features": run.description.features},
        **environment(device),
    }
    target = scoring.report_folder
    target.mkdir(parents=True, exist_ok=True)
    result["seconds"] = round(time.perf_counter() - began, 2)
    print_one_shot(result)
    with showing_progress(scoring.console) as progress:
        progress("pictures")
        files = write_one_shot(
            result, shown_trials(rows["encoder"], None if new is None else new.images, trials), target
        )
    scored = [*([] if new is None else [new.images]), *([] if trials is None else [trials.images])]
    scoring.end(files, scored[0])
    return result


class _Embedded(nn.Module):
    """Images -> what the objective compared: outputs of the projection head."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, images: Tensor) -> Tensor:
        z: Tensor = self.head(self.encoder(images))
        return z.float()


def _rows(scoring: Scoring) -> list[tuple[Beside, Distance | Likeness]]:
    """The encoders of the table in its order, and how each is compared; behind the run's own, with the head that it has."""
    distance, run = scoring.config.distance, scoring.run
    found: list[tuple[Beside, Distance | Likeness]] = [(row, distance) for row in scoring.rows]
    if run.given is not None or not (run.folder / "head.json").exists():
        return found
    classifier = load_classifier(run.folder)
    loss = classifier.objective.loss
    embedded = _Embedded(scoring.encoders["encoder"], classifier.head)
    if isinstance(loss, SiameseLoss):
        found.insert(1, (Beside(name=SIAMESE, encoder=embedded), same_class_likeness(loss)))
    elif list(classifier.head.parameters()):  # else z is what the encoder gives
        found.insert(1, (Beside(name=WITH_HEAD, encoder=embedded), distance))
    return found


def _first_fed(scoring: Scoring, runs: Path | str | None) -> _Fed:
    """What the encoder is fed; with runs, why there are no episodes where its own images have no new class."""
    data, run = scoring.data, scoring.run
    trials = None if runs is None else load_runs(runs, data, read=run.read_as_trained)
    try:
        if data.source == "folder" and data.path is None:
            raise DataError("no images are named; give --data.path DIR, or --data.source NAME")
        return _Fed(new=_new_classes(scoring, data, run), runs=trials)
    except DataError as error:
        if trials is None or run.has_other_images_than(data):
            raise
        return _Fed(new=None, runs=trials, left_out=str(error))


def _fed(first: _Fed, scoring: Scoring, runs: Path | str | None, other: Beside) -> _Fed:
    """The same as another encoder is fed it."""
    data, reads = scoring.fed(other)
    if other.reader is None or (data == scoring.data and other.reader == scoring.run.description.reader):
        return first
    return _Fed(
        new=None if first.new is None else _new_classes(scoring, data, reads),
        runs=None if runs is None else load_runs(runs, data, read=reads.read_as_trained),
    )


def _new_classes(scoring: Scoring, data: DataConfig, reads: ScoredRun | Beside) -> NewClasses:
    found = new_class_images(data, scoring.run.config, scoring.run.kept(scoring.data))
    (images,) = scoring.later(data, reads.read_as_trained(found.images))
    return replace(found, images=images)


def _row(
    other: Beside,
    fed: _Fed,
    config: EvalConfig,
    distance: Distance | Likeness,
    device: torch.device,
    progress: Progress,
    kept: Kept,
) -> Row:
    """The figures of one row of the table."""

    def features(images: ImageSet) -> Features:
        progress(f"{other.name}: features of {len(images)} images")
        autocast = None if isinstance(other.encoder, RawPixels) else AUTOCAST[config.precision]
        return features_of(
            kept,
            other.name,
            other.encoder,
            images,
            config.batch_size,
            device,
            workers=config.workers,
            autocast=autocast,
        )

    row: Row = {}
    if fed.runs is not None:
        row[RUNS] = lake_trials(features(fed.runs.images).x, fed.runs, distance)
    if fed.new is None:
        return row
    taken = features(fed.new.images)
    check_features(taken, "test")
    progress(f"{other.name}: episodes of {len(taken)} images")
    parents = _parents(fed.new.images.classes, taken.y)
    for within in (None,) if parents is None else (None, parents):
        for ways, shots in product(WAYS, SHOTS):
            name = f"{ways}-way {shots}-shot{'' if within is None else WITHIN}"
            try:
                row[name] = few_shot(
                    taken.x, taken.y, ways, shots,
                    episodes=config.episodes, within=within, distance=distance, seed=config.seed,
                )  # fmt: skip
            except DataError as error:  # too few classes or images: the other figures still stand
                row[name] = str(error)
    return row


def _parents(classes: tuple[str, ...], labels: Tensor) -> Tensor | None:
    """The first part of each image's class's name, numbered (N,); None where all have one, or none is that of enough classes."""
    first = [name.split("/", 1)[0] for name in classes]
    number = {name: i for i, name in enumerate(dict.fromkeys(first))}
    parents = torch.tensor([number[name] for name in first])
    sizes = torch.bincount(parents[labels.unique()])
    return parents[labels] if int((sizes > 0).sum()) > 1 and int(sizes.max()) >= min(WAYS) else None


def _compare(rows: dict[str, Row]) -> dict[str, dict[str, Any]]:
    """The encoder minus each other row, on the same episodes and trials."""
    mine = rows["encoder"]
    found: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        if name == "encoder":
            continue
        gains = found[f"encoder - {name}"] = {}
        for measure, theirs in row.items():
            ours = mine[measure]
            if isinstance(theirs, str) or isinstance(ours, str):
                continue
            if ours.clusters.shape != theirs.clusters.shape:
                raise DataError(f"the images of the row {name!r} are not those of the others")
            gains[measure] = paired_gain(ours.hits.flatten(), theirs.hits.flatten(), ours.clusters)
    return found


def _written(found: FewShotResult | TrialsResult | str) -> dict[str, Any]:
    return {"accuracy": None, "note": found} if isinstance(found, str) else found.as_dict()


def _describe(images: ImageSet, run: ScoredRun) -> dict[str, Any]:
    assert images.labels is not None
    classes = [images.classes[label] for label in images.labels.unique().tolist()]
    test = {"images": len(images), "classes": classes, "trained_on": run.count_trained_on(images)}
    return {"name": images.name, "test": test}


def _describe_runs(runs: OneShotRuns) -> dict[str, Any]:
    return {
        "name": runs.name,
        "runs": len(runs.runs),
        "trials": runs.trials,
        "ways": list(runs.ways),
        "key": runs.key,
        "lake": runs.key == LAKE,
    }
