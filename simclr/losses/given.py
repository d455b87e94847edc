"""A loss that was handed to ``simclr.pretrain``: a module of ours, another library's, or any function of embeddings."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from simclr.distributed import world_size
from simclr.errors import ConfigError
from simclr.losses.batch import EmbeddedBatch
from simclr.losses.loss import Loss, LossConfig

__all__ = ["GivenLoss", "GivenLossConfig"]

_LABELS = ("labels", "label", "targets", "target", "y", "y_true", "classes")
"""What the second argument of a loss is called that compares embeddings by their labels."""


@dataclass(frozen=True, kw_only=True)
class GivenLossConfig(LossConfig):
    """What a run's config says of such a loss: what it asks of the data, and not how to make it."""

    name: ClassVar[str] = "given"
    from_config: ClassVar[bool] = False

    takes: int = 2
    """Views of an image that it compares; 0 is embeddings with their labels."""

    @property
    def views(self) -> int:  # type: ignore[override]  # of this one it depends on the loss
        """The fewest views of an image that it compares."""
        return max(1, self.takes)

    @property
    def needs_labels(self) -> bool:  # type: ignore[override]
        """Whether it compares by labels."""
        return self.takes == 0

    def build(self, num_classes: int, dim: int, num_samples: int) -> Loss:
        """Raises ConfigError: there is nothing to build it from."""
        raise ConfigError(
            "the objective of this run was handed to simclr.pretrain in Python, and cannot be built from its config: call "
            "simclr.pretrain(config, objective=...) there"
        )


class GivenLoss(Loss):
    """``loss`` called with what its arguments ask for.

    A module with ``on_batch`` is given the `EmbeddedBatch`. Else its arguments without a default decide: one is the views
    (V, B, D); two or more are a view (B, D) each; and where the second is called labels, target or y, with a default or not,
    the embeddings (V * B, D) of all views and their labels (V * B,).

    >>> import torch
    >>> GivenLoss(lambda z0, z1: (z0 - z1).square().mean()).takes, GivenLoss(lambda z, labels: z.mean()).takes
    (2, 0)
    """

    def __init__(self, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.loss = loss
        self.takes, self._call = _reading(loss)

    @property
    def config(self) -> GivenLossConfig:
        """What a run's config says of it."""
        return GivenLossConfig(takes=self.takes)

    @property
    def called_with(self) -> str:
        """What it is called with, in words."""
        views = ", ".join(f"z{i}" for i in range(self.takes))
        kinds = {
            "batch": "a batch of embeddings",
            "stack": "the views (V, B, D)",
            "views": f"the views ({views}), each (B, D)",
            "labels": "embeddings (V * B, D) and their labels (V * B,)",
        }
        return kinds[self._call]

    def on_batch(self, batch: EmbeddedBatch) -> Tensor:
        """The scalar loss of ``batch``.

        Raises:
            ConfigError: there are more views than it takes, or what it gives is no scalar with a gradient.
        """
        if self._call == "views" and len(batch.z) != self.takes:
            raise ConfigError(
                f"the objective {_name(self.loss)} takes {self.takes} views, augment.views is {len(batch.z)}; set it to "
                f"{self.takes}"
            )
        if self._call == "batch":
            loss = self.loss.on_batch(batch)  # type: ignore[attr-defined]  # that is how it was told
        elif self._call == "stack":
            loss = self.loss(batch.z)
        elif self._call == "views":
            loss = self.loss(*batch.z)
        else:
            labels = batch.labels.repeat(len(batch.z), *[1] * (batch.labels.ndim - 1))
            loss = self.loss(batch.z.flatten(0, 1), labels)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            found = f"a {loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(
                f"the objective {_name(self.loss)} gave {found}; expected one number, a tensor of shape () and floating point"
            )
        if batch.z.requires_grad and not loss.requires_grad:
            raise ConfigError(
                f"the objective {_name(self.loss)} gave a number without a gradient: compute it of the embeddings, without "
                "detach, item or numpy"
            )
        told = getattr(self.loss, "statistics", None)
        told = told if isinstance(told, dict) else {}
        self.statistics = {name: one for name, one in told.items() if isinstance(one, Tensor) and one.numel() == 1}
        return loss.reshape(())

    def on_ranks(self, batch: EmbeddedBatch, narrow: bool = False) -> Tensor:
        """As a loss of ours does it; any other is given the batch of all processes, in each of them."""
        if world_size() == 1 or not isinstance(self.loss, Loss):
            return super().on_ranks(batch, narrow)
        loss = self.loss.on_ranks(batch, narrow)
        self.statistics = self.loss.statistics
        return loss

    def scores(self, z: Annotated[Tensor, "float N D"]) -> Annotated[Tensor, "float N C"] | None:
        """Class logits (N, C), where the loss is one of ours that has a classifier."""
        return self.loss.scores(z) if isinstance(self.loss, Loss) else None

    def predict(self, z: Annotated[Tensor, "float N D"]) -> Annotated[Tensor, "float N"] | None:
        """Predicted numbers (N,), where the loss is one of ours that predicts them."""
        return self.loss.predict(z) if isinstance(self.loss, Loss) else None


def _name(loss: object) -> str:
    return str(getattr(loss, "__qualname__", type(loss).__qualname__))


def _reading(loss: Callable[..., Any]) -> tuple[int, str]:
    """How many views ``loss`` takes, 0 with labels, and how it is called."""
    if hasattr(loss, "on_batch"):
        asked = inspect.signature(loss.forward).parameters if isinstance(loss, nn.Module) else {}
        return (0, "batch") if any(name in _LABELS for name in asked) else (2, "batch")
    if not callable(loss):
        raise ConfigError(
            f"objective is {type(loss).__name__}; expected a loss: a module, or a function loss(z0, z1) or loss(z, labels)"
        )
    try:
        called = loss.forward if isinstance(loss, nn.Module) else loss
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the arguments of the objective {_name(loss)} cannot be looked up; wrap it: def loss(z0, z1): ..."
        ) from error
    placed = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if len(placed) > 1 and placed[1].name in _LABELS:
        return 0, "labels"
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return 2, "views"
    needed = [one for one in placed if one.default is one.empty]
    if not needed:
        raise ConfigError(f"the objective {_name(loss)} takes no embeddings; expected loss(z0, z1) or loss(z, labels)")
    return (2, "stack") if len(needed) == 1 else (len(needed), "views")
