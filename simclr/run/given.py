"""What Python hands to ``simclr.pretrain`` beside the config: images, augmentation, an objective; and how a run writes it down.

A config cannot hold them. It says in words what they were (``given`` in ``config.yaml``), so that a run that goes on is held to
the same, as far as that can be seen: the numbers and digests of images, the names and settings of functions and modules.
"""

import copy
import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from torch import Tensor, nn

from augment.own import After, Before, OwnOperation, seeded
from simclr.config import TrainConfig
from simclr.config.given import GivenConfig
from simclr.config.sources import GIVEN, OWN_SOURCES
from simclr.data import ImageSet
from simclr.data.given import as_image_set, fingerprint
from simclr.errors import ConfigError
from simclr.losses import EmbeddedBatch, LossConfig
from simclr.objectives import GivenLoss
from simclr.plugins import note_modules

__all__ = ["NOTHING", "Given", "expect_given", "take_given", "try_given"]

_PLACES = ("before", "after")


@dataclass(frozen=True, eq=False)
class Given:
    """What was handed over, ready to be used."""

    images: ImageSet | None = None
    before: OwnOperation | None = None
    after: Callable[[Tensor], Tensor] | None = None
    objective: GivenLoss | None = None

    def first_lines(self, words: GivenConfig) -> list[str]:
        """What was decided about it."""
        lines = [
            f"augmentation of your own {place} ours: {said}"
            for place, said in words.words().items()
            if place in _PLACES
        ]
        if self.objective is not None:
            lines.append(f"objective of your own: {words.objective}, called with {self.objective.called_with}")
        if words.images is not None and "other pixels" in words.images:
            lines.append(
                "your images are others each time they are read, by a random transform: a run that goes on will not end with the "
                "same bits"
            )
        return lines

    @property
    def augments(self) -> bool:
        """Whether there is augmentation of the user's own."""
        return self.before is not None or self.after is not None


NOTHING = Given()
"""Where the config says all."""


def take_given(
    config: TrainConfig, images: Any = None, augment: Any = None, objective: Any = None
) -> tuple[TrainConfig, Given]:
    """What ``simclr.pretrain`` was given, and ``config`` with words for it.

    Raises:
        ConfigError, DataError: of a kind that cannot be used; the message says which can.
    """
    if isinstance(objective, LossConfig):
        config, objective = replace(config, objective=objective), None
    own = _modules(config)
    if own:
        config = replace(config, plugin=note_modules(own, config.plugin))
    before, after = _placed(augment)
    loss = None if objective is None else GivenLoss(objective)
    found = None if images is None else as_image_set(images, config.data)
    data = config.data
    if found is not None and data.held_out_classes:
        raise ConfigError(
            f"data.held_out_classes={data.held_out_classes:g} is for images that the open-set protocol can load again; leave it "
            "out, and hand over the images of the classes to train on"
        )
    if found is not None:
        data = replace(data, source=GIVEN, path=None, labels="auto" if isinstance(data.labels, str) else "none")
    if before is not None:
        data = replace(data, crops="square")
    words = replace(
        config.given,
        **({} if found is None else {"images": fingerprint(found)}),
        **({} if before is None else {"before": described(before)}),
        **({} if after is None else {"after": described(after)}),
        **({} if objective is None else {"objective": described(objective)}),
    )
    config = replace(config, data=data, given=words, objective=config.objective if loss is None else loss.config)
    return config, Given(found, None if before is None else OwnOperation(before), after, loss)


def _modules(config: TrainConfig) -> list[str]:
    """Modules of the user's own that have registered what ``config`` names."""
    parts: list[object] = [type(config.objective), OWN_SOURCES.get(config.data.source)]
    name = config.encoder.name.split(".")[0]
    if timm.is_model(name):
        parts.append(timm.model_entrypoint(name))
    names = [str(getattr(part, "__module__", "")) for part in parts if part is not None]
    return [name for name in names if name.split(".")[0] not in ("simclr", "timm", "")]


def expect_given(config: TrainConfig, given: Given) -> None:
    """Raise ConfigError where ``config`` says that something was handed over, and now it is not."""
    there = {
        "images": given.images,
        "before": given.before,
        "after": given.after,
        "objective": given.objective,
    }
    missing = [f"{name}: {said}" for name, said in config.given.words().items() if there[name] is None]
    if missing or (config.data.source == GIVEN and given.images is None):
        raise ConfigError(
            f"this run takes what its config cannot make ({'; '.join(missing) or 'its images'}): it goes on by the same call of "
            "simclr.pretrain in Python that began it"
        )


def try_given(given: Given, config: TrainConfig, labels: Tensor | None, dim: int) -> None:
    """Call once, on noise, what was handed over: what cannot work is refused before anything is written.

    Raises:
        ConfigError: it gives something else than it should.
    """
    views, batch, channels = config.augment.views, config.train.batch_size, config.data.channels
    with seeded(0, torch.device("cpu")):
        try:
            for operation, size in ((given.before, config.data.size), (given.after, config.augment.size)):
                if operation is not None:
                    OwnOperation(operation)(torch.rand(2 * views + 1, channels, size, size))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if given.objective is not None:
            loss = copy.deepcopy(given.objective)  # which may remember what it has seen
            known = torch.zeros(batch, dtype=torch.int64) if labels is None else labels[labels >= 0][:batch]
            known = known.repeat(batch)[:batch]
            z = torch.randn(views, batch, dim, requires_grad=True)
            loss.on_batch(EmbeddedBatch(z, known, torch.arange(batch), seed=0))


def described(thing: object) -> str:
    """A function or module in words that are the same in another process.

    >>> described(nn.Dropout(p=0.2)), described(described)
    ('torch.nn.modules.dropout.Dropout(p=0.2, inplace=False)', 'simclr.run.given.described')
    """
    if isinstance(thing, functools.partial):
        settings = ", ".join([*map(repr, thing.args), *(f"{name}={value!r}" for name, value in thing.keywords.items())])
        return _still(f"partial({described(thing.func)}, {settings})")
    name = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
    code = getattr(thing, "__code__", None)
    if code is not None and "<lambda>" in name:
        seen = (code.co_names, [one for one in code.co_consts if isinstance(one, int | float | str | None)])
        return f"{name} {hashlib.sha256(repr(seen).encode()).hexdigest()[:8]}"
    if hasattr(thing, "__qualname__"):
        return name
    shown = repr(thing) if isinstance(thing, nn.Module) or type(thing).__repr__ is not object.__repr__ else ""
    kind = type(thing)
    return _still(f"{kind.__module__}.{shown if shown.startswith(kind.__name__) else kind.__qualname__ + shown}")


def _still(text: str) -> str:
    """On one line, without the places in memory that Python shows of functions."""
    return " ".join(re.sub(r" at 0x[0-9a-f]+", "", text).split())


def _placed(augment: Any) -> tuple[Callable[[Tensor], Tensor] | None, Callable[[Tensor], Tensor] | None]:
    """The operations before and after ours."""
    places: dict[type, Callable[[Tensor], Tensor]] = {}
    for one in () if augment is None else augment if isinstance(augment, tuple | list) else (augment,):
        if isinstance(one, Before | After):
            kind, held = type(one).__name__, type(one.operation).__name__
            if type(one) in places:
                raise ConfigError(f"augment has {kind} twice; make one function of both, or give (Before(f), After(g))")
            if not callable(one.operation):
                raise ConfigError(f"augment={kind}({held}): expected a function or a module of a batch")
        else:
            name = getattr(one, "__name__", type(one).__name__)
            raise ConfigError(
                f"augment is given {name}; say its place: augment=simclr.Before({name}) is called with whole images, "
                f"simclr.After({name}) with finished views, and (Before(f), After(g)) is one of each"
            )
        places[type(one)] = one.operation
    return places.get(Before), places.get(After)
