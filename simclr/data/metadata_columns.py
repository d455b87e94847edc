"""Which column of a table about images says what: by its name, without regard to case, order, blanks and underscores."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from simclr.data.class_cells import one_text
from simclr.data.metadata_table import Table, plain
from simclr.errors import DataError

__all__ = ["Columns", "Role", "columns_of", "expected", "is_path", "names_of"]

Role = Literal["path", "label", "value", "quality", "group", "split"]

_NAMES: Mapping[Role, tuple[str, ...]] = {
    "path": (
        *("filename", "filepath", "path", "file", "relativepath", "imagepath", "imgpath", "imagefile", "imagefilename"),
        *("imagename", "image", "img", "imageid", "imgid", "id"),
    ),
    "label": (
        *("label", "labels", "labelname", "class", "classes", "classname", "classlabel", "category", "categories"),
        *("categoryname", "target", "targets", "species", "breed", "tag", "tags"),
        *("finelabel", "groundtruth", "annotation", "diagnosis", "dx", "disease", "genus", "variety"),
    ),
    "value": ("value",),
    "quality": ("quality",),
    "group": ("group", "groupid", "groupname"),
    "split": ("split", "part", "partition", "subset", "set", "fold"),
}
"""Names of each role as `plain` compares them; where a table has several of one role, the one nearest the front is taken."""


@dataclass(frozen=True)
class Columns:
    """The column of each role in one table."""

    table: Table

    at: Mapping[Role, int]
    """Number of the column of each role that the table has."""

    one_hot: tuple[int, ...]
    """Columns that hold one 1 in each row and else 0, where there is no label column: their names are the classes."""

    def cells(self, row: tuple[Any, ...]) -> dict[Role, Any]:
        """The cells of ``row`` by their role."""
        said: dict[Role, Any] = {role: row[i] for role, i in self.at.items()}
        if self.one_hot:
            said["label"] = next(self.table.columns[i] for i in self.one_hot if _bit(row[i]))
        return said

    def only(self, roles: Container[Role]) -> "Columns":
        """The same table with the columns of ``roles`` alone."""
        return Columns(self.table, {role: i for role, i in self.at.items() if role in roles}, ())

    def names(self, role: Role) -> list[str]:
        """The names, as the file writes them, of the columns that ``role`` is read from."""
        if role == "label" and self.one_hot:
            return [self.table.columns[i] for i in self.one_hot]
        return [self.table.columns[self.at[role]]] if role in self.at else []


def names_of(role: Role) -> tuple[str, ...]:
    """The `plain` names of the columns of ``role``, the likeliest first."""
    return _NAMES[role]


def is_path(name: str) -> bool:
    """Whether a column of this `plain` name holds the paths of images."""
    return name in _NAMES["path"]


def expected() -> str:
    """What a message says of the names that are known."""
    return (
        "expected the columns path,label or path,label,quality or path,value, in any order; names known for path: "
        f"file_name {' '.join(_NAMES['path'])}; for label: {' '.join(_NAMES['label'])}; also split and group"
    )


def columns_of(table: Table, group: str | None) -> Columns:
    """The columns of ``table`` by their roles; ``group`` names the column of groups in place of the usual names.

    Raises:
        DataError: two columns of one name, of which one would be taken.
    """
    names = [plain(name) for name in table.columns]
    known = {**_NAMES, "group": _NAMES["group"] if group is None else (plain(group),)}
    at: dict[Role, int] = {}
    for role, candidates in known.items():
        name = next((name for name in candidates if name in names), None)
        if name is None or names.index(name) in at.values():
            continue
        at[role] = names.index(name)
        if table.columns.count(table.columns[at[role]]) > 1:
            raise DataError(f"{table.file} has two columns {table.columns[at[role]]}; rename or remove one")
    if "label" in at:
        at.pop("value", None)
    else:
        at.pop("quality", None)
    rest = [i for i in range(len(names)) if i not in at.values()]
    return Columns(table, at, _one_hot(table, rest) if not {"label", "value"} & set(at) else ())


def _one_hot(table: Table, rest: list[int]) -> tuple[int, ...]:
    bits = [[_bit(row[i]) for _, row in table.rows] for i in rest]
    holding = [i for i, column in zip(rest, bits, strict=True) if None not in column]
    ones = [sum(bool(_bit(row[i])) for i in holding) for _, row in table.rows]
    return tuple(holding) if len(holding) > 1 and set(ones) == {1} else ()


def _bit(cell: Any) -> bool | None:
    return {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}.get(
        (one_text(cell) or "").lower()
    )
