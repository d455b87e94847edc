"""What each test image was taken for: ``answers.parquet``, beside the ``result.json`` that holds the sums.

A table with a row for every labelled test image: ``image``, ``class``, and for each row of the score ``linear: NAME`` and
``kNN: NAME``, or ``class: NAME`` of a fine-tuned network, the class that it was taken for; of the first row also
``confidence``, the probability of that class, and ``of the class``, that of the true one. Two runs that were scored on the
same images can be paired by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from linear_eval.classify.result import ProbeResult
from linear_eval.features.rows import parts_of
from linear_eval.features.tables import label_names, write_table
from simclr.errors import CheckpointError
from simclr.files import AGAIN, refused
from simclr.names import as_utf8

__all__ = ["FILE", "Answers", "StoredAnswers", "certainty_of", "read_answers"]

FILE = "answers.parquet"

_SURE = ("confidence", "of the class")
"""The columns of probabilities."""


@dataclass
class Answers:
    """The answers of a score while it is taken, row by row."""

    truth: Tensor | None = None
    """(M,) int64."""

    index: Tensor | None = None
    """(M,) int64: number of each image in the test set."""

    columns: dict[str, Tensor] = field(default_factory=dict)
    """Labels (M,) int64 by the heading of their column."""

    sure: tuple[Tensor, Tensor] | None = None
    """Probabilities (M,) that the first row gave its answer and the true class; None of a probe that has none."""

    def add(self, measure: str, row: str, labels: Tensor) -> None:
        """What ``row`` took the images for, labels (M,)."""
        self.columns[f"{measure}: {row}"] = labels

    def take(self, truth: Tensor, index: Tensor, sure: tuple[Tensor, Tensor] | None) -> None:
        """The true labels (M,) of the images, their numbers in the test set, and how sure the first row was, see ``sure``.

        What is called again, by another row on the same images, changes nothing.
        """
        if self.truth is None:
            self.truth, self.index, self.sure = truth, index, sure

    def write(self, folder: Path, names: Sequence[str], classes: Sequence[str]) -> Path:
        """Write them into ``folder``, the images called by ``names``, of all the test set.

        Raises:
            CheckpointError: the disk refuses.
        """
        assert self.truth is not None and self.index is not None
        called = [as_utf8(name) for name in classes]
        table: dict[str, list[str | None] | list[str] | list[float]] = {
            "image": [as_utf8(names[row]) for row in self.index.tolist()],
            "class": label_names(self.truth, called),
        }
        for heading, labels in self.columns.items():
            table[as_utf8(heading)] = label_names(labels, called)
        if self.sure is not None:
            table["confidence"], table["of the class"] = (probability.tolist() for probability in self.sure)
        with refused(folder / FILE, AGAIN):
            write_table(folder / FILE, table)
        return folder / FILE


def certainty_of(probe: ProbeResult, x: Tensor, truth: Tensor) -> tuple[Tensor, Tensor] | None:
    """Probabilities (M,) that a probe gives its answer and the true label (M,) of features x (M, F); None without them.

    A class that training lacks has the probability 0.
    """
    classifier = probe.classifier
    if classifier is None:
        return None
    column = torch.searchsorted(classifier.classes, truth).clamp_max(len(classifier.classes) - 1)
    known = classifier.classes[column] == truth
    answer, true = [], []
    for part, values in parts_of(x):
        probabilities = classifier.logits(values).softmax(1)
        answer.append(probabilities.amax(1))
        true.append(probabilities.gather(1, column[part][:, None])[:, 0] * known[part])
    return torch.cat(answer), torch.cat(true)


@dataclass(frozen=True, kw_only=True)
class StoredAnswers:
    """The answers of a score as they were written."""

    images: list[str]
    """What each test image is called."""

    truth: list[str]
    """Its class."""

    said: dict[str, list[str]]
    """Heading, such as ``linear: encoder`` -> what each image was taken for."""

    confidence: list[float] | None
    """Probability of the first row's answer."""

    of_the_class: list[float] | None
    """Probability that it gave the true class."""

    @property
    def first(self) -> list[str]:
        """The answers of the first classifier."""
        return next(iter(self.said.values()))


def read_answers(folder: Path) -> StoredAnswers | None:
    """The answers in ``folder``; None where a score of an earlier version wrote none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        table = pq.read_table(path)
        kinds = {column.name: str(column.type) for column in table.schema}
        # Numbers that this version does not know are a later one's; anything else that is not as it was written is damage.
        wanted = [name for name, kind in kinds.items() if name in _SURE or "string" in kind]
        if wrong := [
            name for name in wanted if (name in _SURE) != (kinds[name] in ("float", "double")) or table[name].null_count
        ]:
            raise TypeError(wrong[0])
        columns = table.select(wanted).to_pydict()
        probabilities = [columns.pop(name, None) for name in _SURE]
        found = StoredAnswers(
            images=columns.pop("image"),
            truth=columns.pop("class"),
            said=columns,
            confidence=probabilities[0],
            of_the_class=probabilities[1],
        )
        found.first  # noqa: B018 (there is one)
    except (OSError, KeyError, TypeError, StopIteration, pa.ArrowException) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}); score the run again") from error
    return found
