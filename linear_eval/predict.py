"""What a run's classifier says of any images: class, calibrated probability and the next classes, ``scripts/predict.py``.

The classifier is that of a fine-tuned run, or the linear probe that ``scripts/evaluate.py RUN --save-probe`` wrote. Images are
read, resized and normalised as they were when it was scored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from linear_eval.classifiers import TrainedClassifier, find_classifier
from linear_eval.classify.reliability import answer_reliability
from linear_eval.config import AUTOCAST
from linear_eval.features.extract import extract_features
from linear_eval.features.naming import Names, Naming
from linear_eval.features.tables import Cells, as_csv, check_table_path, write_table
from linear_eval.metrics import bootstrap_interval, mean_interval
from linear_eval.progress import default_device, print_line
from linear_eval.scored_run import note_on_trained_images
from linear_eval.sharing import placed
from simclr.config import DataConfig
from simclr.data import ImageSet
from simclr.data.sources import load_whole
from simclr.errors import ConfigError, require
from simclr.names import as_utf8, printable
from simclr.paths import expand_fields
from simclr.progress import terminal

__all__ = ["PredictOptions", "Predicted", "images_as_read", "predict_run"]


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What a prediction can be told."""

    out: Path | None = None
    """Where to: a file .csv or .parquet with a row an image; without one, CSV is printed."""

    top_k: int = 5
    """How many classes of an image, the likeliest first; at most as many as there are."""

    batch_size: int = 256
    """Images an encoder call."""

    data: DataConfig = field(default_factory=DataConfig)
    """The images; how they are read is the classifier's."""

    def __post_init__(self) -> None:
        expand_fields(self, "out")
        require(self.top_k >= 1, "top_k", self.top_k, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        if self.out is not None:
            check_table_path(self.out, (".csv", ".parquet"))


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What ``predict_run`` found of N images, in the order of their paths."""

    names: Sequence[str]
    """The path of each below the folder."""

    classes: tuple[str, ...]
    """Name of each column that ``top`` points to; empty where numbers are predicted."""

    top: Tensor
    """(N, K) int64: columns, the likeliest first; (N, 0) where numbers are predicted."""

    probabilities: Tensor
    """(N, K) float32, of the same columns; (N, 1), the numbers themselves, where those are predicted."""

    labels: tuple[str | None, ...] | None
    """What each image is labelled; None where the folder says nothing of any."""

    left_out: tuple[Path, ...]
    """Files that do not decode."""

    notes: tuple[str, ...]
    """Which classifier it was, and how right it was where there are labels."""

    def columns(self) -> dict[str, Cells]:
        """The table: ``path``, ``class``, ``probability``, ``class_2``, ..., and ``label``; or ``path`` and ``value``."""
        found: dict[str, Cells] = {"path": [as_utf8(name) for name in self.names]}
        if not self.classes:
            return found | {"value": self.probabilities[:, 0].tolist()}
        classes = [as_utf8(name) for name in self.classes]
        for k in range(self.top.shape[1]):
            behind = f"_{k + 1}" if k else ""
            found[f"class{behind}"] = [classes[column] for column in self.top[:, k].tolist()]
            found[f"probability{behind}"] = self.probabilities[:, k].tolist()
        if self.labels is not None:
            found["label"] = [None if label is None else as_utf8(label) for label in self.labels]
        return found

    def lines(self, most: int = 20) -> list[str]:
        """What was done, in words, naming at most ``most`` files that were left out."""
        lines = [f"{len(self.names)} image{'' if len(self.names) == 1 else 's'}", *self.notes]
        if self.left_out:
            lines.append(f"left out, since they do not decode: {len(self.left_out)}")
            lines += [f"  {path}" for path in self.left_out[:most]]
        if len(self.left_out) > most:
            lines.append(f"  and {len(self.left_out) - most} more")
        return [printable(line) for line in lines]

    def as_csv(self) -> str:
        """The table as CSV for a terminal: whatever a path holds, each image is on one line."""
        shown: dict[str, Cells] = {
            name: [printable(cell) if isinstance(cell, str) else cell for cell in cells]  # type: ignore[misc]  # cell by cell
            for name, cells in self.columns().items()
        }
        return as_csv(shown)


def images_as_read(classifier: TrainedClassifier, path: Path) -> DataConfig:
    """The images at ``path``, a folder or a file, read as those that ``classifier`` was scored on; labels as they are there."""
    reader = classifier.reader
    return DataConfig(
        source="folder",
        path=path,
        size=reader.size,
        channels=reader.channels,
        fit=reader.fit,
        value_range=reader.value_range or "auto",
        max_pixels=reader.max_pixels,
    )


def predict_run(
    found: TrainedClassifier | Path | str, options: PredictOptions, progress: Callable[[int, int], None] | None = None
) -> Predicted:
    """Classify every image that ``options.data`` names, and write the table where ``options.out`` says.

    Files that do not decode end it before anything is written, or with ``data.broken="skip"`` are left out and named.

    Args:
        found: a fine-tuned run, a run or an evaluation's folder with a saved probe, or what ``find_classifier`` gave.
        options: images, format, how many classes of each; ``images_as_read`` gives the ``data``.
        progress: called with (images done, images in all).

    Raises:
        CheckpointError: no classifier there, or a disk that refuses.
        ConfigError: images that are to be read in another way than the classifier's.
        DataError: no images, files that do not decode, or an answer that is not finite.
    """
    classifier = found if isinstance(found, TrainedClassifier) else find_classifier(Path(found))
    given = _load(classifier, options.data)
    images, broken = placed(given, options.data.device_resident, options.batch_size)
    for note in given.first_lines():
        print_line(terminal(), note)
    naming = Naming(root=_root(options.data.path), what="the answer for", are="is", who="the network")
    k = min(options.top_k, len(classifier.classes))
    answers = extract_features(
        _Answers(classifier, k),
        images,
        options.batch_size,
        default_device(),
        workers=options.data.workers,
        autocast=AUTOCAST[classifier.precision],
        progress=progress,
        naming=naming,
    ).x
    top, probabilities = answers[:, k:].long(), answers[:, : max(k, 1)]
    labels = _labels(images) if classifier.classes else None
    predicted = Predicted(
        names=Names(naming, images),
        classes=classifier.classes,
        top=top,
        probabilities=probabilities,
        labels=labels,
        left_out=tuple(given.paths[index] for index in broken) if given.paths is not None else (),
        notes=(classifier.about, *_how_right(classifier, images, labels, top, probabilities)),
    )
    if options.out is not None:
        write_table(options.out, predicted.columns())
    return predicted


def _load(classifier: TrainedClassifier, data: DataConfig) -> ImageSet:
    assert data.path is not None
    own = images_as_read(classifier, data.path)
    for name in ("source", "size", "channels", "fit", "value_range"):
        if getattr(data, name) != getattr(own, name):
            flag = f"--data.{name.replace('_', '-')}"
            raise ConfigError(
                f"data.{name} is {getattr(data, name)}, and this classifier was scored on images read with "
                f"{getattr(own, name)}; leave {flag} out"
            )
    reader = replace(classifier.reader, max_pixels=data.max_pixels)
    if data.path.is_file():
        if isinstance(data.labels, Path):
            raise ConfigError(f"data.labels={data.labels} is for a folder, and {data.path} is a file; leave it out")
        name = str(data.path)
        return ImageSet.from_files([data.path], reader, labels=None, classes=(), name=name, broken=data.broken)
    images = load_whole(data)
    if images.reader.value_range == reader.value_range:  # else it was found here: training had no deep files
        images = replace(images, reader=reader)
    return images


def _root(path: Path | None) -> Path:
    assert path is not None
    return path if path.is_dir() else path.parent


def _labels(images: ImageSet) -> tuple[str | None, ...] | None:
    if images.labels is None or not bool((images.labels >= 0).any()):
        return None
    return tuple(images.classes[label] if label >= 0 else None for label in images.labels.tolist())


class _Answers(torch.nn.Module):
    """Images (B, C, H, W) -> (B, 2K): the K highest probabilities, then their columns; or (B, 1), numbers."""

    def __init__(self, classifier: TrainedClassifier, k: int) -> None:
        super().__init__()
        self.classifier, self.k = classifier, k

    def forward(self, images: Tensor) -> Tensor:
        answers: Tensor = self.classifier(images)
        if not self.k:
            return answers.view(-1, 1)
        highest = answers.topk(self.k)
        return torch.cat([highest.values, highest.indices.to(highest.values.dtype)], 1)


def _how_right(
    classifier: TrainedClassifier,
    images: ImageSet,
    labels: tuple[str | None, ...] | None,
    top: Tensor,
    probabilities: Tensor,
) -> list[str]:
    """What the labels of the images say of the predictions, in words; nothing where there are none."""
    if not classifier.classes:
        return _how_near(images, probabilities[:, 0])
    if labels is None:
        return []
    column = {name: number for number, name in enumerate(classifier.classes)}
    rows = torch.tensor([row for row, label in enumerate(labels) if label is not None])
    truth = torch.tensor([column.get(label, -1) for label in labels if label is not None])
    if not bool((truth >= 0).any()):
        named = ", ".join(list(dict.fromkeys(label for label in labels if label is not None))[:3])
        return [
            f"no accuracy: the folder's labels ({named}) are none of the classifier's ({', '.join(classifier.classes[:3])})"
        ]
    right = top[rows, 0] == truth
    low, high = bootstrap_interval(right.numpy())
    error = answer_reliability(probabilities[rows, 0], right).error
    said = [
        f"accuracy {100 * right.double().mean().item():.1f} % [{100 * low:.1f}, {100 * high:.1f}] on {len(rows)} labelled "
        f"images (95 % bootstrap); expected calibration error {100 * error:.1f} % (15 bins)"
    ]
    if count := int((truth < 0).sum()):
        said.append(f"{count} of them are of classes that the classifier does not know, and count as wrong")
    own, known = classifier.run.data, images.labelled()
    seen = classifier.run.count_trained_on(known) if own is not None and own.source == "folder" else None
    said += note_on_trained_images(seen, len(known))
    if not seen and classifier.fitted_on == Path(images.name).name:
        said.append(f"the probe was fitted on images of {classifier.fitted_on}: for those the score is too good")
    return said


def _how_near(images: ImageSet, numbers: Tensor) -> list[str]:
    if images.values is None or images.labels is not None or not bool(images.values.isfinite().any()):
        return []
    known = images.values.isfinite()
    error = (numbers[known].double() - images.values[known].double()).abs().numpy()
    low, high = mean_interval(error)
    return [f"mean absolute error {error.mean():.4g} [{low:.4g}, {high:.4g}] on {len(error)} images (95 % bootstrap)"]
