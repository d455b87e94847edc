"""Random negatives, and negatives drawn evenly over distance."""

from collections.abc import Callable

import torch
from torch import Tensor

from simclr.errors import ConfigError
from simclr.mining.tuples import Positives, Triplets, distances_and_labels, positive_table, widest
from simclr.numerics import in_transform, row_chunks

__all__ = ["distance_weighted", "distance_weights", "random_negatives"]

_SUNK = 1e30


def distance_weights(distances: Tensor, dimensions: int, cutoff: float = 0.5, nonzero_below: float = 1.4) -> Tensor:
    """Logarithm of the inverse density of distance between uniform points on the unit sphere in ``dimensions``.

    log w = -(D - 2) log d - (D - 3)/2 log(1 - d^2/4), with d clamped below at ``cutoff``, and -inf (weight 0) where
    d >= ``nonzero_below``. Wu et al. 2017, "Sampling Matters in Deep Embedding Learning", section 3.2. Any shape.

        >>> distance_weights(torch.tensor([0.1, 0.5, 1.0, 1.4]), dimensions=3)
        tensor([0.6931, 0.6931, -0.0000,   -inf])

    Raises `ConfigError` unless 0 < ``cutoff`` < ``nonzero_below`` < 2 and ``dimensions`` >= 2.
    """
    if not (0 < cutoff < nonzero_below < 2 and dimensions >= 2):
        raise ConfigError(
            f"distance weights need 0 < cutoff < nonzero_below < 2 and at least 2 dimensions, "
            f"got cutoff {cutoff}, nonzero_below {nonzero_below}, {dimensions} dimensions"
        )
    return _log_weights(distances, dimensions, cutoff, nonzero_below).masked_fill_(
        distances >= nonzero_below, -torch.inf
    )


def _log_weights(distances: Tensor, dimensions: int, cutoff: float, nonzero_below: float) -> Tensor:
    squared = distances.clamp(cutoff, nonzero_below).square_()
    log_weight = squared.log().mul_((2 - dimensions) / 2)
    # 1 - d^2/4 stays away from 1 (d >= cutoff): log1p, ten times slower on a CPU, would gain next to nothing.
    return log_weight.add_(squared.mul_(-0.25).add_(1).log_(), alpha=(3 - dimensions) / 2)


@torch.no_grad()
def distance_weighted(
    distances: Tensor,
    labels: Tensor,
    dimensions: int,
    *,
    cutoff: float = 0.5,
    nonzero_below: float = 1.4,
    generator: torch.Generator | None = None,
    anchors: Tensor | None = None,
    of_all: bool = False,
) -> Triplets:
    """One negative for every positive pair, drawn so that its distance is uniform over [``cutoff``, ``nonzero_below``).

    ``distances`` (A, N) are euclidean distances of unit vectors in ``dimensions``, of the samples ``anchors`` (A,), by
    default all N in order; ``labels`` (N,) int64. An anchor whose negatives all have weight 0 draws evenly from them;
    one without a negative has no valid triplet. ``generator``, on the device of ``distances``, makes draws repeatable;
    ``of_all`` draws for all N samples and keeps what falls to the ``anchors``, as several processes do that draw as one.

    The largest log-weight of each *row* is subtracted before exp. With the largest of the whole matrix, at D = 512, one
    close pair takes every other anchor's weights to zero.
    """
    distances, labels = distances_and_labels(distances, labels, anchors)
    distance_weights(distances[:0], dimensions, cutoff, nonzero_below)  # checks the settings

    def weights(block: Tensor, rows: slice, table: Positives) -> Tensor:
        log_weight = _log_weights(block, dimensions, cutoff, nonzero_below)
        # Negatives too far to draw sink by so much that float arithmetic forgets their weights: in a row without any
        # other they are equal, which is the even draw. The own class sinks deeper. Twice as fast as masks.
        far = torch.empty_like(block)
        far = (block >= nonzero_below).to(block.dtype) if in_transform() else torch.ge(block, nonzero_below, out=far)
        log_weight.sub_(far, alpha=_SUNK)
        log_weight = table.hide_own_class(log_weight, rows, -2 * _SUNK)
        weight = log_weight.sub_(log_weight.amax(1, keepdim=True)).clamp_(min=-80).exp_()  # exp is slow far below
        return torch.nn.functional.threshold(weight, 1e-30, 0.0, inplace=True)

    return _draw(distances, labels, weights, generator, anchors, of_all)


@torch.no_grad()
def random_negatives(
    distances: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator | None = None,
    anchors: Tensor | None = None,
    of_all: bool = False,
) -> Triplets:
    """One negative for every positive pair, each of the anchor's negatives equally likely. As `distance_weighted`."""
    distances, labels = distances_and_labels(distances, labels, anchors)
    return _draw(
        distances,
        labels,
        lambda block, rows, table: table.hide_own_class(torch.ones_like(block), rows, 0),
        generator,
        anchors,
        of_all,
    )


def _draw(
    distances: Tensor,
    labels: Tensor,
    weights: Callable[[Tensor, slice, Positives], Tensor],
    generator: torch.Generator | None,
    anchors: Tensor | None,
    of_all: bool,
) -> Triplets:
    """One negative for every positive pair by inverting the cumulative sum of ``weights(block, rows, table)``.

    ``torch.multinomial`` would check its input on the host, which waits for the GPU.
    """
    table = positive_table(labels, anchors)
    negative = distances.new_zeros(table.samples.shape, dtype=torch.int64)
    size, width = table.samples.shape
    drawn = (size, width) if anchors is None or not of_all else (len(labels), widest(labels))
    uniform = torch.rand(drawn, dtype=distances.dtype, device=distances.device, generator=generator)
    if anchors is not None and of_all:
        uniform = uniform[anchors, :width]
    if width == 0:
        return Triplets(table.samples, negative, table.valid)
    for rows in row_chunks(size, len(labels), distances.device):
        weight = weights(distances[rows], rows, table)
        cumulative = weight.cumsum(1)
        total = cumulative[:, -1:]
        # Below the total, and past every sum that equals it: no draw lands on a weight of 0.
        target = torch.minimum(uniform[rows] * total, torch.nextafter(total, torch.zeros_like(total)))
        choice = torch.searchsorted(cumulative, target, right=True).clamp_(max=len(labels) - 1)
        if weight.device.type != "cpu":
            # A parallel cumulative sum may step down by its rounding: a draw that falls there takes the heaviest.
            choice = choice.where(weight.gather(1, choice) > 0, weight.argmax(1, keepdim=True))
        negative[rows] = choice
    return Triplets(table.samples, negative, table.valid & (table.negatives(len(labels)) > 0).unsqueeze(1))
