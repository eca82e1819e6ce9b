"""A job's folder: what is committed in it stays, whatever happens next.

_job.json            what the job is; it exists once the plan does
_plan.parquet        see `edgetl.stream.plan`
part-N.parquet       rows from position N on; of worth only when the log names it
_commits.log         one line per part: CRC-32, a space, JSON; appended and synced after the part is synced
_SUCCESS             the totals, when every planned row is there
_lock                held while somebody writes

A part that is not in the log is deleted; a line that is torn or whose part is not as it says counts as not
written, and the rows are made again.
"""

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgetl.errors import UsageError
from edgetl.files import (
    lock_alone,
    make_folder,
    refuse_storage,
    remove_leftovers,
    sha256_of,
    storing,
    sync_folder,
    write_atomically,
)
from edgetl.records import RecordError, from_json, to_plain
from edgetl.rows import Extras, Row, write_parquet
from edgetl.stream.digest import rows_digest

JOB_FILE = "_job.json"
PLAN_FILE = "_plan.parquet"
LOG_FILE = "_commits.log"
SUCCESS_FILE = "_SUCCESS"
LOCK_FILE = "_lock"
_PART = "part-{:012d}.parquet"
_TEMPORARY = ".part.tmp"


@dataclass(frozen=True)
class Part:
    """One line of the log: `rows` rows from position `first` on, `refused` of them without a class."""

    file: str
    first: int
    rows: int
    refused: int
    size_bytes: int
    sha256: str
    digest: str  # of its rows at their positions, see `edgetl.stream.digest`


class Journal:
    """The parts of a job, opened for writing by the one process that holds the lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: dict[int, Part] = {}
        self.dropped = 0  # parts that the log names and that are not as it says
        for part in _read_log(folder / LOG_FILE):
            if _is_whole(folder, part):
                self.parts[part.first] = part
            else:
                self.dropped += 1
        self._tidy()
        self._log = os.open(folder / LOG_FILE, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
        sync_folder(folder)

    def close(self) -> None:
        """Let go of the log."""
        os.close(self._log)

    @property
    def rows(self) -> int:
        """Committed rows."""
        return sum(part.rows for part in self.parts.values())

    def missing(self, planned: int) -> list[range]:
        """Positions without a row, ascending."""
        gaps, at = [], 0
        for part in self.ordered():
            if part.first > at:
                gaps.append(range(at, part.first))
            at = part.first + part.rows
        return [*gaps, range(at, planned)] if at < planned else gaps

    def ordered(self) -> list[Part]:
        """The parts by position."""
        return [self.parts[first] for first in sorted(self.parts)]

    def commit(self, first: int, rows: Sequence[Row], extras: Extras) -> None:
        """Make rows durable: the part, its name, then the line that makes it count. Raises `OSError`."""
        temporary, name = self.folder / _TEMPORARY, _PART.format(first)
        try:
            write_parquet(temporary, rows, extras)
            handle = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(
                    handle
                )  # never tried again: after an error the system may forget what was not written
            finally:
                os.close(handle)
            size, sha256 = temporary.stat().st_size, sha256_of(temporary)
            temporary.replace(self.folder / name)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(self.folder)
        refused = sum(row["label"] is None for row in rows)
        part = Part(name, first, len(rows), refused, size, sha256, rows_digest(first, rows))
        _append(self._log, _line(part))
        self.parts[first] = part

    def _tidy(self) -> None:
        """Delete what no line names, and rewrite the log when lines of it count no more."""
        known = {part.file for part in self.parts.values()}
        for path in self.folder.glob("part-*.parquet"):
            if path.name not in known:
                path.unlink()
        for path in (self.folder / _TEMPORARY, self.folder / SUCCESS_FILE):
            if path.name != SUCCESS_FILE or self.dropped:
                path.unlink(missing_ok=True)
        remove_leftovers(self.folder)
        log = self.folder / LOG_FILE
        whole = b"".join(_line(part) for part in self.parts.values())
        if log.is_file() and log.read_bytes() != whole:
            write_atomically(log, whole)


def _line(part: Part) -> bytes:
    body = json.dumps(to_plain(part)).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _append(log: int, line: bytes) -> None:
    """Append and sync; what a full disk left of the line is cut off again."""
    before = os.fstat(log).st_size
    try:
        view = memoryview(line)
        while view:
            view = view[os.write(log, view) :]
        os.fsync(log)
    except OSError:
        with suppress(OSError):
            os.ftruncate(log, before)
        raise


def _read_log(path: Path) -> Iterator[Part]:
    """The whole lines of a log, up to the first that is not."""
    if not path.is_file():
        return
    for line in path.read_bytes().split(b"\n")[:-1]:
        check, _, body = line.partition(b" ")
        if check != b"%08x" % zlib.crc32(body):
            return
        try:
            yield from_json(Part, body)
        except RecordError:
            return


def _is_whole(folder: Path, part: Part) -> bool:
    path = folder / part.file
    if path.name != part.file or not path.is_file() or path.stat().st_size != part.size_bytes:
        return False
    return sha256_of(path) == part.sha256


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a job's folder, made if missing. Raises `UsageError` when another process holds it."""
    make_folder(folder)
    handle = _locked(folder / LOCK_FILE)
    while handle is None:
        handle = _locked(folder / LOCK_FILE)
    try:
        yield
    finally:
        os.close(handle)


def _locked(path: Path) -> int | None:
    """The lock file, open and locked; None where another process deleted it meanwhile."""
    with storing(path.parent):
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        lock_alone(handle)
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    except BlockingIOError:
        os.close(handle)
        raise UsageError(
            f"Another edgetl predict is writing to {path.parent}.",
            "Wait until it ends, or choose another output.",
        ) from None
    except OSError as error:
        os.close(handle)
        refuse_storage(error, path.parent)
    os.close(handle)
    return None


def total_digest(parts: Sequence[Part]) -> str:
    """The digest of all rows of a job; the same however they are cut into parts."""
    return f"{sum(int(part.digest, 16) for part in parts) % 2**256:064x}"


def discard(folder: Path) -> None:
    """Delete a job's folder whose rows are elsewhere; what is not of a job stays."""
    with suppress(OSError):
        (folder / JOB_FILE).unlink(missing_ok=True)  # first: without it the rest is no job any more
        for pattern in ("part-*.parquet", "_*", _TEMPORARY):
            for path in folder.glob(pattern):
                path.unlink()
        folder.rmdir()
