"""What a run's encoder makes of every image of a set, beside the images themselves: what all that looks at a set begins with.

seen = look_at("runs/birds")
cosines, rows = nearest_rows(seen.x, seen.x[:10], k=5)      # linear_eval/look/neighbours.py
print(seen.names[0], [seen.names[row] for row in rows[0]])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from linear_eval.config import AUTOCAST, EvalConfig
from linear_eval.features.extract import check_features
from linear_eval.features.kept import Kept
from linear_eval.features.naming import Names, Naming
from linear_eval.keeping import kept_beside
from linear_eval.look.images import AllImages, Part, all_images
from linear_eval.look.taken import decoded_later, whole_features
from linear_eval.progress import default_device, print_line
from linear_eval.scored_run import ScoredRun
from simclr.config import DataConfig
from simclr.data import ImageSet
from simclr.data.places import chosen

__all__ = ["Seen", "look_at", "seen_images"]


PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """The images of a set, in one order: files by their paths, others as they are numbered."""

    x: Tensor
    """(N, F) float32 on the CPU: the encoder's features."""

    y: Tensor
    """(N,) int64: labels, -1 where there is none."""

    names: Sequence[str]
    """What each image is called: its path below the set's folder; part and number (`test/17`) in a set without files."""

    parts: Tensor
    """(N,) uint8: the part of each, see ``part``."""

    classes: tuple[str, ...]
    """Name of each label."""

    images: ImageSet
    """Row i is image i."""

    root: Path | None
    """The set's folder, below which files have their names."""

    note: str
    """Where the features came from, and how many of how many images they are of."""

    found: AllImages
    """The same images by parts, in the order in which features are taken."""

    config: EvalConfig
    """The protocol by which features are taken."""

    kept: Kept
    """What is kept of the images beside the run."""

    def __len__(self) -> int:
        return len(self.y)

    def part(self, row: int) -> Part:
        """The part that image ``row`` is in: ``train``, ``validation`` or ``test``."""
        return PARTS[int(self.parts[row])]

    def label(self, row: int) -> str:
        """The name of an image's class; nothing where it has no label."""
        return self.name_of(int(self.y[row]))

    def name_of(self, label: int) -> str:
        """The name of a class, its number where it has none, and nothing of -1."""
        return "" if label < 0 else self.classes[label] if label < len(self.classes) else str(label)


def look_at(
    run: ScoredRun | Path | str,
    data: DataConfig | None = None,
    *,
    most: int | None = None,
    seed: int = 0,
) -> Seen:
    """The features of all images of a set, as a score takes them: what a score or an earlier look kept is not taken again.

    Args:
        run: a run, or whatever else ``simclr.load_encoder`` takes.
        data: the images; the run's own if None, divided as the run divided them.
        most: where there are more images and no features of them are kept, take so many, drawn under ``seed`` evenly from
            every class of every part; None takes all.
        seed: of the draw.

    Raises:
        CheckpointError: no encoder there, or not all of it.
        DataError: no images, files that do not decode, or features that are not finite.
    """
    run = ScoredRun.at(run)
    data = run.images(data)
    found = all_images(run, data, kept=run.kept(data))
    kept = kept_beside(run, lambda line: None)
    return seen_images(run, data, found, kept, most=most, seed=seed)


def seen_images(
    run: ScoredRun,
    data: DataConfig,
    found: AllImages,
    kept: Kept,
    *,
    config: EvalConfig | None = None,
    most: int | None = None,
    seed: int = 0,
) -> Seen:
    """``look_at`` of the images ``found``, with features that ``kept`` has, and by the protocol ``config``."""
    config = run.default_protocol() if config is None else config
    say = partial(print_line, Console(stderr=True))
    encoder, device, autocast = run.encoder(), default_device(), AUTOCAST[config.precision]
    whole = found = decoded_later(kept, found, data, config.batch_size, say)
    names: Sequence[str] = Names(Naming(root=data.path, parts=whole.numbers), whole.images)
    if most is not None and len(whole.images) > most:
        known = (
            kept.look("encoder", encoder, part, config.batch_size, device, autocast) for part in whole.parts.values()
        )
        if any(one is None for one in known):
            found, rows = _draw(whole, most, seed)
            found, names = decoded_later(kept, found, data, config.batch_size, say), chosen(names, rows)
    features = whole_features(kept, encoder, found, config.batch_size, autocast, data.workers)
    check_features(features, "whole", labelled=False)
    images, total, count = found.images, len(found.images), len(whole.images)
    numbers = torch.cat(
        [torch.full((len(part),), PARTS.index(name), dtype=torch.uint8) for name, part in found.parts.items()]
    )
    if found.order is not None:
        numbers = numbers[found.order]
    whence = kept.found.get("encoder")
    note = f"features of {total:,} of {count:,} images" if total < count else f"features of all {total:,} images"
    note += f", drawn under seed {seed} evenly from every class" if total < count else ""
    some = "some of them " if "encoder" in kept.taken else ""  # of one part, say, where another has changed
    note += ", taken now" if whence is None else f", {some}kept by an earlier command ({whence})"
    return Seen(
        x=features.x,
        y=features.y,
        names=names,
        parts=numbers,
        classes=images.classes,
        images=images,
        root=data.path,
        note=note,
        found=found,
        config=config,
        kept=kept,
    )


def _draw(found: AllImages, most: int, seed: int) -> tuple[AllImages, Tensor]:
    """Of every class of each part, and of what has no label, the same share, at least one; and the rows (M,) of the whole."""
    share, parts, rows = most / len(found.images), dict[Part, ImageSet](), list[Tensor]()
    generator, before = torch.Generator().manual_seed(seed), 0
    for name, images in found.parts.items():
        labels = torch.full((len(images),), -1) if images.labels is None else images.labels
        drawn = [torch.empty(0, dtype=torch.int64)]
        for label in labels.unique().tolist():
            of_class = (labels == label).nonzero().flatten()
            count = max(1, round(share * len(of_class)))
            drawn.append(of_class[torch.randperm(len(of_class), generator=generator)[:count]])
        some = torch.cat(drawn).sort().values
        parts[name] = images.subset(some)
        rows.append(some + before)
        before += len(images)
    chosen_rows = torch.cat(rows)  # of the parts one after the other
    if found.order is not None:
        place = torch.empty_like(found.order)
        place[found.order] = torch.arange(len(place))
        chosen_rows = place[chosen_rows].sort().values
    return AllImages.of(parts), chosen_rows
