"""Weights that were learned at one image size, for a network at another: what of them depends on it is resampled by timm.

Vision transformers learn an embedding for each patch; BEiT, Swin and others a table with a row for each offset between two
patches. timm has a function for each family, ``checkpoint_filter_fn``, which resamples both as their authors do.
"""

import re
import sys
import warnings
from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["at_other_size"]

_POSITIONS = re.compile(r"pos_embed|relative_position|rel_pos")


def at_other_size(tensors: Mapping[str, Tensor], backbone: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """``tensors``, named as those of ``backbone``, with its embeddings of positions in the shapes that it has.

    Returns:
        The tensors, and what was resampled, in words; what timm has no function for stays as it is.
    """
    wanted = backbone.state_dict()
    differ = [
        name
        for name, tensor in tensors.items()
        if name in wanted and _POSITIONS.search(name) and tensor.shape != wanted[name].shape
    ]
    family = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if not differ or family is None:
        return dict(tensors), []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of how timm looks positions up
            resampled = family({name: tensor.clone() for name, tensor in tensors.items()}, backbone)
    except (RuntimeError, ValueError, KeyError, AttributeError, AssertionError, TypeError):
        return dict(tensors), []  # positions that do not form a square, say: the caller names what does not fit
    done = [name for name in differ if name in resampled and resampled[name].shape == wanted[name].shape]
    said = [f"{name} resampled from {tuple(tensors[name].shape)} to {tuple(wanted[name].shape)}" for name in done[:1]]
    if len(done) > 1:
        said = [f"{said[0]}, and {len(done) - 1} more like it"]
    return {**tensors, **{name: resampled[name] for name in done}}, said
