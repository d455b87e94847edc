"""A step that is not finite leaves nothing behind: weights, states, averages and buffers are as they were before it.

What is not finite shows in the loss or in the norm of all gradients. Both are the same in every process, since the loss is one
of all embeddings and DistributedDataParallel adds up the gradients (of FSDP's shards, norms are): processes agree without a
word between them.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from simclr.sharding import local

__all__ = ["Bits", "Undo"]


class Undo:
    """Of each step: ``begin`` before the forward pass, which moves buffers; ``worth_taking`` before the update; ``put_back``.

    On a CPU the answer is read at once, and an update that is not finite is not made. A GPU would run dry while the answer is
    waited for: there every update is made, and the device itself puts back what a bad one changed. The copies for that
    are made when the activations are gone, so that they do not raise the peak of memory.

    Args:
        modules: all that has weights or buffers, where they stay: what is done to them is done in place.
        optimizer: of them; on a GPU all that its ``state`` holds must be tensors there.
        scaled: whether a gradient scaler skips updates of its own whose gradients overflow in fp16. Only the loss counts then.
        at_once: whether the answer is read; None is everywhere but on CUDA.
    """

    def __init__(
        self, modules: nn.Module, optimizer: torch.optim.Optimizer, scaled: bool = False, at_once: bool | None = None
    ) -> None:
        self.optimizer, self.scaled, self.at_once = optimizer, scaled, at_once
        self.skipped = torch.zeros((), dtype=torch.bool)
        """Whether the latest step was a bad one, scalar, on the device."""
        self._buffers, self._weights = Bits(modules.buffers()), Bits(modules.parameters())
        self._states = Bits([])

    def begin(self) -> None:
        """A step begins."""
        self._buffers.note()

    def worth_taking(self, loss: Tensor, gradient_norm: Tensor) -> bool:
        """Whether the update is to be made. Both are scalars."""
        finite = loss.isfinite() if self.scaled else loss.isfinite() & gradient_norm.isfinite()
        self.skipped = ~finite.detach()
        if self.at_once is None:
            self.at_once = loss.device.type != "cuda" and not self.scaled
        if self.at_once:
            return not self.skipped.item()
        self._follow_states()
        self._weights.note()
        self._states.note()
        return True

    def put_back(self) -> None:
        """Where the step was a bad one, all is as before it."""
        if self.at_once:
            if self.skipped.item():
                self._buffers.put_back()
            return
        for new in self._follow_states():
            local(new).masked_fill_(self.skipped, 0)  # as every optimizer here begins
        for part in (self._buffers, self._weights, self._states):
            part.put_back_where(self.skipped)

    def _follow_states(self) -> list[Tensor]:
        """The states' tensors that the optimizer has made since the last call, which are watched from now on."""
        tensors = [
            value for one in self.optimizer.state.values() for value in one.values() if isinstance(value, Tensor)
        ]
        if len(tensors) == len(self._states.known):
            return []
        new = [tensor for tensor in tensors if id(tensor) not in self._states.known]
        self._states.watch(tensors)
        return new


class Bits:
    """Tensors, their copies, and how these get back: a few kernels for all of them, and no work in Python for each."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.watch(tensors)
        self._noted: list[list[Tensor]] = []
        self._before: list[list[Tensor]] = []

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """These from now on; a copy that was made stays that of the tensors before."""
        self.known = {id(tensor): tensor for tensor in tensors}
        # As integers, which wrap around and know no NaN: b + (a - b) * 1 is a, and b + (a - b) * 0 is b, to the bit.
        kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in self.known.values():
            kind = kinds[tensor.element_size()]
            groups.setdefault(kind, []).append(local(tensor).detach().view(kind))
        self._now = list(groups.values())

    def note(self) -> None:
        """Copy all."""
        self._noted = self._now
        self._before = [list(torch._foreach_add(group, 0)) for group in self._noted]

    def put_back(self) -> None:
        """Write the copies back."""
        for now, before in zip(self._noted, self._before, strict=True):
            torch._foreach_copy_(now, before)
        self._before = []

    def put_back_where(self, condition: Tensor) -> None:
        """As ``put_back`` where the scalar ``condition`` holds, without waiting for it."""
        for now, before in zip(self._noted, self._before, strict=True):
            torch._foreach_sub_(now, before)
            torch._foreach_mul_(now, (~condition).to(now[0].dtype))
            torch._foreach_add_(now, before)
        self._before = []
