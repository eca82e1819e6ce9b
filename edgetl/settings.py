"""What a settings record is made of: options with help and limits, and the check that holds them."""

from dataclasses import field, fields
from enum import Enum
from typing import Any, get_args, get_type_hints

from edgetl.errors import UsageError


def option(
    default: Any,
    help: str,  # noqa: A002 - the word every command line library uses
    *,
    min: float | None = None,  # noqa: A002
    max: float | None = None,  # noqa: A002
    panel: str | None = None,
) -> Any:
    """A field of a settings record that is also a command-line option.

    `min` and `max` are inclusive; `panel` is the heading under which `--help` lists it.
    """
    return field(default=default, metadata={"help": help, "min": min, "max": max, "panel": panel})


class Checked:
    """Settings that refuse wrong types and values out of range when they are made."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for item in fields(self):  # type: ignore[arg-type] # every subclass is a dataclass
            value = getattr(self, item.name)
            kinds = get_args(hints[item.name]) or (hints[item.name],)
            if not any(_is_a(value, kind) for kind in kinds):
                raise UsageError(f"{item.name} is {value!r}.", f"Give {_kinds_in_words(kinds)}.")
            low, high = item.metadata["min"], item.metadata["max"]
            if value is not None and not _is_within(value, low, high):
                raise UsageError(f"{item.name} is {value}.", f"Choose a value {_range_in_words(low, high)}.")


def _is_a(value: Any, kind: type) -> bool:
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _is_within(value: Any, low: float | None, high: float | None) -> bool:
    """Also False for NaN where there is a limit."""
    return (low is None or value >= low) and (high is None or value <= high)


def _kinds_in_words(kinds: tuple[type, ...]) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "True or False",
        type(None): "None",
    }
    return " or ".join(
        " or ".join(f"{kind.__name__}.{name}" for name in kind.__members__)
        if issubclass(kind, Enum)
        else names.get(kind, f"a {kind.__name__}")
        for kind in kinds
    )


def _range_in_words(low: float | None, high: float | None) -> str:
    if high is None:
        return f"of at least {low}"
    return f"of at most {high}" if low is None else f"from {low} to {high}"
