"""Weights to start from: our own runs, and checkpoint files of timm, torchvision, lightly and solo-learn.

Names differ from one to the other by a prefix (``backbone.``, ``module.encoder_q.``), by numbers where a network was
cut into a Sequential, and by a synonym or two. The prefix is found, not listed: it is the one under which the most
tensors of the backbone appear.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from simclr.config.model import EncoderConfig
from simclr.errors import CheckpointError
from simclr.exchange.description import find_encoder, read_description
from simclr.exchange.sealed import refuse_changed

__all__ = ["start_from"]

_AVERAGE = re.compile(r"momentum|teacher|target|encoder_k|ema|average")
"""Prefixes of a slow copy of the network (MoCo, BYOL, DINO); its like without one of these words is preferred."""

_NESTED = ("state_dict", "model", "model_state_dict", "model_state", "student", "teacher")
"""Keys under which training scripts put the weights among the rest of their state."""

_CLASSIFIER = re.compile(r"^(fc|head|heads|classifier|linear|last_linear|head_dist)(\.|$)|(^|\.)num_batches_tracked$")
"""Tensors of a file that a backbone has no place for and does not miss."""


def start_from(backbone: nn.Module, config: EncoderConfig, channels: int = 3) -> str:
    """Load the weights that ``config.init`` names into ``backbone`` of ``channels``; return what was done, in words.

    Raises:
        CheckpointError: no such file, not a file of weights, or, unless ``config.init_partial``, a tensor of the
            backbone that the file lacks or has in another shape, or one that the backbone has no place for. Every one
            of them is named.
    """
    assert config.init is not None
    path = Path(config.init)
    if path.is_dir() or path.name in ("encoder.json", "encoder.safetensors"):
        path = find_encoder(path) / "encoder.safetensors"
        described = read_description(path.parent)
        refuse_changed(path, described.digests)
        theirs = described.channels
        if theirs != channels and not config.init_partial:
            raise CheckpointError(
                f"encoder.init={config.init} was trained on images of {theirs} channel{'s' if theirs > 1 else ''}, these "
                f"have {channels}; set --data.channels {theirs}, or --encoder.init-partial starts its first layer afresh"
            )
    tensors = _read(path)
    wanted = {name: t for name, t in backbone.state_dict().items() if not name.endswith("num_batches_tracked")}
    prefix, names = _best_naming(wanted, tensors, backbone)
    found = {name: tensors[prefix + theirs] for name, theirs in names.items() if prefix + theirs in tensors}
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
    if not found or (unmatched and not config.init_partial):
        stem = any(line.startswith("conv1.weight is (") for line in unmatched)
        hint = " (--encoder.stem small is for networks whose first convolution is 3x3)" if stem else ""
        others = {
            found[name].shape[1]
            for name, tensor in wanted.items()
            if name in found and _differs_in_channels(tuple(found[name].shape), tuple(tensor.shape), channels)
        }
        if others:
            hint = f" (its images have {others.pop()} channels, these {channels}: see --data.channels)"
        raise CheckpointError(
            f"{path} does not hold the weights of {config.name}: {len(found)} of {len(wanted)} tensors match; "
            f"{'; '.join(unmatched)}{hint}. Another --encoder.name may, or --encoder.init-partial takes what matches"
        )
    fitting = {name: tensor for name, tensor in found.items() if tensor.shape == wanted[name].shape}
    backbone.load_state_dict(fitting, strict=False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    under = f" under {prefix!r}" if prefix else ""
    rest = f"; not taken: {'; '.join(unmatched)}" if unmatched else ""
    if names.get("layer1.0.conv1.weight") == "2.0.conv1.weight":
        rest += (
            "; lightly's ResNetGenerator as a Sequential has no ReLU after its first BatchNorm, this backbone has one"
        )
    return f"started from {path} (SHA-256 {digest}...): {len(fitting)} of {len(wanted)} tensors{under}{rest}"


def _differs_in_channels(theirs: tuple[int, ...], ours: tuple[int, ...], channels: int) -> bool:
    """Whether these are the shapes of one convolution of images, for other numbers of their channels."""
    return (
        len(theirs) == len(ours) == 4
        and ours[1] == channels != theirs[1]
        and (theirs[0], *theirs[2:]) == (ours[0], *ours[2:])
    )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist; --encoder.init takes a run, an encoder or a checkpoint file"
        ) from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {_first_line(error)}") from error
    except Exception as error:  # torch.load raises whatever its unpickler met
        raise CheckpointError(
            f"{path} is damaged, or not a file of weights alone: {_first_line(error)}. Save its tensors by name and give "
            "that file: torch.save(checkpoint['state_dict'], 'weights.pth') in a program that trusts it"
        ) from error
    for _ in range(3):
        inner = next(
            (content[key] for key in _NESTED if isinstance(content, dict) and isinstance(content.get(key), dict)), None
        )
        if inner is None:
            break
        content = inner
    named = content.items() if isinstance(content, dict) else ()
    tensors = {k: v for k, v in named if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name; expected a state_dict")
    return tensors


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _best_naming(
    wanted: dict[str, Tensor], tensors: dict[str, Tensor], backbone: nn.Module
) -> tuple[str, dict[str, str]]:
    """The prefix and the names (ours -> theirs) under which the most tensors of ``wanted`` are there in their shape."""
    best: tuple[int, bool, int, str, dict[str, str]] = (-1, False, 0, "", {name: name for name in wanted})
    for names in _namings(wanted, backbone):
        ends = {theirs: name for name, theirs in names.items()}
        prefixes: Counter[str] = Counter()
        for key, tensor in tensors.items():
            parts = key.split(".")
            for start in range(len(parts)):
                name = ends.get(".".join(parts[start:]))
                if name is not None:
                    same = tensor.shape == wanted[name].shape
                    prefixes[".".join([*parts[:start], ""]) if start else ""] += 2 if same else 1
        for prefix, count in prefixes.items():
            best = max(best, (count, not _AVERAGE.search(prefix), -len(prefix), prefix, names), key=lambda c: c[:3])
    return best[3], best[4]


def _namings(wanted: dict[str, Tensor], backbone: nn.Module) -> Iterator[dict[str, str]]:
    if not (hasattr(backbone, "conv1") and hasattr(backbone, "layer1")):
        yield {name: name for name in wanted}
        return
    # lightly cuts ResNets into a Sequential of their children: torchvision's (with ReLU and pooling) or its own.
    stages = ("layer1", "layer2", "layer3", "layer4")
    torchvision = {"conv1": "0", "bn1": "1"} | {stage: str(i) for i, stage in enumerate(stages, start=4)}
    own = {"conv1": "0", "bn1": "1"} | {stage: str(i) for i, stage in enumerate(stages, start=2)}
    for numbers in ({}, torchvision, own):
        for shortcut in ("downsample", "shortcut"):
            theirs = {}
            for name in wanted:
                first, dot, rest = name.partition(".")
                theirs[name] = (numbers.get(first, first) + dot + rest).replace("downsample", shortcut)
            yield theirs
