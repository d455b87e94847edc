"""Squares of images of any shape, against the whole picture scaled and cut by Pillow, in bounded memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from simclr.data.decode import Reader
from simclr.data.squares import Fit, to_square


def smooth(height: int, width: int, bands: int) -> Tensor:
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 * (1 + np.sin((y + 1) * x / (height + width) / (band + 1) + band)) for band in range(bands)]
    return torch.from_numpy(np.stack(planes).astype(np.uint8))


def scaled(band: Tensor, width: int, height: int) -> np.ndarray:
    image = Image.fromarray(band.numpy())
    return np.array(image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0))


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("height", "width"), [(40, 64), (64, 40), (20, 20), (16, 16), (9, 300), (300, 9), (1, 50), (200, 210)]
)
def test_the_middle_is_that_of_the_whole_picture_scaled(height: int, width: int, bands: int) -> None:
    pixels = smooth(height, width, bands)
    found = to_square(pixels, 16)
    shorter = min(height, width)
    size = (max(16, round(16 * width / shorter)), max(16, round(16 * height / shorter)))
    left, top = (size[0] - 16) // 2, (size[1] - 16) // 2
    expected = np.stack([scaled(band, *size)[top : top + 16, left : left + 16] for band in pixels])
    assert found.shape == (bands, 16, 16) and found.dtype == torch.uint8
    assert np.abs(found.numpy().astype(int) - expected).max() <= (0 if max(height, width) <= 4 * shorter else 1)
    if (height, width) == (16, 16):
        assert torch.equal(found, pixels)


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_padding_keeps_all_of_the_picture_and_the_rest_is_black(bands: int) -> None:
    pixels = smooth(40, 80, bands)
    found = to_square(pixels, 20, "pad").numpy()
    assert not found[:, :5].any() and not found[:, 15:].any()
    assert np.array_equal(found[:, 5:15], np.stack([scaled(band, 20, 10) for band in pixels]))
    assert to_square(torch.full((bands, 1, 5000), 255, dtype=torch.uint8), 20, "pad").sum() == bands * 20 * 255


def test_stretching_keeps_all_of_the_picture_and_nothing_else() -> None:
    pixels = smooth(40, 80, 3)
    assert np.array_equal(to_square(pixels, 20, "stretch").numpy(), np.stack([scaled(band, 20, 20) for band in pixels]))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_file_becomes_the_same_square_as_its_pixels(fit: Fit, tmp_path: Path) -> None:
    pixels = smooth(50, 90, 3)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "x.png")
    reader = Reader(size=24, fit=fit)
    assert torch.equal(reader.square(tmp_path / "x.png"), to_square(reader.read(tmp_path / "x.png")[0], 24, fit))


def test_a_strip_takes_tens_of_megabytes_and_not_gigabytes(tmp_path: Path) -> None:
    for name, shape in {"tall": (65_000, 1), "wide": (1, 1_000_000)}.items():
        Image.fromarray(np.full(shape, 77, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    Image.new("RGB", (300, 300)).save(tmp_path / "warm.png")
    code = """if True:
        import resource
        from pathlib import Path
        from simclr.data.decode import Reader
        fits = "crop", "pad", "stretch"
        for fit in fits:
            Reader(size=224, fit=fit).square(Path("warm.png"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for name in ("tall", "wide"):
            for fit in fits:
                pixels = Reader(size=224, fit=fit).square(Path(f"{name}.png"))
                assert 77 in pixels.unique().tolist() and set(pixels.unique().tolist()) <= {0, 77}
                print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, name, fit)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    most = [
        int(line.split()[0]) for line in done.stdout.splitlines()
    ]  # the peak so far: nothing is hidden by what follows
    assert len(most) == 6 and max(most) < 60_000, f"kibibytes beyond those of an ordinary picture: {done.stdout}"
