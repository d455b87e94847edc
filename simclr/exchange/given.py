"""An encoder as people name one: what a word on a command line, or a path, may stand for. Weights that training starts from are
named the same way, and ``starting_point`` says what they are without loading them.

A run, an encoder folder, a checkpoint of a run that has not finished, a file of weights of timm, torchvision, lightly,
solo-learn or Lightning, or the name of a timm model with published weights.
"""

import difflib
import os
from contextlib import suppress
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import get_args

from torch import Tensor

from simclr.distributed import derive_seed
from simclr.errors import CheckpointError, ConfigError
from simclr.exchange.description import EncoderDescription, find_encoder, read_description
from simclr.exchange.encoder import assemble, build_encoder
from simclr.exchange.encoder_module import Encoder, Output
from simclr.exchange.of_others import Imported, from_file, published
from simclr.exchange.stopped_run import checkpoint_backbone, choose_checkpoint, describe_run, is_checkpoint
from simclr.model.encoder import is_network
from simclr.paths import given_path

__all__ = [
    "WEIGHTS",
    "EncoderWords",
    "GivenEncoder",
    "NetworkName",
    "given_encoder",
    "load_encoder",
    "none_of_these",
]

WEIGHTS = (".pth", ".pt", ".ckpt", ".tar", ".bin", ".safetensors", ".th")
"""Endings of files of weights."""


@dataclass(frozen=True, kw_only=True)
class NetworkName:
    """Which network a file of weights is of."""

    name: str | None = None
    """timm's name of the network, where RUN is a file of weights that does not say it."""


@dataclass(frozen=True, kw_only=True)
class EncoderWords:
    """What a command on an encoder can be told about it beside its name; base of the commands' own options."""

    checkpoint: str | None = None
    """Of a run that has not finished, or of an earlier time: `newest`, or a step that has a checkpoint."""

    encoder: NetworkName = field(default_factory=NetworkName)
    """The network."""


@dataclass(frozen=True, kw_only=True)
class GivenEncoder:
    """An encoder that was named, and what is known of it."""

    name: str
    """What a table calls it."""

    description: EncoderDescription
    """How it is built, and how it prepares an image."""

    home: Path
    """The run's folder, or where what is written about it goes."""

    folder: Path | None = None
    """Where ``encoder.json`` is, if it is a finished run's or an encoder's folder."""

    step: int | None = None
    """Of the checkpoint that it is from."""

    tensors: dict[str, Tensor] | None = None
    """Its weights, where they are in no encoder's folder."""

    said: tuple[str, ...] = ()
    """What was found or assumed, a line each."""

    def build(self, *, untrained: bool = False, size: int | None = None, output: Output = "vector") -> Encoder:
        """The encoder, a new one every time; see ``load_encoder``."""
        if self.folder is not None:
            return build_encoder(self.folder, self.description, untrained=untrained, size=size, output=output)
        tensors, what = None if untrained else self.tensors, f"{self.name} does not fit {self.description.config.name}"
        return assemble(self.description, tensors, what=what, where=self.name, size=size, output=output)


def load_encoder(
    path: str | Path, *, untrained: bool = False, size: int | None = None, features: Output = "vector"
) -> Encoder:
    """Load an encoder, in eval mode on the CPU.

    Args:
        path: a run directory, its ``encoder`` folder, or one of the two files in it; a checkpoint of a run that has not
            finished (``runs/NAME/checkpoints/step-00001200``); a file of weights of others, ``NAME=FILE`` where it does not
            say which network of timm it is of; or the name of a timm model with published weights.
        untrained: build the same encoder with the random weights it started from; to compare with.
        size: height and width in pixels that images become; by default what they were in training. Embeddings of positions
            are resampled by timm's own functions.
        features: ``"map"`` gives (B, F, h, w) in the place of (B, F): the features of each place of an image, see
            ``simclr.model.dense.feature_map``.

    Returns:
        A module: images (B, C, H, W), uint8 or float in [0, 1], or raw integers -> features (B, F) float32; see ``Encoder``.

    Raises:
        CheckpointError: nothing there, a damaged file, or tensors that are not exactly those of the backbone that
            ``encoder.json`` names; the message lists the differences. A format that another version writes. A size that the
            network cannot take.
        ConfigError: a name of timm without published weights, no map to be had, or a size or kind of features that is none.
    """
    if size is not None and (not isinstance(size, Integral) or size < 2):
        raise ConfigError(f"size is {size!r}: expected one whole number, of at least 2 pixels")
    if features not in get_args(Output):
        raise ConfigError(f"features is {features!r}: expected {' or '.join(map(repr, get_args(Output)))}")
    return given_encoder(path, "path").build(untrained=untrained, size=size, output=features)


def given_encoder(
    word: str | Path,
    what: str = "the run",
    *,
    checkpoint: str | None = None,
    network: str | None = None,
    channels: int = 3,
) -> GivenEncoder:
    """The encoder that ``word`` names.

    Args:
        word: see ``load_encoder``.
        what: what messages call it.
        checkpoint: of a run, ``newest`` or a step, in the place of what it exported at its end.
        network: timm's name of the network, for a file of weights.
        channels: of the images, for weights of others: their first layer is fitted as timm does it.

    Raises:
        CheckpointError: nothing of that name, or not all of it there.
        ConfigError: published weights that are not there, or options that do not go together.
    """
    text = str(word)
    ahead, equals, behind = text.partition("=")
    if equals and not Path(text).exists():
        # A name that timm does not have, before a file that is there, is refused by that name.
        one_word = Path(ahead).name == ahead
        if is_network(ahead) or (one_word and given_path(behind, what).is_file()):
            network, text = ahead, behind
    path = given_path(text, what)
    run = _run_of(path)
    if checkpoint is not None:
        if run is None:
            raise ConfigError(f"--checkpoint is for a run's folder, and {text!r} is none; leave it out")
        return _from_checkpoint(*choose_checkpoint(run, checkpoint))
    if path.exists() and is_checkpoint(path) is not None:
        return _from_checkpoint(path, [])
    is_timms = path.is_dir() and (path / "config.json").is_file() and not (path / "encoder.json").is_file()
    if _in_encoder_folder(path) or (path.is_dir() and not is_timms):
        return _from_folder(path)
    if path.exists():
        file = path / "model.safetensors" if is_timms else path
        number = derive_seed(os.path.realpath(file)) % 16**4
        found = from_file(file, network, channels)
        return _imported(found, f"weights-{found.name}-{number:04x}")
    if path.suffix not in WEIGHTS and is_network(text):
        return _imported(published(text, channels), f"timm-{text}")
    raise CheckpointError(none_of_these(what, path))


def none_of_these(what: str, path: Path) -> str:
    """The message for a word that is neither a path nor a timm model, with the nearest thing that there is."""
    near: list[str] = []
    with suppress(OSError):
        there = {one.name: str(path.parent / one.name) for one in path.parent.iterdir()}
        near = [there[name] for name in difflib.get_close_matches(path.name, there, n=2, cutoff=0.5)]
    if path.suffix in WEIGHTS:
        found = "there is no such file"
    elif len(path.parts) > 1:
        found = "there is no such file or folder"
    else:
        import timm

        found = "there is no such file or folder, and timm has no model of that name"
        near += difflib.get_close_matches(path.name, [*timm.list_pretrained(), *timm.list_models()], n=2)
    return f"{what} is '{path}': {found}" + (f"; did you mean {' or '.join(near[:3])}?" if near else "")


def _run_of(path: Path) -> Path | None:
    """The run's folder that ``path`` is, or lies in."""
    return next((one for one in (path, *list(path.parents)[:3]) if (one / "config.yaml").is_file()), None)


def _in_encoder_folder(path: Path) -> bool:
    """Whether ``path`` is a file in an encoder's folder."""
    own = path.name in ("encoder.json", "encoder.safetensors")
    return path.is_file() and (own or (path.parent / "encoder.json").is_file())


def _imported(found: Imported, home: str) -> GivenEncoder:
    return GivenEncoder(
        name=found.name,
        description=found.description,
        home=Path("runs") / home,
        tensors=found.tensors,
        said=found.said,
    )


def _from_folder(path: Path) -> GivenEncoder:
    folder = find_encoder(path)
    home = folder.parent if (folder.parent / "config.yaml").exists() else folder
    return GivenEncoder(name=home.resolve().name, description=read_description(folder), home=home, folder=folder)


def _from_checkpoint(path: Path, said: list[str]) -> GivenEncoder:
    run = path.parent.parent
    described, more = describe_run(run)
    step = is_checkpoint(path)
    assert step is not None
    return GivenEncoder(
        name=f"{run.resolve().name}-step-{step}",
        description=described,
        home=run / f"at-{path.name}",
        step=step,
        tensors=checkpoint_backbone(path),
        said=(*said, *more, f"the encoder after {step} steps, from {path}"),
    )
