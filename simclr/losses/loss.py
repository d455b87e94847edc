"""What holds for every loss: its config says what it needs, its module gets one batch object.

A new loss on views is a config with a name and a module with a ``forward``:

    >>> import torch
    >>> from typing import ClassVar
    >>> @dataclass(frozen=True, kw_only=True)
    ... class AlignmentConfig(LossConfig):
    ...     name: ClassVar[str] = "alignment"
    ...     def build(self, num_classes, dim, num_samples):
    ...         return AlignmentLoss()
    >>> class AlignmentLoss(Loss):
    ...     def forward(self, z):
    ...         return (z[0] - z[1]).square().sum(-1).mean()
    >>> z = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]])  # two views of one image
    >>> loss = AlignmentConfig().build(num_classes=0, dim=2, num_samples=1)
    >>> loss.on_batch(EmbeddedBatch(z, labels=torch.tensor([0]), indices=torch.tensor([0]), seed=0))
    tensor(25.)

The losses on labels share more: `simclr.losses.label_loss`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

from torch import Tensor, nn

from simclr.losses.arguments import Kind, as_taken
from simclr.losses.batch import EmbeddedBatch
from simclr.losses.share import Share

__all__ = ["Loss", "LossConfig"]


@dataclass(frozen=True, kw_only=True)
class LossConfig(ABC):
    """Base of the configs: all that is asked of any loss. As it stands, a loss on two views of unlabelled images."""

    name: ClassVar[str]
    """What the command line and YAML files call it."""
    views: ClassVar[int] = 2
    """The fewest views of an image that it compares."""
    needs_labels: ClassVar[bool] = False
    soft_labels: ClassVar[bool] = False
    """Whether the loss also takes targets (N, C): mixed images, labels with a quality."""
    reads_numbers: ClassVar[bool] = False
    """Whether the loss takes a number (N,) for a label."""
    from_config: ClassVar[bool] = True
    """Whether the config alone says how to build the module."""
    steady: ClassVar[bool] = False
    """Whether every batch takes the same operations, which ask the host for nothing and draw nothing from its ``seed``."""
    needs_keys: ClassVar[bool] = False
    """Whether the loss compares with the embeddings that an average of the weights gives; `average` is then its decay."""

    @property
    def average(self) -> float | None:
        """Decay of the average of the weights that gives the keys, and that is exported; None without keys."""
        return None

    @property
    def average_rises(self) -> bool:
        """Whether that decay goes from `average` at the first step to 1 at the last, by half a cosine."""
        return False

    @property
    def needs_triplets(self) -> bool:
        """Whether the batch has to be anchor, positive and negative in turn, as offline mining fills it."""
        return False

    @property
    def lr_multiplier(self) -> float:
        """Learning rate of the loss's own parameters over the encoder's."""
        return 1.0

    def chance(self, rows: int) -> float | None:
        """The loss of a head that tells nothing from anything, of ``rows`` embeddings N = V * B; None where none is known.

        With it a run warns of a loss that stays there, and of features of fewer than two dimensions.
        """
        return None

    def fitted(self, targets: Tensor, num_classes: int) -> Self:
        """This config with what it leaves to the training ``targets`` (N,) filled in, e.g. weights of rare classes."""
        return self

    @abstractmethod
    def build(self, num_classes: int, dim: int, num_samples: int) -> "Loss":
        """The module for labels 0..``num_classes``-1, embeddings of ``dim`` dimensions and ``num_samples`` images."""


class Loss(nn.Module):
    """Base of the modules: a public call of their own, and what the loop asks of each.

    ``statistics`` holds 0-dim tensors on the device, of the latest call, by the name they are logged under.
    """

    kind: ClassVar[Kind] = ""
    """What a call takes, see `simclr.losses.arguments`: arrays, lists and the like are made that before ``forward``."""

    sigmoids: ClassVar[bool] = False
    """Whether every one of the `scores` is a sigmoid of its own; else they are a softmax together."""

    shares: ClassVar[bool] = False
    """Whether `on_share` computes this process's part of the loss. It is asked of the class itself, not of those it derives
    from: what changes a loss says again whether the part is still right."""

    divides: ClassVar[bool] = False
    """Whether a process computes with the rows that it holds of the parameters that `divisible` names. Asked like ``shares``."""

    statistics: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.statistics = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``forward``, given what `as_taken` makes of the arguments."""
        args, kwargs = as_taken(self.kind, args, kwargs)
        return super().__call__(*args, **kwargs)

    def on_batch(self, batch: EmbeddedBatch) -> Tensor:
        """The scalar loss of ``batch``: the module's call with what it reads of it, here the views (V, B, D) alone."""
        return self(batch.z)

    def on_ranks(self, batch: EmbeddedBatch, narrow: bool = False) -> Tensor:
        """The scalar loss of the batches of all processes, of which ``batch`` is this one's; the same in each of them.

        Its gradient in ``batch.z`` is such that the mean over the processes (DistributedDataParallel's) is that of one process
        with the whole batch; parameters of the loss get that of one process themselves. A loss that ``shares`` computes this
        process's part, any other all of it from the gathered batch. With ``narrow`` what is gathered travels as bfloat16. A
        collective, in the backward pass too: all processes must call it.
        """
        share = Share.of(batch, narrow)
        if share.ranks == 1:
            return self.on_batch(batch)
        if not vars(type(self)).get("shares", False):
            return self.on_batch(share.whole(batch))
        return self.on_share(replace(batch, z=share.entered(batch.z)), share)

    def on_share(self, batch: EmbeddedBatch, share: Share) -> Tensor:
        """What `on_ranks` gives, from the part of it that ``batch``, this process's, has: for a loss that ``shares``."""
        raise NotImplementedError(f"{type(self).__name__} says that it shares, and has no on_share")

    def divisible(self) -> dict[str, int]:
        """Parameters, by name, whose rows several processes may divide among them, and how many rows in turn stay together."""
        return {}

    def scores(self, z: Annotated[Tensor, "float N D"]) -> Annotated[Tensor, "float N C"] | None:
        """Class logits (N, C) of embeddings ``z`` (N, D), or None for a loss that has no classifier of its own."""
        return None

    def predict(self, z: Annotated[Tensor, "float N D"]) -> Annotated[Tensor, "float N"] | None:
        """Predicted numbers (N,) of embeddings ``z`` (N, D), or None for a loss that predicts none."""
        return None

    def warning(self, loss: float, statistics: Mapping[str, float]) -> str | None:
        """Plain words for a collapse that the figures of a step (or their means over an epoch) show, or None."""
        return None
