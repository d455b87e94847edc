"""The temperature that divides similarities: a number, a tensor with a gradient, or a parameter of the loss.

Learned as in CLIP (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section
2.5, arXiv 2103.00020): the parameter is log(1 / tau), and 1 / tau is held at 100 or below.
"""

import math

import torch
from torch import Tensor, nn

from simclr.errors import require
from simclr.losses.loss import Loss
from simclr.losses.share import ALONE, Share
from simclr.numerics import in_forward_mode, in_transform

__all__ = ["COLDEST", "LearnedTemperature", "TemperatureLoss", "check_temperature", "usable_temperature"]

COLDEST = 0.01
"""The lowest temperature that is learned."""

_WORDS = "a number above 0, from 1e-06 to 1e+06, such as 0.5"


def check_temperature(temperature: float | Tensor, field: str = "temperature", learned: bool = False) -> None:
    """Raise `ConfigError`, which is a ValueError, unless ``temperature`` can divide similarities, or start to be learned.

    A tensor is looked at where that costs nothing.
    """
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1 or temperature.ndim > 1:
            raise TypeError(
                f"{field} is a tensor of shape {tuple(temperature.shape)}; is it another view? All views go into one tensor: "
                "torch.stack([z0, z1])"
            )
        if not _can_be_looked_at(temperature):
            return
        temperature = temperature.item()
    require(1e-6 <= temperature <= 1e6, field, temperature, _WORDS)
    if learned:
        require(temperature >= COLDEST, field, temperature, f"at least {COLDEST:g}, below which none is learned")


def usable_temperature(temperature: float | Tensor, z: Tensor) -> float | Tensor:
    """``temperature``, that was checked; of a tensor one of the type and device of ``z``, NaN where it cannot divide."""
    if not isinstance(temperature, Tensor):
        return temperature
    tau = temperature.reshape(()).to(z.device, z.dtype)
    return tau if _can_be_looked_at(temperature) else torch.where(tau >= 1e-6, tau, math.nan)


def _can_be_looked_at(temperature: Tensor) -> bool:
    compiled = torch.compiler.is_compiling()
    return temperature.device.type == "cpu" and not compiled and not in_transform() and not in_forward_mode()


class LearnedTemperature(nn.Module):
    """tau as a parameter: ``log_scale`` = log(1 / tau). A call gives tau, a tensor of one number with a graph.

    In training a call first brings the parameter back to log 100 where the last step left it above, so that tau >= 0.01 and
    a gradient away from the bound still counts. It wants no weight decay.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self) -> Tensor:
        if not self.training or in_transform() or in_forward_mode():
            return self.log_scale.clamp(max=-math.log(COLDEST)).neg().exp()
        with torch.no_grad():
            self.log_scale.clamp_(max=-math.log(COLDEST))
        return self.log_scale.neg().exp()  # saves nothing that the next call would change

    def extra_repr(self) -> str:
        return f"{max(math.exp(-float(self.log_scale.detach())), COLDEST):.4g}"


class TemperatureLoss(Loss):
    """Base of the losses that divide cosines by a ``temperature``, which is a `LearnedTemperature` if it is to be learned.

    `statistics`: temperature, where it is learned.
    """

    temperature: float | Tensor | LearnedTemperature

    def __init__(self, temperature: float | Tensor, temperature_learned: bool = False) -> None:
        super().__init__()
        check_temperature(temperature, learned=temperature_learned)
        self.temperature = LearnedTemperature(float(temperature)) if temperature_learned else temperature

    def tau(self, share: Share = ALONE) -> float | Tensor:
        """The temperature of a call."""
        if not isinstance(self.temperature, LearnedTemperature):
            return share.alike(self.temperature) if isinstance(self.temperature, Tensor) else self.temperature
        tau: Tensor = self.temperature()
        self.statistics = {"temperature": tau.detach()}
        return share.alike(tau)

    def extra_repr(self) -> str:
        return "" if isinstance(self.temperature, LearnedTemperature) else f"temperature={self.temperature}"
