"""Whether what a checkpoint says can be: its bytes may be as they were written, and what was written may be wrong.

``newest_checkpoint`` looks at what needs no model (``content_fault``) and passes over what is wrong, ``restore_state`` at what
does (``refuse_misfit``). Nothing that was read is trusted further than its type, its shape, and that it is finite.
"""

import json
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simclr.errors import CheckpointError
from simclr.exchange.encoder import read_tensors
from simclr.exchange.values import Values

__all__ = ["RUN_PROGRESS", "RUN_STATE", "content_fault", "read_progress", "read_state", "refuse_misfit"]

RUN_PROGRESS = ("processes", "epoch_loss")
"""What a run notes in ``progress.json`` beside the step, and needs again."""

RUN_STATE = ("optimizer", "scaler")
"""What a run keeps in ``state.pt``, and needs again."""

_KEPT: dict[str, tuple[frozenset[str], ...]] = {
    "LARS": (frozenset({"velocity"}),),
    "SGD": (frozenset(), frozenset({"momentum_buffer"})),
    "AdamW": (frozenset({"step", "exp_avg", "exp_avg_sq"}),),
    "Muon": (frozenset({"velocity"}), frozenset({"step", "mean", "square"})),
}
"""What each optimizer keeps of a parameter that it has moved."""


def content_fault(folder: Path, step: int, progress: Collection[str], state: Collection[str]) -> str | None:
    """What is wrong with the content of a checkpoint of ``step``, whose bytes are as written; None where nothing is.

    Args:
        folder: the checkpoint.
        step: as its name says.
        progress: keys that ``progress.json`` must have beside ``step``.
        state: keys that ``state.pt`` must have.
    """
    try:
        read_progress(folder, step, progress)
        read_tensors(folder / "model.safetensors")
        content = read_state(folder)
    except CheckpointError as error:
        return str(error).removeprefix(f"{folder}/")
    missing = [key for key in state if key not in content]
    if missing:
        return f"state.pt has no {' and no '.join(missing)}"
    wrong = next((where for where, tensor in _tensors(content) if not bool(tensor.isfinite().all())), None)
    return None if wrong is None else f"state.pt holds NaN or infinity, in {wrong}"


def read_progress(folder: Path, step: int, keys: Collection[str] = ()) -> dict[str, Any]:
    """What ``progress.json`` notes: ``step``, as the folder's name says, and ``keys``.

    Raises:
        CheckpointError: it cannot be read, or notes what cannot be.
    """
    file = folder / "progress.json"
    try:
        content = json.loads(file.read_bytes().decode())
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds no keys and values")
    values = Values(file, content)
    if values.whole("step", 0, 1 << 62) != step:
        raise values.fault("step", f"{step}, as the folder's name says")
    if "processes" in {*keys, *content}:
        values.whole("processes", 1, 1 << 30)
    if "epoch_loss" in {*keys, *content}:
        values.number("epoch_loss", -1e38, 1e38)
    for key in {"best", "score"} & content.keys():
        values.number(key, -1e38, 1e38)
    for key in {"best_step", "since_best"} & content.keys():
        values.whole(key, 0, 1 << 62)
    return content


def read_state(folder: Path) -> dict[str, Any]:
    """What ``state.pt`` holds, on the CPU: plain containers, numbers and tensors.

    Raises:
        CheckpointError: it cannot be read, or holds anything else.
    """
    file = folder / "state.pt"
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler met
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{file} cannot be read: {said:.200}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} holds {type(state).__name__}, expected keys and values")
    return state


def _tensors(content: Any, where: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in containers of containers, with the keys that lead to it."""
    waiting = [(where, content)]
    while waiting:
        path, one = waiting.pop()
        if isinstance(one, Tensor):
            yield path, one
        elif isinstance(one, dict | list | tuple):
            inner = one.items() if isinstance(one, dict) else enumerate(one)
            waiting += [(f"{path}.{key}" if path else str(key), value) for key, value in inner]


def refuse_misfit(state: dict[str, Any], optimizer: torch.optim.Optimizer, images: int | None, what: str) -> None:
    """Raise CheckpointError unless ``state`` fits ``optimizer``, and its triplets (with ``images``) the images that there are.

    Args:
        state: as ``gather_state`` made it.
        optimizer: just built.
        images: in the set, where triplets of them are expected; else None.
        what: the file, as the message calls it.
    """

    def refuse(holds: bool, said: str) -> None:
        if not holds:
            raise CheckpointError(f"{what} does not fit this run: {said}")

    saved = state.get("optimizer")
    refuse(isinstance(saved, dict) and {"state", "param_groups"} <= saved.keys(), "it has no optimizer's state")
    assert isinstance(saved, dict)
    groups, kept = saved["param_groups"], saved["state"]
    refuse(
        isinstance(groups, list) and isinstance(kept, dict),
        "the optimizer's state is no list of groups and a dictionary",
    )
    ours = optimizer.param_groups
    refuse(len(groups) == len(ours), f"{len(groups)} groups of parameters, expected {len(ours)}")
    parameters: dict[Any, Tensor] = {}
    for number, (group, own) in enumerate(zip(groups, ours, strict=True)):
        given = group.get("params") if isinstance(group, dict) else None
        many = len(given) if isinstance(given, list) else 0
        refuse(many == len(own["params"]), f"group {number} has {many} parameters, expected {len(own['params'])}")
        for key, value in own.items():
            # What a later torch added to its groups may be missing; it has a default.
            refuse(
                key == "params" or key not in group or _alike(group[key], value),
                f"{key} of group {number} is {group.get(key)!r:.60}, expected such as {value!r:.60}",
            )
        refuse("lr" in group, f"group {number} has no lr")
        parameters |= zip(given or (), own["params"], strict=True)
    for key, values in kept.items():
        refuse(key in parameters, f"it has a state of parameter {key!r:.20}, of {len(parameters)}")
        refuse(isinstance(values, dict), f"the state of parameter {key} is {type(values).__name__}")
        known = _KEPT.get(type(optimizer).__name__)
        refuse(
            known is None or frozenset(values) in known, f"of parameter {key} it keeps {', '.join(map(str, values))}"
        )
        for name, value in values.items():
            refuse(_fits(value, parameters[key]), f"{name} of parameter {key} is {_described(value)}")
    if images is not None:
        triplets = state.get("triplets")
        fine = isinstance(triplets, Tensor) and triplets.dtype == torch.int64 and triplets.shape[1:] == (3,)
        refuse(fine, f"triplets are {_described(triplets)}, expected int64 (T, 3)")
        assert isinstance(triplets, Tensor)
        inside = not len(triplets) or (int(triplets.min()) >= 0 and int(triplets.max()) < images)
        refuse(inside, f"its triplets are of other images than the {images} there are")


def _alike(given: Any, ours: Any) -> bool:
    """Whether ``given`` is a value of the kind of ``ours``: a switch, a finite number, as many of them."""
    if isinstance(ours, bool) or ours is None:
        return given is None or isinstance(given, bool)
    if isinstance(ours, int | float):
        return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)
    if isinstance(ours, tuple | list):
        return isinstance(given, tuple | list) and len(given) == len(ours) and all(map(_alike, given, ours))
    return True


def _fits(value: Any, parameter: Tensor) -> bool:
    """Whether ``value`` may be kept of ``parameter``: a tensor of its shape and type, or a count of steps."""
    if value is None:
        return True
    if isinstance(value, Tensor) and value.shape == parameter.shape and value.dtype == parameter.dtype:
        return True  # a parameter that is one number has a momentum that is one
    if isinstance(value, Tensor) and value.ndim:
        return False
    number = value.item() if isinstance(value, Tensor) else value
    if not isinstance(number, int | float) or isinstance(number, bool):
        return False
    return math.isfinite(number) and number >= 0


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"{value!r:.60}"
