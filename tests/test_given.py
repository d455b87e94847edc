"""An encoder by whatever names it: each kind loaded with every tensor matched, and computing what its own library computes."""

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from lightly.models import ResNetGenerator
from lightning_fabric.utilities.data import AttributeDict
from torch import nn

import simclr
from augment import preprocess
from linear_eval.scored_run import ScoredRun
from simclr.config import DataConfig, TrainConfig
from simclr.errors import CheckpointError, ConfigError
from simclr.exchange.formats import ExportOptions, export_as
from simclr.exchange.given import given_encoder
from simclr.exchange.stopped_run import checkpoint_backbone

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def shaken(network: nn.Module) -> nn.Module:
    """BatchNorm's statistics at random, so that two of one shape cannot be exchanged unseen."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network.eval()


def of_timm(folder: Path) -> tuple[str, nn.Module]:
    network = shaken(timm.create_model("resnet18", num_classes=7))
    content = {
        "arch": "resnet18",
        "state_dict": network.state_dict(),
        "args": argparse.Namespace(model="resnet18", lr=1.0),
    }
    torch.save(content, folder / "checkpoint-3.pth.tar")
    network.fc = nn.Identity()
    return "checkpoint-3.pth.tar", network


def of_torchvision(folder: Path) -> tuple[str, nn.Module]:
    network = shaken(torchvision.models.resnet18(num_classes=5))
    torch.save(network.state_dict(), folder / "trained.pth")
    network.fc = nn.Identity()
    return "resnet18=trained.pth", network


def of_torchvisions_training(folder: Path) -> tuple[str, nn.Module]:
    network = shaken(torchvision.models.resnet18(num_classes=5))
    torch.save({"model": network.state_dict(), "args": argparse.Namespace(model="resnet18")}, folder / "model_9.pth")
    network.fc = nn.Identity()
    return "model_9.pth", network


def of_lightning(folder: Path) -> tuple[str, nn.Module]:
    network = shaken(torchvision.models.resnet18())
    backbone = nn.Sequential(*list(network.children())[:-1])  # as lightly's examples cut it
    state = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    content = {
        "state_dict": state,
        "hyper_parameters": AttributeDict(arch="resnet18", lr=0.1),
        "pytorch-lightning_version": "2",
    }
    torch.save(content, folder / "epoch=3.ckpt")
    network.fc = nn.Identity()
    return "epoch=3.ckpt", network


def of_solo_learn(folder: Path) -> tuple[str, nn.Module]:
    network = shaken(torchvision.models.resnet18())
    state = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}
    torch.save({"state_dict": state | {"projector.0.weight": torch.zeros(4, 512)}}, folder / "solo.ckpt")
    (folder / "args.json").write_text(json.dumps({"method": "simclr", "backbone": {"name": "resnet18", "kwargs": {}}}))
    network.fc = nn.Identity()
    return "solo.ckpt", network


def of_a_hub(folder: Path) -> tuple[str, nn.Module]:
    network = shaken(timm.create_model("resnet18", num_classes=3))
    timm.models.save_for_hf(network, folder / "hub", safe_serialization=True)
    network.fc = nn.Identity()
    return "hub", network


MAKERS = [of_torchvision, of_torchvisions_training, of_lightning, of_solo_learn, of_a_hub]


@pytest.mark.parametrize("make", [of_timm, *(pytest.param(one, marks=pytest.mark.slow) for one in MAKERS)])
@torch.no_grad()
def test_weights_of_others(
    make: Callable[[Path], tuple[str, nn.Module]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    word, network = make(tmp_path)
    found = given_encoder(word)
    assert "100 of 100 tensors" in found.said[0] and "images of 224 x 224 px, mean 0.485" in found.said[1]
    encoder = found.build(size=64)
    images = torch.rand(2, 3, 80, 64, generator=torch.Generator().manual_seed(2))
    expected = network(preprocess(images, 64, *IMAGENET))
    torch.testing.assert_close(encoder(images), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 1e-3
    run = ScoredRun.at(word)
    assert (run.config, run.data) == (None, None) and run.description.size == 224
    assert run.report_folder(DataConfig(source="cifar10")).parent == found.home
    assert found.home.parent == Path("runs")


@pytest.mark.slow
@torch.no_grad()
def test_a_resnet_for_small_images_and_a_transformer_say_their_size(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    small = shaken(ResNetGenerator("resnet-18", width=1))
    torch.save({"state_dict": small.state_dict()}, tmp_path / "cifar.ckpt")
    encoder = simclr.load_encoder(f"resnet18={tmp_path / 'cifar.ckpt'}")
    small.linear = nn.Identity()
    assert encoder.size == 32
    torch.testing.assert_close(encoder(images), small(preprocess(images, 32, *IMAGENET)), rtol=1e-5, atol=1e-5)

    vit = timm.create_model("vit_tiny_patch16_224", img_size=48, num_classes=2).eval()
    torch.save(
        {"model": vit.state_dict(), "args": argparse.Namespace(arch="vit_tiny", patch_size=16)}, tmp_path / "dino.pth"
    )
    encoder = simclr.load_encoder(tmp_path / "dino.pth")
    assert encoder.size == 48
    half = ((0.5,) * 3, (0.5,) * 3)
    expected = vit.forward_head(vit.forward_features(preprocess(images, 48, *half)), pre_logits=True)
    torch.testing.assert_close(encoder(images), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_published_weights_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is a network that is made here: what timm would have fetched."""
    hub = shaken(timm.create_model("test_resnet"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *a, **k: hub.state_dict())
    found = given_encoder("test_resnet.r160_in1k")
    encoder, cfg = found.build(), timm.get_pretrained_cfg("test_resnet.r160_in1k")
    images = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(2))
    hub.fc = nn.Identity()
    torch.testing.assert_close(encoder(images), hub(preprocess(images, 160, cfg.mean, cfg.std)), rtol=1e-5, atol=1e-5)
    assert found.description.size == cfg.input_size[-1] == 160
    assert found.description.reader.size == round(160 / cfg.crop_pct)
    assert found.name == "test_resnet.r160_in1k"
    written = export_as(found, ExportOptions())
    assert written.folder == Path("runs/timm-test_resnet.r160_in1k/export/timm")
    again = simclr.load_encoder(written.folder)
    torch.testing.assert_close(again(images), encoder(images), rtol=0, atol=0)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, pretrained: Path) -> Path:
    """A run as it is before its end: without what it exports then."""
    run = tmp_path_factory.mktemp("stopped") / "birds"
    shutil.copytree(pretrained, run)
    shutil.rmtree(run / "encoder")
    return run


@torch.no_grad()
def test_a_run_that_has_not_finished(stopped: Path, pretrained: Path) -> None:
    finished, images = simclr.load_encoder(pretrained), torch.rand(2, 3, 20, 20)
    (path,) = sorted((stopped / "checkpoints").iterdir())
    step = int(path.name.removeprefix("step-"))
    for found in (
        given_encoder(stopped, checkpoint="newest"),
        given_encoder(stopped, checkpoint=str(step)),
        given_encoder(path),
        given_encoder(pretrained / "encoder", checkpoint="newest"),
    ):
        assert (found.step, found.home.name) == (step, f"at-{path.name}")
        torch.testing.assert_close(found.build()(images), finished(images), rtol=0, atol=0)
        assert torch.equal(found.build(untrained=True)(images), simclr.load_encoder(pretrained, untrained=True)(images))
    run = ScoredRun.at(path)
    assert run.data is not None and run.report_folder(run.data) == stopped / f"at-{path.name}"
    assert run.run_dir == stopped
    with pytest.raises(
        CheckpointError, match=r"the same training command again, or give a checkpoint of it, .*step-00000002\)$"
    ):
        given_encoder(stopped)
    with pytest.raises(CheckpointError, match=rf"--checkpoint is '7'; .* has those of steps {step}; newest"):
        given_encoder(stopped, checkpoint="7")
    damaged = shutil.copytree(path, stopped / "checkpoints" / "step-00000900")
    (damaged / "model.safetensors").write_bytes(b"half")
    found = given_encoder(stopped, checkpoint="newest")
    assert (
        found.step == step and "step-00000900 is damaged (model.safetensors is not as it was written)" in found.said[0]
    )
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint_backbone(damaged)
    shutil.rmtree(damaged)


@pytest.mark.slow
def test_a_run_that_averages_its_weights_gives_the_average(tiny_run: TrainConfig) -> None:
    config = replace(tiny_run, train=replace(tiny_run.train, ema=0.5, epochs=1, knn_every=0, evaluate=False))
    run = simclr.pretrain(config).run_dir
    exported = simclr.load_encoder(run).backbone.state_dict()
    for name, tensor in given_encoder(run, checkpoint="newest").build().backbone.state_dict().items():
        assert torch.equal(tensor, exported[name]), name


@pytest.mark.parametrize(
    ("word", "options", "error", "said"),
    [
        ("runs/bird", {}, CheckpointError, "the run is 'runs/bird': there is no such file or folder; did you mean runs/birds?"),
        ("resnet19", {}, CheckpointError, "and timm has no model of that name; did you mean resnet18"),
        ("weight.pth", {}, CheckpointError, r"'weight.pth': there is no such file; did you mean weights\.pth\?"),
        ("weights.pth", {}, CheckpointError, r"not say which network .* --encoder.name resnet50 \(or resnet50=weights.pth\)"),
        ("weights.pth", {"network": "resnet18"}, CheckpointError, "does not hold the weights of resnet18"),
        ("weights.pth", {"network": "resnet19"}, ConfigError, "did you mean resnet1"),
        ("resnet19=weights.pth", {}, ConfigError, "encoder.name is 'resnet19', which timm does not have; did you mean resnet1"),
        ("resnet19=none.pth", {}, CheckpointError, "'resnet19=none.pth': there is no such file"),
        ("weights.pth", {"checkpoint": "newest"}, ConfigError, "--checkpoint is for a run's folder, and 'weights.pth' is none"),
        ("odd.pth", {}, CheckpointError, "names 'my_net', which timm does not have"),
        ("runs/birds", {}, CheckpointError, "holds no encoder"),
        ("runs", {}, CheckpointError, r"runs holds no encoder \(but runs that do: runs.cats\)"),
        ("resnet18.no_such_tag", {}, ConfigError, "timm has no published weights for resnet18.no_such_tag"),
    ],
)  # fmt: skip
def test_what_is_none_of_these(
    word: str, options: dict[str, Any], error: type, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/birds").mkdir(parents=True)
    Path("runs/cats/encoder").mkdir(parents=True)
    Path("runs/cats/encoder/encoder.json").touch()
    torch.save({"a": torch.zeros(3)}, "weights.pth")
    torch.save({"arch": "my_net", "state_dict": {"a": torch.zeros(3)}}, "odd.pth")
    with pytest.raises(error, match=said) as raised:
        given_encoder(word, **options)
    assert "\n" not in str(raised.value)


class Loop:
    """An object whose notes hold themselves."""

    def __init__(self) -> None:
        self.model = {"name": self}


def test_notes_that_hold_themselves_end(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"a": torch.zeros(2)}
    loop["args"] = {"_content": loop, "model": loop, "x": Loop()}
    torch.save(loop, tmp_path / "loop.pth")
    with pytest.raises(CheckpointError, match="does not say which network"):
        given_encoder(tmp_path / "loop.pth")
