"""Rows that `predict` wrote, read again as counts and a random sample, in memory that does not grow.

Columns: see `edgetl.rows`. Read are a .parquet, .csv or .jsonl file, or a folder of part-*.parquet. Of every
row count its status, its class and its confidence; probabilities and embeddings, where the rows have them,
are kept for some rows that are drawn at random.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from numpy.typing import NDArray

from edgetl.drifting import confidence_cells
from edgetl.errors import DataError
from edgetl.rows import RowFormat, Status

PARTS = "part-*.parquet"
EMBEDDINGS = ("embedding", "embeddings")  # the name of the column, as different writers have it
_BATCH_ROWS = 512  # of Parquet; embeddings may be wide
_BLOCK_BYTES = 8 << 20  # of text; the longest row must fit
_MOST_NUMBERS = 1 << 22  # that all kept vectors of one kind may hold

_FLOATS = pa.list_(pa.float32())
_COLUMNS = {
    "status": pa.string(),
    "label": pa.string(),
    "probability": pa.float64(),
    "top": pa.list_(pa.struct({"label": pa.string(), "probability": pa.float64()})),
    "probabilities": _FLOATS,
    **dict.fromkeys(EMBEDDINGS, _FLOATS),
}
_LISTS = ("top", "probabilities", *EMBEDDINGS)  # JSON text in CSV


@dataclass(frozen=True)
class Sample:
    """What is known of a number of images that a model looked at."""

    source: str
    rows: int  # classified
    refused: int
    classes: NDArray[np.int64]  # [classes], by predicted class
    confidences: NDArray[np.int64]  # see `drifting.confidence_cells`
    mean_confidence: float
    outputs: NDArray[np.float32]  # [some, classes], probabilities of rows drawn at random
    top: int  # how many of them are known of each row, the largest ones; the rest is evenly shared
    embeddings: NDArray[np.float32] | None  # [some, width], of rows drawn at random


def read_results(path: Path, labels: Sequence[str], most: int, random: np.random.Generator) -> Sample:
    """The rows of a file or folder of results of a model with these labels; at most `most` rows are kept.

    Raises `DataError` for what is not the result of such a model, or is damaged.
    """
    gathered = _Gathered(path, tuple(labels), most, random)
    for file, form in _files(path):
        try:
            for batch in _batches(file, form):
                gathered.add(batch)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"{file} cannot be read: {reason}", "Write the results again.") from error
    return gathered.sample()


def _files(path: Path) -> list[tuple[Path, RowFormat]]:
    if path.is_dir():
        parts = sorted(path.glob(PARTS))
        if not parts:
            raise DataError(
                f"The folder {path} has no files {PARTS}.", "Name a results file, or a folder of results."
            )
        return [(part, RowFormat.PARQUET) for part in parts]
    if not path.is_file():
        raise DataError(
            f"The results {path} were not found.", "Write them first: edgetl predict MODEL IMAGES -o FILE."
        )
    suffix = path.suffix.lower()
    if suffix not in list(RowFormat):
        valid = ", ".join(RowFormat)
        raise DataError(f"The results {path} have no known suffix.", f"Valid are {valid}, or a folder.")
    return [(path, RowFormat(suffix))]


def _batches(path: Path, form: RowFormat) -> Iterator[pa.RecordBatch]:
    match form:
        case RowFormat.PARQUET:
            with pa.parquet.ParquetFile(path, pre_buffer=False) as file:
                known = [name for name in file.schema_arrow.names if name in _COLUMNS]
                yield from file.iter_batches(_BATCH_ROWS, columns=known)
        case RowFormat.CSV:
            yield from _csv(path)
        case RowFormat.JSON_LINES:
            options = pa.json.ParseOptions(pa.schema(_COLUMNS), False, "ignore")
            with pa.json.open_json(path, pa.json.ReadOptions(block_size=_BLOCK_BYTES), options) as reader:
                yield from reader
        case never:
            assert_never(never)


def _csv(path: Path) -> Iterator[pa.RecordBatch]:
    types = {name: pa.string() if name in _LISTS else kind for name, kind in _COLUMNS.items()}
    convert = pa.csv.ConvertOptions(
        column_types=types,
        include_columns=list(types),
        include_missing_columns=True,
        null_values=[""],  # a class may be called "NA"
    )
    parse, read = pa.csv.ParseOptions(newlines_in_values=True), pa.csv.ReadOptions(block_size=_BLOCK_BYTES)
    with pa.csv.open_csv(path, read, parse, convert) as reader:
        yield from reader


@dataclass
class _Gathered:
    """What has been read so far."""

    path: Path
    labels: tuple[str, ...]
    most: int
    random: np.random.Generator
    rows: int = 0
    refused: int = 0
    confidence_sum: float = 0.0
    classes: NDArray[np.int64] = field(init=False)
    confidences: NDArray[np.int64] = field(init=False)
    outputs: "_Drawn" = field(init=False)
    embeddings: "_Drawn" = field(init=False)
    top: int = field(init=False)

    def __post_init__(self) -> None:
        self.classes = np.zeros(len(self.labels), np.int64)
        self.confidences = confidence_cells(np.zeros(0))
        self.outputs, self.embeddings = _Drawn(self.most), _Drawn(self.most)
        self.top = len(self.labels)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the rows of a batch, and keep some."""
        names = batch.schema.names
        missing = [name for name in ("status", "label", "probability") if name not in names]
        if missing or batch.column("status").null_count:
            raise self._not_ours(f"it has rows without {missing[0] if missing else 'status'}")
        classified = pc.equal(batch.column("status").cast(pa.string()), Status.OK.value)
        rows = batch.filter(classified)
        self.refused += len(batch) - len(rows)
        self.rows += len(rows)
        found, confidences = self._classes(rows), self._confidences(rows)
        self.classes += np.bincount(found, minlength=len(self.labels))
        self.confidences += confidence_cells(confidences)
        self.confidence_sum += float(confidences.sum())
        self._keep(rows, self.random.random(len(rows)), found, confidences)

    def sample(self) -> Sample:
        """What was counted and kept."""
        outputs, embeddings = self.outputs.values, self.embeddings.values
        return Sample(
            source=str(self.path),
            rows=self.rows,
            refused=self.refused,
            classes=self.classes,
            confidences=self.confidences,
            mean_confidence=self.confidence_sum / max(1, self.rows),
            outputs=np.zeros((0, len(self.labels)), np.float32) if outputs is None else outputs,
            top=self.top,
            embeddings=embeddings,
        )

    def _classes(self, rows: pa.RecordBatch) -> NDArray[np.int64]:
        names = rows.column("label").cast(pa.string())
        places = pc.index_in(names, value_set=pa.array(self.labels, pa.string()))
        if places.null_count:
            strange = names.filter(pc.is_null(places))[0].as_py()
            raise self._not_ours(f"it names the class {strange!r}, which the model does not have")
        return np.asarray(places, np.int64)

    def _confidences(self, rows: pa.RecordBatch) -> NDArray[np.float64]:
        column = rows.column("probability")
        values = np.asarray(column.cast(pa.float64()).fill_null(np.nan), np.float64)
        if not ((values >= 0) & (values <= 1 + 1e-6)).all():
            raise self._not_ours("it has probabilities that are not numbers from 0 to 1")
        return values

    def _keep(
        self,
        rows: pa.RecordBatch,
        keys: NDArray[np.float64],
        classes: NDArray[np.int64],
        confidences: NDArray[np.float64],
    ) -> None:
        chosen = self.outputs.wanted(keys)
        outputs, top = self._outputs(rows.take(chosen), classes[chosen], confidences[chosen])
        if len(chosen):
            self.top = min(self.top, top)
        self.outputs.add(keys[chosen], outputs)
        chosen = self.embeddings.wanted(keys)
        self.embeddings.add(keys[chosen], self._embeddings(rows.take(chosen)))

    def _outputs(
        self, rows: pa.RecordBatch, classes: NDArray[np.int64], confidences: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], int]:
        """Probabilities [rows, classes], and how many of them are known of every row."""
        width = len(self.labels)
        full = _lists(rows, "probabilities")
        likely = None if full else _lists(rows, "top")
        try:
            if full:
                vectors, known = np.array(full, np.float32).reshape(len(rows), width), width
            else:
                pairs = (
                    self._pairs(likely)
                    if likely and all(likely)
                    else [[pair] for pair in zip(classes, confidences, strict=True)]
                )
                vectors, known = _spread(pairs, width), min(map(len, pairs), default=width)
        except (TypeError, KeyError, ValueError) as error:
            raise self._not_ours(f"it has probabilities of other than its {width} classes") from error
        if not np.isfinite(vectors).all():
            raise self._not_ours("it has probabilities that are not numbers from 0 to 1")
        return vectors, known

    def _pairs(self, likely: list[Any]) -> list[list[tuple[int, float]]]:
        places = {label: place for place, label in enumerate(self.labels)}
        return [[(places[one["label"]], float(one["probability"])) for one in row] for row in likely]

    def _embeddings(self, rows: pa.RecordBatch) -> NDArray[np.float32] | None:
        for name in EMBEDDINGS:
            found = _lists(rows, name)
            if found and len({len(one) for one in found}) == 1:
                return np.array(found, np.float32)
        return None if len(rows) else np.zeros((0, 0), np.float32)

    def _not_ours(self, what: str) -> DataError:
        return DataError(
            f"{self.path} does not hold results of this model: {what}.",
            "Name the file that edgetl predict wrote with this model.",
        )


def _lists(rows: pa.RecordBatch, name: str) -> list[Any] | None:
    """A column of lists, also where they are JSON text; None where a row has none."""
    if name not in rows.schema.names or not len(rows) or rows.column(name).null_count:
        return None
    values = rows.column(name).to_pylist()
    if not isinstance(values[0], str):
        return list(values)
    try:
        return [json.loads(value) for value in values]
    except ValueError:
        return None


def _spread(pairs: list[list[tuple[Any, Any]]], width: int) -> NDArray[np.float32]:
    """The known probabilities of each row, and what they leave shared by the other classes: [rows, width]."""
    vectors = np.empty((len(pairs), width), np.float32)
    for vector, known in zip(vectors, pairs, strict=True):
        rest = max(0.0, 1 - sum(p for _, p in known)) / max(1, width - len(known))
        vector[:] = rest
        for place, p in known:
            vector[place] = p
    return vectors


@dataclass
class _Drawn:
    """Vectors of rows drawn at random: those with the smallest of random keys, whatever their number."""

    most: int
    keys: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    values: NDArray[np.float32] | None = None
    given_up: bool = False

    def wanted(self, keys: NDArray[np.float64]) -> NDArray[np.int64]:
        """Which rows of a batch are to be kept for now."""
        if self.given_up:
            return np.zeros(0, np.int64)
        limit = self.keys.max() if len(self.keys) >= self.most else np.inf
        chosen = np.flatnonzero(keys < limit)
        return chosen[np.argsort(keys[chosen], kind="stable")][: self.most]

    def add(self, keys: NDArray[np.float64], values: NDArray[np.float32] | None) -> None:
        """Keep the vectors of rows, and let go of those with larger keys. None: these rows have none."""
        if not len(keys) or self.given_up:
            return
        if values is None or (self.values is not None and values.shape[1] != self.values.shape[1]):
            self.given_up, self.values = True, None  # what only some rows have stands for none
            return
        self.most = max(2, min(self.most, _MOST_NUMBERS // max(1, values.shape[1])))
        old = values[:0] if self.values is None else self.values
        keys, both = np.concatenate([self.keys, keys]), np.concatenate([old, values])
        kept = np.argsort(keys, kind="stable")[: self.most]
        self.keys, self.values = keys[kept], both[kept]
