"""The encoder as it is called: images in, of any size and kind, features out, prepared as they were in training."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from augment import preprocess
from augment.pixel_range import check_range
from simclr.data.decode import Fit, Reader
from simclr.model.dense import feature_map
from simclr.model.encoder import feature_width
from simclr.model.modes import evaluating

__all__ = ["Encoder", "Output"]

Output = Literal["vector", "map"]
"""What an encoder gives of an image: one vector (F,), or a map of them (F, h, w)."""

RAW = (torch.int16, torch.uint16, torch.int32, torch.uint32)
"""Integers that are an instrument's own values, rather than those of a picture."""


class Encoder(nn.Module):
    """A backbone with its preprocessing: images (B, C, H, W), uint8 or float in [0, 1], any size -> features (B, F).

    With ``output="map"`` it gives (B, F, h, w), what the backbone pools its vector from; see ``feature_map``.

    C is ``channels``; where that is 3, gray images (C = 1) are repeated to three channels. Images become squares of
    ``size`` as ``fit`` says (``augment.preprocess``), then mean and standard deviation are applied as they were in
    training. ``int16``, ``uint16``, ``int32`` and ``uint32`` are an instrument's own values: they become 0 to 255 by
    ``value_range``, where that is None by the full range of their type. ``read`` reads a file as training did.

    Raises:
        TypeError: no tensor, or one of other integers.
        ValueError: not (B, C, H, W) with C as it was in training, or floating point far outside [0, 1]; on a CPU the
            range of every batch is looked at (and NaN), elsewhere once, in the first batch of floating point.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        size: int,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        reader: Reader | None = None,
        output: Output = "vector",
    ) -> None:
        super().__init__()
        self.backbone, self.output = backbone, output
        self.size, self.mean, self.std = size, mean, std
        self.reader = Reader(size=size) if reader is None else reader
        """How files became pixels in training; None is colours, cropped."""
        self.features = feature_width(backbone, size, self.channels)
        """Width F of the features, and channels of a map of them."""
        if output == "map":
            self.features = self._map_width()
        self._range_known = False

    @torch.no_grad()
    def _map_width(self) -> int:
        device = next((tensor.device for tensor in self.backbone.parameters()), None)
        with evaluating(self.backbone):  # BatchNorm would learn from what is no image
            return feature_map(self.backbone, torch.zeros(1, self.channels, self.size, self.size, device=device)).shape[
                1
            ]

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.reader.channels

    @property
    def fit(self) -> Fit:
        """How an image becomes a square: ``crop``, ``pad`` or ``stretch``."""
        return self.reader.fit

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Values of files that become 0 and 255; None is the full range of each kind of file."""
        return self.reader.value_range

    def read(self, path: str | Path, page: int = 0) -> Tensor:
        """A file as training read it: uint8 (1, C, S, S), whose features are those that ``scripts/embed.py`` writes.

        Raises:
            DataError: a file that does not decode, or has another number of bands.
        """
        return self.reader.square(Path(path), page)[None]

    def square(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) of one size as squares, float32 in [0, 1]: what the encoder makes of them before it normalises."""
        return preprocess(self._pixels(images), self.size, fit=self.fit)

    def _pixels(self, images: Tensor) -> Tensor:
        self._check(images)
        if images.shape[1] == 1:
            images = images.expand(-1, self.channels, -1, -1)
        return _eight_bits(images, self.value_range) if images.dtype in RAW else images

    def forward(self, images: Tensor) -> Tensor:
        prepared = preprocess(self._pixels(images), self.size, self.mean, self.std, self.fit)
        return self.backbone(prepared) if self.output == "vector" else feature_map(self.backbone, prepared)

    def _check(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise TypeError(
                f"images are {type(images).__module__}.{type(images).__name__}: expected a tensor (B, C, H, W); of a PIL "
                'image make one with torchvision.transforms.functional.pil_to_tensor(image.convert("RGB"))[None]'
            )
        shape, takes = tuple(images.shape), (1, 3) if self.channels == 3 else (self.channels,)
        if images.ndim != 4 or images.shape[1] not in takes:
            hint = ""
            if images.ndim == 3:
                hint = "; a single image needs a batch of its own: image[None]"
            elif images.ndim == 4 and images.shape[3] in {*takes, 4}:
                hint = "; channels come second: images.permute(0, 3, 1, 2)"
            elif images.ndim == 4 and images.shape[1] == 4 and self.channels == 3:
                hint = "; leave the alpha channel out: images[:, :3]"
            elif images.ndim == 4:
                hint = f"; got C = {images.shape[1]}, and the encoder was trained on {self.channels}"
            known = " or ".join(map(str, takes))
            raise ValueError(f"images have the shape {shape}: expected (B, C, H, W) with C = {known}{hint}")
        # Where looking waits for the device, at the first batch alone.
        check_range(images, ". The encoder normalises by itself", wait=not self._range_known)
        self._range_known = self._range_known or images.is_floating_point()


def _eight_bits(images: Tensor, value_range: tuple[float, float] | None) -> Tensor:
    """Raw values as uint8, rounded as a reader of files rounds them."""
    full = torch.iinfo(images.dtype)
    low, high = (full.min, full.max) if value_range is None else value_range
    return ((images.double() - low) / (high - low) * 255).clamp(0, 255).round().to(torch.uint8)
