"""Counts the steps that were skipped because they were not finite, on the device, and ends a run that has nothing else."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from simclr.data import ImageSet
from simclr.distributed import from_all_ranks
from simclr.errors import PipelineError
from simclr.sharding import local

__all__ = ["PATIENCE", "FiniteGuard", "NotFiniteError", "Skip", "refuse_weights"]

PATIENCE = 10
"""So many bad steps in a row end the run: it is no single image then."""

_SLOTS = 32
"""Skipped steps that a GPU remembers until it is asked."""

_PARTS = ("embedding", "loss", "gradient")

_ADVICE = (
    "Checkpoints from before it are kept, and the same command would come to the same step; under another --name, lower "
    "--optim.learning-rate, lengthen --schedule.warmup-epochs, set --optim.clip-norm 1, or try --train.precision fp32"
)


class NotFiniteError(PipelineError):
    """Training met NaN or infinity, at ``step``."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"{what}. {_ADVICE}")
        self.what, self.step = what, step


class Skip(NamedTuple):
    """A step that was skipped."""

    step: int
    """Counted from 0."""
    parts: tuple[str, ...]
    """What was not finite: embedding, loss, gradient."""
    rows: tuple[int, ...]
    """The images whose embeddings were not finite, by their numbers in the set; of all processes."""
    batch: tuple[int, ...]
    """All images of the step, in the order of the batch."""

    def what(self, images: ImageSet) -> str:
        """What became NaN or infinite, when, and of which images: the beginning of a sentence."""
        named = ", ".join(images.describe(i) for i in self.rows[:4]) + (" and others" if len(self.rows) > 4 else "")
        of = f" of {named}" if self.rows else ""
        return f"the {' and the '.join(self.parts)} became NaN or infinite at step {self.step}{of}"


class FiniteGuard:
    """Notes every skipped step, with its images, on the device; on a CPU it is told at once.

    ``watch`` runs at every step and, on a GPU, launches a few small kernels; ``check`` waits for the device, so it is called
    where the loop waits anyway: when it logs, at an epoch's end, and before a checkpoint. Every process watches its own
    images; what all of them saw is put together, so all must call it at the same steps.

    Args:
        batch: images of a step that are this process's.
        device: of the training.
        images: the training set, which names them.
        told: called with the steps that were skipped since the last call, the same in every process.
        patience: so many skipped steps in a row end the run.
        scaled: whether a gradient scaler skips steps of its own: those are counted, and are no fault.
    """

    def __init__(
        self,
        batch: int,
        device: torch.device,
        images: ImageSet,
        told: Callable[[Sequence[Skip]], None] = lambda skips: None,
        patience: int = PATIENCE,
        scaled: bool = False,
    ) -> None:
        self.images, self.told, self.patience, self.scaled = images, told, patience, scaled
        self._count = torch.zeros(1, dtype=torch.int64, device=device)
        self._scaler_skips = torch.zeros((), dtype=torch.int64, device=device)
        self._notes = torch.zeros(_SLOTS, 1 + len(_PARTS) + 2 * batch, dtype=torch.int64, device=device)
        self._row: list[Skip] = []

    def watch(self, step: int, skipped: Tensor, loss: Tensor, z: Tensor, grad_norm: Tensor, indices: Tensor) -> None:
        """Note this step if it was skipped.

        Args:
            step: the optimizer step.
            skipped: bool scalar, the same in every process.
            loss: scalar.
            z: embeddings (V, B, D) of this process's images.
            grad_norm: norm of all gradients, scalar.
            indices: int64 (B,), the images' numbers in the set.

        Raises:
            NotFiniteError: on a CPU, as ``check`` does.
        """
        if self.scaled:
            self._scaler_skips += ~grad_norm.isfinite() & ~skipped
        at_once = skipped.device.type == "cpu"
        if at_once and not skipped.item():
            return
        bad_rows = ~z.detach().isfinite().all(dim=-1).all(dim=0)  # (B,)
        parts = torch.stack([bad_rows.any(), ~loss.detach().isfinite(), ~grad_norm.isfinite()])
        note = torch.cat([torch.full_like(self._count, step), parts.long(), bad_rows.long(), indices])
        slot = self._count % _SLOTS
        kept = torch.where(skipped, note, self._notes.index_select(0, slot)[0])
        self._notes.index_copy_(0, slot, kept[None])
        self._count += skipped
        if at_once:
            self.check()

    def check(self) -> None:
        """Tell the skipped steps since the last call. Waits for the device.

        Raises:
            NotFiniteError: too many in a row, on every process alike; names the first step, what was not finite, and the
                images, whichever process had them.
        """
        count = int(self._count.item())
        if not count:
            return
        slots = torch.arange(max(0, count - _SLOTS), count, device=self._notes.device) % _SLOTS
        skips = [_skip(notes) for notes in from_all_ranks(self._notes[slots]).unbind(dim=1)]
        self._count.zero_()
        self.told(skips)
        for skip in skips:
            follows = self._row and self._row[-1].step == skip.step - 1
            self._row = [*self._row, skip] if follows else [skip]
            if len(self._row) >= self.patience:
                first = self._row[0]
                others = f", and so it was in all {len(self._row)} steps from there on" if len(self._row) > 1 else ""
                raise NotFiniteError(first.what(self.images) + others, first.step)

    def figures(self) -> dict[str, float]:
        """``scaler_skips`` where there is a gradient scaler: its own skipped steps since this process began. Waits."""
        return {"scaler_skips": float(self._scaler_skips.item())} if self.scaled else {}


def _skip(notes: Tensor) -> Skip:
    """What the processes noted of one step, (world, ...), put together."""
    step, parts = int(notes[0, 0].item()), notes[:, 1 : 1 + len(_PARTS)].any(dim=0).tolist()
    bad, indices = notes[:, 1 + len(_PARTS) :].flatten().view(len(notes), 2, -1).unbind(dim=1)  # (world, B) both
    named = tuple(name for name, bad_part in zip(_PARTS, parts, strict=True) if bad_part)
    return Skip(step, named, tuple(indices[bad > 0].tolist()), tuple(indices.flatten().tolist()))


@torch.no_grad()
def refuse_weights(modules: nn.Module, optimizer: torch.optim.Optimizer | None, step: int) -> None:
    """Raise, on every process alike, if what is about to be saved or exported is not finite. Waits for the device.

    A step whose loss and gradients are finite can still end in an update that overflows, or in a BatchNorm whose
    variance does; of that the guard sees nothing before the next step, and of a variance never.

    Args:
        modules: all that has weights.
        optimizer: whose state is saved with them; None where only weights are written.
        step: the latest optimizer step, as ``FiniteGuard.watch`` counts.

    Raises:
        NotFiniteError: names the step and the first of the tensors.
    """
    tensors = {name: value for name, value in modules.state_dict().items() if value.is_floating_point()}
    if optimizer is not None:
        of: dict[Tensor, str] = {p: name for name, p in modules.named_parameters()}
        for p, state in optimizer.state.items():
            floating = ((k, v) for k, v in state.items() if isinstance(v, Tensor) and v.is_floating_point())
            tensors |= {f"{key} of {of.get(p, 'a weight')}": value for key, value in floating}
    device = next(iter(tensors.values())).device  # AdamW counts its steps on the CPU
    fine = torch.stack([local(value).isfinite().all().to(device) for value in tensors.values()])
    bad = [name for name, one in zip(tensors, from_all_ranks(fine).all(dim=0).tolist()) if not one]
    if bad:
        others = f" and {len(bad) - 1} other tensors" if len(bad) > 1 else ""
        raise NotFiniteError(f"{bad[0]}{others} became NaN or infinite at step {step} or before it", step)
