"""The classifier that a run leaves: its scores, its temperature, damaged files, and the figures of a fine-tuned network."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss, mean_absolute_error, r2_score

import simclr
from augment import AugmentConfig
from linear_eval.classify.certainty import fit_temperature
from linear_eval.classify.result import score_predictions
from linear_eval.finetuned import _number_row, _row
from simclr.config import DataConfig, EncoderConfig, HeadConfig, TrainConfig
from simclr.data import ImageSet, load_source
from simclr.errors import CheckpointError
from simclr.exchange.classifier import export_head, load_classifier, save_temperature
from simclr.exchange.encoder import export_encoder
from simclr.exchange.formats import Portable
from simclr.finetune import finetune_config
from simclr.losses import CrossEntropyConfig, DistributionFocalConfig, QualityFocalConfig, TripletConfig
from simclr.model.contrastive import build_model
from simclr.model.encoder import build_backbone
from simclr.model.heads import projection_head
from simclr.objectives import build_objective
from simclr.run.validation import ValidationScore


@pytest.fixture(scope="module")
def classified(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    config = finetune_config(str(pretrained))
    config = replace(
        config,
        out=tmp_path_factory.mktemp("classified"),
        head=HeadConfig(layers=1, out_dim=8),
        objective=CrossEntropyConfig(class_weights="effective"),
        data=replace(config.data, limit=80),
        schedule=replace(config.schedule, head_epochs=0, warmup_epochs=0),
        train=replace(config.train, epochs=1, batch_size=32, precision="fp32", knn_every=0),
    )
    simclr.pretrain(config)
    return config


def test_the_classifier_is_the_network_that_was_trained(classified: TrainConfig, tmp_path: Path) -> None:
    classifier = load_classifier(classified.run_dir)
    images = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        scores, probabilities = classifier.scores(images), classifier(images)
    step = classified.run_dir / "checkpoints" / "step-00000002" / "model.safetensors"
    tensors = load_file(step)
    model = build_model(replace(classified, encoder=replace(classified.encoder, init=None)))
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    augment = classified.augment
    mean, std = (torch.tensor(t or d).view(3, 1, 1) for t, d in ((augment.mean, (0.0,) * 3), (augment.std, (1.0,) * 3)))
    with torch.no_grad():
        z = model.eval()(((images / 255 - mean) / std)[None])[0]
    expected = z @ tensors["objective.loss.head.weight"].T + tensors["objective.loss.head.bias"]
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(probabilities, expected.softmax(1), rtol=1e-4, atol=1e-5)
    assert classifier.classes == tuple(str(n) for n in range(10))
    assert len(classifier.objective.loss.class_weights) == 10

    folder = tmp_path / "encoder"
    shutil.copytree(classified.run_dir / "encoder", folder)
    save_temperature(folder, 2.5)
    with torch.no_grad():
        torch.testing.assert_close(load_classifier(folder)(images), (expected / 2.5).softmax(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(load_classifier(folder).scores(images), scores)


def test_a_damaged_head_is_refused(classified: TrainConfig, pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"an encoder without a head: fine-tune it"):
        load_classifier(pretrained)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_classifier(tmp_path / "nowhere")
    written = json.loads((classified.run_dir / "encoder" / "head.json").read_text())
    whole = {key: value for key, value in written.items() if key != "sha256"}  # changed on purpose
    folder = tmp_path / "encoder"
    shutil.copytree(classified.run_dir / "encoder", folder)
    wrong: list[tuple[Any, str]] = [
        ("no json", "damaged"),
        ({"format": 1}, "damaged: it has no classes"),
        ({}, "damaged: it has no format"),
        (written | {"temperature": 2.0}, r"head\.json was changed since it was written"),
        (whole | {"temperature": 0}, "temperature is 0; expected a finite number from 1e-06"),
        (whole | {"temperature": float("inf")}, "temperature is inf; expected a finite number"),
        (whole | {"classes": "0123456789"}, "classes is '0123456789'; expected a list of texts"),
        (whole | {"format": 2}, r"head\.json is of format 2, this version reads 1; install the version"),
        (whole | {"objective": {"name": "cross-entropi"}}, "objective.name is 'cross-entropi'; expected one of"),
        (whole | {"objective": {"name": "cross-entropy", "smoothing": 1}}, "unknown key 'smoothing'"),
        (whole | {"sizes": {"classes": 10}}, r"damaged: it has no sizes\.dim"),
        (
            whole | {"sizes": {"classes": 7, "dim": 8, "samples": 9}},
            r"sizes\.classes is 7; expected 10, as many as there are names",
        ),
        (
            whole | {"sizes": {"classes": 10, "dim": 9, "samples": 9}},
            r"sizes\.dim is 9; expected 8, the width of what the head",
        ),
    ]
    for content, said in wrong:
        (folder / "head.json").write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(CheckpointError, match=said):
            load_classifier(folder)
    (folder / "head.json").write_text(json.dumps(whole))
    (folder / "head.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"head\.safetensors cannot be read"):
        load_classifier(folder)


def quality_classifier(folder: Path, temperature: float) -> tuple[Path, torch.nn.Linear]:
    """An encoder with a quality focal head as a run exports it, and the head's linear layer."""
    small = EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16))
    augment, head, objective_config = AugmentConfig(size=16), HeadConfig(layers=0), QualityFocalConfig()
    backbone = build_backbone(small, 16, seed=1)
    sizes = {"classes": 3, "dim": 16, "samples": 9}
    objective = build_objective(objective_config, **sizes, seed=2)
    export_encoder(backbone, folder, config=small, augment=augment, seed=1, training={})
    export_head(
        folder,
        projection_head(16, head),
        objective,
        head_config=head,
        objective_config=objective_config,
        classes=("a", "b", "c"),
        sizes=sizes,
    )
    save_temperature(folder, temperature)
    return folder, objective.loss.head


def test_quality_focal_gives_the_quality_of_every_class_by_itself(tmp_path: Path) -> None:
    folder, head = quality_classifier(tmp_path / "encoder", temperature=2.5)  # fitted to a softmax, which this is not
    classifier = load_classifier(folder)
    images = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        features = simclr.load_encoder(folder)(images).double()
        logits = features @ head.weight.double().T + head.bias.double()
        quality = classifier(images)
        torch.testing.assert_close(quality, (1 / (1 + (-logits).exp())).float(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(classifier.scores(images), logits.float(), rtol=1e-4, atol=1e-5)
        exported = Portable(classifier.encoder, classifier).eval()(images)[1]
        torch.testing.assert_close(exported, logits.float(), rtol=1e-4, atol=1e-5)


def test_a_full_disk_leaves_the_head_that_was_there(classified: TrainConfig, tmp_path: Path, small_disk: Any) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(classified.run_dir / "encoder", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    classifier = load_classifier(folder)
    with small_disk(100), pytest.raises(CheckpointError, match=r"head\.safetensors could not be written .*too large"):
        export_head(
            folder,
            classifier.head,
            classifier.objective,
            head_config=classified.head,
            objective_config=classified.objective,
            classes=classifier.classes,
            sizes={"classes": 10, "dim": 8, "samples": 9},
        )
    with small_disk(100), pytest.raises(CheckpointError, match=r"head\.json could not be written .*same command again"):
        save_temperature(folder, 3.0)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# What is scored.


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 6.0])
def test_the_temperature_is_the_optimisers(sharpness: float) -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(400, 5))
    labels = np.array([rng.choice(5, p=np.exp(row) / np.exp(row).sum()) for row in true])
    logits = torch.from_numpy(true * sharpness).float()

    def loss(log_t: float) -> float:
        scaled = logits.double().numpy() / math.exp(log_t)
        return log_loss(labels, np.exp(scaled) / np.exp(scaled).sum(1, keepdims=True), labels=range(5))

    best = minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-7})
    assert fit_temperature(logits, torch.from_numpy(labels)) == pytest.approx(math.exp(best.x), rel=1e-4)


def test_images_that_are_all_right_say_nothing_of_the_temperature() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.1]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == 1.0
    assert fit_temperature(-logits, torch.tensor([0, 1])) == pytest.approx(100.0)


def test_the_row_of_a_classifier() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(300, 4) * 2, torch.randint(4, (300,))
    found = score_predictions(logits.argmax(1), labels, labels, chosen=None)
    row = _row(found, (logits, labels), 3.0).to_dict()
    for suffix, scale in (("", 1.0), ("_calibrated", 3.0)):
        shares = (logits.double() / scale).softmax(1).numpy()
        confidence, right = shares.max(1), shares.argmax(1) == labels.numpy()
        error = 0.0
        for i in range(15):  # Guo et al. 2017, eq. 3
            inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
            if inside.any():
                error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        assert row[f"calibration_error{suffix}"] == pytest.approx(error, abs=1e-4)
        assert row[f"cross_entropy{suffix}"] == pytest.approx(log_loss(labels.numpy(), shares), rel=1e-5)
    assert row["temperature"] == 3.0
    assert row["accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_the_row_of_a_classifier_of_sigmoids() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(300, 4) * 2, torch.randint(4, (300,))
    found = score_predictions(logits.argmax(1), labels, labels, chosen=None)
    row = _row(found, (logits, labels), None, sigmoids=True).to_dict()
    shares, truth = 1 / (1 + np.exp(-logits.double().numpy())), labels.numpy()
    confidence, right = shares.max(1), shares.argmax(1) == truth
    inside = [(confidence > i / 15) & (confidence <= (i + 1) / 15) for i in range(15)]
    error = sum(abs(right[one].mean() - confidence[one].mean()) * one.mean() for one in inside if one.any())
    binary = sum(log_loss(truth == c, shares[:, c], labels=[False, True]) for c in range(4))
    assert row["calibration_error"] == pytest.approx(error, abs=1e-4)
    assert row["cross_entropy"] == pytest.approx(binary, rel=1e-5)
    assert not {"temperature", "cross_entropy_calibrated", "calibration_error_calibrated"} & set(row)


def test_the_row_of_numbers_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(5, 2, 200)
    predicted = target + rng.normal(0, 1, 200)
    numbers, error = _number_row(predicted, target)
    row = numbers.to_dict()
    assert row["mean_absolute_error"] == pytest.approx(mean_absolute_error(target, predicted))
    assert row["r_squared"] == pytest.approx(r2_score(target, predicted))
    assert row["error_of_the_mean"] == pytest.approx(mean_absolute_error(target, np.full(200, target.mean())))
    spread = 1.96 * error.std() / 200**0.5
    low, high = row["interval"]
    assert low == pytest.approx(error.mean() - spread, abs=0.2 * spread)
    assert high == pytest.approx(error.mean() + spread, abs=0.2 * spread)
    assert _number_row(predicted[:3], np.ones(3))[0].to_dict()["r_squared"] is None


def test_figures_on_validation_images(classified: TrainConfig) -> None:
    """The accuracy and the error that training watches, recomputed image by image."""
    images = load_source(classified.data, "validation")
    model = build_model(classified)
    model.train()
    augment = AugmentConfig(size=16, mean=None, std=None)
    config = replace(classified, augment=augment)
    x = (images.pixels / 255)[None]
    for objective, name in (
        (CrossEntropyConfig(), "validation_accuracy"),
        (DistributionFocalConfig(), "validation_error"),
    ):
        built = simclr.objectives.build_objective(objective, classes=10, dim=8, samples=10, seed=3)
        qualities = replace(images, values=torch.rand(len(images)))  # of labels: no numbers to predict
        for shown in (images, qualities):
            figure = ValidationScore(images, config.augment, config.data.split_seed, shown)(
                model, built, torch.device("cpu")
            )
            assert model.training and model.backbone.training
            model.eval()
            with torch.no_grad():
                z = model(x)[0]
                numbers = built.numbers(z)
                right = (built.loss.scores(z).argmax(1) == images.labels) if numbers is None else None
            model.train()
            expected = (numbers - images.labels).abs().mean() if right is None else right.float().mean()
            assert figure == {name: pytest.approx(expected.item(), abs=1e-5)}
    triplet = simclr.objectives.build_objective(TripletConfig(), classes=10, dim=8, samples=10, seed=3)
    train = load_source(classified.data, "train")
    figure = ValidationScore(train, config.augment, config.data.split_seed, images)(model, triplet, torch.device("cpu"))
    assert set(figure) == {"validation_knn"} and 0 <= figure["validation_knn"] <= 1


def test_unlabelled_test_images_get_no_label_from_the_last_class(tmp_path: Path) -> None:
    """A folder with its own parts, labelled by a CSV that leaves some images out."""
    rows = ["path,label"]
    for part in ("train", "test"):
        for number in range(6):
            (tmp_path / "set" / part).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "set" / part / f"{number}.png")
            if number < 4:
                rows.append(f"{part}/{number}.png,{'ab'[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    config = DataConfig(source="folder", path=tmp_path / "set", size=8, labels=tmp_path / "labels.csv")
    images: ImageSet = load_source(config, "test")
    assert images.labels.tolist() == [0, 1, 0, 1, -1, -1]
    assert len(images.labelled()) == 4
