"""Kornia's own augmentations, appended to ours by name."""

import ast
from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor, nn

__all__ = ["ExtraOperations", "parse_operation"]


def parse_operation(text: str) -> tuple[type[nn.Module], dict[str, Any]]:
    """The class and the arguments that a text such as ``"RandomErasing(p=0.5, scale=(0.02, 0.1))"`` stands for.

    Raises:
        ValueError: it is not the name of a 2-D augmentation of Kornia, alone or called with literal keyword arguments.

    Example:
        >>> parse_operation("RandomErasing(p=0.5)")
        (<class 'kornia.augmentation._2d.intensity.erasing.RandomErasing'>, {'p': 0.5})
    """
    import kornia.augmentation

    wanted = f"extra holds {text!r}: expected the name of an augmentation in kornia.augmentation"
    try:
        node = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
        if call.args or not isinstance(call.func, ast.Name):
            raise ValueError
        # ``**{...}`` has no name and is refused as an argument without one.
        arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(f"{wanted}, alone or with keyword arguments, such as 'RandomErasing(p=0.5)'") from None
    operation = getattr(kornia.augmentation, call.func.id, None)
    if not (isinstance(operation, type) and issubclass(operation, kornia.augmentation.AugmentationBase2D)):
        raise ValueError(wanted)
    try:
        operation(**arguments)
    except Exception as error:  # whatever Kornia raises, the arguments are the user's
        raise ValueError(f"extra holds {text!r}, which Kornia refuses: {error}") from None
    return operation, arguments


class ExtraOperations(nn.Module):
    """The appended operations, with their draws apart from their application as for ours.

    Kornia draws on the host and from torch's global generator, which is left as it was found.
    """

    def __init__(self, texts: tuple[str, ...]) -> None:
        super().__init__()
        parsed = [parse_operation(text) for text in texts]
        self.operations = nn.ModuleList(operation(**arguments) for operation, arguments in parsed)

    def sample(
        self, views: int, batch: int, size: int, seed: int, device: torch.device | str, channels: int = 3
    ) -> tuple[dict[str, Annotated[Tensor, "{views} {batch} ..."]], ...]:
        """What each operation draws for ``views`` x ``batch`` images of ``size`` and ``channels``, as (V, B, ...) tensors."""
        count = views * batch
        drawn = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for operation in self.operations:
                draw: Callable[[torch.Size], dict[str, Tensor]] = operation.forward_parameters  # type: ignore[assignment]  # ModuleList forgets the class
                parameters = draw(torch.Size((count, channels, size, size)))
                # One value for the whole batch is repeated, so that every image owns its row.
                rows = {
                    name: value if value.ndim and len(value) == count else value.expand(count, *value.shape)
                    for name, value in parameters.items()
                    if name != "forward_input_shape"
                }
                drawn.append({name: value.unflatten(0, (views, batch)).to(device) for name, value in rows.items()})
        return tuple(drawn)

    def forward(
        self,
        images: Annotated[Tensor, "float V B C S S"],
        drawn: tuple[dict[str, Annotated[Tensor, "V B ..."]], ...],
        seed: int,
    ) -> Annotated[Tensor, "float V B C S S"]:
        """Apply them to (V, B, C, S, S), one after the other."""
        views, batch = images.shape[:2]
        shape = images.shape[2:]
        flat = images.flatten(0, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for operation, parameters in zip(self.operations, drawn, strict=True):
                rows = {name: value.flatten(0, 1) for name, value in parameters.items()}
                rows["forward_input_shape"] = torch.tensor(flat.shape)
                flat = operation(flat, params=rows)
                if flat.shape != (views * batch, *shape):
                    name = type(operation).__name__
                    raise ValueError(f"{name} in extra turned views of {tuple(shape)} into {tuple(flat.shape[1:])}")
        return flat.unflatten(0, (views, batch))
