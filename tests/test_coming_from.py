"""The page for users of other libraries: both pieces of code of every row run, and every loss that both have is on it."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import linear_eval
import simclr.config
import simclr.losses
import simclr.mining
from augment import AugmentConfig, MixConfig, ViewGenerator
from simclr.command_line import parse_command
from simclr.data import load_source
from simclr.data.samplers import ClassSampler
from simclr.distances import pairwise_distance
from simclr.model.encoder import build_backbone
from simclr.model.heads import projection_head
from simclr.optim.muon import Muon
from simclr.optim.optimizers import LARS, build_optimizer, parameter_groups
from simclr.optim.schedule import learning_rate

PAGE = Path(__file__).parent.parent / "docs" / "coming_from.md"
FROM = {
    "pytorch-metric-learning": (
        "pytorch_metric_learning",
        {
            "losses": "",
            "miners": "",
            "distances": "",
            "reducers": "",
            "samplers": "",
            "testers": "",
            "AccuracyCalculator": "utils.accuracy_calculator",
            "CustomKNN": "utils.inference",
            "MatchFinder": "utils.inference",
        },
    ),
    "lightly": (
        "lightly",
        {
            "NTXentLoss": "loss",
            "DCLLoss": "loss",
            "LeJEPALoss": "loss",
            "SimCLRTransform": "transforms",
            "SimCLRProjectionHead": "models.modules.heads",
            "LARS": "utils.lars",
            "CosineWarmupScheduler": "utils.scheduler",
            "knn_predict": "utils.benchmarking",
            "LightlyDataset": "data",
        },
    ),
    "timm": (
        "timm",
        {
            "create_model": "",
            "create_optimizer_v2": "optim",
            "Lars": "optim",
            "Muon": "optim",
            "CosineLRScheduler": "scheduler",
            "Mixup": "data",
            "LabelSmoothingCrossEntropy": "loss",
            "param_groups_layer_decay": "optim",
            "ModelEmaV3": "utils",
        },
    ),
}
"""Of each section the package, and where in it the names of its rows are."""


def sections() -> list[tuple[str, str, str, str]]:
    found = []
    for part in PAGE.read_text().split("\n## ")[1:]:
        title, *lines = part.splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
        found += [(title, there[1:-1], here[1:-1], notes) for there, here, notes in cells]
    return found


ROWS = sections()


class Ours:
    """What `ours.` stands for where the other library has the name too."""

    LARS, Muon, NTXentLoss = LARS, Muon, simclr.losses.NTXentLoss


def given() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 4, generator=generator))
    return {
        "torch": torch,
        "F": F,
        "B": 4,
        "C": 3,
        "D": 6,
        "z": torch.randn(12, 6, generator=generator),
        "y": torch.arange(12) % 3,
        "z0": torch.randn(4, 6, generator=generator),
        "z1": torch.randn(4, 6, generator=generator),
        "weight": weight,
        "optimizer": torch.optim.SGD([weight], lr=1.0),
    }


def names_of_ours() -> dict[str, Any]:
    found = {
        name: getattr(module, name) for module in (simclr.losses, simclr.mining, linear_eval) for name in module.__all__
    }
    found |= {name: getattr(simclr.config, name) for name in ("EncoderConfig", "HeadConfig")}
    own = (AugmentConfig, MixConfig, ViewGenerator, ClassSampler, pairwise_distance, build_backbone, projection_head)
    more = (learning_rate, build_optimizer, parameter_groups, load_source)
    return found | {one.__name__: one for one in (*own, *more)} | {"ours": Ours}


@pytest.mark.parametrize(("section", "there", "here", "notes"), ROWS, ids=[f"{s}-{t[:40]}" for s, t, _, _ in ROWS])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_both_pieces_of_code_of_a_row_run(section: str, there: str, here: str, notes: str) -> None:
    made = eval(here, names_of_ours() | given())
    if isinstance(made, torch.Tensor) and made.is_floating_point():
        assert made.isfinite().all()
    for code in re.findall(r"`(\w+\(.*?\)(?:\(.*?\))?)`", notes):
        if code.split("(")[0] in names_of_ours() and "DIR" not in code and "features" not in code:
            eval(code, names_of_ours() | given() | {"labels": torch.arange(4) % 2})
    for words in re.findall(r"`((?:--[a-z.-]+ [\w.-]+ ?)+)`", notes):
        if not words.startswith("--protocol"):
            # What a run has its labels for: `--mix` and the rest of fine-tuning.
            supervised = ["objective:cross-entropy"] if words.startswith("--mix") else []
            parse_command(["cifar10", *supervised, *words.split()], "pretrain.py", "")
    package, places = FROM[section]
    pytest.importorskip(package, reason=f"{section} is not installed")
    theirs = {}
    for name in places:
        if re.search(rf"\b{name}\b", there):
            module = importlib.import_module(f"{package}.{places[name]}".strip("."))
            theirs[name] = (
                getattr(module, name) if hasattr(module, name) else importlib.import_module(f"{package}.{name}")
            )
    found = eval(there, theirs | given())
    if (
        isinstance(found, torch.Tensor)
        and isinstance(made, torch.Tensor)
        and found.shape == made.shape == ()
        and same(there)
    ):
        torch.testing.assert_close(made, found, rtol=1e-4, atol=1e-5)


def same(there: str) -> bool:
    """Whether the row promises one value: no weights that each draws for itself, and no deliberate difference in the notes."""
    drawn = ("num_classes", "NPairs", "DistanceWeighted", "ContrastiveLoss", "semihard", "CrossBatchMemory")
    return not any(word in there for word in drawn)


def test_every_loss_that_both_have_is_on_the_page() -> None:
    theirs = pytest.importorskip("pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed")
    both = {name for name in simclr.losses.__all__ if name.endswith("Loss") and hasattr(theirs, name)}
    assert len(both) > 8
    text = " ".join(f"{there} {here}" for _, there, here, _ in ROWS)
    assert {name for name in both if f"losses.{name}(" not in text or not re.search(rf"(?<!\.){name}\(", text)} == set()


def test_every_row_is_read() -> None:
    assert len(ROWS) == sum(line.startswith("| `") for line in PAGE.read_text().splitlines()) > 40


def test_what_solo_learns_settings_are_called_here_is_taken() -> None:
    section = PAGE.read_text().split("## solo-learn\n")[1].split("\n## ")[0]
    flags = re.findall(r"^\| [^|]*\| `(--[^`]+)`", section, re.MULTILINE)
    assert len(flags) > 10
    words = " ".join(flags).replace("--data.source folder", "").split()
    config = parse_command(["cifar10-lars", *words], "pretrain.py", "")
    assert (config.objective.temperature, config.head.hidden_dim, config.train.precision) == (0.2, 2048, "fp16")
