"""Is it working? Figures that tell learning from collapse, taken once an epoch, and the words to go with them."""

import math
from itertools import combinations, islice

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr.distributed import rank, sum_over_ranks, world_size
from simclr.numerics import float32_products, row_chunks, wide_dtype

__all__ = ["contrastive_diagnostics", "effective_rank", "linear_cka", "warnings_in_words"]


@torch.no_grad()
def contrastive_diagnostics(views: Tensor, features: Tensor) -> dict[str, float]:
    """What the embeddings of one batch look like. Waits for the device: call it once an epoch.

    On several processes all must call it, with the same gathered ``views``: they share the work. Nothing of the size
    of all pairs is ever held.

    Args:
        views: embeddings z (V, B, D) of V views of B images, of all processes together.
        features: the encoder's features h (V * B, F).

    Returns:
        ``contrastive_top1``: share of rows whose nearest row of all others is another view of the same image.
        ``alignment``: mean squared distance of two views of an image, and ``uniformity``: log mean exp(-2 d^2) over
        all pairs of rows (Wang & Isola 2020, eq. 2 and 3), both on the unit sphere; lower is better for both.
        ``effective_rank``: of the features (RankMe, Garrido et al. 2023, eq. 1).
        ``feature_spread``: mean over dimensions of the standard deviation of normalised z, times sqrt(D): 1 when
        spread evenly, 0 at collapse (Chen & He 2021, fig. 2). With one view of every image there is no other to compare
        it with, and the first two are left out.
    """
    n_views, batch, dim = views.shape
    unit = F.normalize(views.float(), dim=-1)  # (V, B, D)
    rows = unit.flatten(0, 1)  # (V*B, D)
    image = torch.arange(batch, device=rows.device).repeat(n_views)
    nearest, nearness = _compared(rows, image)
    pairs = max(1, len(rows) * (len(rows) - 1))
    compared = {}
    if n_views > 1:
        apart = [(unit[v] - unit[w]).square().sum(-1).mean() for v, w in combinations(range(n_views), 2)]
        compared = {"contrastive_top1": nearest / len(rows), "alignment": torch.stack(apart).mean()}
    figures = {
        **compared,
        "uniformity": torch.log(nearness / pairs),
        "effective_rank": effective_rank(features),
        "feature_spread": rows.std(dim=0).mean() * math.sqrt(dim),
    }
    names, values = list(figures), torch.stack([value.float() for value in figures.values()])
    return dict(zip(names, values.tolist()))


def _compared(rows: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """How many ``rows`` (N, D) have a row of their ``image`` (N,) for the nearest, and the sum of exp(-2 d^2) over all pairs.

    A block of rows against all of them at a time, so that memory grows with N, as that of the tiled loss does; the
    blocks are dealt out to the processes, all of which must call this with the same rows.
    """
    sums = torch.zeros(2, dtype=wide_dtype(rows.device), device=rows.device)
    with float32_products():
        for block in islice(row_chunks(len(rows), len(rows), rows.device), rank(), None, world_size()):
            cosines = rows[block] @ rows.T
            cosines.diagonal(block.start).fill_(-math.inf)  # no row is its own neighbour, and exp turns it into 0
            own = (image[cosines.argmax(dim=1)] == image[block]).sum()
            squared = cosines.mul_(-2).add_(2).clamp_min_(0)
            sums += torch.stack([own, squared.mul_(-2).exp_().sum(dtype=sums.dtype)])
    nearest, nearness = sum_over_ranks(sums).unbind()
    return nearest, nearness


@torch.no_grad()
def effective_rank(features: Tensor) -> Tensor:
    """RankMe: exp of the entropy of the normalised singular values of ``features`` (N, F) (Garrido et al. 2023, eq. 1).

    >>> round(effective_rank(torch.eye(4)).item(), 3)
    4.0
    """
    if not features.isfinite().all():  # of a step that was skipped; a decomposition would not converge
        return features.new_full((), math.nan)
    singular = torch.linalg.svdvals(features.float())
    shares = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny) + 1e-7
    return torch.exp(-(shares * shares.log()).sum())


@torch.no_grad()
def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of features x (N, F) and y (N, G) of the same N images: 1 where they differ by rotation and scale alone.

    Kornblith et al. 2019, eq. 1 and 2, with the unbiased estimate of HSIC (Song et al. 2012, eq. 5; Nguyen et al. 2021): that
    of the paper tends to 1 for any two features that have more dimensions than there are images. Of unrelated features it is
    about 0, below it too. NaN for fewer than 4 images, and where one side is constant. Computed in float64 on the CPU.

    >>> x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    >>> round(linear_cka(x, 3 * x.flip(1)), 6)
    1.0
    """
    if len(x) < 4:
        return math.nan
    grams = []
    for features in (x, y):
        centred = features.double().cpu()
        centred = centred - centred.mean(0)  # changes no HSIC, and keeps digits
        grams.append((centred @ centred.T).fill_diagonal_(0))
    k, m = grams
    cross, own_x, own_y = _hsic(k, m), _hsic(k, k), _hsic(m, m)
    return (cross / (own_x.clamp_min(0) * own_y.clamp_min(0)).sqrt()).item()


def _hsic(k: Tensor, m: Tensor) -> Tensor:
    """The unbiased estimate of HSIC of Gram matrices (N, N) whose diagonals are 0, but for its factor N (N - 3)."""
    n, k_sums, m_sums = len(k), k.sum(0), m.sum(0)
    return (k * m).sum() + k_sums.sum() * m_sums.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k_sums @ m_sums)


def warnings_in_words(figures: dict[str, float], loss: float, chance: float | None) -> dict[str, str]:
    """Plain sentences for figures that mean trouble, by its kind; empty when all is well.

    Args:
        figures: of ``contrastive_diagnostics``.
        loss: mean loss of the epoch.
        chance: the loss of a head that tells nothing from anything, such as ln(N - 1) of N rows that the loss compares; None
            where that is not known, as of losses on labels, whose features may well have as few dimensions as there are
            classes.
    """
    warnings = {}
    if chance is not None and abs(loss - chance) < 0.02 * chance:
        warnings["guessing"] = (
            f"the loss {loss:.3f} sits at {chance:.3f}, which is guessing: the head tells no image "
            f"from another. If it stays there, lower the learning rate or lengthen the warm-up, and look at views.png"
        )
    low_rank = chance is not None and figures["effective_rank"] < 2
    if low_rank or figures["feature_spread"] < 0.05:
        warnings["collapse"] = (
            f"training is collapsing (effective rank of the features {figures['effective_rank']:.1f}, spread of the embeddings z "
            f"{figures['feature_spread']:.3f}): all images come out nearly alike. Lower the learning rate"
        )
    return warnings
