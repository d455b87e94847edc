"""Episodes and Lake's trials against loops in float64 that read like the definitions, and against scipy."""

import itertools
import json
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.spatial.distance import cdist

import linear_eval.matching.few_shot
from linear_eval import few_shot, lake_trials, load_runs, same_class_likeness
from linear_eval.matching.few_shot import paired_gain
from linear_eval.matching.trials import LAKE
from simclr.errors import ConfigError, DataError
from simclr.losses import SiameseLoss


def blobs(sizes: list[int], width: int, seed: int, spread: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    y = y[torch.randperm(len(y), generator=generator)]
    centres = torch.randn(len(sizes), width, generator=generator)
    return centres[y] + spread * torch.randn(len(y), width, generator=generator), 10 * y + 3


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def likeness(query: np.ndarray, shots: np.ndarray, how: str) -> float:
    """How alike a query (F,) is to a class of which there are ``shots`` (K, F)."""
    if how == "cosine":
        return float(unit(query) @ unit(unit(shots).mean(0)))
    if how == "euclidean":
        return -float(((query - shots.mean(0)) ** 2).sum())
    d = np.linalg.norm(unit(query) - unit(shots), axis=1)
    return float(np.mean(1 / (1 + np.exp(-4.0 * (0.9 - d)))))


@pytest.mark.parametrize("how", ["cosine", "euclidean", "siamese"])
@pytest.mark.parametrize(("ways", "shots", "queries"), [(4, 1, 1), (3, 3, 2)])
def test_answers_are_those_of_a_loop(how: str, ways: int, shots: int, queries: int, monkeypatch) -> None:
    monkeypatch.setattr(linear_eval.matching.few_shot, "CHUNK_BYTES", 8 * 6 * ways * (shots + queries) * 7)
    x, y = blobs([9, 5, 7, 3, 8, 6], 6, 0)
    distance = how if how != "siamese" else same_class_likeness(SiameseLoss(threshold=0.9, steepness=4.0))
    result = few_shot(x, y, ways, shots, episodes=40, queries=queries, distance=distance, seed=5)
    rows, right, chosen = x.double().numpy(), [], []
    for episode in result.rows.tolist():
        for true, one in enumerate(episode):
            for query in one[shots:]:
                scores = [likeness(rows[query], rows[other[:shots]], how) for other in episode]
                chosen.append(int(np.argmax(scores)))
                right.append(chosen[-1] == true)
    assert result.hits.flatten().tolist() == right and result.chosen.flatten().tolist() == chosen
    assert result.accuracy == pytest.approx(np.mean(right)) and 1 / ways < result.accuracy < 1
    assert (result.classes, result.excluded) == ((6, 0) if shots == 1 else (5, 1))
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["shots"] == shots


def test_what_an_episode_draws() -> None:
    x, y = blobs([4, 6, 9, 3, 5, 4, 4], 3, 1)
    within = (y // 40).long()  # classes 0-3, 4-6: numbers 3..33, 43..63
    result = few_shot(x, y, 3, 2, episodes=3000, queries=2, within=within, seed=2)
    assert (result.classes, result.excluded) == (6, 1)
    for episode in result.rows[:200]:
        classes = y[episode]
        assert (classes == classes[:, :1]).all() and len(classes[:, 0].unique()) == 3
        assert len(episode.unique()) == 12 and len(within[episode].unique()) == 1
    groups = within[result.rows[:, 0, 0]].bincount()
    assert abs(int(groups[0]) - 1500) < 150  # evenly, though one group has twice the images
    # each image of a class as often at each place: shots and queries are drawn without a preference
    for label in (13, 23):
        mine = (y == label).nonzero().flatten()
        drawn = result.rows[(y[result.rows[:, :, 0]] == label)]
        for place in range(4):
            counts = (drawn[:, place, None] == mine).sum(0).numpy()
            assert stats.chisquare(counts).pvalue > 1e-4
    again = few_shot(torch.randn(len(y), 50), y, 3, 2, episodes=3000, queries=2, within=within, seed=2)
    assert torch.equal(again.rows, result.rows)  # whatever the embeddings
    other = few_shot(x, y, 3, 2, episodes=3000, queries=2, within=within, seed=3)
    assert not torch.equal(other.rows, result.rows)


def test_accuracy_is_the_mean_over_all_episodes_there_are() -> None:
    x, y = blobs([3, 3, 3, 3], 3, 2, spread=0.9)
    rows, members = x.double().numpy(), [(y == label).nonzero().flatten().tolist() for label in y.unique()]
    outcomes = []
    for target in range(4):
        for others in itertools.combinations([c for c in range(4) if c != target], 2):
            for *own, query in itertools.permutations(members[target], 3):
                for a, b in itertools.product(*(itertools.combinations(members[c], 2) for c in others)):
                    best = max(likeness(rows[query], rows[list(shots)], "cosine") for shots in (a, b))
                    outcomes.append(likeness(rows[query], rows[own], "cosine") > best)
    expected, count = np.mean(outcomes), 4000
    result = few_shot(x, y, 3, 2, episodes=count, seed=3)
    assert 0.4 < expected < 0.95
    assert abs(result.accuracy - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


def test_ties_count_as_wrong() -> None:
    x, y = torch.ones(40, 4), torch.arange(40) % 8
    for distance in ("cosine", "euclidean", same_class_likeness(SiameseLoss())):
        assert few_shot(x, y, 5, 2, episodes=20, distance=distance).accuracy == 0.0


@pytest.mark.parametrize("distance", ["euclidean", "squared", "manhattan", "cosine"])
def test_with_one_image_p_same_ranks_as_its_distance(distance: str) -> None:
    x, y = blobs([6] * 12, 5, 4, spread=0.8)
    loss = SiameseLoss(threshold=0.2, steepness=900.0, distance=distance)  # so steep that p is 0 or 1 in float64
    result = few_shot(x, y, 10, 1, episodes=100, distance=same_class_likeness(loss))
    rows = unit(x.double().numpy())
    kinds = {"euclidean": "euclidean", "squared": "sqeuclidean", "manhattan": "cityblock", "cosine": "cosine"}
    for episode, chosen in zip(result.rows.tolist(), result.chosen[:, :, 0].tolist(), strict=True):
        shots, queries = np.array(episode).T
        assert cdist(rows[queries], rows[shots], kinds[distance]).argmin(1).tolist() == chosen
    assert torch.equal(result.hits[:, :, 0], result.chosen[:, :, 0] == torch.arange(10))  # no tie of p at 0 or at 1


def test_the_interval_is_that_of_other_episodes_of_these_images() -> None:
    x, y = blobs([8] * 10, 4, 6)
    of_seeds = [few_shot(x, y, 5, 1, episodes=60, seed=seed).accuracy for seed in range(80)]
    result = few_shot(x, y, 5, 1, episodes=60, seed=0)
    half = (result.interval[1] - result.interval[0]) / 2
    assert half == pytest.approx(stats.t.ppf(0.975, 59) * np.std(of_seeds), rel=0.3)
    assert result.interval_over_classes[1] - result.interval_over_classes[0] > 2 * half  # ten classes are few
    assert few_shot(x, y, 5, 1, episodes=1).interval is None


def test_gains_are_paired_over_episodes() -> None:
    x, y = blobs([8] * 10, 4, 7)
    a = few_shot(x, y, 5, 1, episodes=80, queries=2)
    b = few_shot(x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), y, 5, 1, episodes=80, queries=2)
    gain = paired_gain(a.hits.flatten(), b.hits.flatten(), a.clusters)
    each = (a.hits.double() - b.hits.double()).flatten(1).mean(1).numpy()
    expected = stats.ttest_1samp(each, 0.0).confidence_interval(0.95)
    assert gain["difference"] == pytest.approx(a.accuracy - b.accuracy)
    assert gain["interval"] == pytest.approx([expected.low, expected.high], rel=1e-9)
    assert gain["a_only"] - gain["b_only"] == int(a.hits.sum()) - int(b.hits.sum())


def test_bad_settings_and_data_are_named() -> None:
    x, y = blobs([4, 4, 4], 3, 8)
    for words in ({"ways": 1}, {"shots": 0}, {"queries": 0}, {"episodes": 0}):
        with pytest.raises(ConfigError, match="at least 2 ways"):
            few_shot(x, y, **{"ways": 2, **words})
    with pytest.raises(DataError, match="3-way 4-shot needs 3 classes of 5 images, there are 0"):
        few_shot(x, y, 3, 4)
    with pytest.raises(DataError, match="3-way 1-shot needs 3 classes of 2 images in one group, there are 2"):
        few_shot(x, y, 3, 1, within=(y > 10).long())
    with pytest.raises(DataError, match="class 3 has images in several groups"):
        few_shot(x, y, 2, 1, within=torch.arange(12))
    with pytest.raises(DataError, match="one an image"):
        few_shot(x, y, 2, 1, within=torch.arange(3))
    with pytest.raises(ConfigError, match="manhattan"):
        few_shot(x, y, 2, 1, distance="manhattan")
    with pytest.raises(DataError, match="not finite"):
        few_shot(x * math.nan, y, 2, 1)


def zipped(folder: Path, below: str = "") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, Path(below) / file.relative_to(folder))
    return path


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_trials_are_those_of_the_files(lake_runs: Path, distance: str) -> None:
    runs = load_runs(zipped(lake_runs), size=21)
    assert (runs.trials, runs.ways, len(runs.images)) == (9, (2, 4, 5), 20)
    result = lake_trials(runs.images.pixels.flatten(1).float(), runs, distance)
    right = []
    for name in ("run01", "run02", "run03"):
        for line in (lake_runs / name / "class_labels.txt").read_text().split("\n")[:-1]:
            query, true = line.split()
            files = sorted((lake_runs / name / "training").iterdir())
            shots = [255.0 * np.asarray(Image.open(file)).flatten() for file in files]
            asked = 255.0 * np.asarray(Image.open(lake_runs / query)).flatten()
            scores = [likeness(asked, shot[None], distance) for shot in shots]
            right.append(sorted(scores)[-1] > sorted(scores)[-2] and files[np.argmax(scores)] == lake_runs / true)
    assert result.hits.tolist() == right and sum(right) > 0
    assert result.of_runs == pytest.approx([np.mean(right[:4]), np.mean(right[4:7]), np.mean(right[7:])])
    assert result.chance == pytest.approx((4 / 4 + 3 / 5 + 2 / 2) / 9)
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["runs"] == 3
    assert lake_trials(torch.ones(20, 3), runs, distance).accuracy == 0.0


def test_a_zip_is_the_folder_that_it_was_made_of(lake_runs: Path) -> None:
    (lake_runs / "__MACOSX" / "run01").mkdir(parents=True)
    (lake_runs / "__MACOSX" / "run01" / "class_labels.txt").write_text("rubbish")
    folder, archive = load_runs(lake_runs), load_runs(zipped(lake_runs, below="one-shot-classification/all"))
    assert torch.equal(folder.images.pixels, archive.images.pixels) and folder.key == archive.key != LAKE
    assert [run.answers.tolist() for run in folder.runs] == [run.answers.tolist() for run in archive.runs]
    (lake_runs / "run01").rename(lake_runs / "run0")  # the lines still say run01
    assert load_runs(lake_runs).key == folder.key
    assert archive.images.describe(0).startswith(str(lake_runs.with_suffix(".zip")))


def broken(root: Path, what: str) -> None:
    key = root / "run02" / "class_labels.txt"
    if what == "no labels":
        for one in root.rglob("class_labels.txt"):
            one.unlink()
    elif what == "a run without labels":
        key.unlink()
    elif what == "an image is missing":
        (root / "run02" / "test" / "item02.png").unlink()
    elif what == "an image is damaged":
        (root / "run02" / "test" / "item02.png").write_bytes(b"no picture")
    elif what == "an empty key":
        key.write_text("\n")
    elif what == "one word":
        key.write_text("run02/test/item01.png\n")
    elif what == "twice":
        key.write_text(2 * key.read_text())
    elif what == "bytes":
        key.write_bytes(b"\xff\xfe\x00")
    elif what == "elsewhere":
        key.write_text("run02/../run01/test/item01.png run02/training/class01.png\n")
    elif what == "one candidate":
        for one in (root / "run03" / "training").iterdir():
            if one.name not in (root / "run03" / "class_labels.txt").read_text().split("\n")[0]:
                one.unlink()
        (root / "run03" / "class_labels.txt").write_text(
            (root / "run03" / "class_labels.txt").read_text().split("\n")[0]
        )


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no labels", "has no class_labels.txt anywhere; expected Lake's form"),
        ("a run without labels", "run02 has no class_labels.txt, which says"),
        ("an image is missing", "run02/class_labels.txt, line 2: there is no image run02/test/item02.png"),
        ("an image is damaged", "run02/test/item02.png: "),
        ("an empty key", "run02/class_labels.txt is empty"),
        ("one word", "line 1: 'run02/test/item01.png' is not a test image and a training image"),
        ("twice", "has a line already"),
        ("bytes", "cannot be read as text"),
        ("elsewhere", "there is no image run02/../run01/test/item01.png"),
        ("one candidate", "run03 has 1 training image; expected at least 2"),
    ],
)
def test_what_is_not_of_lakes_form_is_named(lake_runs: Path, what: str, said: str, as_zip: bool) -> None:
    broken(lake_runs, what)
    path = zipped(lake_runs) if as_zip else lake_runs
    with pytest.raises(DataError) as caught:
        load_runs(path)
    assert said in str(caught.value) and str(path) in str(caught.value) and "/tmp/tmp" not in str(caught.value)


def test_what_is_no_zip_is_named(lake_runs: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.zip is not there; expected Lake's form"):
        load_runs(lake_runs / "nowhere.zip")
    with pytest.raises(DataError, match=r"class_labels\.txt cannot be unpacked \(File is not a zip file\)"):
        load_runs(lake_runs / "run01" / "class_labels.txt")
    whole = zipped(lake_runs).read_bytes()
    cut = lake_runs / "cut.zip"
    cut.write_bytes(whole[:300] + bytes(200) + whole[500:])
    with pytest.raises(DataError, match=r"cut\.zip cannot be unpacked"):
        load_runs(cut)
    runs = load_runs(lake_runs)
    with pytest.raises(DataError, match="19 rows for the 20 images"):
        lake_trials(torch.randn(19, 3), runs)


@pytest.mark.long
@pytest.mark.skipif("OMNIGLOT_RUNS" not in os.environ, reason="OMNIGLOT_RUNS does not name Lake's runs, all_runs.zip")
def test_lakes_own_baseline_has_lakes_own_errors() -> None:
    """The modified Hausdorff distance (Dubuisson and Jain 1994) has 38.8 % errors in Lake's demonstration of these runs."""
    runs = load_runs(os.environ["OMNIGLOT_RUNS"])
    assert (runs.key, runs.trials, len(runs.runs), runs.ways) == (LAKE, 400, 20, (20,))

    def points(row: int) -> np.ndarray:
        found = np.argwhere(runs.images.pixels[row, 0].numpy() == 0).astype(float)
        return found - found.mean(0)

    errors = []
    for run in runs.runs:
        candidates = [points(row) for row in run.candidates.tolist()]
        for query, answer in zip(run.queries.tolist(), run.answers.tolist(), strict=True):
            pairs = [cdist(points(query), candidate) for candidate in candidates]
            costs = [max(pair.min(1).mean(), pair.min(0).mean()) for pair in pairs]
            errors.append(int(np.argmin(costs)) != answer)
    assert 100 * np.mean(errors) == pytest.approx(38.75)  # which is printed as 38.8
