"""Predictions as rows, and the files that hold them: Parquet, CSV or JSON lines, written as they come.

Every form has the same columns and the same content:

path          the image, as `printable` shows it
status        "ok" or "refused"
reason        null, or why the image was refused: one of `images.Refusal`
detail        null, or the same as a sentence
label         the most likely class; null when refused
probability   of that class, 0..1; null when refused
top           the K most likely classes, best first, as a list of {label, probability}; empty when refused

CSV follows RFC 4180 in UTF-8: null is an empty cell, and `top` is the JSON text of the list, because class
names may hold any character that could separate them. JSON lines are ASCII, so that no locale refuses them
and no reader takes an unusual line separator inside a name for the end of a row.
"""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO, assert_never

from edgetl.errors import UsageError
from edgetl.files import replacing, storing
from edgetl.images import Refusal

STANDARD_OUTPUT = "-"
_ROW_GROUP = 4096  # rows; Parquet readers want thousands at once, a device's memory no more

Row = dict[str, Any]


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


Write = Callable[[Sequence[Prediction]], None]


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
        raise UsageError(f"The output {output} is a folder.", "Name a file in it.")
    suffix = path.suffix.lower()
    if suffix not in list(RowFormat):
        valid = ", ".join(RowFormat)
        raise UsageError(
            f"The output {output} has no known suffix.",
            f"Valid are {valid}; {STANDARD_OUTPUT} prints JSON lines.",
        )
    return RowFormat(suffix)


@contextmanager
def writing(output: str) -> Iterator[Write]:
    """Give a function that writes rows to a file, or to standard output at once.

    The file appears, or replaces the one of that name, only when the block ends well. Raises `UsageError` for
    an output that cannot be written, `StorageError` when the disk refuses.
    """
    form = row_format(output)
    if output == STANDARD_OUTPUT:
        yield _standard_output(sys.stdout)
        return
    with replacing(Path(output)) as temporary, _opened(form, temporary) as write:
        yield write


def printable(path: str) -> str:
    """A path as valid Unicode: the bytes of a name that are not UTF-8 are shown as `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def row_of(prediction: Prediction) -> Row:
    """A prediction as plain values, by column."""
    return asdict(prediction) | {"path": printable(prediction.path)}


@contextmanager
def _opened(form: RowFormat, path: Path) -> Iterator[Write]:
    match form:
        case RowFormat.PARQUET:
            with _parquet(path) as write:
                yield write
        case RowFormat.CSV:
            with path.open("w", encoding="utf-8", newline="") as file:
                yield _csv(file)
        case RowFormat.JSON_LINES:
            with path.open("w", encoding="ascii") as file:
                yield _json_lines(file)
        case never:
            assert_never(never)


def _json_lines(file: TextIO) -> Write:
    def write(predictions: Sequence[Prediction]) -> None:
        file.writelines(json.dumps(row_of(prediction)) + "\n" for prediction in predictions)

    return write


def _standard_output(stream: TextIO) -> Write:
    write_lines = _json_lines(stream)

    def write(predictions: Sequence[Prediction]) -> None:
        with storing(Path("standard output")):
            write_lines(predictions)
            stream.flush()  # the reader of a pipe works while we do

    return write


def _csv(file: TextIO) -> Write:
    # The line end stays \r\n: of such characters only those of the line end are quoted, and names hold both.
    writer = csv.DictWriter(file, [field.name for field in fields(Prediction)])
    writer.writeheader()

    def write(predictions: Sequence[Prediction]) -> None:
        rows = map(row_of, predictions)
        writer.writerows(row | {"top": json.dumps(row["top"], ensure_ascii=False)} for row in rows)

    return write


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = _schema(pa)
    waiting: list[Row] = []
    with ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_batch(pa.RecordBatch.from_pylist(waiting, schema=schema))
            waiting.clear()

        def write(predictions: Sequence[Prediction]) -> None:
            waiting.extend(map(row_of, predictions))
            if len(waiting) >= _ROW_GROUP:
                flush()

        yield write
        if waiting:
            flush()


def _schema(pa: Any) -> Any:
    """The columns; probabilities are float32, which is what engines give."""
    text, probability = pa.string(), pa.float32()
    return pa.schema(
        {
            "path": text,
            "status": text,
            "reason": text,
            "detail": text,
            "label": text,
            "probability": probability,
            "top": pa.list_(pa.struct({"label": text, "probability": probability})),
        }
    )
