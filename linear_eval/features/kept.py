"""Features kept beside a run, so that the same images go through the same encoder once: ``RUN/features``.

Scoring again, looking for alike images and a report all want the features that the first score took; raw pixels and the
untrained encoder are the same for every run of a set, and are found beside the other runs in its folder. What is kept is a
folder of ``Features.save`` each, with its digests, named by what it depends on (``linear_eval/features/identity.py``): features
of other weights, images or settings have another name, and nobody has to say that they are out of date.
"""

import os
import re
import shutil
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from linear_eval.features.extract import Features, extract_features
from linear_eval.features.identity import digest_of_words, encoder_identity, images_identity
from linear_eval.features.images import SizedImages, all_groups, all_labels
from linear_eval.features.later import Later
from linear_eval.features.pixels import RawPixels
from simclr.data import ImageSet
from simclr.errors import CheckpointError, DataError
from simclr.exchange.encoder_module import Encoder

__all__ = ["FOLDER", "MOST_BYTES", "Kept", "features_of", "features_of_parts"]

FOLDER = "features"

MOST_BYTES = 1 << 30
"""Of all that a run keeps, and so of one set's features; what was used longest ago makes room."""

_FORMAT = 1
_LEFT = 3600.0
"""Seconds after which what is being written beside its place was left there by a process that was killed."""


class Kept(Later):
    """What a run keeps.

    Args:
        folder: where; None keeps nothing, and decodes images when they are needed all the same.
        others: folders of the same kind beside other runs, asked when features are looked for.
        say: called with a line: features that were not taken again, or could not be kept.
    """

    def __init__(
        self,
        folder: Path | None,
        others: Callable[[], Iterator[Path]] = lambda: iter(()),
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        super().__init__()
        self.folder, self.others, self.say = folder, others, say
        self.found: dict[str, Path] = {}
        """Name of each row whose features were not taken again, and where they were."""
        self.taken: set[str] = set()
        """Name of each row of which some features were."""
        self._digests: weakref.WeakKeyDictionary[ImageSet, str | None] = weakref.WeakKeyDictionary()

    def keeps(self, encoder: nn.Module, images: ImageSet) -> bool:
        """Whether features of so many images would be kept."""
        return self.folder is not None and _nbytes(encoder, images) <= MOST_BYTES

    def look(
        self,
        name: str,
        encoder: nn.Module,
        images: SizedImages,
        batch_size: int,
        device: torch.device,
        autocast: torch.dtype | None,
        mapped: bool = False,
    ) -> Features | None:
        """The features that are kept of ``images``; None where there are none."""
        key = self._key(encoder, images, batch_size, device, autocast)
        if key is None:
            return None
        assert isinstance(images, ImageSet)
        for folder in self._places(key):
            try:
                found = Features.load(folder, mmap=mapped)
                if len(found) != len(images):
                    raise CheckpointError(f"{folder} has {len(found)} rows: expected {len(images)}")
            except (CheckpointError, OSError) as error:
                self.say(f"kept features of {name} are not whole, and are taken again: {error}")
                continue
            with suppress(OSError):
                os.utime(folder)  # used last
            if name not in self.found:
                self.found[name] = folder.parent
                self.say(f"features of {name}: kept by an earlier command ({folder.parent}), not taken again")
            # A copy of torch's own, which lies in memory as features do that are taken: not a bit of a score may differ.
            x, labels = found.x if mapped else found.x.clone(), all_labels(images)
            assert labels is not None
            return Features(x, labels, torch.arange(len(images)), mapped=mapped, groups=all_groups(images))
        return None

    def keep(
        self,
        name: str,
        encoder: nn.Module,
        images: SizedImages,
        batch_size: int,
        device: torch.device,
        autocast: torch.dtype | None,
        features: Features,
    ) -> None:
        """Write ``features``, where they are not too large, and make room for them; a disk that refuses is a line."""
        key = self._key(encoder, images, batch_size, device, autocast)
        if key is None or self.folder is None or features.x.numel() * 4 > MOST_BYTES:
            return
        if not features.x.sum(dtype=torch.float64).isfinite():
            return  # whoever takes them says what is wrong
        slug = re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[:40] or "encoder"
        place = self.folder / f"{slug}.{key}"
        partial = self.folder / f".{uuid.uuid4().hex[:12]}.partial"
        try:
            # Not straight into its place: another process may be about to write the same.
            features.save(partial)
            if place.exists():
                shutil.rmtree(place)  # it was not whole
            partial.rename(place)
            self._make_room(slug, key)
        except (CheckpointError, OSError) as error:
            for left in self.folder.glob(
                f".*{partial.name}"
            ):  # and what it was made of, which would fill the disk further
                shutil.rmtree(left, ignore_errors=True)
            self.say(f"features of {name} are not kept for later: {error}")

    def _key(
        self,
        encoder: nn.Module,
        images: SizedImages,
        batch_size: int,
        device: torch.device,
        autocast: torch.dtype | None,
    ) -> str | None:
        """What features are called: 16 letters of the weights' digest, and 32 of that of all else."""
        if not isinstance(images, ImageSet) or not self.keeps(encoder, images):
            return None
        identity = encoder_identity(encoder, device, autocast)
        if identity is None:
            return None
        if images not in self._digests:
            self._digests[images] = images_identity(images)
        if (seen := self._digests[images]) is None:
            return None
        weights, how = identity
        digest = digest_of_words(_FORMAT, weights, how, seen, batch_size)
        return f"{weights[:16]}.{digest[:32]}"

    def _places(self, key: str) -> Iterator[Path]:
        assert self.folder is not None
        for folder in dict.fromkeys((self.folder, *self.others())):
            with suppress(OSError):
                yield from sorted(one for one in folder.glob(f"[!.]*.{key}") if one.is_dir())

    def _make_room(self, slug: str, key: str) -> None:
        """Remove what was taken of earlier weights under this name, and what was used longest ago above the bound."""
        assert self.folder is not None
        weights, kept = key.partition(".")[0], []
        for one in self.folder.iterdir():
            if one.name.startswith("."):
                if time.time() - one.stat().st_mtime > _LEFT:
                    shutil.rmtree(one, ignore_errors=True)
                continue
            name, *digests = one.name.split(".")
            if len(digests) != 2:
                continue  # not ours
            if name == slug and digests[0] != weights:
                shutil.rmtree(one, ignore_errors=True)
            else:
                kept.append((one.stat().st_mtime_ns, one, sum(file.stat().st_size for file in one.iterdir())))
        total = sum(size for _, _, size in kept)
        for _, one, size in sorted(kept):
            if total <= MOST_BYTES or one.name == f"{slug}.{key}":
                break
            shutil.rmtree(one, ignore_errors=True)
            total -= size


def features_of(
    kept: Kept | None,
    name: str,
    encoder: nn.Module,
    images: SizedImages,
    batch_size: int,
    device: torch.device,
    *,
    workers: int = 0,
    autocast: torch.dtype | None = None,
) -> Features:
    """``extract_features``, or what ``kept`` has of them; what had to be taken is kept.

    Args:
        kept: None takes them, and keeps nothing.
        name: the row that they are of, in lines and in the folder.
        encoder, images, batch_size, device, workers, autocast: as ``extract_features`` takes them.
    """
    if kept is not None:
        found = kept.look(name, encoder, images, batch_size, device, autocast)
        if found is not None:
            return found
        kept.taken.add(name)
    given = images if kept is None else kept.read(images)
    features = extract_features(encoder, given, batch_size, device, workers=workers, autocast=autocast)
    if kept is not None:
        kept.keep(name, encoder, images, batch_size, device, autocast, features)
    return features


def features_of_parts(
    kept: Kept,
    name: str,
    encoder: nn.Module,
    parts: Sequence[ImageSet],
    batch_size: int,
    device: torch.device,
    *,
    workers: int = 0,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """Features (N, F) of all images of several parts, one part after the other, each as ``features_of`` takes it."""
    taken = list[Tensor]()
    for part in parts:
        if len(part):
            found = features_of(kept, name, encoder, part, batch_size, device, workers=workers, autocast=autocast)
            taken.append(found.x)
    if not taken:
        raise DataError("the set to take features of is empty: at least one image is needed")
    return torch.cat(taken)


def _nbytes(encoder: nn.Module, images: ImageSet) -> int:
    """Bytes that the features will have; 0 where that is not known before."""
    if isinstance(encoder, RawPixels):
        side = min(encoder.bound, images.size)
        return 4 * len(images) * images.reader.channels * side * side
    return 4 * len(images) * encoder.features if isinstance(encoder, Encoder) else 0
