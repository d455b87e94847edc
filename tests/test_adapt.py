"""Adapting weights that are there: what they say of themselves, what a run keeps of its start, and how far it went from it."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import checkpoint_filter_fn

import simclr
from augment import AugmentConfig
from linear_eval import EvalConfig, evaluate_run, finetuned
from linear_eval.scoring import Scoring
from simclr.command_line import parse_command
from simclr.config import EncoderConfig, TrainConfig
from simclr.config.yaml import load_config
from simclr.errors import ConfigError
from simclr.exchange.imported import start_from
from simclr.finetune import parse_finetuning
from simclr.model.contrastive import build_model
from simclr.model.encoder import build_backbone
from simclr.run.diagnostics import linear_cka
from simclr.run.log import read_metrics


def parsed(*words: str) -> TrainConfig:
    return parse_command(["adapt", *words], "pretrain.py", "")


def test_published_weights_bring_their_size_and_normalisation() -> None:
    config = parsed("--data.path", "birds", "--encoder.name", "vit_small_patch14_dinov2.lvd142m")
    assert (config.encoder.name, config.encoder.pretrained, config.encoder.init) == (
        "vit_small_patch14_dinov2.lvd142m",
        True,
        None,
    )
    assert (config.augment.size, config.augment.mean, config.augment.views) == (518, (0.485, 0.456, 0.406), 2)
    assert config.name == "vit_small_patch14_dinov2-lvd142m-adapted"
    assert config.augment.jitter == simclr.preset("folder").augment.jitter  # views are made as SimCLR makes them
    siglip = parsed("--encoder.init", "vit_base_patch16_siglip_224", "--data.path", "birds")  # the name of a timm model
    assert (siglip.augment.mean, siglip.encoder.init, siglip.encoder.pretrained) == ((0.5, 0.5, 0.5), None, True)
    smaller = parsed("--data.path", "birds", "--encoder.name", "vit_small_patch14_dinov2", "--augment.size", "224")
    assert (smaller.augment.size, smaller.data.size) == (224, 224)
    own = parsed("--data.path", "birds", "--encoder.name", "resnet50", "--augment.mean", "0.5", "--augment.std", "0.2")
    assert own.augment.mean == (0.5,) and own.augment.size == timm.get_pretrained_cfg("resnet50").input_size[-1]


def test_a_run_brings_its_network_its_images_and_its_views(pretrained: Path, tmp_path: Path) -> None:
    run = load_config(pretrained / "config.yaml")
    config = parsed("--encoder.init", str(pretrained))
    assert config.encoder == replace(run.encoder, init=str(pretrained))
    assert (config.augment, config.data.source, config.name) == (run.augment, "digits", "birds-adapted")
    other = parsed("--encoder.init", str(pretrained), "--data.path", "birds", "--train.epochs", "3")
    assert (other.data.source, other.data.limit, other.data.size) == ("folder", None, run.data.size)
    larger = parsed("--encoder.init", str(pretrained), "--augment.size", "96", "--data.path", "birds")
    assert larger.encoder.stem == "small" and larger.augment.size == 96  # as the weights had it at 16 px
    (tmp_path / "birds.yaml").write_text(
        f"preset: adapt\nencoder: {{init: {pretrained}}}\noptim: {{learning_rate: 5e-5}}\n"
    )
    from_file = parse_command([str(tmp_path / "birds.yaml"), "--train.epochs", "4"], "pretrain.py", "")
    assert (from_file.augment, from_file.optim.learning_rate, from_file.train.epochs) == (run.augment, 5e-5, 4)
    assert (from_file.name, from_file.encoder.init) == ("birds", str(pretrained))


def test_a_checkpoint_brings_what_its_run_says(pretrained: Path, tmp_path: Path) -> None:
    checkpoint = pretrained / "checkpoints" / "step-00000002"
    config = small(checkpoint, tmp_path, "--train.epochs", "2", "--train.knn-every", "0")
    whole = parsed("--encoder.init", str(pretrained))
    assert (config.encoder, config.augment) == (replace(whole.encoder, init=str(checkpoint)), whole.augment)
    kept = load_file(simclr.pretrain(config).run_dir / "start" / "encoder.safetensors")
    theirs = load_file(pretrained / "encoder" / "encoder.safetensors")
    assert all(torch.equal(kept[name], theirs[name]) for name in kept if not name.endswith("num_batches_tracked"))


def test_of_a_file_timm_knows_what_such_weights_take(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "weights.pth")
    config = parsed(
        "--encoder.init", str(tmp_path / "weights.pth"), "--encoder.name", "vit_base_patch16_clip_224.openai"
    )
    assert (config.augment.size, config.augment.mean) == (224, (0.48145466, 0.4578275, 0.40821073))
    assert (config.encoder.init, config.encoder.pretrained) == (str(tmp_path / "weights.pth"), False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--encoder.no-pretrained"], "adapt needs weights to start from: --encoder.init with a run"),
        (["--encoder.init", "nowhere"], "there is no such file or folder, and timm has no model of that name"),
        (["--encoder.name", "resnet19"], "timm has no published weights for resnet19"),
        (["--encoder.name", "resnet50.of_a_stranger"], "timm has no published weights for resnet50.of_a_stranger"),
    ],
)
def test_starts_that_are_none(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parsed("--data.path", "birds", *words)


def small(pretrained: Path, tmp_path: Path, *words: str) -> TrainConfig:
    few = ["--train.batch-size", "32", "--train.epochs", "3", "--train.precision", "fp32", "--out", str(tmp_path)]
    return parsed("--encoder.init", str(pretrained), "--optim.learning-rate", "0.01", *few, *words)


def test_a_run_keeps_its_start_and_tells_how_far_it_went(
    pretrained: Path, tmp_path: Path, stop_after: Callable[[int], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    config = small(pretrained, tmp_path)
    run = simclr.pretrain(config).run_dir
    start, end = simclr.load_encoder(run / "start"), simclr.load_encoder(run)
    theirs = load_file(pretrained / "encoder" / "encoder.safetensors")
    kept = load_file(run / "start" / "encoder.safetensors")
    counters = {name for name in kept if name.endswith("num_batches_tracked")}  # begin anew
    assert kept.keys() == theirs.keys() and all(
        torch.equal(kept[name], theirs[name]) for name in kept.keys() - counters
    )
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "start_cka" in line]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[0]["start_cka"] == pytest.approx(1)  # the head alone
    assert lines[2]["start_cka"] < 0.9999
    assert f"epoch 3: linear CKA with the start {lines[2]['start_cka']:.3g}, online kNN" in capfd.readouterr().err
    # The figure of the encoder that came out, beside the start, on all images, of which there are few.
    images = simclr.train.open_run(replace(config, name="other")).images.pixels
    with torch.no_grad():
        x, y = start(images).double().numpy(), end(images).double().numpy()
    assert lines[2]["start_cka"] == pytest.approx(unbiased_cka(x, y), abs=1e-5)
    stopped = replace(config, name="stopped")
    with stop_after(7):
        simclr.pretrain(stopped)
    (pretrained / "encoder").rename(pretrained / "gone")  # what it starts from is kept with it
    try:
        run = simclr.pretrain(stopped).run_dir
    finally:
        (pretrained / "gone").rename(pretrained / "encoder")
    named = Scoring.begin(run, None, None, False, [run / "start"]).beside
    assert [one.name for one in named] == ["start", str(run / "start")]
    again = [line["start_cka"] for line in read_metrics(run / "metrics.jsonl") if "start_cka" in line]
    assert again == [line["start_cka"] for line in lines]


def test_published_weights_are_a_start_too_and_random_ones_are_none(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda name, pretrained=False, **options: create(name, **options))
    train = replace(tiny_run.train, epochs=1, batch_size=32, knn_every=1)
    config = replace(tiny_run, data=replace(tiny_run.data, limit=64, labels="none"), train=train)
    assert "start_cka" not in simclr.pretrain(config).metrics
    assert not (config.run_dir / "start").exists()
    config = replace(config, name="published", encoder=replace(config.encoder, pretrained=True))
    result = simclr.pretrain(config)
    assert result.metrics["start_cka"] < 1
    assert simclr.load_encoder(config.run_dir / "start").size == config.augment.size
    monkeypatch.undo()  # and it loads without a network
    simclr.load_encoder(config.run_dir / "start")


@pytest.mark.slow
def test_the_score_has_a_row_for_the_start(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the row that the weights had when their own run was scored, and the verdict says whether adapting helped."""
    monkeypatch.setattr("linear_eval.reports.closed.save_figure", lambda figure, path: path)
    config = small(pretrained, tmp_path, "--train.epochs", "2")
    run = simclr.pretrain(config).run_dir
    quick = EvalConfig(
        trials=1, strengths=(1e-2, 1.0), resamples=200, labels_per_class=(2,), label_fractions=(), pixel_size=8
    )
    images = replace(config.data, test_fraction=0.1)
    before, after = (evaluate_run(path, images, quick) for path in (pretrained, run))
    assert list(after["rows"]) == ["encoder", "start", "untrained", "raw pixels"]
    theirs, ours = before["rows"]["encoder"], after["rows"]["start"]
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    gain = after["comparison"]["encoder - start"]["linear"]
    assert gain["difference"] == pytest.approx(
        after["rows"]["encoder"]["linear"]["accuracy"] - theirs["linear"]["accuracy"]
    )
    low, high = gain["interval"]
    words = "Adapting helped" if low > 0 else "Adapting made it worse" if high < 0 else "No sign that adapting helped"
    assert f"{words}: " in after["verdict"] and "the weights it started from" in after["verdict"]
    assert "start" not in before["rows"]


def unbiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    """By the matrices of Székely & Rizzo (2014), whose U-centred product is the unbiased estimate of HSIC."""

    def centred(features: np.ndarray) -> np.ndarray:
        gram, n = features @ features.T, len(features)
        np.fill_diagonal(gram, 0)
        gram = gram - gram.sum(0) / (n - 2) - gram.sum(1)[:, None] / (n - 2) + gram.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(gram, 0)
        return gram

    k, m = centred(x), centred(y)
    return float((k * m).sum() / math.sqrt((k * k).sum() * (m * m).sum()))


def test_linear_cka_is_the_sum_over_all_quadruples() -> None:
    """Song et al. 2012, theorem 2: the mean over distinct i, j, q, r of K_ij L_ij + K_ij L_qr - 2 K_ij L_iq."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)) + 5, rng.normal(size=(7, 10))
    y[:, :3] += 2 * x

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        k, m = a @ a.T, b @ b.T
        return sum(k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in itertools.permutations(range(7), 4))

    expected = hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))
    assert linear_cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected, rel=1e-9)


def test_linear_cka_is_the_papers_for_many_images_and_does_not_grow_with_the_width() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 6))
    y = x @ rng.normal(size=(6, 4)) + rng.normal(size=(1000, 4))
    a, b = x - x.mean(0), y - y.mean(0)
    paper = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert linear_cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(paper, abs=5e-3)
    rotated = 3 * x @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + 7
    assert linear_cka(torch.tensor(x), torch.tensor(rotated)) == pytest.approx(1)
    unrelated = (torch.tensor(rng.normal(size=(60, 2000))) for _ in range(2))
    assert abs(linear_cka(*unrelated)) < 0.1  # the paper's estimate says 0.97
    assert math.isnan(linear_cka(torch.zeros(9, 2), torch.randn(9, 2)))
    assert math.isnan(linear_cka(torch.randn(3, 2), torch.randn(3, 2)))


# At another size, and for other channels.


@pytest.mark.parametrize("channels", [1, 4])
def test_published_weights_fit_other_channels_as_timm_fits_them(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = timm.create_model("test_resnet")
    torch.save(published.state_dict(), tmp_path / "published.pth")
    create = partial(timm.create_model, pretrained_cfg_overlay={"file": str(tmp_path / "published.pth")})
    monkeypatch.setattr("timm.create_model", create)
    backbone = build_backbone(EncoderConfig(name="test_resnet", pretrained=True), 32, seed=0, channels=channels)
    theirs = published.state_dict()
    theirs["conv1.0.weight"] = timm.models.adapt_input_conv(channels, theirs["conv1.0.weight"])
    found = backbone.state_dict()
    assert found["conv1.0.weight"].shape[1] == channels
    assert all(torch.equal(found[name], theirs[name]) for name in found)


def test_a_run_on_colours_is_adapted_to_other_channels(pretrained: Path) -> None:
    config = parsed("--encoder.init", str(pretrained), "--data.path", "birds", "--data.channels", "4")
    backbone = build_model(config).backbone
    said = start_from(backbone, config.encoder, 4)
    assert "65 of 65 tensors" in said and "conv1.weight fitted from 3 channels to 4" in said
    theirs = load_file(pretrained / "encoder" / "encoder.safetensors")["conv1.weight"]
    assert torch.equal(backbone.conv1.weight.detach(), timm.models.adapt_input_conv(4, theirs))


@pytest.mark.slow
def test_a_transformer_trained_at_32_px_goes_on_at_64(
    tiny_run: TrainConfig, tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapted, and fine-tuned and scored: every tensor is there, and the start is what timm makes of the weights at 64 px."""
    train = replace(tiny_run.train, epochs=1, batch_size=8, knn_every=1)
    encoder = EncoderConfig(name="test_vit", patch_size=8)
    data = replace(tiny_run.data, source="folder", path=image_folder, limit=None)
    config = replace(tiny_run, encoder=encoder, train=train, data=data, augment=AugmentConfig(size=32))
    first = simclr.pretrain(replace(config, schedule=replace(config.schedule, warmup_epochs=0))).run_dir
    weights = load_file(first / "encoder" / "encoder.safetensors")
    larger = timm.create_model("test_vit", num_classes=0, img_size=64, patch_size=8)
    larger.load_state_dict(checkpoint_filter_fn(weights, larger))
    assert weights["pos_embed"].shape[1] < larger.pos_embed.shape[1]
    words = ["--encoder.init", str(first), "--augment.size", "64", "--data.size", "64", "--train.batch-size", "8"]
    words += ["--train.epochs", "2", "--out", str(tmp_path / "at-64"), "--train.precision", "fp32"]
    adapting = parsed(*words, "--schedule.warmup-epochs", "0")
    tuning = parse_finetuning(
        [*words, "--schedule.head-epochs", "1", "--schedule.warmup-epochs", "0"], "finetune.py", ""
    )
    for config in (adapting, tuning):
        run = simclr.pretrain(config).run_dir
        start = load_file(run / "start" / "encoder.safetensors")
        expected = larger.state_dict()
        assert start.keys() == expected.keys() and all(torch.equal(start[name], expected[name]) for name in start)
        assert simclr.load_encoder(run).size == 64
    score = finetuned.evaluate_finetuned(replace(tuning, train=replace(tuning.train, scratch=False)))
    assert set(score["rows"]) == {"fine-tuned", "linear probe"}
    images = replace(data, size=64)
    quick = EvalConfig(trials=0, strengths=(1.0,), resamples=50, pixel_size=8)
    assert "start" in evaluate_run(tmp_path / "at-64" / adapting.name, images, quick)["rows"]
