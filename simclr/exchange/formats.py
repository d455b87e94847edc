"""A finished encoder in formats of others: ``python scripts/export.py RUN --format timm | torch | onnx``.

What is written is loaded again from the disk, as its user will load it, and compared with the encoder on images it was
not exported with. Only then it is moved to its place: a file that disagrees never gets there.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from simclr.errors import CheckpointError, ConfigError
from simclr.exchange.classifier import Classifier, load_classifier
from simclr.exchange.encoder import Encoder, EncoderDescription
from simclr.exchange.given import EncoderWords, GivenEncoder, given_encoder
from simclr.exchange.program import check_onnx, load_onnx, load_program, write_onnx, write_program
from simclr.exchange.timm_folder import load_timm, write_timm
from simclr.files import refused
from simclr.paths import expand_fields
from simclr.plugins import plugin_modules

__all__ = ["TOLERANCE", "ExportOptions", "Exported", "Portable", "export_as"]

TOLERANCE = 1e-4
"""Largest difference that is accepted, as a share of the largest value the encoder gives."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(EncoderWords):
    """What an export can be told."""

    format: Literal["timm", "torch", "onnx"] = "timm"
    """`timm`: weights and config as timm writes them, to train on or to share. `torch`: a torch.export program, and `onnx`:
    a graph for ONNX Runtime and others; both run without this project and hold the normalisation."""

    out: Path | None = None
    """The folder to write to; RUN/export/FORMAT if none."""

    classifier: bool = False
    """`torch` and `onnx`: beside the features also the logits of a fine-tuned run, divided by its temperature so that their
    softmax is calibrated; after quality focal loss as they are, a sigmoid each; of a run that learned numbers the numbers."""

    input: Literal["uint8", "float32"] = "uint8"
    """`torch` and `onnx`: images as 0 to 255, or as floating point in [0, 1]."""

    def __post_init__(self) -> None:
        expand_fields(self, "out")


@dataclass(frozen=True)
class Exported:
    """What ``export_as`` wrote."""

    folder: Path
    """Where it is."""

    files: tuple[Path, ...]
    """The files in it."""

    lines: tuple[str, ...]
    """Lines of Python that load it."""

    difference: float
    """The largest difference from the encoder that was found, as a share of its largest value."""


class Portable(nn.Module):
    """What an exported file computes: images (B, C, S, S) -> features (B, F), or with a classifier (features, answers).

    The answers are logits (B, C), divided by the temperature, or numbers (B,).
    """

    def __init__(self, encoder: Encoder, classifier: Classifier | None = None) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, classifier

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what ``forward`` returns.

        Raises:
            ConfigError: a classifier that has embeddings only.
        """
        if self.classifier is None:
            return ("features",)
        with torch.no_grad():
            z = self.classifier.head(torch.zeros(1, self.encoder.features)).float()
            if self.classifier.objective.numbers(z) is not None:
                return ("features", "numbers")
            if self.classifier.objective.scores(z) is not None:
                return ("features", "logits")
        raise ConfigError("--classifier asks for logits, and the objective of this run compares embeddings only")

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.encoder(images)
        if self.classifier is None:
            return features
        z = self.classifier.head(features).float()
        numbers, scores = self.classifier.objective.numbers(z), self.classifier.objective.scores(z)
        if numbers is not None:
            return features, numbers
        assert scores is not None
        return features, scores / self.classifier.temperature


def export_as(path: GivenEncoder | Path | str, options: ExportOptions) -> Exported:
    """Write the encoder at ``path`` in another format, and prove that what was written computes the same.

    Args:
        path: a run, or whatever else ``simclr.load_encoder`` takes.
        options: the format, and what goes into it. Files of an earlier export are replaced.

    Raises:
        CheckpointError: no encoder (or classifier) there, a folder that holds something else, a disk that refuses, a network
            that cannot be traced, or a file whose outputs differ by more than ``TOLERANCE``.
        ConfigError: options that do not go together.
        MissingExtraError: onnx, onnxscript or onnxruntime are not installed.
    """
    given = path if isinstance(path, GivenEncoder) else given_encoder(path)
    if options.classifier and options.format == "timm":
        raise ConfigError("format=timm holds the backbone alone; for the classifier take --format torch or onnx")
    if options.format == "onnx":
        check_onnx()
    if options.classifier:
        if given.folder is None:
            raise ConfigError(
                f"--classifier is for a fine-tuned run that has finished; {given.name} has an encoder alone"
            )
        classifier = load_classifier(given.folder)
        portable, described = Portable(classifier.encoder, classifier).eval(), None
    else:
        described = given.description
        portable = Portable(given.build()).eval()
    target = _target(given.home, options)
    # In a folder that exists already: where the export fails no empty one is left.
    with refused(target), tempfile.TemporaryDirectory(dir=_existing(target), prefix=".export-") as scratch:
        partial = Path(scratch)
        lines = _write(portable, described, partial, target, options)
        own = ""
        if options.format == "timm" and described is not None and described.plugin:
            lines = (*(f"import {name}" for name in plugin_modules(described.plugin)), *lines)
            own = "; a backbone of your own can be loaded so where it is made by timm.models.build_model_with_cfg"
        difference = _difference(portable, partial, options)
        if not difference <= TOLERANCE:  # a NaN is no agreement either
            raise CheckpointError(
                f"the {options.format} file differs from the encoder by {difference:.1e} of its largest value, more than "
                f"{TOLERANCE:g}; nothing was written to {target}{own}"
            )
        target.mkdir(parents=True, exist_ok=True)
        names = sorted(file.name for file in partial.iterdir())
        for name in names:
            if given.folder is not None:
                shutil.copymode(given.folder / "encoder.json", partial / name)  # as readable as the encoder itself
            (partial / name).replace(target / name)
    return Exported(target, tuple(target / name for name in names), lines, difference)


def _target(home: Path, options: ExportOptions) -> Path:
    target = home / "export" / options.format if options.out is None else options.out
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file; an export is a folder: choose another --out")
    known = {"model.safetensors", "config.json", "model.pt2", "model.onnx", "model.json"}
    others = sorted({file.name for file in target.iterdir()} - known) if target.exists() else []
    if others:
        named = ", ".join(others[:3])
        raise CheckpointError(f"{target} holds files that are no export ({named}); choose another --out")
    return target


def _existing(target: Path) -> Path:
    return next(folder for folder in target.absolute().parents if folder.is_dir())


def _write(
    portable: Portable, described: EncoderDescription | None, partial: Path, target: Path, options: ExportOptions
) -> tuple[str, ...]:
    if options.format == "timm":
        assert described is not None  # it is None with a classifier, which this format cannot hold
        return write_timm(portable.encoder, described.config, partial, target)
    classes = portable.classifier.classes if portable.classifier else ()
    write = write_program if options.format == "torch" else write_onnx
    example = _images(portable, 2, options)
    reader = portable.encoder.reader
    return write(portable, example, partial, target, outputs=portable.outputs, classes=classes, reader=reader)


@torch.no_grad()
def _difference(portable: Portable, partial: Path, options: ExportOptions) -> float:
    """The largest difference between the files in ``partial`` and what was exported, as a share of the largest value."""
    again = {"timm": load_timm, "torch": load_program, "onnx": load_onnx}[options.format](partial)
    largest = 0.0
    for count in (1, 5):  # other numbers of images than the export saw
        images = _images(portable, count, options)
        wanted = portable(images)
        for want, got in zip(wanted if isinstance(wanted, tuple) else (wanted,), again(images), strict=True):
            if want.shape != got.shape:
                raise CheckpointError(
                    f"the {options.format} file gives {tuple(got.shape)} for {count} images: expected {tuple(want.shape)}"
                )
            found = ((want - got).abs().max() / want.abs().max().clamp_min(1e-30)).item()
            largest = found if not found <= largest else largest
    return largest


def _images(portable: Portable, count: int, options: ExportOptions) -> Tensor:
    size, channels = portable.encoder.size, portable.encoder.channels
    images = torch.randint(
        256, (count, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(count)
    )
    return images if options.input == "uint8" or options.format == "timm" else images.float() / 255
