"""Weights to start from: our own runs, and checkpoint files of timm, torchvision, lightly and solo-learn.

Where in a file the weights lie is found, not listed: in the dictionary, and under the prefix (``backbone.``,
``module.encoder_q.``), under which the most tensors of the backbone appear by one of the names that are known for them.
"""

import hashlib
import re
from collections import Counter
from math import isqrt
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from simclr.config.model import EncoderConfig
from simclr.config.yaml import load_config
from simclr.errors import CheckpointError
from simclr.exchange.description import find_encoder, read_description
from simclr.exchange.foreign_names import namings
from simclr.exchange.positions import at_other_size
from simclr.exchange.sealed import refuse_changed
from simclr.exchange.stopped_run import checkpoint_backbone, is_checkpoint
from simclr.exchange.weights_file import Place, read_weights

__all__ = ["position_patches", "start_from"]

_AVERAGE = re.compile(r"momentum|teacher|target|encoder_k|ema|average")
"""Prefixes of a slow copy of the network (MoCo, BYOL, DINO); its like without one of these words is preferred."""

_CLASSIFIER = re.compile(r"^(fc|head|heads|classifier|linear|last_linear|head_dist)(\.|$)|(^|\.)num_batches_tracked$")
"""Tensors of a file that a backbone has no place for and does not miss."""


def start_from(backbone: nn.Module, config: EncoderConfig, channels: int = 3) -> str:
    """Load the weights that ``config.init`` names into ``backbone`` of ``channels``; return what was done, in words.

    Weights for images of three channels are fitted to another number as timm does it, and embeddings of positions to another
    number of patches.

    Raises:
        CheckpointError: no such file, not a file of weights, or, unless ``config.init_partial``, a tensor of the
            backbone that the file lacks or has in another shape, or one that the backbone has no place for. Every one
            of them is named.
    """
    assert config.init is not None
    path = Path(config.init)
    weights: dict[Place, dict[str, Tensor]] | None = None
    if is_checkpoint(path) is not None:
        weights, theirs = {(): checkpoint_backbone(path)}, load_config(path.parent.parent / "config.yaml").data.channels
    elif path.is_dir() or path.name in ("encoder.json", "encoder.safetensors"):
        path = find_encoder(path) / "encoder.safetensors"
        described = read_description(path.parent)
        refuse_changed(path, described.digests)
        theirs = described.channels
    else:
        theirs = 3
    if theirs not in (3, channels) and not config.init_partial:
        raise CheckpointError(
            f"encoder.init={config.init} was trained on images of {theirs} channel{'s' if theirs > 1 else ''}, these "
            f"have {channels}; set --data.channels {theirs}, or --encoder.init-partial starts its first layer afresh"
        )
    wanted = {name: t for name, t in backbone.state_dict().items() if not name.endswith("num_batches_tracked")}
    weights = read_weights(path) if weights is None else weights
    tensors, prefix, names = _found_in(weights, wanted, backbone)
    found = {name: tensors[prefix + theirs] for name, theirs in names.items() if prefix + theirs in tensors}
    fitted = _fitted(found, wanted, backbone, channels)
    unmatched = [f"{name} is not there" for name in wanted if name not in found]
    unmatched += [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    taken = {prefix + theirs for theirs in names.values()}
    left = [name for name in tensors if name.startswith(prefix) and name not in taken]
    # A larger network holds all tensors of a smaller one of its family: what is left over tells them apart. Heads are
    # no part of a backbone, nor is what stands under other prefixes when there is one.
    strangers = [name for name in left if not _CLASSIFIER.search(name.removeprefix(prefix))]
    unmatched += [f"{name} has no place in {config.name}" for name in strangers]
    fitting = {name: tensor for name, tensor in found.items() if tensor.shape == wanted[name].shape}
    if not found or (unmatched and not config.init_partial):
        raise CheckpointError(
            f"{path} does not hold the weights of {config.name}: {len(fitting)} of {len(wanted)} tensors match; "
            f"{_reasons(unmatched, found, wanted, tensors, channels)}. Another --encoder.name may, or --encoder.init-partial "
            "takes what matches"
        )
    backbone.load_state_dict(fitting, strict=False)
    file = path / "model.safetensors" if path.is_dir() else path
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    under = f" under {prefix!r}" if prefix else ""
    rest = "".join(f"; {what}" for what in fitted) + (f"; not taken: {'; '.join(unmatched)}" if unmatched else "")
    if names.get("layer1.0.conv1.weight") == "2.0.conv1.weight":
        rest += (
            "; lightly's ResNetGenerator as a Sequential has no ReLU after its first BatchNorm, this backbone has one"
        )
    return f"started from {path} (SHA-256 {digest}...): {len(fitting)} of {len(wanted)} tensors{under}{rest}"


class _Found(NamedTuple):
    tensors: dict[str, Tensor]
    """All of one dictionary in the file, by their names there."""
    prefix: str
    """Of the backbone's tensors."""
    names: dict[str, str]
    """Ours -> theirs, behind the prefix."""


def _found_in(weights: dict[Place, dict[str, Tensor]], wanted: dict[str, Tensor], backbone: nn.Module) -> _Found:
    """The dictionary, prefix and names under which the most tensors of ``wanted`` are there in their shape."""
    best: tuple[int, bool, int, int, _Found] | None = None
    for place, tensors in weights.items():
        for names in namings(wanted, backbone):
            ends = {theirs: name for name, theirs in names.items()}
            prefixes: Counter[str] = Counter({"": 0})
            for key, tensor in tensors.items():
                parts = key.split(".")
                for start in range(len(parts)):
                    name = ends.get(".".join(parts[start:]))
                    if name is not None:
                        same = tensor.shape == wanted[name].shape
                        prefixes[".".join([*parts[:start], ""]) if start else ""] += 2 if same else 1
            for prefix, count in prefixes.items():
                trained = not _AVERAGE.search(".".join([*place, prefix]))
                choice = (count, trained, -len(place), -len(prefix), _Found(tensors, prefix, names))
                best = choice if best is None or choice[:4] > best[:4] else best
    assert best is not None  # there is a dictionary, and the prefix ""
    return best[4]


def _fitted(found: dict[str, Tensor], wanted: dict[str, Tensor], backbone: nn.Module, channels: int) -> list[str]:
    """Bring tensors of ``found`` into the shapes of ``wanted`` where that is known to be sensible; what was done, in words."""
    from timm.layers import resample_abs_pos_embed
    from timm.models import adapt_input_conv

    done = []
    for name, tensor in found.items():
        shape = wanted[name].shape
        if tensor.shape == shape:
            continue
        if tensor.ndim > len(shape) and [n for n in tensor.shape if n > 1] == [n for n in shape if n > 1]:
            found[name] = tensor.reshape(shape)  # (C, 1, 1) for a number a channel
        elif _differs_in_channels(tensor, wanted[name], channels) and tensor.shape[1] == 3:
            found[name] = adapt_input_conv(channels, tensor)
            done.append(f"{name} fitted from 3 channels to {channels}")
        elif name == "pos_embed" and tensor.ndim == 3 and tensor.shape[2] == shape[2]:
            own = _own_positions(backbone)
            old, new = (round(max(0, positions - own) ** 0.5) for positions in (tensor.shape[1], shape[1]))
            if tensor.shape[1] == old * old + own and shape[1] == new * new + own:
                found[name] = resample_abs_pos_embed(tensor, [new, new], [old, old], num_prefix_tokens=own)
                done.append(f"positions fitted from {old} x {old} patches to {new} x {new}")
    resampled, said = at_other_size(found, backbone)
    found |= resampled
    return done + said


def _own_positions(backbone: nn.Module) -> int:
    """How many positions are those of a class token and registers, which no resampling may touch."""
    return 0 if getattr(backbone, "no_embed_class", False) else int(getattr(backbone, "num_prefix_tokens", 1))


def position_patches(path: Path, backbone: nn.Module) -> int | None:
    """How many patches a side a file of weights has positions for; None where its network has none, or not of a square."""
    wanted = {
        name: tensor for name, tensor in backbone.state_dict().items() if not name.endswith("num_batches_tracked")
    }
    tensors, prefix, names = _found_in(read_weights(path), wanted, backbone)
    positions = tensors.get(prefix + names.get("pos_embed", "pos_embed"))
    if positions is None or positions.ndim != 3:
        return None
    own = _own_positions(backbone)
    side = isqrt(max(0, positions.shape[1] - own))
    return side if side * side + own == positions.shape[1] else None


def _differs_in_channels(theirs: Tensor, ours: Tensor, channels: int) -> bool:
    """Whether these are one convolution of images, for other numbers of their channels."""
    return (
        theirs.ndim == ours.ndim == 4
        and ours.shape[1] == channels != theirs.shape[1]
        and (theirs.shape[0], *theirs.shape[2:]) == (ours.shape[0], *ours.shape[2:])
    )


def _reasons(
    unmatched: list[str], found: dict[str, Tensor], wanted: dict[str, Tensor], tensors: dict[str, Tensor], channels: int
) -> str:
    """Why a file does not fit, and a hint where there is one."""
    if not found:
        return f"its {len(tensors)} tensors are {', '.join(list(tensors)[:6])}{', ...' if len(tensors) > 6 else ''}"
    hint = ""
    if any(line.startswith("conv1.weight is (") for line in unmatched):
        theirs, ours = found["conv1.weight"].shape, wanted["conv1.weight"].shape
        if theirs[-1] != ours[-1]:
            stem = "small" if theirs[-1] < ours[-1] else "imagenet"
            hint = (
                f" (its first convolution is {theirs[-1]}x{theirs[-1]}, this network's {ours[-1]}x{ours[-1]}: "
                f"see --encoder.stem {stem})"
            )
    others = {
        found[name].shape[1]
        for name, tensor in wanted.items()
        if name in found and _differs_in_channels(found[name], tensor, channels)
    }
    if others:
        hint = f" (its images have {others.pop()} channels, these {channels}: see --data.channels)"
    return "; ".join(unmatched) + hint
