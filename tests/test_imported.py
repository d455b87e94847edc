"""Weights to start from: files of timm, torchvision, lightly, solo-learn and MoCo made here, and files that are refused.

That every tensor was matched is shown by what the two networks compute of random images, in float64.
"""

import argparse
import io
import pickle
import warnings
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from lightly.models import ResNetGenerator
from safetensors.torch import save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional as F

import simclr
from simclr.config import EncoderConfig, TrainConfig
from simclr.errors import CheckpointError
from simclr.exchange.imported import start_from
from simclr.model.encoder import build_backbone, without_weights

WANTED = 100  # tensors of a ResNet-18 without its classifier, BatchNorm's counters apart


def shaken(network: nn.Module) -> nn.Module:
    """Every tensor at random, BatchNorm's statistics too, so that two of one shape cannot be exchanged unseen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.ndim > 1:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5)
            elif tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.2)
    return network


def timm_network() -> nn.Module:
    return shaken(timm.create_model("resnet18", num_classes=7))


def torchvision_network() -> nn.Module:
    return shaken(torchvision.models.resnet18(num_classes=5))


def features(network: nn.Module, images: Tensor) -> Tensor:
    """Of a classifier: what its last layer is given."""
    network.fc = nn.Identity()
    return network.double().eval()(images)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def load(path: Path, **encoder: Any) -> tuple[nn.Module, str]:
    config = EncoderConfig(**({"name": "resnet18", "stem": "imagenet"} | encoder), init=str(path))
    backbone = build_backbone(config, 64, seed=0)
    said = start_from(backbone, config)
    return backbone, said


@torch.no_grad()
def same_outputs(backbone: nn.Module, expected: Tensor, images: Tensor) -> None:
    torch.testing.assert_close(backbone.double().eval()(images), expected, rtol=1e-10, atol=1e-10)
    assert expected.std() > 1e-3


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("make", [timm_network, torchvision_network])
def test_a_classifier_of_timm_or_torchvision(make: Any, suffix: str, tmp_path: Path, images: Tensor) -> None:
    network = make()
    file = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(network.state_dict(), file)
    else:
        save_file(network.state_dict(), file)
    backbone, said = load(file)
    assert f"{WANTED} of {WANTED} tensors" in said and "not taken" not in said and "under" not in said
    same_outputs(backbone, features(network, images), images)


class SimCLR(nn.Module):
    """A module as lightly's examples write it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection_head = nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 128))


def test_a_lightly_module_around_torchvisions_children(tmp_path: Path, images: Tensor) -> None:
    network = torchvision_network()
    backbone = nn.Sequential(*list(network.children())[:-1])
    torch.save({"state_dict": SimCLR(backbone).state_dict(), "epoch": 3}, tmp_path / "lightly.ckpt")
    loaded, said = load(tmp_path / "lightly.ckpt")
    assert f"{WANTED} of {WANTED} tensors under 'backbone.'" in said
    with torch.no_grad():
        same_outputs(loaded, backbone.double().eval()(images).flatten(1), images)


def test_a_lightly_module_around_its_own_resnet(tmp_path: Path) -> None:
    network = shaken(ResNetGenerator("resnet-18", width=1))
    backbone = nn.Sequential(*list(network.children())[:-1], nn.AdaptiveAvgPool2d(1))
    torch.save({"state_dict": SimCLR(backbone).state_dict()}, tmp_path / "lightly.ckpt")
    loaded, said = load(tmp_path / "lightly.ckpt", stem="small")
    assert f"{WANTED} of {WANTED} tensors under 'backbone.'" in said
    # lightly's Sequential loses the ReLU that its forward() has after the first BatchNorm; ours is the whole network.
    assert "no ReLU after its first BatchNorm" in said
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    network.linear = nn.Identity()
    with torch.no_grad():
        expected = network.double().eval()(images)
        same_outputs(loaded, expected, images)
        loaded.act1 = nn.Identity()
        same_outputs(loaded, backbone.double().eval()(images).flatten(1), images)


def test_a_solo_learn_checkpoint(tmp_path: Path, images: Tensor) -> None:
    network, slow = torchvision_network(), shaken(torchvision.models.resnet18())
    state = {f"momentum_backbone.{name}": tensor * 0 for name, tensor in slow.state_dict().items()}
    state |= {f"backbone.{name}": tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}
    state |= {"projector.0.weight": torch.zeros(4, 512), "classifier.weight": torch.zeros(10, 512)}
    torch.save({"epoch": 9, "global_step": 10, "state_dict": state, "optimizer_states": [{}]}, tmp_path / "solo.ckpt")
    loaded, said = load(tmp_path / "solo.ckpt")
    assert "under 'backbone.'" in said
    same_outputs(loaded, features(network, images), images)


@pytest.mark.parametrize(
    ("prefix", "slow"),
    [
        ("module.", None),
        ("module.encoder_q.", "module.encoder_k."),
        ("student_backbone.", "teacher_backbone."),
        ("online_net.", "target_net."),
        ("net.backbone.", "net.ema_backbone."),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_prefixes_and_slow_copies(prefix: str, slow: str | None, suffix: str, tmp_path: Path, images: Tensor) -> None:
    """The slow copy comes first in the file (as safetensors sorts some), and is not taken."""
    network = timm_network()
    state = {}
    if slow:
        state = {f"{slow}{name}": torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    state |= {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items() if "fc." not in name}
    state |= {f"{prefix}fc.0.weight": torch.zeros(4, 4), f"{prefix}fc.2.weight": torch.zeros(4, 4)}
    state["module.queue"] = torch.zeros(4, 8)
    file = tmp_path / f"moco.{suffix}"
    if suffix == "pth":
        torch.save({"arch": "resnet18", "state_dict": state}, file)
    else:
        save_file(state, file)
    if prefix == "module.":
        del state["module.queue"]
        torch.save({"state_dict": state}, file) if suffix == "pth" else save_file(state, file)
    loaded, said = load(file)
    assert f"under {prefix!r}" in said
    same_outputs(loaded, features(network, images), images)


def test_a_vision_transformer(tmp_path: Path) -> None:
    network = shaken(timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32))
    torch.save({"model": network.state_dict()}, tmp_path / "vit.pth")
    config = EncoderConfig(name="vit_tiny_patch16_224", init=str(tmp_path / "vit.pth"))
    backbone = build_backbone(config, 32, seed=0)
    start_from(backbone, config)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    network.head = nn.Identity()
    with torch.no_grad():
        same_outputs(backbone, network.double().eval()(images), images)


def test_half_precision_files_are_widened(tmp_path: Path) -> None:
    network = timm_network().half()
    torch.save(network.state_dict(), tmp_path / "half.pth")
    backbone, _ = load(tmp_path / "half.pth")
    assert backbone.conv1.weight.dtype == torch.float32
    assert torch.equal(backbone.layer4[1].conv2.weight, network.layer4[1].conv2.weight.float())


def refused(path: Path, **encoder: Any) -> str:
    before = build_backbone(EncoderConfig(**({"name": "resnet18", "stem": "imagenet"} | encoder)), 64, seed=0)
    config = EncoderConfig(**({"name": "resnet18", "stem": "imagenet"} | encoder), init=str(path))
    backbone = build_backbone(config, 64, seed=0)
    with pytest.raises(CheckpointError) as error:
        start_from(backbone, config)
    said = str(error.value)
    assert str(path) in said
    assert "\n" not in said
    assert all(torch.equal(a, b) for a, b in zip(before.state_dict().values(), backbone.state_dict().values()))
    return said


def test_a_larger_network_of_the_family_is_refused(tmp_path: Path) -> None:
    """Every tensor of a ResNet-18 is in a ResNet-34, in its shape."""
    larger = timm.create_model("resnet34", num_classes=0).state_dict()
    for name, prefix in (("plain", ""), ("under", "backbone.")):
        torch.save({f"{prefix}{k}": v for k, v in larger.items()}, tmp_path / f"{name}.pth")
        said = refused(tmp_path / f"{name}.pth")
        assert f"{WANTED} of {WANTED} tensors match" in said
        for block in ("layer1.2", "layer2.3", "layer3.5", "layer4.2"):
            assert f"{prefix}{block}.conv1.weight has no place in resnet18" in said
        assert "stem" not in said


def test_another_stem_is_refused_with_a_hint(tmp_path: Path) -> None:
    small = build_backbone(EncoderConfig(name="resnet18", stem="small"), 64, seed=0)
    torch.save(small.state_dict(), tmp_path / "small.pth")
    said = refused(tmp_path / "small.pth")
    assert "conv1.weight is (64, 3, 3, 3), expected (64, 3, 7, 7)" in said
    assert f"{WANTED - 1} of {WANTED} tensors match" in said
    assert "its first convolution is 3x3, this network's 7x7: see --encoder.stem small" in said
    backbone, told = load(tmp_path / "small.pth", init_partial=True)
    assert f"{WANTED - 1} of {WANTED} tensors; not taken: conv1.weight is (64, 3, 3, 3)" in told
    assert torch.equal(backbone.layer1[0].conv1.weight, small.layer1[0].conv1.weight)
    assert backbone.conv1.weight.shape == (64, 3, 7, 7)
    torch.save(timm_network().state_dict(), tmp_path / "large.pth")
    with pytest.raises(
        CheckpointError, match=r"first convolution is 7x7, this network.s 3x3: see --encoder\.stem imagenet"
    ):
        start_from(small, EncoderConfig(name="resnet18", init=str(tmp_path / "large.pth")))


def test_every_missing_tensor_is_named(tmp_path: Path) -> None:
    state = timm_network().state_dict()
    for name in ("layer2.0.bn1.running_mean", "layer4.1.conv2.weight"):
        del state[name]
    torch.save(state, tmp_path / "less.pth")
    said = refused(tmp_path / "less.pth")
    assert f"{WANTED - 2} of {WANTED} tensors match" in said
    assert "layer2.0.bn1.running_mean is not there; layer4.1.conv2.weight is not there" in said
    assert "stem" not in said
    assert "init-partial" in said


def test_another_architecture_is_refused_even_in_part(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    said = refused(tmp_path / "other.pth", init_partial=True)
    assert f"0 of {WANTED} tensors match" in said


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("ran").touch, ())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pth", b"", "is damaged, or not a file of weights"),
        ("b.pth", b"no weights at all", "is damaged, or not a file of weights"),
        ("c.safetensors", b"", "cannot be read"),
        ("d.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", "holds no tensors by name"),
        ("e.safetensors", b"\xff" * 64, "cannot be read"),
        ("f.pth", {}, "holds no tensors by name"),
        ("g.pth", {"state_dict": {}, "epoch": 1}, "holds no tensors by name"),
        ("h.pth", torch.zeros(3), "holds no tensors by name"),
        ("i.pth", {0: torch.zeros(3), ("conv1",): torch.zeros(2)}, "holds no tensors by name"),
        ("j.pth", [torch.zeros(3)], "holds no tensors by name"),
        ("k.pth", {"state_dict": {"conv1.weight": "a word"}}, "holds no tensors by name"),
    ],
)
def test_files_that_hold_no_weights(name: str, content: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    assert said in refused(file)


def test_a_torn_file_and_a_missing_one(tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save(timm_network().state_dict(), whole)
    (tmp_path / "torn.pth").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    assert "is damaged" in refused(tmp_path / "torn.pth")
    for name in ("nowhere.pth", "nowhere.safetensors", "nowhere/encoder.json"):
        with pytest.raises(CheckpointError, match=r"nowhere.* does not exist"):
            start_from(nn.Linear(1, 1), EncoderConfig(init=str(tmp_path / name)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no encoder"):
        start_from(nn.Linear(1, 1), EncoderConfig(init=str(tmp_path / "empty")))
    (tmp_path / "empty" / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"as timm writes one; its weights are a file, .*model\.safetensors"):
        start_from(nn.Linear(1, 1), EncoderConfig(init=str(tmp_path / "empty")))


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": timm_network().state_dict(), "hyper_parameters": Code()}, "evil.ckpt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Code()))
    assert f"{WANTED} of {WANTED}" in load(tmp_path / "evil.ckpt")[1]
    assert "is damaged, or not a file of weights" in refused(tmp_path / "plain.pkl")
    assert not (tmp_path / "ran").exists()


def test_a_run_of_ours_starts_another(tiny_run: TrainConfig) -> None:
    first = simclr.pretrain(replace(tiny_run, train=replace(tiny_run.train, epochs=1), name="first"))
    frozen = replace(tiny_run.encoder, frozen_layers=-1)
    for number, init in enumerate([first.run_dir, first.encoder, first.encoder / "encoder.safetensors"]):
        config = replace(tiny_run, name=f"second{number}", encoder=replace(frozen, init=str(init)))
        if number:
            backbone = build_backbone(config.encoder, 16, seed=5)
            start_from(backbone, config.encoder)
        else:
            backbone = simclr.load_encoder(simclr.pretrain(config).run_dir).backbone
        expected = simclr.load_encoder(first.run_dir).backbone.state_dict()
        for name, tensor in backbone.state_dict().items():
            assert name.endswith("num_batches_tracked") or torch.equal(tensor, expected[name]), name


def test_an_exported_encoder_of_published_weights_loads_at_a_small_size(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """stem=auto keeps the 7x7 convolution of published weights at any size; so must what is loaded or starts anew."""
    create = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda name, pretrained=False, **options: create(name, **options))
    encoder = replace(tiny_run.encoder, pretrained=True)
    result = simclr.pretrain(replace(tiny_run, encoder=encoder, train=replace(tiny_run.train, epochs=1)))
    assert simclr.load_encoder(result.run_dir).backbone.conv1.weight.shape[-1] == 7
    assert without_weights(encoder).stem == "imagenet"
    assert without_weights(tiny_run.encoder) == tiny_run.encoder


def test_the_small_stem_computes_what_the_file_says(tmp_path: Path) -> None:
    """A CIFAR-style ResNet written here, with torchvision's names: a 3x3 stem and no pooling."""
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    shaken(network)
    torch.save({"state_dict": {f"encoder.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "cifar.pth")
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    backbone, _ = load(tmp_path / "cifar.pth", stem="small")
    expected = features(network, images)
    assert F.cosine_similarity(expected[0], expected[1], dim=0) < 1
    same_outputs(backbone, expected, images)


class AttributeDict(dict[str, Any]):
    """As Lightning keeps hyper-parameters: a dictionary of its own kind."""


@dataclass
class Settings:
    """A training script's own class, which another program does not have."""

    rate: float
    out: Path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_the_state_of_a_training_script(tmp_path: Path, images: Tensor, zipped: bool) -> None:
    """What stands beside the weights in files of timm's train.py, of Lightning and of others, and the slow copy."""
    network = timm_network()
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    torch.save(
        {
            "state_dict_ema": {name: tensor * 0 for name, tensor in network.state_dict().items()},
            "state_dict": network.state_dict(),
            "args": argparse.Namespace(lr=0.1, output=Path("out")),
            "hyper_parameters": AttributeDict(lr=0.1),
            "settings": [Settings(0.1, Path("out")), {Path("a"), Path("b")}],
            "metric": np.float64(0.3),
            "random": np.random.default_rng(0).bit_generator.state | {"words": np.arange(4)},
            "counts": defaultdict(list, a=[1]),
            "optimizer": optimizer.state_dict(),
            "dtype": torch.float16,
            "device": torch.device("cpu"),
        },
        tmp_path / "last.pth.tar",
        _use_new_zipfile_serialization=zipped,
    )
    loaded, said = load(tmp_path / "last.pth.tar")
    assert f"{WANTED} of {WANTED} tensors" in said
    same_outputs(loaded, features(network, images), images)


@pytest.mark.parametrize("place", [("model", "net"), ("checkpoint", "state", "model", "encoder")])
def test_weights_in_dictionaries_in_dictionaries(tmp_path: Path, images: Tensor, place: tuple[str, ...]) -> None:
    network = timm_network()
    content: dict[str, Any] = network.state_dict()
    for key in reversed(place):
        content = {"epoch": 3, "mean": torch.zeros(3), key: content}
    torch.save(content, tmp_path / "deep.pth")
    loaded, _ = load(tmp_path / "deep.pth")
    same_outputs(loaded, features(network, images), images)


def test_a_file_of_something_else_names_what_it_holds(tmp_path: Path) -> None:
    torch.save({"module.a": torch.zeros(1), "module.b": torch.zeros(1)}, tmp_path / "other.pth")
    assert "0 of 100 tensors match; its 2 tensors are module.a, module.b. Another" in refused(tmp_path / "other.pth")
    torch.save({"epoch": 1, "args": argparse.Namespace(a=1)}, tmp_path / "none.pth")
    assert "holds no tensors by name: it has the keys 'epoch', 'args'" in refused(tmp_path / "none.pth")


def test_a_torchscript_program_is_refused_in_words(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "program.pt"))
    assert "a TorchScript program; save model.state_dict()" in refused(tmp_path / "program.pt")


def start(name: str, size: int, file: Path, channels: int = 3) -> tuple[nn.Module, str]:
    config = EncoderConfig(name=name, init=str(file))
    backbone = build_backbone(config, size, seed=0, channels=channels)
    return backbone, start_from(backbone, config, channels)


@pytest.mark.parametrize("old_names", [False, True])
def test_torchvisions_vision_transformer(tmp_path: Path, old_names: bool) -> None:
    network = shaken(torchvision.models.vit_b_16(image_size=32, num_classes=3))
    state = network.state_dict()
    if old_names:
        state = {
            name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): tensor
            for name, tensor in state.items()
        }
    torch.save(state, tmp_path / "vit.pth")
    backbone, said = start("vit_base_patch16_224", 32, tmp_path / "vit.pth")
    assert "not taken" not in said
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    network.heads = nn.Identity()
    with torch.no_grad():
        expected = network.double().eval()(images)
    same_outputs(backbone, expected, images)


def test_torchvisions_convnext(tmp_path: Path, images: Tensor) -> None:
    network = shaken(torchvision.models.convnext_tiny(num_classes=3))
    torch.save(network.state_dict(), tmp_path / "convnext.pth")
    backbone, said = start("convnext_tiny", 64, tmp_path / "convnext.pth")
    assert "not taken" not in said
    network.classifier[2] = nn.Identity()
    with torch.no_grad():
        expected = network.double().eval()(images)
    same_outputs(backbone, expected, images)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_a_transformer_goes_on_at_another_size(tmp_path: Path, name: str) -> None:
    network = shaken(timm.create_model(name, num_classes=0, img_size=32))
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    backbone, said = start(name, 64, tmp_path / "vit.pth")
    assert ("positions fitted from 2 x 2 patches to 4 x 4" in said) == hasattr(network.pos_embed, "shape")
    theirs = timm.create_model(name, num_classes=0, img_size=64)
    theirs.load_state_dict(checkpoint_filter_fn(network.state_dict(), theirs))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs.double().eval()(images)
    same_outputs(backbone, expected, images)


@pytest.mark.parametrize("channels", [1, 4])
def test_weights_of_three_channels_fit_another_number(tmp_path: Path, channels: int) -> None:
    network = timm_network()
    torch.save(network.state_dict(), tmp_path / "rgb.pth")
    config = EncoderConfig(name="resnet18", stem="imagenet", init=str(tmp_path / "rgb.pth"))
    backbone = build_backbone(config, 64, seed=0, channels=channels)
    said = start_from(backbone, config, channels)
    assert f"conv1.weight fitted from 3 channels to {channels}" in said
    # An image of equal channels gives what the gray one, or so many of it, gives: the sum over the channels stays.
    gray = torch.randn(2, 1, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        first = backbone.double().conv1(gray.expand(-1, channels, -1, -1))
        if channels == 1:
            torch.testing.assert_close(first, network.double().conv1(gray.expand(-1, 3, -1, -1)), atol=1e-6, rtol=0)
    weight = network.conv1.weight
    expected = weight.sum(1, keepdim=True) if channels == 1 else torch.cat([weight, weight[:, :1]], 1) * 3 / 4
    torch.testing.assert_close(backbone.conv1.weight.double(), expected.double())


def test_weights_of_other_channels_are_refused(tmp_path: Path) -> None:
    torch.save(shaken(timm.create_model("resnet18", in_chans=4)).state_dict(), tmp_path / "four.pth")
    assert "its images have 4 channels, these 3: see --data.channels" in refused(tmp_path / "four.pth")
