"""Predictions as rows, and the files that hold them: Parquet, CSV or JSON lines, written as they come.

Every form has the same columns and the same content:

path          the image, as `printable` shows it
status        "ok" or "refused"
reason        null, or why the image was refused: one of `images.Refusal`
detail        null, or the same as a sentence
label         the most likely class; null when refused
probability   of that class, 0..1; null when refused
top           the K most likely classes, best first, as a list of {label, probability}; empty when refused

Where they were asked for (`Extra`), two more follow, as lists of float32; null when refused:

probabilities of every class, in the order of the card's labels
embedding     what the last layer sees of the image

CSV follows RFC 4180 in UTF-8: null is an empty cell, and lists are JSON texts, because class names may hold
any character that could separate them. JSON lines are ASCII, so that no locale refuses them
and no reader takes an unusual line separator inside a name for the end of a row.
"""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO, assert_never

from edgetl.errors import UsageError
from edgetl.files import replacing, storing
from edgetl.images import Refusal

STANDARD_OUTPUT = "-"
_ROW_GROUP = 4096  # rows; Parquet readers want thousands at once, a device's memory no more

Row = dict[str, Any]  # one prediction, by column


class Status(StrEnum):
    """What became of an image."""

    OK = "ok"
    REFUSED = "refused"


@dataclass(frozen=True)
class ClassProbability:
    """One class of the labels and its probability, 0..1."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """One image; the docstring of the module says what the fields hold."""

    path: str  # as the system names the file; may hold surrogates where the name is not UTF-8
    status: Status
    reason: Refusal | None
    detail: str | None
    label: str | None
    probability: float | None
    top: tuple[ClassProbability, ...]  # best first
    probabilities: tuple[float, ...] | None = None
    embedding: tuple[float, ...] | None = None


class Extra(StrEnum):
    """Columns that are written on request."""

    PROBABILITIES = "probabilities"
    EMBEDDING = "embedding"


COLUMNS = ("path", "status", "reason", "detail", "label", "probability", "top")
Extras = tuple[Extra, ...]
Write = Callable[[Sequence[Row]], None]


class RowFormat(StrEnum):
    """The forms of rows, by the suffix of their files."""

    PARQUET = ".parquet"
    CSV = ".csv"
    JSON_LINES = ".jsonl"


def row_format(output: str) -> RowFormat:
    """The form that an output asks for; `-` is JSON lines. Raises `UsageError` for what cannot be written."""
    if output == STANDARD_OUTPUT:
        return RowFormat.JSON_LINES
    path = Path(output)
    if path.is_dir():
        raise UsageError(
            f"The output {output} is a folder.",
            "Name a file in it, or end the name in a slash for a folder of parts.",
        )
    suffix = path.suffix.lower()
    if suffix not in list(RowFormat):
        valid = ", ".join(RowFormat)
        raise UsageError(
            f"The output {output} has no known suffix.",
            f"Valid are {valid}; {STANDARD_OUTPUT} prints JSON lines, NAME/ is a folder of parts.",
        )
    return RowFormat(suffix)


@contextmanager
def writing(output: str, extras: Extras = ()) -> Iterator[Write]:
    """Give a function that writes rows to a file, or to standard output at once.

    The file appears, or replaces the one of that name, only when the block ends well. Raises `UsageError` for
    an output that cannot be written, `StorageError` when the disk refuses.
    """
    form = row_format(output)
    if output == STANDARD_OUTPUT:
        yield _standard_output(sys.stdout)
        return
    with replacing(Path(output)) as temporary, _opened(form, temporary, extras) as write:
        yield write


def printable(path: str) -> str:
    """A path as valid Unicode: the bytes of a name that are not UTF-8 are shown as `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def row_of(prediction: Prediction, extras: Extras = ()) -> Row:
    """A prediction as plain values, by column."""
    row: Row = {name: getattr(prediction, name) for name in (*COLUMNS, *extras)}
    top = [{"label": likely.label, "probability": likely.probability} for likely in prediction.top]
    return row | {"path": printable(prediction.path), "top": top}


def write_parquet(path: Path, rows: Sequence[Row], extras: Extras) -> None:
    """Write rows to a new Parquet file, as one group."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    write_table(pa.Table.from_pylist(list(rows), schema=_schema(pa, extras)), path, compression="zstd")


def read_parquet(path: Path) -> list[Row]:
    """The rows of a file that `write_parquet` made."""
    from pyarrow.parquet import read_table

    rows: list[Row] = read_table(path, partitioning=None, memory_map=False).to_pylist()
    return rows


@contextmanager
def _opened(form: RowFormat, path: Path, extras: Extras) -> Iterator[Write]:
    match form:
        case RowFormat.PARQUET:
            with _parquet(path, extras) as write:
                yield write
        case RowFormat.CSV:
            with path.open("w", encoding="utf-8", newline="") as file:
                yield _csv(file, extras)
        case RowFormat.JSON_LINES:
            with path.open("w", encoding="ascii") as file:
                yield _json_lines(file)
        case never:
            assert_never(never)


def _json_lines(file: TextIO) -> Write:
    def write(rows: Sequence[Row]) -> None:
        file.writelines(json.dumps(row) + "\n" for row in rows)

    return write


def _standard_output(stream: TextIO) -> Write:
    write_lines = _json_lines(stream)

    def write(rows: Sequence[Row]) -> None:
        with storing(Path("standard output")):
            write_lines(rows)
            stream.flush()  # the reader of a pipe works while we do

    return write


def _csv(file: TextIO, extras: Extras) -> Write:
    # The line end stays \r\n: of such characters only those of the line end are quoted, and names hold both.
    writer = csv.DictWriter(file, [*COLUMNS, *extras])
    writer.writeheader()

    def write(rows: Sequence[Row]) -> None:
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)

    return write


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, tuple)) else value


@contextmanager
def _parquet(path: Path, extras: Extras) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = _schema(pa, extras)
    waiting: list[Row] = []
    with ParquetWriter(path, schema) as writer:

        def flush(count: int) -> None:
            writer.write_batch(pa.RecordBatch.from_pylist(waiting[:count], schema=schema))
            del waiting[:count]

        def write(rows: Sequence[Row]) -> None:
            waiting.extend(rows)
            while len(waiting) >= _ROW_GROUP:
                flush(_ROW_GROUP)  # always as many, so that equal rows make equal files

        yield write
        if waiting:
            flush(len(waiting))


def _schema(pa: Any, extras: Extras) -> Any:
    """The columns; probabilities are float32, which is what engines give."""
    text, number = pa.string(), pa.float32()
    columns = {
        "path": text,
        "status": text,
        "reason": text,
        "detail": text,
        "label": text,
        "probability": number,
        "top": pa.list_(pa.struct({"label": text, "probability": number})),
    }
    return pa.schema(columns | {extra.value: pa.list_(number) for extra in extras})
