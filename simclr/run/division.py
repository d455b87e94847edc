"""The images of a run that begins, and of one that goes on: those that its list names, in the parts that it names."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from simclr.config import TrainConfig
from simclr.config.yaml import load_config
from simclr.data import ImageSet
from simclr.data.loader import fits_on, place
from simclr.data.originals import LONGEST
from simclr.data.parts_list import FILE, PartsList, read_parts, write_parts
from simclr.data.sources import list_parts, load_source
from simclr.distributed import any_rank, rank
from simclr.errors import DataError, PipelineError
from simclr.exchange.description import find_encoder

__all__ = ["Division", "expect_whole_file", "kept_parts", "open_images", "place_images"]


def kept_parts(config: TrainConfig) -> PartsList | None:
    """The list that the run of ``config`` goes by, or None where its images are divided anew.

    Its own where it has begun; else that of the run around it (a run from scratch is beside the fine-tuned one) or of the run
    whose encoder it starts from, where that was trained on the same folder: no test image of one run is trained on by the
    other. Images that were added since then join training.

    Raises:
        CheckpointError: a damaged list.
    """
    own = read_parts(config.run_dir / FILE, strict=True)
    if own is not None or config.data.source != "folder" or (config.run_dir / "config.yaml").exists():
        return own
    starts = [Path(config.out)]
    if config.encoder.init is not None:
        with suppress(PipelineError):  # a file of another library
            starts.append(find_encoder(Path(config.encoder.init)).parent)
    for folder in starts:
        parts = read_parts(folder / FILE, extend=folder is not starts[0])
        if parts is None or not parts.any_of(config.data.path):
            continue
        try:
            drawn = load_config(folder / "config.yaml").data
        except PipelineError:
            continue
        same = (drawn.test_fraction, drawn.split_seed) == (config.data.test_fraction, config.data.split_seed)
        if same:
            return parts
    return None


class Division(NamedTuple):
    """How the images of a run are divided."""

    images: ImageSet
    """Those to train on."""

    kept: PartsList | None
    """The list that the run goes by; None where its images are divided anew."""

    listed: PartsList | None
    """What is to be written with the run; None where that is there already, or the set is no folder."""


def open_images(config: TrainConfig) -> Division:
    """The training images of ``config``, divided as its list says where it has one.

    Raises:
        DataError: images that are missing or changed since the run began, or as ``load_source``.
    """
    kept = kept_parts(config)
    if kept is None or not kept.strict:
        images, listed = list_parts(config.data, kept)
        return Division(images, kept, listed)
    images = load_source(config.data, "train", kept)
    assert config.data.path is not None
    kept.check_labels(config.data.path, images)
    return Division(images, kept, None)


def place_images(
    config: TrainConfig, images: ImageSet, device: torch.device, say: Callable[[str], object]
) -> tuple[TrainConfig, ImageSet]:
    """``images`` where they live while they are trained on, see ``place``; and the config with what was decided.

    Crops of files' own pixels are other crops than those of images that memory keeps with their shorter side at
    ``data.size``. So all processes do the same, and the run's config says which: it goes on so, whatever memory is free then.
    """
    where, shapes = config.data.device_resident, config.data.crops == "original" and images.pixels is None
    if shapes:
        if where == "auto":
            where = "no" if any_rank(not fits_on(device, images.nbytes * (1 + LONGEST)), device) else "yes"
        config = replace(config, data=replace(config.data, device_resident=where))
    return config, place(images, device, where, say, shapes)


def expect_whole_file(config: TrainConfig, error: DataError) -> None:
    """Where ``error`` is that a file of the run's list does not decode, let one of any size take its place."""
    parts, root = read_parts(config.run_dir / FILE), config.data.path
    if parts is None or root is None or rank():
        return
    named = next((file.name for file in parts.files if str(error).startswith(f"{root / file.name}: ")), None)
    if named is not None:
        write_parts(config.run_dir / FILE, parts.without_size_of(named))
