"""Notices the first step with a value that is not finite, on the device, without waiting for it."""

import torch
from torch import Tensor, nn

from simclr.data import ImageSet
from simclr.distributed import from_all_ranks
from simclr.errors import PipelineError

__all__ = ["FiniteGuard", "NotFiniteError", "refuse_weights"]

_ADVICE = (
    "Checkpoints from before it are kept, and the same command would come to the same step; under another --name, lower "
    "--optim.learning-rate, lengthen --schedule.warmup-epochs, set --optim.clip-norm 1, or try --train.precision fp32"
)


class NotFiniteError(PipelineError):
    """Training met NaN or infinity, at ``step``."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"{what}. {_ADVICE}")
        self.what, self.step = what, step


class FiniteGuard:
    """Keeps, in tensors on the device, the first step whose loss, embeddings or gradients are not finite.

    ``watch`` runs at every step and launches a few small kernels; ``check`` waits for the device, so it is called where
    the loop waits anyway: when it logs, and before a checkpoint could make the damage last. Every process watches its
    own images; ``check`` and ``refuse`` put together what all of them saw, so all must call them at the same steps.
    """

    def __init__(self, batch: int, device: torch.device) -> None:
        self.step = torch.full((), -1, device=device)
        self.rows = torch.full((batch,), -1, device=device)
        self.parts = torch.zeros(3, dtype=torch.bool, device=device)

    def watch(self, step: int, loss: Tensor, z: Tensor, grad_norm: Tensor, indices: Tensor) -> None:
        """Note this step if it is the first bad one.

        Args:
            step: the optimizer step.
            loss: scalar.
            z: embeddings (V, B, D) of this process's images.
            grad_norm: norm of all gradients, scalar.
            indices: int64 (B,), the images' numbers in the set.
        """
        bad_rows = ~z.detach().isfinite().all(dim=-1).all(dim=0)  # (B,)
        parts = torch.stack([bad_rows.any(), ~loss.detach().isfinite(), ~grad_norm.isfinite()])
        first = parts.any() & (self.step < 0)
        self.rows = torch.where(first, torch.where(bad_rows, indices, -1), self.rows)
        self.parts = torch.where(first, parts, self.parts)
        self.step = torch.where(first, torch.full_like(self.step, step), self.step)

    def check(self) -> tuple[int, list[str], list[int]] | None:
        """(step, what was not finite, image numbers) of any process's first bad step, or None. Waits for the device."""
        noted = from_all_ranks(torch.cat([self.step[None], self.parts.long(), self.rows])).tolist()
        bad = [one for one in noted if one[0] >= 0]
        if not bad:
            return None
        step = min(one[0] for one in bad)
        at_step = [one for one in bad if one[0] == step]
        names = ("embedding", "loss", "gradient")
        parts = [name for i, name in enumerate(names, start=1) if any(one[i] for one in at_step)]
        return step, parts, [row for one in at_step for row in one[1 + len(names) :] if row >= 0]

    def refuse(self, images: ImageSet) -> None:
        """Raise, on every process alike, if any had a bad step. Waits for the device.

        Raises:
            NotFiniteError: names the step, what was not finite, and the images, whichever process had them.
        """
        found = self.check()
        if found is None:
            return
        step, parts, rows = found
        named = ""
        if rows:
            named = f" of {', '.join(images.describe(i) for i in rows[:4])}" + (" and others" if len(rows) > 4 else "")
        raise NotFiniteError(f"the {' and the '.join(parts)} became NaN or infinite at step {step}{named}", step)


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
    fine = torch.stack([value.isfinite().all().to(device) for value in tensors.values()])
    bad = [name for name, one in zip(tensors, from_all_ranks(fine).all(dim=0).tolist()) if not one]
    if bad:
        others = f" and {len(bad) - 1} other tensors" if len(bad) > 1 else ""
        raise NotFiniteError(f"{bad[0]}{others} became NaN or infinite at step {step} or before it", step)
