"""Results as dataclasses: what is written is read back, and what is not as it should be is named by its key."""

import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest

from linear_eval.results import ClosedResult, FinetunedNumbers
from linear_eval.written import LEFT_OUT, Written
from simclr.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Inner(Written):
    ends: tuple[float, float]
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outer(Written):
    rows: dict[str, Inner]
    shares: tuple[float | None, ...]
    kind: Literal["a", "b"] = "a"
    count: int = 0
    sure: bool = True
    extra: Inner | None = field(default=None, metadata=LEFT_OUT)


OUTER = Outer(rows={"x": Inner(ends=(0.5, 1))}, shares=(None, 0.25))
WRITTEN = {
    "rows": {"x": {"ends": [0.5, 1], "note": None}},
    "shares": [None, 0.25],
    "kind": "a",
    "count": 0,
    "sure": True,
}


def test_keys_are_the_fields_in_their_order_and_one_that_is_left_out_has_none() -> None:
    assert json.dumps(OUTER.to_dict()) == json.dumps(WRITTEN)
    more = replace(OUTER, extra=Inner(ends=(0, 1), note="n"))
    assert json.dumps(more.to_dict()) == json.dumps(WRITTEN | {"extra": {"ends": [0, 1], "note": "n"}})


def test_what_was_written_is_read_back_and_unknown_keys_are_passed_over() -> None:
    read = json.loads(json.dumps(WRITTEN | {"newer": {"than": "this"}}))
    assert Outer.from_dict(read, "file") == OUTER
    assert Outer.from_dict({"rows": {}, "shares": []}, "file") == Outer(rows={}, shares=())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": {"x": {}}}, "rows.x.ends is missing"),
        ({"rows": {"x": {"ends": [1]}}}, r"rows.x.ends is \[1\], expected 2 values"),
        ({"rows": {"x": {"ends": [1, "two"]}}}, r"rows.x.ends\[1\] is 'two', expected a number"),
        ({"rows": {"x": 3}}, "rows.x is 3, expected keys and values"),
        ({"rows": []}, r"rows is \[\], expected keys and values"),
        ({"rows": {"x": {"ends": [0, 1], "note": 7}}}, "rows.x.note is 7, expected text"),
        ({"shares": 0.5}, "shares is 0.5, expected a list"),
        ({"kind": "c"}, "kind is 'c', expected a or b"),
        ({"count": 0.5}, "count is 0.5, expected a whole number"),
        ({"count": True}, "count is True, expected a whole number"),
        ({"sure": 1}, "sure is 1, expected true or false"),
        ({"sure": "x" * 100}, r"sure is 'x{49}\.\.\., expected true or false"),
    ],
)
def test_what_is_not_as_it_should_be_is_named_by_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(
        CheckpointError, match=f"^file is not as this version writes it: {message}; score the run again"
    ):
        Outer.from_dict(WRITTEN | change, "file")


def test_a_list_where_a_result_should_be_is_one_line() -> None:
    with pytest.raises(CheckpointError, match=r"it is .*, expected keys and values"):
        ClosedResult.from_dict([1, 2], "result.json")
    with pytest.raises(CheckpointError, match="kind is 'classification', expected regression"):
        FinetunedNumbers.from_dict({"kind": "classification", "rows": {}, "data": {}}, "result.json")
