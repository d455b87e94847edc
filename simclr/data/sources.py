"""Where images come from: ``load_source(config, split)`` gives any part of any set as an ImageSet."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from simclr.config import DataConfig
from simclr.config.sources import GIVEN, OWN_SOURCES, PACKED
from simclr.data.channels import with_channels
from simclr.data.decode import to_stored_size
from simclr.data.folder_parts import folder_parts, load_whole
from simclr.data.given import as_image_set
from simclr.data.image_set import ImageSet
from simclr.data.listing import listing_of
from simclr.data.omniglot import load_omniglot
from simclr.data.packed.sources import packed_parts
from simclr.data.parts_list import FILE, PartsList, listed_files
from simclr.data.splits import divide_classes, divide_training, hold_out
from simclr.errors import DataError

__all__ = ["Split", "has_validation", "list_parts", "load_source", "load_whole"]

Split = Literal["train", "validation", "test", "held-out"]


def load_source(config: DataConfig, split: Split, kept: PartsList | None = None) -> ImageSet:
    """A part of the set that ``config`` names, not decoded yet where it is files.

    ``train`` is what training sees. ``test`` has the same classes and is a part of the set's own where there is one; else
    ``config.test_fraction`` of every class. ``validation`` is a part of the set's own too; else the share of the training
    images, ``config.validation``, that is kept from training. ``held-out`` is every image, of both parts, of the classes that
    training never sees; Omniglot's are its evaluation alphabets. With ``kept`` a folder is what it was when that list was
    written: its files, in the parts it names.

    Raises:
        DataError: nothing there, nothing readable, a named set that is not on the disk and cannot be downloaded, or too
            little for the split that is asked for.
    """
    return _part(config, split, _own_parts(config, kept))


def list_parts(config: DataConfig, kept: PartsList | None = None) -> tuple[ImageSet, PartsList | None]:
    """The training images as ``load_source`` gives them, and the list of a folder to be written with a run; else None."""
    if config.source != "folder":
        return load_source(config, "train"), None
    own = folder_parts(config, kept)
    if "test" not in own:  # once for all that follows
        own |= {"train": hold_out(own["train"], config, "train"), "test": hold_out(own["train"], config, "test")}
    train = _part(config, "train", own)
    base = {"train": _load(config, "train", own), "test": _load(config, "test", own)}
    base |= {part: own[part] for part in ("validation", "unlabeled") if part in own}
    used: dict[str, ImageSet] = {"train": train}
    if config.validation or "validation" in own:
        used["validation"] = _part(config, "validation", own)
    if config.held_out_classes:
        used["held-out"] = _part(config, "held-out", own)
    used["test"] = _part(config, "test", own)
    assert config.path is not None
    classes = max((images.classes for images in base.values()), key=len)
    files = listed_files(config.path, base, used, own)
    trained = len(base["train"].classes)
    return train, PartsList(Path(FILE), files, classes, trained=trained, listing=listing_of(files.files))


def _part(config: DataConfig, split: Split, own: dict[str, ImageSet]) -> ImageSet:
    validates = "validation" in own
    if config.held_out_classes:
        whole = _load(config, "train", own)
        known, unknown = divide_classes(whole, config)
        if split == "held-out":
            return unknown(whole).joined(unknown(_load(config, "test", own)))
        images = known(own["validation"] if split == "validation" and validates else _load(config, split, own, whole))
    elif split == "held-out":
        if not config.keeps_classes_apart:
            raise DataError(f"no class of {config.source} is held out; set --data.held-out-classes, e.g. 0.4")
        return load_omniglot(config, "evaluation")
    else:
        images = own["validation"] if split == "validation" and validates else _load(config, split, own)
    if split == "test" or (split == "validation" and validates):
        return images
    return divide_training(images, replace(config, validation=0.0) if validates else config, split)


def has_validation(config: DataConfig) -> bool:
    """Whether there are images to watch training by: a share that ``config`` asks for, or a part of a folder's own."""
    return config.validation > 0 or "validation" in _own_parts(config)


def _load(config: DataConfig, split: Split, own: dict[str, ImageSet], training: ImageSet | None = None) -> ImageSet:
    """All training images, or the test images; ``own`` are the parts that a folder has by itself."""
    part: Literal["train", "test"] = "test" if split == "test" else "train"
    if part == "train" and training is not None:
        return training
    if config.source == "digits":
        return hold_out(with_channels(_digits(config), config.channels), config, part)
    if config.source == GIVEN:
        raise DataError(
            "the images were handed to simclr.pretrain in Python, and no command can load them; give images: --data.source "
            "folder --data.path DIR"
        )
    if config.source in OWN_SOURCES:
        return _own(config, part)
    if config.source == "omniglot":
        return hold_out(load_omniglot(config, "background"), config, part)
    if config.source not in ("folder", *PACKED):
        return with_channels(_torchvision(config, part), config.channels)
    # Images without a label that the set keeps apart are for training alone.
    images = own[part] if "test" in own else hold_out(own["train"], config, part)
    return images.joined(own["unlabeled"]) if part == "train" and "unlabeled" in own else images


def _own(config: DataConfig, part: Literal["train", "test"]) -> ImageSet:
    """What a source of the user's own gives; the test images have the numbers of the training images' classes."""
    name, load = config.source, OWN_SOURCES[config.source]
    found = load(config, "train")
    if found is None:
        raise DataError(f"the data source {name} gives None for its training images")
    train = as_image_set(found, config, name)
    test = load(config, "test")
    if test is None:
        return hold_out(train, config, part)
    if part == "train":
        return train
    images = as_image_set(test, config, f"{name}, test")
    return images if images.labels is None else images.relabelled(train.classes)


def _digits(config: DataConfig) -> ImageSet:
    from sklearn.datasets import load_digits

    digits = load_digits()
    gray = (digits.images * (255 / 16)).round().astype(np.uint8)  # (1797, 8, 8), values 0..16
    pixels = torch.from_numpy(gray)[:, None].expand(-1, 3, -1, -1)  # (N, 3, 8, 8)
    return ImageSet.from_pixels(
        torch.nn.functional.interpolate(pixels.float(), size=config.size, mode="bilinear").round().byte(),
        labels=torch.from_numpy(digits.target).long(),
        classes=tuple(str(c) for c in range(10)),
        name="digits",
    )


def _torchvision(config: DataConfig, split: Literal["train", "test"]) -> ImageSet:
    import torchvision

    root = config.path or Path("data")
    name = config.source
    sets = torchvision.datasets
    try:
        if name == "stl10":
            # Pretraining takes the labelled and the unlabelled images together, as the paper of the set intends.
            part = "train+unlabeled" if split == "train" else "test"
            stored = sets.STL10(root, split=part, download=config.download)
            pixels, labels, classes = stored.data.transpose(0, 2, 3, 1), stored.labels, stored.classes
        else:
            kind = sets.CIFAR10 if name == "cifar10" else sets.CIFAR100
            stored = kind(root, train=split == "train", download=config.download)
            pixels, labels, classes = stored.data, stored.targets, stored.classes
    except (OSError, RuntimeError) as error:
        archive = {
            "cifar10": "cifar-10-python.tar.gz",
            "cifar100": "cifar-100-python.tar.gz",
            "stl10": "stl10_binary.tar.gz",
        }[name]
        raise DataError(
            f"{name} is not in {root}/ and could not be downloaded ({str(error).splitlines()[0]}); "
            f"put {archive} from the set's home page into {root}/ and run the same command again"
        ) from error
    stored_pixels = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)  # (N, 3, H, W)
    if stored_pixels.shape[-1] != config.size:
        to_pil = torchvision.transforms.functional.to_pil_image
        stored_pixels = torch.stack([to_stored_size(to_pil(image), config.size) for image in stored_pixels])
    return ImageSet.from_pixels(
        stored_pixels.contiguous(), labels=torch.as_tensor(labels).long(), classes=tuple(classes), name=name
    )


def _own_parts(config: DataConfig, kept: PartsList | None = None) -> dict[str, ImageSet]:
    """The parts that a set of the user's own has by itself."""
    if config.source in PACKED:
        return {str(part): images for part, images in packed_parts(config).items()}
    return folder_parts(config, kept) if config.source == "folder" else {}
