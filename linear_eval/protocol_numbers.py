"""The evaluation on numbers: one encoder, the same encoder untrained, raw pixels and the mean, by ridge regression."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from linear_eval.beside import refuse_equal_names
from linear_eval.classify.ridge import ALPHAS, Numbers, error_figures, ridge_predictions
from linear_eval.config import AUTOCAST, EvalConfig
from linear_eval.features.extract import check_features
from linear_eval.features.frozen import frozen
from linear_eval.features.images import image_shape
from linear_eval.features.kept import Kept, features_of
from linear_eval.features.pixels import RawPixels, affordable_size
from linear_eval.metrics import mean_interval
from linear_eval.progress import Progress, default_device, environment
from linear_eval.results import EncoderFacts, Gain, Hardware, Part
from linear_eval.results_numbers import NumberProbeRow, NumbersResult, PredictedData
from linear_eval.verdict import verdict_on_numbers
from simclr.data import ImageSet
from simclr.errors import DataError

__all__ = ["ALWAYS_THE_MEAN", "evaluate_numbers"]

ALWAYS_THE_MEAN = "always the mean"
"""What the row is called that says the mean of the training set's numbers of every test image."""


def evaluate_numbers(
    encoder: nn.Module,
    untrained: nn.Module | None,
    train_set: ImageSet,
    test_set: ImageSet,
    config: EvalConfig | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    beside: Mapping[str, tuple[nn.Module, Callable[[], tuple[ImageSet, ImageSet]] | None]] | None = None,
    kept: Kept | None = None,
) -> tuple[dict[str, Any], Numbers, Numbers]:
    """Score ``encoder`` beside ``untrained``, raw pixels and the mean of training on images that have a number each.

    Args:
        encoder: images (B, C, H, W), uint8 or in [0, 1] -> (B, F).
        untrained: the same architecture with its initial weights; None leaves the row out.
        train_set, test_set: images with ``values`` and without labels. Images without a number are left out and counted.
        config: batch size, precision, workers, seed and pixel size count.
        device: where to run the encoder; by default CUDA where there is one.
        progress: called with one line before each part.
        beside: further encoders, as in ``linear_eval.protocol.evaluate``.
        kept: as there.

    Returns:
        What ``result.json`` holds (see ``NumbersResult``), the numbers of the test images (M,) and the encoder's
        predictions (M,).

    Raises:
        DataError: fewer than two training images or no test image with a number, or features that are not finite.
    """
    config = EvalConfig() if config is None else config
    device = default_device(device)
    show: Progress = progress if progress is not None else lambda _: None
    began = time.perf_counter()
    known = _known(train_set, kept), _known(test_set, kept)
    if len(known[0]) < 2 or not len(known[1]):
        raise DataError(
            f"{len(known[0])} training and {len(known[1])} test images have a number: a regression needs at least 2 and 1"
        )
    target, truth = map(_numbers, known)
    further = {} if beside is None else dict(beside)
    refuse_equal_names(list(further))
    encoders: dict[str, nn.Module] = {"encoder": encoder, **{name: module for name, (module, _) in further.items()}}
    encoders |= {} if untrained is None else {"untrained": untrained}
    encoders["raw pixels"] = raw = RawPixels(config.pixel_size)
    digests: dict[str, str] = {}
    rows: dict[str, NumberProbeRow] = {}
    predictions: dict[str, Numbers] = {}
    for name, module in encoders.items():
        started = time.perf_counter()
        show(f"{name}: features of {len(known[0])} training and {len(known[1])} test images, ridge regression")
        if module is raw:
            raw.bound = affordable_size(config.pixel_size, image_shape(known[0]), rows["encoder"].features, len(target))
        fed = further.get(name, (None, None))[1]
        parts = known if fed is None else tuple(_known(images, kept) for images in fed())
        if not all(np.array_equal(_numbers(a), _numbers(b)) for a, b in zip(parts, known, strict=True)):
            raise DataError(f"the images of the row {name!r} are not those of the others")
        autocast = None if module is raw else AUTOCAST[config.precision]
        with frozen(module) as digests[name]:
            train, test = (
                features_of(
                    kept, name, module, images, config.batch_size, device, workers=config.workers, autocast=autocast
                )
                for images in parts
            )
        check_features(train, "training", labelled=False)
        check_features(test, "test", labelled=False)
        predictions[name], alpha = ridge_predictions(train, target, test)
        rows[name] = NumberProbeRow(
            **error_figures(predictions[name], truth, seed=config.seed),  # type: ignore[arg-type]  # by name
            alpha=alpha,
            features=train.x.shape[1],
            seconds=round(time.perf_counter() - started, 2),
        )
    predictions[ALWAYS_THE_MEAN] = np.full(len(truth), target.mean())
    rows[ALWAYS_THE_MEAN] = NumberProbeRow(
        **error_figures(predictions[ALWAYS_THE_MEAN], truth, seed=config.seed)  # type: ignore[arg-type]  # by name
    )
    errors = {name: np.abs(predicted - truth) for name, predicted in predictions.items()}
    comparison = {
        f"encoder - {name}": _gain(errors["encoder"], other) for name, other in errors.items() if name != "encoder"
    }
    run_on = environment(device)
    result = NumbersResult(
        rows=rows,
        comparison=comparison,
        verdict=verdict_on_numbers(rows, comparison),
        protocol={
            "linear": f"ridge regression in float64 on frozen features, standardised by the training set; {len(ALPHAS)} "
            f"strengths from {ALPHAS[0]:g} to {ALPHAS[-1]:g}, chosen by leaving each training image out in turn; "
            f"{len(truth)} test images predicted once",
            "interval": "95 % percentile bootstrap over test images",
            "raw pixels": f"pixels in [0, 1], averaged down to {raw.bound} x {raw.bound} where larger",
        },
        data=PredictedData(train=_part(train_set, known[0]), test=_part(test_set, known[1])),
        encoder=EncoderFacts(
            sha256=digests["encoder"],
            features=rows["encoder"].features,
            parameters=sum(p.numel() for p in encoder.parameters()),
            size=getattr(encoder, "size", None),
        ),
        beside={
            name: EncoderFacts(
                sha256=digests[name],
                features=rows[name].features or 0,
                parameters=sum(p.numel() for p in module.parameters()),
                size=getattr(module, "size", None),
            )
            for name, (module, _) in further.items()
        }
        or None,
        versions=run_on["versions"],
        hardware=Hardware(**run_on["hardware"]),
        seconds=round(time.perf_counter() - began, 2),
    )
    return result.to_dict(), truth, predictions["encoder"]


def _known(images: ImageSet, kept: Kept | None) -> ImageSet:
    return images.labelled() if kept is None else kept.labelled(images)


def _numbers(images: ImageSet) -> Numbers:
    assert images.values is not None
    return images.values.double().numpy()


def _gain(mine: Numbers, other: Numbers) -> Gain:
    gain = other - mine
    return Gain(difference=float(gain.mean()), interval=mean_interval(gain))


def _part(images: ImageSet, known: ImageSet) -> Part:
    return Part(name=images.name, images=len(images), without_label_left_out=len(images) - len(known))
