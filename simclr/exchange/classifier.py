"""A supervised run whole: the encoder with its head, from pixels to class probabilities, qualities or numbers.

Beside the public encoder a supervised run writes ``head.safetensors`` and ``head.json``: the projection head, the
objective's own weights (class weights, centres, bins), the names of the classes, and the SHA-256 of these weights and of
those of the encoder that they were trained with.
"""

from pathlib import Path

from torch import Tensor, nn

from simclr.commands import command
from simclr.config.model import HeadConfig
from simclr.config.yaml import from_dict, to_dict
from simclr.errors import CheckpointError, ConfigError
from simclr.exchange.encoder import (
    Encoder,
    build_encoder,
    find_encoder,
    match_tensors,
    read_description,
    read_tensors,
)
from simclr.exchange.sealed import file_sha256, read_sealed, refuse_changed, sealed
from simclr.exchange.values import Values
from simclr.files import AGAIN, refused, write_json, write_tensors
from simclr.model.heads import projection_head
from simclr.objectives import OBJECTIVES, Objective, ObjectiveConfig, build_objective

__all__ = ["Classifier", "export_head", "load_classifier", "save_temperature"]

FORMATS = (1,)

_LARGEST = 1 << 40
"""Of a number of classes or images, and a width: what is more is a damaged number."""


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
    digests = {name: file_sha256(folder / name) for name in ("encoder.safetensors", "head.safetensors")}
    write_json(folder / "head.json", sealed(description, "head.json", digests))


def load_classifier(path: str | Path) -> Classifier:
    """Load what a supervised run exported, in eval mode on the CPU.

    Args:
        path: a run directory, or its ``encoder`` folder.

    Raises:
        CheckpointError: no encoder or no head there (a self-supervised run has none), damaged files, or tensors that are
            not exactly those that ``head.json`` describes. A format that another version writes.
    """
    folder = find_encoder(Path(path))
    encoder_description = read_description(folder)
    encoder = build_encoder(folder, encoder_description)
    file, weights = folder / "head.json", folder / "head.safetensors"
    if not file.exists():
        raise CheckpointError(
            f"{folder} holds an encoder without a head: fine-tune it with {command('finetune')} first"
        )
    content, digests = read_sealed(file, FORMATS)
    values = Values(file, content)
    classes, temperature = values.texts("classes"), values.number("temperature", 1e-6, 1e6)
    tensors = read_tensors(weights)
    head_config, objective_config = _configs(values, tensors)
    sizes = values.inner("sizes")
    dim = head_config.out_dim if head_config.layers else encoder.features
    if sizes.whole("classes", 0, _LARGEST) != len(classes):
        raise sizes.fault("classes", f"{len(classes)}, as many as there are names under classes")
    if sizes.whole("dim", 1, _LARGEST) != dim:
        raise sizes.fault("dim", f"{dim}, the width of what the head gives")
    samples = sizes.whole("samples", 0, _LARGEST)
    try:
        head = projection_head(encoder.features, head_config)
        objective = build_objective(objective_config, classes=len(classes), dim=dim, samples=samples, seed=0)
    except Exception as error:  # whatever is met in numbers that no head has
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{file} describes a head that cannot be built: {said}") from error
    both = nn.ModuleDict({"head": head, "objective": objective})
    match_tensors(both, tensors, what=f"{weights} is not the head that head.json describes")
    refuse_changed(weights, digests)
    if digests is not None and encoder_description.digests is not None:
        ours, theirs = (of.get("encoder.safetensors") for of in (encoder_description.digests, digests))
        if ours != theirs:
            raise CheckpointError(
                f"{file} is the head of another encoder than the one beside it: their SHA-256 differ; take all four files "
                "from one export"
            )
    both.load_state_dict(tensors)
    classifier = Classifier(encoder, head, objective, classes)
    classifier.temperature = 1.0 if objective.sigmoids else temperature  # it was fitted to a softmax
    return classifier.eval()


def _configs(values: Values, tensors: dict[str, Tensor]) -> tuple[HeadConfig, ObjectiveConfig]:
    """What the head and the objective are built from; widths that no tensor of theirs has are refused before."""
    kinds = {kind.name: kind for kind in OBJECTIVES}
    described = values.inner("objective")
    kind = kinds[described.choice("name", tuple(kinds))]
    try:
        head = from_dict(HeadConfig, values.inner("head").content, where=f"{values.file}: head")
        objective = from_dict(kind, described.content, where=f"{values.file}: objective")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    widest = max((side for tensor in tensors.values() for side in tensor.shape), default=0)
    for key, width in (("out_dim", head.out_dim), ("hidden_dim", head.hidden_dim or 0)):
        if head.layers and width > widest:
            raise values.inner("head").fault(key, f"up to {widest}, the largest side of a tensor in head.safetensors")
    return head, objective


def save_temperature(path: str | Path, temperature: float) -> None:
    """Note in ``head.json`` the temperature that was fitted on validation images.

    Raises:
        CheckpointError: it was changed since it was written, or the disk refuses.
    """
    file = find_encoder(Path(path)) / "head.json"
    content, digests = read_sealed(file, FORMATS)
    content["temperature"] = temperature
    with refused(file, AGAIN):
        write_json(file, content if digests is None else sealed(content, file.name, digests))
