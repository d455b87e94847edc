"""Features that are kept beside a run: a second score has the same bits, and whatever changed is taken again."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from augment import AugmentConfig
from linear_eval import EvalConfig, extract_features
from linear_eval.embed import EmbedOptions, embed_run
from linear_eval.evaluate import evaluate_run
from linear_eval.evaluate_open import evaluate_open_set
from linear_eval.features import kept as kept_module
from linear_eval.features.kept import Kept, features_of
from linear_eval.look.seen import look_at
from linear_eval.scored_run import ScoredRun
from simclr.config import DataConfig, EncoderConfig, TrainConfig
from simclr.config.yaml import save_config
from simclr.data import ImageSet
from simclr.exchange.encoder import export_encoder
from simclr.model.encoder import build_backbone

QUICK = EvalConfig(trials=0, resamples=20, strengths=(1e-2,), batch_size=16)
CPU = torch.device("cpu")


def make_run(folder: Path, pictures: Path, seed: int = 3) -> Path:
    """A run that was never trained: an encoder of random weights, and a config that names its images."""
    small = EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 4, 8, 8))
    augment = AugmentConfig(size=24)
    backbone = build_backbone(small, 24, seed=seed)
    export_encoder(backbone, folder / "encoder", config=small, augment=augment, seed=0, training={})
    data = DataConfig(source="folder", path=pictures, size=24, test_fraction=0.25, device_resident="yes")
    config = TrainConfig(name=folder.name, out=folder.parent, data=data, encoder=small, augment=augment)
    save_config(config, folder / "config.yaml")
    return folder


@pytest.fixture(autouse=True)
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes most of the time of scores as small as these."""
    monkeypatch.setattr("linear_eval.reports.closed.save_figure", lambda figure, path: Path(path))
    monkeypatch.setattr("linear_eval.evaluate_open.write_open_set", lambda *_: [])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "pictures" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        low, high = ((0, 200), (60, 256))[number % 2]
        Image.fromarray(rng.integers(low, high, (26, 24, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    return tmp_path / "pictures"


@pytest.fixture
def run(tmp_path: Path, pictures: Path) -> Path:
    return make_run(tmp_path / "runs" / "first", pictures)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Sizes of the sets whose features were taken."""
    sizes: list[int] = []

    def counting(encoder: Any, images: Any, *rest: Any, **options: Any) -> Any:
        sizes.append(len(images))
        return extract_features(encoder, images, *rest, **options)

    monkeypatch.setattr(kept_module, "extract_features", counting)
    yield sizes


def without_seconds(result: Any) -> Any:
    if isinstance(result, dict):
        return {name: without_seconds(value) for name, value in result.items() if name != "seconds"}
    return result


def scored(run: Path, **options: Any) -> Any:
    evaluate_run(run, None, replace(QUICK, **options))
    return without_seconds(json.loads((run / "result.json").read_text()))


def test_a_second_score_takes_nothing_and_has_the_same_bits(
    run: Path, taken: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = scored(run)
    assert len(taken) == 6  # training and test images of three rows
    files = {path: path.stat().st_mtime_ns for path in (run / "features").rglob("*.npy")}
    capsys.readouterr()
    monkeypatch.setattr(ImageSet, "resident", lambda *_, **__: pytest.fail("images were decoded"))
    assert scored(run) == first
    assert len(taken) == 6 and {path: path.stat().st_mtime_ns for path in files} == files
    said = capsys.readouterr().err
    for name in ("encoder", "untrained", "raw pixels"):
        assert said.count(f"features of {name}: kept by an earlier command ({run / 'features'}), not taken again") == 1


def test_what_changed_is_taken_again(run: Path, pictures: Path, taken: list[int]) -> None:
    scored(run)
    taken.clear()
    changed = pictures / "a" / "00.png"
    pixels = Image.open(changed).convert("RGB")
    pixels.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(changed)
    os.utime(changed, ns=(1, 1))
    scored(run)
    assert len(taken) == 3  # of the part that it is in
    taken.clear()
    scored(run, batch_size=15)
    assert len(taken) == 6
    taken.clear()
    make_run(run, pictures, seed=4)  # other weights
    scored(run)
    assert len(taken) == 2
    # Nothing is left of the earlier weights.
    assert len({path.name.split(".")[1] for path in (run / "features").glob("encoder.*")}) == 1
    assert look_at(run).note.endswith(", taken now")  # in batches of another size
    os.utime(changed, ns=(2, 2))
    assert ", some of them kept by an earlier command" in look_at(run).note
    assert "images, kept by an earlier command" in look_at(run).note


def test_another_run_of_the_set_takes_its_encoder_alone(run: Path, pictures: Path, taken: list[int]) -> None:
    scored(run)
    taken.clear()
    other = make_run(run.parent / "second", pictures, seed=4)
    scored(other)
    assert len(taken) == 2 and {path.name.split(".")[0] for path in (other / "features").iterdir()} == {"encoder"}
    shutil.rmtree(run)
    taken.clear()
    scored(other)
    assert len(taken) == 4  # what the other one kept went with it


def test_damage_is_a_line_and_the_same_score(run: Path, taken: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    first = scored(run)
    taken.clear()
    damaged = sorted((run / "features").glob("encoder.*/x.npy"))[0]
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 1
    damaged.write_bytes(content)
    capsys.readouterr()
    assert scored(run) == first
    assert len(taken) == 1 and "kept features of encoder are not whole, and are taken again" in capsys.readouterr().err
    assert scored(run) == first and len(taken) == 1


def test_a_disk_that_refuses_is_a_line(run: Path, taken: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    (run / "features").write_text("in the way")
    first = scored(run)
    assert "features of encoder are not kept for later" in capsys.readouterr().err
    (run / "features").unlink()
    with pytest.MonkeyPatch.context() as patch:  # full when all but the last file is written
        patch.setattr("linear_eval.features.disk.write_digests", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        assert scored(run) == first
    assert list((run / "features").iterdir()) == []
    assert scored(run) == first


def test_room_is_made_by_what_was_used_longest_ago(
    run: Path, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(run)
    sizes = [sum(file.stat().st_size for file in one.iterdir()) for one in (run / "features").iterdir()]
    shutil.rmtree(run / "features")
    monkeypatch.setattr(kept_module, "MOST_BYTES", max(sizes) + 1)
    scored(run)
    assert sum(file.stat().st_size for file in (run / "features").rglob("*.*")) <= max(sizes) + 1
    monkeypatch.setattr(kept_module, "MOST_BYTES", 100)  # less than any of them
    shutil.rmtree(run / "features")
    scored(run)
    assert not (run / "features").exists()


def test_embedding_looking_and_the_open_set_share_what_a_score_kept(
    run: Path, taken: list[int], tmp_path: Path
) -> None:
    run_config = replace(QUICK, batch_size=256, one_shot_trials=20)
    evaluate_run(run, None, run_config)
    taken.clear()
    data = ScoredRun.at(run).data
    assert data is not None
    found = embed_run(run, EmbedOptions(out=tmp_path / "all.npz", query=(data.path / "a" / "00.png",), data=data))
    seen = look_at(run)
    assert taken == [] and found.features is not None
    assert torch.equal(seen.x, found.features.x) and list(seen.names) == list(found.names)
    # As the encoder makes of each file by itself.
    encoder = ScoredRun.at(run).encoder()
    with torch.no_grad():
        alone = torch.cat([encoder(encoder.read(data.path / name)) for name in seen.names])
    torch.testing.assert_close(seen.x, alone, rtol=1e-4, atol=1e-5)
    with np.load(tmp_path / "all.npz") as written:
        assert np.array_equal(written["features"], seen.x.numpy())
    evaluate_open_set(run, None, run_config)
    count = len(taken)
    assert count
    evaluate_open_set(run, None, run_config)
    assert len(taken) == count


def test_labels_are_those_of_now(run: Path, pictures: Path, taken: list[int]) -> None:
    scored(run)
    taken.clear()
    images = ImageSet.from_files(sorted(pictures.rglob("*.png")), 24, labels=None, classes=(), name=str(pictures))
    kept, encoder = Kept(run / "features"), ScoredRun.at(run).encoder()
    before = features_of(kept, "encoder", encoder, images, 16, CPU)
    labelled = replace(images, labels=torch.arange(40) % 3, groups=torch.arange(40) // 2)
    after = features_of(kept, "encoder", encoder, labelled, 16, CPU)
    assert taken == [40] and torch.equal(before.x, after.x)
    assert after.y.tolist() == labelled.labels.tolist() and after.groups.tolist() == labelled.groups.tolist()
