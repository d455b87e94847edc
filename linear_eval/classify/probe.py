"""The linear probe: how much of the labels a linear classifier reads off frozen features.

The protocol, with nothing left to tune by hand:

1. standardise every feature by the mean and standard deviation of the training set; a constant feature becomes 0;
2. hold out a stratified tenth of the training set; a class with one image stays in training, and images of one group (the
   frames of a video) stay on one side;
3. fit L2-regularised multinomial logistic regression on the rest for every strength, all at once;
4. choose the strength of the best held-out accuracy (of equals the lower held-out cross-entropy);
5. refit on all of the training set at that strength; score the test set once.

This is how Chen et al. 2020 (appendix B.8) evaluate transfer, with the choice made on training data alone.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from linear_eval.classify.logistic import fit_logistic
from linear_eval.classify.result import LinearClassifier, ProbeResult, score_predictions
from linear_eval.features.arrays import Pair, as_features
from linear_eval.features.extract import Features, classes_to_fit
from linear_eval.features.rows import Rows, column_statistics, rows_of_each_class
from linear_eval.progress import default_device
from simclr.cores import threads_for
from simclr.data.groups import group_folds
from simclr.errors import ConfigError
from simclr.progress import progress as shown

__all__ = [
    "STRENGTHS",
    "held_out_parts",
    "held_out_rows",
    "linear_probe",
]

STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 1))
"""1e-6 to 1, two a decade. scikit-learn's C is 1 / (strength * N): at 50,000 images from 20 down to 2e-5."""

UNTUNED_STRENGTH = 1e-2
"""Used when nothing can be held out because no class has two images."""

_ENOUGH_HELD_OUT = 500


def held_out_rows(y: Tensor, share: float, seed: int, part: int = 0) -> Tensor:
    """A stratified part of the rows, bool (N,): of each class ``share`` of its rows, at least one and never all.

    Parts of other numbers have other rows; a class that has none left is missing from them.
    """
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(y), dtype=torch.bool)
    for _, rows in rows_of_each_class(y):
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        held_out[rows[torch.randperm(len(rows), generator=generator)[part * count : (part + 1) * count]]] = True
    return held_out


def held_out_parts(y: Tensor, share: float, seed: int, groups: Tensor | None = None) -> list[Tensor]:
    """As many disjoint parts as it takes to hold out 500 rows, or about all of them: one part of a large set.

    A choice by 24 images would be a matter of luck; by ten times as many, each held out once, it is less of one. With
    ``groups`` (N,), -1 for a group of its own, a part is of whole groups, see ``group_folds``.
    """
    parts: list[Tensor] = []
    if groups is not None and bool((groups >= 0).any()):
        folds = min(max(2, round(1 / share)), len(y))
        part_of = group_folds(y, groups, folds, seed)
        for fold in range(folds):
            if sum(int(part.sum()) for part in parts) >= _ENOUGH_HELD_OUT:
                break
            parts.append(part_of == fold)
        return [part for part in parts if part.any()]
    while len(parts) * share < 0.99 and sum(int(part.sum()) for part in parts) < _ENOUGH_HELD_OUT:
        part = held_out_rows(y, share, seed, len(parts))
        if not part.any():
            break
        parts.append(part)
    return parts


def _validate(rows: Rows, target: Tensor, held_out: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Right answers and cross-entropy (S,), summed over the held-out rows, of classifiers (S, C, F)."""
    strengths, classes, width = weight.shape
    right = torch.zeros(strengths, dtype=torch.float64, device=rows.device)
    entropy = torch.zeros_like(right)
    for part, x in rows.chunks(strengths * classes):
        chosen = held_out[part]
        if not chosen.any():
            continue
        z = torch.addmm(bias.reshape(-1, 1), weight.reshape(-1, width), x[chosen].t()).view(strengths, classes, -1)
        label = target[part][chosen]
        right += (z.argmax(1) == label).sum(1)
        entropy -= z.log_softmax(1).gather(1, label.expand(strengths, 1, -1)).sum((1, 2))
    return right, entropy


def _share_right(rows: Rows, target: Tensor, weight: Tensor, bias: Tensor) -> float:
    """Share of the rows that a classifier (C, F) recognises."""
    right = torch.zeros((), dtype=torch.int64, device=rows.device)
    for part, x in rows.chunks(len(bias)):
        right += (torch.addmm(bias.view(-1, 1), weight, x.t()).argmax(0) == target[part]).sum()
    return right.item() / rows.count


def linear_probe(
    train: Features | Pair,
    test: Features | Pair,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    validation: float = 0.1,
    device: torch.device | str | None = None,
    *,
    resamples: int = 10_000,
    tolerance: float = 1e-7,
    max_evaluations: int = 2000,
    progress: Callable[[str, int, int], None] | None = None,
) -> ProbeResult:
    """Fit a linear classifier on ``train`` by the protocol above and score it on ``test``, once.

    Args:
        train: labelled features, or a pair (x, y) of arrays, tensors or lists; labels need not be contiguous. Its ``groups``
            hold for the choice.
        test: labelled features of the same encoder. A class that ``train`` lacks counts as wrong, see ``unseen``.
        strengths: L2 strengths to try, each > 0; scikit-learn's C is 1 / (strength * N).
        seed: of the held-out part and of the bootstrap.
        validation: share of every class that is held out for the choice, in (0, 1).
        device: where to fit; by default CUDA where there is one.
        resamples: of the bootstrap.
        tolerance: relative distance to the optimum at which the final fit stops.
        max_evaluations: passes over the features at most, for the final fit; an eighth of it for the sweep.
        progress: called with ("sweep" or "fit", passes over the features, strengths still running).

    Raises:
        ConfigError: no strength, one that is not > 0, or a share outside (0, 1).
        DataError: no labels, fewer than two classes in training, non-finite features (naming the images), or features
            of different widths.
    """
    if not strengths or not all(0 < strength < float("inf") for strength in strengths):
        raise ConfigError(f"strengths are {tuple(strengths)}: expected at least one, each finite and > 0")
    if not 0 < validation < 1:
        raise ConfigError(f"validation is {validation}: expected a share of the training set in (0, 1)")
    train, test = as_features(train, "training"), as_features(test, "test")
    classes, target = classes_to_fit(train, test)
    with threads_for(train.x.numel() * len(strengths) * len(classes)):
        return _probe(
            train,
            test,
            classes,
            target,
            tuple(map(float, strengths)),
            seed,
            validation,
            default_device(device),
            resamples,
            tolerance,
            max_evaluations,
            progress,
        )


def _probe(
    train: Features,
    test: Features,
    classes: Tensor,
    target: Tensor,
    strengths: tuple[float, ...],
    seed: int,
    validation: float,
    device: torch.device,
    resamples: int,
    tolerance: float,
    max_evaluations: int,
    progress: Callable[[str, int, int], None] | None,
) -> ProbeResult:
    """``linear_probe`` of what was looked at: labels ``target`` (N,) are numbers of ``classes`` (C,)."""
    mean, scale = column_statistics(train.x)
    rows = Rows(train.x, mean=mean, scale=scale, device=device, mapped=train.mapped)
    target = target.to(device)
    sweep = torch.tensor(strengths, dtype=torch.float64)
    parts = held_out_parts(train.y, validation, seed, train.groups)
    held_out = sum(int(part.sum()) for part in parts)
    chosen, accuracies, start = len(strengths) // 2, (), None
    right, entropy = (torch.zeros(len(strengths), dtype=torch.float64, device=device) for _ in range(2))
    with shown("strengths of the linear probe", len(parts) * len(sweep), "fits") as fits:
        for number, part in enumerate(parts):

            def tell(evaluation: int, live: int, before: int = number * len(sweep)) -> None:
                fits(before + len(sweep) - live)
                if progress is not None:
                    progress("sweep", evaluation, live)

            mask = part.to(device)
            tried = fit_logistic(
                rows,
                target,
                len(classes),
                sweep,
                sample_weight=(~mask).float(),
                tolerance=1e-5,
                max_evaluations=max(1, max_evaluations // 8),
                progress=tell,
            )
            validated = _validate(rows, target, mask, tried.weight, tried.bias)
            for total, found in zip((right, entropy), validated, strict=True):
                total += found
    if parts:
        accuracies = tuple((right / held_out).tolist())
        best = (right == right.max()).nonzero().flatten()
        chosen = int(best[entropy[best].argmin()])
        start = tried.weight[chosen : chosen + 1], tried.bias[chosen : chosen + 1]
    elif len(strengths) > 1:
        chosen = min(range(len(strengths)), key=lambda i: abs(torch.log(sweep[i] / UNTUNED_STRENGTH)))
    fit = fit_logistic(
        rows,
        target,
        len(classes),
        sweep[chosen : chosen + 1],
        start=start,
        tolerance=tolerance,
        max_evaluations=max_evaluations,
        progress=None if progress is None else lambda done, live: progress("fit", done, live),
    )
    classifier = LinearClassifier(fit.weight[0].cpu(), fit.bias[0].cpu(), mean, scale, classes)
    return score_predictions(
        classifier.predict(test.x),
        test.y,
        train.y,
        resamples=resamples,
        seed=seed,
        chosen=strengths[chosen],
        strengths=strengths,
        validation=accuracies,
        held_out=held_out,
        train_accuracy=_share_right(rows, target, fit.weight[0], fit.bias[0]),
        objective=fit.objective.item(),
        converged=bool(fit.converged),
        classifier=classifier,
    )
