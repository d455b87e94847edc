"""What a score says beside its accuracy: figures of each class, the commonest class, a verdict, numbers instead of classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, precision_score, r2_score, recall_score
from torch import Tensor, nn

from linear_eval.classify.result import ProbeScore, score_predictions
from linear_eval.config import EvalConfig
from linear_eval.features.pixels import affordable_size
from linear_eval.metrics import balanced_accuracy, paired_difference
from linear_eval.protocol import evaluate
from linear_eval.protocol_numbers import evaluate_numbers
from linear_eval.reports.notes import notes_on
from linear_eval.reports.numbers import print_numbers, write_numbers
from linear_eval.results import Accuracy, ClosedRow, Gain
from linear_eval.results_numbers import NumbersResult
from linear_eval.verdict import always_the_commonest, verdict
from simclr.data import ImageSet
from simclr.errors import DataError

RNG = np.random.default_rng(0)
TRUTH = torch.from_numpy(RNG.choice(4, 300, p=[0.7, 0.2, 0.07, 0.03]))
GUESSES = torch.where(torch.from_numpy(RNG.random(300)) < 0.7, TRUTH, torch.from_numpy(RNG.integers(0, 3, 300)))


def test_figures_of_each_class_are_those_of_scikit_learn() -> None:
    score = score_predictions(GUESSES, TRUTH, torch.arange(5), chosen=None).score()
    assert score.balanced_accuracy == pytest.approx(balanced_accuracy_score(TRUTH, GUESSES))
    assert score.per_class[:4] == pytest.approx(recall_score(TRUTH, GUESSES, average=None))
    assert score.per_class[4] is None and score.support == (*torch.bincount(TRUTH).tolist(), 0)
    expected = precision_score(TRUTH, GUESSES, average=None, zero_division=np.nan)
    assert [p for p in score.precision[:4] if p is not None] == pytest.approx([p for p in expected if p == p])
    assert ProbeScore.from_dict(score.to_dict(), "x") == score
    older = {"accuracy": 0.5, "interval": [0.4, 0.6]}
    assert ProbeScore.from_dict(older, "x").balanced_accuracy is None


def test_the_interval_of_a_balanced_accuracy_is_that_of_images_drawn_again() -> None:
    right = [int(((GUESSES == TRUTH) & (c == TRUTH)).sum()) for c in range(4)]
    _, found = balanced_accuracy(right, torch.bincount(TRUTH).numpy(), seed=1)
    draws = []
    for _ in range(3000):
        rows = RNG.integers(0, 300, 300)
        draws.append(np.mean([(GUESSES[rows] == c)[TRUTH[rows] == c].double().mean() for c in TRUTH[rows].unique()]))
    assert found == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.012)


def test_the_commonest_class_is_that_of_training_and_is_scored_on_the_test_images() -> None:
    found = always_the_commonest(torch.tensor([2, 2, 2, 0, 1]), torch.tensor([0, 0, 0, 2, 1]))
    assert (found.label, found.accuracy, found.balanced_accuracy) == (2, 0.2, pytest.approx(1 / 3))


def words(encoder: float, untrained: float, pixels: float, **others: float) -> str:
    """The verdict on constructed answers to 400 test images of two equal classes."""
    rows, right = {}, {}
    shares = {"encoder": encoder, **others, "untrained": untrained, "raw pixels": pixels}
    for name, share in shares.items():
        right[name] = np.arange(400) < round(400 * share)
        score = ProbeScore(accuracy=share, interval=(share - 0.04, share + 0.04))
        rows[name] = ClosedRow(linear=score, knn=Accuracy(accuracy=share, interval=(0, 1)))
    comparison = {
        f"encoder - {name}": {"linear": Gain(**paired_difference(right["encoder"], right[name]))}
        for name in shares
        if name != "encoder"
    }
    return verdict(rows, comparison, always_the_commonest(torch.arange(2), torch.arange(400) % 2))


def test_the_verdict_follows_the_answers() -> None:
    assert words(0.9, 0.7, 0.8).startswith(
        "Pretraining helped: 90.0 % against 70.0 % of the encoder untrained (+20.0 points"
    )
    assert "commonest" not in words(0.9, 0.7, 0.8)
    equal = words(0.8, 0.8, 0.8)
    assert equal.startswith("No sign that pretraining helped: ") and equal.count("which includes 0") == 2
    assert words(0.6, 0.7, 0.8).startswith("Pretraining made it worse: ")
    assert "not against both" in words(0.8, 0.7, 0.8)
    assert "behind one of the two" in words(0.8, 0.7, 0.9)
    assert "the commonest class gives" in words(0.51, 0.5, 0.5)


def test_the_verdict_says_whether_adapting_helped() -> None:
    end = "the weights it started from, 80.0 % ({:+.1f} points, 95 % ["
    helped = words(0.9, 0.7, 0.8, start=0.8)
    assert "Adapting helped: better than " + end.format(10) in helped and helped.startswith("Pretraining helped: ")
    assert "Adapting made it worse: behind " + end.format(-10) in words(0.7, 0.7, 0.8, start=0.8)
    assert "No sign that adapting helped: not told apart from " + end.format(0) in words(0.8, 0.7, 0.8, start=0.8)
    assert "Adapting" not in words(0.8, 0.7, 0.8, resnet50=0.8)


class Flat(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float().flatten(1) / 255


def labelled(labels: list[int], classes: tuple[str, ...]) -> ImageSet:
    pixels = torch.randint(256, (len(labels), 3, 8, 8), generator=torch.Generator().manual_seed(len(labels))).byte()
    return ImageSet.from_pixels(pixels, labels=torch.tensor(labels), classes=classes, name="birds")


CONFIG = EvalConfig(trials=0, strengths=(1e-2,), resamples=200)


def test_classes_that_one_part_lacks_are_named() -> None:
    names = ("owl", "tit", "jay", "wren")
    train, test = labelled([0, 1, 0, 1, 3, 3] * 5, names), labelled([0, 1, 2, 2, 1, 0, -1], names)
    result = evaluate(Flat(), None, train, test, CONFIG, "cpu")
    notes = "\n".join(notes_on(result))
    assert "1 test classes have no training image, and their 2 test images count as wrong: jay (2)" in notes
    assert "1 classes have no test image and count for nothing: wren" in notes
    assert result["commonest"]["accuracy"] == pytest.approx(1 / 3)
    with pytest.raises(
        DataError, match="training has the classes owl, tit and the test set has jay, wren: none in common"
    ):
        evaluate(Flat(), None, labelled([0, 1], names), labelled([2, 3], names), CONFIG, "cpu")


def test_near_copies_are_counted_in_the_pass_over_the_pixels() -> None:
    train, test = labelled([0, 1] * 20, ("a", "b")), labelled([0, 1] * 6, ("a", "b"))
    assert train.pixels is not None and test.pixels is not None
    clean = evaluate(Flat(), None, train, test, CONFIG, "cpu")
    test.pixels[:3] = train.pixels[5:8]
    found = evaluate(Flat(), None, train, test, CONFIG, "cpu")
    assert (clean["data"]["test"]["near_copies"], found["data"]["test"]["near_copies"]) == (0, 3)
    assert any(note.startswith("3 of 12 test images have a near-copy in training") for note in notes_on(found))
    assert found["rows"]["raw pixels"]["features"] == 192


def test_raw_pixels_are_no_wider_than_the_encoder_where_that_costs() -> None:
    assert affordable_size(32, (3, 16, 16), 128, 1438) == 32  # cheap as it is
    for width in (512, 2048, 64):
        side = affordable_size(32, (3, 224, 224), width, 50_000)
        assert side == 8 or 3 * side**2 <= width < 3 * (side + 1) ** 2


def valued(count: int, seed: int) -> ImageSet:
    """Images whose number is the brightness of a corner, and one image without a number."""
    pixels = torch.randint(256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed)).byte()
    values = pixels[:, :, :2, :2].float().mean((1, 2, 3)) / 10
    values[0] = torch.nan
    images = ImageSet.from_pixels(pixels, labels=None, classes=(), name="ages")
    return replace(images, values=values)


def test_numbers_are_scored_as_scikit_learn_scores_them(tmp_path: Path) -> None:
    train, test = valued(300, 0), valued(80, 1)

    class Blind(Flat):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images[..., 4:])

    result, truth, predicted = evaluate_numbers(Flat(), Blind(), train, test, CONFIG, "cpu")
    rows = result["rows"]
    assert list(rows) == ["encoder", "untrained", "raw pixels", "always the mean"]
    assert train.values is not None and train.pixels is not None and test.pixels is not None
    x, target = train.pixels[1:].flatten(1).double().numpy(), train.values[1:].double().numpy()
    z = (x - x.mean(0)) / x.std(0)
    ridge = Ridge(alpha=rows["encoder"]["alpha"]).fit(z, target)
    expected = ridge.predict((test.pixels[1:].flatten(1).double().numpy() - x.mean(0)) / x.std(0))
    assert predicted == pytest.approx(expected, abs=1e-3)
    assert rows["encoder"]["mean_absolute_error"] == pytest.approx(mean_absolute_error(truth, predicted))
    assert rows["encoder"]["r_squared"] == pytest.approx(r2_score(truth, predicted))
    mean = rows["always the mean"]
    assert mean["mean_absolute_error"] == pytest.approx(np.abs(truth - target.mean()).mean())
    assert result["verdict"].startswith("Pretraining helped, but not against both")  # raw pixels are this encoder
    assert result["data"]["test"] == {"name": "ages", "images": 80, "without_label_left_out": 1}
    assert NumbersResult.from_dict(result, "x").to_dict() == result
    print_numbers(result)
    assert [path.name for path in write_numbers(result, truth, predicted, tmp_path)] == ["result.json", "predicted.png"]
