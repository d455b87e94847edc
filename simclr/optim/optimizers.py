"""Optimizers and their parameter groups: LARS with SimCLR's exclusions, SGD with momentum, AdamW, Muon."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from simclr.config import OptimConfig
from simclr.errors import ConfigError, require
from simclr.optim.by_group import ByGroup, is_number
from simclr.optim.muon import Muon
from simclr.sharding import is_sharded, local, norms

__all__ = ["LARS", "build_optimizer", "check_something_learns", "parameter_groups", "peak_learning_rate"]


class LARS(ByGroup):
    """Layer-wise adaptive rate scaling (You et al. 2017, alg. 1) in the form of SimCLR's code.

    For each tensor w with gradient g, ``u = g + weight_decay * w``, ``v = momentum * v + lr * trust * |w| / |u| * u``,
    ``w = w - v``. The learning rate is inside the momentum, so a change of it takes hold gradually. Groups with
    ``adapt=False`` (biases and normalisation) take ``|w| / |u| * trust`` as 1; so does a tensor whose norm is 0. With
    ``clip``, ``lr * trust * |w| / |u|`` becomes ``min(lr, trust * |w| / |u|)``, as LARC and solo-learn have it: where the ratio
    is high this is SGD.

    On a GPU every operation is a multi-tensor one and none waits for it. On a CPU a tensor is finished before the next is
    touched, while it is in the cache.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        momentum: decay of the velocity, in [0, 1).
        weight_decay: L2 coefficient, inside the trust ratio.
        trust: trust coefficient eta.
        clip: whether the learning rate is the highest that a tensor may have, and no factor of what it has.
        adapt: whether the group's rate is scaled by its tensors' norms. ``parameter_groups`` makes groups of a model in which
            biases and normalisation are neither adapted nor decayed.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        adapt: bool = True,
        clip: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": adapt}
        defaults["clip"] = clip
        super().__init__(params, defaults)

    def check(self, group: dict[str, Any]) -> None:
        """As the base, and the trust coefficient."""
        super().check(group)
        require(is_number(group["trust"]) and group["trust"] > 0, "trust", group["trust"], "a positive number")

    def update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """The step of one group."""
        for p in weights:
            if "velocity" not in self.state[p]:
                self.state[p]["velocity"] = torch.zeros_like(p)
        velocities = [local(self.state[p]["velocity"]) for p in weights]
        if all(p.device.type == "cpu" and not is_sharded(p) for p in weights):
            for p, velocity in zip(weights, velocities, strict=True):
                _step_on_cpu(p, velocity, group)
            return
        gradients = [local(p.grad) for p in weights if p.grad is not None]  # all of them
        held = [local(p) for p in weights]
        updates = list(torch._foreach_add(gradients, held, alpha=group["weight_decay"]))
        if group["adapt"]:
            w_norm = norms(held, cut := [is_sharded(p) for p in weights]).float()  # (T,) for T tensors
            u_norm = norms(updates, cut).float()
            ratio = group["trust"] * w_norm / u_norm
            ratio = (ratio / group["lr"]).clamp_max(1.0) if group["clip"] else ratio
            ratio = torch.where((w_norm > 0) & (u_norm > 0), ratio, 1.0)
            torch._foreach_mul_(updates, list(ratio.to(updates[0].dtype).unbind()))
        # A tensor where the step is captured as a CUDA graph.
        torch._foreach_mul_(updates, group["lr"])
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, updates)
        torch._foreach_sub_(held, velocities)


def _step_on_cpu(p: Tensor, velocity: Tensor, group: dict[str, Any]) -> None:
    assert p.grad is not None
    update = torch.add(p.grad, p, alpha=group["weight_decay"]) if group["weight_decay"] else p.grad
    rate = group["lr"]
    if group["adapt"]:
        w_norm, u_norm = torch.linalg.vector_norm(p).item(), torch.linalg.vector_norm(update).item()
        if w_norm > 0 and u_norm > 0:
            ratio = group["trust"] * w_norm / u_norm
            rate = min(rate, ratio) if group["clip"] else rate * ratio
    velocity.mul_(group["momentum"]).add_(update, alpha=rate)
    p.sub_(velocity)


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    objective: nn.Module | None = None,
    lr_multiplier: float = 1.0,
    layer_scale: Callable[[str], float] = lambda name: 1.0,
    decay_all: bool = False,
) -> list[dict[str, Any]]:
    """Matrices and convolutions with weight decay; biases, normalisation and other vectors without; the objective's own.

    All but the first kind have ``weight_decay=0``, unless ``decay_all``, and ``adapt=False`` (which LARS and Muon read).
    The parameters of ``objective`` (class weights, betas, thresholds) learn at ``lr_multiplier`` times the learning rate,
    those of ``model`` at ``layer_scale(name)`` times it: a group for each scale.
    """
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        matrix, scale = p.ndim > 1, layer_scale(name)
        kind = {"weight_decay": weight_decay if matrix or decay_all else 0.0, "adapt": matrix, "lr_scale": scale}
        groups.setdefault((not matrix, scale), {"params": [], **kind})["params"].append(p)
    ordered = [groups[key] for key in sorted(groups)]
    if objective is not None:
        own = [p for p in objective.parameters() if p.requires_grad]
        ordered.append({"params": own, "weight_decay": 0.0, "adapt": False, "lr_scale": lr_multiplier})
    return [group for group in ordered if group["params"]]


def check_something_learns(
    model: nn.Module, head: nn.Module, objective: nn.Module, head_epochs: int, objective_name: str
) -> None:
    """Raise ConfigError where no weight learns, or none in the ``head_epochs`` in which the backbone rests."""
    if not any(p.requires_grad for module in (model, objective) for p in module.parameters()):
        raise ConfigError(
            "encoder.frozen_layers=-1 leaves nothing to learn: there is no head, and the objective has no weights"
        )
    if head_epochs and not any(p.requires_grad for module in (head, objective) for p in module.parameters()):
        raise ConfigError(
            f"schedule.head_epochs={head_epochs}, but there is no head (head.layers=0), and the objective "
            f"{objective_name} has no weights that could learn first; set --schedule.head-epochs 0"
        )


def build_optimizer(groups: list[dict[str, Any]], config: OptimConfig, lr: float) -> torch.optim.Optimizer:
    """The optimizer that ``config`` names over ``groups``, in its multi-tensor form."""
    if config.name == "lars":
        return LARS(groups, lr=lr, momentum=config.momentum, trust=config.trust, clip=config.trust_clip)
    fused = groups[0]["params"][0].is_cuda
    if config.name == "sgd":
        momentum = config.momentum
        nesterov = config.nesterov and momentum > 0
        sgd = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, foreach=not fused, fused=fused)
        if fused and momentum:  # the fused form leaves them as memory came, where a scaler of fp16 skips the first step
            sgd.state.update({p: {"momentum_buffer": torch.zeros_like(p)} for group in groups for p in group["params"]})
        return sgd
    if config.name == "muon":
        return Muon(groups, lr=lr, momentum=config.momentum, betas=config.betas)
    # The fused form counts its steps on the GPU, where a step may be undone; elsewhere it would round otherwise than before.
    return torch.optim.AdamW(groups, lr=lr, betas=config.betas, foreach=not fused, fused=fused)


def peak_learning_rate(config: OptimConfig, batch_size: int) -> float:
    """The learning rate at the end of the warm-up for a global batch of ``batch_size`` images."""
    share = batch_size / 256
    return config.learning_rate * {"linear": share, "sqrt": share**0.5, "none": 1.0}[config.scaling]
