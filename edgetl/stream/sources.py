"""From what a user names to items, in a fixed order, and to bytes where workers cannot read them."""

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import overload

from edgetl import images
from edgetl.errors import DataError, UsageError
from edgetl.refusals import Refusal, Refused
from edgetl.stream import archives, remote, tables
from edgetl.stream.items import UNKNOWN, Item, Kind, file_item, stamp_of

STANDARD_INPUT = "-"
_FETCHES = 16  # addresses read at once


@dataclass(frozen=True)
class Inputs:
    """What a user named; `listed` is the content of standard input where `-` is among the names."""

    names: tuple[str, ...]
    listed: bytes
    column: str | None


def inputs_of(names: Sequence[str], column: str | None) -> Inputs:
    """Read standard input if it is meant. Raises `UsageError` for an empty name."""
    if "" in names:
        raise UsageError("The name of an image is empty.", "Check that the variable in your command is set.")
    return Inputs(tuple(names), sys.stdin.buffer.read() if STANDARD_INPUT in names else b"", column)


def items_of(inputs: Inputs) -> Iterator[Item]:
    """One item per image, each once, in order; what is named but missing stays, to get its row.

    Raises `DataError` when nothing is found or a container cannot be read.
    """
    found: Iterator[Item] = chain.from_iterable(
        _listed(inputs.listed) if name == STANDARD_INPUT else _named(name, inputs.column)
        for name in inputs.names
    )
    if len(inputs.names) > 1 or STANDARD_INPUT in inputs.names:
        found = _each_once(found)
    something = STANDARD_INPUT in inputs.names
    held: list[Item] = []  # names of nothing, until something is found
    none = True
    for item in found:
        none = False
        something = something or not _is_unmatched_pattern(item)
        held.append(item)
        if something:
            yield from held
            held.clear()
    if none or not something:
        suffixes = ", ".join(sorted(images.IMAGE_SUFFIXES))
        raise DataError(
            f"No images were found in {', '.join(map(repr, inputs.names)) or 'an empty list'}.",
            f"Name files, folders or patterns; in folders, images end in {suffixes}.",
        )


def _each_once(items: Iterable[Item]) -> Iterator[Item]:
    seen: set[tuple[str, int]] = set()
    for item in items:
        key = (item.path, item.offset)
        if key not in seen:
            seen.add(key)
            yield item


def _named(name: str, column: str | None) -> Iterator[Item]:
    if remote.is_address(name):
        yield from remote.remote_items(name)
        return
    for path in images.found([name]):
        suffix = path.suffix.lower()
        archives.refuse_packed_tar(path)
        if suffix in archives.ARCHIVE_SUFFIXES and path.is_file():
            yield from archives.archive_items(path)
        elif suffix in tables.TABLE_SUFFIXES and path.is_file():
            yield from tables.table_items(path, column)
        else:
            yield file_item(path)


def _listed(content: bytes) -> Iterator[Item]:
    """Paths or addresses, one per line, or ended by zero bytes as `find -print0` gives them; no patterns."""
    separator = b"\0" if b"\0" in content else b"\n"
    for line in content.split(separator):
        name = os.fsdecode(line.removesuffix(b"\r"))
        if remote.is_address(name):
            yield from remote.remote_items(name)
        elif name and Path(name).is_dir():
            yield from map(file_item, images.found([name]))
        elif name:
            yield file_item(Path(name))


def _is_unmatched_pattern(item: Item) -> bool:
    return item.kind is Kind.FILE and item.stamp == UNKNOWN and bool(set("*?[") & set(item.path))


Loaded = tuple[int, Item, bytes | Refused | None]


@overload
def loaded(numbered: Iterable[tuple[int, Item]], column: str | None) -> Iterator[Loaded]: ...
@overload
def loaded(numbered: Iterable[tuple[int, Item] | None], column: str | None) -> Iterator[Loaded | None]: ...
def loaded(numbered: Iterable[tuple[int, Item] | None], column: str | None) -> Iterator[Loaded | None]:
    """Items with their bytes where the process that planned has to read them; None: whoever decodes, reads.

    Cells come from one reader that moves forward through its table; addresses are fetched ahead, 16 at once.
    None among the items, nothing yet, comes after all that was before it.
    """
    pending: deque[tuple[int, Item, Future[bytes | Refused] | bytes | Refused | None]] = deque()
    reader = _CellReader(column)
    pool = ThreadPoolExecutor(_FETCHES, thread_name_prefix="edgetl-fetch")
    try:
        for entry in numbered:
            if entry is None:
                while pending:
                    yield _settled(pending.popleft())
                yield None
                continue
            number, item = entry
            match item.kind:
                case Kind.REMOTE:
                    pending.append((number, item, pool.submit(remote.fetch, item)))
                case Kind.CELL:
                    pending.append((number, item, reader.read(item)))
                case _:
                    pending.append((number, item, None))
            while pending and (len(pending) >= _FETCHES or not isinstance(pending[0][2], Future)):
                yield _settled(pending.popleft())
        while pending:
            yield _settled(pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _settled(entry: tuple[int, Item, Future[bytes | Refused] | bytes | Refused | None]) -> Loaded:
    number, item, content = entry
    return number, item, content.result() if isinstance(content, Future) else content


class _CellReader:
    """A place in a table, kept between neighbouring rows."""

    def __init__(self, column: str | None) -> None:
        self._column = column
        self._at: tuple[str, int] | None = None
        self._cells: Iterator[bytes | Refused] = iter(())

    def read(self, item: Item) -> bytes | Refused:
        """The image in a cell. Raises nothing for a table that went away."""
        try:
            if (item.container, item.offset) != self._at:
                self._cells = tables.cells(Path(item.container), self._column, item.offset)
            self._at = (item.container, item.offset + 1)
            content = next(self._cells, Refused(Refusal.CHANGED, "The table has fewer rows than planned."))
        except (OSError, ValueError) as error:
            self._at = None
            return Refused(Refusal.IO_ERROR, f"The table could not be read ({type(error).__name__}).")
        if stamp_of(item.container)[1] != item.stamp:
            return Refused(Refusal.CHANGED, "The table is not as it was when the job was planned.")
        return content
