"""What the images of a set are called, in messages and in tables, one at a time: there may be millions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from torch import Tensor

from simclr.data import ImageSet
from simclr.data.rows import Stored
from simclr.errors import DataError

__all__ = ["Names", "Naming"]


@dataclass(frozen=True, kw_only=True)
class Naming:
    """An image is called by its path below ``root``, one in a shard or a table by its place there; or where it is neither by its
    part and number, as in ``test/17``."""

    root: Path | None = None

    parts: tuple[tuple[str, int], ...] = ()
    """Name and size of each part of a set without files, in order."""

    what: str = "the features of"

    are: str = "are"

    who: str = "the encoder"

    def __call__(self, images: ImageSet, row: int, first: int = 0) -> str:
        """What image ``row`` of ``images`` is called, which begin at the ``first`` of the whole set."""
        if images.paths is not None:
            assert self.root is not None  # where there are files there is a folder that holds them
            return images.paths[row].relative_to(self.root).as_posix()
        if images.rows is not None and isinstance(place := images.rows[row], Stored):
            return str(place).removeprefix(f"{self.root}/")
        number = first + row
        for part, size in self.parts:
            if number < size:
                return f"{part}/{number}"
            number -= size
        raise AssertionError(f"there is no image {first + row}")

    def refuse(self, images: ImageSet, first: int, z: Tensor, rows: Tensor) -> None:
        """Raise DataError that names an image where its features in ``z`` (n, F), of ``rows`` (n,), are not finite."""
        bad = (~z.isfinite().all(1)).nonzero().flatten().tolist()
        if bad:
            named = self(images, int(rows[bad[0]]), first)
            raise DataError(f"{self.what} {named} {self.are} NaN or infinite; {self.who} has diverged")


class Names(Sequence[str]):
    """The names of all ``images``, each made when it is asked for."""

    def __init__(self, naming: Naming, images: ImageSet) -> None:
        self.naming, self.images = naming, images

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self.naming(self.images, row) for row in range(len(self))[index]]
        return self.naming(self.images, range(len(self))[index])

    def __iter__(self) -> Iterator[str]:
        return (self.naming(self.images, row) for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as of a list
