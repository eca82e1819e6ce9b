"""Frozen records to JSON and back, strictly: unknown or missing fields are refused, never guessed."""

import dataclasses
import json
import math
import sys
import types
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")
_IN_WORDS = {str: "a text", int: "a whole number", bool: "true or false"}


class RecordError(ValueError):
    """JSON that does not have the form of the record it should be; the message names the place."""


def to_plain(value: Any) -> Any:
    """Records, enums, paths and tuples as what JSON has; NaN and infinities as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(to_plain(key)): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(record: Any) -> str:
    """A record as indented JSON that ends in a newline; ASCII, so that no locale or file name spoils it."""
    return json.dumps(to_plain(record), indent=1, allow_nan=False) + "\n"


def from_json(record_type: type[Record], text: str | bytes) -> Record:
    """The inverse of `to_json`. Raises `RecordError` for anything but exactly that record."""
    return from_plain(record_type, parse(text))


def kept_record(record_type: type[Record], path: Path) -> Record | None:
    """What an earlier run kept in a file; None where there is none, or it is damaged."""
    try:
        return from_json(record_type, path.read_bytes())
    except (FileNotFoundError, RecordError):
        return None


def parse(text: str | bytes) -> Any:
    """What JSON text holds. Raises `RecordError`, also for NaN, infinities and names given twice."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON: {error}") from error


def from_plain(record_type: type[Record], plain: Any) -> Record:
    """Parsed JSON as a record. Raises `RecordError`."""
    result: Record = _build(record_type, plain, "")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"a name is given twice in {names!r:.80}")
    return found


def _build(kind: Any, value: Any, place: str) -> Any:
    """`value` (parsed JSON) as an object of the annotated type `kind`; `place` is the path for messages."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _build_optional(arguments, value, place)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build_record(kind, value, place)
    if origin is tuple:
        return _build_tuple(arguments, value, place)
    if origin is dict:
        _expect(isinstance(value, dict), value, "an object", place)
        return {
            _build(arguments[0], key, place): _build(arguments[1], item, f"{place}.{key}")
            for key, item in value.items()
        }
    if isinstance(kind, type) and issubclass(kind, Enum):
        _expect(value in [member.value for member in kind], value, f"one of {[m.value for m in kind]}", place)
        return kind(value)
    return _build_scalar(kind, value, place)


def _build_optional(arguments: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    (kind,) = [argument for argument in arguments if argument is not type(None)]
    return _build(kind, value, place)


def _build_record(kind: type, value: Any, place: str) -> Any:
    _expect(isinstance(value, dict), value, "an object", place)
    hints = get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    _expect(set(value) <= known, sorted(set(value) - known), "no unknown fields", place)
    _expect(known <= set(value), sorted(known - set(value)), "no missing fields", place)
    return kind(**{name: _build(hints[name], value[name], f"{place}.{name}") for name in known})


def _build_tuple(arguments: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    _expect(isinstance(value, list), value, "a list", place)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_build(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    _expect(len(value) == len(arguments), value, f"{len(arguments)} items", place)
    pairs = zip(arguments, value, strict=True)
    return tuple(_build(kind, item, f"{place}[{i}]") for i, (kind, item) in enumerate(pairs))


def _build_scalar(kind: Any, value: Any, place: str) -> Any:
    if kind is float:
        if value is None:
            return math.nan
        _expect(isinstance(value, (int, float)) and not isinstance(value, bool), value, "a number", place)
        _expect(abs(value) <= sys.float_info.max, value, "a number within float64", place)
        return float(value)
    if kind is Path:
        _expect(isinstance(value, str), value, "a path", place)
        return Path(value)
    exact = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    _expect(exact, value, _IN_WORDS[kind], place)
    return value


def _expect(holds: bool, value: Any, wanted: str, place: str) -> None:
    if not holds:
        raise RecordError(f"{place.lstrip('.') or 'the file'}: expected {wanted}, found {value!r:.80}")
