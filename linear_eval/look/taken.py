"""Features of all images of a set, each part taken as a score takes it, so that neither takes what the other kept."""

from collections.abc import Callable
from dataclasses import replace

import torch

from linear_eval.features.extract import Features
from linear_eval.features.images import all_labels
from linear_eval.features.kept import Kept, features_of_parts
from linear_eval.look.images import AllImages
from linear_eval.progress import default_device
from simclr.config import DataConfig
from simclr.exchange.encoder import Encoder

__all__ = ["decoded_later", "whole_features"]


def decoded_later(
    kept: Kept,
    found: AllImages,
    data: DataConfig,
    batch_size: int,
    say: Callable[[str], object] = lambda line: None,
) -> AllImages:
    """``found``, decoded as ``data`` says when it turns out to be needed; without what is to be left out."""
    parts = kept.later(*found.parts.values(), resident=data.device_resident, batch_size=batch_size, say=say)
    named = dict(zip(found.parts, parts, strict=True))
    same = all(len(part) == len(found.parts[name]) for name, part in named.items())
    return replace(found, parts=named) if same else AllImages.of(named)


def whole_features(
    kept: Kept,
    encoder: Encoder,
    found: AllImages,
    batch_size: int,
    autocast: torch.dtype | None,
    workers: int = 0,
) -> Features:
    """Features of all images ``found``, in their order as a whole.

    Args:
        kept: what is kept beside the run, and will be.
        encoder: the run's.
        found: the images, see ``decoded_later``.
        batch_size: images an encoder call.
        autocast: the type that the encoder runs in, or None.
        workers: processes that decode what is not in memory.

    Raises:
        DataError: no image, or one that does not decode.
    """
    parts = tuple(found.parts.values())
    x = features_of_parts(
        kept, "encoder", encoder, parts, batch_size, default_device(),
        workers=workers, autocast=autocast,
    )  # fmt: skip
    labels = all_labels(found.images)
    assert labels is not None
    x = x if found.order is None else x[found.order]
    return Features(x, labels, torch.arange(len(x)), groups=found.images.groups)
