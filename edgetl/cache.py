"""Activations of networks, computed once, kept on disk and shared between training runs.

    cache = ActivationCache(default_folder(), DEFAULT_LIMIT_BYTES)
    with cache.rows(space, keys) as rows:
        rows.reserve()
        for positions in batches(rows.missing):
            rows.write(positions, compute(positions))
        rows[positions]

How it lies on the disk, and why no kill, full disk or second run makes a row wrong, is told in `segments`.
"""

import math
import os
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edgetl import segments
from edgetl.errors import StorageError, UsageError
from edgetl.files import locked, make_folder, storing, write_atomically
from edgetl.progress import Advance, Silent, task
from edgetl.results import CacheSpace, CacheUsage
from edgetl.segments import HALF, KEY_BYTES, LOCK_FILE, Segment, Space

__all__ = ["DEFAULT_LIMIT_BYTES", "ActivationCache", "Rows", "Space", "default_folder", "parse_size"]

DEFAULT_LIMIT_BYTES = 10 * 2**30
SECONDS_BETWEEN = 10.0  # what a kill can cost
MOST_SEGMENTS = 256  # open at once; systems commonly allow 1024 files
CHECKED_AT_ONCE_BYTES = 8 * 2**20
SHOWN_BYTES = 2**28  # checking less takes no time that anybody wants to see

_NOWHERE, _NOT_BEGUN = -1, -2
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *(?:([KMGT])(I?)B?|B)?", re.ASCII | re.IGNORECASE)


def default_folder() -> Path:
    """`activations` in $EDGETL_CACHE_DIR, else in `edgetl` of $XDG_CACHE_HOME, else of ~/.cache."""
    own, shared = os.environ.get("EDGETL_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    base = Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "edgetl"
    return base / "activations"


def parse_size(text: str) -> int:
    """Bytes, at least 1, of a size such as 20GB, 1.5 GiB or 800000000. Raises `UsageError`."""
    found = _SIZE.fullmatch(text.strip())
    if found is not None:
        number, prefix, binary = found.groups()
        factor = (1024 if binary else 1000) ** " KMGT".index(prefix.upper() if prefix else " ")
        size_bytes = int(Decimal(number) * factor)
        if size_bytes > 0:
            return size_bytes
    raise UsageError(f"{text!r} is not a size.", "Write it as 20GB, 512MB, 4GiB, or in bytes.")


class ActivationCache:
    """A folder of activations of at most `limit_bytes`. Nothing is written before rows are reserved."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    def rows(self, space: Space, keys: Sequence[bytes]) -> "Rows":
        """The rows with these keys, SHA-256 (32 bytes) of image digest and view each; for use in `with`."""
        return Rows(self, space, keys)

    def usage(self) -> CacheUsage:
        """What is in the cache. Changes nothing; reads indices but no rows."""
        found = [(space, segments.segments_in(folder)) for folder, space in segments.spaces_of(self.folder)]
        shown = [_describe(space, parts) for space, parts in found if parts]
        damaged = [part.rows for space, parts in found for part in parts if _is_damaged(part, space)]
        return CacheUsage(
            folder=str(self.folder),
            spaces=tuple(sorted(shown, key=lambda space: space.last_used, reverse=True)),
            size_bytes=sum(space.size_bytes for space in shown),
            freed_bytes=0,
            damaged=tuple(str(path.relative_to(self.folder)) for path in damaged),
            foreign=tuple(str(path.relative_to(self.folder)) for path in segments.foreign_in(self.folder)),
        )

    def clear(self, older_than_days: float | None = None) -> int:
        """Remove what no process uses, or only what was last used so long ago; returns the bytes freed."""
        latest = math.inf if older_than_days is None else time.time() - older_than_days * 24 * 3600
        return self._remove(
            [segment for segment in segments.all_segments(self.folder) if segment.used_at <= latest], math.inf
        )

    def shrink(self) -> int:
        """Remove what was used least recently and nobody uses, down to the limit; returns the bytes freed."""
        found = segments.all_segments(self.folder)
        return self._remove(found, sum(segment.size_bytes for segment in found) - self.limit_bytes)

    def _remove(self, found: list[Segment], wanted_bytes: float) -> int:
        if not segments.spaces_of(self.folder):
            return 0  # perhaps no cache at all, so that not even a lock may be left there
        with locked(self.folder / LOCK_FILE), ExitStack() as locks:
            chosen = segments.lock_oldest(found, wanted_bytes, locks)
            segments.remove(chosen)
            for folder, _ in segments.spaces_of(self.folder):
                segments.remove_if_empty(folder)
        return sum(segment.size_bytes for segment in chosen)


class Rows:
    """float16 rows [N, *row_shape] in the order of N keys, read from the disk when asked for.

    Equal keys share a row. Entering `with` finds and checks what is stored; leaving it commits what was
    written, also after an exception.
    """

    def __init__(self, cache: ActivationCache, space: Space, keys: Sequence[bytes]) -> None:
        if any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"every key has {KEY_BYTES} bytes")
        self._cache, self._space = cache, space
        self._folder = cache.folder / segments.folder_name(space)
        joined = np.frombuffer(b"".join(keys), f"S{KEY_BYTES}")
        self._keys, self._first, self._number = np.unique(joined, return_index=True, return_inverse=True)
        # Of each different key: which open file has its row, at which place, with which CRC-32.
        self._file = np.full(len(self._keys), _NOWHERE)
        self._row = np.zeros(len(self._keys), np.int64)
        self._check = np.zeros(len(self._keys), np.uint32)
        self._paths: list[Path] = []
        self._handles: list[int] = []
        self._own = _NOT_BEGUN  # the file that this run appends to
        self._committed_rows, self._committed_at = 0, 0.0

    def __enter__(self) -> Self:
        try:
            self._find()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish()
        except StorageError:
            if error is None:  # else the first error is the one to tell
                raise
        finally:
            self._close()

    def __len__(self) -> int:
        return len(self._number)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *row_shape)."""
        return (len(self), *self._space.row_shape)

    @property
    def missing(self) -> NDArray[np.int64]:
        """Positions to compute, ascending; of equal keys that have no row, the first."""
        return np.sort(self._first[self._file == _NOWHERE]).astype(np.int64)

    def reserve(self) -> None:
        """Take the disk space of all missing rows at once, evicting what others used least recently.

        Raises `StorageError`, before any work, when the limit or the disk is too small.
        """
        missing = len(self.missing)
        if missing == 0 or self._own != _NOT_BEGUN:
            return
        whole_bytes = self._space.segment_bytes(len(self._keys))
        segments.check_limit(self._cache.folder, self._cache.limit_bytes, whole_bytes)
        make_folder(self._cache.folder)
        with locked(self._cache.folder / LOCK_FILE):
            segments.make_room(
                self._cache.folder, self._cache.limit_bytes, self._space.segment_bytes(missing)
            )
            if segments.space_in(self._folder) is None:
                segments.write_space(self._folder, self._space)
            path, handle = segments.create_rows(self._folder, missing * self._space.row_bytes)
            self._paths.append(path)
            self._handles.append(handle)
            self._own = len(self._handles) - 1
        self._committed_at = time.monotonic()

    def write(self, positions: NDArray[np.int64], values: NDArray[np.float16]) -> None:
        """Append rows [len(positions), *row_shape]; those whose keys have a row already are left out.

        Raises `StorageError` when the disk refuses; what was written before stays valid.
        """
        wanted = (len(positions), *self._space.row_shape)
        if values.dtype != HALF or values.shape != wanted:
            raise ValueError(f"expected float16 {wanted}, found {values.dtype} {values.shape}")
        numbers, given = np.unique(self._number[positions], return_index=True)
        given = np.sort(given[self._file[numbers] == _NOWHERE])  # rows lie in the order of positions
        numbers = self._number[positions[given]]
        if len(numbers) == 0:
            return
        self.reserve()
        content = np.ascontiguousarray(values[given]).reshape(len(numbers), -1).view(np.uint8)
        start = self._rows_written()
        with storing(self._paths[self._own]):
            place_bytes = start * self._space.row_bytes
            segments.write_bytes(self._handles[self._own], place_bytes, content.reshape(-1).data)
        self._row[numbers] = np.arange(start, start + len(numbers))
        self._check[numbers] = segments.checks_of(content)
        self._file[numbers] = self._own  # last: interrupted before this, the rows are still missing
        if time.monotonic() - self._committed_at >= SECONDS_BETWEEN:
            self.commit()

    def __getitem__(self, positions: NDArray[np.int64] | slice) -> NDArray[np.float16]:
        """Rows [n, *row_shape], each checked again. Raises `StorageError` where one was damaged meanwhile."""
        numbers, back = np.unique(self._number[positions], return_inverse=True)
        if (self._file[numbers] == _NOWHERE).any():
            raise ValueError("a row is asked for that is not written yet")
        order = np.lexsort((self._row[numbers], self._file[numbers]))
        numbers = numbers[order]
        content = self._read(numbers)
        wrong = numbers[segments.checks_of(content) != self._check[numbers]]
        if len(wrong) > 0:
            raise StorageError(
                f"Activations in {self._paths[self._file[wrong[0]]]} became damaged on disk while in use.",
                "Run the command again: it computes them anew. If this returns, check the disk.",
            )
        rows: NDArray[np.float16] = content.view(HALF).reshape(-1, *self._space.row_shape)
        return rows[np.argsort(order)[back]]

    def _find(self) -> None:
        for segment in segments.segments_in(self._folder):
            segments.drop_tail(segment, self._space)
        found = [
            (segment, entries)
            for segment in segments.segments_in(self._folder)[:MOST_SEGMENTS]
            if (entries := segments.read_index(segment.index, self._space)) is not None
        ]
        stored = sum(int(np.isin(self._keys, entries["key"]).sum()) for _, entries in found)
        if stored > 0:
            shown = task if stored * self._space.row_bytes >= SHOWN_BYTES else Silent().task
            with shown("checking stored activations", stored) as advance:
                for segment, entries in found:
                    self._adopt(segment, entries, advance)

    def _adopt(self, segment: Segment, entries: NDArray[np.void], advance: Advance) -> None:
        """Use the rows of `segment` that are wanted, not found yet, and whole."""
        numbers = np.searchsorted(self._keys, entries["key"])
        numbers[numbers == len(self._keys)] = 0
        wanted = (self._keys[numbers] == entries["key"]) & (self._file[numbers] == _NOWHERE)
        handle = segments.lock_shared(segment.rows) if wanted.any() else None
        if handle is None:
            return
        self._paths.append(segment.rows)
        self._handles.append(handle)
        with suppress(OSError):  # where nothing may be written, nothing is evicted either
            os.utime(segment.index)
        (rows,) = np.nonzero(wanted)
        step = max(1, CHECKED_AT_ONCE_BYTES // self._space.row_bytes)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            some = numbers[part]
            self._row[some], self._check[some] = part, entries["check"][part]
            self._file[some] = len(self._handles) - 1
            damaged = segments.checks_of(self._read(some)) != self._check[some]
            self._file[some[damaged]] = _NOWHERE
            advance(len(part))

    def _read(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Rows as bytes [n, row_bytes] of numbers in the order of files and rows: one read for each run."""
        files, rows = self._file[numbers], self._row[numbers]
        content = np.zeros((len(numbers), self._space.row_bytes), np.uint8)
        begins = np.flatnonzero((np.diff(files) != 0) | (np.diff(rows) != 1)) + 1
        for start, end in pairwise([0, *begins.tolist(), len(numbers)]):
            if start < end:
                buffer = content[start:end].reshape(-1).data
                segments.read_bytes(
                    self._handles[files[start]], int(rows[start]) * self._space.row_bytes, buffer
                )
        return content

    def _rows_written(self) -> int:
        return int(np.count_nonzero(self._file == self._own))

    def commit(self) -> None:
        """Let the index name all rows written so far, once they are on the disk; others find them then."""
        rows = self._rows_written()
        if rows > self._committed_rows:
            path = self._paths[self._own]
            with storing(path):
                os.fsync(self._handles[self._own])
            mine = np.flatnonzero(self._file == self._own)
            mine = mine[np.argsort(self._row[mine])]
            content = segments.encode_index(self._space, self._keys[mine], self._check[mine])
            write_atomically(path.with_suffix(".index"), content)
            self._committed_rows = rows
        self._committed_at = time.monotonic()

    def _finish(self) -> None:
        """Give back reserved space that was not filled (a full disk needs it for the index), and commit."""
        if self._own == _NOT_BEGUN:
            return
        path = self._paths[self._own]
        with storing(path):
            os.ftruncate(self._handles[self._own], self._rows_written() * self._space.row_bytes)
            if self._rows_written() == 0:
                path.unlink(missing_ok=True)
        self.commit()

    def _close(self) -> None:
        while self._handles:
            os.close(self._handles.pop())


def _describe(space: Space, parts: list[Segment]) -> CacheSpace:
    indices = [segments.read_index(part.index, space) for part in parts]
    return CacheSpace(
        title=space.title,
        rows=sum(len(entries) for entries in indices if entries is not None),
        size_bytes=sum(part.size_bytes for part in parts),
        last_used=datetime.fromtimestamp(parts[0].used_at, UTC).isoformat(timespec="seconds"),
        in_use=any(map(segments.is_in_use, parts)),
    )


def _is_damaged(part: Segment, space: Space) -> bool:
    entries = segments.read_index(part.index, space)
    whole = entries is not None and part.rows_bytes >= len(entries) * space.row_bytes
    return not whole and not segments.is_in_use(part)  # a run that has just begun has no index yet
