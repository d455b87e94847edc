"""One-shot trials that somebody has drawn already: Lake's 20 runs of Omniglot, or other images in that form.

Lake, Salakhutdinov, Tenenbaum 2015: in each run 20 test images are to be classified among 20 training images, one a class,
all of one alphabet. ``load_runs`` reads them, ``lake_trials`` scores embeddings of them::

    runs = linear_eval.load_runs("omniglot-runs.zip", size=28)
    print(linear_eval.lake_trials(linear_eval.extract_features(encoder, runs.images).x, runs).accuracy)

A tie counts as wrong. The interval is over runs: the trials of a run share its training images, and two drawers.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
from torch import Tensor

from linear_eval.features.numbers import Listed
from linear_eval.matching.few_shot import Likeness, likeness_of, plain
from linear_eval.matching.similarity import Distance, prepare
from linear_eval.metrics import interval_over_classes
from simclr.config.data import DataConfig
from simclr.data import ImageSet
from simclr.data.listing import list_images
from simclr.data.survey import reader_for
from simclr.errors import DataError, shown

__all__ = ["LAKE", "OneShotRun", "OneShotRuns", "TrialsResult", "lake_trials", "load_runs"]

KEY = "class_labels.txt"

FORM = (
    f"expected Lake's form, as a zip or a folder: run01/{KEY} with lines such as "
    "'run01/test/item01.png run01/training/class08.png', and these images"
)

AGAIN = "unpack or download the runs again"

LAKE = "5481395c21692975098cf8f26179e1f8a0a9fe52343ebee7d35c202bf021d146"
"""``OneShotRuns.key`` of Lake's own 20 runs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OneShotRun:
    """T trials among the same N images."""

    name: str

    queries: Tensor
    """(T,) int64: rows of the images to classify."""

    candidates: Tensor
    """(N,) int64: rows of the images to choose from, one a class."""

    answers: Tensor
    """(T,) int64: which of ``candidates`` is of each query's class."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OneShotRuns:
    """Runs of one-shot trials, and their images."""

    name: str

    images: ImageSet
    """All images, decoded, without labels."""

    runs: tuple[OneShotRun, ...]

    key: str
    """SHA-256 of which image is of which class, run by run: tells a published set of trials from another."""

    @property
    def trials(self) -> int:
        """How many there are in all runs."""
        return sum(len(run.queries) for run in self.runs)

    @property
    def ways(self) -> tuple[int, ...]:
        """Among how many images a run chooses: the different numbers, ascending."""
        return tuple(sorted({len(run.candidates) for run in self.runs}))

    @property
    def number(self) -> Tensor:
        """(T,) int64: which run each trial is of."""
        return torch.cat([torch.full((len(run.queries),), i) for i, run in enumerate(self.runs)])


@dataclass(frozen=True, kw_only=True)
class TrialsResult:
    """One-shot trials. ``as_dict()`` can be written as JSON and leaves the tensors out."""

    accuracy: float
    """Share of trials in which the image of the query's class was strictly the most alike."""

    interval: tuple[float, float] | None
    """95 % interval over runs; None for a single run."""

    of_runs: tuple[float, ...]
    """That share in each run."""

    chance: float
    """What guessing gives."""

    trials: int
    runs: int

    chosen: Annotated[Tensor, "int64 T"] = field(compare=False, repr=False)
    """(T,): which of its run's candidates each query was most alike to."""

    hits: Annotated[Tensor, "bool T"] = field(compare=False, repr=False)
    """(T,): whether that was the right one, and no other as much."""

    clusters: Annotated[Tensor, "int64 T"] = field(compare=False, repr=False)
    """(T,): the run of each trial."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return plain(self)


def lake_trials(
    x: Annotated[Tensor, "N D"] | Listed, runs: OneShotRuns, distance: Distance | Likeness = "cosine"
) -> TrialsResult:
    """Score embeddings ``x`` (N, F) floating of ``runs.images``, row by row, on the trials of ``runs``.

    Args:
        distance: ``"cosine"``, ``"euclidean"``, or a ``Likeness`` of rows as they are.

    Raises:
        DataError: another number of rows than images, or rows that are not finite.
        ConfigError: an unknown distance.
    """
    if len(x) != len(runs.images):
        raise DataError(
            f"{len(x)} rows for the {len(runs.images)} images of {runs.name}: expected one each, in their order"
        )
    z = prepare(x, torch.zeros(len(x), dtype=torch.int64), distance if isinstance(distance, str) else "euclidean").rows
    alike, chosen, hits = likeness_of(distance), [], []
    for run in runs.runs:
        scores = alike(z[run.queries][None], z[run.candidates][None, :, None])[0].cpu()  # (T, N)
        right = torch.nn.functional.one_hot(run.answers, len(run.candidates)).bool()
        chosen.append(scores.argmax(1))
        hits.append(scores[right] > scores.masked_fill(right, -torch.inf).amax(1))
    hit = torch.cat(hits)
    return TrialsResult(
        accuracy=float(hit.double().mean()),
        interval=interval_over_classes(hit, runs.number),
        of_runs=tuple(float(one.double().mean()) for one in hits),
        chance=sum(len(run.queries) / len(run.candidates) for run in runs.runs) / len(hit),
        trials=len(hit),
        runs=len(runs.runs),
        chosen=torch.cat(chosen),
        hits=hit,
        clusters=runs.number,
    )


def load_runs(
    path: Path | str,
    data: DataConfig | None = None,
    *,
    size: int = 105,
    read: Callable[[ImageSet], ImageSet] = lambda images: images,
) -> OneShotRuns:
    """Read runs in Lake's form from a zip or a folder, with any number of runs, trials and classes.

    A run is a folder with ``class_labels.txt``: each line has a test image and the training image of its class, by their paths
    from the folder around the run. Its candidates are all images beside the training images that are named.

    Args:
        path: the zip, as it is published, or the folder that it was unpacked into.
        data: how files become pixels, as for a folder of images; by default in colours, ``size`` x ``size``.
        read: what is done to the set of files before they are decoded.

    Raises:
        DataError: nothing there, a zip that is damaged, another form, or images that are missing or do not decode.
    """
    path, data = Path(path), DataConfig(source="folder", size=size) if data is None else data
    if path.is_dir():
        return _read(path, path.name, data, read)
    with TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
        except FileNotFoundError as error:
            raise DataError(f"{path} is not there; {FORM}") from error
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
            said = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(f"{path} cannot be unpacked ({said}); {FORM}") from error
        try:
            found = _read(Path(folder), path.name, data, read)
        except DataError as error:  # who reads it knows the zip
            raise DataError(str(error).replace(folder, str(path))) from error
    paths = tuple(path / one.relative_to(folder) for one in found.images.paths or ())
    return replace(found, images=replace(found.images, paths=paths))


def _read(root: Path, name: str, data: DataConfig, read: Callable[[ImageSet], ImageSet]) -> OneShotRuns:
    keys = sorted(key for key in root.rglob(KEY) if "__MACOSX" not in key.parts)
    if not keys:
        raise DataError(f"{root} has no {KEY} anywhere; {FORM}")
    without = [
        one
        for one in sorted({key.parent.parent for key in keys})
        for one in sorted(one.iterdir())
        if (one / "test").is_dir() and not (one / KEY).exists()
    ]
    if without:
        raise DataError(f"{without[0]} has no {KEY}, which says what its test images are; {FORM}")
    places: dict[Path, int] = {}
    runs, digest = [], hashlib.sha256()
    for key in keys:
        pairs = _pairs(key)
        candidates = sorted(
            {one for folder in {right.parent for _, right in pairs} for one in list_images(folder).paths}
        )
        column = {candidate: number for number, candidate in enumerate(candidates)}
        if len(candidates) < 2:
            raise DataError(f"{key.parent} has {len(candidates)} training image; expected at least 2 to choose from")
        for one in (*candidates, *(query for query, _ in pairs)):
            places.setdefault(one, len(places))
        for query, right in sorted(pairs):
            below = (one.relative_to(key.parent).as_posix() for one in (query, right))
            digest.update(" ".join([*below, str(len(candidates))]).encode() + b"\n")
        runs.append(
            OneShotRun(
                name=key.parent.name,
                queries=torch.tensor([places[query] for query, _ in pairs]),
                candidates=torch.tensor([places[one] for one in candidates]),
                answers=torch.tensor([column[right] for _, right in pairs]),
            )
        )
    reader, _ = reader_for(list(places), data)
    images = read(ImageSet.from_files(list(places), reader, labels=None, classes=(), name=name, broken="skip"))
    failed: dict[int, str] = {}
    decoded = images.resident(torch.device("cpu"), broken=failed)
    if failed:  # what is left would be another set of trials
        raise DataError(
            f"{len(failed)} of {len(images)} images do not decode: {'; '.join(list(failed.values())[:3])}; {AGAIN}"
        )
    return OneShotRuns(name=name, images=decoded, runs=tuple(runs), key=digest.hexdigest())


def _pairs(key: Path) -> list[tuple[Path, Path]]:
    """Each line's test image and training image, which are there."""
    try:
        lines = key.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{key} cannot be read as text ({type(error).__name__}); {FORM}") from error
    pairs: list[tuple[Path, Path]] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise DataError(f"{key}, line {number}: {shown(line)} is not a test image and a training image; {FORM}")
        pair = (_place(key, words[0], number), _place(key, words[1], number))
        if pair[0] in (query for query, _ in pairs):
            raise DataError(f"{key}, line {number}: {words[0]} has a line already; each test image is of one class")
        pairs.append(pair)
    if not pairs:
        raise DataError(f"{key} is empty; {FORM}")
    return pairs


def _place(key: Path, word: str, number: int) -> Path:
    """The file that ``word`` names, from the folder around the run, whatever the run's folder is called now."""
    below = PurePosixPath(word.replace("\\", "/"))
    places = (key.parent.parent / below, key.parent / PurePosixPath(*below.parts[1:]), key.parent / below)
    found = next((place for place in places if place.is_file()), None)
    if found is None or ".." in below.parts or below.is_absolute():
        raise DataError(f"{key}, line {number}: there is no image {word}; {AGAIN}")
    return found
