"""What people hand to a loss, as what it takes: NumPy's arrays, lists, other integers, the views one by one or in one tensor.

Only what can mean one thing is changed; for the rest there is a hint for the message of the loss.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from simclr.mining.given import are_texts, as_labels, as_tensor

__all__ = ["Kind", "as_taken", "hint"]

Kind = Literal["", "views", "labels", "views and labels"]
"""What a loss takes: all views (V, B, D); embeddings (N, D) and labels (N,); views and one label an image; "" its own."""


def as_taken(kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call as a loss of ``kind`` takes them.

    Arrays and lists become tensors, integers of other sizes int64, a list of views or two views one by one (V, B, D), and for a
    loss on embeddings with labels views (V, B, D) with a label an image (V * B, D) with as many.

    Raises:
        TypeError: labels in words, or labels for a loss that compares views.
    """
    if not kind or not args:
        return args, kwargs
    first, *rest = args
    first = as_tensor(first)
    if kind == "views":
        labelled = any(are_texts(one) for one in rest)
        others = [] if labelled else [as_tensor(one) for one in rest]
        if others and all(_is_view(one, first) for one in others):
            return (torch.stack([first, *others]),), kwargs
        if (
            others
            and isinstance(first, Tensor)
            and all(isinstance(one, Tensor) and one.ndim == first.ndim for one in others)
        ):
            shapes = ", ".join(str(tuple(one.shape)) for one in (first, *others))
            raise ValueError(
                f"the views have the shapes {shapes}; expected one shape (B, D), or all in one tensor (V, B, D)"
            )
        if labelled or (
            others and all(isinstance(one, Tensor) and (not one.is_floating_point() or one.ndim == 1) for one in others)
        ):
            raise TypeError(
                "this loss compares the views of images and takes no labels: loss(torch.stack([z0, z1])); with labels use "
                "SupConLoss or another loss on labels"
            )
        return (first, *rest), kwargs
    names = ("labels", "indices")
    given = {**dict(zip(names, rest)), **{name: kwargs[name] for name in names if name in kwargs}}
    device = first.device if isinstance(first, Tensor) else None
    given = {name: as_labels(value, name, device) for name, value in given.items()}
    if kind == "labels" and isinstance(first, Tensor) and first.ndim == 3:
        first, given = _flat(first, given)
    place = [given.pop(name) if i < len(rest) else None for i, name in enumerate(names)][: len(rest)]
    return (first, *place, *rest[len(names) :]), {**kwargs, **given}


def hint(first: Any, labels: Any) -> str:
    """The end of a message about ``labels`` that are no labels, where they look like a second view."""
    if isinstance(labels, Tensor) and isinstance(first, Tensor) and _is_view(labels, first):
        return (
            "; are these two views? A loss on labels is given the embeddings of both and their labels: "
            "loss(torch.cat([z0, z1]), labels.repeat(2)), and one on views and labels loss(torch.stack([z0, z1]), labels)"
        )
    return ""


def _is_view(one: Any, first: Any) -> bool:
    """Whether ``one`` looks like another view of the images that ``first`` (B, D) shows."""
    both = isinstance(one, Tensor) and isinstance(first, Tensor)
    return both and one.ndim == 2 and one.shape == first.shape and one.is_floating_point()


def _flat(z: Tensor, given: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Views (V, B, D) as rows, and what is said of every image for each of them."""
    views, batch, _ = z.shape
    labels = given.get("labels")
    if not isinstance(labels, Tensor) or labels.ndim == 0 or len(labels) not in (batch, views * batch):
        return z, given
    if len(labels) == batch and views > 1:
        given = {n: v.repeat(views, *[1] * (v.ndim - 1)) if isinstance(v, Tensor) else v for n, v in given.items()}
    return z.flatten(0, 1), given
