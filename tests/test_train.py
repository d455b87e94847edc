"""The loop, run for real at a tiny size: what it writes, that it learns, that it resumes to the bit, what it refuses."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import simclr
from simclr.config import EncoderConfig, TrainConfig
from simclr.errors import ConfigError, DataError, PipelineError
from simclr.losses import CenterConfig, EmbeddedBatch, MoCoConfig
from simclr.run.checkpoint import newest_checkpoint, save_checkpoint
from simclr.run.log import read_metrics


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "encoder" / "encoder.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.pictures
def test_a_run_leaves_all_it_promises(tiny_run: TrainConfig) -> None:
    result = simclr.pretrain(tiny_run)
    assert result.finished
    assert result.steps == 10
    names = {path.name for path in result.run_dir.iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "curves.png", "views.png", "checkpoints", "encoder"}
    lines = read_metrics(result.run_dir / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, 11))
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert len(epochs) == 2
    for name in ("contrastive_top1", "alignment", "uniformity", "effective_rank", "feature_spread"):
        assert name in epochs[0]
    assert "online_knn" in epochs[1]
    steps = [line["loss"] for line in lines if line["kind"] == "step"]
    assert epochs[1]["epoch_loss"] == pytest.approx(sum(steps[5:]) / 5, rel=1e-5)
    assert sorted(path.name for path in (result.run_dir / "checkpoints").iterdir()) == [
        "step-00000009",
        "step-00000010",
    ]
    encoder = simclr.load_encoder(result.run_dir)
    assert encoder(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 16)


def test_the_loss_falls_and_the_rate_follows_the_schedule(tiny_run: TrainConfig) -> None:
    result = simclr.pretrain(replace(tiny_run, train=replace(tiny_run.train, epochs=8)))
    steps = [line for line in read_metrics(result.run_dir / "metrics.jsonl") if line["kind"] == "step"]
    assert sum(line["loss"] for line in steps[-5:]) < sum(line["loss"] for line in steps[:5]) - 1
    rates = [line["learning_rate"] for line in steps]
    assert max(rates) == pytest.approx(tiny_run.optim.learning_rate)
    assert rates.index(max(rates)) == 4  # a warm-up of one epoch of five steps


def test_two_runs_of_a_seed_are_equal_and_of_two_seeds_are_not(tiny_run: TrainConfig) -> None:
    runs = [
        weights(simclr.pretrain(replace(tiny_run, name=name, seed=seed)).run_dir)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_a_stopped_run_continues_to_the_same_bits(tiny_run: TrainConfig, stop_after: Callable[[int], Any]) -> None:
    """Stopped by its flag after some steps (5 is an epoch's end), with dropped paths and resident data."""
    config = replace(tiny_run, encoder=replace(tiny_run.encoder, drop_path=0.2))
    undisturbed = weights(simclr.pretrain(replace(config, name="undisturbed")).run_dir)
    reference = read_metrics(tiny_run.out / "undisturbed" / "metrics.jsonl")
    for stop_at in (1, 4, 5, 8):
        name = f"stopped-at-{stop_at}"
        with stop_after(stop_at):
            stopped = simclr.pretrain(replace(config, name=name))
        assert not stopped.finished
        assert stopped.steps == stop_at
        assert not (stopped.run_dir / "encoder").exists()
        resumed = simclr.pretrain(replace(config, name=name))
        assert resumed.finished
        assert same(weights(resumed.run_dir), undisturbed), name
        lines = read_metrics(resumed.run_dir / "metrics.jsonl")
        assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, 11))
        for kind, figure in (("step", "loss"), ("epoch", "epoch_loss"), ("epoch", "online_knn")):
            found, expected = (
                [line[figure] for line in ls if line["kind"] == kind and figure in line] for ls in (lines, reference)
            )
            assert found == expected, (name, figure)


def test_the_views_grow_and_a_stopped_run_continues_among_them(
    tiny_run: TrainConfig, stop_after: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    growing = replace(tiny_run.schedule, view_sizes=((0.3, 8), (0.5, 12)))
    config = replace(tiny_run, augment=replace(tiny_run.augment, size=16), schedule=growing)
    seen: list[int] = []
    apply = simclr.train.cached_step

    def recorded(model: Any, x: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        seen.append(x.shape[-1])
        return apply(model, x, *arguments, **named)

    monkeypatch.setattr(simclr.train, "cached_step", recorded)
    undisturbed = weights(simclr.pretrain(replace(config, name="undisturbed")).run_dir)
    assert seen == 3 * [8] + 2 * [12] + 5 * [16]
    with stop_after(4):
        simclr.pretrain(replace(config, name="stopped"))
    assert same(weights(simclr.pretrain(replace(config, name="stopped")).run_dir), undisturbed)
    assert seen[10:] == seen[:10]


def test_views_may_stay_smaller_than_what_the_encoder_reads(tiny_run: TrainConfig) -> None:
    sizes = replace(tiny_run.schedule, view_sizes=((0.3, 8), (1, 12)))
    config = replace(tiny_run, augment=replace(tiny_run.augment, size=16), schedule=sizes)
    run = simclr.pretrain(config).run_dir
    assert simclr.load_encoder(run).size == 16
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
    left = [line["seconds_left"] * line["images_per_second"] / config.train.batch_size for line in lines]
    # Three of 8 px, seven of 12; after the third step those that are left are all larger than it.
    by_hand = [2 + 7 * 144 / 64, 1 + 7 * 144 / 64, 7 * 144 / 64, *range(6, -1, -1)]
    assert left == pytest.approx([by_hand[line["step"] - 1] for line in lines])


def test_a_transformer_takes_one_size(tiny_run: TrainConfig) -> None:
    encoder = EncoderConfig(name="vit_tiny_patch16_224", patch_size=4)
    config = replace(tiny_run, encoder=encoder, schedule=replace(tiny_run.schedule, view_sizes=((0.5, 12),)))
    with pytest.raises(ConfigError, match="views of 12 px, which vit_tiny_patch16_224 does not take"):
        simclr.pretrain(config)
    assert not config.run_dir.exists()


def test_a_finished_run_is_left_as_it_is(tiny_run: TrainConfig) -> None:
    first = simclr.pretrain(tiny_run)
    before = weights(first.run_dir)
    again = simclr.pretrain(tiny_run)
    assert again.finished
    assert again.metrics["loss"] == first.metrics["loss"]
    assert same(weights(again.run_dir), before)


def test_another_config_in_the_same_folder_is_refused(tiny_run: TrainConfig) -> None:
    simclr.pretrain(tiny_run)
    before = {path: path.stat().st_mtime_ns for path in tiny_run.run_dir.rglob("*")}
    with pytest.raises(ConfigError, match=r"seed: 0 -> 1; augment\.size: 8 -> 24.*--name"):
        simclr.pretrain(replace(tiny_run, seed=1, augment=replace(tiny_run.augment, size=24)))
    assert before == {path: path.stat().st_mtime_ns for path in tiny_run.run_dir.rglob("*")}
    simclr.pretrain(replace(tiny_run, train=replace(tiny_run.train, log_every=3)))  # does not touch the weights


def test_a_run_may_continue_with_other_settings_that_no_weight_depends_on(
    tiny_run: TrainConfig, stop_after: Callable[[int], Any]
) -> None:
    undisturbed = weights(simclr.pretrain(replace(tiny_run, name="undisturbed")).run_dir)
    with stop_after(4):
        simclr.pretrain(replace(tiny_run, name="stopped"))
    other = replace(tiny_run.train, knn_every=1, log_every=2, checkpoint_every=2, keep_checkpoints=1, evaluate=False)
    resumed = simclr.pretrain(replace(tiny_run, name="stopped", train=other))
    assert same(weights(resumed.run_dir), undisturbed)
    epochs = [line for line in read_metrics(resumed.run_dir / "metrics.jsonl") if line["kind"] == "epoch"]
    assert all("online_knn" in line for line in epochs)


def test_a_folder_that_is_no_run_is_not_written_over(tiny_run: TrainConfig) -> None:
    tiny_run.run_dir.mkdir(parents=True)
    (tiny_run.run_dir / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="is no run of this program"):
        simclr.pretrain(tiny_run)
    assert [path.name for path in tiny_run.run_dir.iterdir()] == ["thesis.tex"]


def test_fewer_images_than_a_batch_writes_nothing(tiny_run: TrainConfig) -> None:
    with pytest.raises(DataError, match="640 images, fewer than one batch of 2048"):
        simclr.pretrain(replace(tiny_run, train=replace(tiny_run.train, batch_size=2048)))
    assert not tiny_run.run_dir.exists()


def poison(monkeypatch: pytest.MonkeyPatch, steps: range) -> list[bool]:
    """Make the loss NaN at ``steps``; whether all that has weights came out of each step as it went in."""
    at, unchanged, forward, taken = [0], [], simclr.objectives.Objective.forward, simclr.train.one_step

    def state(learner: Any) -> list[torch.Tensor]:
        states = (value for one in learner.optimizer.state.values() for value in one.values())
        return [torch.as_tensor(value).clone() for value in [*learner.weights.state_dict().values(), *states]]

    def spoilt(self: Any, batch: EmbeddedBatch) -> torch.Tensor:
        return forward(self, batch) * (float("nan") if at[0] in steps else 1.0)

    def step(run: Any, learner: Any, number: int, *rest: Any) -> Any:
        at[0], before = number, state(learner)
        done = taken(run, learner, number, *rest)
        unchanged.append(all(torch.equal(x, y) for x, y in zip(before, state(learner), strict=False)))
        return done

    monkeypatch.setattr(simclr.objectives.Objective, "forward", spoilt)
    monkeypatch.setattr("simclr.train.one_step", step)
    return unchanged


VARIANTS: dict[str, dict[str, Any]] = {
    "nt-xent with an average": {"ema": 0.9},
    "moco": {"objective": MoCoConfig()},
    "centers": {"objective": CenterConfig()},
    "cached": {"cached_chunk": 48},
    "muon": {"optim": "muon"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_that_is_not_finite_is_skipped_and_leaves_nothing_behind(
    variant: str, tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change = dict(VARIANTS[variant])
    config = replace(tiny_run, objective=change.pop("objective", tiny_run.objective))
    config = replace(config, optim=replace(config.optim, name=change.pop("optim", config.optim.name)))
    config = replace(config, train=replace(config.train, **change))
    unchanged = poison(monkeypatch, range(4, 6))  # the last step of an epoch, and the first of the next
    assert simclr.pretrain(config).finished
    assert unchanged == [step in range(4, 6) for step in range(10)]
    assert all(tensor.isfinite().all() for tensor in weights(config.run_dir).values())
    text = (config.run_dir / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    lines = read_metrics(config.run_dir / "metrics.jsonl")
    skipped = [line for line in lines if line["kind"] == "skipped"]
    assert [(line["step"], line["epoch"], line["what"]) for line in skipped] == [
        (4, 1, ["loss", "gradient"]),
        (5, 2, ["loss", "gradient"]),
    ]
    epochs = [line["epoch_loss"] for line in lines if line["kind"] == "epoch"]
    losses = {line["step"]: line.get("loss") for line in lines if line["kind"] == "step"}
    assert [losses[5], losses[6]] == [None, None]
    for mean, steps in zip(epochs, ([1, 2, 3, 4], [7, 8, 9, 10]), strict=True):
        assert mean == pytest.approx(sum(losses[step] for step in steps) / 4, rel=1e-5)
    said = [line for line in capsys.readouterr().err.splitlines() if "the step is skipped" in line]
    assert len(said) == 2 and "at step 4" in said[0]


def test_a_run_that_skipped_a_step_resumes_to_the_same_bits(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, range(4, 5))
    config = replace(tiny_run, train=replace(tiny_run.train, checkpoint_every=4, keep_checkpoints=9))
    simclr.pretrain(config)
    undisturbed, lines = weights(config.run_dir), read_metrics(config.run_dir / "metrics.jsonl")
    for step in (8, 10):
        shutil.rmtree(config.run_dir / "checkpoints" / f"step-{step:08d}")
    (config.run_dir / "encoder" / "encoder.safetensors").unlink()
    simclr.pretrain(config)
    again = read_metrics(config.run_dir / "metrics.jsonl")
    assert same(weights(config.run_dir), undisturbed)
    assert [(line["kind"], line["step"]) for line in again] == [(line["kind"], line["step"]) for line in lines]


def test_many_bad_steps_in_a_row_end_the_run_with_advice_and_a_line_in_the_log(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, range(4, 99))
    config = replace(tiny_run, train=replace(tiny_run.train, epochs=4, log_every=7))
    with pytest.raises(
        PipelineError, match=r"^the loss and the gradient became NaN or infinite at step 4, and so"
    ) as end:
        simclr.pretrain(config)
    assert "all 10 steps from there on. Checkpoints" in str(end.value)
    *before, failed = read_metrics(config.run_dir / "metrics.jsonl")
    assert (failed["kind"], failed["step"]) == ("failed", 4) and str(end.value).startswith(failed["what"])
    assert [line["step"] for line in before if line["kind"] == "skipped"] == list(range(4, 14))
    newest = newest_checkpoint(config.run_dir / "checkpoints")[0]
    assert newest.progress["step"] == 12
    assert all(tensor.isfinite().all() for tensor in newest.model().values())


def test_a_short_run_that_skipped_all_its_steps_is_no_finished_run(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, range(99))
    with pytest.raises(PipelineError, match="and so it was in all 5 steps"):
        simclr.pretrain(replace(tiny_run, train=replace(tiny_run.train, epochs=1)))
    assert not (tiny_run.run_dir / "encoder").exists()


def test_a_weight_that_went_bad_in_the_last_steps_of_an_epoch_is_named_too(tiny_run: TrainConfig) -> None:
    config = replace(
        tiny_run,
        optim=replace(tiny_run.optim, name="sgd", learning_rate=1e30),
        schedule=replace(tiny_run.schedule, warmup_epochs=0),
        train=replace(tiny_run.train, log_every=100),
    )
    with pytest.raises(PipelineError, match=r"became NaN or infinite at step \d"):
        simclr.pretrain(config)


@pytest.mark.parametrize("limit", [640, 256], ids=["in the middle", "at the last step"])
@pytest.mark.parametrize("learning_rate", [1e10, 1e15, 1e30])
def test_no_checkpoint_and_no_encoder_holds_what_is_not_finite(
    learning_rate: float, limit: int, tiny_run: TrainConfig
) -> None:
    """The second of two or more steps overflows: in its update, or in a variance, which no loss shows before the third."""
    config = replace(
        tiny_run,
        data=replace(tiny_run.data, limit=limit),
        optim=replace(tiny_run.optim, name="sgd", learning_rate=learning_rate),
        schedule=replace(tiny_run.schedule, warmup_epochs=0),
        train=replace(tiny_run.train, epochs=1, log_every=100, checkpoint_every=1, knn_every=0),
    )
    with pytest.raises(PipelineError, match=r"became NaN or infinite at step 1") as failure:
        simclr.pretrain(config)
    assert not (config.run_dir / "encoder").exists()
    (checkpoint,) = (config.run_dir / "checkpoints").iterdir()
    tensors = load_file(checkpoint / "model.safetensors")
    assert checkpoint.name == "step-00000001" and all(tensor.isfinite().all() for tensor in tensors.values())
    # The message says that the same command ends there again: it does, and the evidence is there once.
    with pytest.raises(PipelineError) as again:
        simclr.pretrain(config)
    assert str(again.value) == str(failure.value)
    failed = [line for line in read_metrics(config.run_dir / "metrics.jsonl") if line["kind"] == "failed"]
    assert [line["step"] for line in failed] == [1]
    assert str(failure.value).startswith(failed[0]["what"]) and "at step 1" in failed[0]["what"]


def test_a_finished_run_that_is_not_finite_is_finished_from_the_checkpoint_before(
    tiny_run: TrainConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    """A finished run whose last checkpoint nobody looked at."""
    config = replace(tiny_run, train=replace(tiny_run.train, epochs=1, knn_every=0))
    simclr.pretrain(config)
    encoder = config.run_dir / "encoder" / "encoder.safetensors"
    wanted = encoder.read_bytes()
    encoder.unlink()
    folder = config.run_dir / "checkpoints"
    checkpoint = newest_checkpoint(folder)[0]
    tensors, progress = checkpoint.model(), dict(checkpoint.progress)
    tensors["model.backbone.bn1.running_var"][1] = torch.inf
    save_checkpoint(folder, progress.pop("step"), tensors, checkpoint.state(), progress)
    capfd.readouterr()
    simclr.pretrain(config)
    said = capfd.readouterr().err
    assert (
        "step-00000005 is damaged (model.safetensors holds NaN or infinity, in model.backbone.bn1.running_var" in said
    )
    assert "continuing" in said and "at step 3 of 5" in said and encoder.read_bytes() == wanted
    for path in folder.iterdir():  # with no other one to go on from, nothing is exported
        save_checkpoint(folder, int(path.name[5:]), tensors, checkpoint.state(), progress, keep=9)
    encoder.unlink()
    with pytest.raises(PipelineError, match=r"^no whole checkpoint in .*running_var"):
        simclr.pretrain(config)
    assert not encoder.exists()


def test_an_infinite_image_is_named(tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = simclr.model.contrastive.ContrastiveModel.forward

    def spoilt(self: Any, views: torch.Tensor) -> torch.Tensor:
        z = forward(self, views)
        return z + torch.zeros_like(z).index_fill(1, torch.tensor([3]), float("nan"))

    monkeypatch.setattr("simclr.model.contrastive.ContrastiveModel.forward", spoilt)
    number = simclr.data.EpochSampler(images=640, batch_size=128, seed=0).indices(0)[3].item()
    with pytest.raises(PipelineError, match=f"the embedding and the loss .*at step 0 of image {number} of digits"):
        simclr.pretrain(tiny_run)


def test_gradient_caching_ends_where_the_plain_run_does(tiny_run: TrainConfig) -> None:
    """An encoder without batch statistics, so that only rounding may differ."""
    config = replace(
        tiny_run,
        encoder=EncoderConfig(name="convnext_atto"),
        head=replace(tiny_run.head, batch_norm=False),
        augment=replace(tiny_run.augment, size=32),
        data=replace(tiny_run.data, limit=96),
        optim=replace(tiny_run.optim, name="sgd", learning_rate=0.05),
        train=replace(tiny_run.train, epochs=1, batch_size=32, knn_every=0),
        schedule=replace(tiny_run.schedule, warmup_epochs=0),
    )
    plain = simclr.pretrain(replace(config, name="plain"))
    cached = simclr.pretrain(replace(config, name="cached", train=replace(config.train, cached_chunk=9)))
    one, other = weights(plain.run_dir), weights(cached.run_dir)
    start = simclr.load_encoder(plain.run_dir, untrained=True).backbone.state_dict()
    moved = sum(float((one[name] - start[name]).square().sum()) for name in one) ** 0.5
    apart = sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5
    assert moved > 0.01
    assert apart < 1e-3 * moved


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"channels_last": False},
        {"trackers": ("tensorboard",)},
        {"cached_chunk": 48},
    ],
    ids=str,
)
def test_variants_of_the_loop_run(change: dict[str, Any], tiny_run: TrainConfig) -> None:
    if "trackers" in change:
        pytest.importorskip("tensorboard")
    config = replace(tiny_run, train=replace(tiny_run.train, epochs=1, **change))
    config = replace(config, optim=replace(config.optim, name="lars", clip_norm=1.0, learning_rate=0.3))
    assert simclr.pretrain(config).finished


def test_unlabelled_images_from_a_folder_with_workers(tiny_run: TrainConfig, image_folder: Path) -> None:
    data = replace(
        tiny_run.data, source="folder", path=image_folder, limit=None, labels="none", device_resident="no", workers=2
    )
    loop = replace(tiny_run.train, batch_size=8)
    result = simclr.pretrain(replace(tiny_run, data=data, train=loop))
    assert result.finished
    assert "online_knn" not in result.metrics


@pytest.mark.parametrize("resident", ["yes", "no"])
def test_files_that_are_left_out_are_named(
    resident: str, tiny_run: TrainConfig, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        (image_folder / f"broken-{number}.png").write_bytes(b"no picture")
    data = replace(
        tiny_run.data,
        source="folder",
        path=image_folder,
        limit=None,
        labels="none",
        device_resident=resident,
        workers=0,
    )
    config = replace(tiny_run, data=replace(data, broken="skip"), train=replace(tiny_run.train, batch_size=8))
    trained = simclr.data.load_source(config.data, "train").paths
    broken = [path for path in trained if path.name.startswith("broken")]
    assert simclr.pretrain(config).finished
    said = capsys.readouterr().err
    assert f"left out {len(broken)} of {len(trained)} files" in said
    assert all(str(path) in said for path in broken) and broken


def test_unknown_and_missing_trackers_are_refused_before_anything_is_written(tiny_run: TrainConfig) -> None:
    with pytest.raises(ConfigError, match=r"'tensorbord'; accelerate knows .*tensorboard"):
        simclr.pretrain(replace(tiny_run, train=replace(tiny_run.train, trackers=("tensorbord",))))
    with pytest.raises(simclr.MissingExtraError, match=r"the tracker aim is not installed: pip install aim"):
        simclr.pretrain(replace(tiny_run, train=replace(tiny_run.train, trackers=("aim",))))
    assert not tiny_run.run_dir.exists()
