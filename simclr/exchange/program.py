"""An encoder as a program: a ``torch.export`` file that torch alone runs, or an ONNX graph.

Both take any number of images of one size, S x S, and normalise them. Resizing is left to the caller: which side is the
shorter one decides the shape, and neither format can hold that choice for every size. Nothing in them is trained on.
"""

import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from simclr.data.decode import Reader
from simclr.errors import CheckpointError, MissingExtraError
from simclr.files import atomically, write_json

__all__ = ["check_onnx", "load_onnx", "load_program", "write_onnx", "write_program"]

_ONNX = ("onnx", "onnxscript", "onnxruntime")


def check_onnx() -> None:
    """Raise MissingExtraError unless what writes an ONNX file, and what runs it to compare, are installed."""
    missing = [name for name in _ONNX if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"format=onnx needs {', '.join(missing)}, not installed here; pip install 'simclr-pipeline[onnx]'"
        )


def write_program(
    module: nn.Module,
    example: Tensor,
    partial: Path,
    target: Path,
    *,
    outputs: tuple[str, ...],
    classes: tuple[str, ...],
    reader: Reader,
) -> tuple[str, ...]:
    """Write ``model.pt2`` and ``model.json`` to ``partial``.

    Args:
        module: images (B, C, S, S) -> a tensor, or a tuple of them.
        example: images as the file will take them, two or more: their number becomes free, the rest is fixed.
        partial: where to write.
        target: where the files will be, for the lines that load them.
        outputs: name of each output.
        classes: name of each column of the logits, where there are any.
        reader: how images became pixels in training, which is noted beside the program.

    Returns:
        Lines of Python that load and call it.

    Raises:
        CheckpointError: torch.export cannot follow the network.
    """
    try:
        program = torch.export.export(module, (example,), dynamic_shapes=_free_batch())
    except RuntimeError as error:
        raise _not_traced(error) from error
    atomically(partial / "model.pt2", lambda file: torch.export.save(program, file))
    lines = (
        "import torch",
        f"program = torch.export.load({str(target / 'model.pt2')!r}).module()",
        f"{', '.join(outputs)} = program(images)  # {_in_words(example)}",
    )
    _describe(example, outputs, classes, lines, partial, reader)
    return lines


def load_program(folder: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The program in ``folder``: images -> its outputs."""
    with warnings.catch_warnings():
        # torch 2.11 reads tensors from bytes of its own and warns that nobody may write to them; nobody does.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        program = torch.export.load(folder / "model.pt2").module()

    def run(images: Tensor) -> tuple[Tensor, ...]:
        found = program(images)
        return tuple(found) if isinstance(found, tuple | list) else (found,)

    return run


def write_onnx(
    module: nn.Module,
    example: Tensor,
    partial: Path,
    target: Path,
    *,
    outputs: tuple[str, ...],
    classes: tuple[str, ...],
    reader: Reader,
) -> tuple[str, ...]:
    """Write ``model.onnx``, weights included, and ``model.json`` to ``partial``; see ``write_program``."""
    try:
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=_free_batch(),
            input_names=["images"],
            output_names=list(outputs),
            verbose=False,
        )
    except RuntimeError as error:
        raise _not_traced(error) from error
    assert program is not None  # it is where no file is named
    program.save(str(partial / "model.onnx"), external_data=False)
    lines = (
        "import onnxruntime",
        f"session = onnxruntime.InferenceSession({str(target / 'model.onnx')!r})",
        f"{', '.join(outputs)}{',' if len(outputs) == 1 else ''} = session.run(None, {{'images': images}})"
        f"  # {_in_words(example)}, numpy",
    )
    _describe(example, outputs, classes, lines, partial, reader)
    return lines


def load_onnx(folder: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The graph in ``folder`` in ONNX Runtime, on the CPU: images -> its outputs."""
    runtime = import_module("onnxruntime")
    session = runtime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda images: tuple(torch.from_numpy(y) for y in session.run(None, {"images": images.numpy()}))


def _free_batch() -> tuple[dict[int, torch.export.Dim]]:
    return ({0: torch.export.Dim("batch", min=1)},)


def _not_traced(error: RuntimeError) -> CheckpointError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return CheckpointError(f"torch.export cannot follow this network ({reason}); --format timm writes its weights")


def _in_words(example: Tensor) -> str:
    values = "0 to 255" if example.dtype == torch.uint8 else "in [0, 1]"
    bands = {1: "gray", 3: "RGB"}.get(example.shape[1], f"{example.shape[1]} bands")
    return f"{_type(example)} (B, {', '.join(map(str, example.shape[1:]))}), {bands}, {values}"


def _type(example: Tensor) -> str:
    return str(example.dtype).removeprefix("torch.")


def _describe(
    example: Tensor,
    outputs: tuple[str, ...],
    classes: tuple[str, ...],
    lines: tuple[str, ...],
    partial: Path,
    reader: Reader,
) -> None:
    size = example.shape[-1]
    resize = {
        "crop": f"shorter side to {size} px, bilinear with antialias, then the central {size} x {size}",
        "pad": f"longer side to {size} px, bilinear with antialias, then black around it to {size} x {size}",
        "stretch": f"both sides to {size} px, bilinear with antialias",
    }
    described = {
        "input": {
            "name": "images",
            "type": _type(example),
            "shape": ["batch", *example.shape[1:]],
            "is": _in_words(example),
        },
        "resize": resize[reader.fit],
        "channels": reader.channels,
        "fit": reader.fit,
        "value_range": reader.value_range,
        "normalisation": "in the program",
        "outputs": list(outputs),
        "classes": list(classes),
        "load": list(lines),
    }
    write_json(partial / "model.json", described)
