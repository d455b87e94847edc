"""Which images an open-set score of a run is taken on, and, in plain words, how new their classes are to the encoder."""

from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from linear_eval.scored_run import all_of_training, same_images, same_labels
from simclr.config import DataConfig, TrainConfig
from simclr.data import ImageSet, class_disjoint_split, load_source
from simclr.data.parts_list import PartsList
from simclr.errors import DataError, PipelineError

__all__ = ["NewClasses", "OpenSetImages", "new_class_images", "open_set_images"]

SPLIT_FROM = 4
"""From this many classes on, half of them can fit a threshold: each half then has pairs of different classes."""


@dataclass(frozen=True, kw_only=True)
class NewClasses:
    """Images of classes that are new to an encoder, all of them."""

    images: ImageSet

    trained_on: tuple[int, ...] | None
    """Classes that were trained on, where that is known and they are of the same set; ``images`` has none of them."""

    disjoint: str
    """How new the classes are, in words."""


@dataclass(frozen=True, kw_only=True)
class OpenSetImages:
    """Images of the test classes and of others to fit a threshold on, with one numbering of classes."""

    test: ImageSet
    validation: ImageSet | None
    """None where there are too few classes to fit a threshold on."""

    trained_on: tuple[int, ...] | None
    """Classes that were trained on, where that is known and they are of the same set; ``test`` has none of them."""

    disjoint: str
    """How new the test classes are, in words."""

    threshold_from: str
    """What the threshold and the calibration are fitted on, in words."""


def open_set_images(
    data: DataConfig, run: TrainConfig | None, seed: int = 0, kept: PartsList | None = None
) -> OpenSetImages:
    """``new_class_images`` in two halves, drawn under ``seed``: to test on, and to fit a threshold on.

    Of a run's held-out classes that are too few to spare any the threshold is fitted on test images of its training classes.

    Raises:
        DataError: as ``new_class_images``, or fewer than two classes.
    """
    found = new_class_images(data, run, kept)
    count = _count(found.images)
    if found.trained_on is None or count >= SPLIT_FROM:
        return replace(_halves(found.images, seed, found.disjoint), trained_on=found.trained_on)
    validation = _labelled(load_source(all_of_training(data), "test", kept)).relabelled(found.images.classes)
    return OpenSetImages(
        test=found.images,
        validation=validation,
        trained_on=found.trained_on,
        disjoint=found.disjoint,
        threshold_from=f"{len(validation)} test images of the {_count(validation)} training classes, because {count} "
        "held-out classes are too few to spare any: on new classes it accepts more wrong pairs than it did there",
    )


def new_class_images(data: DataConfig, run: TrainConfig | None, kept: PartsList | None = None) -> NewClasses:
    """Choose the images; ``run`` is the config that the encoder was trained with, None where nobody knows.

    ``kept`` is the run's list of its images where ``data`` are these, see ``ScoredRun.kept``.

    - The run's own images, classes held out: these classes.
    - The run's own images, nothing held out, trained without labels: all classes of the test part, said so.
    - Other images: all of them, whatever their part; of a set that has new classes of its own (Omniglot) these.

    Raises:
        DataError: images without labels; a supervised run that held no class out; another division of the run's own
            images than the one that it was trained on.
    """
    if run is None:
        words = "unknown: the encoder's folder does not say what it was trained on"
        return NewClasses(images=_everything(data), trained_on=None, disjoint=words)
    if kept is None and not same_images(data, run.data):
        images = _everything(replace(data, held_out_classes=0.0))
        words = _of_other_images(images, run) + _started_from(run)
        return NewClasses(images=images, trained_on=None, disjoint=words)
    _refuse_another_division(data, run.data)
    if run.data.has_new_classes:
        return _held_out(all_of_training(data), run, kept)
    if run.objective.needs_labels:
        raise DataError(
            f"{run.name} was trained on the labels of every class (objective {run.objective.name}), so none of its "
            "images can stand for an open set; train one that holds classes out: --data.held-out-classes 0.4, "
            "or score on other images: --data.source folder --data.path DIR"
        )
    # Images are divided class by class: where training read no labels it divided them otherwise.
    scored = (
        "none of the images scored here"
        if kept is not None or same_labels(data, run.data)
        else "perhaps some of these images"
    )
    disjoint = (
        f"not disjoint: the run was trained on images of these very classes. It saw no label, and {scored}, but others "
        "like them; for classes it has never seen, train with --data.held-out-classes 0.4"
    )
    images = _labelled(load_source(data, "test", kept))
    return NewClasses(images=images, trained_on=None, disjoint=disjoint + _started_from(run))


def _held_out(data: DataConfig, run: TrainConfig, kept: PartsList | None) -> NewClasses:
    trained = _labelled(load_source(data, "train", kept))
    assert trained.labels is not None
    # Both parts number their classes from 0: behind one another the numbers are of one set.
    held_out = _labelled(load_source(data, "held-out", kept)).relabelled(trained.classes)
    trained_on = tuple(trained.labels.unique().tolist())
    disjoint = f"checked: none of the test classes is among the {len(trained_on)} classes of training"
    return NewClasses(images=held_out, trained_on=trained_on, disjoint=disjoint + _started_from(run))


def _halves(images: ImageSet, seed: int, disjoint: str) -> OpenSetImages:
    """Half of the classes to fit the threshold on and half to test on; all to test on where there are few."""
    count = _count(images)
    if count < 2:
        raise DataError(f"{images.name} has {count} labelled class; an open set needs at least 2")
    if count < SPLIT_FROM:
        return OpenSetImages(
            test=images,
            validation=None,
            trained_on=None,
            disjoint=disjoint,
            threshold_from=f"nothing: {count} classes are too few to fit a threshold on some and test it on others",
        )
    assert images.labels is not None
    split = class_disjoint_split(images.labels, test=count - count // 2, seed=seed)
    test = images.subset(split.rows(images.labels, "test").nonzero().flatten())
    validation = images.subset(split.rows(images.labels, "train").nonzero().flatten())
    return OpenSetImages(
        test=test,
        validation=validation,
        trained_on=None,
        disjoint=disjoint,
        threshold_from=f"{len(validation)} images of {count // 2} other classes, drawn with seed {seed}",
    )


def _everything(data: DataConfig) -> ImageSet:
    data = all_of_training(data)
    if data.has_new_classes:  # a set that keeps classes apart is scored on these, whoever scores
        return _labelled(load_source(data, "held-out"))
    train, test = load_source(data, "train"), load_source(data, "test")
    if train.labels is None or test.labels is None:
        return _labelled(train)
    # A folder's test part numbers classes that its training part lacks behind the others.
    classes = max(train.classes, test.classes, key=len)
    return _labelled(replace(train.joined(test), classes=classes))


def _of_other_images(images: ImageSet, run: TrainConfig) -> str:
    theirs = run.data.source if run.data.path is None else str(run.data.path)
    trained: tuple[str, ...] | None = None
    with suppress(PipelineError):
        trained = load_source(replace(all_of_training(run.data), download=False), "train").classes
    words = f"other images than the run's ({theirs}), so all their classes are taken as new"
    if trained is None:
        return f"{words}; the run's own classes could not be read to compare their names"
    assert images.labels is not None
    shared = sorted({images.classes[label] for label in images.labels.unique().tolist()} & set(trained))
    if not shared:
        return f"{words}; none bears the name of a training class"
    named = ", ".join(shared[:8]) + (", ..." if len(shared) > 8 else "")
    return (
        f"{words}, but {len(shared)} of {_count(images)} bear the name of a training class ({named}): if they mean the "
        "same, these are new images of known classes"
    )


def _started_from(run: TrainConfig) -> str:
    start = run.encoder.init or ("published weights" if run.encoder.pretrained else None)
    return "" if start is None else f"; training started from {start}, which may have seen these classes"


def _refuse_another_division(data: DataConfig, own: DataConfig) -> None:
    fixed = ("held_out_classes", "split_seed", "test_fraction", *(["labels"] if own.has_new_classes else []))
    for name in fixed:
        given, trained = getattr(data, name), getattr(own, name)
        if not (same_labels(data, own) if name == "labels" else given == trained):
            flag = f"--data.{name.replace('_', '-')}"
            raise DataError(
                f"{flag} {given} is not how the run divided its images ({trained}), and would score classes it was trained "
                f"on; leave {flag} out, or train a run with it"
            )


def _labelled(images: ImageSet) -> ImageSet:
    if images.labels is None:
        raise DataError(
            f"{images.name} has no labels, and an open-set score needs them: put the images of each class into a folder "
            "of its own, or score on another set, e.g. --data.source folder --data.path DIR"
        )
    return images.labelled()


def _count(images: ImageSet) -> int:
    return 0 if images.labels is None else len(torch.unique(images.labels))
