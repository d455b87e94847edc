"""Notices the first step with a value that is not finite, on the device, without waiting for it."""

import torch
from torch import Tensor

from simclr.data import ImageSet
from simclr.errors import PipelineError

__all__ = ["FiniteGuard", "NotFiniteError"]


class NotFiniteError(PipelineError):
    """Training met NaN or infinity."""


class FiniteGuard:
    """Keeps, in tensors on the device, the first step whose loss, embeddings or gradients are not finite.

    ``watch`` runs at every step and launches a few small kernels; ``check`` waits for the device and raises, so it is
    called where the loop waits anyway: when it logs, and before a checkpoint could make the damage last.
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
            z: the global batch's embeddings (V, B, D).
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
        """(step, what was not finite, image numbers) of the first bad step, or None. Waits for the device."""
        step = int(self.step.item())
        if step < 0:
            return None
        names = ("embedding", "loss", "gradient")
        return step, [n for n, bad in zip(names, self.parts.tolist()) if bad], [i for i in self.rows.tolist() if i >= 0]

    def refuse(self, images: ImageSet) -> None:
        """Raise if there was a bad step. Waits for the device.

        Raises:
            NotFiniteError: names the step, what was not finite, and the images.
        """
        found = self.check()
        if found is None:
            return
        step, parts, rows = found
        named = ""
        if rows:
            named = f" of {', '.join(images.describe(i) for i in rows[:4])}" + (" and others" if len(rows) > 4 else "")
        raise NotFiniteError(
            f"the {' and the '.join(parts)} became NaN or infinite at step {step}{named}. Checkpoints from before it are "
            f"kept. Lower --optim.learning-rate, lengthen --schedule.warmup-epochs, set --optim.clip-norm 1, or try "
            f"--train.precision fp32"
        )
