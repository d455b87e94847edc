"""L2-regularised multinomial logistic regression for every strength at once, by preconditioned L-BFGS.

For strength ``l`` and N samples with weights w (1 by default) the objective over W (C, F) and b (C,) is

    f(W, b) = 1 / sum(w) * sum_i w_i * CE(softmax(W x_i + b), y_i)  +  l / 2 * ||W||^2

The intercept is not regularised. It is scikit-learn's ``LogisticRegression(C=1 / (N * l))`` divided by ``C * N``: the
strength is per sample, so it keeps its meaning when a choice made on a part of the data is refitted on all of it.
(With two classes scikit-learn fits one weight vector, w = W_1 - W_0, and the same optimum needs ``C = 2 / (N * l)``.)

Three things make it fast. All strengths share one read of the features: their weights are one (S * C, F) matrix. The
inverse Hessian that L-BFGS starts from is ``(a_c * Sigma + l)^-1`` for class c, Sigma the features' second moment and
a_c the mean of p_c (1 - p_c), so a badly conditioned covariance costs nothing; at W = 0 this is the exact Newton step.
And strengths that have converged leave the product. With fewer rows than columns the fit runs in the row space, where
the solution lies anyway.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from linear_eval.features.rows import Rows, chunk_values, row_space, second_moment
from simclr.numerics import float32_products

__all__ = ["LogisticFit", "fit_logistic"]

ARMIJO = 1e-4
WOLFE = 0.9
TRIALS = 25
"""Evaluations of one line search before its strength is given up as stalled at the rounding floor."""


@dataclass(frozen=True, kw_only=True)
class LogisticFit:
    """The optimum for S strengths."""

    weight: Tensor
    """(S, C, F) float32, on the standardised features."""
    bias: Tensor
    """(S, C) float32."""
    objective: Tensor
    """(S,) float64: the objective of the module's docstring."""
    evaluations: Tensor
    """(S,) int64: passes over the features that each strength took part in."""
    converged: Tensor
    """(S,) bool: whether the estimated distance to the optimum fell below the tolerance."""


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each strength's (C, F + 1) block, (S,) float64."""
    return (a * b).sum((1, 2), dtype=torch.float64)


@dataclass(frozen=True)
class _Problem:
    """What is fitted, whatever the strength."""

    rows: Rows
    target: Tensor
    """(N,) int64 on the device of the rows."""
    classes: int
    sample_weight: Tensor | None
    """(N,) float32."""


def _evaluate(problem: _Problem, theta: Tensor, strength: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Objective (S,) float64, gradient (S, C, F + 1) and mean p (1 - p) (S, C) of every strength, in one pass."""
    rows, target, sample_weight = problem.rows, problem.target, problem.sample_weight
    strengths, classes, width = theta.shape
    gradient = torch.zeros(strengths, classes, width, device=theta.device)
    loss = torch.zeros(strengths, dtype=torch.float64, device=theta.device)
    variance = torch.zeros(strengths, classes, dtype=torch.float64, device=theta.device)
    total = float(rows.count) if sample_weight is None else float(sample_weight.sum(dtype=torch.float64))
    groups = _groups(rows, strengths, classes)
    for part, x in rows.chunks(classes * (groups[0].stop - groups[0].start)):
        label = target[part].view(1, 1, -1)
        w = None if sample_weight is None else sample_weight[part]
        for group in groups:
            _add_chunk(theta[group], x, label, w, gradient[group], loss[group], variance[group])
    gradient /= total
    gradient[:, :, :-1] += strength.view(-1, 1, 1).float() * theta[:, :, :-1]
    penalty = theta[:, :, :-1].double().square().sum((1, 2))
    curvature = variance / total
    curvature = curvature.clamp_min(1e-3 * curvature.amax(1, keepdim=True)).clamp_min(1e-12)
    return loss / total + 0.5 * strength * penalty, gradient, curvature.float()


def _groups(rows: Rows, strengths: int, classes: int) -> list[slice]:
    """Strengths whose probabilities for a chunk of rows stay in the cache together: all of them if classes are few.

    With many classes the product of one strength is large already. More of them at once would leave room for a few rows
    only, and every chunk would read all weights from memory for these.
    """
    most = max(1, chunk_values(rows.device) // (256 * classes))
    size = -(-strengths // -(-strengths // most))
    return [slice(start, min(start + size, strengths)) for start in range(0, strengths, size)]


def _add_chunk(
    theta: Tensor, x: Tensor, label: Tensor, w: Tensor | None, gradient: Tensor, loss: Tensor, variance: Tensor
) -> None:
    """Add rows x (n, F) with labels (1, 1, n) and weights (n,) to the sums of the strengths theta (S, C, F + 1)."""
    strengths, classes, width = theta.shape
    weight = theta[:, :, :-1].reshape(strengths * classes, width - 1)
    bias = theta[:, :, -1].reshape(strengths * classes, 1)
    label = label.expand(strengths, 1, -1)
    # Class-major, so that the softmax runs along contiguous samples.
    z = torch.addmm(bias, weight, x.t()).view(strengths, classes, -1)  # (S, C, n)
    z -= z.amax(1, keepdim=True)
    z_label = z.gather(1, label)
    z.exp_()
    # The label's own term is kept apart: 1 - p and log p then keep their digits when p is almost 1.
    z.scatter_(1, label, 0.0)
    others = z.sum(1, keepdim=True)
    e_label = z_label.exp()
    norm = others + e_label
    cross_entropy = torch.where(z_label == 0, others.log1p(), norm.log() - z_label)
    z /= norm
    z.scatter_(1, label, e_label / norm)
    spread = z * (1 - z)
    z.scatter_(1, label, -others / norm)
    if w is not None:
        z *= w
        cross_entropy = cross_entropy * w
        spread *= w
    loss += cross_entropy.sum((1, 2), dtype=torch.float64)
    variance += spread.sum(2)
    residual = z.view(strengths * classes, -1)
    sums = gradient.view(strengths * classes, width)
    sums[:, :-1].addmm_(residual, x)
    sums[:, -1] += residual.sum(1)


class _Search:
    """The line search of every live strength: weak Wolfe conditions, secant steps inside a bracket."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.step = torch.ones(count, dtype=torch.float64, device=device)
        self.low = torch.zeros_like(self.step)
        self.high = torch.full_like(self.step, torch.inf)
        self.low_slope = torch.zeros_like(self.step)
        self.trials = torch.zeros(count, dtype=torch.int64, device=device)

    def judge(self, value: Tensor, slope: Tensor, new_value: Tensor, new_slope: Tensor) -> Tensor:
        """Which strengths accept their step; the others get their next one."""
        descent = new_value <= value + ARMIJO * self.step * slope
        # Within rounding of the optimum values no longer differ, slopes still do (Hager and Zhang 2005).
        descent |= (new_value <= value + 1e-6 * value.abs()) & (new_slope <= (2 * ARMIJO - 1) * slope)
        accepted = descent & (new_slope >= WOLFE * slope)
        width = self.step - self.low
        low_slope = torch.where(self.low == 0, slope, self.low_slope)
        secant = self.low + width * low_slope / (low_slope - new_slope)
        shorter = torch.where(new_slope > low_slope, secant, self.low + 0.5 * width)
        shorter = shorter.clamp(self.low + 0.1 * width, self.low + 0.9 * width)
        longer = torch.where(self.high.isinf(), 3 * self.step, 0.5 * (self.step + self.high))
        self.high = torch.where(descent, self.high, self.step)
        self.low = torch.where(descent, self.step, self.low)
        self.low_slope = torch.where(descent, new_slope, low_slope)
        self.step = torch.where(accepted, 1.0, torch.where(descent, longer, shorter))
        self.low = torch.where(accepted, 0.0, self.low)
        self.high = torch.where(accepted, torch.inf, self.high)
        self.trials = torch.where(accepted, 0, self.trials + 1)
        return accepted

    def keep(self, index: Tensor) -> None:
        for name in ("step", "low", "high", "low_slope", "trials"):
            setattr(self, name, getattr(self, name)[index])


@torch.no_grad()
def fit_logistic(
    rows: Rows,
    target: Tensor,
    classes: int,
    strengths: Tensor,
    *,
    sample_weight: Tensor | None = None,
    start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = 1e-6,
    max_evaluations: int = 1000,
    memory: int = 10,
    progress: Callable[[int, int], None] | None = None,
) -> LogisticFit:
    """Minimise the objective of the module's docstring for every strength.

    Args:
        rows: the features, N rows of width F, best with zero mean and unit variance.
        target: (N,) int64 in 0..classes-1.
        strengths: (S,) float64, each > 0.
        sample_weight: (N,) float32 >= 0; a weight of 0 takes a row out of the fit.
        start: weight (S, C, F) and bias (S, C) to start from instead of zeros.
        tolerance: stop when half the squared gradient in the preconditioner's metric, an estimate of what the objective
            could still fall, is below this share of it.
        max_evaluations: passes over the features at most; the strengths still running are returned as not converged.
        memory: pairs of steps and gradient changes that L-BFGS keeps.
        progress: called with (evaluation, strengths still running).
    """
    device = rows.device
    strength = strengths.to(device, torch.float64)
    weight = None if sample_weight is None else sample_weight.to(device, torch.float32)
    with float32_products(), torch.autocast(device.type, enabled=False):
        basis: Tensor | None = None
        if rows.count < rows.width:
            rows, basis = row_space(rows)
        theta = torch.zeros(len(strength), classes, rows.width + 1, device=device)
        if start is not None:
            w = start[0].to(device)
            theta[:, :, :-1], theta[:, :, -1] = w if basis is None else w @ basis, start[1].to(device)
        problem = _Problem(rows, target.to(device), classes, weight)
        fit = _lbfgs(problem, strength, theta, tolerance, max_evaluations, memory, progress)
        return fit if basis is None else replace(fit, weight=fit.weight @ basis.t())


def _lbfgs(
    problem: _Problem,
    strength: Tensor,
    theta: Tensor,
    tolerance: float,
    max_evaluations: int,
    memory: int,
    progress: Callable[[int, int], None] | None,
) -> LogisticFit:
    """Every strength's own L-BFGS, in step: theta (S, C, F + 1) is W and, last, b."""
    moments, axes = second_moment(problem.rows, problem.sample_weight)
    count, device = len(strength), theta.device

    def precondition(q: Tensor) -> Tensor:
        # A shift common to all classes changes no probability: the metric acts on differences between classes only.
        q = q - q.mean(1, keepdim=True)
        a = curvature.unsqueeze(2)
        turned = (q[:, :, :-1] @ axes) / (a * moments + strength.float().view(-1, 1, 1))
        q = torch.cat([turned @ axes.t(), q[:, :, -1:] / a], 2)
        return q - q.mean(1, keepdim=True)

    def direction() -> Tensor:
        """The two-loop recursion of L-BFGS (Nocedal 1980), all strengths side by side."""
        q = gradient.clone()
        used = []
        for s, y, inverse in reversed(pairs):
            alpha = inverse * _inner(s, q)
            q -= alpha.float().view(-1, 1, 1) * y
            used.append(alpha)
        q = precondition(q)
        for (s, y, inverse), alpha in zip(pairs, reversed(used), strict=True):
            q += (alpha - inverse * _inner(y, q)).float().view(-1, 1, 1) * s
        return -q

    final_theta = theta.clone()
    final_value = torch.zeros(count, dtype=torch.float64, device=device)
    evaluations = torch.ones(count, dtype=torch.int64, device=device)
    converged = torch.zeros(count, dtype=torch.bool, device=device)
    live = torch.arange(count, device=device)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    value, gradient, curvature = _evaluate(problem, theta, strength)
    step_direction = direction()
    slope = _inner(gradient, step_direction)
    search = _Search(count, device)
    for evaluation in range(1, max_evaluations + 1):
        near = 0.5 * _inner(gradient, precondition(gradient)) <= tolerance * value
        done = near | (search.trials >= TRIALS)
        if evaluation == max_evaluations:
            done = torch.ones_like(done)
        if done.any():
            finished = live[done]
            final_theta[finished], final_value[finished], converged[finished] = theta[done], value[done], near[done]
            kept = (~done).nonzero().flatten()
            live, theta, value = live[kept], theta[kept], value[kept]
            gradient, curvature = gradient[kept], curvature[kept]
            step_direction, slope, strength = step_direction[kept], slope[kept], strength[kept]
            pairs = [(s[kept], y[kept], inverse[kept]) for s, y, inverse in pairs]
            search.keep(kept)
        if progress is not None:
            progress(evaluation, len(live))
        if len(live) == 0:
            break
        trial = theta + search.step.float().view(-1, 1, 1) * step_direction
        new_value, new_gradient, new_curvature = _evaluate(problem, trial, strength)
        evaluations[live] += 1
        accepted = search.judge(value, slope, new_value, _inner(new_gradient, step_direction))
        block = accepted.view(-1, 1, 1)
        s = torch.where(block, trial - theta, 0.0)
        y = torch.where(block, new_gradient - gradient, 0.0)
        product = _inner(s, y)
        pairs.append((s, y, torch.where(product > 0, 1 / product.clamp_min(1e-300), 0.0)))
        del pairs[:-memory]
        theta, gradient = torch.where(block, trial, theta), torch.where(block, new_gradient, gradient)
        value = torch.where(accepted, new_value, value)
        curvature = torch.where(accepted.view(-1, 1), new_curvature, curvature)
        step_direction = torch.where(block, direction(), step_direction)
        slope = torch.where(accepted, _inner(gradient, step_direction), slope)
    return LogisticFit(
        weight=final_theta[:, :, :-1].contiguous(),
        bias=final_theta[:, :, -1].contiguous(),
        objective=final_value,
        evaluations=evaluations,
        converged=converged,
    )
