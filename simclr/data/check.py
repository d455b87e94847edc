"""Looking through a folder of images before a night is spent on it: what does not decode, and what is there twice."""

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from simclr.config.data import DataConfig
from simclr.cores import share_of_cores
from simclr.data.decode import decode
from simclr.data.image_set import ImageSet
from simclr.data.sources import load_source
from simclr.errors import ConfigError, DataError

__all__ = ["FolderReport", "check_folder"]


@dataclass(frozen=True, kw_only=True)
class FolderReport:
    """What was found; the files in the order of their names."""

    parts: dict[str, int]
    """Image files of ``train`` and ``test``, as a run would divide them; those that do not decode are among them."""

    classes: dict[str, int]
    """Images of each class in both parts; empty without labels."""

    broken: dict[Path, str]
    """Files that do not decode, each with the reason."""

    duplicates: tuple[tuple[Path, ...], ...]
    """Groups of files with the same bytes."""

    leaked: tuple[tuple[Path, ...], ...]
    """Those of the groups that are in the training and in the test part."""

    contradicting: tuple[tuple[Path, ...], ...]
    """Those of the groups whose files are of different classes."""

    sizes: tuple[tuple[int, int], ...]
    """Width and height of every image that decodes."""

    modes: dict[str, int]
    """Images by format and colour mode."""

    def lines(self, most: int = 20) -> list[str]:
        """The report in words, naming at most ``most`` files of a kind."""
        total = sum(self.parts.values())
        said = [f"{total} image files: " + ", ".join(f"{count} {part}" for part, count in self.parts.items())]
        if self.classes:
            least, largest = (
                min(self.classes, key=self.classes.__getitem__),
                max(self.classes, key=self.classes.__getitem__),
            )
            said.append(
                f"{len(self.classes)} classes, from {self.classes[least]} images ({least}) to {self.classes[largest]} ({largest})"
            )
            said += [f"class {name} has one image only" for name, count in self.classes.items() if count == 1][:most]
        else:
            said.append("no labels: sub-folders do not divide all images, or labels are off")
        if self.sizes:
            shorter = sorted(min(size) for size in self.sizes)
            said.append(
                f"shorter side {shorter[0]} to {shorter[-1]} px, median {shorter[len(shorter) // 2]}; "
                + ", ".join(f"{count} {mode}" for mode, count in self.modes.items())
            )
        if self.duplicates:
            extra = sum(len(group) - 1 for group in self.duplicates)
            said.append(
                f"{extra} files are copies of others; groups of them in training and test alike: {len(self.leaked)}, in "
                f"several classes: {len(self.contradicting)}"
            )
            # Each group once, the worst of them first.
            worst = dict.fromkeys((*self.contradicting, *self.leaked, *self.duplicates))
            said += [f"  {self._fault(group)}{_named(group)}" for group in list(worst)[:most]]
            if len(worst) > most:
                said.append(f"  and {len(worst) - most} more")
        said.append(f"{len(self.broken)} files do not decode" + (":" if self.broken else ""))
        said += [f"  {reason}" for reason in list(self.broken.values())[:most]]
        if len(self.broken) > most:
            said.append(f"  and {len(self.broken) - most} more")
        return said

    def _fault(self, group: tuple[Path, ...]) -> str:
        faults = {"several classes": self.contradicting, "training and test": self.leaked}
        named = [fault for fault, groups in faults.items() if group in groups]
        return f"({', '.join(named)}) " if named else ""


def _named(group: tuple[Path, ...], most: int = 5) -> str:
    # A line break in a name would break the report.
    names = " = ".join(str(path) if str(path).isprintable() else repr(str(path)) for path in group[:most])
    return names + (f" = {len(group) - most} more" if len(group) > most else "")


def check_folder(config: DataConfig, progress: Callable[[int, int], None] | None = None) -> FolderReport:
    """Decode every image of a ``folder`` source once, in a thread a core, and compare all files byte by byte (SHA-256).

    Args:
        config: the images; what makes training see fewer of them is not looked at.
        progress: called with (files done, files in all).

    Raises:
        ConfigError: a source that is not a folder.
        DataError: no folder, or no image in it.
    """
    if config.source != "folder":
        raise ConfigError(f"data.source is {config.source}; only folders are looked through: --data.path DIR")
    whole = replace(config, held_out_classes=0.0, label_fraction=1.0, validation=0.0, limit=None)
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    parts: dict[str, ImageSet] = {split: load_source(whole, split) for split in splits}
    where = {path: split for split, images in parts.items() for path in images.paths or ()}
    class_of: dict[Path, str] = {}
    for images in parts.values():
        if images.labels is not None:
            labelled = zip(images.paths or (), images.labels.tolist(), strict=True)
            class_of |= {path: images.classes[label] for path, label in labelled if label >= 0}
    classes = Counter(class_of.values())
    broken: dict[Path, str] = {}
    digests: dict[str, list[Path]] = {}
    sizes, modes = [], Counter[str]()

    def visit(path: Path) -> tuple[Path, str, tuple[int, int] | None, str]:
        try:
            decode(path, whole.size)  # first: it refuses what reading would wait for, a pipe say
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            with Image.open(path) as image:
                return path, digest, image.size, f"{image.format} {image.mode}"
        except (DataError, OSError) as error:
            return path, "", None, str(error)

    with ThreadPoolExecutor(share_of_cores()) as pool:
        for done, (path, digest, size, said) in enumerate(pool.map(visit, sorted(where)), start=1):
            if size is None:
                broken[path] = said
            else:
                digests.setdefault(digest, []).append(path)
                sizes.append(size)
                modes[said] += 1
            if progress is not None:
                progress(done, len(where))
    groups = tuple(tuple(group) for group in digests.values() if len(group) > 1)
    return FolderReport(
        parts={split: len(images) for split, images in parts.items()},
        classes=dict(sorted(classes.items())),
        broken=broken,
        duplicates=groups,
        leaked=tuple(group for group in groups if len({where[path] for path in group}) > 1),
        contradicting=tuple(group for group in groups if len({class_of[p] for p in group if p in class_of}) > 1),
        sizes=tuple(sizes),
        modes=dict(modes.most_common()),
    )
