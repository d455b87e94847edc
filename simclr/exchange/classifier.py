"""A supervised run whole: the encoder with its head, from pixels to class probabilities, qualities or numbers.

Beside the public encoder a supervised run writes ``head.safetensors`` and ``head.json``: the projection head, the
objective's own weights (class weights, centres, bins) and the names of the classes.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from simclr.config.model import HeadConfig
from simclr.config.yaml import from_dict, to_dict
from simclr.errors import CheckpointError
from simclr.exchange.encoder import Encoder, check_format, find_encoder, load_encoder, match_tensors
from simclr.files import AGAIN, refused, write_json, write_tensors
from simclr.model.heads import projection_head
from simclr.objectives import OBJECTIVES, Objective, ObjectiveConfig, build_objective

__all__ = ["Classifier", "export_head", "load_classifier", "save_temperature"]

FORMATS = (1,)


class Classifier(nn.Module):
    """Images (B, C, H, W), uint8 or float in [0, 1], any size -> class probabilities (B, C), or numbers (B,).

    After quality focal loss they are the quality of every class, each in [0, 1] by itself: rows do not sum to 1.
    ``embed`` gives the embeddings z (B, D) that the objective compares, ``scores`` the class logits before the
    ``temperature``. An objective without a classifier (triplet, margin, ...) has embeddings only.
    """

    def __init__(self, encoder: Encoder, head: nn.Module, objective: Objective, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder, self.head, self.objective, self.classes = encoder, head, objective, classes
        self.temperature = 1.0
        """Divides the logits; fitted on validation images, it makes the probabilities of a softmax true (Guo et al. 2017).
        Qualities are learned as they are: for them it is 1."""

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings z (B, D) float32."""
        return self.head(self.encoder(images)).float()

    def scores(self, images: Tensor) -> Tensor | None:
        """Class logits (B, C), or None where the objective has no classifier."""
        return self.objective.scores(self.embed(images))

    def forward(self, images: Tensor) -> Tensor:
        z = self.embed(images)
        numbers, scores = self.objective.numbers(z), self.objective.scores(z)
        if numbers is not None:
            return numbers
        if scores is None:
            raise TypeError("this objective has no classifier: use embed(images), and compare embeddings")
        scores = scores / self.temperature
        return scores.sigmoid() if self.objective.sigmoids else scores.softmax(1)


def export_head(
    folder: Path,
    head: nn.Module,
    objective: Objective,
    *,
    head_config: HeadConfig,
    objective_config: ObjectiveConfig,
    classes: tuple[str, ...],
    sizes: dict[str, int],
) -> None:
    """Write ``folder/head.safetensors`` and ``folder/head.json`` beside the encoder.

    Args:
        folder: the encoder's.
        head: the projection head, trained.
        objective: what was minimised, with its own weights.
        head_config, objective_config: what the two were built from, the latter with all it took from the data.
        classes: name of each label.
        sizes: what ``build_objective`` was given: classes, dim, samples.

    Raises:
        CheckpointError: the disk refuses.
    """
    tensors = nn.ModuleDict({"head": head, "objective": objective}).state_dict()
    write_tensors(folder / "head.safetensors", tensors)
    description = {
        "format": FORMATS[-1],
        "head": to_dict(head_config),
        "objective": to_dict(objective_config),
        "classes": list(classes),
        "sizes": sizes,
        "temperature": 1.0,
    }
    write_json(folder / "head.json", description)


def load_classifier(path: str | Path) -> Classifier:
    """Load what a supervised run exported, in eval mode on the CPU.

    Args:
        path: a run directory, or its ``encoder`` folder.

    Raises:
        CheckpointError: no encoder or no head there (a self-supervised run has none), damaged files, or tensors that are
            not exactly those that ``head.json`` describes. A format that another version writes.
    """
    folder = find_encoder(Path(path))
    encoder = load_encoder(folder)
    if not (folder / "head.json").exists():
        raise CheckpointError(f"{folder} holds an encoder without a head: fine-tune it with scripts/finetune.py first")
    try:
        described: dict[str, Any] = json.loads((folder / "head.json").read_text())
        check_format(described, FORMATS, folder / "head.json")
        kinds = {kind.name: kind for kind in OBJECTIVES}
        kind = kinds[described["objective"]["name"]]
        where = f"{folder / 'head.json'}"
        objective_config = from_dict(kind, described["objective"], where=f"{where}: objective")
        head_config = from_dict(HeadConfig, described["head"], where=f"{where}: head")
        sizes, classes, temperature = described["sizes"], tuple(described["classes"]), float(described["temperature"])
        objective = build_objective(objective_config, **sizes, seed=0)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'head.json'} is damaged: {type(error).__name__} {error}") from error
    head = projection_head(encoder.features, head_config)
    both = nn.ModuleDict({"head": head, "objective": objective})
    file = folder / "head.safetensors"
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    match_tensors(both, tensors, what=f"{file} is not the head that head.json describes")
    both.load_state_dict(tensors)
    classifier = Classifier(encoder, head, objective, classes)
    classifier.temperature = 1.0 if objective.sigmoids else temperature  # it was fitted to a softmax
    return classifier.eval()


def save_temperature(path: str | Path, temperature: float) -> None:
    """Note in ``head.json`` the temperature that was fitted on validation images.

    Raises:
        CheckpointError: the disk refuses.
    """
    file = find_encoder(Path(path)) / "head.json"
    described = json.loads(file.read_text())
    with refused(file, AGAIN):
        write_json(file, described | {"temperature": temperature})
