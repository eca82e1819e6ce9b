"""The files of the activation cache: their format, who may change them, and what a damaged one means.

    FOLDER/<space>/space.json         what the rows in this folder are: see `Space`
    FOLDER/<space>/<segment>.rows     float16 rows back to back, appended by one run only
    FOLDER/<space>/<segment>.index    header; key and CRC-32 of each row; SHA-256 of all that; replaced whole

A row exists once a whole index names it and its CRC-32 is right; anything else is computed anew. Rows reach
the disk before the index that names them, so a kill costs the last seconds and never makes a row wrong.

Whoever uses a segment holds a shared lock on its rows; only who gets the exclusive lock shortens or removes
it. Segments appear, and are removed, under the lock FOLDER/.lock. Reading needs no permission to write.
"""

import fcntl
import hashlib
import math
import os
import re
import secrets
import shutil
import struct
import zlib
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetl.errors import StorageError
from edgetl.files import TEMPORARY_PREFIX, remove_leftovers, storing, write_atomically
from edgetl.records import from_json, to_json

SPACE_FILE, LOCK_FILE = "space.json", ".lock"
KEY_BYTES = 32
HALF = np.dtype("<f2")

_VERSION = 1
_HEADER = struct.Struct("<8sIQQ32s")  # magic, version, bytes per row, rows, identity of the space
_ENTRY = np.dtype([("key", f"S{KEY_BYTES}"), ("check", "<u4")])
_SEAL_BYTES = 32  # SHA-256
_SAVING = "use fewer --views or a smaller --image-size"
_IDENTITY = re.compile(r"[0-9a-f]{64}")
_SEGMENT_NAME = re.compile(r"[0-9a-f]{16}\.(rows|index)")


@dataclass(frozen=True)
class Space:
    """All that decides what a row holds, apart from image and view."""

    title: str  # for people: "imagenet trunk up to block3, 96 x 96 pixels, fp32"
    identity: str  # SHA-256, hexadecimal, over weights, input size, boundary, preprocessing and engine
    row_shape: tuple[int, ...]  # of float16

    def __post_init__(self) -> None:
        if not _IDENTITY.fullmatch(self.identity) or min(self.row_shape, default=1) < 1:
            raise ValueError(f"{self} is no space")

    @property
    def row_bytes(self) -> int:
        """Size of a row."""
        return HALF.itemsize * math.prod(self.row_shape)

    def segment_bytes(self, rows: int) -> int:
        """Size of a segment with this many rows, its index included."""
        return _HEADER.size + rows * (self.row_bytes + _ENTRY.itemsize) + _SEAL_BYTES


@dataclass(frozen=True)
class Segment:
    """A segment as it was when looked at; a file that is missing has no bytes."""

    rows: Path
    index: Path
    rows_bytes: int
    index_bytes: int
    used_at: float  # seconds since 1970

    @property
    def size_bytes(self) -> int:
        """Of both files."""
        return self.rows_bytes + self.index_bytes


@dataclass(frozen=True)
class _SpaceFile:
    version: int
    space: Space


def spaces_of(cache: Path) -> list[tuple[Path, Space]]:
    """The folders in `cache` that say in our words what they hold. Nothing else is ever changed there."""
    found = [(folder, space_in(folder)) for folder in _entries(cache)]
    return [(folder, space) for folder, space in found if space is not None]


def space_in(folder: Path) -> Space | None:
    """What the rows in `folder` are; None where it is not ours or of another version."""
    try:
        file = from_json(_SpaceFile, (folder / SPACE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return file.space if file.version == _VERSION and folder.name == folder_name(file.space) else None


def folder_name(space: Space) -> str:
    """Where in a cache the rows of a space are."""
    return space.identity[:16]


def write_space(folder: Path, space: Space) -> None:
    """Say in `folder` what its rows are. Raises `StorageError`."""
    write_atomically(folder / SPACE_FILE, to_json(_SpaceFile(_VERSION, space)))


def segments_in(folder: Path) -> list[Segment]:
    """The segments in the folder of a space, the one used last first."""
    stems = {path.with_suffix("") for path in _entries(folder) if _SEGMENT_NAME.fullmatch(path.name)}
    return sorted(map(_look_at, stems), key=lambda segment: segment.used_at, reverse=True)


def all_segments(cache: Path) -> list[Segment]:
    """The segments of all spaces."""
    return [segment for folder, _ in spaces_of(cache) for segment in segments_in(folder)]


def foreign_in(cache: Path) -> list[Path]:
    """What lies in `cache` and in its spaces that the cache did not put there."""
    ours = [folder for folder, _ in spaces_of(cache)]
    found = [path for path in _entries(cache) if path not in ours and path.name != LOCK_FILE]
    for path in (path for folder in ours for path in _entries(folder)):
        made = _SEGMENT_NAME.fullmatch(path.name) or path.name.startswith(TEMPORARY_PREFIX)
        found += [] if made or path.name == SPACE_FILE else [path]
    return sorted(found)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _look_at(stem: Path) -> Segment:
    rows, index = stem.with_suffix(".rows"), stem.with_suffix(".index")
    (rows_bytes, written_at), (index_bytes, used_at) = map(_size_and_time, (rows, index))
    return Segment(rows, index, rows_bytes, index_bytes, used_at or written_at)


def _size_and_time(path: Path) -> tuple[int, float]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0.0
    return found.st_size, found.st_mtime


def lock_shared(path: Path) -> int | None:
    """A handle that keeps others from changing the rows `path`; None where they were removed."""
    return _lock(path, fcntl.LOCK_SH)


def lock_alone(segment: Segment) -> int | None:
    """A handle that keeps others from using `segment`; None where somebody uses it."""
    path = segment.rows if segment.rows.exists() else segment.index
    return _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_in_use(segment: Segment) -> bool:
    """Whether a process holds `segment`."""
    handle = lock_alone(segment)
    if handle is None:
        return True
    os.close(handle)
    return False


def _lock(path: Path, kind: int) -> int | None:
    for flags in (os.O_RDWR, os.O_RDONLY):  # network disks lock exclusively only what may be written
        with suppress(OSError):
            handle = os.open(path, flags)
            break
    else:
        return None
    try:
        fcntl.flock(handle, kind)
        if os.fstat(handle).st_nlink > 0:  # else it was removed before we had the lock
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def create_rows(folder: Path, size_bytes: int) -> tuple[Path, int]:
    """A new file of rows, locked before it can be seen, with its disk space. Raises `StorageError`."""
    name = f"{secrets.token_hex(8)}.rows"
    path, hidden = folder / name, folder / f"{TEMPORARY_PREFIX}{name}"
    with storing(path), ExitStack() as undo:
        handle = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        undo.callback(os.close, handle)
        undo.callback(hidden.unlink, missing_ok=True)
        undo.callback(path.unlink, missing_ok=True)
        fcntl.flock(handle, fcntl.LOCK_SH)
        hidden.rename(path)
        os.posix_fallocate(handle, 0, size_bytes)
        undo.pop_all()
    return path, handle


def drop_tail(segment: Segment, space: Space) -> None:
    """Give back the disk space that a killed run reserved and did not fill, where that may be written."""
    handle = lock_alone(segment)
    if handle is None:
        return
    try:
        with suppress(OSError):
            entries = read_index(segment.index, space)
            if not segment.index.exists():
                segment.rows.unlink()
            elif entries is not None and segment.rows.stat().st_size > len(entries) * space.row_bytes:
                os.truncate(segment.rows, len(entries) * space.row_bytes)
    finally:
        os.close(handle)


def make_room(cache: Path, limit_bytes: int, needed_bytes: int) -> None:
    """Evict what was used least recently until so much more fits, or nothing. The caller has the lock.

    Raises `StorageError` where segments in use, or other files on the disk, take too much.
    """
    for folder, space in spaces_of(cache):
        for segment in segments_in(folder):
            drop_tail(segment, space)
    found, free_bytes = all_segments(cache), shutil.disk_usage(cache).free
    used_bytes = sum(segment.size_bytes for segment in found)
    with ExitStack() as locks:
        chosen = lock_oldest(found, needed_bytes + max(used_bytes - limit_bytes, -free_bytes), locks)
        evicted_bytes = sum(segment.size_bytes for segment in chosen)
        check_limit(cache, limit_bytes, needed_bytes, used_bytes - evicted_bytes)
        if needed_bytes > free_bytes + evicted_bytes:
            raise StorageError(
                f"This run needs {_gib(needed_bytes)} for activations in {cache}; "
                f"{_gib(free_bytes + evicted_bytes)} are free.",
                f"Free some space, choose another disk with EDGETL_CACHE_DIR, or {_SAVING}.",
            )
        remove(chosen)


def check_limit(cache: Path, limit_bytes: int, needed_bytes: int, held_bytes: int = 0) -> None:
    """Raise `StorageError` where what a run needs does not fit beside what is held by those who use it."""
    if needed_bytes + held_bytes > limit_bytes:
        held = f", {_gib(held_bytes)} of which are in use" if held_bytes > 0 else ""
        enough = f"--cache-limit {math.ceil((needed_bytes + held_bytes) / 1e6)}MB"
        otherwise = "empty it first (edgetl cache --clear)" if held_bytes > 0 else _SAVING
        raise StorageError(
            f"This run needs {_gib(needed_bytes)} for activations; the cache in {cache} may hold "
            f"{_gib(limit_bytes)}{held}.",
            f"Allow more with {enough}, or {otherwise}.",
        )


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"


def lock_oldest(segments: list[Segment], wanted_bytes: float, locks: ExitStack) -> list[Segment]:
    """Of those that nobody uses, the least recently used that together have `wanted_bytes`, or all."""
    chosen = []
    for segment in sorted(segments, key=lambda segment: segment.used_at):
        if wanted_bytes <= 0:
            break
        handle = lock_alone(segment)
        if handle is not None:
            locks.callback(os.close, handle)
            chosen.append(segment)
            wanted_bytes -= segment.size_bytes
    return chosen


def remove(segments: list[Segment]) -> None:
    """Delete segments that the caller has alone. Raises `StorageError`."""
    for segment in segments:
        for path in (segment.index, segment.rows):  # rows without an index are nothing, at any moment
            with storing(path):
                path.unlink(missing_ok=True)


def remove_if_empty(folder: Path) -> None:
    """Delete the folder of a space that has no segments. The caller has the lock of the cache."""
    if not segments_in(folder):
        remove_leftovers(folder)
        with suppress(OSError):  # others may have put files there
            (folder / SPACE_FILE).unlink()
            folder.rmdir()


def encode_index(space: Space, keys: NDArray[np.bytes_], checks: NDArray[np.uint32]) -> bytes:
    """The content of an index: keys S32 [n] and CRC-32s [n] of the rows of a segment, in their order."""
    entries = np.empty(len(keys), _ENTRY)
    entries["key"], entries["check"] = keys, checks
    body = _header(space, len(keys)) + entries.tobytes()
    return body + hashlib.sha256(body).digest()


def read_index(path: Path, space: Space) -> NDArray[np.void] | None:
    """Records ("key", "check") of a segment's rows; None where the index is missing, damaged or foreign."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body, seal = content[:-_SEAL_BYTES], content[-_SEAL_BYTES:]
    rows, rest = divmod(len(body) - _HEADER.size, _ENTRY.itemsize)
    if rows < 0 or rest or body[: _HEADER.size] != _header(space, rows):
        return None
    if hashlib.sha256(body).digest() != seal:
        return None
    return np.frombuffer(body, _ENTRY, offset=_HEADER.size)


def _header(space: Space, rows: int) -> bytes:
    return _HEADER.pack(b"EDGETLAC", _VERSION, space.row_bytes, rows, bytes.fromhex(space.identity))


def checks_of(content: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The CRC-32 of each row of [n, bytes]."""
    return np.array([zlib.crc32(row) for row in content], np.uint32)


def read_bytes(handle: int, offset: int, buffer: memoryview) -> None:
    """Fill `buffer` from the disk; what cannot be read stays as it is, and its CRC-32 tells."""
    with suppress(OSError):
        while len(buffer) > 0:
            count = os.preadv(handle, [buffer], offset)
            if count == 0:
                return
            buffer, offset = buffer[count:], offset + count


def write_bytes(handle: int, offset: int, buffer: memoryview) -> None:
    """Write all of `buffer`, as far as the disk takes it. Raises `OSError`."""
    while len(buffer) > 0:
        count = os.pwrite(handle, buffer, offset)
        buffer, offset = buffer[count:], offset + count
