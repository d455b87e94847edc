"""The evaluation: one encoder, the same encoder untrained, and raw pixels, through the same scores.

A number of its own says little: 0.45 on CIFAR-10 is what raw pixels give. Every score of the encoder therefore stands
beside those two, with an interval, and the result says in words how it was taken.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from linear_eval.beside import TwoParts, refuse_equal_names
from linear_eval.config import EvalConfig
from linear_eval.features.frozen import frozen
from linear_eval.features.images import SizedImages, all_labels, image_shape
from linear_eval.features.kept import Kept
from linear_eval.features.pixels import RawPixels, affordable_size
from linear_eval.metrics import paired_difference
from linear_eval.progress import Progress, default_device, environment
from linear_eval.protocol_row import Answered, Scored, class_names, refuse_other_classes, score_row
from linear_eval.protocol_words import in_words
from linear_eval.results import (
    ClosedData,
    ClosedResult,
    ClosedRow,
    EncoderFacts,
    Gain,
    Hardware,
    Part,
)
from linear_eval.verdict import always_the_commonest, verdict
from simclr.errors import DataError

__all__ = ["EvalConfig", "evaluate"]


def evaluate(
    encoder: nn.Module,
    untrained: nn.Module | None,
    train_set: SizedImages,
    test_set: SizedImages,
    config: EvalConfig | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    beside: Mapping[str, tuple[nn.Module, TwoParts | None]] | None = None,
    answered: Callable[[Answered], None] | None = None,
    kept: Kept | None = None,
) -> dict[str, Any]:
    """Score ``encoder`` beside ``untrained`` and raw pixels on a labelled training and test set.

    Args:
        encoder: images (B, C, H, W), uint8 or in [0, 1] -> (B, F).
        untrained: the same architecture with its initial weights; None leaves the row out.
        train_set: labelled images. Single images without a label are left out and counted.
        test_set: labelled images with the same meaning of the labels, none of them in ``train_set``.
        config: the protocol; the default one if None.
        device: where to run; by default CUDA where there is one.
        progress: called with one line before each part.
        beside: further encoders by the name of their row, each with what gives the same images, in the same order, as
            that encoder is fed them; None for the very same sets.
        answered: called with each row's features and answers, once they are there.
        kept: what has features of earlier commands, and keeps those that are taken; None takes all, and keeps none.

    Returns:
        A JSON-able dictionary: ``rows`` ("encoder", those of ``beside``, "untrained", "raw pixels"), each with
        ``linear``, ``knn`` and ``few_labels``; ``comparison`` of the encoder with each other row on the same test images;
        ``protocol`` in words; ``config``, ``data``, ``encoder``, ``versions``, ``hardware`` and ``seconds``.

    Raises:
        ConfigError: a row of ``beside`` with the name of another one.
        DataError: a set without labels, fewer than two classes, none of the test set's among those of the training set,
            features that are not finite, images of a row of ``beside`` that are not the same.
        RuntimeError: the encoder changed its own state.
    """
    config = EvalConfig() if config is None else config
    device = default_device(device)
    for name, images in (("training", train_set), ("test", test_set)):
        labels = all_labels(images)
        if len(images) == 0 or (labels is not None and (labels < 0).all()):
            raise DataError(f"the {name} set has {len(images)} images and no labels: evaluation needs a labelled set")
    known = [all_labels(images) for images in (train_set, test_set)]
    if known[0] is not None and known[1] is not None:
        refuse_other_classes(known[0], known[1], class_names(train_set))
    began = time.perf_counter()
    further = {} if beside is None else dict(beside)
    refuse_equal_names(list(further))
    encoders: dict[str, nn.Module] = {"encoder": encoder, **{name: module for name, (module, _) in further.items()}}
    if untrained is not None:
        encoders["untrained"] = untrained
    encoders["raw pixels"] = raw = RawPixels(config.pixel_size)
    digests: dict[str, str] = {}
    rows: dict[str, ClosedRow] = {}
    answers: dict[str, dict[str, np.ndarray]] = {}
    counts: dict[str, int] = {}
    scored: Scored | None = None
    took: dict[str, tuple[float, int]] = {}
    for name, module in encoders.items():
        if module is raw:
            raw.bound = affordable_size(
                config.pixel_size, image_shape(train_set), rows["encoder"].features, len(train_set)
            )
        _, fed = further.get(name, (None, None))
        parts = (train_set, test_set) if fed is None else fed()
        with frozen(module) as digests[name]:  # one proof for all that is scored in this row
            rows[name], answers[name], counts, found = score_row(
                name, module, *parts, config, device, progress, took, answered, kept
            )
        if scored is not None:
            _refuse_other_images(name, scored, found)
        scored = found
    assert scored is not None
    run_on = environment(device)
    comparison = {f"encoder - {name}": _compare(rows, answers, name, config) for name in rows if name != "encoder"}
    commonest = always_the_commonest(scored.train, scored.test, resamples=config.resamples, seed=config.seed)
    return ClosedResult(
        rows=rows,
        commonest=commonest,
        comparison=comparison,
        verdict=verdict(rows, comparison, commonest),
        protocol=in_words(config, counts, raw.bound, bool(further)),
        config=config,
        data=_describe(train_set, test_set, counts, scored.near_copies),
        encoder=EncoderFacts(
            sha256=digests["encoder"],
            features=rows["encoder"].features,
            parameters=sum(p.numel() for p in encoder.parameters()),
            size=getattr(encoder, "size", None),
        ),
        beside={
            name: EncoderFacts(
                sha256=digests[name],
                features=rows[name].features,
                parameters=sum(p.numel() for p in module.parameters()),
                size=getattr(module, "size", None),
            )
            for name, (module, _) in further.items()
        }
        or None,
        versions=run_on["versions"],
        hardware=Hardware(**run_on["hardware"]),
        seconds=round(time.perf_counter() - began, 2),
    ).to_dict()


def _refuse_other_images(name: str, scored: Scored, found: Scored) -> None:
    if not (torch.equal(scored.train, found.train) and torch.equal(scored.test, found.test)):
        raise DataError(
            f"the images of the row {name!r} are not those of the others: {len(found.train)} and {len(found.test)} with a "
            f"label, expected the same {len(scored.train)} and {len(scored.test)} in the same order"
        )


def _compare(
    rows: dict[str, ClosedRow], answers: dict[str, dict[str, np.ndarray]], other: str, config: EvalConfig
) -> dict[str, Gain]:
    """The encoder minus another row: on the same test images, and on the same draws of few labels."""
    found: dict[str, Gain] = {}
    for measure, mine in answers["encoder"].items():
        pair = paired_difference(mine, answers[other][measure], resamples=config.resamples, seed=config.seed)
        found[measure] = Gain(**pair)
    theirs = rows[other].few_labels or {}
    for setting, score in (rows["encoder"].few_labels or {}).items():
        gains = np.subtract(score.accuracies, theirs[setting].accuracies)
        found[setting] = Gain(
            difference=float(gains.mean()),
            std=float(gains.std(ddof=1)) if len(gains) > 1 else 0.0,
            draws_won=int((gains > 0).sum()),
        )
    return found


def _describe(train_set: SizedImages, test_set: SizedImages, counts: dict[str, int], copies: int | None) -> ClosedData:
    def part(images: SizedImages, name: str) -> Part:
        return Part(
            name=str(getattr(images, "name", type(images).__name__)),
            images=counts[name],
            without_label_left_out=counts[name] - counts[f"{name} labelled"],
        )

    return ClosedData(
        train=part(train_set, "train"),
        test=replace(part(test_set, "test"), near_copies=copies),
        classes=class_names(train_set),
    )
