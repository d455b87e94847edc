"""Frozen features: every image through the encoder exactly once, and the encoder proven untouched.

>>> import torch
>>> features = Features(x=torch.eye(3), y=torch.tensor([0, 1, 1]), index=torch.arange(3))
>>> features.subset(torch.tensor([2, 0])).y
tensor([1, 0])
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader

from linear_eval.features.disk import FeatureWriter, read_features, write_features
from linear_eval.features.encode import EncodeShare, encode_batches
from linear_eval.features.frozen import encoder_digest, frozen
from linear_eval.features.images import ArrayImages, SizedImages, all_groups, as_images
from linear_eval.features.naming import Naming
from linear_eval.features.numbers import as_numbers, as_whole_numbers
from linear_eval.features.rows import parts_of
from linear_eval.features.shares import gather_shares, wait_for_all
from linear_eval.sharing import parts_of_whole_batches, team
from simclr.data import ImageSet
from simclr.errors import ConfigError, DataError
from simclr.progress import progress as bar

__all__ = [
    "Features",
    "check_features",
    "classes_to_fit",
    "encoder_digest",
    "extract_features",
    "frozen",
]


@dataclass(frozen=True)
class Features:
    """What an encoder says of N images; arrays, lists and tensors of other types become those named here."""

    x: Tensor
    """(N, F) float32 on the CPU."""

    y: Tensor
    """(N,) int64: labels, -1 where there is none."""

    index: Tensor
    """(N,) int64: number of the image in its set, for messages and for looking it up."""

    mapped: bool = field(default=False, compare=False)
    """Whether ``x`` is a memory-mapped file: scores then read it in chunks and make no copy of it in host memory."""

    groups: Tensor | None = None
    """(N,) int64, or None: images of one group are never on both sides where a probe chooses; -1 is a group of its own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", as_numbers(self.x, "features").to(torch.float32))
        for name, what in (("y", "labels"), ("index", "indices"), ("groups", "groups")):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_whole_numbers(getattr(self, name), what))
        if self.x.ndim != 2 or self.y.shape != self.x.shape[:1] or self.index.shape != self.y.shape:
            raise DataError(
                f"features of shape {tuple(self.x.shape)}, labels {tuple(self.y.shape)} and indices "
                f"{tuple(self.index.shape)} do not belong together: expected (N, F), (N,) and (N,)"
            )
        if self.groups is not None and self.groups.shape != self.y.shape:
            raise DataError(f"groups have the shape {tuple(self.groups.shape)}: expected {tuple(self.y.shape)}")

    def __len__(self) -> int:
        return len(self.y)

    def subset(self, rows: Tensor) -> "Features":
        """The rows chosen by position (int64) or by a mask (bool, (N,)).

        They are copied into memory, unless a mask chooses all of them.
        """
        if rows.dtype == torch.bool and rows.shape == self.y.shape and bool(rows.all()):
            return self
        groups = None if self.groups is None else self.groups[rows]
        return Features(self.x[rows], self.y[rows], self.index[rows], groups=groups)

    def save(self, folder: Path | str) -> None:
        """Write ``x.npy``, ``y.npy``, ``index.npy``, and ``groups.npy`` where there are groups, into ``folder``: all or none.

        With their SHA-256, in ``digests.json``.

        Features there are replaced.

        Raises:
            CheckpointError: the folder holds something else, or the disk refuses.
        """
        write_features(Path(folder), self.x, self.y, self.index, self.groups)

    @classmethod
    def load(cls, folder: Path | str, mmap: bool = True, check: bool = True) -> "Features":
        """Features that ``save`` or ``extract_features(out=...)`` wrote.

        Args:
            folder: where they are.
            mmap: leave ``x`` in its file and read it as it is used: 1.28M x 2048 features are 10.5 GB. What is written
                to such an ``x`` stays in memory and never reaches the file. (Where the file is larger than memory and
                swap together, Linux allows a read-only map alone, and writing to it ends the process.)
            check: look at every byte first, at some 500 MB a second; False takes the files as they are.

        Raises:
            CheckpointError: a file is missing, shorter than it says, was changed since it was written, or holds something
                else.
        """
        x, y, index, groups = read_features(Path(folder), mmap, check)
        return cls(x, y, index, mapped=mmap, groups=groups)


def _first(rows: Tensor, index: Tensor) -> str:
    found = index[rows].tolist()
    return ", ".join(map(str, found[:8])) + (f", ... ({len(found)} in all)" if len(found) > 8 else "")


def check_features(features: Features, name: str, *, labelled: bool = True) -> None:
    """Refuse what would make a score meaningless.

    Raises:
        DataError: no rows, rows with NaN or infinity, or (if ``labelled``) rows without a label; it names the images.
    """
    if len(features) == 0:
        raise DataError(f"the {name} set is empty: at least one image is needed")
    if labelled and (features.y < 0).any():
        missing = features.y < 0
        if missing.all():
            raise DataError(f"the {name} set has no labels: this score compares with labels, give a labelled set")
        raise DataError(f"images without a label in the {name} set: {_first(missing, features.index)}; leave them out")
    for part, x in parts_of(features.x):
        # A sum is finite unless a value is not, or it overflows: one read of x where nothing is wrong.
        if x.sum(dtype=torch.float64).isfinite():
            continue
        bad = ~x.isfinite().all(1)
        if bad.any():
            rows = _first(bad, features.index[part])
            raise DataError(
                f"features of the {name} set are NaN or infinite for images {rows}; the encoder has diverged"
            )


def classes_to_fit(train: Features, test: Features) -> tuple[Tensor, Tensor]:
    """Check two parts that a classifier is fitted and scored on: the labels there are (C,), and each row's among them (N,).

    Raises:
        DataError: as ``check_features``; widths that differ; fewer than two classes to fit.
    """
    check_features(train, "training")
    check_features(test, "test")
    if train.x.shape[1] != test.x.shape[1]:
        raise DataError(
            f"training features have {train.x.shape[1]} columns and test features {test.x.shape[1]}: "
            "take both from the same encoder"
        )
    classes, target = train.y.unique(return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"the training set has only the class {classes.item()}: a classifier needs at least two")
    return classes, target


def extract_features(
    encoder: nn.Module,
    dataset: SizedImages | ArrayImages | DataLoader[Any],
    batch_size: int = 256,
    device: torch.device | str | None = None,
    *,
    workers: int = 0,
    autocast: torch.dtype | None = None,
    distributed: bool = True,
    out: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    naming: Naming | None = None,
) -> Features:
    """Features of every image of ``dataset``, in order, each exactly once.

    The encoder runs in eval mode without gradient; its parameters and buffers are proven untouched by a digest before
    and after (of the whole ``frozen`` block, where this is called in one), and each submodule gets back the mode it had.
    Where torch.distributed is initialised every process encodes its share, whole batches of those that one process would
    make, and all of them get the whole. In a command that processes share (``linear_eval.sharing``) the others do theirs for
    the first one, which calls this alone.

    Args:
        encoder: images (B, C, H, W), uint8 or floating point in [0, 1] -> (B, F).
        dataset: a set of (image, label) or rows, see ``linear_eval.features.images.SizedImages``; arrays or tensors
            (N, H, W, C) uint8 or (N, C, H, W), alone or in a pair with labels (N,); a DataLoader, whose batches are taken as
            they come, ``index`` counting them. Images of several sizes become squares where ``encoder`` is one of ours.
        batch_size: images an encoder call, the last one may be smaller; a DataLoader has its own, and its own workers.
        device: where the encoder runs, moved there if need be; by default where its parameters are.
        workers: processes that read images of a set that is not one tensor.
        autocast: bfloat16 or float16 to run the encoder in; features are float32 in any case.
        distributed: share the images among the processes of torch.distributed, if it is initialised: all of them must
            call. False where one process evaluates alone.
        out: a folder to write the features to as they come, for more of them than memory holds: what is returned is
            ``Features.load(out)``, with ``x`` memory-mapped. Several processes must all see the folder.
        progress: called with (images done, images in all) of this process; without it a command shows a bar.
        naming: refuse features that are not finite before any of their batch is kept, and name the image so.

    Raises:
        ConfigError: a DataLoader with ``out``, or where several processes share the images: give its ``dataset``.
        DataError: an empty set, images or features of a wrong shape, or with ``naming`` features that are not finite.
        CheckpointError: ``out`` holds something else, or the disk refuses.
        RuntimeError: the encoder changed its own state.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: expected at least 1")
    if progress is None:
        with bar("features") as progress:
            return extract_features(
                encoder,
                dataset,
                batch_size,
                device,
                workers=workers,
                autocast=autocast,
                distributed=distributed,
                out=out,
                progress=progress,
                naming=naming,
            )
    first = next(encoder.parameters(), None)
    device = torch.device(device) if device is not None else torch.device("cpu") if first is None else first.device
    encoder.to(device)
    led = team() if distributed else None
    together = distributed and led is None and dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
    if isinstance(dataset, DataLoader):
        if out is not None or world > 1:
            raise ConfigError("a DataLoader does not say how many images it gives, nor which; give its dataset instead")
        z, y = encode_batches(encoder, dataset, device, autocast, progress)
        return Features(z, y, torch.arange(len(z)))
    dataset = as_images(dataset)
    if len(dataset) == 0:
        raise DataError("the set to take features of is empty: at least one image is needed")
    count = len(dataset)
    own = parts_of_whole_batches(count, batch_size, world)
    target = None if out is None else FeatureWriter(Path(out), count)
    job = EncodeShare(
        encoder=encoder,
        batch_size=batch_size,
        device=str(device) if led is None else device.type,
        workers=workers,
        autocast=autocast,
        naming=naming,
        count=count,
        out=None if target is None else target.folder,
    )
    if target is not None and rank == 0:
        target.begin()
    wait_for_all(world, device)
    found = None
    if led is not None and isinstance(dataset, ImageSet):
        encoder.cpu()  # it is sent
        found = led.run(job, dataset, batch_size, progress)
    if found is not None:
        labels, x = found
        y = torch.cat(labels)
    else:
        chosen = torch.arange(*own[rank])
        shown = None if progress is None else lambda done: progress(done, len(chosen))
        y, x = job.of_rows(dataset, chosen, shown)
    groups = all_groups(dataset)
    wait_for_all(world, device)
    if target is not None:
        if rank == 0:
            target.finish(groups)
        wait_for_all(world, device)
        return Features.load(target.folder, check=False)  # as it was written, just now
    if world > 1:
        x, y = gather_shares(x, y, own, device)
    assert x is not None
    return Features(x, y, torch.arange(count), groups=groups)
