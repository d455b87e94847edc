"""Frozen features: every image through the encoder exactly once, and the encoder proven untouched.

>>> import torch
>>> features = Features(x=torch.eye(3), y=torch.tensor([0, 1, 1]), index=torch.arange(3))
>>> features.subset(torch.tensor([2, 0])).y
tensor([1, 0])
"""

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from linear_eval.images import SizedImages, image_batches
from simclr.errors import ConfigError, DataError

__all__ = ["Features", "RawPixels", "check_features", "encoder_digest", "extract_features", "frozen", "pixel_features"]


@dataclass(frozen=True)
class Features:
    """What an encoder says of N images."""

    x: Tensor
    """(N, F) float32 on the CPU."""

    y: Tensor
    """(N,) int64: labels, -1 where there is none."""

    index: Tensor
    """(N,) int64: number of the image in its set, for messages and for looking it up."""

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.y.shape != self.x.shape[:1] or self.index.shape != self.y.shape:
            raise DataError(
                f"features of shape {tuple(self.x.shape)}, labels {tuple(self.y.shape)} and indices "
                f"{tuple(self.index.shape)} do not belong together: expected (N, F), (N,) and (N,)"
            )
        if self.y.dtype != torch.int64 or self.index.dtype != torch.int64:
            raise DataError(f"labels are {self.y.dtype} and indices {self.index.dtype}: expected int64")

    def __len__(self) -> int:
        return len(self.y)

    def subset(self, rows: Tensor) -> "Features":
        """The rows chosen by position (int64) or by a mask (bool, (N,))."""
        return Features(self.x[rows], self.y[rows], self.index[rows])


def _first(rows: Tensor, index: Tensor) -> str:
    found = index[rows].tolist()
    return ", ".join(map(str, found[:8])) + (f", ... ({len(found)} in all)" if len(found) > 8 else "")


def check_features(features: Features, name: str, *, labelled: bool = True) -> None:
    """Refuse what would make a score meaningless.

    Raises:
        DataError: no rows, rows with NaN or infinity, or (if ``labelled``) rows without a label; it names the images.
    """
    if len(features) == 0:
        raise DataError(f"the {name} set is empty: at least one image is needed")
    if labelled and (features.y < 0).any():
        missing = features.y < 0
        if missing.all():
            raise DataError(f"the {name} set has no labels: this score compares with labels, give a labelled set")
        raise DataError(f"images without a label in the {name} set: {_first(missing, features.index)}; leave them out")
    for start in range(0, len(features), 65536):
        bad = ~features.x[start : start + 65536].isfinite().all(1)
        if bad.any():
            rows = _first(bad, features.index[start : start + 65536])
            raise DataError(
                f"features of the {name} set are NaN or infinite for images {rows}; the encoder has diverged"
            )


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


def extract_features(
    encoder: nn.Module,
    dataset: SizedImages,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    *,
    workers: int = 0,
    autocast: torch.dtype | None = None,
    distributed: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Features of every image of ``dataset``, in order, each exactly once.

    The encoder runs in eval mode without gradient; its parameters and buffers are proven untouched by a digest before
    and after, and each submodule gets back the mode it had. Where torch.distributed is initialised every process
    encodes its share and all of them get the whole.

    Args:
        encoder: images (B, C, H, W), uint8 or floating point in [0, 1] -> (B, F).
        dataset: see ``linear_eval.images.SizedImages``.
        batch_size: images an encoder call, the last one may be smaller.
        device: where the encoder runs, moved there if need be; by default where its parameters are.
        workers: processes that read images of a set that is not one tensor.
        autocast: bfloat16 or float16 to run the encoder in; features are float32 in any case.
        distributed: share the images among the processes of torch.distributed, if it is initialised: all of them must
            call. False where one process evaluates alone.
        progress: called with (images done, images in all) of this process.

    Raises:
        DataError: an empty set, or images or features of a wrong shape.
        RuntimeError: the encoder changed its own state.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: expected at least 1")
    if len(dataset) == 0:
        raise DataError("the set to take features of is empty: at least one image is needed")
    first = next(encoder.parameters(), None)
    device = torch.device(device) if device is not None else torch.device("cpu") if first is None else first.device
    encoder.to(device)
    shared = distributed and dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if shared else (0, 1)
    share = torch.arange(rank, len(dataset), world)
    x: Tensor | None = None
    y = torch.empty(len(share), dtype=torch.int64)
    done = 0
    with frozen(encoder), torch.no_grad():
        for images, labels in image_batches(dataset, share, batch_size, device, workers):
            with torch.autocast(device.type, autocast) if autocast is not None else nullcontext():
                z = encoder(images)
            if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != len(images):
                got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
                raise DataError(f"the encoder made {got} of {tuple(images.shape)} images: expected ({len(images)}, F)")
            x = torch.empty(len(share), z.shape[1]) if x is None else x
            x[done : done + len(z)] = z.float().cpu()
            y[done : done + len(z)] = labels
            done += len(z)
            if progress is not None:
                progress(done, len(share))
    if world > 1:
        return _gather(x, y, share, len(dataset), world, device)
    assert x is not None and done == len(dataset)
    return Features(x, y, share)


def _gather(x: Tensor | None, y: Tensor, share: Tensor, count: int, world: int, device: torch.device) -> Features:
    """The shares of all processes as one whole, in order. Shares differ by one row at most and are padded to equal."""
    device = device if dist.get_backend() == "nccl" else torch.device("cpu")
    width = torch.tensor(0 if x is None else x.shape[1], device=device)
    dist.all_reduce(width, op=dist.ReduceOp.MAX)
    longest = -(-count // world)

    def padded(t: Tensor) -> Tensor:
        return F.pad(t, (0, 0) * (t.ndim - 1) + (0, longest - len(t))).to(device)

    def gathered(t: Tensor) -> Tensor:
        parts = [torch.empty_like(t) for _ in range(world)]
        dist.all_gather(parts, t)
        # Process r holds images r, r + world, ...: stacked along dim 1 they are in order, and the padding is last.
        return torch.stack(parts, 1).flatten(0, 1)[:count].cpu()

    x = torch.zeros(0, int(width)) if x is None else x
    features = Features(gathered(padded(x)), gathered(padded(y)), gathered(padded(share)))
    assert torch.equal(features.index, torch.arange(count)), "every image exactly once"
    return features


class RawPixels(nn.Module):
    """The encoder that does nothing: pixels in [0, 1], averaged down to at most ``bound`` x ``bound``, as one row.

    The bound keeps the features of large images (150,528 at 224 px) comparable in width with an encoder's.
    """

    def __init__(self, bound: int = 32) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        height, width = (min(side, self.bound) for side in pixels.shape[-2:])
        if (height, width) != tuple(pixels.shape[-2:]):
            pixels = F.adaptive_avg_pool2d(pixels, (height, width))
        return pixels.flatten(1)


def pixel_features(dataset: SizedImages, size: int = 32, *, batch_size: int = 256, workers: int = 0) -> Features:
    """The baseline of no encoder at all, see ``RawPixels``: images larger than ``size`` are averaged down to it."""
    return extract_features(RawPixels(size), dataset, batch_size, "cpu", workers=workers)
