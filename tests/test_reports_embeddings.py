"""Pictures: the maps against scikit-learn, the files as files, and the projector's files as TensorBoard reads them."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA

from linear_eval.features.extract import Features
from linear_eval.matching.verification import verification
from linear_eval.reports.embeddings import pca_map, plot_map, plot_pairs, plot_roc, tsne_map
from linear_eval.reports.projector import write_projector
from simclr.errors import ConfigError, DataError, MissingExtraError


def blobs(rows: int = 60, width: int = 8, classes: int = 4, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % classes
    centres = 2 * torch.randn(classes, width, generator=generator)
    return Features(x=centres[y] + torch.randn(rows, width, generator=generator), y=y, index=torch.arange(rows) + 500)


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_pca_equal_to_scikit_learn_up_to_the_sign():
    x = blobs().x
    spots, shares = pca_map(x)
    theirs = PCA(2).fit(torch.nn.functional.normalize(x.double()).numpy())
    expected = theirs.transform(torch.nn.functional.normalize(x.double()).numpy())
    expected *= np.sign((expected * spots).sum(0))
    assert np.allclose(spots, expected, atol=1e-9)
    assert shares == pytest.approx(theirs.explained_variance_ratio_)
    assert np.array_equal(pca_map(x)[0], spots)


def test_pca_of_a_single_column_and_of_a_single_point():
    spots, shares = pca_map(torch.tensor([[1.0], [-1.0], [1.0]]))
    assert spots[:, 1].tolist() == [0, 0, 0] and shares == (1.0, 0.0)
    assert pca_map(torch.ones(4, 3))[1] == (0.0, 0.0)


def test_tsne_keeps_blobs_together():
    features = blobs(rows=80, width=70, classes=4)
    x = torch.nn.functional.one_hot(features.y, 70).float() * 9 + 0.3 * torch.randn(80, 70)
    spots = tsne_map(x, seed=1)
    assert spots.shape == (80, 2) and np.isfinite(spots).all()
    apart = np.linalg.norm(spots[:, None] - spots[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (features.y.numpy()[apart.argmin(1)] == features.y.numpy()).all()
    with pytest.raises(DataError, match="at least 5 rows, got 4"):
        tsne_map(x[:4])


def every_picture(features: Features, folder: Path, methods: tuple[str, ...] = ("pca", "tsne")) -> list[Path]:
    results = {"encoder": verification(features.x, features.y).as_dict()}
    maps = [plot_map(features, folder / f"{method}.png", method, class_names=["a", "b", "c"]) for method in methods]
    return [plot_roc(results, folder / "roc.png"), plot_pairs(results, folder / "pairs.png"), *maps]


def test_every_picture_is_written(tmp_path):
    for path in every_picture(blobs(), tmp_path / "new" / "folder"):
        assert min(pixels(path).shape[:2]) > 400 and len(np.unique(pixels(path).reshape(-1, 3), axis=0)) > 50


def test_several_results_share_a_picture(tmp_path):
    features = blobs()
    results = {
        name: verification(features.x + noise * torch.randn(60, 8), features.y, threshold=given).as_dict()
        for name, noise, given in (("trained", 0.0, 0.3), ("untrained", 3.0, None))
    }
    one = pixels(plot_pairs({"trained": results["trained"]}, tmp_path / "one.png"))
    both = pixels(plot_pairs(results, tmp_path / "both.png"))
    assert len(both) > 1.2 * len(one)
    assert plot_roc(results, tmp_path / "roc.png").stat().st_size > 10_000


def test_degenerate_embeddings_are_drawn(tmp_path):
    # warnings are errors here: neither a collapsed encoder nor hundreds of classes may cause one
    collapsed = Features(x=torch.ones(12, 5), y=torch.arange(12) % 3, index=torch.arange(12))
    every_picture(collapsed, tmp_path)
    every_picture(blobs(rows=4, classes=2), tmp_path, methods=("pca",))
    plot_map(blobs(rows=120, classes=60), tmp_path / "many.png", max_rows=50)


def test_bad_requests_are_named(tmp_path):
    with pytest.raises(ConfigError, match="expected one of pca, tsne, umap"):
        plot_map(blobs(), tmp_path / "a.png", "isomap")
    for plot in (plot_roc, plot_pairs):
        with pytest.raises(ConfigError, match="got none"):
            plot({}, tmp_path / "a.png")


def test_projector_files_hold_the_same_rows_at_every_step(tmp_path):
    pytest.importorskip("tensorboard", reason="the tensorboard extra")
    first, second = blobs(), blobs(seed=1)
    thumbnails = torch.randint(0, 256, (60, 1, 9, 9), dtype=torch.uint8)
    named = ["a\tb\n猫", os.fsdecode(b"caf\xe9"), "c"]
    write_projector(tmp_path, [(10, first, thumbnails), (200, second, None)], class_names=named, max_rows=50, seed=2)
    tables = {int(path.parts[-3]): np.loadtxt(path) for path in tmp_path.glob("*/*/tensors.tsv")}
    assert sorted(tables) == [10, 200]
    metadata = {path.read_text() for path in tmp_path.glob("*/*/metadata.tsv")}
    assert len(metadata) == 1
    header, *lines = [line.split("\t") for line in metadata.pop().strip().split("\n")]
    assert header == ["class", "image"] and len(lines) == 50
    for step, features in ((10, first), (200, second)):
        for row, (name, index) in zip(tables[step], lines, strict=True):
            at = int(index) - 500
            assert row == pytest.approx(features.x[at].numpy(), abs=1e-5)
            assert name == ["a\\tb\\n猫", "caf\\udce9", "c", "3"][int(features.y[at])]
    sprite = pixels(next(tmp_path.glob("00010/*/sprite.png")))
    assert sprite.shape == (8 * 9, 8 * 9, 3)  # 50 pictures in a square of 8 x 8
    assert (tmp_path / "projector_config.pbtxt").read_text().count("embeddings {") == 2


def test_projector_refuses_what_cannot_be_compared(tmp_path):
    pytest.importorskip("tensorboard", reason="the tensorboard extra")
    features = blobs()
    other = Features(x=features.x, y=features.y, index=features.index + 1)
    with pytest.raises(DataError, match="step 2 embeds other images than step 1"):
        write_projector(tmp_path, [(1, features, None), (2, other, None)])
    with pytest.raises(DataError, match="steps repeat"):
        write_projector(tmp_path, [(1, features, None), (1, features, None)])
    with pytest.raises(DataError, match="at least one snapshot"):
        write_projector(tmp_path, [])
    with pytest.raises(DataError, match=r"uint8 \(N, C, H, W\)"):
        write_projector(tmp_path, [(1, features, torch.zeros(60, 3, 8, 8))])
    assert not list(tmp_path.iterdir())


def test_missing_tensorboard_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"simclr-pipeline\[tensorboard\]") as caught:
        write_projector(tmp_path, [(1, blobs(), None)])
    assert "\n" not in str(caught.value)
