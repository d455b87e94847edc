"""Test images that have a near-copy in training: the same shot again, re-encoded, resized, brighter, moved by a pixel or two.

A score on such an image tells what was remembered, not what was learned. Copies are found from pixels alone, in two looks.
The first, at 8 x 8 in colour, brings each test image its nearest training images by one matrix product. The second
compares edges: the gray image at 32 x 32 without what varies slowly, as the correlation r at the best shift of up to 3 of
the 32 pixels. How much r says depends on how much there is to agree on, so it is weighed as a correlation of n values is,
atanh(r) * sqrt(n), with n the number of frequencies that the picture's energy is spread over (about 30 for an 8 x 8 digit,
hundreds for a photograph). ``docs/decisions.md`` (2026-11-25) has what the thresholds find and what they miss.

>>> photos = torch.randint(256, (40, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
>>> train, test = fingerprints(photos[:30]), fingerprints((0.8 * photos[25:].float()).byte())
>>> found = near_copies(train, test)
>>> int(found.copied.sum()), found.nearest[:5].tolist()
(5, [25, 26, 27, 28, 29])
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr.progress import each

__all__ = ["THRESHOLD", "NearCopies", "fingerprints", "near_copies"]

THRESHOLD = 16.0
"""Weighed agreement of edges from which two images are called near-copies."""

_COARSE, _FINE = 8, 32
_BLUR = 5
_LOOKED_AT = 3
_WORTH_A_LOOK = 0.75
_SHIFTS = torch.arange(-12, 13) / 4
_FLAT = 1 / 255
"""Deviation of the edges, on the scale of black 0 to white 1, below which an image has none to compare."""

_BLOCK, _CANDIDATES, _PAIRS = 512, 1 << 16, 256


@dataclass(frozen=True)
class NearCopies:
    """What was found for each of M test images."""

    copied: Annotated[Tensor, "bool M"]
    """Whether a training image is a near-copy of it."""

    nearest: Annotated[Tensor, "int64 M"]
    """The training image that agrees best, whether a copy or not; -1 where none came near enough to be looked at."""

    agreement: Annotated[Tensor, "float32 M"]
    """Weighed agreement with it, 0 where none was looked at."""


@torch.no_grad()
def fingerprints(images: Annotated[Tensor, "B C H W"]) -> Annotated[Tensor, "float16 B P"]:
    """What ``near_copies`` compares of each image, (B, 1024 + 64 C) float16, whatever its height and width.

    Args:
        images: uint8, or floating point in [0, 1].
    """
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    coarse = F.adaptive_avg_pool2d(pixels, _COARSE)  # (B, C, 8, 8)
    coarse = coarse - coarse.mean((2, 3), keepdim=True)
    gray = pixels.mean(1, keepdim=True)
    gray = F.interpolate(gray, (_FINE, _FINE), mode="bilinear", antialias=True)
    edge = _BLUR // 2
    fine = gray - F.avg_pool2d(F.pad(gray, (edge,) * 4, mode="reflect"), _BLUR, 1)  # (B, 1, 32, 32)
    return torch.cat([fine.flatten(1), coarse.flatten(1)], 1).half()


@torch.no_grad()
def near_copies(
    train: Annotated[Tensor, "float16 N P"],
    test: Annotated[Tensor, "float16 M P"],
    threshold: float = THRESHOLD,
    device: torch.device | str = "cpu",
    *,
    same: bool = False,
) -> NearCopies:
    """For each of M test images the training image most like it, and whether it is a near-copy.

    Images without edges (of one colour, or a smooth ramp) are like one another in everything that is compared; they are
    copies of nothing. Neither N x M similarities nor the spectra of all images are ever held.

    Args:
        train, test: ``fingerprints`` of images with equally many channels.
        threshold: agreement from which an image is a copy.
        device: where to compare.
        same: both are the same images; none is compared with itself.
    """
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"fingerprints of {train.shape[1]} and {test.shape[1]} values: images of other channels")
    agreement = torch.zeros(len(test))
    nearest = torch.full((len(test),), -1)
    if not len(train):
        return NearCopies(agreement > threshold, nearest, agreement)
    for start in each(range(0, len(test), _BLOCK), "near-copies", unit="parts"):
        rows = torch.arange(start, min(start + _BLOCK, len(test)))
        similarity, candidates = _candidates(train, test[rows], device, rows if same else None)
        for look in range(candidates.shape[1]):
            near = (similarity[:, look] > _WORTH_A_LOOK) & (agreement[rows] <= threshold)
            for part in near.nonzero().flatten().split(_PAIRS):
                if not len(part):  # the one part of nothing
                    continue
                at, other = rows[part], candidates[part, look]
                found = _agreement(test[at].to(device), train[other].to(device)).cpu()
                better = found > agreement[at]
                agreement[at[better]], nearest[at[better]] = found[better], other[better]
    return NearCopies(agreement > threshold, nearest, agreement)


def _candidates(train: Tensor, test: Tensor, device: torch.device | str, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """Correlation (m, k) and number (m, k) of the training images most like each of m test images at 8 x 8 in colour.

    Where they are among the training images themselves, ``own`` are their numbers there.
    """
    rows = F.normalize(test[:, _FINE**2 :].to(device).float(), eps=1e-3)
    values, numbers = [], []
    for start in range(0, len(train), _CANDIDATES):
        others = F.normalize(train[start : start + _CANDIDATES, _FINE**2 :].to(device).float(), eps=1e-3)
        similarity = rows @ others.t()
        if own is not None:
            inside = ((own >= start) & (own < start + len(others))).nonzero().flatten()
            similarity[inside, own[inside] - start] = -1
        similar, number = similarity.topk(min(_LOOKED_AT, len(others)), dim=1)
        values.append(similar)
        numbers.append(number + start)
    best, place = torch.cat(values, 1).topk(min(_LOOKED_AT, len(train)), dim=1)
    return best.cpu(), torch.cat(numbers, 1).gather(1, place).cpu()


def _agreement(a: Tensor, b: Tensor) -> Tensor:
    """Weighed correlation (n,) of the edges of images a and b, each (n, P), at the best shift."""
    (first, spread, edges), (second, other_spread, other_edges) = _spectrum(a), _spectrum(b)
    frequency = torch.fft.fftfreq(_FINE, device=a.device)
    turn = torch.exp(2j * torch.pi * _SHIFTS.to(a.device)[:, None] * frequency)  # (S, 32)
    cross = first * second.conj()
    shifted = (turn @ (cross @ turn.t())).real  # (n, S, S): the correlation at every shift of S x S
    r = shifted.flatten(1).amax(1).clamp(0, 1 - 1e-5)
    return torch.where(edges & other_edges, torch.atanh(r) * torch.minimum(spread, other_spread).sqrt(), 0.0)


def _spectrum(prints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Spectrum (n, 32, 32) of unit energy, number of frequencies (n,) it is spread over, and whether there are edges (n,)."""
    ramp = 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(8, device=prints.device) + 0.5) / 8)
    taper = torch.ones(_FINE, device=prints.device)
    taper[:8], taper[-8:] = ramp, ramp.flip(0)  # what a shift brings in at one border is not what leaves at the other
    fine = prints[:, : _FINE**2].float().view(-1, _FINE, _FINE)
    fine = fine * taper * taper[:, None]
    fine = fine - fine.mean((1, 2), keepdim=True)
    edges = fine.square().mean((1, 2)).sqrt() > _FLAT
    spectrum = torch.fft.fft2(fine)
    spectrum = spectrum / spectrum.abs().square().sum((1, 2), keepdim=True).sqrt().clamp_min(1e-9)
    energy = spectrum.abs().square().flatten(1)
    return spectrum, 1 / energy.square().sum(1).clamp_min(1e-9), edges
