"""The encoder's files: what is written loads whole, and anything else is refused by name."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import simclr
from augment import AugmentConfig
from simclr.config import EncoderConfig
from simclr.errors import CheckpointError
from simclr.exchange.encoder import Encoder, export_encoder
from simclr.exchange.imported import start_from
from simclr.model.encoder import build_backbone

SMALL = EncoderConfig(name="resnet18", channels=(4, 4, 8, 8), layers=(1, 1, 1, 1))


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, Encoder]:
    backbone = build_backbone(SMALL, 32, seed=3)
    with torch.no_grad():
        for tensor in backbone.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.1)
    augment = AugmentConfig(size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    folder = export_encoder(backbone, tmp_path / "run" / "encoder", config=SMALL, augment=augment, seed=3, training={})
    return folder, Encoder(backbone, size=32, mean=augment.mean, std=augment.std).eval()


def as_before(folder: Path) -> dict[str, Any]:
    """What ``encoder.json`` of an earlier version says, which knew no digests."""
    described: dict[str, Any] = json.loads((folder / "encoder.json").read_text())
    del described["sha256"]
    return described


@pytest.mark.parametrize("way", ["run", "folder", "json", "safetensors"])
def test_it_loads_from_any_of_its_paths(way: str, exported: tuple[Path, Encoder]) -> None:
    folder, encoder = exported
    paths = {"run": folder.parent, "folder": folder, "json": folder / "encoder.json"}
    loaded = simclr.load_encoder(paths.get(way, folder / "encoder.safetensors"))
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded(images), encoder(images))
    assert not loaded.training
    assert loaded.features == 8


def test_whoever_may_read_one_file_may_read_the_other(exported: tuple[Path, Encoder], tmp_path: Path) -> None:
    folder, _ = exported
    (tmp_path / "plain").touch()  # as the umask says
    modes = {path.stat().st_mode for path in (*folder.iterdir(), tmp_path / "plain")}
    assert len(modes) == 1 and len(list(folder.iterdir())) == 2


def test_input_forms_agree_and_normalisation_is_applied(exported: tuple[Path, Encoder]) -> None:
    folder, _ = exported
    encoder = simclr.load_encoder(folder)
    images = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        features = encoder(images)
        assert torch.allclose(features, encoder(images.float() / 255))
        colour = images.expand(-1, 3, -1, -1)
        mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.2])
        by_hand = (colour.double() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        assert torch.allclose(features, encoder.backbone(by_hand.float()), atol=1e-5)
        assert encoder(torch.randint(0, 256, (2, 3, 50, 70), dtype=torch.uint8)).shape == (2, 8)


def test_untrained_is_the_start_of_the_run(exported: tuple[Path, Encoder]) -> None:
    folder, _ = exported
    untrained = simclr.load_encoder(folder, untrained=True)
    for ours, start in zip(untrained.backbone.parameters(), build_backbone(SMALL, 32, seed=3).parameters()):
        assert torch.equal(ours, start)


def test_another_backbone_is_refused_with_the_differences(exported: tuple[Path, Encoder]) -> None:
    folder, _ = exported
    described = as_before(folder)
    described["encoder"] |= {"channels": [4, 8, 8, 8]}
    (folder / "encoder.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match=r"layer2\.0\.conv1\.weight is float32 \(4, 4, 3, 3\), expected .*8, 4"):
        simclr.load_encoder(folder)


@pytest.mark.parametrize("change", ["missing", "extra", "dtype"])
def test_tensors_that_do_not_match_are_named(change: str, exported: tuple[Path, Encoder]) -> None:
    folder, _ = exported
    tensors = load_file(folder / "encoder.safetensors")
    if change == "missing":
        del tensors["bn1.weight"]
    elif change == "extra":
        tensors["fc.weight"] = torch.zeros(2)
    else:
        tensors["conv1.weight"] = tensors["conv1.weight"].half()
    save_file(tensors, folder / "encoder.safetensors")
    said = {"missing": "missing bn1.weight", "extra": "unexpected fc.weight", "dtype": "conv1.weight is float16"}
    with pytest.raises(CheckpointError, match=said[change]):
        simclr.load_encoder(folder)


@pytest.mark.parametrize("damage", ["cut weights", "cut json", "no weights", "nowhere", "empty folder", "unfinished"])
def test_damage_is_one_line(damage: str, exported: tuple[Path, Encoder], tmp_path: Path) -> None:
    folder, _ = exported
    weights, described = folder / "encoder.safetensors", folder / "encoder.json"
    if damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "cut json":
        described.write_text(described.read_text()[:40])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "nowhere":
        folder = tmp_path / "nowhere"
    else:
        folder = tmp_path / "other"
        folder.mkdir()
        if damage == "unfinished":
            (folder / "config.yaml").write_text("")
    with pytest.raises(CheckpointError) as error:
        simclr.load_encoder(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("number", [3, 99, "1", None])
def test_another_format_is_refused(number: Any, exported: tuple[Path, Encoder]) -> None:
    folder, _ = exported
    described = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps(described | {"format": number}))
    with pytest.raises(CheckpointError) as error:
        simclr.load_encoder(folder)
    said = f"{folder / 'encoder.json'} is of format {number!r}, this version reads 1 and 2; install the version"
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_the_digest_is_that_of_the_file(exported: tuple[Path, Encoder]) -> None:
    folder, _ = exported
    written = json.loads((folder / "encoder.json").read_text())["sha256"]
    assert written["encoder.safetensors"] == hashlib.sha256((folder / "encoder.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("by", ["load_encoder", "start_from", "untrained"])
@pytest.mark.parametrize("file", ["encoder.safetensors", "encoder.json"])
def test_a_changed_file_is_refused_whoever_loads_it(file: str, by: str, exported: tuple[Path, Encoder]) -> None:
    folder, _ = exported
    content = bytearray((folder / file).read_bytes())
    if file == "encoder.json":
        place = content.index(b"0.4")  # of the mean
        content[place : place + 3] = b"0.5"
    else:
        content[-6] ^= 1  # the lowest bits of a weight
    (folder / file).write_bytes(content)
    loads = {
        "load_encoder": lambda: simclr.load_encoder(folder),
        "start_from": lambda: start_from(build_backbone(SMALL, 32, seed=0), replace(SMALL, init=str(folder))),
        "untrained": lambda: simclr.load_encoder(folder, untrained=True),
    }
    if by == "untrained" and file == "encoder.safetensors":
        loads[by]()  # it takes none of the weights
        return
    said = "was changed since it was written" if file == "encoder.json" else "is not as it was written: its SHA-256"
    with pytest.raises(CheckpointError, match=said) as error:
        loads[by]()
    assert str(folder / file) in str(error.value) and "\n" not in str(error.value)


def test_spaces_and_the_order_of_keys_are_free(exported: tuple[Path, Encoder]) -> None:
    folder, _ = exported
    written = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps(dict(reversed(written.items()))))
    assert simclr.load_encoder(folder).features == 8


def test_an_encoder_of_before_loads_and_says_once_that_it_has_no_digest(
    exported: tuple[Path, Encoder], caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = exported
    (folder / "encoder.json").write_text(json.dumps(as_before(folder)))
    for _ in range(2):
        assert simclr.load_encoder(folder).features == 8
    (said,) = caplog.messages
    assert said.startswith(f"{folder / 'encoder.json'} was written without a SHA-256") and "\n" not in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": "32"}, r"size is '32'; expected a whole number from 2 to"),
        ({"size": 0}, "size is 0; expected"),
        ({"size": True}, "size is True; expected"),
        ({"size": 10**9}, "size is 1000000000; expected"),
        ({"mean": 0.5}, "mean is 0.5; expected null, or 1 or 3 finite numbers"),
        ({"mean": [0.5, 0.5]}, r"mean is \[0.5, 0.5\]; expected null, or 1 or 3 finite numbers"),
        ({"mean": None}, r"std is \[0.2, 0.3, 0.2\]; expected as many numbers as mean has"),
        ({"std": [0, 1, 1]}, r"std is \[0, 1, 1\]; expected null, or 1 or 3 finite numbers from 1e-30"),
        ({"std": [1, 1, float("nan")]}, r"std is \[1, 1, nan\]; expected"),
        ({"std": [1, 1, 10**400]}, r"std is \[1, 1, a whole number of 1329 bits\]; expected"),
        ({"features": 9}, "features is 9; expected 8"),
        ({"features": 8.0}, "features is 8.0; expected a whole number"),
        ({"init_seed": -1}, "init_seed is -1; expected a whole number from 0"),
        ({"init_seed": 2**70}, "init_seed is 1180591620717411303424; expected"),
        ({"channels": 0}, "channels is 0; expected"),
        ({"channels": 4}, r"mean is \[0.4, 0.5, 0.6\]; expected null, or 1 or 4 finite numbers"),
        ({"read_size": None}, "read_size is None; expected"),
        ({"fit": ["crop"]}, r"fit is \['crop'\]; expected one of crop, pad, stretch"),
        ({"value_range": [3, 3]}, r"value_range is \[3, 3\]; expected two numbers, the lower first"),
        ({"value_range": [0, float("inf")]}, r"value_range is \[0, inf\]; expected"),
        ({"deep_only": 1}, "deep_only is 1; expected one of False, True"),
        ({"deep_only": True}, "deep_only is True; expected false without a value_range"),
        ({"training": "long"}, "training is 'long'; expected keys and values"),
        ({"encoder": []}, r"encoder is \[\]; expected keys and values"),
        ({"encoder": {"name": 7}}, "encoder: name is 7; expected str"),
        ({"encoder": {"name": "resnet1"}}, "describes an encoder that cannot be built: encoder.name is 'resnet1'"),
        (
            {"encoder": {"channels": [10**9] * 4}},
            r"encoder\.channels is .*; expected numbers up to 64, the largest side",
        ),
        ({"encoder": {"channels": []}}, r"encoder: encoder.channels is \(\); it must be numbers of at least 1"),
        ({"encoder": {"patch_size": 0}}, r"encoder: encoder.patch_size is 0; it must be at least 1"),
        ({"encoder": {"layers": [10**7] * 4}}, r"encoder\.layers is .*; expected fewer blocks than"),
        ({"format": True}, "is of format True, this version reads 1 and 2"),
        ({"format": 1.0}, "is of format 1.0, this version reads 1 and 2"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_refused_by_its_key(
    change: dict[str, Any], said: str, exported: tuple[Path, Encoder]
) -> None:
    folder, _ = exported
    (folder / "encoder.json").write_text(json.dumps(as_before(folder) | change))
    with pytest.raises(CheckpointError, match=said) as error:
        simclr.load_encoder(folder)
    assert str(error.value).startswith(str(folder / "encoder.json")) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\xff{}", b"[]", b"7", b"[" * 100_000, b'{"format": ' + b"1" * 5000 + b"}"])
def test_what_is_no_description_is_one_line(content: bytes, exported: tuple[Path, Encoder]) -> None:
    folder, _ = exported
    (folder / "encoder.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"encoder\.json is damaged: ") as error:
        simclr.load_encoder(folder)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_refused_by_name(exported: tuple[Path, Encoder]) -> None:
    folder, _ = exported
    tensors = load_file(folder / "encoder.safetensors")
    tensors["bn1.weight"][2] = float("inf")
    save_file(tensors, folder / "encoder.safetensors")
    (folder / "encoder.json").write_text(json.dumps(as_before(folder)))
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors holds NaN or infinity, in bn1\.weight"):
        simclr.load_encoder(folder)


def test_the_backbone_stays_where_it_is_and_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = build_backbone(SMALL, 32, seed=3)
    backbone.layer1.eval()
    modes = {name: module.training for name, module in backbone.named_modules()}
    moved: list[object] = []
    # cpu(), to() and cuda() all go through here; without a GPU nothing else tells a move to where it is already.
    monkeypatch.setattr(backbone, "_apply", lambda move, *rest: moved.append(move) or backbone)
    export_encoder(backbone, tmp_path / "encoder", config=SMALL, augment=AugmentConfig(size=32), seed=3, training={})
    assert moved == []
    assert {name: module.training for name, module in backbone.named_modules()} == modes
    if torch.cuda.is_available():
        monkeypatch.undo()
        backbone.cuda()
        export_encoder(backbone, tmp_path / "gpu", config=SMALL, augment=AugmentConfig(size=32), seed=3, training={})
        assert all(tensor.is_cuda for tensor in backbone.state_dict().values())


def test_a_full_disk_leaves_the_encoder_that_was_there(exported: tuple[Path, Encoder], small_disk: Any) -> None:
    folder, encoder = exported
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with (
        small_disk(2_000),
        pytest.raises(CheckpointError, match=r"encoder\.safetensors could not be written .*too large"),
    ):
        export_encoder(encoder.backbone, folder, config=SMALL, augment=AugmentConfig(size=32), seed=4, training={})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_pretrained_is_never_downloaded_again(exported: tuple[Path, Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = exported
    described = as_before(folder)
    described["encoder"]["pretrained"] = True
    (folder / "encoder.json").write_text(json.dumps(described))
    seen = []
    monkeypatch.setattr("simclr.exchange.encoder.build_backbone", lambda c, *a: seen.append(c) or build_backbone(c, *a))
    simclr.load_encoder(folder)
    assert seen == [replace(SMALL, pretrained=False)]


@pytest.mark.parametrize(
    ("images", "error", "said"),
    [
        (Image.new("RGB", (8, 8)), TypeError, r"images are PIL\.Image\.Image: .*pil_to_tensor"),
        (torch.zeros(3, 32, 32), ValueError, r"\(3, 32, 32\).*image\[None\]"),
        (torch.zeros(2, 32, 32, 3), ValueError, r"permute\(0, 3, 1, 2\)"),
        (torch.zeros(2, 4, 32, 32), ValueError, r"images\[:, :3\]"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.int64), TypeError, "expected uint8"),
        (torch.full((2, 3, 32, 32), 200.0), ValueError, r"from 200 to 200: .*divide pixels of 0 to 255 by 255"),
        (torch.linspace(-2, 2, 3 * 32 * 32).view(1, 3, 32, 32), ValueError, "normalises by itself"),
    ],
    ids=["PIL", "no batch", "channels last", "alpha", "integers", "0 to 255", "normalised"],
)
def test_images_of_another_form_are_refused_with_the_mend(
    images: Any, error: type[Exception], said: str, exported: tuple[Path, Encoder]
) -> None:
    with pytest.raises(error, match=said):
        simclr.load_encoder(exported[0])(images)


def test_gray_images_and_what_resizing_overshoots_are_taken(exported: tuple[Path, Encoder]) -> None:
    encoder = simclr.load_encoder(exported[0])
    gray = torch.rand(2, 1, 32, 32) * 1.1 - 0.05
    with torch.no_grad():
        assert torch.equal(encoder(gray), encoder(gray.repeat(1, 3, 1, 1)))
