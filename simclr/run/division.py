"""The images of a run that begins, and of one that goes on: those that its list names, in the parts that it names."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from simclr.config import TrainConfig
from simclr.config.sources import PACKED
from simclr.config.yaml import load_config
from simclr.data import ImageSet
from simclr.data.file_list import positions_of
from simclr.data.left_out import BAD_IMAGES, LeftOut, read_bad_images
from simclr.data.loader import fits_on, place_and_tell, say_left_out
from simclr.data.originals import LONGEST
from simclr.data.packed.kept import PackedList, expect_packed
from simclr.data.parts_list import FILE, PartsList, read_parts, write_parts
from simclr.data.rotations import with_rotations
from simclr.data.sources import list_parts, load_source
from simclr.data.splits import divide_training
from simclr.distributed import any_rank, gather_rare, rank
from simclr.errors import DataError, PipelineError
from simclr.exchange.description import find_encoder
from simclr.exchange.stopped_run import is_checkpoint
from simclr.run.checkpoint import Checkpoint
from simclr.run.given import NOTHING, Given, expect_given

__all__ = ["Division", "expect_whole_file", "kept_parts", "open_images", "open_left_out", "place_images", "place_part"]


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
    init = None if config.encoder.init is None else Path(config.encoder.init)
    if init is not None and is_checkpoint(init) is not None:
        starts.append(init.parent.parent)
    elif init is not None:
        with suppress(PipelineError):  # a file of another library
            starts.append(find_encoder(init).parent)
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

    listed: PartsList | PackedList | None
    """What is to be written with the run; None where that is there already, or the set is no files."""

    given: ImageSet | None = None
    """What they are a part of, where no source can load it."""


def open_images(config: TrainConfig, given: Given = NOTHING) -> Division:
    """The training images of ``config``, divided as its list says where it has one; or those that were ``given``.

    Raises:
        DataError: images that are missing or changed since the run began, or as ``load_source``.
        ConfigError: what the run was given before is not given now.
    """
    expect_given(config, given)
    if given.images is not None:
        return Division(divide_training(given.images, config.data, "train"), None, None, given.images)
    if config.data.source in PACKED:
        return Division(load_source(config.data, "train"), None, expect_packed(config.run_dir, config.data))
    kept = kept_parts(config)
    if kept is None or not kept.strict:
        images, listed = list_parts(config.data, kept)
        return Division(images, kept, listed)
    images = load_source(config.data, "train", kept)
    assert config.data.path is not None
    kept.check_labels(config.data.path, images)
    return Division(images, kept, None)


def open_left_out(config: TrainConfig, checkpoint: Checkpoint | None, say: Callable[[str], object]) -> LeftOut:
    """What the run of ``config`` leaves out; where it goes on from a checkpoint, what its list says to the main process.

    Where there are several processes all must call. Without a list, as in runs of earlier versions, nothing is known.
    """
    skips = config.data.broken == "skip"
    file = config.run_dir / BAD_IMAGES if skips else None
    known = read_bad_images(file) if file is not None and checkpoint is not None and not rank() else None
    known = next(iter(gather_rare(known)), None)
    if known:
        say(f"{len(known)} files that this run has left out so far are listed in {file}")
    left_out = LeftOut(say, known, config.data.path, file)
    if checkpoint is not None:
        left_out.step = checkpoint.progress.get("step", 0)
    return left_out


def place_images(
    config: TrainConfig, images: ImageSet, device: torch.device, left_out: LeftOut
) -> tuple[TrainConfig, ImageSet]:
    """``images`` where they live while they are trained on, see ``place_part``; and the config with what was decided.

    Crops of files' own pixels are other crops than those of images that memory keeps with their shorter side at
    ``data.size``. So all processes do the same, and the run's config says which: it goes on so, whatever memory is free then.

    Raises:
        DataError: files that do not decode, or a run that goes on while most of what broke in it is still broken.
        ConfigError: rotations of images that memory does not keep.
    """
    where, turned = config.data.device_resident, config.data.rotations
    shapes = config.data.crops == "original" and images.pixels is None and not turned
    if shapes:
        if where == "auto":
            where = "no" if any_rank(not fits_on(device, images.nbytes * (1 + LONGEST)), device) else "yes"
        config = replace(config, data=replace(config.data, device_resident=where))
    placed = place_part(images, device, where, left_out, shapes)
    if left_out.since:
        still: dict[int, str] = {}
        broke = positions_of(left_out.since, placed.places)
        if placed.pixels is None and not rank():
            again = [i for i in broke if not _decodes(placed, i)]
            still = {i: placed.describe(i) for i in again}
        for found in gather_rare(still or None):
            left_out.miss(found.values())
        left_out.refuse_many(len(placed))
    return config, with_rotations(placed) if turned else placed


def place_part(
    images: ImageSet,
    device: torch.device,
    where: Literal["auto", "yes", "no"],
    left_out: LeftOut,
    shapes: bool = False,
) -> ImageSet:
    """``images`` where they live, see ``place``, without those that are left out: the same ones in all processes.

    A run that goes on leaves out those that it began without, mended or not, so that its steps see what they would have seen;
    what broke since then is dealt with where it is met, but for a set that memory keeps.

    Raises:
        DataError: files that do not decode and are not to be skipped, or all of them; in all processes alike.
    """
    if (gone := left_out.at_start) and images.places:
        there = torch.ones(len(images), dtype=torch.bool)
        for i in positions_of({path for path, _ in gone}, images.places):
            there[i] = (images.describe(i), images.page(i)) not in gone
        images = images.subset(there.nonzero().flatten())
    placed, broken, fault = images, dict[int, str](), None
    try:
        placed, broken = place_and_tell(images, device, where, shapes, look=not left_out.resumed)
    except PipelineError as error:
        fault = error
    # What cannot be read here and now may be read elsewhere: all go by the union of it.
    met = gather_rare((fault, broken) if fault is not None or broken else None)
    for first, _ in met:
        if first is not None:
            raise first
    every = {number: reason for _, other in met for number, reason in other.items()}
    if len(every) > len(broken):
        own = [number for number in range(len(images)) if number not in broken]
        placed = placed.subset(torch.tensor([place for place, number in enumerate(own) if number not in every]))
    say_left_out(images, every, left_out.say)
    files: dict[str, list[int]] = {}
    for number in sorted(every):
        files.setdefault(images.describe(number), []).append(images.page(number))
    reasons = {images.describe(number): every[number] for number in sorted(every, reverse=True)}
    left_out(dict(sorted(reasons.items())), "start", files)
    return placed


def _decodes(images: ImageSet, index: int) -> bool:
    try:
        images[index]
    except DataError:
        return False
    return True


def expect_whole_file(config: TrainConfig, error: DataError) -> None:
    """Where ``error`` is that a file of the run's list does not decode, let one of any size take its place."""
    parts, root = read_parts(config.run_dir / FILE), config.data.path
    if parts is None or root is None or rank():
        return
    words = str(error).split(": ")  # a name may hold one
    named = {": ".join(words[:end]) for end in range(1, len(words))}
    if rows := positions_of(named, parts.columns.files.at(root)):
        at = np.flatnonzero(np.isin(parts.columns.rows, rows[:1]))
        write_parts(config.run_dir / FILE, parts.without_size_of(at.tolist()))
