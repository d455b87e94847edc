"""The shapes that signatures name, executed: while the suite runs, every call is held to what its signature says.

A signature of ``augment``, ``simclr.losses`` and three wings of ``linear_eval`` names shapes and dtypes as in

    def preprocess(images: Annotated[Tensor, "uint8|float B C H W"], size: int) -> Annotated[Tensor, "float32 B C S S"]

To Python, to the type checker and to users that is a tensor and nothing more. Here, as soon as such a module has been
imported, its functions, methods, dataclasses and named tuples are wrapped: jaxtyping binds the letters across one call,
beartype walks through tuples and unions. A name in braces is the value of an argument: ``"B {self.config.size}"``.

The check comes after a call that has returned. So the functions' own errors come first, and a test that calls one wrongly
on purpose meets the error that a user would meet. While torch compiles, exports or traces, nothing is checked: the tensors
have no values yet, and the checks would become part of the program. Processes that tests start are not checked either.
"""

import functools
import importlib.abc
import importlib.machinery
import inspect
import sys
import types
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Self, Union, get_args, get_origin

import torch
from beartype.door import is_bearable
from jaxtyping import Bool, Complex, Float, Float32, Float64, Int64, Integer, Shaped, UInt8, jaxtyped
from torch import Tensor

__all__ = ["CHECKED", "CHECKS", "ShapeError", "named", "shape_checked"]

CHECKED = (
    "augment",
    "simclr.losses",
    "linear_eval.features",
    "linear_eval.classify",
    "linear_eval.matching",
)
"""The packages whose signatures are executed."""

CHECKS: dict[str, int] = {}
"""How many calls of each function, by its full name, were checked so far in this process."""

DTYPES = {
    "bool": Bool,
    "complex": Complex,
    "float": Float,
    "float32": Float32,
    "float64": Float64,
    "int": Integer,
    "int64": Int64,
    "uint8": UInt8,
}


class ShapeError(AssertionError):
    """A call whose tensors are not of the shapes and dtypes that its signature names.

    Not jaxtyping's own error, which is a TypeError: a test that expects one of ours must not be content with it.
    """


def shape_checked(function: Callable[..., Any], where: str) -> Callable[..., Any]:
    """``function``, whose arguments and results are compared with its annotations after every call that returns."""
    annotations = {name: hint for name, hint in inspect.get_annotations(function).items() if named(hint)}
    if not annotations:
        return function
    parameters = inspect.signature(function).parameters
    order = tuple(parameters)
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}

    def check(args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        _compare(where, annotations, defaults | dict(zip(order, args)) | kwargs | {"return": result})

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Any:
            for item in function(*args, **kwargs):
                check(args, kwargs, item)
                yield item

        # What is yielded is compared with the T of the annotation Iterator[T].
        if "return" in annotations:
            annotations["return"] = get_args(annotations["return"])[0]
        return generator

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            check(args, kwargs, result)
        return result

    return wrapper


def named(hint: Any) -> bool:
    """Whether an annotation names a shape, itself or somewhere in it."""
    if get_origin(hint) is Annotated:
        return hint.__origin__ is Tensor
    return any(map(named, get_args(hint)))


def _compare(where: str, annotations: dict[str, Any], values: dict[str, Any]) -> None:
    with jaxtyped("context"):  # one call, in which a letter stands for one number
        for name, annotation in annotations.items():
            if not is_bearable(values[name], _translated(annotation, values)):
                said = {name: (annotation, values[name]) for name, annotation in annotations.items()}
                lines = [f"  {name}: {_in_words(hint)} is {_found(value)}" for name, (hint, value) in said.items()]
                raise ShapeError(f"{where} is called with other shapes than it names, see {name}\n" + "\n".join(lines))
    CHECKS[where] = CHECKS.get(where, 0) + 1


def _translated(annotation: Any, values: dict[str, Any]) -> Any:
    """The annotation with jaxtyping's types in place of ours."""
    if get_origin(annotation) is Annotated and annotation.__origin__ is Tensor:
        text = annotation.__metadata__[0]
        return _tensor_type(text.format_map(values) if "{" in text else text)
    if annotation is Self:
        return type(values["self"])
    return _rebuilt(annotation, values) if named(annotation) else annotation


def _rebuilt(annotation: Any, values: dict[str, Any]) -> Any:
    members = tuple(member if member is ... else _translated(member, values) for member in get_args(annotation))
    origin = get_origin(annotation)
    return Union[members] if origin in (Union, types.UnionType) else origin[members]  # noqa: UP007  # not known before


@functools.cache
def _tensor_type(text: str) -> Any:
    first, _, rest = text.partition(" ")
    kinds = first.split("|")
    if not set(kinds) <= set(DTYPES):
        return Shaped[Tensor, text]
    return Union[tuple(DTYPES[kind][Tensor, rest] for kind in kinds)]  # noqa: UP007


def _in_words(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return repr(hint.__metadata__[0])
    return str(hint).replace("typing.", "").replace("torch.", "").replace("Annotated[Tensor, ", "[")


def _found(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_found, value))})"
    return type(value).__name__


def wrap(module: types.ModuleType) -> None:
    """Check what is defined in ``module``: its functions, and of its classes the methods and the fields."""
    for name, member in list(vars(module).items()):
        if getattr(member, "__module__", None) != module.__name__:
            continue
        where = f"{module.__name__}.{name}"
        if isinstance(member, types.FunctionType):
            setattr(module, name, shape_checked(member, where))
        elif isinstance(member, type):
            _wrap_class(member, where)


def _wrap_class(cls: type, where: str) -> None:
    for name, member in list(vars(cls).items()):
        place = f"{where}.{name}"
        if isinstance(member, types.FunctionType):
            setattr(cls, name, shape_checked(member, place))
        elif isinstance(member, staticmethod | classmethod):
            setattr(cls, name, type(member)(shape_checked(member.__func__, place)))
        elif isinstance(member, property) and member.fget is not None:
            setattr(cls, name, property(shape_checked(member.fget, place), member.fset, member.fdel, member.__doc__))
    fields = {name: hint for name, hint in inspect.get_annotations(cls).items() if named(hint)}
    if fields and "__dataclass_fields__" in vars(cls):
        cls.__init__ = _checked_fields(cls.__init__, fields, where, of_self=True)  # type: ignore[misc]
    elif fields and issubclass(cls, tuple):
        cls.__new__ = _checked_fields(cls.__new__, fields, where, of_self=False)  # type: ignore[method-assign]


def _checked_fields(make: Callable[..., Any], fields: dict[str, Any], where: str, of_self: bool) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(first: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = make(first, *args, **kwargs)
        owner = first if of_self else result
        if not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            _compare(where, fields, {name: getattr(owner, name) for name in fields} | {"self": owner})
        return result

    return made


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of ``CHECKED`` as they would be found without it, and wraps what they define."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not any(f"{fullname}.".startswith(f"{package}.") for package in CHECKED):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_wrap(module: types.ModuleType) -> None:
                execute(module)
                wrap(module)

            spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec


_early = [name for name in sys.modules if any(f"{name}.".startswith(f"{package}.") for package in CHECKED)]
assert not _early, f"imported before their signatures could be checked: {_early}"
sys.meta_path.insert(0, _Finder())
