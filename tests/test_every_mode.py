"""Every objective in every mode that it has: derivatives of its derivatives, forward mode, and rows of any length."""

import copy
import dataclasses
import typing
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from simclr.distances import DistanceName, paired_distance, pairwise_distance
from simclr.losses import EmbeddedBatch, LossConfig
from simclr.objectives import OBJECTIVES, Objective, build_objective

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # which torch itself calls

SIZES = {
    "few dimensions": (9, 5, 5),
    "many dimensions": (9, 24, 5),  # a mined loss takes its distances out of the whole matrix
    "large classes": (30, 3, 2),  # batch-all sorts
}
"""Images in two views, dimensions, classes."""

KINDS = typing.get_args(DistanceName)


def modes(config: type[LossConfig]) -> Iterator[tuple[str, LossConfig]]:
    """The config as it is, and with each other value of a field that has a few: mining, distance, switches, none."""
    yield config.name, config()
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint, words = hints[field.name], typing.get_args(hints[field.name])
        values = words if typing.get_origin(hint) is typing.Literal else (None,) if type(None) in words else ()
        for value in (not field.default,) if hint is bool else values:
            if value != field.default:
                yield f"{config.name}, {field.name} {value}", dataclasses.replace(config(), **{field.name: value})


MODES = dict(mode for config in OBJECTIVES for mode in modes(config))
REFUSED = ("circle",)
"""Losses that hold something while their gradient is taken."""

DEFAULTS = [config.name for config in OBJECTIVES if config.name not in REFUSED]


def on_rows(config: LossConfig, images: int, dim: int, classes: int) -> tuple[Objective, Callable[..., Tensor], Tensor]:
    """An objective, a function of embeddings (2, images, dim) that calls it or a copy of it, and embeddings for it."""
    objective = build_objective(config, classes=classes, dim=dim, samples=images, seed=0).eval()
    z, keys = torch.randn(2, 2, images, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64).unbind()
    labels = torch.arange(images) % classes

    def loss(z: Tensor, *_: Tensor, of: Objective = objective) -> Tensor:
        taken = keys.to(z.dtype) if config.needs_keys else None
        return of(EmbeddedBatch(z, labels, torch.arange(images), 0, taken))

    return objective, loss, z


def assert_derivatives(config: LossConfig, images: int, dim: int, classes: int) -> None:
    objective, loss, z = on_rows(config, images, dim, classes)
    parameters = tuple(p for p in objective.double().parameters() if p.requires_grad)
    along = torch.randn_like(z)
    (_, slope), forward = (torch.func.jvp(one, (z,), (along,)) for one in (loss, torch.func.grad(loss)))
    leaf = z.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (twice,) = torch.autograd.grad((gradient * along).sum(), leaf)
    torch.testing.assert_close(slope, (gradient * along).sum(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(forward[1], twice, rtol=1e-8, atol=1e-10)
    assert torch.autograd.gradgradcheck(loss, (leaf, *parameters), fast_mode=True)


def assert_refused(config: LossConfig) -> None:
    """A gradient there is, and one sentence about every other derivative."""
    _, loss, z = on_rows(config, *SIZES["few dimensions"])
    (once,) = torch.autograd.grad(loss(z.requires_grad_()), z)
    (gradient,) = torch.autograd.grad(loss(z), z, create_graph=True)
    assert torch.equal(gradient, once) and torch.equal(torch.func.grad(loss)(z.detach()), once)
    for more in (
        lambda: gradient.sum().backward(),
        lambda: torch.func.jvp(torch.func.grad(loss), (z.detach(),), (z.detach(),)),
        lambda: torch.func.jvp(loss, (z.detach(),), (z.detach(),)),
        lambda: torch.func.hessian(loss)(z.detach()),
        lambda: torch.func.jacrev(torch.func.jacrev(loss))(z.detach()),
    ):
        with pytest.raises(NotImplementedError, match=r"; use .* for second derivatives"):
            more()


@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_something_is_differentiated_once(name: str) -> None:
    assert_refused(MODES[name])


@pytest.mark.parametrize("name", DEFAULTS)
def test_derivatives_of_derivatives(name: str) -> None:
    assert_derivatives(MODES[name], *SIZES["few dimensions"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODES if name not in DEFAULTS and name.split(",")[0] not in REFUSED])
def test_derivatives_of_derivatives_in_other_modes(name: str) -> None:
    assert_derivatives(MODES[name], *SIZES["few dimensions"])


@pytest.mark.long
@pytest.mark.parametrize("size", [size for size in SIZES if size != "few dimensions"])
@pytest.mark.parametrize("name", [name for name in MODES if name.split(",")[0] not in REFUSED])
def test_derivatives_of_derivatives_at_other_sizes(name: str, size: str) -> None:
    assert_derivatives(MODES[name], *SIZES[size])


@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_differentiated_as_often_as_one_likes(kind: DistanceName) -> None:
    x, y = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (6, 3))
    weight = torch.linspace(-1, 2, 36, dtype=torch.float64).view(6, 6)
    for of, given in (
        (lambda x, y: pairwise_distance(x, y, kind), (x, y)),
        (lambda x: pairwise_distance(x, kind=kind), (x,)),
        (lambda x, y: paired_distance(x[:3], y, kind), (x, y)),
    ):
        given = tuple(one.clone().requires_grad_() for one in given)
        assert torch.autograd.gradcheck(of, given, check_forward_ad=True, fast_mode=True)
        assert torch.autograd.gradgradcheck(of, given, fast_mode=True)

    def of_all(x: Tensor) -> Tensor:
        return (pairwise_distance(x, kind=kind).square() * weight).sum()

    hessian = torch.func.hessian(of_all)(x)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(of_all, x))
    torch.testing.assert_close(hessian, torch.func.jacrev(torch.func.jacrev(of_all))(x))


def draws(config: LossConfig) -> bool:
    return getattr(config, "mining", "") in ("random", "distance-weighted")


@pytest.mark.parametrize("scale", [1e-30, 3e18])
@pytest.mark.parametrize("name", [name for name, config in MODES.items() if not draws(config)])
def test_rows_of_any_length_give_what_float64_gives(name: str, scale: float) -> None:
    objective, loss, z = on_rows(MODES[name], *SIZES["many dimensions"])
    narrow = (scale * z.float()).requires_grad_()
    value = loss(narrow)
    value.backward()
    wide = narrow.detach().double().requires_grad_()
    wanted = loss(wide, of=copy.deepcopy(objective).double())
    wanted.backward()
    torch.testing.assert_close(value, wanted.float(), rtol=1e-5, atol=1e-6)
    largest = wide.grad.abs().max().item()
    torch.testing.assert_close(narrow.grad.double(), wide.grad, rtol=1e-3, atol=1e-4 * largest + 1e-37)


@pytest.mark.parametrize("name", [name for name, config in MODES.items() if draws(config)])
def test_rows_of_any_length_draw_the_same(name: str) -> None:
    config = MODES[name]
    if not getattr(config, "normalize", True):
        return
    _, loss, z = on_rows(config, *SIZES["many dimensions"])
    wanted = loss(z.float())
    for scale in (1e-30, 1e18):
        torch.testing.assert_close(loss(scale * z.float()), wanted, rtol=1e-5, atol=1e-6)
