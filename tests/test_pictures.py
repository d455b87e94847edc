"""The contact sheet holds the pictures it is said to hold."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from augment import AugmentConfig, ViewGenerator
from simclr.run.pictures import write_contact_sheet


def test_the_sheet_shows_originals_and_denormalised_views(tmp_path: Path) -> None:
    # Two flat colours that no axis or text has: they must be found in the picture, in the right share.
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    images[0] = torch.tensor([200, 30, 90])[:, None, None]
    images[1] = torch.tensor([30, 180, 60])[:, None, None]
    config = AugmentConfig(size=16, jitter=0, gray=0, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    generator = ViewGenerator(config)
    parameters = generator.sample(2, (16, 16), seed=0)
    views = generator.apply(images, parameters)
    path = write_contact_sheet(
        tmp_path / "deep" / "views.png", images, views, parameters, mean=config.mean, std=config.std, title="a test"
    )
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    for colour in ([200, 30, 90], [30, 180, 60]):
        # An original and two views of each image; the outlines of the crops cover a little of the original.
        share = (np.abs(pixels - colour).max(-1) <= 2).mean()
        assert 2.5 * share / 3 < (np.abs(pixels - [200, 30, 90]).max(-1) <= 2).mean() < 3.5 * share / 3
        assert share > 0.15


def test_only_as_many_images_as_asked_for(tmp_path: Path) -> None:
    generator = ViewGenerator(AugmentConfig(views=5, size=8))
    images = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8)
    parameters = generator.sample(6, (8, 8), seed=0)
    views = generator.apply(images, parameters)
    heights = []
    for limit in (1, 4):
        path = write_contact_sheet(tmp_path / f"{limit}.png", images, views, parameters, limit=limit)
        with Image.open(path) as picture:
            heights.append(picture.height)
    assert heights[1] > 2.5 * heights[0]


def test_shapes_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    generator = ViewGenerator(AugmentConfig())
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    parameters = generator.sample(4, (32, 32), seed=0)
    views = generator.apply(images, parameters)
    with pytest.raises(ValueError, match="do not belong together"):
        write_contact_sheet(tmp_path / "x.png", images, views[:, :2], parameters)
