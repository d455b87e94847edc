"""Frozen features: order, exactly once, the encoder untouched, and what is refused."""

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch import distributed as dist

from linear_eval import Features, encoder_digest, extract_features, pixel_features
from linear_eval.features.disk import FeatureWriter
from linear_eval.features.extract import check_features
from linear_eval.features.frozen import frozen
from simclr.errors import CheckpointError, ConfigError, DataError


class Numbered:
    """N images; image i is filled with i, its label is i modulo 3."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.append(index)
        return torch.full((3, 4, 4), index, dtype=torch.uint8), index % 3


class Resident:
    """A set that is one tensor; reading single images would be the slow path."""

    def __init__(self, pixels: Tensor, labels: Tensor | None) -> None:
        self.pixels = pixels
        self.labels = labels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise AssertionError("single images of a resident set are not to be read")


class MeanPixel(nn.Module):
    """Features (mean, 2 x mean) of the pixels as they come."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.float().flatten(1).mean(1, keepdim=True)
        return torch.cat([mean, 2 * mean], 1)


def small_encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_every_image_exactly_once_and_in_order(batch_size: int) -> None:
    images = Numbered(10)
    features = extract_features(MeanPixel(), images, batch_size)
    assert images.read == list(range(10))
    assert torch.equal(features.x, torch.stack([torch.arange(10.0), 2 * torch.arange(10.0)], 1))
    assert torch.equal(features.y, torch.arange(10) % 3)
    assert torch.equal(features.index, torch.arange(10))
    assert (features.x.dtype, features.y.dtype, features.index.dtype) == (torch.float32, torch.int64, torch.int64)


def test_batch_norm_uses_and_keeps_its_running_statistics() -> None:
    encoder = small_encoder()
    encoder[1].running_mean.uniform_(-1, 1)
    encoder[1].running_var.uniform_(0.5, 2)
    encoder.train()
    encoder[3].eval()
    before = copy.deepcopy(encoder.state_dict())
    images = torch.rand(7, 3, 6, 6)
    features = extract_features(encoder, list(images), 4)

    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert [module.training for module in encoder] == [True, True, True, False, True, True]
    assert encoder.training
    assert not features.x.requires_grad and all(p.grad is None for p in encoder.parameters())

    conv = torch.conv2d(images.double(), before["0.weight"].double(), before["0.bias"].double(), padding=1)
    mean, var = before["1.running_mean"].double(), before["1.running_var"].double()
    normed = (conv - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    expected = normed.clamp_min(0).mean((2, 3))
    assert torch.allclose(features.x.double(), expected, atol=1e-5)


class CountsItsCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.float().flatten(1)


def test_an_encoder_that_changes_in_eval_mode_is_refused() -> None:
    encoder = CountsItsCalls()
    with pytest.raises(RuntimeError, match="encoder changed"):
        extract_features(encoder, Numbered(3))
    assert encoder.training


def test_modes_come_back_when_the_encoder_fails() -> None:
    encoder = nn.Sequential(nn.Linear(5, 2), nn.Dropout())
    with pytest.raises(RuntimeError):
        extract_features(encoder, [torch.rand(1, 2, 2)])
    assert encoder.training and encoder[1].training


def test_a_block_inside_another_leaves_the_proof_to_the_outer_one() -> None:
    encoder = small_encoder().train()
    with frozen(encoder) as outer:
        with frozen(encoder) as inner:
            assert inner == outer == encoder_digest(encoder)
        assert not encoder.training and not any(module.training for module in encoder)
    assert encoder.training and all(module.training for module in encoder)
    with pytest.raises(RuntimeError, match="changed while"), frozen(encoder), frozen(encoder):
        encoder[1].running_mean += 1
    with pytest.raises(ValueError, match="of its own"), frozen(encoder):
        raise ValueError("an error of its own")
    # Neither a change that was found nor another error leaves the encoder without a proof for the next time.
    with pytest.raises(RuntimeError, match="changed while"), frozen(encoder):
        encoder[1].running_mean += 1


def test_another_encoder_in_a_block_has_a_proof_of_its_own() -> None:
    one, two = small_encoder(), small_encoder()
    with frozen(one), pytest.raises(RuntimeError, match="changed while"), frozen(two):
        two[1].running_mean += 1


def test_digest_sees_one_bit_of_any_tensor_and_nothing_else() -> None:
    encoder = small_encoder()
    digest = encoder_digest(encoder)
    assert encoder_digest(copy.deepcopy(encoder).eval()) == digest
    for name in encoder.state_dict():
        other = copy.deepcopy(encoder)
        other.state_dict()[name].view(-1).view(torch.uint8)[0] ^= 1
        assert encoder_digest(other) != digest, name


def test_resident_sets_are_read_as_one_tensor() -> None:
    pixels = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1).expand(7, 3, 2, 2)
    features = extract_features(MeanPixel(), Resident(pixels, torch.arange(7) + 5), 3)
    assert torch.equal(features.x[:, 0], torch.arange(7.0))
    assert features.y.tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert extract_features(MeanPixel(), Resident(pixels, None), 3).y.tolist() == [-1] * 7


def test_pil_images_float_images_and_missing_labels() -> None:
    array = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    as_pil = extract_features(MeanPixel(), [(Image.fromarray(array), 2), (Image.fromarray(array).convert("L"), None)])
    assert as_pil.x[0, 0].item() == pytest.approx(array.mean(), rel=1e-6)
    assert as_pil.y.tolist() == [2, -1]
    as_float = extract_features(MeanPixel(), [torch.full((1, 2, 2), 0.25)])
    assert as_float.x.tolist() == [[0.25, 0.5]] and as_float.y.tolist() == [-1]


def test_half_precision_gives_float32_features() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    images = list(torch.rand(6, 3, 4, 4))
    exact, half = (extract_features(encoder, images, autocast=kind).x for kind in (None, torch.bfloat16))
    assert half.dtype == torch.float32
    assert not torch.equal(exact, half) and torch.allclose(exact, half, atol=2e-2)


def test_workers_give_the_same_features() -> None:
    alone, shared = (extract_features(MeanPixel(), Numbered(9), 2, workers=workers) for workers in (0, 1))
    assert torch.equal(alone.x, shared.x) and torch.equal(alone.y, shared.y)


def _share(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        images = Numbered(7)
        features = extract_features(MeanPixel(), images, 2)
        if rank == 0:  # alone, while the other process does not call
            assert torch.equal(extract_features(MeanPixel(), Numbered(7), distributed=False).x, features.x)
        # Whole batches of two; of one image the first process gets none.
        for count, shares in ((7, ([0, 1, 2, 3], [4, 5, 6])), (1, ([], [0]))):
            own = Numbered(count)
            written = extract_features(MeanPixel(), own, 2, out=f"{folder}/features")
            assert torch.equal(written.x[:, 0], torch.arange(float(count))) and written.mapped
            assert torch.equal(written.y, torch.arange(count) % 3) and torch.equal(written.index, torch.arange(count))
            assert own.read == shares[rank]
    finally:
        dist.destroy_process_group()
    torch.save((features.x, features.y, features.index, images.read), Path(folder) / f"rank-{rank}.pt")


def test_two_processes_share_the_images_and_both_get_all_of_them(ranks, tmp_path: Path) -> None:
    ranks(2, _share, str(tmp_path))
    whole = extract_features(MeanPixel(), Numbered(7))
    read = []
    for rank in range(2):
        x, y, index, own = torch.load(tmp_path / f"rank-{rank}.pt")
        assert torch.equal(x, whole.x) and torch.equal(y, whole.y) and torch.equal(index, whole.index)
        read += own
    assert sorted(read) == list(range(7))


def test_raw_pixels_are_pixels_and_bounded() -> None:
    small = torch.randint(256, (5, 3, 8, 6), dtype=torch.uint8)
    features = pixel_features(Resident(small, torch.arange(5)))
    assert np.allclose(features.x.numpy(), small.numpy().reshape(5, -1) / 255, atol=1e-7)
    large = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    blocks = large.numpy().reshape(2, 3, 32, 2, 32, 2).mean((3, 5)) / 255
    assert np.allclose(pixel_features(Resident(large, None)).x.numpy(), blocks.reshape(2, -1), atol=1e-6)


def test_subset_keeps_rows_together() -> None:
    features = extract_features(MeanPixel(), Numbered(6))
    part = features.subset(torch.tensor([4, 1]))
    assert part.x[:, 0].tolist() == [4.0, 1.0] and part.y.tolist() == [1, 1] and part.index.tolist() == [4, 1]
    assert features.subset(features.y == 0).index.tolist() == [0, 3]

    assert features.subset(features.y >= 0) is features  # nothing to leave out, nothing to copy


def three(seed: int = 0, count: int = 3) -> Features:
    x = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    return Features(x, torch.arange(count) - 1, torch.arange(count) + 2**40)


@pytest.mark.parametrize("mmap", [True, False])
def test_files_give_back_every_bit(tmp_path: Path, mmap: bool) -> None:
    features = three()
    features.x[0, 0], features.x[0, 1] = torch.nan, -0.0
    features.save(tmp_path / "deep" / "er")
    again = Features.load(tmp_path / "deep" / "er", mmap=mmap)
    assert torch.equal(again.x.view(torch.int32), features.x.view(torch.int32)) and again.x.is_contiguous()
    assert torch.equal(again.y, features.y) and torch.equal(again.index, features.index)
    assert again.mapped == mmap
    assert np.array_equal(np.load(tmp_path / "deep" / "er" / "x.npy")[1:], features.x.numpy()[1:])  # anyone can read it
    again.x.zero_()
    assert not torch.equal(Features.load(tmp_path / "deep" / "er").x[1:], again.x[1:])


def test_saving_again_replaces_and_may_read_what_it_replaces(tmp_path: Path) -> None:
    for seed, count in ((0, 5), (1, 3)):
        three(seed, count).save(tmp_path / "f")
    mapped = Features.load(tmp_path / "f")
    assert torch.equal(mapped.x, three(1).x)
    mapped.save(str(tmp_path / "f"))
    assert torch.equal(Features.load(tmp_path / "f").x, three(1).x)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f"]
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["digests.json", "index.npy", "x.npy", "y.npy"]


@pytest.mark.parametrize("shares", [[(0, 3)], [(0, 1), (1, 2)], [(0, 0), (0, 2), (2, 1)]], ids=str)
def test_the_digests_are_those_of_the_files_whoever_wrote_the_rows(
    shares: list[tuple[int, int]], tmp_path: Path
) -> None:
    """Several writers stand for several processes: each has some consecutive rows."""
    features, folder = three(), tmp_path / "f"
    writers = [FeatureWriter(folder, 3, start) for start, _ in shares]
    writers[0].begin()
    for writer, (start, count) in reversed(list(zip(writers, shares, strict=True))):
        rows = slice(start, start + count)
        if count:
            writer.append(features.x[rows], features.y[rows], features.index[rows])
        writer.close()
    writers[0].finish(torch.tensor([4, 4, 5]))
    said = json.loads((folder / "digests.json").read_text())["files"]
    assert set(said) == {"x.npy", "y.npy", "index.npy", "groups.npy"}
    for name, pieces in said.items():
        content = (folder / name).read_bytes()
        for size, digest in pieces:
            assert hashlib.sha256(content[:size]).hexdigest() == digest
            content = content[size:]
        assert content == b""
    assert len(said["x.npy"]) == sum(count > 0 for _, count in shares)
    assert torch.equal(Features.load(folder).x, features.x)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*said, "digests.json"])


@pytest.mark.parametrize("name", ["x.npy", "y.npy", "index.npy", "groups.npy"])
def test_a_bit_that_flipped_is_refused_unless_nobody_looks(name: str, tmp_path: Path) -> None:
    features = replace(three(), groups=torch.tensor([4, 4, 5]))
    features.save(tmp_path / "f")
    content = bytearray((tmp_path / "f" / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / "f" / name).write_bytes(content)
    for mmap in (True, False):
        with pytest.raises(CheckpointError, match=rf"{name} is not as it was written: its SHA-256 is another"):
            Features.load(tmp_path / "f", mmap=mmap)
    assert len(Features.load(tmp_path / "f", check=False)) == 3


def test_features_of_before_load_with_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    three().save(tmp_path / "f")
    (tmp_path / "f" / "digests.json").unlink()
    assert torch.equal(Features.load(tmp_path / "f").x, three().x)
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path / 'f'} holds features of an earlier version, without digests")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "[" * 100_000, '{"format": 2, "files": {}}', '{"format": 1, "files": {}}', '{"format": 1, "files": 3}',
     '{"format": 1, "files": {"x.npy": [[1]], "y.npy": [], "index.npy": []}}',
     '{"format": 1, "files": {"x.npy": [[1e400, ""]], "y.npy": [], "index.npy": []}}',
     '{"format": 1, "files": {"x.npy": [[-7, ""]], "y.npy": [], "index.npy": []}}'],
)  # fmt: skip
def test_digests_that_cannot_be_are_refused_in_one_line(content: str, tmp_path: Path) -> None:
    three().save(tmp_path / "f")
    (tmp_path / "f" / "digests.json").write_text(content)
    with pytest.raises(CheckpointError) as error:
        Features.load(tmp_path / "f")
    assert str(error.value).startswith(str(tmp_path / "f")) and "\n" not in str(error.value)


@pytest.mark.parametrize("call", ["fsync", "rename", "last rename"])
def test_a_disk_that_refuses_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    three(0).save(tmp_path / "f")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr("os.fsync", full)
        else:
            rename = Path.rename
            patch.setattr(
                Path,
                "rename",
                lambda path, to: full() if call == "rename" or "partial" in path.name else rename(path, to),
            )
        with pytest.raises(CheckpointError, match=r"could not be written .*No space left.*untouched"):
            three(1).save(tmp_path / "f")
    assert torch.equal(Features.load(tmp_path / "f").x, three(0).x)
    three(1).save(tmp_path / "f")  # what the failure left behind is in nobody's way
    assert torch.equal(Features.load(tmp_path / "f").x, three(1).x)


def test_foreign_folders_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    (tmp_path / "file").write_text("")
    for name, expected in (("photos", "cat.jpg"), ("file", "is a file")):
        with pytest.raises(CheckpointError, match=expected):
            three().save(tmp_path / name)
        with pytest.raises(CheckpointError, match=expected):
            extract_features(MeanPixel(), Numbered(3), out=tmp_path / name)
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "meow"


@pytest.mark.parametrize("mmap", [True, False])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, mmap: bool) -> None:
    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-3])

    cases = [
        ("x.npy", cut, "x.npy is damaged"),
        ("y.npy", cut, "y.npy is damaged"),
        ("x.npy", lambda path: path.write_bytes(b""), "x.npy is damaged"),
        ("x.npy", lambda path: path.write_text("not an array"), "x.npy is damaged"),
        ("x.npy", Path.unlink, "x.npy is missing"),
        ("index.npy", Path.unlink, "index.npy is missing"),
        ("x.npy", lambda path: np.save(path, np.zeros((3, 5))), "holds float64"),
        ("x.npy", lambda path: np.save(path, np.zeros((3, 5), np.float32).T.copy().T), "C order"),
        ("y.npy", lambda path: np.save(path, np.zeros((3, 1), np.int64)), r"shape \(3, 1\)"),
        ("y.npy", lambda path: np.save(path, np.zeros(4, np.int64)), "'y': 4"),
        ("y.npy", lambda path: np.save(path, np.array([object()] * 3), allow_pickle=True), "y.npy is damaged"),
    ]
    for number, (name, damage, expected) in enumerate(cases):
        folder = tmp_path / str(number)
        three().save(folder)
        damage(folder / name)
        with pytest.raises(CheckpointError, match=expected) as caught:
            Features.load(folder, mmap=mmap)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="missing"):
        Features.load(tmp_path / "nowhere", mmap=mmap)


def test_a_file_larger_than_memory_is_mapped_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three().save(tmp_path / "f")
    load = np.load

    def refusing(path: Path, mmap_mode: str | None = None, **options: bool) -> np.ndarray:
        if mmap_mode == "c":
            raise OSError(12, "Cannot allocate memory")
        return load(path, mmap_mode=mmap_mode, **options)

    monkeypatch.setattr(np, "load", refusing)
    assert torch.equal(Features.load(tmp_path / "f").x, three().x)


def test_features_written_as_they_come_are_those_of_memory(tmp_path: Path) -> None:
    encoder = small_encoder()
    images = [(image, i % 4) for i, image in enumerate(torch.rand(10, 3, 6, 6))]
    expected = extract_features(encoder, images, 3)
    written = extract_features(encoder, images, 3, out=tmp_path / "f")
    assert written.mapped and torch.equal(written.x, expected.x)
    assert torch.equal(written.y, expected.y) and torch.equal(written.index, expected.index)


def test_an_encoder_that_fails_half_way_leaves_no_features(tmp_path: Path) -> None:
    images = [torch.rand(3, 4, 4)] * 4 + [torch.rand(3, 5, 5)]
    with pytest.raises(DataError, match=r"image 4 .* one size"):
        extract_features(
            nn.Sequential(nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten()), images, 3, out=tmp_path / "f"
        )
    with pytest.raises(CheckpointError, match="missing"):
        Features.load(tmp_path / "f")


def test_what_makes_no_sense_is_refused_in_one_line() -> None:
    x, y, index = torch.rand(4, 2), torch.tensor([0, -1, 1, -1]), torch.tensor([10, 11, 12, 13])
    broken = x.clone()
    broken[2, 1] = torch.nan
    broken[3, 0] = torch.inf
    cases = [
        (lambda: check_features(Features(x, y, index), "training"), "without a label in the training set: 11, 13"),
        (lambda: check_features(Features(x, torch.full((4,), -1), index), "test"), "test set has no labels"),
        (lambda: check_features(Features(broken, y.abs(), index), "test"), "images 12, 13"),
        (lambda: check_features(Features(x[:0], y[:0], index[:0]), "test"), "test set is empty"),
        (lambda: Features(x, y[:2], index), "do not belong together"),
        (lambda: Features(x, y.float(), index), "expected int64"),
        (lambda: extract_features(MeanPixel(), []), "empty"),
        (lambda: extract_features(nn.Identity(), Numbered(2)), r"\(2, F\)"),
        (lambda: extract_features(MeanPixel(), [torch.rand(3, 4, 4), torch.rand(3, 5, 4)]), "image 1 .* image 0"),
        (lambda: extract_features(MeanPixel(), ["a.png"]), "image 0 is a str"),
        (lambda: extract_features(MeanPixel(), [torch.rand(4, 4)]), "image 0"),
        (lambda: extract_features(MeanPixel(), Resident(torch.zeros(3, 1, 2, 2), torch.arange(2))), "one each"),
    ]
    for case, expected in cases:
        with pytest.raises(DataError, match=expected) as caught:
            case()
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        extract_features(MeanPixel(), Numbered(2), 0)
