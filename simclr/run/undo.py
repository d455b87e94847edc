"""A step that is not finite leaves nothing behind: weights, states, averages and buffers are as they were before it.

What is not finite shows in the loss or in the norm of all gradients. Both are the same in every process, since the loss is one
of all embeddings and DistributedDataParallel adds up the gradients: processes agree without a word between them.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Undo"]


class Undo:
    """Made before a step's forward pass, which moves buffers; asked before its update; called behind it.

    On a CPU the answer is read at once, and an update that is not finite is not made. A GPU would run dry while the answer is
    waited for: there every update is made, and the device itself puts back what a bad one changed. The copies for that
    are made when the activations are gone, so that they do not raise the peak of memory.

    Args:
        modules: all that has weights or buffers.
        optimizer: of them; on a GPU all that its ``state`` holds must be tensors there.
        scaled: whether a gradient scaler skips updates of its own whose gradients overflow in fp16. Only the loss counts then.
        at_once: whether the answer is read; None is everywhere but on CUDA.
    """

    def __init__(
        self, modules: nn.Module, optimizer: torch.optim.Optimizer, scaled: bool = False, at_once: bool | None = None
    ) -> None:
        self.modules, self.optimizer, self.scaled, self.at_once = modules, optimizer, scaled, at_once
        self.skipped = torch.zeros((), dtype=torch.bool)
        """Whether the step was a bad one, scalar, on the device."""
        self._buffers = _Copies(modules.buffers())
        self._rest = _Copies([])

    def worth_taking(self, loss: Tensor, gradient_norm: Tensor) -> bool:
        """Whether the update is to be made. Both are scalars."""
        finite = loss.isfinite() if self.scaled else loss.isfinite() & gradient_norm.isfinite()
        self.skipped = ~finite.detach()
        if self.at_once is None:
            self.at_once = loss.device.type != "cuda" and not self.scaled
        if self.at_once:
            return not self.skipped.item()
        self._rest = _Copies([*self.modules.parameters(), *self._state()])
        return True

    @torch.no_grad()
    def put_back(self) -> None:
        """Where the step was a bad one, all is as before it."""
        if self.at_once:
            if self.skipped.item():
                self._buffers.put_back()
            return
        self._buffers.put_back_where(self.skipped)
        self._rest.put_back_where(self.skipped)
        old = {id(tensor) for tensor in self._rest.tensors}
        for tensor in self._state():
            if id(tensor) not in old:  # every optimizer here begins with zeros
                tensor.masked_fill_(self.skipped, 0)

    def _state(self) -> list[Tensor]:
        return [value for one in self.optimizer.state.values() for value in one.values() if isinstance(value, Tensor)]


class _Copies:
    """Copies of tensors, and how they get back, in a few kernels for all of them."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)
        self._values = [torch.empty_like(tensor, requires_grad=False) for tensor in self.tensors]
        if self.tensors:
            torch._foreach_copy_(self._values, [tensor.detach() for tensor in self.tensors])

    def put_back(self) -> None:
        if self.tensors:
            torch._foreach_copy_(self.tensors, self._values)

    def put_back_where(self, condition: Tensor) -> None:
        """As ``put_back`` where the scalar ``condition`` holds, without waiting for it."""
        # As integers, which wrap around and know no NaN: b + (a - b) * 1 is a, and b + (a - b) * 0 is b, to the bit.
        groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for now, before in zip(self.tensors, self._values, strict=True):
            kind = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[now.element_size()]
            group = groups.setdefault(kind, ([], []))
            group[0].append(now.detach().view(kind))
            group[1].append(before.view(kind))
        for kind, (now_bits, before_bits) in groups.items():
            torch._foreach_sub_(now_bits, before_bits)
            torch._foreach_mul_(now_bits, (~condition).to(kind))
            torch._foreach_add_(now_bits, before_bits)
