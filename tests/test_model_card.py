"""``export.py RUN --format hub``: the folder loads by timm and by its own lines, and its card says what was measured alone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from torch import Tensor

import simclr
from augment import AugmentConfig
from linear_eval.comparison.card import card_facts
from linear_eval.features.frozen import encoder_digest
from simclr.config import DataConfig, EncoderConfig, TrainConfig
from simclr.config.yaml import save_config
from simclr.exchange.encoder import export_encoder
from simclr.exchange.formats import ExportOptions, export_as
from simclr.model.encoder import build_backbone

ROOT = Path(__file__).resolve().parents[1]
NARROW: dict[str, Any] = {"layers": (1, 1, 1, 1), "channels": (4, 4, 8, 8)}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
NETWORKS = {
    "small stem": EncoderConfig(name="resnet18", stem="small", **NARROW),
    "resnet": EncoderConfig(name="resnet18", stem="imagenet", **NARROW),
    "vit": EncoderConfig(name="test_vit", patch_size=8),
}

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(script: Callable[[str], Command]) -> Command:
    """``command(*words)`` runs scripts/export.py; gives its exit code, its output and its errors."""
    return script("export")


def run_in(folder: Path, encoder: EncoderConfig, data: DataConfig | None = None, size: int = 32) -> Path:
    """A run's folder with a config and an encoder of random weights and statistics."""
    augment = AugmentConfig(size=size, mean=MEAN, std=STD)
    backbone = build_backbone(encoder, size, seed=3)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in backbone.state_dict().items():
        if "running" in name:
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    export_encoder(backbone, folder / "encoder", config=encoder, augment=augment, seed=3, training={})
    config = TrainConfig(
        name=folder.name, out=folder.parent, encoder=encoder, augment=augment, data=data or DataConfig()
    )
    save_config(config, folder / "config.yaml")
    return folder


def score(run: Path, name: str, accuracy: float = 0.875, sha256: str | None = None) -> None:
    """A ``result.json`` of these figures."""
    linear = {"accuracy": accuracy, "interval": [0.8, 0.925], "confusion": [[9, 1], [1, 9]]}
    rows = {"encoder": linear, "untrained": linear | {"accuracy": 0.5}, "raw pixels": linear | {"accuracy": 0.625}}
    knn = {"accuracy": 0.75, "interval": [0.7, 0.8]}
    digest = encoder_digest(simclr.load_encoder(run)) if sha256 is None else sha256
    content = {
        "rows": {key: {"linear": row, "knn": knn} for key, row in rows.items()},
        "verdict": "Pretraining helped: 87.5 % against the others.",
        "protocol": {"linear": "a probe in words"},
        "config": {},
        "data": {"train": {"name": name, "images": 80}, "test": {"name": name, "images": 20, "near_copies": 3}},
        "encoder": {"sha256": digest},
    }
    (run / "result.json").write_text(json.dumps(content))


def images_of(count: int, size: int = 32) -> Tensor:
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cards_lines_load_it_wherever_the_folder_goes(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    run = run_in(tmp_path / "run", NETWORKS[name])
    export_as(run, ExportOptions(format="hub"), card_facts(run))
    (run / "export" / "hub").rename(tmp_path / "moved")
    assert {file.name for file in (tmp_path / "moved").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    lines = (tmp_path / "moved" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    given: dict[str, Any] = {"images": images_of(3)}
    monkeypatch.chdir(tmp_path / "moved")
    with torch.no_grad():
        exec(lines, given)
        torch.testing.assert_close(given["features"], simclr.load_encoder(run)(images_of(3)), rtol=1e-4, atol=1e-4)
    # What the Hub offers as a line to load it has to be true.
    assert ModelCard.load("README.md").data.library_name == (None if name == "small stem" else "timm")
    assert ("has no name for the stem" in Path("README.md").read_text()) == (name == "small stem")


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_the_config_is_timms_own(name: str, tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", NETWORKS[name])
    export_as(run, ExportOptions(format="hub"))
    ours = json.loads((run / "export" / "hub" / "config.json").read_text())
    model = timm.create_model(f"local-dir:{run / 'export' / 'hub'}", pretrained=True)
    timm.models.save_for_hf(model, tmp_path / "theirs", safe_serialization=True)
    theirs = json.loads((tmp_path / "theirs" / "config.json").read_text())
    for key in ("architecture", "num_classes", "num_features"):
        assert ours[key] == theirs[key], key
    # timm writes what it was asked for as well as what it found out by itself.
    sized = {"img_size": [32, 32]} if name == "vit" else {}
    assert (ours["model_args"] | sized).items() <= theirs["model_args"].items()
    shared = ours["pretrained_cfg"].keys() & theirs["pretrained_cfg"].keys() - {
        "fixed_input_size"
    }  # test_vit takes any
    assert {"mean", "std", "input_size", "interpolation", "crop_pct", "crop_mode", "first_conv", "classifier"} <= shared
    assert {key: ours["pretrained_cfg"][key] for key in shared} == {
        key: theirs["pretrained_cfg"][key] for key in shared
    }
    # As published weights are used: with a classifier of so many classes, and for images of another kind.
    other = timm.create_model(f"local-dir:{run / 'export' / 'hub'}", pretrained=True, num_classes=7, in_chans=1)
    assert other.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 7)
    first = ours["pretrained_cfg"]["first_conv"]
    weight = model.get_submodule(first).weight
    torch.testing.assert_close(other.get_submodule(first).weight, weight.sum(1, keepdim=True))


def test_the_card_has_what_was_measured_and_no_path(command: Command, tmp_path: Path) -> None:
    home = tmp_path / "home" / "someone"
    data = DataConfig(source="folder", path=home / "birds, all")
    run = run_in(home / "runs" / "rook", NETWORKS["resnet"], data)
    score(run, str(home / "birds, all"))
    code, _, err = command(run, "--format", "hub", "--license", "cc-by-4.0")
    assert (code, err) == (0, "")
    card = ModelCard.load(run / "export" / "hub" / "README.md")
    card.data.to_yaml()
    assert (card.data.license, card.data.model_name, card.data.metrics) == ("cc-by-4.0", "rook", ["accuracy"])
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.875, "birds, all")
    assert result.dataset_type == "imagefolder" and "simclr" in card.data.tags
    for said in (
        "| encoder | 87.5 [80.0, 92.5] | 75.0 [70.0, 80.0] |",
        "| untrained | 50.0",
        "| raw pixels | 62.5",
        "### birds, all, 20 test images of 2 classes: accuracy in %",
        "Pretraining helped: 87.5 %",
        "- linear: a probe in words",
        "a folder of its trainer's own, `birds, all`: 80, and 20 held out for the scores. No label was used",
        "The weights are given under `cc-by-4.0`.",
        "3 test images have a near-copy in training",
        "- objective: nt-xent",
    ):
        assert said in card.text, said
    for file in ("README.md", "config.json"):
        assert "someone" not in (run / "export" / "hub" / file).read_text()


def test_what_was_not_measured_is_said(command: Command, tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", NETWORKS["resnet"], DataConfig(source="cifar10"))
    assert command(run, "--format", "hub")[0] == 0
    card = ModelCard.load(run / "export" / "hub" / "README.md")
    assert card.data.license == "unknown" and "**TO BE FILLED IN before this is shared**" in card.text
    assert "Not measured: the run was not scored" in card.text and card.data.eval_results is None
    assert card.data.datasets == ["uoft-cs/cifar10"]
    score(run, "cifar10", sha256="0" * 64)
    assert command(run, "--format", "hub")[0] == 0
    text = (run / "export" / "hub" / "README.md").read_text()
    assert "1 score in the run's folder is of other weights than these, and is left out" in text and "87.5" not in text
    (run / "encoder").rename(tmp_path / "encoder")
    assert command(tmp_path / "encoder", "--format", "hub")[0] == 0
    text = (tmp_path / "encoder" / "export" / "hub" / "README.md").read_text()
    assert "Which images these weights were trained on was not written down" in text


def test_weights_that_began_with_published_ones_name_them_and_their_licence(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", NETWORKS["resnet"])
    written = yaml.safe_load((run / "config.yaml").read_text())
    written["encoder"] |= {"name": "resnet18.a1_in1k", "pretrained": True}
    (run / "config.yaml").write_text(yaml.safe_dump(written))
    export_as(run, ExportOptions(format="hub", license="apache-2.0"), card_facts(run))
    card = ModelCard.load(run / "export" / "hub" / "README.md")
    assert card.data.base_model == "timm/resnet18.a1_in1k"
    licence = timm.get_pretrained_cfg("resnet18.a1_in1k").license
    assert f"Training began with `timm/resnet18.a1_in1k`, whose licence timm gives as `{licence}`." in card.text


def test_a_card_that_was_edited_is_not_written_over(command: Command, tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", NETWORKS["resnet"])
    for _ in range(2):
        assert command(run, "--format", "hub")[0] == 0
    card = run / "export" / "hub" / "README.md"
    card.write_text(card.read_text().replace("TO BE FILLED IN", "Mine"))
    code, out, err = command(run, "--format", "hub")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "README.md was edited since it was exported, and would be lost" in err and "Mine" in card.read_text()
    code, _, err = command(run, "--format", "timm", "--license", "mit")
    assert code == 2 and "--license is for the model card of --format hub" in err
    code, _, err = command(run, "--format", "hub", "--license", "My own: ask me")
    assert code == 2 and "expected an identifier of the Hugging Face Hub" in err and err.count("\n") == 1


@pytest.mark.slow
def test_every_format_gives_the_runs_features_in_a_process_of_its_own(tmp_path: Path) -> None:
    for name, config in NETWORKS.items():
        run_in(tmp_path / name, config)
    write = """if True:
        import sys
        from simclr.exchange.formats import ExportOptions, export_as
        for run in sys.argv[1:]:
            for form in ("hub", "timm", "torch", "onnx"):
                export_as(run, ExportOptions(format=form))
    """
    read = """if True:
        import json, sys
        from pathlib import Path
        import torch
        import simclr
        sized = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
        for run in map(Path, sys.argv[1:]):
            with torch.no_grad():
                wanted = simclr.load_encoder(run)(sized)
                for form in ("hub", "timm", "torch", "onnx"):
                    folder = run / "export" / form
                    described = json.loads((folder / ("config.json" if form in ("hub", "timm") else "model.json")).read_text())
                    given = {"images": sized.numpy() if form == "onnx" else sized}
                    lines = "\\n".join(described["load"])
                    exec(lines.replace("local-dir:.", f"local-dir:{folder}").replace("'model.safetensors'",
                         repr(str(folder / "model.safetensors"))), given)
                    found = torch.as_tensor(given["features"])
                    difference = ((found - wanted).abs().max() / wanted.abs().max()).item()
                    assert found.shape == wanted.shape and difference <= 1e-4, (run.name, form, difference)
                    print(run.name, form)
    """
    for code in (write, read):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, *(str(tmp_path / name) for name in NETWORKS)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 12
