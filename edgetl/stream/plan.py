"""The plan of a job: every image it will give a row for, in order, written once before the first row."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from itertools import chain, islice
from pathlib import Path

from edgetl.errors import StorageError
from edgetl.files import replacing, sha256_of
from edgetl.stream.items import Item, Kind

_ROWS_PER_GROUP = 4096
_ROWS_AT_ONCE = 256  # as Python objects
_TEXTS = ("path", "container")  # as bytes: a file's name need not be text


@dataclass(frozen=True)
class Plan:
    """A plan that was written: how many images, and the SHA-256 of its file."""

    rows: int
    sha256: str


def write_plan(path: Path, items: Iterable[Item]) -> Plan:
    """Write a plan whole or not at all. Raises what `items` raises, and `StorageError`."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    kinds = {"path": pa.binary(), "container": pa.binary(), "kind": pa.string()}
    schema = pa.schema({field.name: kinds.get(field.name, pa.int64()) for field in fields(Item)})
    count = 0
    waiting = iter(items)
    with replacing(path) as temporary, ParquetWriter(temporary, schema, compression="zstd") as writer:
        while group := list(islice(waiting, _ROWS_PER_GROUP)):
            columns = zip(*map(astuple, group), strict=True)
            named = dict(zip(schema.names, columns, strict=True))
            for name in _TEXTS:
                named[name] = tuple(map(os.fsencode, named[name]))
            writer.write_table(pa.table(named, schema=schema))
            count += len(group)
    return Plan(count, sha256_of(path))


def read_plan(path: Path, sha256: str, ranges: Iterable[range]) -> Iterator[tuple[int, Item]]:
    """The items of a plan at the positions given (ascending), with their positions, a few thousand at a time.

    Raises `StorageError` when the file is not the one that was written.
    """
    from pyarrow.parquet import ParquetFile

    if not path.is_file() or sha256_of(path) != sha256:
        raise StorageError(
            f"{path} is not the plan that this job began with.",
            "Delete the folder, or choose another output.",
        )
    with ParquetFile(path) as opened:
        for wanted in ranges:
            for group in range(wanted.start // _ROWS_PER_GROUP, -(-wanted.stop // _ROWS_PER_GROUP)):
                first = group * _ROWS_PER_GROUP
                table = opened.read_row_group(group)
                low, high = max(wanted.start - first, 0), min(wanted.stop - first, len(table))
                few = table.slice(low, high - low).to_batches(max_chunksize=_ROWS_AT_ONCE)
                rows = chain.from_iterable(batch.to_pylist() for batch in few)
                yield from enumerate(map(_item, rows), first + low)


def _item(row: dict[str, object]) -> Item:
    texts = {name: os.fsdecode(row[name]) for name in _TEXTS}  # type: ignore[arg-type] # bytes, by the schema
    return Item(**(row | texts | {"kind": Kind(str(row["kind"]))}))  # type: ignore[arg-type] # same
