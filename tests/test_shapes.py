"""The shapes that signatures name are executed: a call that breaks them fails, and no public signature goes without."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
import torch
from shapes import CHECKED, CHECKS, ShapeError, named, shape_checked
from torch import Tensor

import augment
import linear_eval
from simclr import losses

ROOT = Path(__file__).parent.parent
FILES = {str(path) for package in ("augment", "simclr", "linear_eval") for path in (ROOT / package).rglob("*.py")}


def pairs(a: Annotated[Tensor, "float N D"], b: Annotated[Tensor, "float N D"]) -> Annotated[Tensor, "float N"]:
    """A function that takes what it is given, whatever it says."""
    return (a * b).sum(-1) if b.ndim == 2 else b


def sized(x: Annotated[Tensor, "uint8|float C H W"], size: int) -> Annotated[Tensor, "float C {size} {size}"]:
    return x.float()


def several(xs: tuple[Annotated[Tensor, "int64 N"], ...], y: Annotated[Tensor, "N"] | None = None) -> None:
    pass


def test_what_a_signature_names_is_let_through() -> None:
    assert shape_checked(pairs, "pairs")(torch.ones(3, 2), torch.ones(3, 2)).tolist() == [2, 2, 2]
    shape_checked(sized, "sized")(torch.zeros(3, 8, 8, dtype=torch.uint8), 8)
    shape_checked(several, "several")((torch.arange(4), torch.arange(4)), torch.ones(4))
    shape_checked(several, "several")((torch.arange(4),))


@pytest.mark.parametrize(
    "call",
    [
        lambda: shape_checked(pairs, "pairs")(torch.ones(3, 2), torch.ones(1, 2)),  # N is 3 and 1
        lambda: shape_checked(pairs, "pairs")(torch.ones(3, 2), torch.ones(3)),
        lambda: shape_checked(pairs, "pairs")(torch.ones(3, 2), b=torch.ones(3, 2, dtype=torch.int64)),
        lambda: shape_checked(sized, "sized")(torch.zeros(3, 8, 8), size=16),
        lambda: shape_checked(several, "several")((torch.arange(4),), torch.ones(5)),
        lambda: shape_checked(several, "several")((torch.ones(4),)),  # of another type
    ],
)
def test_what_breaks_it_is_not(call: Callable[[], Any]) -> None:
    with pytest.raises(ShapeError, match="is called with other shapes than it names"):
        call()


def test_a_functions_own_error_comes_first() -> None:
    with pytest.raises(ValueError, match="expects"):
        losses.nt_xent(torch.randn(3, 4))


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions of the checked packages' public names, and what their classes are called with."""
    for face in (augment, losses, linear_eval):
        for name in face.__all__:
            member = getattr(face, name)
            home = getattr(member, "__module__", "")
            if not any(f"{home}.".startswith(f"{package}.") for package in CHECKED):
                continue
            calls = [member]
            if isinstance(member, type):
                methods = ("forward", "apply", "logits", "predict", "probability", "compare")
                calls = [vars(member)[method] for method in methods if method in vars(member)]
            # Not those that kornia's base class puts into its subclasses.
            ours = (
                call
                for call in calls
                if inspect.isfunction(call) and inspect.unwrap(call).__code__.co_filename in FILES
            )
            yield from ((f"{home}.{call.__qualname__}", call) for call in ours)


@pytest.mark.parametrize("call", [pytest.param(call, id=where) for where, call in public()])
def test_every_public_signature_names_its_shapes(call: Callable[..., Any]) -> None:
    hints = inspect.get_annotations(inspect.unwrap(call))
    bare = [name for name, hint in hints.items() if not named(hint) and Tensor in (hint, *get_args(hint))]
    assert not bare, f"{call.__qualname__}: no shape of {', '.join(bare)}"


def test_the_packages_are_under_the_check() -> None:
    before = dict(CHECKS)
    losses.NTXentLoss()(torch.randn(2, 4, 8))
    augment.preprocess(torch.zeros(1, 3, 8, 8), size=8)
    linear_eval.recall_at_k(torch.randn(6, 4), torch.arange(6) % 2, ks=(1,))
    grown = {name for name, count in CHECKS.items() if count > before.get(name, 0)}
    assert {
        "simclr.losses.ntxent.loss.NTXentLoss.forward",
        "augment.evaluation.preprocess",
        "linear_eval.matching.retrieval.recall_at_k",
    } <= grown
    with pytest.raises(ShapeError):
        losses.EmbeddedBatch(torch.zeros(2, 4, 8), torch.zeros(3), torch.arange(4), 0)
