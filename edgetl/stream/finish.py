"""The end of a job: totals from the parts themselves, `_SUCCESS`, and one file where one was asked for."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgetl.errors import StorageError
from edgetl.files import write_atomically
from edgetl.records import to_plain
from edgetl.results import Skipped
from edgetl.rows import Extras, RowFormat, read_parquet, row_format, writing
from edgetl.stream.job import Job
from edgetl.stream.journal import SUCCESS_FILE, Journal, total_digest
from edgetl.stream.run import in_words

# Bytes of a finished file for each byte of parts, which are packed.
_FORMS_BYTES = {RowFormat.PARQUET: 1, RowFormat.CSV: 8, RowFormat.JSON_LINES: 16}
MOST_SKIPPED = 20  # kept in the summary; the rows have all


@dataclass(frozen=True)
class Totals:
    """What the rows of a job come to."""

    rows: int
    refused: int
    per_label: dict[str, int]  # the most frequent first
    per_reason: dict[str, int]
    digest: str  # of all rows in their order
    skipped: tuple[Skipped, ...]  # the first 20


def finish(journal: Journal, job: Job) -> Totals:
    """Count the committed rows, and write `_SUCCESS` when every planned image has its own.

    Raises `StorageError` when they do not add up, which nothing but a damaged disk or a bug explains.
    """
    if journal.missing(job.planned) or journal.rows != job.planned:
        raise StorageError(
            f"{journal.folder} has {journal.rows} rows for {job.planned} images.", "Run the same again."
        )
    totals = _count(journal)
    written = {"created": job.created, "settings": job.settings, **to_plain(totals)}
    with _telling_the_need(journal, 0):
        write_atomically(journal.folder / SUCCESS_FILE, json.dumps(written, indent=1) + "\n")
    return totals


def write_file(journal: Journal, output: str, extras: Extras) -> None:
    """All rows of a job as one file, whole or not at all. Equal rows make equal files."""
    with _telling_the_need(journal, _FORMS_BYTES[row_format(output)]), writing(output, extras) as write:
        for part in journal.ordered():
            write(read_parquet(journal.folder / part.file))


@contextmanager
def _telling_the_need(journal: Journal, factor: int) -> Iterator[None]:
    """What the disk refuses is told with the space that is needed: `factor` times that of the parts."""
    try:
        yield
    except StorageError as error:
        needed = in_words(factor * sum(part.size_bytes for part in journal.ordered()) + 2**20)
        raise StorageError(
            f"{error.what.removesuffix('.')}; all {journal.rows} rows are safe in {journal.folder}.",
            f"{error.fix} About {needed} more are needed.",
        ) from error


def _count(journal: Journal) -> Totals:
    from pyarrow.parquet import read_table

    labels: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    skipped: list[Skipped] = []
    parts = journal.ordered()
    for part in parts:
        path: Path = journal.folder / part.file
        table = read_table(path, columns=["label", "reason"], partitioning=None)
        for column, counter in (("label", labels), ("reason", reasons)):
            for pair in table.column(column).value_counts().to_pylist():
                counter[pair["values"]] += pair["counts"]
        if part.refused and len(skipped) < MOST_SKIPPED:
            refused = [row for row in read_parquet(path) if row["label"] is None]
            skipped += [Skipped(row["path"], row["reason"], row["detail"]) for row in refused]
    for counter in (labels, reasons):
        counter.pop(None, None)  # type: ignore[call-overload] # the cells without a value
    return Totals(
        rows=journal.rows,
        refused=reasons.total(),
        per_label=dict(labels.most_common()),
        per_reason=dict(reasons.most_common()),
        digest=total_digest(parts),
        skipped=tuple(skipped[:MOST_SKIPPED]),
    )
