"""Files that are left out with ``data.broken=skip``: each is said and listed once, and what takes its place is chosen."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from simclr.data.image_set import ImageSet
from simclr.distributed import derive_seed, rank
from simclr.errors import DataError
from simclr.files import WriteError, atomically

__all__ = ["BAD_IMAGES", "LeftOut", "read_bad_images", "stand_ins"]

BAD_IMAGES = "bad_images.jsonl"
"""The list, in a run's folder."""

_SHARE, _FEW = 0.01, 2
"""More than this share of the training images, and more than so few, are no broken files but a disk or a copy that fails."""

When = Literal["start", "training", "scoring"]


class LeftOut:
    """The files that a run leaves out, and why: each is said once, however often and by whomever it is met, and listed once.

    The list is a line of JSON a file: ``path``; ``step``, how many steps were done; ``when``, which is ``start`` for what did
    not decode before the first step (no step ever sees it), else ``training`` or ``scoring``; and the ``reason``. It is
    written anew, beside its place, with every file that comes to it: a crash leaves whole lines.

    Args:
        say: where words go.
        known: the lines of a run that goes on, see ``read_bad_images``; nothing of them is said again. None for a new run.
        root: the folder of the images, below which a file keeps its name when the folder moves.
        file: the list; nothing is written before ``begin``.
    """

    def __init__(
        self,
        say: Callable[[str], object] = lambda _: None,
        known: Iterable[dict[str, Any]] | None = None,
        root: Path | None = None,
        file: Path | None = None,
    ) -> None:
        self.say, self.root, self.file, self.resumed = say, root, file, known is not None
        self.step = 0
        """How many steps are done."""
        self._begun = False
        self._lines: dict[str, dict[str, Any]] = {}
        for line in known or ():
            path = line["path"] if root is None or "file" not in line else str(root / line["file"])
            self._lines[path] = line | {"path": path}
        self._missed: set[str] = set()
        self._refused = False

    @property
    def at_start(self) -> frozenset[tuple[str, int]]:
        """Path and page of each image that was left out before the first step."""
        lines = self._lines.values()
        return frozenset((line["path"], n) for line in lines if line["when"] == "start" for n in line.get("pages", [0]))

    @property
    def since(self) -> frozenset[str]:
        """The paths of what broke afterwards."""
        return frozenset(path for path, line in self._lines.items() if line["when"] != "start")

    def new(self, broken: Mapping[str, str]) -> dict[str, str]:
        """Those of ``broken``, path -> what is wrong with it, that training did not miss yet."""
        return {path: reason for path, reason in broken.items() if path not in self._missed}

    def __call__(
        self, broken: Mapping[str, str], when: When = "scoring", pages: Mapping[str, list[int]] | None = None
    ) -> None:
        """Say and list those of ``broken`` that were not yet; ``pages`` are theirs, where not all of a file are."""
        if when == "training":
            self._missed.update(broken)
        fresh = {path: reason for path, reason in broken.items() if path not in self._lines}
        for path, reason in fresh.items():
            line = {"path": path, "step": self.step, "when": when, "reason": reason}
            if self.root is not None and Path(path).is_relative_to(self.root):
                line["file"] = Path(path).relative_to(self.root).as_posix()
            if pages is not None and path in pages:
                line["pages"] = pages[path]
            self._lines[path] = line
            if when != "start":
                self.say(f"left out, since it broke after the start: {reason}")
        if fresh:
            self._write()

    def miss(self, paths: Iterable[str]) -> None:
        """Count files that broke before a run went on, and still do not decode, to those that training misses."""
        self._missed.update(paths)

    def refuse_many(self, images: int) -> None:
        """Raise DataError where a run that has a list misses more than 1 % of so many images, and more than two files."""
        if self.file is None or len(self._missed) <= max(_FEW, _SHARE * images):
            return
        raise DataError(
            f"{len(self._missed)} of {images} training images broke since the run began, more than 1 %, "
            f"{min(self._missed)} among them; {self.file} lists them. Is the disk still there? Put the files back and run "
            f"the same command again: it goes on from the last checkpoint"
        )

    def begin(self, say: Callable[[str], object]) -> None:
        """From now on the list is kept, on the main process, and ``say`` is where words go."""
        self.say, self._begun = say, True
        self._write()

    def _write(self) -> None:
        if self.file is None or not self._begun or rank():
            return
        text = "".join(f"{json.dumps(line)}\n" for line in self._lines.values()).encode()
        try:
            atomically(self.file, lambda file: file.write(text))
            self._refused = False
        except WriteError as error:  # a list never ends a run; the next file that breaks is a chance to catch up
            if not self._refused:
                self.say(f"warning: {error}; the run goes on, and tries again with the next file that breaks")
            self._refused = True


def read_bad_images(file: Path) -> list[dict[str, Any]] | None:
    """The lines of ``file``, the list of what a run leaves out; None without one. Damaged lines are passed over."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    lines = []
    for text in content.split(b"\n"):
        try:
            line = json.loads(text.decode())
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and _is_whole(line):
            lines.append(line)
    return lines


def _is_whole(line: dict[str, Any]) -> bool:
    pages = line.get("pages", [0])
    return (
        all(isinstance(line.get(name), str) for name in ("path", "when", "reason"))
        and isinstance(line.get("file", ""), str)
        and isinstance(pages, list)
        and all(isinstance(page, int) for page in pages)
    )


def stand_ins(images: ImageSet, index: int, batch: Tensor, step: int) -> Iterator[int]:
    """Images that can take the place of image ``index`` in the global ``batch`` (B,) of ``step``, the best first.

    First those of its class (without labels: all) that are not in the batch, so that a batch of P classes of K images and
    a mined triplet stay what they are and no image is there twice; then others that are not in it; then those in it. The
    order is drawn by the step alone: it does not depend on processes or workers, and a step that is taken again is the same.

    >>> images = ImageSet.from_pixels(torch.zeros(6, 3, 8, 8), labels=torch.tensor([0, 0, 0, 1, 1, 1]), classes=(), name="")
    >>> [next(stand_ins(images, 0, torch.tensor([0, 1, 3]), step)) for step in range(3)]
    [2, 2, 2]
    """
    generator = torch.Generator().manual_seed(derive_seed("stand-in", step))
    order = torch.randperm(len(images), generator=generator)
    free = torch.ones(len(images), dtype=torch.bool)
    free[batch] = False
    kin = torch.ones_like(free) if images.labels is None else images.labels == images.labels[index]
    # Two images of a batch that break begin at different places of the order.
    place = int((batch == index).nonzero()[0]) if bool((batch == index).any()) else 0
    before = int(kin[batch[:place]].sum())
    for among in (free & kin, free & ~kin, ~free):
        candidates = order[among[order] & (order != index)]
        if len(candidates):
            yield from candidates.roll(-(before % len(candidates))).tolist()
