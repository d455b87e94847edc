"""How much arithmetic a model is, and how much its device could do at most."""

import copy
import re
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

__all__ = ["Peak", "measured_peak", "model_flops", "peak_flops"]


class Peak(NamedTuple):
    """The most floating-point operations a second that a device can do."""

    flops: float
    """Operations a second; a multiplication and an addition are two."""

    source: str
    """Where the figure is from, for people."""


# Dense tensor-core peaks with float32 accumulation, in 10^12 operations a second, and float32 outside the tensor cores:
# NVIDIA's data sheets (their figures "with sparsity" halved) and, for GeForce, the architecture white papers (Ampere
# GA102, Ada). A name that has more to it (a laptop's chip, a MIG slice) is another device and is measured.
_SHEETS: tuple[tuple[str, dict[str, float]], ...] = (
    (r"H200", {"bf16": 989.4, "fp16": 989.4, "tf32": 494.7, "fp32": 66.9}),
    (r"H100 80GB HBM3", {"bf16": 989.4, "fp16": 989.4, "tf32": 494.7, "fp32": 66.9}),
    (r"H100 PCIe", {"bf16": 756, "fp16": 756, "tf32": 378, "fp32": 51}),
    (r"H100 NVL", {"bf16": 835, "fp16": 835, "tf32": 417, "fp32": 60}),
    (r"A100(-SXM4|-PCIE|-SXM)?-\d+GB|A100 80GB PCIe", {"bf16": 312, "fp16": 312, "tf32": 156, "fp32": 19.5}),
    (r"A40", {"bf16": 149.7, "fp16": 149.7, "tf32": 74.8, "fp32": 37.4}),
    (r"A30", {"bf16": 165, "fp16": 165, "tf32": 82, "fp32": 10.3}),
    (r"A10", {"bf16": 125, "fp16": 125, "tf32": 62.5, "fp32": 31.2}),
    (r"L40S", {"bf16": 362, "fp16": 362, "tf32": 183, "fp32": 91.6}),
    (r"L4", {"bf16": 121, "fp16": 121, "tf32": 60, "fp32": 30.3}),
    (r"V100-SXM2-\d+GB", {"fp16": 125, "fp32": 15.7}),
    (r"V100-PCIE-\d+GB", {"fp16": 112, "fp32": 14}),
    (r"T4", {"fp16": 65, "fp32": 8.1}),
    (r"RTX 4090", {"bf16": 165.2, "fp16": 165.2, "tf32": 82.6, "fp32": 82.6}),
    (r"RTX 3090", {"bf16": 71, "fp16": 71, "tf32": 35.6, "fp32": 35.6}),
)
_MAKERS = r"(NVIDIA |Tesla |GeForce )*"
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}


def model_flops(model: nn.Module, inputs: Tensor) -> int | None:
    """Floating-point operations of one forward and backward pass of ``model(inputs)``, a fused multiply-add being two.

    Convolutions and matrix products are counted, as everyone counts them; nothing else comes near. They are counted on a
    copy without memory (torch's meta device) in eval mode, so nothing runs and nothing changes. The gradient to
    ``inputs`` is not part of it.

    Returns:
        The number, or None where the model cannot run without values.
    """
    try:
        # In eval mode: the synchronised BatchNorm wants a GPU otherwise. Norms and dropout do not count.
        shadow = copy.deepcopy(model).to("meta").eval().requires_grad_()
        formulas = {torch.ops.aten.convolution_backward: _convolution_backward}
        counter = FlopCounterMode(display=False, custom_mapping=formulas)
        with counter, torch.enable_grad():
            shadow(torch.empty_like(inputs, device="meta", requires_grad=False)).sum().backward()
    except RuntimeError:
        return None
    return int(counter.get_total_flops())


def _convolution_backward(
    gradient: list[int],
    x: list[int],
    weight: list[int],
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    _output_padding: object,
    _groups: int,
    wanted: Sequence[bool],
    **_: object,
) -> int:
    """Each of the gradients to inputs and to weights costs what the forward pass does.

    torch's own formula takes a grouped convolution's weight gradient for a full one's: for ConvNeXt, whose convolutions
    are depthwise, that triples the count.
    """
    return (int(wanted[0]) + int(wanted[1])) * conv_flop_count(x, weight, gradient, transposed)


def peak_flops(device: torch.device, precision: str) -> Peak:
    """The device's dense peak for an encoder in ``precision``: from its data sheet, or else measured here.

    Args:
        device: the device.
        precision: ``bf16``, ``fp16`` or ``fp32``; on a GPU that convolves float32 in TF32 the peak is that of TF32.
    """
    if device.type != "cuda":
        return measured_peak(device, precision)
    if precision == "fp32" and torch.backends.cudnn.conv.fp32_precision == "tf32":  # type: ignore[attr-defined]
        precision = "tf32" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    name = torch.cuda.get_device_name(device)
    listed = listed_peak(name, precision)
    return listed if listed is not None else measured_peak(device, precision)


def listed_peak(name: str, precision: str) -> Peak | None:
    """The data sheet's dense peak of the GPU that calls itself ``name``.

    >>> listed_peak("NVIDIA A100-SXM4-40GB", "bf16").flops
    312000000000000.0
    >>> listed_peak("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16")
    """
    for pattern, peaks in _SHEETS:
        if re.fullmatch(_MAKERS + f"({pattern})", name):
            found = peaks.get(precision)
            return None if found is None else Peak(found * 1e12, f"data sheet of the {name}, {precision}, dense")
    return None


def measured_peak(device: torch.device, precision: str, size: int | None = None, rounds: int = 6) -> Peak:
    """The best of a few large square matrix products: what a library reaches here, at most the true peak."""
    size = size if size is not None else 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(_TYPES[precision]) for _ in range(2))
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    best = float("inf")
    try:
        matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        for _ in range(rounds):
            wait_for(device)
            began = time.perf_counter()
            a @ b
            wait_for(device)
            best = min(best, time.perf_counter() - began)
    finally:
        matmul.fp32_precision = before
    return Peak(2 * size**3 / best, f"measured: the best of {rounds} products of {size} x {size} in {precision}")


def wait_for(device: torch.device) -> None:
    """Return when everything that was given to the device is done."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
