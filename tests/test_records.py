"""Records survive JSON exactly, and JSON that is anything else is refused with its place."""

import json
import math
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum, StrEnum
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetl.card import EpochRecord, InputSpec, ModelCard
from edgetl.records import RecordError, from_json, parse, to_json, to_plain
from edgetl.results import DataReport, PredictionSummary

# What names of files and classes may hold, with bytes that are not UTF-8 as Python shows them.
texts = st.text(
    st.characters(exclude_categories=["Cs"]) | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF),
    max_size=8,
)


def values(kind) -> st.SearchStrategy:
    """Everything that a field of this annotated type may hold; NaN, as the only number unequal to itself, aside."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return st.one_of(*map(values, arguments))
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{field.name: values(hints[field.name]) for field in fields(kind)})
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    finite = st.floats(allow_nan=False, allow_infinity=False)
    return {
        str: texts,
        int: st.integers(),
        float: finite,
        bool: st.booleans(),
        Path: texts.map(lambda text: Path(text.replace("\0", ""))),
        type(None): st.none(),
    }[kind]


@pytest.mark.parametrize("kind", [ModelCard, PredictionSummary, DataReport])
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_records_survive(kind, data):
    record = data.draw(values(kind))
    text = to_json(record)
    assert from_json(kind, text) == record
    assert from_json(kind, text.encode("ascii")) == record
    assert text.endswith("\n")


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    share: float
    count: int


@dataclass(frozen=True)
class Outer:
    name: str
    flag: bool
    colour: Colour
    path: Path
    size: tuple[int, int]
    inner: tuple[Inner, ...]
    by_name: dict[str, Inner]
    perhaps: int | None


RECORD = Outer("a", True, Colour.RED, Path("b/c"), (1, 2), (Inner(0.5, 1),), {"x": Inner(1.0, 2)}, None)
PLAIN = to_plain(RECORD)


def test_a_record_as_plain_values():
    assert from_json(Outer, to_json(RECORD)) == RECORD
    assert PLAIN == {
        "name": "a",
        "flag": True,
        "colour": "red",
        "path": "b/c",
        "size": [1, 2],
        "inner": [{"share": 0.5, "count": 1}],
        "by_name": {"x": {"share": 1.0, "count": 2}},
        "perhaps": None,
    }


REFUSED = {
    "unknown field": ({"shape": 1}, "the file: expected no unknown fields, found ['shape']"),
    "not a text": ({"name": 1}, "name: expected a text, found 1"),
    "null for a text": ({"name": None}, "name: expected a text, found None"),
    "1 is not true": ({"flag": 1}, "flag: expected true or false, found 1"),
    "unknown member": ({"colour": "green"}, "colour: expected one of ['red', 'blue'], found 'green'"),
    "a list is no member": ({"colour": ["red"]}, "colour: expected one of"),
    "not a path": ({"path": 3}, "path: expected a path, found 3"),
    "too short": ({"size": [1]}, "size: expected 2 items, found [1]"),
    "true is not 1": ({"size": [1, True]}, "size[1]: expected a whole number, found True"),
    "1.0 is not 1": ({"size": [1.0, 2]}, "size[0]: expected a whole number, found 1.0"),
    "not a list": ({"inner": {}}, "inner: expected a list, found {}"),
    "deep in a list": (
        {"inner": [{"share": "half", "count": 1}]},
        "inner[0].share: expected a number, found 'half'",
    ),
    "true is not a number": ({"inner": [{"share": True, "count": 1}]}, "inner[0].share: expected a number"),
    "beyond float64": (
        {"inner": [{"share": 10**400, "count": 1}]},
        "inner[0].share: expected a number within float64",
    ),
    "missing deep inside": (
        {"by_name": {"x": {"share": 1}}},
        "by_name.x: expected no missing fields, found ['count']",
    ),
    "not an object": ({"by_name": []}, "by_name: expected an object, found []"),
    "a list for a record": ({"by_name": {"x": []}}, "by_name.x: expected an object, found []"),
    "neither null nor whole": ({"perhaps": "1"}, "perhaps: expected a whole number, found '1'"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused_with_its_place(change, message):
    with pytest.raises(RecordError) as caught:
        from_json(Outer, json.dumps(PLAIN | change))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", PLAIN)
def test_no_field_may_be_missing(name):
    rest = {key: value for key, value in PLAIN.items() if key != name}
    with pytest.raises(RecordError, match=f"no missing fields, found \\['{name}'\\]"):
        from_json(Outer, json.dumps(rest))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_becomes_null_and_nan(number):
    epoch = EpochRecord("head", 1, number, 0.5, 0.5, 0.5, 1.0, 1.0)
    text = to_json(epoch)
    assert '"train_loss": null' in text
    assert math.isnan(from_json(EpochRecord, text).train_loss)


def test_whole_numbers_are_good_enough_for_fractions_and_become_them():
    spec = InputSpec(8, 8, (0.0, 0.0, 0.0), 1.0, (255, 255, 255), 1)
    read = from_json(InputSpec, to_json(spec).replace("1.0", "1"))
    assert read == spec
    assert isinstance(read.scale, float)


@pytest.mark.parametrize(
    "text", ["", "{", "{} {}", b"\xff{}", "NaN", '{"a": Infinity}', '{"a": 1, "a": 2}', "[" * 100_000]
)
def test_text_that_is_not_json_is_refused(text):
    with pytest.raises(RecordError, match="not JSON"):
        parse(text)
