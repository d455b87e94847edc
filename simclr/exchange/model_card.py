"""A model card, ``README.md``, beside timm's two files: what the weights are, what they were trained on, and how good they are.

Its metadata are those that ``huggingface_hub.ModelCardData`` checks. Only what was measured is in it, and no path of the machine
that it was written on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from simclr.commands import command
from simclr.config import EncoderConfig
from simclr.errors import CheckpointError
from simclr.exchange.encoder import Encoder
from simclr.exchange.sealed import file_sha256
from simclr.exchange.timm_folder import has_timms_name, loading_lines
from simclr.files import atomically, write_json
from simclr.names import as_utf8

__all__ = ["CardFacts", "Measured", "refuse_edited", "write_card"]

_KEY = "card_sha256"

UNKNOWN = "unknown"
"""The Hub's own word for a licence that nobody has named."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A score for the card's metadata."""

    measure: str
    """Its identifier on the Hub: accuracy, mae."""

    name: str
    """What it is in words."""

    value: float
    """As the measure has it: a share in [0, 1], an error in its own unit."""

    dataset: str
    """What the test images are called."""

    kind: str
    """Identifier of the test images' set, or ``imagefolder``."""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says of a run beyond the network itself: Markdown, of what the run wrote down."""

    name: str = "encoder"
    """What the model is called."""

    data: str = "Which images these weights were trained on was not written down beside them."
    training: str = "How they were trained was not written down beside them."
    scores: str = "Not measured: no score was written beside these weights."

    limits: tuple[str, ...] = ()
    """Sentences for the list of limits."""

    measured: tuple[Measured, ...] = ()
    tags: tuple[str, ...] = ()

    datasets: tuple[str, ...] = ()
    """Identifiers on the Hub of the sets it was trained on."""

    base_model: str | None = None
    """Identifier on the Hub of the weights that training began with."""

    base_licence: str | None = None
    """The licence of those."""


def write_card(
    encoder: Encoder,
    built: EncoderConfig,
    facts: CardFacts,
    licence: str | None,
    folder: Path,
    modules: Sequence[str] = (),
) -> None:
    """Write ``folder/README.md``.

    Args:
        encoder: what the card is of.
        built: how its network was built.
        facts: what is known of its training and scores.
        licence: the Hub's identifier of the licence that the weights are given under; None is unknown, which it says.
        folder: that of the weights and of timm's ``config.json``, which notes what the card was.
        modules: of the trainer's own, that have to be imported before timm knows the network.

    Raises:
        CheckpointError: the disk refuses.
    """
    card = (
        f"---\n{_metadata(encoder, facts, licence, modules)}\n---\n\n{_body(encoder, built, facts, licence, modules)}"
    )
    atomically(folder / "README.md", lambda file: file.write(as_utf8(card).encode()))
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {_KEY: file_sha256(folder / "README.md")})


def refuse_edited(folder: Path) -> None:
    """Refuse to replace the card in ``folder`` where it is not as an export wrote it: somebody's own words are in it.

    Raises:
        CheckpointError: it was edited, or no export wrote it.
    """
    try:
        written = json.loads((folder / "config.json").read_text()).get(_KEY)
    except (OSError, ValueError, AttributeError):
        written = None
    if written != file_sha256(folder / "README.md"):
        raise CheckpointError(
            f"{folder / 'README.md'} was edited since it was exported, and would be lost; keep a copy of it elsewhere and remove "
            "it, or choose another --out"
        )


def _metadata(encoder: Encoder, facts: CardFacts, licence: str | None, modules: Sequence[str]) -> str:
    results = [
        EvalResult(
            task_type="image-classification" if one.measure == "accuracy" else "image-feature-extraction",
            dataset_type=one.kind,
            dataset_name=as_utf8(one.dataset),
            metric_type=one.measure,
            metric_value=one.value,
            metric_name=one.name,
        )
        for one in facts.measured
    ]
    data = ModelCardData(
        # The Hub shows a line that loads it by the library's name: only where that line works.
        library_name="timm" if has_timms_name(encoder) and not modules else None,
        pipeline_tag="image-feature-extraction",
        license=licence or UNKNOWN,
        tags=["image-feature-extraction", "timm", "pytorch", *facts.tags],
        datasets=list(facts.datasets) or None,
        base_model=facts.base_model,
        metrics=sorted({one.measure for one in facts.measured}) or None,
        model_name=as_utf8(facts.name) if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _body(encoder: Encoder, built: EncoderConfig, facts: CardFacts, licence: str | None, modules: Sequence[str]) -> str:
    bands = {1: "gray", 3: "RGB"}.get(encoder.channels, f"{encoder.channels} bands")
    size = encoder.size
    loaded = (
        "In this folder; once it is on the Hub, `hf-hub:USER/NAME` stands for `local-dir:.`."
        if has_timms_name(encoder)
        else "timm has no name for the stem of this ResNet (3x3 with stride 1, no max-pool, as SimCLR has it for small images), "
        "so that `timm.create_model` alone does not load it: these lines put the stem in. In this folder; once it is on the Hub, "
        '`huggingface_hub.hf_hub_download("USER/NAME", "model.safetensors")` gives the file.'
    )
    lines = "\n".join([*(f"import {name}" for name in modules), *loading_lines(encoder, built, ".")])
    limits = [
        f"Images are {bands}, {size} x {size}, prepared as above; of other sizes and other preparation nothing is known.",
        "It gives features, no classes: what they are good for, a classifier on labelled images of your own tells.",
        *(f"It needs the module `{name}` of its trainer's own, which is not in this folder." for name in modules),
        *facts.limits,
    ]
    return f"""# {facts.name}

An image encoder: `{built.name.split(".")[0]}` of timm without its classifier, {size} px, {encoder.features} features an image,
{sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} M parameters.

## How to load it

```python
{lines}
```

{loaded}

## Data

{facts.data}

## Training

{facts.training}

## Scores

{facts.scores}

## Licence

{_licence(facts, licence)}

## Limits

{chr(10).join(f"- {limit}" for limit in limits)}
"""


def _licence(facts: CardFacts, licence: str | None) -> str:
    said = (
        f"The weights are given under `{licence}`."
        if licence
        else "**TO BE FILLED IN before this is shared**: nobody has said under which licence these weights are given, nor what "
        f"the licence of the images allows. `{command('export')} RUN --format hub --license ID` writes it here and into the "
        "metadata."
    )
    if facts.base_licence is None:
        return said
    return f"{said}\n\nTraining began with `{facts.base_model}`, whose licence timm gives as `{facts.base_licence}`."
