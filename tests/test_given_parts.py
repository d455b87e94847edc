"""What Python hands to ``simclr.pretrain``: images of any kind, augmentation with its place, a loss of anybody's."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import kornia.augmentation as kornia
import lightly.loss
import numpy as np
import pytest
import pytorch_metric_learning.losses
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

import simclr
from simclr.command_line import parse_command
from simclr.config import DataConfig, TrainConfig
from simclr.config.yaml import load_config
from simclr.data.given import as_image_set, fingerprint
from simclr.errors import ConfigError, DataError
from simclr.losses import CrossEntropyConfig, EmbeddedBatch, GivenLoss, NTXentLoss, TripletLoss

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 20, 24, 3), dtype=np.uint8)
LABELS = [i % 3 for i in range(12)]
PICTURES = [Image.fromarray(one) for one in PIXELS]
CONFIG = DataConfig(size=16)


class Rows:
    """As Hugging Face's Dataset: rows with keys, columns by name, names of the labels in its features."""

    features: ClassVar[dict[str, Any]] = {
        "image": None,
        "label": type("ClassLabel", (), {"names": ["wren", "owl", "tit"]})(),
    }
    column_names = ("image", "label")

    def __len__(self) -> int:
        return len(PICTURES)

    def __getitem__(self, key: int | str) -> Any:
        return LABELS if key == "label" else {"image": PICTURES[key], "label": LABELS[key]}


class Own(Dataset[Any]):
    """Labels that only reading tells."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(PIXELS[index]).permute(2, 0, 1) / 255, torch.tensor(LABELS[index])


TENSORS = TensorDataset(torch.from_numpy(PIXELS).permute(0, 3, 1, 2), torch.tensor(LABELS))


@pytest.mark.parametrize(
    "images",
    [
        (PIXELS, LABELS),
        (PIXELS.transpose(0, 3, 1, 2), np.array(LABELS)),
        ([*PIXELS], torch.tensor(LABELS)),
        (PIXELS.astype(np.float64) / 255, np.array(LABELS, dtype=np.uint8)),
        list(zip(PICTURES, LABELS)),
        [{"img": picture, "label": label} for picture, label in zip(PICTURES, LABELS)],
        Rows(),
        Own(),
        TENSORS,
        ConcatDataset([Subset(TENSORS, range(5)), Subset(TENSORS, range(5, 12))]),
        "files",
        "pairs",
        "bytes",
    ],
    ids=lambda images: type(images).__name__ if not isinstance(images, str) else images,
)
def test_any_kind_of_images_is_what_pillow_makes_of_them(images: Any, tmp_path: Path) -> None:
    files = [tmp_path / f"{i:02d}.png" for i in range(12)]
    for picture, file in zip(PICTURES, files) if isinstance(images, str) else ():
        picture.save(file)
    if images == "files":
        images = ([str(file) for file in files], LABELS)
    elif images == "pairs":
        images = list(zip(files, LABELS))
    elif images == "bytes":
        images = [
            {"image": {"bytes": file.read_bytes(), "path": None}, "label": LABELS[i]} for i, file in enumerate(files)
        ]
    named = isinstance(images, list) and isinstance(images[0], tuple) and isinstance(images[0][0], Path)
    found = as_image_set(images, CONFIG)
    assert not named or found.paths == tuple(files)
    assert found.labels is not None and found.labels.dtype == torch.int64 and found.labels.tolist() == LABELS
    assert found.classes == (("wren", "owl", "tit") if isinstance(images, Rows) else ("0", "1", "2"))
    placed = found.resident(torch.device("cpu"))
    assert placed.pixels is not None
    for picture, lazy, pixels in zip(PICTURES, found, placed.pixels, strict=True):
        # scaled by the shorter side, and the middle
        wanted = picture.resize((19, 16), Image.Resampling.BILINEAR).crop((1, 0, 17, 16))
        assert torch.equal(pixels, torch.from_numpy(np.array(wanted)).permute(2, 0, 1))
        assert torch.equal(lazy[0], pixels)
    part = found.subset(torch.tensor([7, 2]))
    assert torch.equal(part[0][0], placed.pixels[7]) and part.describe(0) in (str(files[7]), f"image 7 of {found.name}")


def test_images_that_are_pixels_already_are_taken_as_they_are() -> None:
    gray = RNG.integers(0, 256, (5, 16, 16), dtype=np.uint8)
    for images, channels in ((gray, 3), (gray[:, None], 3), (gray[..., None], 1), (torch.from_numpy(gray), 1)):
        found = as_image_set(images, replace(CONFIG, channels=channels))
        assert found.pixels is not None and found.labels is None
        assert torch.equal(found.pixels, torch.from_numpy(gray)[:, None].expand(-1, channels, -1, -1))
    five = RNG.integers(0, 2**16, (3, 5, 20, 30), dtype=np.uint16)
    assert as_image_set(five, DataConfig(size=16, channels=5))[0][0].shape == (5, 16, 16)


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (["b", "a", None], ("a", "b"), [1, 0, -1]),
        ([7, -1, 3], ("3", "7"), [1, -1, 0]),
        ([True, False, True], ("0", "1"), [1, 0, 1]),
        ([np.int32(1), torch.tensor([0]), 1], ("0", "1"), [1, 0, 1]),
        ([None, None, None], (), None),
    ],
)
def test_labels_are_texts_or_numbers_and_some_may_be_missing(
    labels: list[Any], classes: tuple[str, ...], numbers: list[int] | None
) -> None:
    found = as_image_set((PIXELS[:3], labels), CONFIG)
    assert found.classes == classes and (None if found.labels is None else found.labels.tolist()) == numbers
    values = as_image_set((PIXELS[:3], [0.5, float("nan"), 2.0]), CONFIG)
    assert values.labels is None and values.values is not None and values.values.tolist()[::2] == [0.5, 2.0]


class Stream(IterableDataset[Any]):
    """Gone through once."""

    def __iter__(self) -> Any:
        return iter(PICTURES)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("pictures", "a folder is data.source='folder'"),
        (iter(PICTURES), "make a list of it"),
        (Stream(), "expected a Dataset of"),
        ({"train": PICTURES}, r"give one of its parts: images\['train'\]"),
        ([], "images is empty"),
        (PICTURES[0], "images is Image; expected a Dataset"),
        (PIXELS[0, 0], r"an array of shape \(24, 3\)"),
        (PIXELS.astype(np.int64), "image 0 of your ndarray holds int64; expected uint8"),
        (PIXELS.astype(np.float32), "holds floats from .* without a normalisation"),
        (np.where(PIXELS > 200, np.nan, PIXELS / 255), "image 0 of your ndarray holds values that are NaN; expected"),
        ([(PICTURES[0], PICTURES[1])], "several images: the views are made here"),
        ([([PICTURES[0], PICTURES[1]], 3)], "several images: the views are made here"),
        ([{"text": "a"}], "has the keys text, none of which is image"),
        ([(PICTURES[0], [1, 2])], "a label of your list is"),
        ((PIXELS, [0]), "12 images and 1 labels"),
    ],
)
def test_what_are_no_images_is_a_sentence(images: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        as_image_set(images, CONFIG)


class Breaks(Own):
    """Whose code fails at one image."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 4:
            raise KeyError("no such row")
        return super().__getitem__(index)

    targets = LABELS


def test_the_users_own_code_that_fails_is_named_with_its_line(tiny_run: TrainConfig) -> None:
    config = replace(tiny_run, train=replace(tiny_run.train, batch_size=4, knn_every=0))
    with pytest.raises(
        DataError,
        match=r"image 4 of your Breaks cannot be read: KeyError: 'no such row' \(.*test_given_parts\.py, line",
    ):
        simclr.pretrain(config, images=Breaks())


def test_the_digest_tells_other_images_and_says_where_they_vary() -> None:
    first = fingerprint(as_image_set((PIXELS, LABELS), CONFIG))
    assert first == fingerprint(as_image_set((PIXELS.copy(), LABELS), CONFIG))
    changed = PIXELS.copy()
    changed[0] = 255 - changed[0]
    for other in ((changed, LABELS), (PIXELS, LABELS[::-1]), (PIXELS[:11], LABELS[:11])):
        assert fingerprint(as_image_set(other, CONFIG)) != first

    class Moving(Own):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            image, label = super().__getitem__(index)
            return image * random.random(), label

    said = fingerprint(as_image_set(Moving(), CONFIG))
    assert "other pixels at each reading" in said and said == fingerprint(as_image_set(Moving(), CONFIG))


def digits(count: int = 96) -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images[:count] / 16, found.target[:count]


def shaken(images: Tensor) -> Tensor:
    """Draws from all three generators that people draw from."""
    draws = torch.rand(len(images), 1, 1, 1) * np.random.rand() * random.random()  # noqa: NPY002
    return images * (0.5 + draws / 2)


def align(z0: Tensor, z1: Tensor) -> Tensor:
    return (z0 - z1).square().sum(1).mean() + z0.mean(0).square().sum()


def test_a_run_of_ones_own_parts_goes_on_to_the_same_bits(
    tiny_run: TrainConfig, stop_after: Callable[[int], Any]
) -> None:
    config = replace(
        tiny_run,
        data=replace(tiny_run.data, device_resident="no", workers=1, limit=None),
        train=replace(tiny_run.train, batch_size=32, epochs=2, knn_every=0),
    )
    parts = {
        "images": digits(),
        "augment": (simclr.Before(shaken), simclr.After(kornia.RandomErasing(p=0.5))),
        "objective": align,
    }
    whole = simclr.pretrain(replace(config, name="whole"), **parts)
    with stop_after(4):
        assert simclr.pretrain(replace(config, name="stopped"), **parts).steps == 4
    with pytest.raises(ConfigError, match=r"given\.images: ndarray: 96 .* -> None"):
        simclr.pretrain(replace(config, name="stopped"), **{**parts, "images": None})
    with pytest.raises(ConfigError, match=r"given.objective: .*\.align -> .*shaken"):
        simclr.pretrain(replace(config, name="stopped"), **{**parts, "objective": shaken})
    with pytest.raises(ConfigError, match=r"given\.images"):
        simclr.pretrain(replace(config, name="stopped"), **{**parts, "images": digits(95)})
    resumed = simclr.pretrain(replace(config, name="stopped"), **parts)
    assert resumed.finished and resumed.steps == 6
    one, other = (load_file(run.encoder / "encoder.safetensors") for run in (whole, resumed))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_what_a_config_cannot_make_is_written_in_words_and_no_command_takes_it(tiny_run: TrainConfig) -> None:
    config = replace(tiny_run, train=replace(tiny_run.train, batch_size=32, epochs=1, knn_every=1))
    done = simclr.pretrain(config, images=digits(), objective=TripletLoss(mining="all"), augment=simclr.After(shaken))
    assert 0 <= done.metrics["online_knn"] <= 1 and "triplets" in done.metrics
    written = load_config(done.run_dir / "config.yaml")
    assert written.given.words().keys() == {"images", "after", "objective"}
    assert written.given.objective == (
        "simclr.losses.triplet.TripletLoss(margin=0.2, mining=all, distance=euclidean, reduction=active)"
    )
    assert '"not_rebuildable": {' in (done.encoder / "encoder.json").read_text()
    assert not (done.encoder / "head.json").exists()
    assert simclr.load_encoder(done.run_dir)(torch.rand(1, 3, 16, 16)).shape == (1, 16)
    with pytest.raises(ConfigError, match=r"goes on by the same call of simclr\.pretrain in Python"):
        simclr.pretrain(written)
    with pytest.raises(ConfigError, match=r"was handed its images and after and objective for"):
        parse_command([str(done.run_dir / "config.yaml")], "pretrain.py", "")
    with pytest.raises(ConfigError, match=r"data\.source is .elsewhere.; it must be one of"):
        parse_command(["digits", "--data.source", "elsewhere"], "pretrain.py", "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"augment": shaken}, r"say its place: augment=simclr.Before\(shaken\)"),
        (
            {"augment": (simclr.After(shaken), simclr.After(shaken))},
            "augment has After twice; make one function of both",
        ),
        ({"augment": simclr.Before(3)}, r"augment=Before\(int\): expected a function or a module"),
        ({"augment": simclr.After(lambda images: images[:1])}, r"made torch.float32 of shape \(1, 3, 8, 8\)"),
        ({"augment": simclr.Before(lambda images: images.byte())}, r"made torch.uint8"),
        ({"objective": 3}, "objective is int; expected a loss"),
        ({"objective": lambda: 0}, "takes no embeddings"),
        ({"objective": lambda a, b, c: a.mean()}, "compares at least 3 views"),
        ({"objective": lambda a, b: 0.5}, "gave float; expected one number, a tensor"),
        ({"objective": lambda a, b: (a - b)[0]}, r"gave a torch.float32 of shape \(16,\)"),
        ({"objective": lambda a, b: (a > b).sum()}, r"gave a torch.int64 of shape \(\); .* floating point"),
        ({"objective": lambda a, b: (a - b).detach().mean()}, "without a gradient"),
    ],
)
def test_a_part_that_cannot_work_is_refused_before_anything_is_written(
    given: dict[str, Any], said: str, tiny_run: TrainConfig
) -> None:
    with pytest.raises(ConfigError, match=said):
        simclr.pretrain(tiny_run, **given)
    assert not tiny_run.run_dir.exists()


def test_a_loss_is_called_as_its_arguments_are_named() -> None:
    z = torch.randn(2, 6, 8, requires_grad=True)
    batch = EmbeddedBatch(z, torch.tensor([0, 0, 1, 1, 2, 2]), torch.arange(6), seed=0)
    rows, labels = z.flatten(0, 1), batch.labels.repeat(2)
    theirs = pytorch_metric_learning.losses.ContrastiveLoss()
    assert torch.equal(GivenLoss(theirs).on_batch(batch), theirs(rows, labels))
    views = lightly.loss.NTXentLoss()
    assert torch.equal(GivenLoss(views).on_batch(batch), views(*z))
    own = NTXentLoss()
    assert torch.equal(GivenLoss(own).on_batch(batch), own(z)) and torch.equal(
        GivenLoss(own.forward).on_batch(batch), own(z)
    )
    assert torch.equal(
        GivenLoss(lambda z, target: (z.sum(1) * target).sum()).on_batch(batch), (rows.sum(1) * labels).sum()
    )
    assert GivenLoss(TripletLoss()).config.needs_labels and not GivenLoss(own).config.needs_labels
    with pytest.raises(ConfigError, match=r"takes 2 views, augment\.views is 3"):
        GivenLoss(align).on_batch(replace(batch, z=torch.randn(3, 6, 8)))


def test_validation_images_are_kept_from_those_that_are_given(tiny_run: TrainConfig) -> None:
    data = replace(tiny_run.data, validation=0.25, limit=None)
    train = replace(tiny_run.train, epochs=1, batch_size=16, knn_every=1)
    config = replace(tiny_run, data=data, train=train, objective=CrossEntropyConfig())
    done = simclr.pretrain(config, images=digits(64))
    assert done.steps == 3 and 0 <= done.metrics["validation_accuracy"] <= 1
    with pytest.raises(ConfigError, match=r"data\.held_out_classes=0\.4 is for images"):
        simclr.pretrain(replace(config, name="open", data=replace(data, held_out_classes=0.4)), images=digits(64))


def test_the_parameters_of_a_given_module_are_trained(tiny_run: TrainConfig) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
            return align(z0, z1) * self.scale.square()

    module = Scaled()
    simclr.pretrain(replace(tiny_run, train=replace(tiny_run.train, epochs=1, knn_every=0)), objective=module)
    assert module.scale.item() != 2.0
