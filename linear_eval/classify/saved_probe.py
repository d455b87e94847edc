"""A linear probe as two files beside the score it was fitted for, ``probe.safetensors`` and ``probe.json``.

``scripts/evaluate.py RUN --save-probe`` writes them and ``scripts/predict.py`` reads them. They hold the SHA-256 of each other,
and of the encoder whose features the probe reads; nothing in them is pickled.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from linear_eval.classify.result import LinearClassifier
from simclr.data.decode import Reader
from simclr.errors import CheckpointError
from simclr.exchange.encoder import read_tensors
from simclr.exchange.sealed import file_sha256, read_sealed, refuse_changed, sealed
from simclr.exchange.values import Values
from simclr.files import AGAIN, refused, write_json, write_tensors

__all__ = ["FILE", "SavedProbe", "read_probe", "write_probe"]

FILE = "probe.json"

_FORMATS = (1,)

_MOST = 1 << 40

_LARGEST = 1e30


@dataclass(frozen=True, kw_only=True)
class SavedProbe:
    """A linear classifier on an encoder's features, and what it takes to classify an image as the score did."""

    classifier: LinearClassifier
    """Its ``classes`` are the numbers of ``names``."""

    names: tuple[str, ...]
    """(C,): what each row of the weights is called."""

    temperature: float
    """Divides the logits."""

    calibrated_on: int
    """Training images, held out, that the temperature was fitted on; 0 where none could be."""

    fitted_on: int
    """Training images."""

    images: str
    """The set they are of."""

    encoder: str
    """``encoder_digest`` of the encoder."""

    input_size: int
    """Height and width that the encoder was fed."""

    precision: str
    """Type that the encoder ran in, a key of ``AUTOCAST``."""

    reader: Reader
    """How files became pixels."""


def write_probe(probe: SavedProbe, folder: Path) -> list[Path]:
    """Write both files into ``folder``; what is there is replaced.

    Raises:
        CheckpointError: the disk refuses.
    """
    weights, reader, classifier = folder / "probe.safetensors", probe.reader, probe.classifier
    with refused(folder / FILE, AGAIN):
        write_tensors(weights, {name: getattr(classifier, name) for name in ("weight", "bias", "mean", "scale")})
        content = {
            "format": _FORMATS[-1],
            "classes": list(probe.names),
            "temperature": probe.temperature,
            "calibrated_on": probe.calibrated_on,
            "fitted_on": probe.fitted_on,
            "images": probe.images,
            "encoder": probe.encoder,
            "input_size": probe.input_size,
            "precision": probe.precision,
            "size": reader.size,
            "channels": reader.channels,
            "fit": reader.fit,
            "value_range": reader.value_range,
            "deep_only": reader.deep_only,
        }
        write_json(folder / FILE, sealed(content, FILE, {weights.name: file_sha256(weights)}))
    return [weights, folder / FILE]


def read_probe(file: Path) -> SavedProbe:
    """Read ``file``, ``probe.json``, and the weights beside it.

    Raises:
        CheckpointError: a file that is missing, damaged or changed since it was written.
    """
    content, digests = read_sealed(file, _FORMATS)
    values = Values(file, content)
    names, weights = values.texts("classes"), file.with_name("probe.safetensors")
    tensors = read_tensors(weights)
    features = tensors["mean"].numel() if "mean" in tensors else 0
    wanted = {"weight": (len(names), features), "bias": (len(names),), "mean": (features,), "scale": (features,)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != wanted or any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise CheckpointError(f"{weights} holds {found}: expected {wanted} in float32; fit the probe again")
    refuse_changed(weights, digests)
    pair = values.numbers("value_range", (2,), -_LARGEST, _LARGEST)
    if pair is not None and not pair[0] < pair[1]:
        raise values.fault("value_range", "two numbers, the lower first")
    return SavedProbe(
        classifier=LinearClassifier(**tensors, classes=torch.arange(len(names))),
        names=names,
        temperature=values.number("temperature", 1e-6, 1e6),
        calibrated_on=values.whole("calibrated_on", 0, _MOST),
        fitted_on=values.whole("fitted_on", 0, _MOST),
        images=values.text("images"),
        encoder=values.text("encoder"),
        input_size=values.whole("input_size", 2, 1 << 16),
        precision=values.choice("precision", ("fp32", "bf16", "fp16")),
        reader=Reader(
            size=values.whole("size", 2, 1 << 16),
            channels=values.whole("channels", 1, 1 << 16),
            fit=values.choice("fit", ("crop", "pad", "stretch")),
            value_range=None if pair is None else (pair[0], pair[1]),
            deep_only=values.choice("deep_only", (False, True)),
        ),
    )
