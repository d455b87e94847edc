"""Rows of other encoders: each as it would be scored alone, and compared with the run's image by image."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import nn

import simclr
from augment import AugmentConfig
from linear_eval import EvalConfig, evaluate_open_set, evaluate_run
from linear_eval.beside import Beside
from linear_eval.comparison.tables import compare_runs
from linear_eval.metrics import difference_over_classes
from simclr.config import DataConfig, EncoderConfig
from simclr.errors import ConfigError, DataError
from simclr.exchange.encoder import export_encoder
from simclr.model.encoder import build_backbone

SMALL = EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16))
QUICK = EvalConfig(trials=2, strengths=(1e-3, 1e-1), resamples=500, labels_per_class=(2,), label_fractions=())


def encoder(folder: Path, size: int, seed: int, mean: float) -> Path:
    """An encoder of its own: size, normalisation, weights."""
    augment = AugmentConfig(size=size, mean=(mean,), std=(0.3,))
    backbone = build_backbone(SMALL, size, seed)
    return export_encoder(backbone, folder, config=SMALL, augment=augment, seed=seed, training={})


@pytest.fixture(autouse=True)
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, and not written as files, which would take longer than all else."""
    monkeypatch.setattr("linear_eval.reports.closed.save_figure", lambda figure, path: path)
    monkeypatch.setattr("linear_eval.reports.embeddings._write", lambda figure, path: path)


@pytest.fixture
def pictures(tmp_path: Path) -> DataConfig:
    """Six classes of twelve pictures whose stripes are finer than the smaller encoder can see in half of them."""
    rng = np.random.default_rng(0)
    for number in range(72):
        kind = number % 6
        pixels = rng.integers(0, 90, (40, 40, 3))
        pixels[:, :: (2, 3, 5)[kind % 3], kind // 3] += 120
        file = tmp_path / "pictures" / "abcdef"[kind] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    return DataConfig(source="folder", path=tmp_path / "pictures", test_fraction=0.4)


def without_seconds(row: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in row.items() if key != "seconds"}


def test_a_row_beside_is_what_it_would_be_alone(tmp_path: Path, pictures: DataConfig) -> None:
    small, large = encoder(tmp_path / "small", 16, 0, 0.2), encoder(tmp_path / "large", 40, 1, 0.6)
    alone = evaluate_run(large, pictures, QUICK)
    untouched = Beside(name="start", encoder=simclr.load_encoder(small))  # fed as the encoder it stands beside
    both = evaluate_run(small, pictures, QUICK, beside=[large, untouched])
    assert list(both["rows"]) == ["encoder", "large", "start", "untrained", "raw pixels"]
    assert without_seconds(both["rows"]["large"]) == without_seconds(alone["rows"]["encoder"])
    assert without_seconds(both["rows"]["large"]) != without_seconds(both["rows"]["encoder"])
    assert without_seconds(both["rows"]["start"]) == without_seconds(both["rows"]["encoder"])
    gain = both["comparison"]["encoder - large"]
    mine, theirs = (both["rows"][name] for name in ("encoder", "large"))
    assert gain["linear"]["difference"] == pytest.approx(mine["linear"]["accuracy"] - theirs["linear"]["accuracy"])
    draws = np.subtract(mine["few_labels"]["2 a class"]["accuracies"], theirs["few_labels"]["2 a class"]["accuracies"])
    assert gain["2 a class"]["difference"] == pytest.approx(draws.mean())
    assert both["comparison"]["encoder - start"]["linear"]["difference"] == 0
    assert "not told apart from the weights it started from" in both["verdict"] and "large" in both["verdict"]
    assert both["beside"]["large"]["sha256"] == alone["encoder"]["sha256"]
    report = compare_runs([small])
    assert "| small | large | " in report and "| small | start | " in report


@pytest.mark.slow
def test_an_open_set_row_beside_is_what_it_would_be_alone(tmp_path: Path, pictures: DataConfig) -> None:
    small, large = encoder(tmp_path / "small", 16, 0, 0.2), encoder(tmp_path / "large", 40, 1, 0.6)
    config = EvalConfig(one_shot_trials=50)
    alone = evaluate_open_set(large, pictures, config)
    both = evaluate_open_set(small, pictures, config, beside=[large])
    assert both["rows"]["large"] == alone["rows"]["encoder"] != both["rows"]["encoder"]
    gain = both["comparison"]["encoder - large"]["recall_at_1"]
    mine, theirs = (both["rows"][name]["retrieval"]["recall_at_k"]["1"] for name in ("encoder", "large"))
    assert gain["difference"] == pytest.approx(mine - theirs)
    assert gain["interval"][0] <= gain["difference"] <= gain["interval"][1]
    written = json.loads((small / "open-set.json").read_text())
    assert written["comparison"] == both["comparison"]
    assert "| small | large | " in compare_runs([small_run(small)])


def small_run(folder: Path) -> Path:
    """A comparison takes a folder with a log, a config or a closed-set score."""
    (folder / "metrics.jsonl").touch()
    return folder


def test_the_interval_of_a_difference_over_classes_is_that_of_their_means() -> None:
    # Classes of one size: the mean over images is the mean of class means, whose interval is Student's.
    gains = torch.randn(6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = gains.mean(1).numpy()
    found = difference_over_classes(gains.flatten(), torch.arange(6).repeat_interleave(10))
    expected = stats.t.interval(0.95, 5, loc=means.mean(), scale=stats.sem(means))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert difference_over_classes(gains[0], torch.zeros(10, dtype=torch.int64)) is None


def test_images_and_names_that_do_not_go_together(tmp_path: Path, pictures: DataConfig) -> None:
    small = encoder(tmp_path / "small", 16, 0, 0.2)
    module = simclr.load_encoder(small)
    for names in (("untrained",), ("a", "a")):
        with pytest.raises(ConfigError, match=f"two rows of the table would be called '{names[0]}'"):
            evaluate_run(small, pictures, QUICK, beside=[Beside(name=name, encoder=module) for name in names])

    class Blind(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 2), torch.nan)

    with pytest.raises(DataError, match="the encoder has diverged"):
        evaluate_run(small, pictures, QUICK, beside=[Beside(name="blind", encoder=Blind())])
