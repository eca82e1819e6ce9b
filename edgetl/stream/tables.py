"""Images named by, or inside, a column of a Parquet or CSV file."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgetl.errors import DataError, UsageError
from edgetl.refusals import Refusal, Refused
from edgetl.stream.items import UNKNOWN, Item, Kind, file_item, stamp_of

TABLE_SUFFIXES = (".parquet", ".csv")
USUAL_COLUMNS = ("path", "file", "filename", "file_name", "image", "bytes")
_ROWS_AT_ONCE = 64
_NO_BYTES = Refused(Refusal.EMPTY, "The cell of the table is empty.")


def table_items(table: Path, column: str | None) -> Iterator[Item]:
    """One item per row of a table, in its order. Paths are relative to the table's folder.

    A column of texts holds paths; one of bytes, or of records with a field `bytes`, holds images (Parquet).
    Raises `DataError` when the table cannot be read, `UsageError` when no column fits.
    """
    try:
        if table.suffix.lower() == ".csv":
            yield from _from_csv(table, column)
        else:
            yield from _from_parquet(table, column)
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are ValueErrors and OSErrors
        raise DataError(f"{table} cannot be read: {error}.", "Check the file.") from error


def cells(table: Path, column: str | None, first: int) -> Iterator[bytes | Refused]:
    """The images in a column of bytes, from row `first` on."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(table) as opened:
        name = _choose(opened.schema_arrow.names, column, table)
        before = 0
        groups = []
        for group in range(opened.num_row_groups):
            rows = opened.metadata.row_group(group).num_rows
            if before + rows > first:
                groups.append(group)
            else:
                before += rows
        for batch in opened.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=[name]):
            for value in batch.column(0)[max(first - before, 0) :]:
                yield _content(value.as_py())
            before += len(batch)


def _content(value: Any) -> bytes | Refused:
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) and content else _NO_BYTES


def _from_csv(table: Path, column: str | None) -> Iterator[Item]:
    with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        name = _choose(list(reader.fieldnames or ()), column, table)
        for row, values in enumerate(reader):
            yield _named(table, row, values[name])


def _from_parquet(table: Path, column: str | None) -> Iterator[Item]:
    from pyarrow.parquet import ParquetFile

    _, stamp = stamp_of(str(table))
    with ParquetFile(table) as opened:
        name = _choose(opened.schema_arrow.names, column, table)
        if _holds_texts(opened.schema_arrow.field(name).type):
            row = 0
            for batch in opened.iter_batches(columns=[name]):
                for value in batch.column(0):
                    yield _named(table, row, value.as_py())
                    row += 1
            return
        for row in range(opened.metadata.num_rows):
            label = f"{table}#{row}"
            yield Item(label, Kind.CELL, str(table), row, UNKNOWN, stamp, UNKNOWN, UNKNOWN)


def _holds_texts(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _named(table: Path, row: int, name: str | None) -> Item:
    return file_item(table.parent / name if name else Path(f"{table}#{row}"))


def _choose(names: list[str], column: str | None, table: Path) -> str:
    known = ", ".join(names) or "none"
    if column is not None:
        if column not in names:
            raise UsageError(f"{table} has no column {column!r}.", f"It has: {known}.")
        return column
    for usual in USUAL_COLUMNS:
        if usual in names:
            return usual
    raise UsageError(
        f"{table} has no column called {', '.join(USUAL_COLUMNS)}.", f"Choose one with --column: {known}."
    )
