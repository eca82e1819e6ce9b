"""Versions of `card.json`: which one is written, and how older ones are read."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from edgetl.config import DataConfig

SCHEMA_VERSION = 4
OLDEST_VERSION = 2  # that can still be read


def upgraded(plain: Any) -> Any:
    """A card of an older version as this one would have written it; anything else unchanged."""
    steps: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {2: _with_widths, 3: _with_packing}
    while isinstance(plain, dict) and plain.get("schema_version") in steps:
        version = plain["schema_version"]
        plain = steps[version](plain) | {"schema_version": version + 1}
    return plain


def _with_widths(plain: dict[str, Any]) -> dict[str, Any]:
    """Version 3 knows networks with fewer channels, and the shares that divided the data."""
    shares = {field.name: field.default for field in fields(DataConfig) if field.name.endswith("_share")}
    return {
        **plain,
        "network": {**plain.get("network", {}), "widths": []},
        "data": {**plain.get("data", {}), **shares},
        "compression": None,
    }


def _with_packing(plain: dict[str, Any]) -> dict[str, Any]:
    """Version 4 knows packed files."""
    artifacts = plain.get("artifacts")
    if not isinstance(artifacts, list) or not all(isinstance(one, dict) for one in artifacts):
        return plain  # refused when it is read as a record
    added = [{**one, "packed": None, "unpacked_bytes": one.get("size_bytes")} for one in artifacts]
    return {**plain, "artifacts": added}
