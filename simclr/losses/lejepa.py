"""LeJEPA: the views of an image together, and the images spread as a standard normal has them. It needs no negatives.

Balestriero, LeCun 2025, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics" (arXiv 2511.08544).
z_vb, not normalised, is the embedding of view v of image b, a_m a random direction of length 1, anew at every step:

    loss = (1 - weight) inv + weight sig
    inv  = mean over v, b, d of (z_vbd - mean_w z_wbd)^2
    sig  = mean over v, m of B * integral from -3 to 3 of |phi_vm(t) - e^(-t^2/2)|^2 e^(-t^2/2) dt
    phi_vm(t) = mean over b of e^(i t a_m . z_vb)

sig is SIGReg, the statistic of Epps and Pulley (1983) for whether a sample is of a standard normal, along each direction and for
each view by itself. The integrand is even: the trapezoid rule on [0, 3], doubled. A sample that is of a standard normal has
1.05 on average, however many images there are; a single point at the origin 0.40 B.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from simclr.errors import require
from simclr.losses.arguments import Kind
from simclr.losses.batch import EmbeddedBatch
from simclr.losses.loss import Loss, LossConfig
from simclr.losses.share import ALONE, Share
from simclr.numerics import float32_products, full_precision, in_forward_mode, row_chunks, wide_dtype

__all__ = ["LeJEPAConfig", "SIGRegLoss", "sigreg"]

_LAST_KNOT = 3.0


@dataclass(frozen=True, kw_only=True)
class LeJEPAConfig(LossConfig):
    """LeJEPA on views of unlabelled images: views agree, images are spread normally (Balestriero, LeCun 2025)."""

    name: ClassVar[str] = "lejepa"

    weight: float = 0.02
    """Weight lambda of SIGReg; the agreement of the views has 1 - lambda. The paper has 0.01 to 0.1."""

    slices: int = 256
    """Random directions along which the embeddings are compared with a standard normal, anew at every step."""

    knots: int = 17
    """Points on [0, 3] at which the characteristic functions are compared."""

    def __post_init__(self) -> None:
        _check(self.weight, self.slices, self.knots, "objective.")

    def build(self, num_classes: int, dim: int, num_samples: int) -> "SIGRegLoss":
        """The module; none of the numbers matters to it."""
        return SIGRegLoss(self.weight, self.slices, self.knots)


def _check(weight: float, slices: int, knots: int, prefix: str = "") -> None:
    require(0 <= weight <= 1, f"{prefix}weight", weight, "a share, 0 to 1")
    require(1 <= slices <= 1 << 20, f"{prefix}slices", slices, f"at least 1, at most {1 << 20}")
    require(2 <= knots <= 1 << 10, f"{prefix}knots", knots, f"at least 2, at most {1 << 10}")


def sigreg(
    z: Annotated[Tensor, "float V B D"], slices: int = 256, knots: int = 17, seed: int = 0
) -> Annotated[Tensor, "float"]:
    """SIGReg of embeddings `z` (V, B, D), V >= 1: how far each view's B rows are from a standard normal's, a scalar.

    Computed in float32, in float64 for float64. The directions are drawn from `seed` alone. On several processes, gather the
    rows with gradient first: means of cosines and sines are not those of a part. Memory and time grow with V * B, not with
    its square; a row that is not finite makes it NaN.

    Raises:
        TypeError: `z` is not floating point.
        ValueError: `z` is not (V, B, D) with at least one of each.

    >>> z = torch.randn(1, 5000, 8, generator=torch.Generator().manual_seed(0))  # its mean over samples is 1.05
    >>> 0.7 < sigreg(z).item() < 1.5, sigreg(2 * z).item() > 100, sigreg(0 * z).item() > 1000
    (True, True, True)
    """
    return _sigreg(z, slices, knots, seed, ALONE)


def _sigreg(z: Tensor, slices: int, knots: int, seed: int, share: Share) -> Tensor:
    z = _checked(z, least=1)
    with torch.autocast(z.device.type, enabled=False):
        directions = _drawn(z.shape[-1], slices, seed, z.device).to(z.dtype)  # (D, M)
        directions = directions / directions.norm(dim=0)
        knot = torch.linspace(0, _LAST_KNOT, knots, dtype=z.dtype, device=z.device)  # (K,)
        normal = (-knot.square() / 2).exp()  # the characteristic function of a standard normal, and the weight
        step = _LAST_KNOT / (knots - 1)
        weight = 2 * step * normal * torch.where((knot == 0) | (knot == _LAST_KNOT), 0.5, 1.0)
        with float32_products():
            x = z @ directions  # (V, B, M)
        cosines, sines = (_MeanWavesForward if in_forward_mode() else _MeanWaves).apply(x, knot)  # each (K, V, M)
        if share.ranks > 1:  # their means over all processes, with the gradient of these, before they are squared
            cosines, sines = (both / share.ranks for both in share.sum(cosines, sines))
        apart = (cosines - normal[:, None, None]).square() + sines.square()
        return (apart * weight[:, None, None]).sum(0).mean() * (z.shape[1] * share.ranks)


@torch.library.custom_op("simclr::directions", mutates_args=())
def _drawn(dim: int, slices: int, seed: int, device: torch.device) -> Tensor:
    """Normal numbers (dim, slices) of ``seed``, as one operation: a compiler knows no generator but its own."""
    return torch.randn(dim, slices, generator=torch.Generator(device).manual_seed(seed), device=device)


@_drawn.register_fake
def _(dim: int, slices: int, seed: int, device: torch.device) -> Tensor:
    return torch.empty(dim, slices, device=device)


def _checked(z: Tensor, least: int) -> Tensor:
    if not z.is_floating_point():
        raise TypeError(f"views has dtype {z.dtype}; LeJEPA expects floating point embeddings (V, B, D)")
    if z.dim() != 3:
        raise ValueError(
            f"views has shape {tuple(z.shape)}; LeJEPA expects (V, B, D): views, images, dimensions. "
            "Stack the embeddings of the views: torch.stack([z1, z2])"
        )
    if z.shape[0] < least or 0 in z.shape:
        raise ValueError(
            f"views has shape {tuple(z.shape)}; LeJEPA expects V >= {least} views of at least one image and one dimension"
        )
    return full_precision(z)


class _MeanWaves(torch.autograd.Function):
    """x (V, B, M) and t (K,) to the means over B of cos(t x) and sin(t x), each (K, V, M).

    Autograd would keep K times x for the backward pass, several times over. This keeps x, and makes the rest again, some rows
    at a time.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        sums = [(phase.cos().sum(2), phase.sin().sum(2)) for phase in (_phase(x[:, rows], t) for rows in _blocks(x, t))]
        cosines, sines = (sum(some[1:], some[0]) / x.shape[1] for some in zip(*sums, strict=True))
        return cosines, sines

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, t = ctx.saved_tensors
        of_cosines, of_sines = (gradient * t[:, None, None] / x.shape[1] for gradient in gradients)  # (K, V, M)
        parts = []
        for rows in _blocks(x, t):
            phase = _phase(x[:, rows], t)
            parts.append((phase.cos() * of_sines[:, :, None] - phase.sin() * of_cosines[:, :, None]).sum(0))
        return torch.cat(parts, dim=1), None


class _MeanWavesForward(_MeanWaves):
    """With its forward mode, which a compiler takes for no part of a function."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        _MeanWaves.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, along: Tensor, _: None) -> tuple[Tensor, Tensor]:
        x, t = ctx.saved_tensors
        phase, along = _phase(x, t), _phase(along, t)
        return -(phase.sin() * along).mean(2), (phase.cos() * along).mean(2)


def _blocks(x: Tensor, t: Tensor) -> list[slice]:
    return list(row_chunks(x.shape[1], len(x) * x.shape[2] * len(t), x.device, at_least=8))


def _phase(x: Tensor, t: Tensor) -> Tensor:
    return t[:, None, None, None] * x  # (K, V, B, M)


def _mean_square(x: Tensor) -> Tensor:
    """A scalar; added up in the widest type, so that no row of a finite square makes it infinite."""
    return x.square().mean(dtype=wide_dtype(x.device)).to(x.dtype)


class SIGRegLoss(Loss):
    """LeJEPA's loss as a module: the agreement of the views and SIGReg of each.

    Statistics: ``invariance``, ``sigreg`` (about 1.05 where the embeddings are spread as a standard normal), ``deviation``, that
    of the embeddings over the images of the batch, 1 where they are and 0 where all have become one point.

    >>> z = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(0))
    >>> loss = SIGRegLoss()
    >>> all(loss(z, seed=step) > loss(z[:1].expand(2, -1, -1), seed=step) for step in range(3))  # views that agree
    True
    """

    kind: ClassVar[Kind] = "views"
    shares: ClassVar[bool] = True

    def __init__(self, weight: float = 0.02, slices: int = 256, knots: int = 17) -> None:
        super().__init__()
        _check(weight, slices, knots)
        self.weight, self.slices, self.knots = weight, slices, knots

    def forward(self, views: Annotated[Tensor, "float V B D"], seed: int = 0) -> Annotated[Tensor, "float"]:
        """`views` (V, B, D), V >= 2, as they are, to the scalar loss.

        `seed` draws the directions: in a loop of your own give the number of the step, so that each has others, and on several
        processes the same to all.
        """
        return self._part(views, seed, ALONE)

    def _part(self, views: Tensor, seed: int, share: Share) -> Tensor:
        views = _checked(views, least=2)
        with torch.autocast(views.device.type, enabled=False):
            invariance = share.mean(_mean_square(views - views.mean(0)))
            normality = _sigreg(views, self.slices, self.knots, seed, share)
            z = views.detach()
            deviation = share.mean(_mean_square(z - share.mean(z.mean(1, keepdim=True)))).sqrt()
        self.statistics = {
            "invariance": invariance.detach(),
            "sigreg": normality.detach(),
            "deviation": deviation,
        }
        return (1 - self.weight) * invariance + self.weight * normality

    def on_batch(self, batch: EmbeddedBatch) -> Tensor:
        """The loss of the views, along directions of the step's own."""
        return self(batch.z, seed=batch.seed)

    def on_share(self, batch: EmbeddedBatch, share: Share) -> Tensor:
        """The loss of all processes' views, of which means alone are exchanged."""
        return self._part(batch.z, batch.seed, share)

    def warning(self, loss: float, statistics: Mapping[str, float]) -> str | None:
        """Plain words where all embeddings have become one point, or the views of an image nothing in common."""
        deviation, invariance = (statistics.get(name, math.nan) for name in ("deviation", "invariance"))
        if deviation < 0.1:
            return (
                f"the embeddings of all images lie within {deviation:.2g} of one point, where 1 is wanted: raise "
                "objective.weight, or lower the learning rate."
            )
        # (V - 1) / V of the variance is what views have that know nothing of each other: half of it for two, more for more.
        if invariance > 0.45 * deviation**2:
            return (
                f"the views of an image are as far apart (invariance {invariance:.2g}) as views of different images: lower "
                "objective.weight, or lengthen the warm-up, and look at views.png."
            )
        return None

    def extra_repr(self) -> str:
        return f"weight={self.weight}, slices={self.slices}, knots={self.knots}"
