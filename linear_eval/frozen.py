"""An encoder that is scored is an encoder at rest: eval mode for a while, and proof that nothing in it changed."""

import hashlib

import torch
from torch import Tensor, nn

__all__ = ["encoder_digest", "frozen"]


def encoder_digest(encoder: nn.Module) -> str:
    """SHA-256 over every parameter and buffer: name, type, shape and bits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


class frozen:
    """Eval mode inside the block, the mode of every submodule as found after it, and proof that nothing was changed.

    Raises:
        RuntimeError: a parameter or a buffer differs after the block.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder

    def __enter__(self) -> str:
        self.modes = {module: module.training for module in self.encoder.modules()}
        self.digest = encoder_digest(self.encoder)
        self.encoder.eval()
        return self.digest

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for module, training in self.modes.items():
            module.training = training
        if kind is None and encoder_digest(self.encoder) != self.digest:
            raise RuntimeError(
                "the encoder changed while its features were taken: a parameter or buffer is updated in eval mode; "
                "a score of it would not be that of frozen features"
            )
