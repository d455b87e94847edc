"""Near-copies: what they find of a picture that came back changed, and what they leave alone."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from simclr.data import near_copies as module
from simclr.data.near_copies import fingerprints, near_copies


def photos(count: int, side: int, seed: int) -> Tensor:
    """Pictures with the spectrum of photographs, amplitude 1 / frequency, uint8 (N, 3, side, side)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    frequency[0, 0] = 1
    noise = np.fft.fft2(rng.normal(size=(count, 3, side, side))) / frequency
    pictures = np.fft.ifft2(noise).real
    pictures -= pictures.min((1, 2, 3), keepdims=True)
    return torch.from_numpy((255 * pictures / pictures.max((1, 2, 3), keepdims=True)).astype(np.uint8))


def as_files(images: Tensor, side: int, quality: int) -> Tensor:
    """Resized and written as JPEG, as another program would have."""
    found = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side)).save(file, "JPEG", quality=quality)
        found.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return torch.stack(found)


PHOTOS = photos(60, 96, 0)


@pytest.mark.parametrize(
    "changed",
    [
        lambda images: images,
        lambda images: (0.7 * images.float()).byte(),
        lambda images: (255 * (images / 255) ** 1.5).byte(),
        lambda images: as_files(images, 96, 50),
        lambda images: as_files(images, 48, 75),
        lambda images: as_files(images, 150, 75),
        lambda images: torch.roll(images, (2, -1), (2, 3)),
        lambda images: images.float() / 255,
    ],
    ids=["same", "darker", "gamma", "JPEG", "half size", "larger", "moved", "float"],
)
def test_a_picture_that_came_back_changed_is_found_beside_pictures_that_did_not(
    changed: Callable[[Tensor], Tensor],
) -> None:
    test = changed(PHOTOS[40:])
    found = near_copies(fingerprints(PHOTOS), fingerprints(test))
    assert int(found.copied.sum()) >= 19
    assert (found.nearest[found.copied] == torch.arange(40, 60)[found.copied]).all()
    assert not near_copies(fingerprints(PHOTOS[:40]), fingerprints(test)).copied.any()


def test_digits_have_no_near_copies_and_every_one_is_its_own() -> None:
    digits = torch.from_numpy(load_digits().images * 15.9).to(torch.uint8).unsqueeze(1).expand(-1, 3, -1, -1)
    for images in (digits, F.interpolate(digits.float(), (16, 16), mode="bilinear").byte()):
        prints = fingerprints(images)
        assert not near_copies(prints[:1438], prints[1438:]).copied.any()
        assert near_copies(prints, prints[:300]).copied.all()


def test_flat_pictures_are_copies_of_nothing() -> None:
    flat = torch.arange(0, 250, 25, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 40, 40)
    ramp = (torch.linspace(0, 1, 40) * torch.rand(10, 1, 1, 1, generator=torch.Generator().manual_seed(0))).expand(
        -1, 3, 40, 40
    )
    for images in (flat, ramp, (255 * ramp).byte()):
        prints = fingerprints(images)
        found = near_copies(prints, prints)
        assert not found.copied.any()


def test_blocks_change_nothing_and_find_what_one_product_does(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = fingerprints(PHOTOS), fingerprints(torch.cat([PHOTOS[::7], photos(30, 96, 2)]))
    whole = near_copies(train, test)
    for name, value in (("_BLOCK", 7), ("_CANDIDATES", 11), ("_PAIRS", 2)):
        monkeypatch.setattr(module, name, value)
    parts = near_copies(train, test)
    assert torch.equal(whole.copied, parts.copied) and torch.equal(whole.nearest, parts.nearest)
    assert whole.copied.tolist() == [True] * 9 + [False] * 30


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels_and_an_empty_side(channels: int) -> None:
    images = torch.randint(256, (5, channels, 20, 30), generator=torch.Generator().manual_seed(0)).byte()
    prints = fingerprints(images)
    assert near_copies(prints, prints).copied.all()
    assert not near_copies(prints[:0], prints).copied.any()
    assert len(near_copies(prints, prints[:0]).copied) == 0
    with pytest.raises(ValueError, match="other channels"):
        near_copies(prints, fingerprints(images[:, :1].repeat(1, channels + 1, 1, 1)))
