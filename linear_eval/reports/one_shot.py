"""The figures of a one-shot evaluation as a table, as ``one-shot.json`` and as a picture of some trials."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from linear_eval.matching.few_shot import FewShotResult
from linear_eval.matching.trials import OneShotRuns, TrialsResult
from linear_eval.reports.closed import plain_table, write_result
from linear_eval.reports.open_set import short_percent
from linear_eval.reports.trials import ShownTrial, ShownTrials, draw_trials
from linear_eval.scored_run import note_on_trained_images
from simclr.data import ImageSet
from simclr.names import numbered, printable

__all__ = [
    "RUNS",
    "SIAMESE",
    "WITHIN",
    "WITH_HEAD",
    "Row",
    "one_shot_table",
    "print_one_shot",
    "shown_trials",
    "write_one_shot",
]

Row = dict[str, FewShotResult | TrialsResult | str]
"""Name of each measure -> its figures, or in words why there are none."""

RUNS = "given trials"
"""The measure of trials that were drawn already."""

SIAMESE = "p(same)"
"""The row that compares by the probability which a Siamese loss was trained for."""

WITH_HEAD = "with head"
"""The row of the embeddings that a supervised objective compared: outputs of the projection head."""

WITHIN = ", within"
"""What the names of measures end with whose episodes are of one parent folder."""

PUBLISHED = (
    "these are Lake's 400 trials, for encoders that saw the background alphabets alone. Published, in %: BPL 96.7, people 95.5, "
    "Siamese network 92.0, convnet 86.5, modified Hausdorff distance 61.2 (Lake et al. 2015); differences of protocol: "
    "docs/open_set.md"
)


def one_shot_table(result: dict[str, Any]) -> Table:
    """Every measure of the encoder, of others, of the untrained one and of raw pixels, in percent, with intervals."""
    runs, data = result["runs"], result["data"]
    if data is not None:
        of = f"{data['name']}: one-shot, {data['test']['images']:,} images of {len(data['test']['classes']):,} classes"
    else:
        of = f"{runs['name']}: one-shot, {runs['trials']:,} trials of {runs['runs']} runs"
    measures = result["rows"]["encoder"]
    over = [f"over {result['config']['episodes']:,} episodes"] if data is not None else []
    over += [f"over {runs['runs']} runs"] if runs is not None else []
    caption = f"[95 % interval {', of given trials '.join(over)}]"
    if any(measure.endswith(WITHIN) for measure in measures):
        caption += "\nwithin: all classes of an episode lie in one folder, such as an alphabet's"
    table = plain_table(title=f"{of}, in %", caption=caption)
    table.padding = (0, 0) if len(result["rows"]) > 3 else (0, 1)  # a terminal of 80 columns has no room to spare
    table.add_column("", no_wrap=True)
    for name in result["rows"]:
        style = "bold" if name == "encoder" else ""
        table.add_column(Text(printable(name)), justify="right", style=style, overflow="fold")
    previous = None
    for measure in measures:
        group = (measure == RUNS, measure.endswith(WITHIN))
        if previous is not None and group != previous:
            table.add_section()
        previous = group
        cells = (_cell(row[measure]) for row in result["rows"].values())
        table.add_row(_heading(measure, runs), *map(Text, cells))
    return table


def print_one_shot(result: dict[str, Any], console: Console | None = None) -> None:
    """Print the table, and what a reader of the figures has to know."""
    console = Console() if console is None else console
    console.print(one_shot_table(result))
    for line in _notes(result):
        console.print(Text(printable(line)))


def write_one_shot(result: dict[str, Any], shown: ShownTrials, folder: Path) -> list[Path]:
    """Write ``one-shot.json`` and ``one-shot.png`` into ``folder``; what is there is replaced."""
    return [write_result(result, folder / "one-shot.json"), draw_trials(shown, folder / "one-shot.png")]


def shown_trials(row: Row, images: ImageSet | None, runs: OneShotRuns | None) -> ShownTrials:
    """Trials of a row for a picture: of the given runs, or else of its random one-shot episodes, the hardest there are."""
    given = row.get(RUNS)
    if runs is not None and isinstance(given, TrialsResult):
        trials = [
            ShownTrial(run.name, int(query), run.candidates, int(run.answers[number]))
            for run in runs.runs
            for number, query in enumerate(run.queries)
        ]
        return ShownTrials(runs.name, runs.images, trials, given.chosen, given.hits)
    assert images is not None and images.labels is not None
    drawn = [one for one in row.values() if isinstance(one, FewShotResult) and one.shots == 1]
    if not drawn:
        return ShownTrials(images.name, images, [])
    hardest = max(drawn, key=lambda one: one.ways)
    episode = list(range(hardest.episodes))
    answer = [number % hardest.ways for number in episode]  # each time another place
    trials = [
        ShownTrial(images.classes[images.labels[rows[place, 1]]], int(rows[place, 1]), rows[:, 0], place)
        for rows, place in zip(hardest.rows, answer, strict=True)
    ]
    return ShownTrials(
        images.name, images, trials, hardest.chosen[episode, answer, 0], hardest.hits[episode, answer, 0]
    )


def _heading(measure: str, runs: dict[str, Any] | None) -> str:
    if measure != RUNS or runs is None:
        return measure
    ways = runs["ways"]
    return f"{ways[0]}-way, {RUNS}" if len(ways) == 1 else RUNS


def _cell(found: dict[str, Any]) -> str:
    if found["accuracy"] is None:
        return "-"
    spread = "" if found["interval"] is None else f"\n[{', '.join(map(short_percent, found['interval']))}]"
    return f"{short_percent(found['accuracy'])}{spread}"


def _notes(result: dict[str, Any]) -> list[str]:
    """A line for each thing that a reader of the table has to know."""
    lines = []
    if result["disjoint_from_training"] is not None:
        lines.append(f"classes new to the encoder? {result['disjoint_from_training']}")
    if result["left_out"] is not None:
        lines.append(f"no random episodes: {result['left_out']}")
    lines += [found["note"] for found in result["rows"]["encoder"].values() if found["accuracy"] is None]
    for pair, gains in result["comparison"].items():
        shown = [measure for measure in (RUNS, "20-way 1-shot", f"20-way 1-shot{WITHIN}") if measure in gains]
        if shown := shown or list(gains)[:1]:
            lines.append(f"{pair}: {'; '.join(f'{measure} {_gain(gains[measure])}' for measure in shown)}")
    if SIAMESE in result["rows"]:
        lines.append(
            f"{SIAMESE} = sigmoid(w (t - d)), d between outputs of the projection head: with one image it ranks as d does; of "
            "five images the mean of p counts, not their prototype"
        )
    if WITH_HEAD in result["rows"]:
        lines.append(f"{WITH_HEAD}: the projection head's outputs, which the objective compared")
    if result["data"] is not None:
        test = result["data"]["test"]
        lines += note_on_trained_images(test["trained_on"], test["images"])
        if numbers := numbered(test["classes"]):
            lines.append(f"note: {numbers}")
    if result["runs"] is not None and result["runs"]["lake"]:
        lines.append(PUBLISHED)
    return lines


def _gain(gain: dict[str, Any]) -> str:
    points = f"{100 * gain['difference']:+.1f} points"
    if gain["interval"] is None:
        return points
    low, high = (100 * end for end in gain["interval"])
    return f"{points} [{low:+.1f}, {high:+.1f}]" + (" (no difference shown)" if low <= 0 <= high else "")
