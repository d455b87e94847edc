"""Is it working? What the figures of a run mean, in words, and what to try next."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from linear_eval.comparison.runs import RunRecord
from linear_eval.reports.notes import notes_on
from linear_eval.results import ClosedResult
from simclr.run.diagnostics import warnings_in_words
from simclr.run.length import ENOUGH
from simclr.run.log import figures_over

__all__ = ["Advice", "advice_on"]

_RISING = 0.01
"""Online kNN that rose by more than this over the last quarter of a run has not come to its end."""

_WAITING = 0.2
_LOW_RANK = 0.1


@dataclass(frozen=True)
class Advice:
    """One thing that the figures say."""

    kind: Literal["good", "watch", "act"]
    text: str


def advice_on(run: RunRecord) -> list[Advice]:
    """What to do first, then what to keep an eye on, then what is well."""
    found = [*_training(run), *_score(run)]
    order = {"act": 0, "watch": 1, "good": 2}
    return sorted(found, key=lambda one: order[one.kind])


def _training(run: RunRecord) -> Iterator[Advice]:
    last: dict[str, Any] = {}
    for line in run.metrics:
        last |= {name: value for name, value in line.items() if isinstance(value, int | float)}
    failed = [line for line in run.metrics if line["kind"] == "failed"]
    if failed:
        yield Advice(
            "act", f"Step {failed[-1]['step']} was not finite, and training ended there: lower the learning rate."
        )
    skipped = sum(line["kind"] == "skipped" for line in run.metrics)
    if skipped:
        yield Advice(
            "watch", f"{skipped} steps were skipped since they were not finite; skipped/ in the run's folder has them."
        )
    if {"effective_rank", "feature_spread", "epoch_loss"} <= last.keys():
        warnings = warnings_in_words(last, last["epoch_loss"], _chance(run))
        for text in warnings.values():
            yield Advice("act", text[0].upper() + text[1:] + ".")
        if not warnings:
            yield Advice(
                "good",
                f"No collapse: the features of a batch use {last['effective_rank']:.0f} dimensions, and the embeddings are "
                f"spread {last['feature_spread']:.2f} (1 is even).",
            )
    yield from _curve(run)
    waits = [value for _, value in figures_over(run.metrics, "step", "data_wait")]
    if waits and (mean := sum(waits[len(waits) // 4 :]) / max(1, len(waits) - len(waits) // 4)) > _WAITING:
        yield Advice(
            "watch",
            f"Training waited {100 * mean:.0f} % of its time for images: more --data.workers, images shrunk beforehand, or "
            "shards help.",
        )
    top = last.get("contrastive_top1")
    if top is not None and top > 0.98 and last.get("online_knn") is not None:
        yield Advice(
            "watch",
            f"The views of an image are told from all others in {100 * top:.0f} % of cases: the task has become easy. Stronger "
            "augmentation (smaller --augment.crop-scale, more colour jitter) or larger batches give it more to learn.",
        )


def _chance(run: RunRecord) -> float | None:
    """The loss of guessing, by the run's batch; None of losses on labels, of which that is not known."""
    views, batch = run.config.get("augment.views"), run.config.get("train.batch_size")
    if run.config.get("objective.name") != "nt-xent" or not isinstance(views, int) or not isinstance(batch, int):
        return None
    return math.log(max(2, views * batch - 1))


def _curve(run: RunRecord) -> Iterator[Advice]:
    points = [(line["epoch"], value) for line, value in figures_over(run.metrics, "epoch", "online_knn")]
    if len(points) < 2 or not run.finished:  # what a run in its midst does says nothing of its end
        return
    last_epoch, last = points[-1]
    best_epoch, best = max(points, key=lambda point: point[1])
    before = [value for epoch, value in points if epoch <= 0.75 * last_epoch]
    if best - last > 2 * _RISING:
        yield Advice(
            "watch",
            f"Online kNN was best after epoch {best_epoch}, {100 * best:.1f} %, and ended at {100 * last:.1f} %: --train.keep "
            "best exports the weights of its best. Of few held-out images it jumps by itself.",
        )
    elif before and last - before[-1] > _RISING:
        yield Advice(
            "watch",
            f"Online kNN still rises: {100 * before[-1]:.1f} % after three quarters of the run, {100 * last:.1f} % at its end. "
            f"More epochs (--train.epochs, now {run.config.get('train.epochs')}) would help; so far it is too short.",
        )
    elif before:
        yield Advice(
            "good",
            f"Online kNN has levelled off at {100 * last:.1f} %, as it does where the learning rate falls to nothing; a longer "
            "run may still end higher.",
        )


def _score(run: RunRecord) -> Iterator[Advice]:
    for result in run.results:
        if not isinstance(result, ClosedResult) or "encoder" not in result.rows:
            continue
        score = result.rows["encoder"].linear
        worse = []
        for name in ("untrained", "raw pixels"):
            gain = result.comparison.get(f"encoder - {name}", {}).get("linear")
            if gain is not None and gain.interval is not None and gain.interval[0] <= 0:
                worse.append(name)
        if worse:
            yield Advice("act", _not_ahead(run, worse))
        low, high = score.interval
        if high - low > 0.1:
            yield Advice(
                "watch",
                f"The interval is {100 * (high - low):.0f} points wide, since there are few test images: a difference of a few "
                "points between two runs would be a matter of luck.",
            )
        if score.balanced_accuracy is not None and score.accuracy - score.balanced_accuracy > 0.05:
            yield Advice(
                "watch",
                f"Rare classes are recognised less: {100 * score.accuracy:.1f} % of the images, as a mean over classes "
                f"{100 * score.balanced_accuracy:.1f} %. Compare runs by the balanced figure.",
            )
        if result.rows["encoder"].knn.accuracy < score.accuracy - 0.1:
            yield Advice(
                "watch",
                f"Neighbours ({100 * result.rows['encoder'].knn.accuracy:.1f} %) are far behind the linear probe "
                f"({100 * score.accuracy:.1f} %): search by this encoder is worse than a classifier on it. Longer training and "
                "a lower --objective.temperature usually bring them together.",
            )
        for note in notes_on(result.to_dict()) if result.data.train is not None else []:  # as earlier versions wrote it
            kind: Literal["watch", "good"] = "good" if note.startswith("recognised of each class") else "watch"
            yield Advice(kind, note[0].upper() + note[1:] + ".")
        break


def _not_ahead(run: RunRecord, worse: list[str]) -> str:
    """That a run did not beat its baselines, and why that may be."""
    said = f"Not ahead of {' and '.join(worse)} by more than chance."
    steps = max((line["step"] for line in run.metrics), default=0)
    if steps < ENOUGH:
        said += (
            f" It is short: {steps:,} steps, where small sets go on gaining for thousands (docs/choosing.md). Train longer first "
            "(--train.epochs), with smaller views (--augment.size) or a smaller network where time is short: the preset "
            "folder-small has both."
        )
    else:
        said += (
            " See in views.png whether the views leave what the classes differ in (colour, size, direction): augmentation that "
            "takes it away teaches to ignore it."
        )
    return said + " Or begin with weights that have seen more: the preset adapt."
