"""What a run is made of: what is there before a weight is made, what learns, and what a step leaves behind."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from augment import ViewGenerator, ViewParameters
from simclr.config import TrainConfig
from simclr.data import ImageSet, Sampler
from simclr.data.left_out import LeftOut
from simclr.distributed import derive_seed
from simclr.errors import CheckpointError
from simclr.model.contrastive import ContrastiveModel
from simclr.objectives import Objective, ObjectiveConfig
from simclr.optim.schedule import decay_begins, steps_left
from simclr.run.checkpoint import Checkpoint
from simclr.run.division import Division
from simclr.run.ema import Weights
from simclr.run.given import NOTHING, Given
from simclr.run.length import too_short
from simclr.run.undo import Undo
from simclr.run.validation import ValidationScore

__all__ = ["Learner", "Run", "Step"]


@dataclass(frozen=True)
class Run:
    """What is there before a weight is made: who trains, on which images, in which order, and from where on."""

    config: TrainConfig
    accelerator: Accelerator
    images: ImageSet
    sampler: Sampler
    validation: ValidationScore | None
    checkpoint: Checkpoint | None
    left_out: LeftOut
    notes: list[str]
    division: Division
    given: Given = NOTHING
    """What the config cannot make."""

    def __post_init__(self) -> None:
        done = self.checkpoint.progress["step"] if self.checkpoint else 0
        if self.checkpoint and done > self.total_steps:
            raise CheckpointError(
                f"{self.checkpoint.path} says that {done} steps are done, and the run has {self.total_steps}; remove that "
                "folder to go on from the one before"
            )
        self.notes.extend(too_short(self.config, self.steps_per_epoch))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.sampler.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the run."""
        return self.config.train.epochs * self.steps_per_epoch

    @property
    def end(self) -> int:
        """The step at which it ends: its last, or the one at which ``train.patience`` has ended it already."""
        patience, noted = self.config.train.patience, self.checkpoint.progress if self.checkpoint else {}
        over = patience is not None and noted.get("since_best", 0) >= patience
        return int(noted["step"]) if over else self.total_steps

    def steps_left(self, step: int) -> float:
        """How many steps like the last take as long as those that are left after ``step``."""
        return steps_left(self.config.schedule.view_sizes, self.config.augment.size, step, self.total_steps)

    @property
    def decay_begins(self) -> int | None:
        """The last step up to which a run of more epochs would be this one; None where there is none."""
        return decay_begins(self.config.schedule, **self.lengths)

    @property
    def average_rises_over(self) -> int | None:
        """Steps over which the decay of the weights' average goes to 1; None where it is constant."""
        return self.total_steps if self.config.objective.average_rises else None

    @property
    def lengths(self) -> dict[str, int]:
        """Both of them, by their names."""
        return {"steps_per_epoch": self.steps_per_epoch, "total_steps": self.total_steps}

    @property
    def epoch_so_far(self) -> tuple[float, int]:
        """Of the epoch that the checkpoint is in: the sum of its losses, and its steps."""
        if self.checkpoint is None:
            return 0.0, 0
        return self.checkpoint.progress["epoch_loss"], self.checkpoint.progress["step"] % self.steps_per_epoch

    @property
    def local(self) -> int:
        """Images of a batch that are this process's."""
        return self.config.train.batch_size // self.accelerator.num_processes

    @property
    def own(self) -> slice:
        """Where they stand in the batch of all processes."""
        return slice(self.accelerator.process_index * self.local, (self.accelerator.process_index + 1) * self.local)

    def seed(self, of: str, *more: int) -> int:
        """The seed of one kind of random number."""
        return derive_seed(self.config.seed, of, *more)


@dataclass
class Learner:
    """What learns, and what makes it learn."""

    model: ContrastiveModel
    objective: Objective
    objective_config: ObjectiveConfig
    """With what it leaves to the training images' labels filled in."""
    sizes: dict[str, int]
    """What the objective was built for: ``classes``, ``dim`` and ``samples``."""
    views_at: Callable[[int], ViewGenerator]
    weights: Weights
    optimizer: torch.optim.Optimizer
    peak: float
    """The highest learning rate."""
    wrapped: nn.Module | None = None
    """The model as accelerate runs it, once ``resume`` has handed it over."""
    watch: Callable[[ContrastiveModel, Objective, torch.device], dict[str, float]] | None = None
    """Figures of the features of a few images, taken with the online score, where there is something to watch."""
    keys_of: Callable[[Tensor], Tensor | None] = lambda views: None
    """The keys of momentum contrast, where the objective compares with them."""

    @cached_property
    def undo(self) -> Undo:
        """What undoes a step that is not finite. For after ``resume``: accelerate puts other tensors in the modules."""
        return Undo(self.weights, self.optimizer, scaled=getattr(self.optimizer, "scaler", None) is not None)

    @property
    def forward(self) -> nn.Module:
        """What takes views to embeddings in a step; where the objective alone learns, nothing that waits for gradients."""
        alone = self.model.only_head and not any(p.requires_grad for p in self.model.head.parameters())
        return self.model if alone or self.wrapped is None else self.wrapped

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that the optimizer steps."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]


class Step(NamedTuple):
    """What an optimizer step leaves behind, without a graph."""

    loss: Tensor
    """Scalar."""
    z: Tensor
    """(V, B, D), this process's embeddings."""
    gradient_norm: Tensor
    """Scalar, before clipping."""
    skipped: Tensor
    """Bool scalar: the loss or a gradient was not finite, and nothing has changed."""
    views: Tensor
    """(V, B, C, S, S)."""
    drawn: ViewParameters
    """What acted on each of them."""
