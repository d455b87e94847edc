"""What a report shows of the images themselves: a confusion's images, neighbours, surprises, near-duplicates and the map."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from linear_eval.answers import StoredAnswers
from linear_eval.look.seen import Seen
from linear_eval.page.images import as_json, picture_address

__all__ = ["Confusion", "ConfusionCell", "Look", "Picture", "Pictures", "confusion_of"]

MOST_CLASSES = 25
"""A matrix of more does not fit on a screen: then the pairs that are confused most are listed."""

MOST_PAIRS = 40
BEHIND_A_CELL = 8
BEHIND_ALL_CELLS = 400

_NOTHING = Markup()


@dataclass(frozen=True)
class Picture:
    """A picture where it stands in the page."""

    image: int
    """Its number among the page's pictures."""

    words: str
    kind: str = ""
    """``right`` or ``wrong`` where it is framed so."""


@dataclass
class Pictures:
    """The small pictures of a page, each there once; ``rows`` are those that are wanted, in the order of their numbers."""

    rows: dict[int, int] = field(default_factory=dict)

    def want(self, row: int) -> int:
        """The number under which the page has image ``row`` of the set."""
        return self.rows.setdefault(row, len(self.rows))

    def as_json(self, seen: Seen, content: Mapping[int, bytes]) -> Markup:
        """(name, part, class, address) of each; one that could not be made is an empty one."""
        return as_json(
            [
                (seen.names[row], seen.part(row), seen.label(row) or None, picture_address(content.get(row, b"")))
                for row in self.rows
            ]
        )


@dataclass(frozen=True)
class ConfusionCell:
    """Images of one class that were taken for one."""

    key: str
    true: str
    taken: str
    count: int
    shade: float

    @property
    def words(self) -> str:
        """What it says to who does not see where it stands."""
        return f"{self.count} of {self.true} taken for {self.taken}"


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """What was taken for what."""

    note: str
    classes: list[str]
    matrix: list[tuple[str, list[ConfusionCell]]]
    pairs: list[ConfusionCell]
    members: dict[str, list[int]]
    """Key of a cell -> numbers of its images among the answers, those of which the classifier was surest first."""

    def titles(self) -> dict[str, tuple[str, int]]:
        """Key of a cell -> its title and how many images it has."""
        every = [cell for _, row in self.matrix for cell in row] + self.pairs
        return {
            cell.key: (
                f"{cell.true} taken for {cell.taken}" if cell.true != cell.taken else f"{cell.true}, right",
                cell.count,
            )
            for cell in every
        }


def confusion_of(answers: StoredAnswers) -> Confusion:
    """The answers of the first classifier, class against class."""
    cells: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, (truth, said) in enumerate(zip(answers.truth, answers.first, strict=True)):
        cells[truth, said].append(number)
    totals = Counter(answers.truth)
    names = list(dict.fromkeys([*sorted(totals), *sorted(set(answers.first))]))
    place = {name: number for number, name in enumerate(names)}
    sure = answers.confidence or [0.0] * len(answers.images)
    members, made = {}, {}
    for (truth, said), numbers in cells.items():
        key = f"{place[truth]}-{place[said]}"
        share = (len(numbers) / totals[truth]) ** 0.5  # the root shows the errors beside a diagonal near 1
        made[truth, said] = ConfusionCell(key, truth, said, len(numbers), share)
        members[key] = sorted(numbers, key=lambda number: -sure[number])
    few = len(names) <= MOST_CLASSES
    empty = ConfusionCell("", "", "", 0, 0.0)
    wrong = sorted((cell for pair, cell in made.items() if pair[0] != pair[1]), key=lambda cell: -cell.count)
    said = (
        "of the test images by the linear probe"
        if next(iter(answers.said)).startswith("linear")
        else "of the test images"
    )
    return Confusion(
        note=f"Counts {said}: rows are the true classes, columns what they were taken for."
        if few
        else f"The {min(MOST_PAIRS, len(wrong))} pairs of {len(names)} classes that are confused most.",
        classes=names if few else [],
        matrix=[(row, [made.get((row, column), empty) for column in names]) for row in names if totals[row]]
        if few
        else [],
        pairs=[] if few else wrong[:MOST_PAIRS],
        members=members,
    )


@dataclass(frozen=True, kw_only=True)
class Look:
    """The images of one run, ready to be put on the page."""

    neighbours: Sequence[Sequence[Picture]] = ()
    neighbours_note: str = ""
    surprising: Sequence[Picture] = ()
    surprising_note: str = ""
    copies: Sequence[Sequence[Picture]] = ()
    copies_note: str = ""
    map: Markup = _NOTHING
    map_script: Markup = _NOTHING
    map_note: str = ""
    map_points: int = 0
    classes: Sequence[tuple[str, str, str]] = ()
    """Name, colour and form of each class on the map."""

    images: Markup = _NOTHING
    cells: Markup = _NOTHING
    points: Markup = _NOTHING
