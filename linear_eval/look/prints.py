"""What raw pixels say of all images of a set: features of the baseline that needs no encoder, and fingerprints of copies."""

from torch import Tensor

from linear_eval.features.images import image_shape
from linear_eval.features.kept import features_of_parts
from linear_eval.features.pixels import RawPixels, affordable_size
from linear_eval.look.seen import Seen
from linear_eval.progress import default_device

__all__ = ["fingerprints_of", "pixels_of"]


def fingerprints_of(seen: Seen) -> Tensor:
    """Fingerprints (N, P) float16 of the images, see ``simclr.data.near_copies``; those of a score are not taken again."""
    return _raw(seen)[1]


def pixels_of(seen: Seen) -> Tensor:
    """Raw pixels (N, F) float32 of the images, of the size at which a score takes them."""
    return _raw(seen)[0]


def _raw(seen: Seen) -> tuple[Tensor, Tensor]:
    """Pixels and fingerprints of all images, part by part, as a score takes those of the training and the test images."""
    parts, config, channels = seen.found.parts, seen.config, seen.images.reader.channels
    first = next(part for part in parts.values() if len(part))
    raw = RawPixels(affordable_size(config.pixel_size, image_shape(first), seen.x.shape[1], len(first)))
    raw.with_fingerprints = True
    rows = features_of_parts(
        seen.kept, "raw pixels", raw, tuple(parts.values()), config.batch_size, default_device(),
        workers=config.workers,
    )  # fmt: skip
    if seen.found.order is not None:
        rows = rows[seen.found.order]
    width = rows.shape[1] - 1024 - 64 * channels
    return rows[:, :width].contiguous(), rows[:, width:].half()
