"""The tensors in a file of weights, by name, wherever in it they lie. Nothing that a file holds is run.

Training scripts save weights among the rest of their state: timm an argparse.Namespace, Lightning its hyper-parameters, others
a logger or a class of their own. Here every such object is read as an inert one: a pickle can call what it names, so it is given
what makes tensors, and for all else something that does nothing.
"""

import json
import pickle
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from simclr.errors import CheckpointError

__all__ = ["Place", "named_network", "read_weights"]

Place = tuple[str, ...]
"""The keys that lead to a dictionary in a file."""

_DEEPEST = 5
"""Dictionaries in dictionaries that are looked into."""

_TENSORS = {
    "collections.OrderedDict": OrderedDict,
    "torch.Size": torch.Size,
    "torch.Tensor": torch.Tensor,
    "torch.nn.parameter.Parameter": torch.nn.Parameter,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
}
"""All that a pickle may name and get: what makes tensors out of bytes that torch has read."""


_NAMING = (
    "arch",
    "architecture",
    "model",
    "model_name",
    "backbone",
    "backbone_name",
    "encoder",
    "encoder_name",
    "net",
    "network",
)
"""Keys under which training scripts note which network they trained: a name, or a dictionary with one under "name"."""


def named_network(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The names that a file of weights, or the notes beside it, give a network, each with the other notes at its place.

    timm writes ``arch`` and the arguments of the command, torchvision the latter, Lightning and solo-learn hyper-parameters;
    timm's folders and solo-learn's have a JSON file beside the weights.
    """
    contents: list[Any] = []
    with suppress(Exception):  # what is wrong with the file is said where its tensors are read
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                contents.append(dict(file.metadata() or {}))
        else:
            contents.append(_unpickled(path))
    for name in ("config.json", "args.json"):
        with suppress(OSError, ValueError):
            contents.append(json.loads((path.parent / name).read_text()))
    for content in contents:
        with suppress(RecursionError):  # what holds itself
            yield from list(_names(content))


def _names(content: Any, depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    notes = _noted(content)
    if not isinstance(notes, dict) or depth > _DEEPEST:
        return
    named = {key: _noted(value) for key, value in notes.items() if isinstance(key, str)}
    for key in _NAMING:
        value = named.get(key)
        if isinstance(value, dict):
            value = _noted(value.get("name"))
        if isinstance(value, str):
            yield value, named
    for value in named.values():
        if isinstance(value, dict) and not any(isinstance(one, Tensor) for one in value.values()):
            yield from _names(value, depth + 1)


def _noted(value: Any) -> Any:
    """What an inert object was told, the attributes of a Namespace say; of OmegaConf's the value inside."""
    if isinstance(value, _Inert):
        value = {**value, **value.state} if isinstance(value.state, dict) else dict(value)
    if isinstance(value, dict) and "_content" in value:
        return _noted(value["_content"])
    return value["_val"] if isinstance(value, dict) and "_val" in value else value


def read_weights(path: Path) -> dict[Place, dict[str, Tensor]]:
    """The tensors of each dictionary in the file that holds some, by the keys under which it lies: () is the file itself.

    Raises:
        CheckpointError: no such file, one that cannot be read, or one that holds no tensors by name.
    """
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist; --encoder.init takes a run, an encoder or a checkpoint file"
        ) from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {_first_line(error)}") from error
    except MemoryError as error:
        raise CheckpointError(f"{path} asks for more memory than there is") from error
    except Exception as error:  # torch.load raises whatever its unpickler met
        raise CheckpointError(
            f"{path} is damaged, or not a file of weights: {_first_line(error)}. Expected safetensors, or what torch.save "
            "makes of a state_dict, alone or in the dictionary of a training script"
        ) from error
    found = dict(_dictionaries(content))
    if not found:
        keys = ", ".join(map(repr, list(content)[:8])) if isinstance(content, dict) else ""
        there = f": it has the keys {keys}" if keys else ""
        raise CheckpointError(f"{path} holds no tensors by name{there}; expected a state_dict")
    return found


def _unpickled(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ValueError("a TorchScript program; save model.state_dict() where it comes from")
    return torch.load(path, "cpu", pickle_module=_RESTRICTED, weights_only=False)


def _dictionaries(content: Any, place: Place = ()) -> Iterator[tuple[Place, dict[str, Tensor]]]:
    if not isinstance(content, dict) or len(place) > _DEEPEST:
        return
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in named.items():
        yield from _dictionaries(value, (*place, key))


class _Inert(dict[Any, Any]):
    """Whatever it is told to be made of, an empty dictionary that takes items, and state without a trace."""

    state: Any = None  # an unpickler makes objects without calling __init__
    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be a key

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__()

    def __call__(self, *arguments: Any, **named: Any) -> "_Inert":
        return _Inert()

    def __setstate__(self, state: Any) -> None:
        self.state = state[0] if isinstance(state, tuple) and state and isinstance(state[0], dict) else state

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    add = append


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a pickle gets that names ``module.name``; storages of tensors torch deals with before."""
        made = _TENSORS.get(f"{module}.{name}")
        if made is not None:
            return made
        dtype = getattr(torch, name, None) if module == "torch" else None
        return dtype if isinstance(dtype, torch.dtype) else _Inert


_RESTRICTED: Any = types.SimpleNamespace(
    Unpickler=_Unpickler, load=lambda file, **options: _Unpickler(file, **options).load(), __name__="restricted_pickle"
)
"""What torch.load takes in the place of the module pickle."""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
