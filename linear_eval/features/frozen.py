"""An encoder that is scored is an encoder at rest: eval mode for a while, and proof that nothing in it changed."""

import hashlib
from contextlib import nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

from simclr.errors import DataError

__all__ = ["digest_of", "encoded", "encoder_digest", "frozen"]


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


def digest_of(encoder: nn.Module) -> str:
    """``encoder_digest``, which inside a ``frozen`` block is known already."""
    return frozen.known(encoder) or encoder_digest(encoder)


class frozen:
    """Eval mode inside the block, the mode of every submodule as found after it, and proof that nothing was changed.

    A digest reads every weight, so a block inside another one of the same encoder takes none: the outer block's proof
    covers what happens in it.

    Raises:
        RuntimeError: a parameter or a buffer differs after the block.
    """

    _open: ClassVar[dict[nn.Module, str]] = {}
    """Encoders inside an outermost block, and their digests at its beginning."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder

    @classmethod
    def known(cls, encoder: nn.Module) -> str | None:
        """The digest at the beginning of the block that ``encoder`` is in; None outside of any."""
        return cls._open.get(encoder)

    def __enter__(self) -> str:
        self.modes = {module: module.training for module in self.encoder.modules()}
        self.inner = self.encoder in self._open
        self.digest = self._open[self.encoder] if self.inner else encoder_digest(self.encoder)
        self._open[self.encoder] = self.digest
        self.encoder.eval()
        return self.digest

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for module, training in self.modes.items():
            module.training = training
        if self.inner:
            return
        del self._open[self.encoder]
        if kind is None and encoder_digest(self.encoder) != self.digest:
            raise RuntimeError(
                "the encoder changed while its features were taken: a parameter or buffer is updated in eval mode; "
                "a score of it would not be that of frozen features"
            )


def encoded(encoder: nn.Module, images: Tensor, autocast: torch.dtype | None) -> Tensor:
    """Features (B, F) float32 on the CPU of images (B, C, H, W); autocast is the type to run the encoder in, or None.

    Raises:
        DataError: an encoder that gives anything else of them.
    """
    with torch.autocast(images.device.type, autocast) if autocast is not None else nullcontext():
        z = encoder(images)
    if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != len(images):
        got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise DataError(f"the encoder made {got} of {tuple(images.shape)} images: expected ({len(images)}, F)")
    return z.float().cpu()
