"""``predict.py RUN DIR``: the classes that a score counted, probabilities by hand, tables, broken files, and mistakes."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.preprocessing import StandardScaler
from torchvision.transforms.functional import to_pil_image

import simclr
from augment import AugmentConfig
from linear_eval import EvalConfig, Features, LinearClassifier, evaluate_run
from linear_eval.classify.held_out import held_out_temperature
from linear_eval.classify.probe import held_out_parts
from linear_eval.classify.saved_probe import SavedProbe, write_probe
from linear_eval.features.frozen import encoder_digest
from linear_eval.finetuned import evaluate_finetuned
from simclr.config import DataConfig, EncoderConfig, HeadConfig, TrainConfig
from simclr.config.yaml import save_config
from simclr.data import load_source
from simclr.data.decode import Reader, decode
from simclr.exchange.classifier import export_head
from simclr.exchange.encoder import export_encoder
from simclr.finetune import finetune_config
from simclr.losses import CrossEntropyConfig, DistributionFocalConfig, QualityFocalConfig, TripletConfig
from simclr.model.encoder import build_backbone
from simclr.model.heads import projection_head
from simclr.objectives import ObjectiveConfig, build_objective

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("cats", "dogs", "owls")

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(script: Callable[[str], Command]) -> Command:
    """``command(*words)`` runs scripts/predict.py; gives its exit code, its output and its errors."""
    return script("predict")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with an encoder of random weights for 24 px, without a classifier."""
    config = EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 4, 8, 8))
    augment = AugmentConfig(size=24, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    backbone = build_backbone(config, 24, seed=3)
    export_encoder(backbone, tmp_path / "run" / "encoder", config=config, augment=augment, seed=3, training={})
    (tmp_path / "run" / "config.yaml").write_text("name: it\n")
    return tmp_path / "run"


def save_probe(run: Path, folder: Path | None = None, names: tuple[str, ...] = NAMES) -> Path:
    """A probe of random weights in ``folder``."""
    encoder = simclr.load_encoder(run)
    generator = torch.Generator().manual_seed(1)
    weight, mean = torch.randn(len(names), 8, generator=generator), torch.randn(8, generator=generator)
    probe = SavedProbe(
        classifier=LinearClassifier(
            weight, torch.arange(len(names)) / 4, mean, torch.rand(8) + 0.5, torch.arange(len(names))
        ),
        names=names,
        temperature=1.6,
        calibrated_on=30,
        fitted_on=90,
        images="birds",
        encoder=encoder_digest(encoder),
        input_size=24,
        precision="fp32",
        reader=Reader(size=24),
    )
    folder = run if folder is None else folder
    write_probe(probe, folder)
    return folder / "probe.json"


def give_head(run: Path, objective: ObjectiveConfig) -> None:
    sizes = {"classes": 3, "dim": 5, "samples": 9}
    config = HeadConfig(layers=1, out_dim=5, batch_norm=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = projection_head(8, config)
    trained = build_objective(objective, **sizes, seed=1)
    export_head(
        run / "encoder", head, trained, head_config=config, objective_config=objective, classes=NAMES, sizes=sizes
    )


def by_hand(run: Path, files: list[Path]) -> np.ndarray:
    """Probabilities (N, 3) float64 of the saved probe."""
    encoder = simclr.load_encoder(run)
    images = torch.stack([decode(file, 24) for file in files]).double() / 255
    mean, std = (torch.tensor(of).double().view(3, 1, 1) for of in (encoder.mean, encoder.std))
    with torch.no_grad():
        features = encoder.backbone.double()((images - mean) / std)
    tensors = {name: tensor.double() for name, tensor in load_file(run / "probe.safetensors").items()}
    logits = (features - tensors["mean"]) / tensors["scale"] @ tensors["weight"].T + tensors["bias"]
    return (logits / 1.6).softmax(1).numpy()


def write_digits(folder: Path) -> Path:
    """The test images of digits at 16 px as files, in folders of their classes."""
    images = load_source(DataConfig(size=16), "test")
    for number in range(len(images)):
        pixels, label = images[number]
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        to_pil_image(pixels).save(folder / str(label) / f"{number:03d}.png")
    return folder


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_probes_classes_are_those_that_the_score_counted(run: Path, command: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = tmp_path / "pictures"
    for number in range(120):
        label = number % 3
        (pictures / NAMES[label]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 200, (30, 40, 3)) + np.array([12, 24, 36]) * (label == np.arange(3))
        Image.fromarray(pixels.astype(np.uint8)).save(pictures / NAMES[label] / f"{number:03d}.png")
    data = DataConfig(source="folder", path=pictures, size=28, test_fraction=0.4)
    save_config(TrainConfig(name="run", out=run.parent, data=data), run / "config.yaml")
    config = EvalConfig(trials=0, resamples=200, strengths=(1e-3, 1e-2), pixel_size=8)
    score = evaluate_run(run, config=config, save_probe=True)
    code, out, err = command(run, pictures, "--top-k", 1)
    assert code == 0, err
    tested = {str(path.relative_to(pictures)) for path in load_source(data, "test").paths or ()}
    rows = [row for row in table(out) if row["path"] in tested]
    assert list(rows[0]) == ["path", "class", "probability", "label"] and len(rows) == 48
    linear = score["rows"]["encoder"]["linear"]
    found = confusion_matrix([row["label"] for row in rows], [row["class"] for row in rows], labels=NAMES)
    assert found.tolist() == linear["confusion"] and 0.4 < linear["accuracy"] < 1
    every = table(out)
    probabilities = torch.tensor([float(row["probability"]) for row in every]).double()
    right = torch.tensor([row["class"] == row["label"] for row in every])
    bins = (probabilities * 15).ceil().clamp_min(1)
    error = sum(abs(float((right[bins == b].double() - probabilities[bins == b]).sum())) for b in range(1, 16)) / 120
    assert f"expected calibration error {100 * error:.1f} % (15 bins)" in err
    assert f"accuracy {100 * right.double().mean():.1f} % [" in err and "on 120 labelled images" in err
    kept = json.loads((run / "probe.json").read_text())
    assert (kept["fitted_on"], kept["calibrated_on"], kept["images"], kept["size"]) == (72, 60, "pictures", 28)


def test_the_temperature_is_that_of_held_out_training_images() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 50)
    x = (rng.normal(size=(150, 6)) + 0.7 * np.eye(3, 6)[y]).astype(np.float32)
    train = Features(torch.from_numpy(x), torch.from_numpy(y) + 4, torch.arange(150))
    strength, logits, labels = 1e-4, [], []
    z = StandardScaler().fit_transform(x.astype(np.float64))
    for part in held_out_parts(train.y, 0.2, seed=3):
        out = part.numpy()
        fit = LogisticRegression(C=1 / (strength * (~out).sum()), tol=1e-10, max_iter=10_000).fit(z[~out], y[~out])
        logits.append(fit.decision_function(z[out]))
        labels.append(y[out])
    scores, truth = np.concatenate(logits), np.concatenate(labels)

    def entropy(temperature: float) -> float:
        scaled = scores / temperature
        return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(truth)), truth]).mean())

    wanted = minimize_scalar(entropy, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}).x
    temperature, count = held_out_temperature(train, strength, seed=3, validation=0.2)
    assert temperature == pytest.approx(wanted, rel=2e-3) and temperature != pytest.approx(1, abs=0.02)
    assert count == len(truth) == 150
    one_each = Features(torch.eye(3), torch.arange(3), torch.arange(3))
    assert held_out_temperature(one_each, strength) == (1.0, 0)


@pytest.mark.slow
def test_a_fine_tuned_runs_answers_are_those_that_were_scored(
    pretrained: Path, command: Command, tmp_path: Path
) -> None:
    config = finetune_config(str(pretrained))
    config = replace(
        config,
        out=tmp_path,
        data=replace(config.data, limit=160, validation=0.25),
        schedule=replace(config.schedule, head_epochs=0, warmup_epochs=0),
        train=replace(config.train, epochs=1, batch_size=40, precision="fp32", knn_every=0, scratch=False),
        objective=CrossEntropyConfig(lr_multiplier=10.0),
    )
    simclr.pretrain(config)
    row = evaluate_finetuned(config)["rows"]["fine-tuned"]
    pictures = write_digits(tmp_path / "pictures")
    code, out, err = command(config.run_dir, pictures, "--top-k", 99)
    assert code == 0, err
    rows = table(out)
    found = confusion_matrix([int(one["label"]) for one in rows], [int(one["class"]) for one in rows])
    assert found.tolist() == row["confusion"]
    assert row["temperature"] != 1 and f"temperature {row['temperature']:.3g}, fitted on validation images" in err
    wanted = 100 * row["calibration_error_calibrated"]
    assert f"expected calibration error {wanted:.1f} % (15 bins)" in err
    assert f"accuracy {100 * row['accuracy']:.1f} % [" in err
    columns = [f"probability{k}" for k in ("", *(f"_{k}" for k in range(2, 11)))]
    np.testing.assert_allclose([sum(float(one[c]) for c in columns) for one in rows], 1, atol=1e-5)


@pytest.mark.parametrize("out", ["p.csv", "p.parquet", None])
def test_a_row_an_image(out: str | None, run: Path, command: Command, image_folder: Path) -> None:
    save_probe(run)
    (image_folder / "a,b.png").write_bytes((image_folder / "cats" / "01.png").read_bytes())
    words = [] if out is None else ["--out", run / out]
    code, said, err = command(run, image_folder, "--top-k", 2, "--batch-size", 7, *words)
    assert code == 0, err
    files = sorted(image_folder.rglob("*.png"))
    wanted = by_hand(run, files)
    order = np.argsort(-wanted, axis=1)
    if out == "p.parquet":
        found = pq.read_table(run / out)
        types = [str(found.schema.field(name).type) for name in found.column_names]
        assert types == ["string", "string", "float", "string", "float", "string"]
        rows = found.to_pylist()
    else:
        rows = table(said if out is None else (run / out).read_text())
    assert list(rows[0]) == ["path", "class", "probability", "class_2", "probability_2", "label"]
    assert [row["path"] for row in rows] == [str(file.relative_to(image_folder)) for file in files]
    for k, behind in enumerate(("", "_2")):
        assert [row[f"class{behind}"] for row in rows] == [NAMES[i] for i in order[:, k]]
        given = [float(row[f"probability{behind}"]) for row in rows]
        np.testing.assert_allclose(given, np.take_along_axis(wanted, order, 1)[:, k], rtol=1e-4, atol=1e-5)
    assert [row["label"] or None for row in rows] == [
        None if len(file.relative_to(image_folder).parts) == 1 else file.relative_to(image_folder).parts[0]
        for file in files
    ]
    notes = err if out is None else said
    right = sum(NAMES[order[i, 0]] == files[i].relative_to(image_folder).parts[0] for i in range(25))
    assert "25 images\nclassifier: linear probe of 3 classes, of 90 training images of birds; temperature 1.6" in notes
    assert f"accuracy {100 * right / 24:.1f} %" in notes and "on 24 labelled images" in notes


def test_one_image_and_a_folder_without_labels(run: Path, command: Command, image_folder: Path, tmp_path: Path) -> None:
    save_probe(run)
    file = image_folder / "dogs" / "deep" / "er" / "04.png"
    code, said, err = command(run, file, "--top-k", 1)
    assert code == 0, err
    assert list(table(said)[0]) == ["path", "class", "probability"] and table(said)[0]["path"] == "04.png"
    assert float(table(said)[0]["probability"]) == pytest.approx(by_hand(run, [file]).max(), rel=1e-4)
    assert "1 image\n" in err and "accuracy" not in err
    assert "label" not in table(command(run, image_folder, "--data.labels", "none")[1])[0]
    # Every image is classified, whichever part of a set it is in, and labels of which the classifier knows none are said.
    parts = tmp_path / "parts"
    for place in ("train/b/1", "train/c/2", "test/b/3", "masks/4"):
        (parts / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24)).save((parts / place).with_suffix(".png"))
    code, said, err = command(run, parts)
    assert code == 0 and len(table(said)) == 4
    assert "no accuracy: the folder's labels (b, c) are none of the classifier's (cats, dogs, owls)" in err


def test_images_that_training_saw_are_said(run: Path, command: Command, image_folder: Path) -> None:
    save_probe(run)
    data = DataConfig(source="folder", path=image_folder)
    save_config(TrainConfig(name="run", out=run.parent, data=data), run / "config.yaml")
    trained = len(load_source(data, "train"))
    err = command(run, image_folder)[2]
    assert f"the encoder was trained on {trained} of the 24 test images" in err and 0 < trained < 24
    assert "was trained on" not in command(run, image_folder, "--data.labels", "none")[2]
    (run / "config.yaml").unlink()
    image_folder.rename(image_folder.parent / "birds")
    assert "the probe was fitted on images of birds: for those" in command(run, image_folder.parent / "birds")[2]


def test_unknown_classes_count_as_wrong(run: Path, command: Command, image_folder: Path) -> None:
    save_probe(run, names=("cats", "owls", "hares"))
    code, said, err = command(run, image_folder)
    assert code == 0
    right = sum(row["class"] == row["label"] for row in table(said))
    assert f"accuracy {100 * right / 24:.1f} %" in err
    assert "12 of them are of classes that the classifier does not know, and count as wrong" in err


@pytest.mark.parametrize("resident", ["yes", "no"])
def test_broken_files_end_it_or_are_left_out(resident: str, run: Path, command: Command, image_folder: Path) -> None:
    save_probe(run)
    (image_folder / "cats" / "broken.png").write_text("no image")
    words = [run, image_folder, "--out", run / "p.csv", "--data.device-resident", resident, "--data.workers", 0]
    code, _, err = command(*words)
    assert code == 2 and "broken.png" in err and not (run / "p.csv").exists()
    code, said, _ = command(*words, "--data.broken", "skip")
    assert code == 0
    assert f"left out, since they do not decode: 1\n  {image_folder}/cats/broken.png\n" in said
    assert len(table((run / "p.csv").read_text())) == 24


@pytest.mark.parametrize("out", ["p.csv", "p.parquet"])
def test_a_full_disk_is_one_line(out: str, run: Path, command: Command, image_folder: Path, small_disk: Any) -> None:
    save_probe(run)
    with small_disk(200):
        code, said, err = command(run, image_folder, "--out", run / out)
    assert (code, said) == (2, "")
    assert f"error: {run / out} could not be written (File too large)" in err and not (run / out).exists()


def test_qualities_are_sigmoids_and_numbers_have_a_column_of_their_own(
    run: Path, command: Command, image_folder: Path
) -> None:
    give_head(run, QualityFocalConfig())
    code, said, err = command(run, image_folder, "--top-k", 3)
    assert code == 0, err
    classifier = simclr.load_classifier(run)
    first = table(said)[0]
    with torch.no_grad():
        wanted = classifier(decode(image_folder / first["path"], 24)[None])[0]
    assert float(first["probability"]) == pytest.approx(wanted.max().item(), rel=1e-4)
    assert "quality of each class by itself" in err
    give_head(run, DistributionFocalConfig(low=0.0, high=10.0, bins=6))
    names = sorted(str(file.relative_to(image_folder)) for file in image_folder.rglob("*.png"))
    (image_folder / "metadata.csv").write_text("path,value\n" + "".join(f"{name},4.5\n" for name in names))
    code, said, err = command(run, image_folder)
    assert code == 0, err
    rows = table(said)
    assert list(rows[0]) == ["path", "value"]
    with torch.no_grad():
        wanted = simclr.load_classifier(run)(torch.stack([decode(image_folder / row["path"], 24) for row in rows]))
    np.testing.assert_allclose([float(row["value"]) for row in rows], wanted, rtol=1e-4)
    assert f"mean absolute error {(wanted - 4.5).abs().mean().item():.3g}"[:24] in err


def test_which_classifier_a_path_means(run: Path, command: Command, image_folder: Path) -> None:
    code, _, err = command(run, image_folder)
    assert code == 2 and f"{run} has no classifier: scripts/evaluate.py {run} --save-probe" in err
    for name in ("on-a", "on-b"):
        (run / name).mkdir()
        probe = save_probe(run, run / name, names=("cats", "dogs", name))
        assert command(run, image_folder)[0] == (0 if name == "on-a" else 2)
    code, _, err = command(run, image_folder)
    assert "probes for several sets of images; give one of their folders: " in err and err.count("\n") == 1
    for path in (probe, probe.parent):
        assert "on-b" in command(path, image_folder)[1]
    give_head(run, TripletConfig())
    shutil.rmtree(run / "on-b")
    assert "linear probe" in command(run, image_folder)[2]
    shutil.rmtree(run / "on-a")
    code, _, err = command(run, image_folder)
    assert code == 2 and "compares embeddings and has no classifier" in err
    for folder in (run, run / "on-a", run / "on-b"):
        folder.mkdir(exist_ok=True)
        save_probe(run, folder)
    give_head(run, CrossEntropyConfig())
    assert "fine-tuned with the encoder" in command(run, image_folder)[2]
    assert "linear probe" in command(run / "probe.json", image_folder)[2]


def test_a_damaged_probe_is_refused(run: Path, command: Command, image_folder: Path) -> None:
    file = save_probe(run)
    whole, weights = file.read_text(), (run / "probe.safetensors").read_bytes()
    cases = [
        (
            whole.replace('"temperature": 1.6', '"temperature": 1.5'),
            weights,
            "probe.json was changed since it was written",
        ),
        (whole, weights[:-8], "probe.safetensors cannot be read"),
        (whole, weights[:-4] + b"\0\0\x80?", "probe.safetensors is not as it was written"),
    ]
    for text, content, said in cases:
        file.write_text(text)
        (run / "probe.safetensors").write_bytes(content)
        code, out, err = command(run, image_folder)
        assert (code, out) == (2, "") and said in err and err.count("\n") == 1
    file.write_text(whole)
    (run / "probe.safetensors").write_bytes(weights)
    tensors = load_file(run / "encoder" / "encoder.safetensors")
    save_file(tensors | {"conv1.weight": 2 * tensors["conv1.weight"]}, run / "encoder" / "encoder.safetensors")
    described = json.loads((run / "encoder" / "encoder.json").read_text())
    del described["sha256"]
    (run / "encoder" / "encoder.json").write_text(json.dumps(described))
    assert "probe.json is the probe of another encoder than the one that is there now" in command(run, image_folder)[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RUN"], "the second word is missing; expected a folder of images or an image"),
        (["--out", "p.csv"], "the first word is --out; expected the run"),
        (["RUN", "nowhere"], "nowhere does not exist; give a folder of images, or an image"),
        (["nowhere", "PICTURES"], "nowhere does not exist"),
        (["RUN", "PICTURES", "--out", "p.txt"], "expected a file .csv or .parquet"),
        (["RUN", "PICTURES", "--top-k", "0"], "top_k is 0; it must be at least 1"),
        (["RUN", "PICTURES", "--topk", "3"], "did you mean --top-k?"),
        (
            ["RUN", "PICTURES", "--data.size", "64"],
            "data.size is 64, and this classifier was scored on images read with 24",
        ),
        (["RUN", "PICTURES", "--data.path", "other"], "the images are the second word, "),
        (["RUN", "EMPTY"], "no image"),
        (["RUN", "TEXT"], "not an image that can be read"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(
    words: list[str], said: str, run: Path, command: Command, image_folder: Path, tmp_path: Path
) -> None:
    save_probe(run)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image at all")
    places = {"RUN": run, "PICTURES": image_folder, "EMPTY": tmp_path / "empty", "TEXT": tmp_path / "text.png"}
    before = sorted(tmp_path.rglob("*"))
    code, out, err = command(*(places.get(word, word) for word in words))
    assert (code, out) == (2, "")
    assert said in err and err.startswith("error: ") and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
