"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each (Lake, Salakhutdinov, Tenenbaum 2015).

The division is its authors': 30 background alphabets to train on, 20 evaluation alphabets that training never sees.
"""

from pathlib import Path
from typing import Literal

import torch

from simclr.config.data import DataConfig
from simclr.data.decode import Reader
from simclr.data.image_set import ImageSet
from simclr.data.listing import list_images
from simclr.errors import DataError

__all__ = ["load_omniglot"]

Alphabets = Literal["background", "evaluation"]


def load_omniglot(config: DataConfig, alphabets: Alphabets) -> ImageSet:
    """All drawings of the ``background`` or the ``evaluation`` alphabets; a class is ``ALPHABET/characterNN``.

    The files lie below ``config.path`` (default: data/) in the folders of the published archives, images_background and
    images_evaluation, or in background and evaluation; else torchvision downloads them.

    Raises:
        DataError: they are not there and cannot be downloaded, or an alphabet has no folders of characters.
    """
    root = config.path or Path("data")
    folder = _find(root, alphabets) or _download(root, alphabets, config.download)
    paths = sorted(list_images(folder).paths)
    named = [path.relative_to(folder).parts[:-1] for path in paths]
    if astray := [path for path, parts in zip(paths, named, strict=True) if len(parts) != 2]:
        raise DataError(f"{astray[0]} does not lie in {folder}/ALPHABET/CHARACTER, as the drawings of Omniglot do")
    names = ["/".join(parts) for parts in named]
    classes = tuple(sorted(set(names)))
    number = {name: i for i, name in enumerate(classes)}
    return ImageSet.from_files(
        paths,
        Reader(size=config.size, channels=config.channels, fit=config.fit, max_pixels=config.max_pixels),
        labels=torch.tensor([number[name] for name in names]),
        classes=classes,
        name=f"omniglot, {alphabets} alphabets",
        broken=config.broken,
    )


def _find(root: Path, alphabets: Alphabets) -> Path | None:
    below = (root / "omniglot-py", root, root / "omniglot")
    places = [place / name for place in below for name in (f"images_{alphabets}", alphabets)]
    return next((place for place in places if place.is_dir()), None)


def _download(root: Path, alphabets: Alphabets, allowed: bool) -> Path:
    import torchvision

    try:
        stored = torchvision.datasets.Omniglot(str(root), background=alphabets == "background", download=allowed)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"omniglot is not in {root}/ and could not be downloaded ({str(error).splitlines()[0]}); put its folders "
            f"images_background and images_evaluation, from the archives of that name at github.com/brendenlake/omniglot, "
            f"into {root}/ and run the same command again"
        ) from error
    return Path(stored.target_folder)
