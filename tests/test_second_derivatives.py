"""Derivatives of derivatives of every objective, in every mode that it has, against differences in float64; forward mode too."""

import dataclasses
import typing
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from simclr.losses import EmbeddedBatch, LossConfig
from simclr.objectives import OBJECTIVES, build_objective

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # which torch itself calls

SIZES = {
    "few dimensions": (9, 5, 5),
    "many dimensions": (9, 24, 5),  # a mined loss takes its distances out of the whole matrix
    "large classes": (30, 3, 2),  # batch-all sorts
}
"""Images in two views, dimensions, classes."""


def modes(config: type[LossConfig]) -> Iterator[tuple[str, LossConfig]]:
    """The config as it is, and with each other value of a field that has a few: mining, distance, switches."""
    yield config.name, config()
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        values = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
        for value in (not field.default,) if hint is bool else values:
            if value != field.default:
                yield f"{config.name}, {field.name} {value}", dataclasses.replace(config(), **{field.name: value})


MODES = dict(mode for config in OBJECTIVES for mode in modes(config))


def assert_right(config: LossConfig, images: int, dim: int, classes: int) -> None:
    objective = build_objective(config, classes=classes, dim=dim, samples=images, seed=0).double().eval()
    z, keys = torch.randn(2, 2, images, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64).unbind()
    labels = torch.arange(images) % classes

    def loss(z: Tensor, *_: Tensor) -> Tensor:
        return objective(EmbeddedBatch(z, labels, torch.arange(images), 0, keys if config.needs_keys else None))

    parameters = tuple(p for p in objective.parameters() if p.requires_grad)
    along = torch.randn_like(z)
    forward = torch.func.jvp(torch.func.grad(loss), (z,), (along,))[1]
    leaf = z.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (twice,) = torch.autograd.grad((gradient * along).sum(), leaf)
    torch.testing.assert_close(forward, twice, rtol=1e-8, atol=1e-10)
    assert torch.autograd.gradgradcheck(loss, (leaf, *parameters), fast_mode=True)
    _, slope = torch.func.jvp(loss, (z.detach(),), (along,))
    torch.testing.assert_close(slope, (gradient * along).sum(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", MODES)
def test_every_mode(name: str) -> None:
    assert_right(MODES[name], *SIZES["few dimensions"])


@pytest.mark.slow
@pytest.mark.parametrize("size", [size for size in SIZES if size != "few dimensions"])
@pytest.mark.parametrize("name", MODES)
def test_every_mode_at_other_sizes(name: str, size: str) -> None:
    assert_right(MODES[name], *SIZES[size])
