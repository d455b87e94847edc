"""Looking at a set: neighbours by brute force, copies and wrong labels that were planted, maps, thumbnails and sheets."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from test_kept import make_run
from torch.nn import functional as F

from linear_eval.look.copies import copies, group_numbers
from linear_eval.look.maps import map_of
from linear_eval.look.neighbours import check_index, nearest_rows
from linear_eval.look.pages import drawn_rows
from linear_eval.look.seen import Seen, look_at
from linear_eval.look.sheet import Tile, draw_sheet
from linear_eval.look.surprising import neighbour_votes, out_of_fold, surprising
from linear_eval.look.thumbnails import thumbnails
from linear_eval.matching.search import nearest
from simclr.data import ImageSet
from simclr.data.copy_pairs import copy_pairs, fingerprints
from simclr.data.groups import group_folds
from simclr.errors import ConfigError, DataError, MissingExtraError

DIGITS = load_digits()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 smooth pictures of two classes in train and test; of one of them two copies, one in the other part."""
    root = tmp_path_factory.mktemp("look") / "photos"
    generator = torch.Generator().manual_seed(0)
    for inside in ("train/a", "train/b", "test/a", "test/b"):
        (root / inside).mkdir(parents=True)
    for number in range(48):
        folder = root / ("test" if number % 3 == 2 else "train") / "ab"[number % 2]
        coarse = torch.rand(1, 3, 12, 9, generator=generator)
        pixels = F.interpolate(coarse, (80, 60), mode="bicubic").clamp(0, 1)[0]
        image = Image.fromarray((255 * pixels).byte().permute(1, 2, 0).numpy())
        image.save(folder / f"{number:02d}.png")
        if number == 0:
            image.save(root / "test" / "a" / "again.jpg", quality=60)
            image.resize((30, 40)).save(root / "train" / "a" / "small.png")
    return root


@pytest.fixture(scope="module")
def seen(photos: Path) -> Seen:
    return look_at(make_run(photos.parent / "runs" / "one", photos))


def test_all_images_of_all_parts_are_seen_in_the_order_of_their_paths(seen: Seen, photos: Path) -> None:
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    assert list(seen.names) == names and seen.x.shape == (50, 8)
    assert [seen.part(row) for row in range(len(seen))] == [name.split("/")[0] for name in names]
    assert [seen.label(row) for row in range(len(seen))] == [name.split("/")[1] for name in names]
    assert [path.relative_to(photos).as_posix() for path in seen.images.paths] == names


def test_of_too_many_some_are_drawn_from_every_class_unless_all_are_kept(photos: Path) -> None:
    run = make_run(photos.parent / "runs" / "two", photos, seed=9)
    some = look_at(run, most=20)
    again = look_at(run, most=20)
    assert list(some.names) == list(again.names) and torch.equal(some.x, again.x)
    counts = {kind: sum(name.startswith(kind) for name in some.names) for kind in ("train/a", "train/b", "test/b")}
    assert 18 <= len(some) <= 22 and min(counts.values()) >= 3 and "of 50 images" in some.note
    whole = look_at(run)
    rows = [list(whole.names).index(name) for name in some.names]
    torch.testing.assert_close(some.x, whole.x[rows], rtol=1e-4, atol=1e-5)
    assert len(look_at(run, most=20)) == 50  # whose features are kept by now


def test_copies_that_were_planted_are_found_and_no_others(seen: Seen) -> None:
    groups = copies(seen)
    found = {frozenset(seen.names[row] for row in group.rows): group for group in groups}
    first = frozenset({"train/a/00.png", "test/a/again.jpg", "train/a/small.png"})
    assert set(found) == {first}
    assert found[first].crosses and found[first].parts == ("train", "test")
    numbers = group_numbers(seen)
    assert {seen.names[row] for row in (numbers >= 0).nonzero().flatten().tolist()} == first
    assert len(numbers[numbers >= 0].unique()) == 1


def test_mirrored_and_cropped_copies_are_found_among_what_is_alike() -> None:
    coarse = torch.rand(30, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    photos = F.interpolate(coarse, (80, 80), mode="bicubic").clamp(0, 1)
    cropped = F.interpolate(photos[9:10, :, 4:76, 4:76], (64, 64), mode="bilinear", antialias=True)
    photos = F.interpolate(photos, (64, 64), mode="bilinear", antialias=True)
    prints = fingerprints(torch.cat([photos, photos[5:6].flip(3), cropped]))
    every = torch.combinations(torch.arange(32))
    pairs, agreement = copy_pairs(prints, every)
    assert sorted(pairs.tolist()) == [[5, 30], [9, 31]] and bool((agreement >= 16).all())
    assert copy_pairs(prints)[0].tolist() == []  # nothing said that they are alike
    assert copy_pairs(prints[:1])[0].shape == (0, 2)


@pytest.mark.parametrize("values", [7, 1 << 22])
@pytest.mark.parametrize("count", [3, 300])
def test_neighbours_are_those_of_float64(values: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linear_eval.features.rows.PART_VALUES", 40 * values)
    monkeypatch.setattr("linear_eval.matching.search._MORE", 2)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 5, generator=generator) * 10.0 ** torch.linspace(-30, 30, count)[:, None]
    x[count // 3 : count // 2] = x[0]  # equal rows, and some a hair apart
    x[-1] = x[0] * (1 + 1e-6)
    k = min(9, count - 1)
    cosines, rows = nearest_rows(x, k=k)
    unit = x.double() / x.double().norm(dim=1, keepdim=True)
    wanted = (unit @ unit.T).fill_diagonal_(-9)
    wanted = (wanted * 2.0**31).round() / 2.0**31
    best, order = wanted.sort(dim=1, descending=True, stable=True)
    assert torch.equal(rows, order[:, :k])
    torch.testing.assert_close(cosines.double(), best[:, :k], rtol=0, atol=1e-6)
    asked = torch.randn(4, 5, generator=generator)
    tree = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(unit.numpy())
    assert np.allclose(1 - tree.kneighbors(asked.numpy())[0], nearest(asked, x, k)[0], atol=1e-6)


def test_rows_that_cannot_be_compared_are_named() -> None:
    x = torch.randn(5, 3)
    with pytest.raises(DataError, match="3 features and the others 2"):
        nearest_rows(x[:, :2], x)
    x[3] = torch.nan
    with pytest.raises(DataError, match="the features are not finite: 3"):
        nearest_rows(x, torch.randn(1, 3))


@pytest.mark.parametrize(("module", "extra"), [("faiss", "faiss"), ("umap", "umap")])
def test_an_extra_that_is_missing_is_named(module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'simclr-pipeline\[{extra}\]'"):
        check_index("faiss") if extra == "faiss" else map_of(torch.randn(8, 3), "umap")


def test_faiss_finds_what_the_exact_search_does() -> None:
    pytest.importorskip("faiss")
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    exact, by_faiss = (nearest_rows(x, k=5, index=index) for index in ("exact", "faiss"))
    assert torch.equal(exact[1], by_faiss[1])
    torch.testing.assert_close(exact[0], by_faiss[0], atol=1e-5, rtol=0)


def test_maps_keep_neighbours_and_bad_requests_are_named() -> None:
    x = torch.cat([torch.randn(20, 6) + 8 * torch.eye(6)[i] for i in range(3)])
    spots = map_of(x, "tsne")
    assert spots.shape == (60, 2) and np.isfinite(spots).all()
    near = NearestNeighbors(n_neighbors=2).fit(spots).kneighbors(return_distance=False)[:, 0]
    assert (near // 20 == np.arange(60) // 20).mean() > 0.9
    with pytest.raises(ConfigError, match="expected one of pca, tsne, umap"):
        map_of(x, "isomap")
    with pytest.raises(DataError, match="at least 5 rows"):
        map_of(x[:3], "umap")


def test_predictions_out_of_fold_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linear_eval.look.surprising.STRENGTHS", (1e-2,))
    x, target = torch.from_numpy(DIGITS.data[:300]).float(), torch.from_numpy(DIGITS.target[:300]).long()
    groups = torch.full_like(target, -1)
    groups[:40] = torch.arange(40) // 2
    p = out_of_fold(x, target, groups)
    out = group_folds(target, groups, 5, 0) == 2
    deviation = x.std(0, unbiased=False)
    standard = (x - x.mean(0)) / deviation.where(deviation > 0, 1)
    fit = LogisticRegression(C=1 / (1e-2 * int((~out).sum())), max_iter=2000, tol=1e-8).fit(
        standard[~out], target[~out]
    )
    assert torch.from_numpy(fit.predict_proba(standard[out])).float() == pytest.approx(p[out], abs=2e-3)
    votes = neighbour_votes(x, target, 10, groups)
    cosine = F.normalize(x, dim=1) @ F.normalize(x, dim=1).T
    for row in (0, 7, 299):
        order = [i for i in cosine[row].argsort(descending=True).tolist() if i != row]
        order = [i for i in order if groups[i] < 0 or groups[i] != groups[row]][:10]
        assert votes[row].tolist() == pytest.approx((torch.bincount(target[order], minlength=10) / 10).tolist())


def test_labels_that_were_planted_surprise_most(seen: Seen) -> None:
    target = torch.from_numpy(DIGITS.target[:600]).long()
    wrong = torch.randperm(600, generator=torch.Generator().manual_seed(0))[:20]
    given = target.clone()
    given[wrong] = (given[wrong] + 3) % 10
    pixels = torch.from_numpy((DIGITS.images[:600] * 15.9).astype(np.uint8))[:, None]
    images = ImageSet.from_pixels(pixels, labels=given, classes=tuple("0123456789"), name="digits")
    parts = replace(seen.found, parts={"train": images}, order=None)
    shown = replace(seen, x=torch.from_numpy(DIGITS.data[:600]).float(), y=given, images=images, found=parts)
    found = surprising(replace(shown, classes=images.classes), most=20)
    assert len({one.row for one in found} & set(wrong.tolist())) >= 18
    assert sum(one.said == int(target[one.row]) for one in found) >= 18
    assert all(one.given == int(given[one.row]) and one.confidence > one.probability for one in found)
    with pytest.raises(DataError, match="600 labelled images of 1 classes"):
        surprising(replace(shown, y=torch.zeros_like(given)))


def test_thumbnails_are_whole_pictures_of_the_files(seen: Seen, photos: Path) -> None:
    rows = [3, 48]
    found = thumbnails(seen.images, rows, 40)
    for row in rows:
        with Image.open(io.BytesIO(found[row])) as small, Image.open(photos / seen.names[row]) as whole:
            assert small.format == "WEBP" and max(small.size) <= 40
            assert abs(small.width / small.height - whole.width / whole.height) < 0.05
            wanted = np.asarray(whole.convert("RGB").resize(small.size, Image.Resampling.BILINEAR), dtype=float)
            assert np.abs(np.asarray(small.convert("RGB"), dtype=float) - wanted).mean() < 20
    gone = replace(seen.images, paths=(*seen.images.paths[:3], Path("gone.png"), *seen.images.paths[4:]))
    assert set(thumbnails(gone, rows, 40)) == {48}


def test_a_sheet_holds_any_names(tmp_path: Path) -> None:
    tile = Tile(picture=Image.new("RGB", (30, 60), "red"), words=("$x$ 猫 <b>", "caf\udce9\n" * 9), colour="#000000")
    file = draw_sheet(tmp_path / "new" / "sheet.png", "a_b $ " * 60, [[tile, Tile(), tile], [tile]], note="n\n" * 5)
    with Image.open(file) as sheet:
        red = (np.asarray(sheet.convert("RGB")) == (255, 0, 0)).all(2).sum()
        assert sheet.width < 800 and red > 3 * 70 * 140


def test_a_sample_is_drawn_evenly(seen: Seen) -> None:
    drawn = drawn_rows(seen, 6)
    assert [seen.label(row) for row in drawn.tolist()] == ["a"] * 3 + ["b"] * 3 and len(set(drawn.tolist())) == 6


def test_copies_of_an_image_have_no_part_in_its_prediction() -> None:
    """Every image twice, and labels that nothing but its copy tells: a probe that saw the copy knows them, another guesses."""
    draw = torch.Generator().manual_seed(0)
    x, target = torch.randn(80, 300, generator=draw).repeat(2, 1), torch.randint(2, (80,), generator=draw).repeat(2)
    groups = torch.arange(80).repeat(2)
    right = [float((out_of_fold(x, target, of).argmax(1) == target).float().mean()) for of in (None, groups)]
    assert right[0] > 0.8 and right[1] < 0.65
