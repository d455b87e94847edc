"""How true the probabilities of a classifier are, and the temperature that makes those of a softmax truer."""

from torch import Tensor
from torch.nn import functional as F

from linear_eval.classify.reliability import answer_reliability, reliability

__all__ = ["certainty", "fit_temperature"]


def certainty(logits: Tensor, labels: Tensor, *, sigmoids: bool = False) -> tuple[float, float]:
    """Cross-entropy and expected calibration error of ``logits`` (N, C) against ``labels`` (N,) in [0, C).

    They are those of a softmax, or where every class is a sigmoid of its own the sum of the binary cross-entropies, and
    the error of the highest sigmoid as the confidence.

    >>> import torch
    >>> even, labels = torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])
    >>> [round(figure, 3) for figure in (*certainty(even, labels), *certainty(even, labels, sigmoids=True))]
    [0.693, 0.0, 1.386, 0.0]
    """
    if not sigmoids:
        return F.cross_entropy(logits, labels).item(), reliability(logits.softmax(1), labels).error
    confidence, predicted = logits.sigmoid().max(1)
    wanted = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum").item() / len(labels)
    return entropy, answer_reliability(confidence, predicted == labels).error


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T > 0 of the least cross-entropy of ``logits`` (N, C) / T against ``labels`` (N,): Guo et al. 2017, eq. 9.

    Cross-entropy is convex in 1 / T; the minimum is found by bisection of its slope, in [1/100, 100]. Where every label
    has the highest logit there is none, any more certainty is better: T is 1 then, since nothing was learned of it.

    >>> import torch
    >>> sure_and_right_half_the_time = torch.tensor([[10.0, 0.0]] * 4)
    >>> fit_temperature(sure_and_right_half_the_time, torch.tensor([0, 1, 0, 1])) > 50
    True
    """
    logits = logits.double()
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    if bool((own == logits.max(1).values).all()):
        return 1.0
    low, high = 0.01, 100.0  # of 1 / T
    for _ in range(60):
        middle = (low * high) ** 0.5
        slope = ((logits * (middle * logits).softmax(1)).sum(1) - own).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 1 / (low * high) ** 0.5
