"""The page itself: what is known of some runs, put into ``page.html`` beside its style and its script. Nothing is fetched."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from linear_eval.comparison.page import Section
from linear_eval.comparison.runs import RunRecord, differing_keys
from linear_eval.comparison.tables import over_seeds
from linear_eval.page.advice import Advice, advice_on
from linear_eval.page.charts import COLOURS, DASHES, curves_of, draw_curves, drawing_script, last_values
from linear_eval.page.facts import Fact, config_rows, reproduced, trained_on_what, versions
from linear_eval.page.images import data_address
from linear_eval.page.look import Confusion, Look
from linear_eval.page.scores import Pair, ScoreTable, pairs_of_rows, pairs_of_runs, score_tables
from linear_eval.page.template import filled
from linear_eval.page.words import Tile, Verdict, tiles, verdict_on

__all__ = ["Page", "page_of", "rendered"]

_DASHES = {"solid": "", "dashed": "6 3", "dotted": "2 3", "dotdash": "2 3 6 3"}


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What is said of one run."""

    name: str
    colour: str
    dashes: str
    verdict: Verdict
    tiles: list[Tile]
    facts: list[Fact]
    views: Markup | None
    config: list[Fact]
    versions: list[Fact]
    protocol: list[Fact]
    again: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page says, in the order in which it says it."""

    title: str
    state: str
    live: bool
    shape: str
    runs: list[_Run]
    differences: list[tuple[str, list[str]]]
    advice: list[tuple[str, list[Advice]]]
    tables: list[ScoreTable]
    over_seeds: list[Section]
    pairs: list[Pair]
    charts: list[tuple[str, str, list[tuple[str, str]], Markup]]
    confusion: Confusion | None
    look: Look | None
    drawings: list[Markup]
    footer: str

    @property
    def terms(self) -> list[str]:
        """What is said of any run, by its name."""
        return list(dict.fromkeys(term for run in self.runs for term, _ in run.facts))

    @property
    def sections(self) -> list[tuple[str, str]]:
        """(anchor, what the navigation calls it) of those that there are."""
        look = self.look
        about = ("trained", "Trained on", True), ("working", "Is it working", self.advice)
        named: list[tuple[str, str, Any]] = [
            ("verdict", "Verdict", True),
            ("differences", "Differences", self.differences),
            *(about if len(self.runs) == 1 else ()),
            ("scores", "Scores", self.tables),
            ("curves", "Curves", self.charts),
            *(about[::-1] if len(self.runs) > 1 else ()),
            ("confusion", "Confusion", self.confusion),
            ("neighbours", "Neighbours", look and look.neighbours),
            ("surprising", "Surprising", look and look.surprising),
            ("copies", "Duplicates", look and look.copies_note),
            ("map", "Map", look and look.map),
            ("again", "Again", True),
        ]
        return [(anchor, short) for anchor, short, there in named if there]


def page_of(
    runs: Sequence[RunRecord],
    look: Look | None = None,
    confusion: Confusion | None = None,
    *,
    state: str = "",
    live: bool = False,
) -> Page:
    """All that the files of ``runs`` tell; the images come with ``look``, which is of the only run."""
    panels = curves_of(runs)
    script, places = draw_curves(panels)
    charts = [(*one, place) for one, place in zip(last_values(panels), places, strict=True)]
    drawings = [script] if script else []
    if look is not None and look.map_script:
        drawings.append(look.map_script)
    pairs = pairs_of_rows(runs[0]) if len(runs) == 1 else pairs_of_runs(runs)
    shape = [str(len(runs)), *(chart.key for chart in panels), *(str(len(run.results)) for run in runs)]
    named = [run for run in runs if run.config]
    return Page(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs: {', '.join(run.name for run in runs)}",
        state=state,
        live=live,
        shape=" ".join([*shape, *(str(run.finished) for run in runs)]),
        runs=[_said(number, run) for number, run in enumerate(runs)],
        differences=[
            (key, [_value(run, key) for run in runs]) for key in (differing_keys(runs) if len(named) > 1 else [])
        ],
        advice=[(run.name, found) for run in runs if (found := advice_on(run))],
        tables=score_tables(runs),
        over_seeds=over_seeds(runs),
        pairs=pairs,
        charts=charts,
        confusion=confusion,
        look=look,
        drawings=drawings,
        footer="Written by simclr-pipeline. Everything is inside this file; it loads nothing from anywhere.",
    )


def _value(run: RunRecord, key: str) -> str:
    value = run.config.get(key)
    return "–" if key not in run.config else "none" if value is None else str(value)


def _said(number: int, run: RunRecord) -> _Run:
    views = run.folder / "views.png"
    first = run.results[0] if run.results else None
    return _Run(
        name=run.name,
        colour=COLOURS[number % len(COLOURS)],
        dashes=_DASHES[DASHES[number // len(COLOURS) % len(DASHES)]],
        verdict=verdict_on(run),
        tiles=tiles(run),
        facts=trained_on_what(run),
        views=data_address(views) if views.is_file() else None,
        config=config_rows(run),
        versions=versions(run),
        protocol=[] if first is None else list(first.protocol.items()),
        again=reproduced(run),
    )


def rendered(page: Page) -> bytes:
    """The page as one HTML file in UTF-8."""
    return filled("page.html", page=page, drawing=drawing_script())
