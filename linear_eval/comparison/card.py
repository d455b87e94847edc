"""What a run wrote down, as a model card says it: its images, how it was trained, and its scores with intervals and baselines."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from linear_eval.comparison.page import Section, section_as_markdown
from linear_eval.comparison.runs import RunRecord, read_runs
from linear_eval.comparison.scores import scored_sets
from linear_eval.features.frozen import encoder_digest
from linear_eval.reports.notes import COMMONEST
from linear_eval.results import ClosedResult, FinetunedClasses, FinetunedResult, OpenSetResult
from linear_eval.results_numbers import NumbersResult
from linear_eval.results_one_shot import OneShotScores
from linear_eval.scored_run import ScoredRun
from simclr.commands import command
from simclr.config.sources import GIVEN, PACKED, SOURCES
from simclr.exchange.given import GivenEncoder
from simclr.exchange.model_card import CardFacts, Measured
from simclr.names import printable

__all__ = ["card_facts"]

_ON_THE_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
"""Sets of torchvision that the Hub has under an identifier of their own."""


def card_facts(path: GivenEncoder | Path | str) -> CardFacts:
    """The facts of the run at ``path``, for the card of its encoder; nothing that identifies the machine is in them.

    Scores that are of other weights than the encoder's are left out, and the card says so.

    Args:
        path: a run, or whatever else ``simclr.load_encoder`` takes, of which nothing is known.

    Raises:
        CheckpointError: no encoder there, or a damaged file.
    """
    scored = ScoredRun.at(path)
    if not (scored.run_dir / "config.yaml").exists():
        return CardFacts(name=printable(scored.name))
    (run,) = read_runs([scored.run_dir])
    digest = encoder_digest(scored.encoder())
    current = [result for result in run.results if _of(result) in ("", digest)]
    stale = len(run.results) - len(current)
    run = replace(run, results=current)
    base, licence = _published(run.config)
    return CardFacts(
        name=str(run.config.get("name", run.name)),
        data=_data(scored, run),
        training=_training(run.config),
        scores=_scores(run, stale),
        limits=_limits(run),
        measured=_measured(run),
        tags=("simclr-pipeline", *(() if run.config.get("objective.name") != "nt-xent" else ("simclr",))),
        datasets=tuple(_ON_THE_HUB[s] for s in [run.config.get("data.source")] if s in _ON_THE_HUB),
        base_model=base,
        base_licence=licence,
    )


def _of(result: ClosedResult | FinetunedResult | NumbersResult) -> str:
    """Digest of the weights that were scored; empty where the result does not say."""
    return "" if isinstance(result, FinetunedResult) or result.encoder is None else result.encoder.sha256


def _published(config: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The weights of timm that training began with, by the Hub's identifier, and their licence as timm names it."""
    if not config.get("encoder.pretrained"):
        return None, None
    import timm

    weights = timm.get_pretrained_cfg(config["encoder.name"])
    if weights is None or not weights.hf_hub_id:
        return None, None
    name = f"{weights.architecture}.{weights.tag}" if weights.tag else weights.architecture
    return f"{weights.hf_hub_id}{name}" if weights.hf_hub_id.endswith("/") else weights.hf_hub_id, weights.license


def _data(run: ScoredRun, record: RunRecord) -> str:
    config = record.config
    source = config.get("data.source")
    of = f"`{source}`"
    if source in ("folder", *PACKED):
        of = f"{'a folder' if source == 'folder' else source} of its trainer's own, `{_last(config['data.path'])}`"
    elif source not in SOURCES:
        of = "a set of its trainer's own" + ("" if source == GIVEN else f", `{source}`")
    parts = run.parts
    counts = (
        {} if parts is None else {part: sum(file.part == part for file in parts.files) for part in ("train", "test")}
    )
    if not counts:
        for result in record.results[:1]:
            data = result.data
            counts = {"train": _count(getattr(data, "train", None)), "test": _count(data.test)}
    said = [f"Trained on images of {of}"]
    if counts.get("train"):
        said[0] += f": {counts['train']:,}" + (
            f", and {counts['test']:,} held out for the scores" if counts.get("test") else ""
        )
    if config.get("data.limit"):
        said.append(f"Training was limited to {config['data.limit']:,} images")
    if config.get("data.held_out_classes"):
        said.append(f"{100 * config['data.held_out_classes']:g} % of the classes were kept from training")
    labels = "Labels were used in training" if _learns_from_labels(run) else "No label was used in training"
    return ". ".join([*said, labels]) + "."


def _learns_from_labels(run: ScoredRun) -> bool:
    return (run.folder / "head.json").exists()


def _count(part: Any) -> int:
    return part if isinstance(part, int) else 0 if part is None else part.images


def _last(path: object) -> str:
    return printable(PurePath(str(path)).name).replace("`", "")


def _training(config: Mapping[str, Any]) -> str:
    said = {
        "objective": config.get("objective.name"),
        "epochs": config.get("train.epochs"),
        "batch": config.get("train.batch_size"),
        "views": f"{config.get('augment.views')} an image, {config.get('augment.size')} px",
        "optimizer": f"{config.get('optim.name')}, learning rate {config.get('optim.learning_rate')}, weight decay "
        f"{config.get('optim.weight_decay')}",
        "seed": config.get("seed"),
    }
    init, pretrained = config.get("encoder.init"), config.get("encoder.pretrained")
    if pretrained:
        said["began with"] = f"timm's weights of {config.get('encoder.name')}"
    elif init:
        said["began with"] = f"the weights of `{_last(init)}`; what those were trained on counts too"
    return "\n".join(f"- {key}: {printable(str(value))}" for key, value in said.items() if value is not None)


def _scores(run: RunRecord, stale: int) -> str:
    are = "1 score in the run's folder is" if stale == 1 else f"{stale} scores in the run's folder are"
    left_out = (
        [f"{are} of other weights than these, and {are.split()[-1]} left out; score the run again."] if stale else []
    )
    parts = []
    for result, one in zip((*run.results, *run.open_sets), scored_sets(run), strict=True):
        measures = list(dict.fromkeys(measure for row in one.rows.values() for measure in row))
        rows = [
            (name, *(str(scores[m]) if m in scores else "-" if name == COMMONEST else "not measured" for m in measures))
            for name, scores in one.rows.items()
        ]
        title = one.title.replace(_set_name(result), _last(_set_name(result)), 1)
        note = "[95 % interval over test images or classes], ± standard deviation over draws of labels"
        parts.append(section_as_markdown(Section(title, ("", *measures), rows, note), level=3))
        parts += [] if isinstance(result, OpenSetResult | OneShotScores) else _said(result)
    if not parts:
        parts.append(
            f"Not measured: the run was not scored. `{command('evaluate')} RUN` and this export again put the scores here, "
            "beside an untrained encoder and raw pixels."
        )
    return "\n\n".join([*left_out, *parts])


def _said(result: ClosedResult | FinetunedResult | NumbersResult) -> list[str]:
    """The verdict, and the protocol as it was written."""
    verdict = getattr(result, "verdict", None)
    protocol = "\n".join(f"- {printable(key)}: {printable(text)}" for key, text in result.protocol.items())
    return [*([verdict] if verdict else []), *([f"Protocol:\n\n{protocol}"] if protocol else [])]


def _set_name(result: ClosedResult | FinetunedResult | NumbersResult | OpenSetResult | OneShotScores) -> str:
    """What the test images are called; a folder by its path."""
    if isinstance(result, OneShotScores):
        return result.name
    return result.data.name if isinstance(result, FinetunedResult | OpenSetResult) else result.data.test.name


def _measured(run: RunRecord) -> tuple[Measured, ...]:
    """The score of the encoder, or of the fine-tuned network, on each set of images."""
    found = []
    for result in run.results:
        if isinstance(result, ClosedResult):
            name, measure, value = "linear probe", "accuracy", result.rows["encoder"].linear.accuracy
        elif isinstance(result, NumbersResult):
            name, measure, value = "ridge regression", "mae", result.rows["encoder"].mean_absolute_error
        elif isinstance(result, FinetunedClasses):
            name, measure, value = "fine-tuned with a classifier", "accuracy", result.rows["fine-tuned"].accuracy
        else:
            continue
        images = _set_name(result)
        kind = images if images in SOURCES else "imagefolder"
        found.append(Measured(measure=measure, name=name, value=round(value, 4), dataset=_last(images), kind=kind))
    return tuple(found)


def _limits(run: RunRecord) -> tuple[str, ...]:
    limits = []
    if run.results or run.open_sets:
        limits.append(
            "Intervals are over the test images: they say nothing of another seed, and nothing of images from elsewhere, other "
            "cameras or other years."
        )
    else:
        limits.append(
            "Nothing was measured: that it is better than an untrained network, or than raw pixels, is not shown."
        )
    for result in run.results:
        if isinstance(result, ClosedResult) and result.data.test.near_copies:
            limits.append(
                f"{result.data.test.near_copies} test images have a near-copy in training, which makes the score better."
            )
        if isinstance(result, FinetunedResult) and result.data.trained_on:
            limits.append(
                f"{result.data.trained_on} test images were among those of pretraining, which makes the score better."
            )
    return tuple(limits)
