"""The scores in somebody else's loop: their loaders, rows, arrays and lists, and scripts that are not run again."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import simclr
from augment import AugmentConfig
from linear_eval import Features, extract_features, few_labels, knn_accuracy, linear_probe
from simclr.config import EncoderConfig
from simclr.cores import threads_for
from simclr.errors import ConfigError, DataError
from simclr.exchange.encoder import export_encoder
from simclr.model.encoder import build_backbone

SMALL = EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16))


class Sums(nn.Module):
    """Features that tell images and channels apart: the sums of each channel's rows."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.ndim == 4 and images.shape[1] == 3
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        return pixels.sum(3).flatten(1)


PIXELS = torch.randint(256, (7, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 1])
LAST = PIXELS.permute(0, 2, 3, 1).numpy()


class Rows:
    """A table whose rows are dictionaries, as a Hugging Face dataset gives them."""

    def __len__(self) -> int:
        return len(LAST)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": f"x{index}", "image": Image.fromarray(LAST[index]), "label": int(LABELS[index])}


@pytest.mark.parametrize(
    "given",
    [
        DataLoader(TensorDataset(PIXELS, LABELS), batch_size=3),
        DataLoader([{"pixel_values": x, "labels": int(y)} for x, y in zip(PIXELS, LABELS, strict=True)], batch_size=2),
        Rows(),
        [{"img": image, "label": np.int32(y)} for image, y in zip(LAST, LABELS, strict=True)],
        (LAST, LABELS.numpy().astype(np.uint8)),
        (PIXELS, LABELS.int()),
        (PIXELS.numpy() / 255.0, LABELS.tolist()),
        (PIXELS.half() / 255, LABELS),
        (list(LAST), LABELS.tolist()),
        [(image, y) for image, y in zip(PIXELS, LABELS, strict=True)],
        [(Image.fromarray(image), int(y)) for image, y in zip(LAST, LABELS, strict=True)],
    ],
    ids=["loader", "loader of rows", "rows", "list of rows", "NHWC", "tensors", "NCHW float64", "half", "lists", "pairs", "PIL"],
)  # fmt: skip
def test_features_of_what_others_have(given: Any) -> None:
    found = extract_features(Sums(), given, batch_size=4)
    expected = (PIXELS.double() / 255).sum(3).flatten(1)
    loose = 2e-3 if isinstance(given, tuple) and getattr(given[0], "dtype", None) == torch.float16 else 1e-5
    torch.testing.assert_close(found.x, expected.float(), rtol=loose, atol=loose)
    assert torch.equal(found.y, LABELS) and torch.equal(found.index, torch.arange(7))


def test_arrays_alone_have_no_labels() -> None:
    assert extract_features(Sums(), LAST).y.tolist() == [-1] * 7
    assert extract_features(Sums(), DataLoader(PIXELS, batch_size=4)).y.tolist() == [-1] * 7
    alone = TensorDataset(PIXELS)  # gives (image,)
    for given in (alone, DataLoader(alone, batch_size=4)):
        found = extract_features(Sums(), given)
        assert torch.equal(found.x, extract_features(Sums(), PIXELS).x) and found.y.tolist() == [-1] * 7


def test_pictures_of_several_sizes_become_what_the_encoder_makes_of_each(tmp_path: Path) -> None:
    backbone, augment = build_backbone(SMALL, 16, seed=0), AugmentConfig(size=16, mean=(0.4,), std=(0.3,))
    encoder = simclr.load_encoder(
        export_encoder(backbone, tmp_path, config=SMALL, augment=augment, seed=0, training={})
    )
    rng = np.random.default_rng(0)
    shapes = ((20, 31, 3), (16, 16, 3), (9, 40, 3), (50, 12, 3))
    rows = [{"image": Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)), "label": 1} for shape in shapes]
    found = extract_features(encoder, rows)
    for row, z in zip(rows, found.x, strict=True):
        with torch.no_grad():
            alone = encoder(torch.from_numpy(np.array(row["image"])).permute(2, 0, 1)[None])[0]
        torch.testing.assert_close(z, alone, rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match="resize when the set is read"):
        extract_features(Sums(), rows)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("pictures", "the images are a str: expected a set"),
        (iter([1]), "expected a set of .image, label. with a length, a DataLoader"),
        (np.zeros((4, 5, 5, 2)), "5 channels"),
        (np.zeros((4, 3, 5, 5), dtype=np.int64), r"the images are int64 of shape \(4, 3, 5, 5\): expected uint8"),
        ((PIXELS, [1, 2]), "7 images and 2 labels"),
        ((LAST, ["cat"] * 7), "the labels are such as 'cat': expected whole numbers; number the classes first"),
        ((LAST, np.array(["cat"] * 7)), "the labels are such as .*'cat'.*: expected whole numbers"),
        ((PIXELS, LABELS / 2), "the labels are torch.float32 with fractions: expected whole numbers, one a class"),
        ([(PIXELS[0], "cat")], "the label of image 0 is 'cat': expected a whole number"),
        ([{"file": "x"}], "image 0 is a row with file: expected a column image or img"),
        ([3], "image 0 is a int: expected a tensor"),
        (DataLoader([(PIXELS[0][0], 1)]), "batch 0 of the DataLoader has images of"),
        ([], "the set to take features of is empty"),
    ],
)
def test_images_that_are_none(given: Any, said: str) -> None:
    class Any3(Sums):
        def forward(self, images: Tensor) -> Tensor:
            if images.shape[1] != 3:
                raise DataError(f"{images.shape[1]} channels")
            return super().forward(images)

    with pytest.raises(DataError, match=said):
        extract_features(Any3(), given)


def test_a_loader_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give its dataset instead"):
        extract_features(Sums(), DataLoader(PIXELS), out=tmp_path / "features")


X = torch.randn(40, 5, generator=torch.Generator().manual_seed(1)).bfloat16().double()  # what every type below holds
Y = torch.arange(40) % 3


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X.numpy(), Y.numpy()),
        (X.float().numpy(), Y.numpy().astype(np.uint8)),
        (X.bfloat16(), Y.to(torch.int16)),
        (X.requires_grad_(False), Y.double()),
        (X.tolist(), Y.tolist()),
        (X.numpy().astype(">f8"), Y.numpy().astype(np.uint64)),
    ],
    ids=["float64", "float32, uint8", "bfloat16, int16", "whole floats", "lists", "big-endian, uint64"],
)
def test_the_probe_takes_pairs_of_any_type(x: Any, y: Any) -> None:
    expected = linear_probe(Features(X.float(), Y, torch.arange(40)), Features(X.float(), Y, torch.arange(40)), (0.1,))
    found = linear_probe((x, y), (x, y), (0.1,))
    assert (found.accuracy, found.interval) == (expected.accuracy, expected.interval)
    assert knn_accuracy((x, y), (x, y), k=1) == 1.0
    assert few_labels((x, y), [x, y], (1,), 1, fractions=())[1]["images"] == 3


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (X, "the training set is Tensor: expected what extract_features gives, or a pair"),
        ((X,), "the training set is 1 values"),
        ((X[0], Y), r"have the shape \(5,\) and its labels \(40,\): expected \(N, F\) and \(N,\)"),
        ((X, Y[:3]), r"its labels \(3,\)"),
        ((X, ["cat"] * 40), "labels of the training set are list of what is no number .*'cat'.*number the classes"),
        ((X, Y + 0.5), "with fractions: expected whole numbers"),
    ],
)
def test_pairs_that_are_none(pair: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        linear_probe(pair, (X, Y))


def test_few_rows_are_fitted_in_one_thread_and_the_number_is_set_again() -> None:
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        linear_probe((X, Y), (X, Y), progress=lambda *_: seen.append(torch.get_num_threads()))
        assert set(seen) == {1} and torch.get_num_threads() == 2
        with pytest.raises(ConfigError), threads_for(1):
            raise ConfigError("stopped")
        assert torch.get_num_threads() == 2
        with threads_for(1 << 40):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_workers_do_not_run_the_script_again(tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text(
        textwrap.dedent("""
        import threading
        import torch
        from torch import nn
        from linear_eval import extract_features

        print("the script runs")
        pixels = [torch.full((3, 4, 4), number / 10) for number in range(6)]
        print(extract_features(nn.Flatten(), pixels, workers=2).x[:, 0].tolist())

        class Mine(torch.utils.data.Dataset):
            def __len__(self):
                return 6
            def __getitem__(self, index):
                return pixels[index], index

        print(extract_features(nn.Flatten(), Mine(), workers=2).y.tolist())
        stop = threading.Event()
        threading.Thread(target=stop.wait).start()
        try:
            extract_features(nn.Flatten(), Mine(), workers=2)
        except Exception as error:
            print(error)
        stop.set()
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, values, labels, refused = done.stdout.splitlines()
    assert first == "the script runs"
    assert [round(float(v), 4) for v in values.strip("[]").split(",")] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert labels == "[0, 1, 2, 3, 4, 5]"
    assert (
        refused.startswith("workers would have to run") and "where Mine is defined; put what it does below" in refused
    )
