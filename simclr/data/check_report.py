"""What a look through a folder of images found, and how it is said: each file and each class by name once."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from simclr.names import printable

__all__ = ["FolderReport"]


_ALL = "--json FILE.csv or FILE.json has them all"

_FEW = 10
"""Images of a class below which a score says little about it."""


@dataclass(frozen=True, kw_only=True)
class FolderReport:
    """What was found; the files in the order of their names."""

    notes: tuple[str, ...] = ()
    """What was decided about the folder before any image was decoded."""

    parts: dict[str, int]
    """Images of each part, as a run would divide them; those that do not decode are among them."""

    classes: dict[str, int]
    """Images of each class in all parts; empty without labels."""

    lacking: dict[str, tuple[str, ...]]
    """Part -> the classes that it has no image of, while another part has."""

    unlabelled: int
    """Images without a label, or without a number, where others have one."""

    numbers: tuple[float, ...] = ()
    """Where numbers are to be predicted, those of all images that have one, in order of size."""

    broken: dict[Path, str]
    """Files that do not decode, each with the reason."""

    duplicates: tuple[tuple[Path, ...], ...]
    """Groups of files with the same bytes."""

    leaked: tuple[tuple[Path, ...], ...]
    """Those of the groups that are in the training and in another part."""

    contradicting: tuple[tuple[Path, ...], ...]
    """Those of the groups whose files are of different classes."""

    near: tuple[tuple[Path, Path], ...]
    """Each test image that has a near-copy, no exact one, in training, and that."""

    near_in_training: tuple[tuple[Path, Path], ...] | None = ()
    """Pairs of near-copies among the training images; None where there are too many images to compare all with all."""

    cropped: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Width and height of the images of which the middle square shows less than half; none where ``data.fit`` is not crop."""

    odd: dict[Path, tuple[tuple[str, str], ...]]
    """Files whose images are odd: what kind of odd each is, and the fault in words. A kind is counted, a fault is named."""

    sizes: tuple[tuple[int, int], ...]
    """Width and height of every image that decodes, upright."""

    stored_size: int
    """``data.size``: images are enlarged where their shorter side is smaller."""

    turned: int
    """Images that are turned or mirrored by what their EXIF says."""

    kinds: dict[str, int]
    """Images by format and colour mode, or number and depth of bands."""

    def lines(self, most: int = 20) -> list[str]:
        """The report in words, naming at most ``most`` files or classes of a kind."""
        said = list(self.notes)
        total = sum(self.parts.values())
        said.append(f"{total} images: " + ", ".join(f"{count} {part}" for part, count in self.parts.items()))
        said += self._of_classes(most)
        said += self._of_sizes()
        said += self._of_copies(most)
        said += self._of_oddities(most)
        said.append(f"{len(self.broken)} files do not decode" + (":" if self.broken else ""))
        said += _listed(list(self.broken.values()), most)
        return [printable(line) for line in said]

    @property
    def few(self) -> dict[str, int]:
        """The classes of fewer than ten images."""
        return {name: count for name, count in self.classes.items() if count < _FEW}

    def findings(self) -> list[tuple[str, int, bool]]:
        """What was looked for, how often it was found, and whether finding it is a fault: it makes a score or a run wrong."""
        return [
            ("files that do not decode", len(self.broken), True),
            ("groups of copies in several classes", len(self.contradicting), True),
            ("groups of copies in training and test", len(self.leaked), True),
            ("test images with a near-copy in training", len({test for test, _ in self.near}), True),
            ("copies of other files", sum(len(group) - 1 for group in self.duplicates), False),
            ("pairs of near-copies in training", len(self.near_in_training or ()), False),
            (f"classes of fewer than {_FEW} images", len(self.few), False),
            ("images of which the middle square shows less than half", len(self.cropped), False),
            ("odd images", len(self.odd), False),
        ]

    @property
    def faulty(self) -> bool:
        """Whether something was found that makes a score or a run wrong."""
        return any(count and fault for _, count, fault in self.findings())

    def table(self) -> list[str]:
        """``findings`` as lines."""
        wide = max(len(name) for name, _, _ in self.findings())
        lines = [f"{'looked for':{wide}}   found"]
        return lines + [
            f"{name:{wide}}  {count:6}{'  fault' if fault and count else ''}" for name, count, fault in self.findings()
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON: the fields by their names, paths as text, beside the findings and whether they are faulty."""
        counted = {name: {"found": count, "fault": fault and count > 0} for name, count, fault in self.findings()}
        return {"faulty": self.faulty, "findings": counted, "few": self.few, **_plain(asdict(self))}

    def _of_classes(self, most: int) -> list[str]:
        if self.numbers:
            low, middle, high = (self.numbers[i] for i in (0, len(self.numbers) // 2, -1))
            lines = [f"numbers to predict: {low:g} to {high:g}, median {middle:g}"]
            return lines + ([f"images without a number: {self.unlabelled}"] if self.unlabelled else [])
        if not self.classes:
            # Where a folder has notes, they say why.
            return [] if any("label" in note for note in self.notes) else ["no labels"]
        counts = sorted(self.classes.values())
        said = f"{len(counts)} classes of {counts[0]} to {counts[-1]} images, median {counts[len(counts) // 2]}"
        if counts[-1] > counts[0]:
            said += f"; the largest has {counts[-1] / counts[0]:.3g} times as many as the smallest"
        lines = [said]
        # A class is named once, for the gravest of what is the matter with it.
        named: set[str] = set()
        for part, classes in self.lacking.items():
            names = [name for name in classes if name not in named]
            lacks = "classes that training lacks" if part == "train" else f"classes that the {part} part lacks"
            if names and not any(note.startswith(lacks) for note in self.notes):
                lines.append(f"{lacks}: {_some(names, most)}")
            named.update(names)
        alone = [name for name, count in self.classes.items() if count == 1 and name not in named]
        if alone:
            lines.append(f"classes of one image: {_some(alone, most)}")
        few = [f"{name} ({count})" for name, count in self.few.items() if name not in named and name not in alone]
        if len(self.few) == len(counts) > len(alone):
            lines.append(f"every class has fewer than {_FEW} images, too few to tell what is learned of them")
        elif few:
            said = f"{len(few)} classes have fewer than {_FEW} images, too few to tell what is learned of them"
            lines.append(f"{said}: {_some(few, most)}")
            named.update(self.few)
        if counts[-1] >= 10 * counts[0]:
            ends = {counts[0], counts[-1]}
            names = [
                f"{name} ({count})"
                for name, count in self.classes.items()
                if count in ends and name not in named and name not in alone
            ]
            if names:
                lines.append(f"smallest and largest classes: {_some(names, most)}")
        if self.unlabelled:
            lines.append(f"images without a label: {self.unlabelled}")
        return lines

    def _of_sizes(self) -> list[str]:
        if not self.sizes:
            return []
        shorter = sorted(min(size) for size in self.sizes)
        lines = [f"shorter side {shorter[0]} to {shorter[-1]} px, median {shorter[len(shorter) // 2]}"]
        small = sum(side < self.stored_size for side in shorter)
        if small:
            lines.append(
                f"smaller than data.size ({self.stored_size} px), to be enlarged: {small} of {len(shorter)} images"
            )
        if self.cropped:
            lines.append(
                f"the middle square shows less than half of {len(self.cropped)} of {len(shorter)} images (longer than 2 : 1); "
                f"--data.fit pad or stretch shows all of them"
            )
        lines.append("formats: " + ", ".join(f"{count} {kind}" for kind, count in self.kinds.items()))
        if self.turned:
            lines.append(f"turned or mirrored, as their EXIF says: {self.turned} of {len(shorter)} images")
        return lines

    def _of_copies(self, most: int) -> list[str]:
        lines = []
        if self.duplicates:
            extra = sum(len(group) - 1 for group in self.duplicates)
            lines.append(
                f"{extra} files are copies of others; groups of them in training and test alike: {len(self.leaked)}, in "
                f"several classes: {len(self.contradicting)}"
            )
            # Each group once, the worst of them first.
            worst = dict.fromkeys((*self.contradicting, *self.leaked, *self.duplicates))
            lines += _listed([f"{self._fault(group)}{_equal(group)}" for group in worst], most)
        copied = len({test for test, _ in self.near})
        if copied:
            lines.append(
                f"test images with a near-copy in training (the same shot resized, brighter, moved or saved anew) and no exact "
                f"one: {copied} of {self.parts['test']}; --data.group keeps what belongs together in one part"
            )
            pairs: dict[Path, list[Path]] = {}
            for test, train in self.near:
                pairs.setdefault(train, []).append(test)
            lines += _listed(
                [
                    f"{train} ~ {_equal(tests, ' ~ ')}{self._faults_of([train, *tests])}"
                    for train, tests in pairs.items()
                ],
                most,
            )
        if self.near_in_training is None:
            lines.append("near-copies among the training images are not looked for in so many")
        elif self.near_in_training:
            lines.append(f"pairs of near-copies among the training images: {len(self.near_in_training)} ({_ALL})")
        return lines

    def _of_oddities(self, most: int) -> list[str]:
        kinds = Counter(kind for faults in self.odd.values() for kind, _ in faults)
        if not kinds:
            return []
        named = {path for group in self.duplicates for path in group} | {path for pair in self.near for path in pair}
        # The rarest kind first: what all images have is no news of one of them.
        others = sorted(
            (path for path in self.odd if path not in named),
            key=lambda path: (min(kinds[kind] for kind, _ in self.odd[path]), path),
        )
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        return [f"odd images: {counts}", *_listed([f"{path}{self._faults_of([path])}" for path in others], most)]

    def _faults_of(self, paths: Sequence[Path]) -> str:
        found = [fault for path in paths for _, fault in self.odd.get(path, ())]
        return "".join(f"; {fault}" for fault in dict.fromkeys(found)).replace("; ", ": ", 1)

    def _fault(self, group: tuple[Path, ...]) -> str:
        faults = {"several classes": self.contradicting, "training and test": self.leaked}
        named = [fault for fault, groups in faults.items() if group in groups]
        named += [fault for _, fault in self.odd.get(group[0], ())]  # equal files are odd in the same ways
        return f"({', '.join(named)}) " if named else ""


def _some(names: Sequence[str], most: int) -> str:
    return ", ".join(map(printable, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _listed(names: Sequence[str], most: int) -> list[str]:
    return [f"  {name}" for name in names[:most]] + (
        [f"  and {len(names) - most} more: {_ALL}"] if len(names) > most else []
    )


def _equal(group: Iterable[Path], sign: str = " = ", most: int = 5) -> str:
    names = [str(path) for path in group]
    return sign.join(names[:most]) + (f"{sign}{len(names) - most} more" if len(names) > most else "")


def _plain(value: Any) -> Any:
    """``value`` of what JSON has: paths are text, tuples lists."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
