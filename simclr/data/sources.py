"""Where images come from: ``load_source(config, split)`` gives any part of any set as an ImageSet."""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import Tensor

from simclr.config import DataConfig
from simclr.data.decode import EXTENSIONS, Reader, to_stored_size
from simclr.data.image_set import ImageSet
from simclr.data.label_file import read_labels
from simclr.data.splits import divide_classes, divide_training, split_by_class
from simclr.errors import ConfigError, DataError

__all__ = ["Split", "load_source"]

Split = Literal["train", "validation", "test", "held-out"]

_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "val", "valid", "validation", "testing")


def load_source(config: DataConfig, split: Split) -> ImageSet:
    """A part of the set that ``config`` names, not decoded yet where it is files.

    ``train`` is what training sees and ``validation`` the share of it that is kept from it. ``test`` has the same classes
    and is a part of the set's own where there is one; else ``config.test_fraction`` of every class. ``held-out`` is every
    image, of both parts, of the classes that training never sees.

    Raises:
        DataError: nothing there, nothing readable, a named set that is not on the disk and cannot be downloaded, or too
            little for the split that is asked for.
    """
    if config.held_out_classes:
        whole = _load(config, "train")
        known, unknown = divide_classes(whole, config)
        if split == "held-out":
            return unknown(whole).joined(unknown(_load(config, "test")))
        images = known(_load(config, "test") if split == "test" else whole)
    elif split == "held-out":
        raise DataError(f"no class of {config.source} is held out; set --data.held-out-classes, e.g. 0.4")
    else:
        images = _load(config, "test" if split == "test" else "train")
    if split == "test":
        return images
    return divide_training(images, config, split)


def _load(config: DataConfig, split: Literal["train", "test"]) -> ImageSet:
    if config.source == "digits":
        return _held_out(_digits(config), config, split)
    return _folder(config, split) if config.source == "folder" else _torchvision(config, split)


def _digits(config: DataConfig) -> ImageSet:
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


def _folder(config: DataConfig, split: Literal["train", "test"]) -> ImageSet:
    root = config.path
    if root is None:
        raise ConfigError("data.source is folder but data.path is not set; give the folder of images: --data.path DIR")
    train_root, test_root = _part(root, _TRAIN_NAMES), _part(root, _TEST_NAMES)
    if train_root is None or test_root is None:
        everything = _files_below(root, config)
        return _held_out(everything, config, split)
    part = _files_below(train_root if split == "train" else test_root, config)
    if split == "test" and part.labels is not None:
        # The training part decides which label is which number.
        part = part.relabelled(_files_below(train_root, config).classes)
    return part


def _part(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _files_below(root: Path, config: DataConfig) -> ImageSet:
    if not root.exists():
        raise DataError(f"the folder {root} does not exist; give a folder of images: --data.path DIR")
    if not root.is_dir():
        raise DataError(f"{root} is a file; --data.path takes the folder that holds the images")
    unreadable: list[OSError] = []
    paths = []
    for folder, folders, names in os.walk(root, onerror=unreadable.append, followlinks=True):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and not _leads_back(Path(folder), n))
        paths += [
            Path(folder) / name
            for name in sorted(names)
            if Path(name).suffix.lower() in EXTENSIONS and not name.startswith(".")
        ]
    if unreadable:
        raise DataError(
            f"the folder {unreadable[0].filename} cannot be read ({unreadable[0].strerror}); check its rights"
        )
    if not paths:
        endings = " ".join(sorted(EXTENSIONS))
        raise DataError(f"no image below {root}; files with these endings are images: {endings}")
    if isinstance(config.labels, Path):
        assert config.path is not None
        labels, classes, values = read_labels(config.labels, config.path, paths)
    else:
        labels, classes = _labels(root, paths) if config.labels == "auto" else (None, ())
        values = None
    reader = Reader(
        size=config.size, channels=config.channels, fit=config.fit, max_pixels=config.max_pixels, value_range=None
    )
    return ImageSet.from_files(
        paths, reader, labels=labels, classes=classes, values=values, name=str(root), broken=config.broken
    )


def _leads_back(folder: Path, name: str) -> bool:
    """Whether ``name`` in ``folder`` is a link to that folder or one above it, which would go round in circles."""
    return (folder / name).is_symlink() and folder.resolve().is_relative_to((folder / name).resolve())


def _labels(root: Path, paths: list[Path]) -> tuple[Tensor | None, tuple[str, ...]]:
    first = [path.relative_to(root).parts[:-1][:1] for path in paths]
    if not all(first) or len(set(first)) < 2:
        return None, ()
    classes = tuple(sorted({parts[0] for parts in first}))
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[parts[0]] for parts in first]), classes


def _held_out(images: ImageSet, config: DataConfig, split: Literal["train", "test"]) -> ImageSet:
    if len(images) < 2:
        raise DataError(f"{images.name} has {len(images)} image; a training and a test part need at least 2")
    train, test = split_by_class(images, config.test_fraction, config.split_seed)
    return images.subset(train if split == "train" else test)
