"""What the rows of metadata files say of images, role by role: row by row, each of which may be about any image."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from simclr.data.class_cells import Said, classes_of, in_order, one_text
from simclr.data.metadata_cells import agreed, number_in, parts_in
from simclr.data.metadata_columns import Role
from simclr.data.part_names import PartName
from simclr.data.places import Chosen

__all__ = ["Rows", "Told", "ToldRows", "are"]

Rows = dict[Path, list[tuple[str, str, Mapping[Role, Any]]]]
"""Of each image its rows: where each stands, the image as it writes it, and its cells."""


class Told(Protocol):
    """What is said of N images."""

    any_row: bool
    """Whether anything is said of any image."""

    def classes(self, column: str, notes: list[str]) -> tuple[Tensor, tuple[str, ...]]:
        """Labels int64 (N,), -1 where there is none, and the names of all; what was decided is added to ``notes``."""

    def numbers(self, role: Role, commas: bool) -> Tensor:
        """float32 (N,), NaN where there is none; of the role ``quality`` those of images that ``classes`` gave a label."""

    def groups(self) -> Tensor:
        """int64 (N,), numbered as they come, -1 where there is none."""

    def parts(self) -> Sequence[PartName | None] | None:
        """The part of each image, or None where the column holds the name of none."""


class ToldRows:
    """What ``rows`` say of the images ``keys``: any number of rows an image."""

    def __init__(self, rows: Rows, keys: Sequence[Path]) -> None:
        self.rows, self.keys, self.any_row = rows, keys, bool(rows)
        self._class_of: dict[Path, str | None] = {}

    def _said(self, role: Role) -> dict[Path, list[Said]]:
        return {
            image: [Said(where, text, cells[role]) for where, text, cells in told if role in cells]
            for image, told in self.rows.items()
        }

    def classes(self, column: str, notes: list[str]) -> tuple[Tensor, tuple[str, ...]]:
        """See `Told`."""
        self._class_of = classes_of(self._said("label"), column, notes)
        classes = in_order({name for name in self._class_of.values() if name is not None})
        return self._numbered(self._class_of, classes), classes

    def numbers(self, role: Role, commas: bool) -> Tensor:
        """See `Told`."""
        said = self._said(role)
        if role == "quality":
            said = {image: cells for image, cells in said.items() if self._class_of.get(image) is not None}
        number_of = {
            image: agreed(cells, [number_in(row, role, commas) for row in cells], role) for image, cells in said.items()
        }
        return torch.tensor([math.nan if (value := number_of.get(key)) is None else value for key in self.keys])

    def groups(self) -> Tensor:
        """See `Told`."""
        said = self._said("group")
        group_of = {
            image: agreed(cells, [one_text(row.cell) for row in cells], "group") for image, cells in said.items()
        }
        return self._numbered(group_of, tuple(dict.fromkeys(name for name in group_of.values() if name is not None)))

    def parts(self) -> Sequence[PartName | None] | None:
        """See `Told`."""
        part_by_image = parts_in(self._said("split"))
        return None if part_by_image is None else tuple(part_by_image.get(key) for key in self.keys)

    def _numbered(self, name_of: Mapping[Path, str | None], names: tuple[str, ...]) -> Tensor:
        number = {name: i for i, name in enumerate(names)}
        return torch.tensor([-1 if (name := name_of.get(key)) is None else number[name] for key in self.keys])


def are(parts: Sequence[PartName | None], part: PartName) -> Tensor:
    """Which of the images are in ``part``: bool (N,)."""
    if isinstance(parts, Chosen):
        return torch.tensor([known == part for known in parts.items])[parts.rows]
    return torch.tensor([known == part for known in parts])
