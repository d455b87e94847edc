"""Few labels: what a linear classifier reaches when only some of the training images are labelled.

Each draw labels k images of every class, or a share of every class, and fits the probe's logistic regression on them.
Nothing can be held out of one image a class, so nothing is chosen: the prior on the weights is the same for every
encoder, data set and number of labels, scikit-learn's ``LogisticRegression(C=0.1)``, a strength of ``10 / labels`` in
``linear_eval.classify.logistic``. Measured on the pixels of digits and on the pixels and convolutional features (trained and
not) of CIFAR-10, this C is within 2 points of the best of 0.01, 0.03, 0.1, 0.3 and 1 in every setting but digits with
14 labels in all, where it is 3.4 points below. Features are standardised by the statistics of *all* training images:
those need no labels, and ten images say little about a standard deviation.

The draws depend on the labels and the seed only, and are nested (the one-label set is part of the five-label set of the
same draw), so the scores of two encoders are paired: compare them draw by draw. Where images come in groups (the frames
of a video), the k images of a class are of k groups, as far as it has so many: a second frame is no second label.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linear_eval.classify.logistic import fit_logistic
from linear_eval.classify.result import LinearClassifier
from linear_eval.features.arrays import Pair, as_features
from linear_eval.features.extract import Features, classes_to_fit
from linear_eval.features.rows import Rows, column_statistics, rows_of_each_class
from linear_eval.progress import default_device
from simclr.cores import threads_for
from simclr.data.groups import one_of_each_group_first
from simclr.errors import ConfigError
from simclr.progress import each

__all__ = ["FEW_LABEL_C", "draw_rows", "few_labels", "share_name"]

FEW_LABEL_C = 0.1
"""Variance of the Gaussian prior on the weights of every few-label fit: scikit-learn's C."""


def draw_rows(
    y: Tensor,
    trial: int,
    seed: int,
    *,
    per_class: int | None = None,
    share: float | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """Rows (int64) of one draw: of every class the first of a permutation that only labels, groups, seed and trial decide.

    A class gives ``per_class`` rows, or ``share`` of its rows and at least one; all it has if it has fewer. With ``groups``
    (N,), -1 for a group of its own, a second row of a group comes after one of each other.
    """
    rows = []
    for label, own in rows_of_each_class(y):
        order = own[torch.from_numpy(np.random.default_rng([seed, trial, label]).permutation(len(own)))]
        if groups is not None:
            order = one_of_each_group_first(order, groups)
        if per_class is not None:
            count = per_class
        else:
            assert share is not None
            count = max(1, round(share * len(own)))
        rows.append(order[:count])
    return torch.cat(rows)


def share_name(share: float) -> str:
    """What a share of the labels is called, here and in ``result.json``.

    >>> share_name(0.01), share_name(0.125), share_name(1.0)
    ('1 %', '12.5 %', '100 %')
    """
    return f"{100 * share:g} %"


def few_labels(
    train: Features | Pair,
    test: Features | Pair,
    per_class: Sequence[int] = (1, 5, 10),
    trials: int = 10,
    seed: int = 0,
    *,
    fractions: Sequence[float] = (0.01, 0.1),
    c: float = FEW_LABEL_C,
    device: torch.device | str | None = None,
) -> dict[int | str, dict[str, Any]]:
    """Accuracy on ``test`` with few labels, mean and standard deviation over draws.

    Args:
        train: labelled features, or a pair (x, y) as for ``linear_probe``; each draw hides all labels but a few.
        test: labelled features.
        per_class: labels a class.
        trials: draws.
        seed: of the draws.
        fractions: shares of every class that are labelled, in (0, 1]; at least one image of each.
        c: inverse strength of the L2 penalty, scikit-learn's C.
        device: where to fit; by default CUDA where there is one.

    Returns:
        For each k of ``per_class`` (key k) and each share of ``fractions`` (key ``share_name(share)``, such as "10 %"):
        ``mean``, ``std`` (of the draws, with the divisor trials - 1; 0 for one draw), ``accuracies`` of all draws and
        the number of labelled ``images``. A share goes by its name because 1.0, all labels, and 1, one label a class,
        are the same key of a dictionary.

    Raises:
        ConfigError: a number of labels, share, c or number of draws that makes no sense.
        DataError: as ``linear_probe``.
    """
    if trials < 1 or any(k < 1 for k in per_class) or any(not 0 < share <= 1 for share in fractions) or c <= 0:
        raise ConfigError(
            f"per_class={tuple(per_class)}, fractions={tuple(fractions)}, trials={trials}, c={c}: "
            "expected labels a class >= 1, shares in (0, 1], at least one draw and c > 0"
        )
    train, test = as_features(train, "training"), as_features(test, "test")
    classes, target = classes_to_fit(train, test)
    device = default_device(device)
    mean, scale = column_statistics(train.x)
    test_rows = Rows(test.x, mean=mean, scale=scale, device=device, mapped=test.mapped)
    results: dict[int | str, dict[str, Any]] = {}
    settings: list[tuple[int | str, dict[str, Any]]] = [(k, {"per_class": k}) for k in per_class]
    settings += [(share_name(share), {"share": share}) for share in fractions]
    draws = each([trial for _ in settings for trial in range(trials)], "few labels", unit="draws")
    for key, setting in settings:
        accuracies = []
        images = 0
        for trial in islice(draws, trials):
            rows = draw_rows(train.y, trial, seed, groups=train.groups, **setting)
            with threads_for(len(rows) * train.x.shape[1] * len(classes)):
                fit = fit_logistic(
                    Rows(train.x, mean=mean, scale=scale, device=device, index=rows),
                    target[rows],
                    len(classes),
                    torch.tensor([1 / (c * len(rows))], dtype=torch.float64),
                    tolerance=1e-5,
                )
            classifier = LinearClassifier(
                fit.weight[0],
                fit.bias[0],
                torch.zeros(1, device=device),
                torch.ones(1, device=device),
                classes.to(device),
            )
            right = sum(
                int((classifier.predict(x).cpu() == test.y[part]).sum()) for part, x in test_rows.chunks(len(classes))
            )
            accuracies.append(right / len(test))
            images = len(rows)
        results[key] = {
            "mean": float(np.mean(accuracies)),
            "std": float(np.std(accuracies, ddof=1)) if trials > 1 else 0.0,
            "accuracies": accuracies,
            "images": images,
        }
    return results
