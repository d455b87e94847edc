"""The loss between two lines of the log and over an epoch, on the device, and the speed."""

import math
import time

import torch
from torch import Tensor

__all__ = ["Meter"]


class Meter:
    """The loss since the last line of the log and since the epoch began, on the device, and the clock between lines.

    A skipped step has no loss: it counts as the mean of the others. ``epoch_loss`` is the sum over ``epoch_steps`` steps of an
    epoch that was begun before.
    """

    def __init__(self, device: torch.device, epoch_loss: float = 0.0, epoch_steps: int = 0) -> None:
        self._loss, self._steps = torch.zeros((), device=device), 0
        self._skipped = torch.zeros((), device=device)
        self._epoch_loss, self._epoch_steps = torch.full((), epoch_loss, device=device), epoch_steps
        self._epoch_skipped = torch.zeros((), device=device)
        self._began, self._waited = time.perf_counter(), 0.0

    def add(self, loss: Tensor, skipped: Tensor) -> None:
        """Count a step with this loss, or one that was skipped (bool); both are scalars. Waits for nothing."""
        loss = torch.where(skipped, 0.0, loss)
        self._loss, self._steps, self._skipped = self._loss + loss, self._steps + 1, self._skipped + skipped
        self._epoch_loss, self._epoch_steps = self._epoch_loss + loss, self._epoch_steps + 1
        self._epoch_skipped = self._epoch_skipped + skipped

    @property
    def epoch_loss(self) -> Tensor:
        """Sum over the steps of the epoch so far, scalar."""
        return self._epoch_loss * (self._epoch_steps / (self._epoch_steps - self._epoch_skipped).clamp_min(1))

    def line(self, batch_size: int, steps_left: float, waited: float) -> dict[str, float]:
        """Figures since the last call: mean loss, speed, share of the time that batches were waited for.

        Waits for the device. The loss is NaN where all steps were skipped.

        Args:
            batch_size: images a step.
            steps_left: as many steps like the last take as long as what is left of the run.
            waited: seconds spent waiting for batches since the run's start.
        """
        taken = self._steps - self._skipped.item()
        mean_loss = self._loss.item() / taken if taken else math.nan
        seconds = time.perf_counter() - self._began
        figures = {
            "loss": mean_loss,
            "images_per_second": self._steps * batch_size / seconds,
            "data_wait": (waited - self._waited) / seconds,
            "seconds_left": steps_left * seconds / self._steps,
        }
        self._loss, self._steps, self._skipped = torch.zeros_like(self._loss), 0, torch.zeros_like(self._loss)
        self._began, self._waited = time.perf_counter(), waited
        return figures

    def end_epoch(self) -> float:
        """The sum of the epoch's losses; the next epoch begins. Waits for the device."""
        total = self.epoch_loss.item()
        self._epoch_loss, self._epoch_steps = torch.zeros_like(self._loss), 0
        self._epoch_skipped = torch.zeros_like(self._loss)
        return total
