"""Marks on a config's field: ``Rare[int]`` stays out of the first help, ``Runtime[int]`` may change when a run resumes.

A knob with neither is shown, and a resumed run has to have the same: that is what a forgotten mark amounts to.
"""

from typing import Annotated, TypeVar

from augment.marks import RARE, Mark, OneOf, Rare, chosen_from, marked

__all__ = ["FIXED", "RARE", "RUNTIME", "Fixed", "Mark", "OneOf", "Rare", "Runtime", "chosen_from", "marked"]

T = TypeVar("T")

RUNTIME = Mark("runtime")
"""No weight depends on this field, so it may differ when a run is resumed, and between runs that are compared."""

Runtime = Annotated[T, RUNTIME]
"""``field: Runtime[int] = 2``: a field of the type in the brackets with the mark ``RUNTIME``."""

FIXED = Mark("fixed")
"""No flag sets this field: it says what a run was begun with."""

Fixed = Annotated[T, FIXED]
"""``field: Fixed[str] = ""``: a field of the type in the brackets with the mark ``FIXED``."""
