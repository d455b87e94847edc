"""The classifier that a run has, whichever kind: fine-tuned with the encoder, or a linear probe beside a score."""

from pathlib import Path

import torch
from torch import Tensor, nn

from linear_eval.classify.saved_probe import FILE, SavedProbe, read_probe
from linear_eval.features.frozen import encoder_digest
from linear_eval.scored_run import ScoredRun
from simclr.commands import command
from simclr.data.decode import Reader
from simclr.errors import CheckpointError
from simclr.exchange.classifier import Classifier, load_classifier
from simclr.exchange.encoder import Encoder, find_encoder
from simclr.paths import expanded

__all__ = ["TrainedClassifier", "find_classifier"]


class TrainedClassifier(nn.Module):
    """Images (B, C, H, W) -> class probabilities (B, K) float32, or numbers (B,), with what is to be known to use it."""

    classes: tuple[str, ...]
    """Name of each column; empty where numbers are predicted."""

    reader: Reader
    """How files became pixels where it was scored."""

    precision: str
    """Type the encoder runs in, a key of ``AUTOCAST``; the classifier is float32 in any case."""

    about: str
    """What it is, in a line."""

    run: ScoredRun
    """What its encoder is of."""

    fitted_on: str | None = None
    """The set that a probe was fitted on images of, by its name."""


class _FineTuned(TrainedClassifier):
    def __init__(self, classifier: Classifier, run: ScoredRun) -> None:
        super().__init__()
        self.run, self.classifier, self.reader, self.precision = run, classifier, run.description.reader, "fp32"
        numbers, _ = _answers(classifier)
        self.classes = () if numbers is not None else classifier.classes
        kind = "predicts numbers" if numbers is not None else f"{len(self.classes)} classes"
        if numbers is None and classifier.objective.sigmoids:
            kind += "; probability is the quality of each class by itself, as it was learned"
        elif numbers is None and classifier.temperature == 1:
            kind += "; temperature 1: no validation images fitted one, or all of them were recognised"
        elif numbers is None:
            kind += f"; temperature {classifier.temperature:.3g}, fitted on validation images"
        self.about = f"classifier: fine-tuned with the encoder, {kind}"

    def forward(self, images: Tensor) -> Tensor:
        answers: Tensor = self.classifier(images)
        return answers


class _Probed(TrainedClassifier):
    def __init__(self, encoder: Encoder, probe: SavedProbe, run: ScoredRun) -> None:
        super().__init__()
        self.run = run
        self.encoder, self.classes, self.reader, self.precision = encoder, probe.names, probe.reader, probe.precision
        self.temperature, self.fitted_on = probe.temperature, probe.images
        for name in ("weight", "bias", "mean", "scale"):
            self.register_buffer(name, getattr(probe.classifier, name))
        fitted = (
            f"temperature {probe.temperature:.3g}, fitted on {probe.calibrated_on} of them, held out"
            if probe.calibrated_on
            else "not calibrated: no class had two images"
        )
        self.about = (
            f"classifier: linear probe of {len(probe.names)} classes, of {probe.fitted_on} training images of "
            f"{probe.images}; {fitted}"
        )

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images).float()
        with torch.autocast(features.device.type, enabled=False):
            logits = ((features - self.mean) / self.scale) @ self.weight.t() + self.bias  # type: ignore[operator]  # buffers
            return (logits / self.temperature).softmax(1)


def find_classifier(path: Path) -> TrainedClassifier:
    """The classifier at ``path``, in eval mode on the CPU.

    Args:
        path: a run, or its ``encoder`` folder: the classifier that was trained with it, else its linear probe. The folder of
            one of its evaluations, or ``probe.json`` there: that probe.

    Raises:
        CheckpointError: no classifier there, several probes of other images, or a damaged file.
    """
    path = expanded(path)
    named = path if path.name == FILE else path / FILE
    if named.is_file() and (path.name == FILE or not _encoder_below(path)):
        folder = named.parent
        run = folder if _encoder_below(folder) or (folder / "encoder.json").exists() else folder.parent
        return _probed(find_encoder(run), named)
    folder = find_encoder(path)
    classifier = load_classifier(folder) if (folder / "head.json").exists() else None
    if classifier is not None and any(answer is not None for answer in _answers(classifier)):
        return _FineTuned(classifier, ScoredRun(folder)).eval()
    if (probe := _probe_of(folder)) is not None:
        return _probed(folder, probe)
    if classifier is not None:
        raise CheckpointError(
            f"{path} compares embeddings and has no classifier; {command('evaluate')} {path} --save-probe fits one on its "
            "features"
        )
    raise CheckpointError(
        f"{path} has no classifier: {command('evaluate')} {path} --save-probe fits a linear probe where there are labels, and "
        f"{command('finetune')} --encoder.init {path} trains the whole network on them"
    )


def _probe_of(folder: Path) -> Path | None:
    """The probe of the encoder in ``folder``: on the run's own images, or on the others that it was scored on."""
    run = folder.parent
    own = [file for file in (run / FILE, folder / FILE) if file.exists()]
    others = sorted(run.glob(f"on-*/{FILE}"))
    if not own and len(others) > 1:
        named = ", ".join(str(file.parent) for file in others)
        raise CheckpointError(f"{run} has probes for several sets of images; give one of their folders: {named}")
    return next(iter([*own, *others]), None)


@torch.no_grad()
def _answers(classifier: Classifier) -> tuple[Tensor | None, Tensor | None]:
    """The numbers and the scores that it gives for one image; None for what it does not give."""
    z = classifier.head(torch.zeros(1, classifier.encoder.features)).float()
    return classifier.objective.numbers(z), classifier.objective.scores(z)


def _encoder_below(folder: Path) -> bool:
    return (folder / "encoder" / "encoder.json").is_file()


def _probed(folder: Path, file: Path) -> TrainedClassifier:
    probe = read_probe(file)
    run = ScoredRun(folder).but(size=probe.input_size)
    encoder = run.encoder()
    if probe.encoder != encoder_digest(encoder):
        raise CheckpointError(
            f"{file} is the probe of another encoder than the one that is there now; fit it again with "
            f"{command('evaluate')} RUN --save-probe"
        )
    return _Probed(encoder, probe, run).eval()
