"""``export.py RUN``: every file is loaded as its user will load it, and gives what the encoder's weights give by hand."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

import simclr
from augment import AugmentConfig
from simclr.config import EncoderConfig, HeadConfig
from simclr.exchange.classifier import export_head, save_temperature
from simclr.exchange.encoder import export_encoder
from simclr.exchange.formats import ExportOptions, export_as
from simclr.losses import CrossEntropyConfig, DistributionFocalConfig, TripletConfig
from simclr.model.encoder import build_backbone, feature_width
from simclr.model.heads import projection_head
from simclr.objectives import ObjectiveConfig, build_objective

ROOT = Path(__file__).resolve().parents[1]
NARROW: dict[str, Any] = {"layers": (1, 1, 1, 1), "channels": (4, 4, 8, 8)}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(script: Callable[[str], Command]) -> Command:
    """``command(*words)`` runs scripts/export.py; gives its exit code, its output and its errors."""
    return script("export")


def encoder_in(run: Path, config: EncoderConfig, size: int = 32, objective: ObjectiveConfig | None = None) -> Path:
    """A run's folder with an encoder of random weights and statistics, and with a head for an objective on labels."""
    backbone = build_backbone(config, size, seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in backbone.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:  # biases, scales and statistics, which start at 0 or 1
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    augment = AugmentConfig(size=size, mean=MEAN, std=STD)
    export_encoder(backbone, run / "encoder", config=config, augment=augment, seed=3, training={})
    (run / "config.yaml").write_text("name: it\n")
    if objective is not None:
        sizes = {"classes": 3, "dim": 5, "samples": 9}
        head_config = HeadConfig(layers=1, out_dim=5, batch_norm=False)
        export_head(
            run / "encoder",
            projection_head(feature_width(backbone, size), head_config),
            build_objective(objective, **sizes, seed=1),
            head_config=head_config,
            objective_config=objective,
            classes=("cat", "dog", "owl"),
            sizes=sizes,
        )
        save_temperature(run, 1.7)
    return run


def in_float64(run: Path, images: Tensor) -> Tensor:
    """Features of uint8 ``images``: torchvision's resize and crop, the mean and deviation by hand, the network in float64."""
    encoder = simclr.load_encoder(run)
    x = functional.resize(images.float() / 255, [encoder.size], antialias=True)
    x = functional.center_crop(x, [encoder.size, encoder.size]).double()
    with torch.no_grad():
        return encoder.backbone.double()((x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))


def printed(out: str, **names: object) -> dict[str, Any]:
    """What the lines of Python at the end of the output define."""
    given: dict[str, Any] = dict(names)
    with torch.no_grad():
        exec("\n".join(out.strip().split("\n\n")[-1].splitlines()), given)
    return given


def images_of(count: int, height: int = 32, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    "config",
    [
        EncoderConfig(name="resnet18", stem="imagenet", **NARROW),
        EncoderConfig(name="resnet18", stem="small", **NARROW),
        EncoderConfig(name="resnet18", stem="patch", layers=(1, 1, 1, 0), channels=(8, 16, 32, 32)),
        EncoderConfig(name="resnet26d", stem="small", **NARROW),
        EncoderConfig(name="vit_tiny_patch16_224", patch_size=8),
        EncoderConfig(name="test_convnext"),
    ],
    ids=lambda config: f"{config.name}-{config.stem}",
)
def test_timm_loads_it_by_the_printed_lines(config: EncoderConfig, command: Command, tmp_path: Path) -> None:
    run = encoder_in(tmp_path / "run", config)
    code, out, err = command(str(run), "--format", "timm")
    assert (code, err) == (0, "")
    # Oblong images, prepared by torchvision: what the printed line is given is 32 x 32.
    images = images_of(3, 32, 48)
    features = printed(out, images=functional.center_crop(images, [32, 32]))["features"]
    torch.testing.assert_close(features.double(), in_float64(run, images), rtol=1e-4, atol=1e-4)
    assert {file.name for file in (run / "export" / "timm").iterdir()} == {"model.safetensors", "config.json"}
    written = json.loads((run / "export" / "timm" / "config.json").read_text())["pretrained_cfg"]
    assert (written["mean"], written["std"], written["input_size"]) == (list(MEAN), list(STD), [3, 32, 32])


def test_timms_own_preprocessing_follows_the_config(tmp_path: Path) -> None:
    run = encoder_in(tmp_path / "run", EncoderConfig(name="resnet18", stem="imagenet", **NARROW))
    export_as(run, ExportOptions(out=tmp_path / "out"))
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    image = images_of(1, 64, 90)[0]
    with torch.no_grad():
        features = model(prepare(functional.to_pil_image(image))[None])
    # Pillow resizes in 8 bits: a hundredth of a feature's size.
    torch.testing.assert_close(features.double(), in_float64(run, image[None]), rtol=0.02, atol=0.02)


def test_a_resnet_is_torchvisions_too(tmp_path: Path) -> None:
    run = encoder_in(tmp_path / "run", EncoderConfig(name="resnet18", stem="imagenet", layers=(1, 1, 1, 1)), size=64)
    export_as(run, ExportOptions())
    theirs = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    theirs.fc = nn.Identity()
    theirs.load_state_dict(load_file(run / "export" / "timm" / "model.safetensors"), strict=True)
    images = images_of(2, 64, 64)
    x = functional.normalize(images.double() / 255, list(MEAN), list(STD))
    with torch.no_grad():
        torch.testing.assert_close(theirs.double().eval()(x), in_float64(run, images))


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_a_program_takes_any_number_of_images(kind: str, command: Command, tmp_path: Path) -> None:
    run = encoder_in(tmp_path / "run", EncoderConfig(name="resnet18", **NARROW))
    code, out, err = command(str(run), "--format", "torch", "--input", kind)
    assert (code, err) == (0, "")
    for count in (1, 7):
        images = images_of(count)
        features = printed(out, images=images if kind == "uint8" else images / 255)["features"]
        torch.testing.assert_close(features.double(), in_float64(run, images), rtol=1e-4, atol=1e-4)
    described = json.loads((run / "export" / "torch" / "model.json").read_text())
    assert described["input"]["type"] == kind and described["input"]["shape"] == ["batch", 3, 32, 32]


def logits_by_hand(run: Path, images: Tensor, layer: str = "head") -> Tensor:
    """The two linear layers behind the features in float64, the second one of the objective."""
    tensors = {name: tensor.double() for name, tensor in load_file(run / "encoder" / "head.safetensors").items()}
    (weight,) = (tensor for name, tensor in tensors.items() if name.startswith("head.") and tensor.ndim == 2)
    biases = [tensor for name, tensor in tensors.items() if name.startswith("head.") and tensor.ndim == 1]
    z = in_float64(run, images) @ weight.T + sum(biases)
    return z @ tensors[f"objective.loss.{layer}.weight"].T + tensors[f"objective.loss.{layer}.bias"]


def test_the_classifiers_logits_are_calibrated(command: Command, tmp_path: Path) -> None:
    run = encoder_in(
        tmp_path / "run", EncoderConfig(name="resnet18", **NARROW), objective=CrossEntropyConfig(lr_multiplier=1.0)
    )
    code, out, err = command(str(run), "--format", "torch", "--classifier", "--out", str(tmp_path / "out"))
    assert (code, err) == (0, "")
    found = printed(out, images=images_of(4))
    torch.testing.assert_close(found["logits"].double(), logits_by_hand(run, images_of(4)) / 1.7, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["features"].double(), in_float64(run, images_of(4)), rtol=1e-4, atol=1e-4)
    assert json.loads((tmp_path / "out" / "model.json").read_text())["classes"] == ["cat", "dog", "owl"]
    assert not (run / "export").exists()


def test_numbers_are_the_expectation_over_the_bins(command: Command, tmp_path: Path) -> None:
    objective = DistributionFocalConfig(low=0.0, high=10.0, bins=6)
    run = encoder_in(tmp_path / "run", EncoderConfig(name="resnet18", **NARROW), objective=objective)
    code, out, err = command(str(run), "--format", "torch", "--classifier")
    assert (code, err) == (0, "")
    by_hand = logits_by_hand(run, images_of(4), "head.linear").softmax(1) @ torch.arange(0.0, 11.0, 2.0).double()
    numbers = printed(out, images=images_of(4))["numbers"]
    torch.testing.assert_close(numbers.double(), by_hand, rtol=1e-4, atol=1e-4)


def test_onnx_runtime_gives_the_same(command: Command, tmp_path: Path) -> None:
    run = encoder_in(
        tmp_path / "run", EncoderConfig(name="resnet18", **NARROW), objective=CrossEntropyConfig(lr_multiplier=1.0)
    )
    code, out, err = command(str(run), "--format", "onnx", "--classifier")
    assert (code, err) == (0, "")
    for count in (1, 5):
        found = printed(out, images=images_of(count).numpy())
        features, logits = (torch.from_numpy(found[name]).double() for name in ("features", "logits"))
        torch.testing.assert_close(features, in_float64(run, images_of(count)), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(logits, logits_by_hand(run, images_of(count)) / 1.7, rtol=1e-4, atol=1e-4)


def test_a_file_that_disagrees_is_not_written(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = encoder_in(tmp_path / "run", EncoderConfig(name="resnet18", **NARROW))
    before = sorted(tmp_path.rglob("*"))

    def slightly_wrong(path: Path, tensors: dict[str, Tensor]) -> None:
        save_file(tensors | {"conv1.weight": 1.01 * tensors["conv1.weight"]}, path)

    with monkeypatch.context() as patch:
        patch.setattr("simclr.exchange.timm_folder.write_tensors", slightly_wrong)
        code, out, err = command(str(run))
        assert (code, out) == (2, "")
        assert "the timm file differs from the encoder by" in err and err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
    assert command(str(run))[0] == 0
    good = (run / "export" / "timm" / "model.safetensors").read_bytes()
    monkeypatch.setattr("simclr.exchange.timm_folder.write_tensors", slightly_wrong)
    assert command(str(run))[0] == 2
    assert (run / "export" / "timm" / "model.safetensors").read_bytes() == good


@pytest.mark.parametrize("form", ["timm", "hub", "torch", pytest.param("onnx", marks=pytest.mark.long)])
def test_a_full_disk_is_one_line(form: str, command: Command, tmp_path: Path, small_disk: Any) -> None:
    run = encoder_in(tmp_path / "run", EncoderConfig(name="resnet18", **NARROW))
    before = sorted(tmp_path.rglob("*"))
    with small_disk(3_000):
        code, out, err = command(str(run), "--format", form)
    assert (code, out) == (2, "")
    assert "File too large" in err and err.count("\n") == 1
    assert err.startswith(f"error: {run / 'export' / form} could not be written (")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "the run is 'nowhere': there is no such file or folder"),
        (["--format", "timm"], "expected the run to export"),
        (["RUN", "--format", "torchscript"], "torchscript"),
        (["RUN", "--formt", "timm"], "did you mean --format?"),
        (["RUN", "--classifier"], "format=timm holds the backbone alone"),
        (["RUN", "--classifier", "--format", "torch"], "holds an encoder without a head"),
        (["TRIPLET", "--classifier", "--format", "torch"], "compares embeddings only"),
        (["RUN", "--out", "FILE"], "is a file"),
        (["RUN", "--out", "RUN"], "holds files that are no export"),
        (["RUN", "--format", "onnx"], "pip install 'simclr-pipeline[onnx]'"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(
    words: list[str], said: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = EncoderConfig(name="resnet18", **NARROW)
    places = {"RUN": encoder_in(tmp_path / "run", small), "FILE": tmp_path / "file"}
    places["TRIPLET"] = encoder_in(tmp_path / "triplet", small, objective=TripletConfig())
    places["FILE"].write_text("mine")
    find = importlib.util.find_spec
    monkeypatch.setattr("simclr.exchange.program.find_spec", lambda name: None if "onnx" in name else find(name))
    before = sorted(tmp_path.rglob("*"))
    code, out, err = command(*(str(places.get(word, word)) for word in words))
    assert (code, out) == (2, "")
    assert said in err and err.startswith("error: ") and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
