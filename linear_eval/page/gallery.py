"""The images of one run put together for its report: which to show, and the small picture of each."""

from contextlib import suppress
from typing import Any

import torch

from linear_eval.answers import StoredAnswers
from linear_eval.comparison.runs import RunRecord
from linear_eval.look.copies import copies
from linear_eval.look.maps import Method, map_of
from linear_eval.look.neighbours import nearest_rows
from linear_eval.look.seen import Seen, look_at
from linear_eval.look.surprising import surprising
from linear_eval.look.thumbnails import thumbnails
from linear_eval.page.images import as_json
from linear_eval.page.look import BEHIND_A_CELL, BEHIND_ALL_CELLS, Confusion, Look, Picture, Pictures
from linear_eval.page.map import FORMS, class_colours, draw_map
from linear_eval.scored_run import ScoredRun
from simclr.commands import command
from simclr.errors import DataError, PipelineError
from simclr.names import as_utf8, shortened
from simclr.progress import progress

__all__ = ["look_of"]

MOST_IMAGES = 20_000
"""Images that are looked at; of more a draw."""

MOST_POINTS = 2_000
"""On the map. Every point has its picture in the page: some 2 KB each."""

SIDE = 88
"""Longer side of a picture in pixels."""

QUERIES, NEAREST = 10, 7
SURPRISES, GROUPS, IN_A_GROUP = 48, 24, 8

_SIGNS = dict(zip(FORMS, "●▲■◆▼✚★⬢", strict=True))


def look_of(run: RunRecord, answers: StoredAnswers | None, confusion: Confusion | None) -> tuple[Look | None, str]:
    """The images of ``run`` as its page shows them, and a word on why where it shows none."""
    if not run.finished:
        return None, ""
    try:
        with progress("the images of the report", lines=False):
            seen = look_at(ScoredRun.at(run.folder), most=MOST_IMAGES)
            return _Chosen(seen).look(answers, confusion), ""
    except PipelineError as error:
        reason = str(error).partition("; ")[0]  # what would mend it are flags of other commands
        return None, f"Its images cannot be shown: {reason}."


class _Chosen:
    """Which images of a set are shown, gathered section by section; each becomes a picture once, at the end."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.pictures = Pictures()
        self.row_of = {as_utf8(name): row for row, name in enumerate(seen.names)}

    def look(self, answers: StoredAnswers | None, confusion: Confusion | None) -> Look:
        seen = self.seen
        cells = {} if answers is None or confusion is None else self._cells(answers, confusion)
        neighbours, said = self._neighbours()
        groups, duplicates = self._copies()
        odd = self._surprising()
        generator = torch.Generator().manual_seed(0)
        rows = torch.randperm(len(seen), generator=generator)[:MOST_POINTS].sort().values
        method: Method = "tsne" if len(rows) >= 5 else "pca"
        spots = map_of(seen.x[rows], method)
        script, place = draw_map(spots, seen.y[rows].tolist())
        points = [self.pictures.want(row) for row in rows.tolist()]
        content = thumbnails(seen.images, list(self.pictures.rows), SIDE)
        labels = [label for label in seen.y.unique().tolist() if label >= 0]
        colours = class_colours(max(labels, default=-1) + 1)
        return Look(
            neighbours=neighbours,
            neighbours_note=said,
            surprising=odd,
            surprising_note="Labels that may be wrong, the most surprising first: a linear probe that never saw the image and "
            "the labels of its nearest images say another class. Each was predicted by a probe fitted on four fifths of the "
            "others without its copies. The weaker the encoder, the more of these are its own mistakes. "
            f"{command('neighbors')} RUN --surprising lists them in a file."
            if odd
            else "",
            copies=groups,
            copies_note=duplicates,
            map=place,
            map_script=script,
            map_note=_note(method, len(rows), seen),
            map_points=len(rows),
            classes=[(seen.name_of(label), colours[label], _SIGNS[FORMS[label % len(FORMS)]]) for label in labels],
            images=self.pictures.as_json(seen, content),
            cells=as_json(cells),
            points=as_json(points),
        )

    def _picture(self, row: int, words: str, kind: str = "") -> Picture:
        return Picture(self.pictures.want(row), words, kind)

    def _cells(self, answers: StoredAnswers, confusion: Confusion) -> dict[str, Any]:
        """Key of a cell -> its title, the images that are shown, how many there are; errors first, since room is bounded."""
        titles, cells, room = confusion.titles(), {}, BEHIND_ALL_CELLS
        right = {key for key, (title, _) in titles.items() if title.endswith(", right")}
        for key in sorted(titles, key=lambda key: (key in right, -titles[key][1])):
            rows = [self.row_of[n] for i in confusion.members.get(key, []) if (n := answers.images[i]) in self.row_of]
            shown = rows[: min(BEHIND_A_CELL if key not in right else 4, room)]
            room -= len(shown)
            cells[key] = (titles[key][0], [self.pictures.want(row) for row in shown], titles[key][1])
        return cells

    def _neighbours(self) -> tuple[list[list[Picture]], str]:
        """Test images, half of them with a nearest neighbour of another class, each beside the nearest of all others."""
        seen = self.seen
        held_out = torch.tensor([row for row in range(len(seen)) if seen.part(row) == "test"])
        asked = held_out if len(held_out) else torch.arange(len(seen))
        asked = asked[torch.randperm(len(asked), generator=torch.Generator().manual_seed(0))[:400]]
        count = min(NEAREST, len(seen) - 1)
        if count < 1:
            return [], ""
        cosines, found = nearest_rows(seen.x, seen.x[asked], count, own=asked)
        labelled = seen.y[asked] >= 0
        wrong = labelled & (seen.y[found[:, 0]] != seen.y[asked])
        half = min(QUERIES // 2, int(wrong.sum()))
        order = [*wrong.nonzero().flatten()[:half].tolist(), *(~wrong).nonzero().flatten()[: QUERIES - half].tolist()]
        rows = []
        for i in order:
            query = int(asked[i])
            line = [self._picture(query, f"{seen.label(query)} {_short(seen.names[query])}".strip())]
            for cosine, row in zip(cosines[i].tolist(), found[i].tolist(), strict=True):
                known = int(seen.y[query]) >= 0 and int(seen.y[row]) >= 0
                kind = "" if not known else "right" if int(seen.y[row]) == int(seen.y[query]) else "wrong"
                mark = {"right": "✓ ", "wrong": "✗ ", "": ""}[kind]
                line.append(self._picture(row, f"{mark}{seen.label(row)} {cosine:.2f} {_short(seen.names[row])}", kind))
            rows.append(line)
        note = f"The first image of a row, and the {count} of {len(seen):,} that the encoder finds most alike, with their cosine."
        if bool(labelled.any()):
            share = 100 * float((~wrong)[labelled].float().mean())
            note += (
                f" ✓ and a blue frame: of the same class; ✗ and a dashed orange one: of another. Of {int(labelled.sum()):,} "
                f"images drawn, {share:.0f} % have a nearest neighbour of their class; half of those shown have not."
            )
        return rows, note

    def _copies(self) -> tuple[list[list[Picture]], str]:
        seen = self.seen
        groups = copies(seen)
        if not groups:
            return [], f"None among {len(seen):,} images."
        crossing = sum(group.crosses for group in groups)
        note = f"{len(groups):,} groups of {sum(len(group.rows) for group in groups):,} images"
        note += (
            f"; {crossing:,} of them across parts: one across training and test makes a score too good"
            if crossing
            else ""
        )
        note += f". {command('neighbors')} RUN --copies lists all of them in a file."
        shown = [
            [
                self._picture(row, f"{seen.part(row)} {seen.label(row)} {_short(seen.names[row])}")
                for row in group.rows[:IN_A_GROUP]
            ]
            for group in groups[:GROUPS]
        ]
        return shown, note

    def _surprising(self) -> list[Picture]:
        seen = self.seen
        with suppress(DataError):  # no labels, or too few
            return [
                self._picture(
                    one.row,
                    f"labelled {seen.label(one.row)}, looks like {seen.name_of(one.said)} ({100 * one.confidence:.0f} %): "
                    f"{_short(seen.names[one.row])}",
                )
                for one in surprising(seen, SURPRISES)
            ]
        return []


def _short(name: str) -> str:
    """A path with its middle left out, for under a picture; the list of the map has all of it."""
    return shortened(name, 26)


def _note(method: str, shown: int, seen: Seen) -> str:
    drawn = f"{shown:,} of {len(seen):,} images, drawn at random" if shown < len(seen) else f"All {shown:,} images"
    how = "t-SNE: near points are alike, distances between groups mean nothing" if method == "tsne" else "PCA"
    return (
        f"{drawn}. {how}. The pointer shows an image; the lasso above the map chooses many, as do a search and a class; "
        "the list below can be saved."
    )
