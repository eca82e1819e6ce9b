"""What one row of the output is made from, and how its bytes are read."""

import os
import stat
import zlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from edgetl.images import MAX_FILE_BYTES, read_bytes
from edgetl.refusals import Refusal, Refused, refused_by_system

UNKNOWN = -1
_CHANGED = Refused(
    Refusal.CHANGED, "It is not as it was when the job was planned; a new job would read it as it is now."
)


class Kind(StrEnum):
    """Where the bytes of an image are."""

    FILE = "file"
    STORED = "stored"  # bytes of an archive as they are: tar, and zip without compression
    DEFLATED = "deflated"  # in a zip archive
    LOCKED = "locked"  # in a zip archive, in a way that is not read: encrypted, or another compression
    CELL = "cell"  # of a table, row `offset`; read by the process that planned
    REMOTE = "remote"  # an address; read by the process that planned


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a plan. `path` is what its row says; sizes in bytes; numbers may be `UNKNOWN`."""

    path: str  # may hold surrogates where the name is not UTF-8
    kind: Kind
    container: str  # the file to open; equal to `path` for a file
    offset: int  # in the container: of the data, or (zip) of the local header
    size: int  # of the image file; of the whole file for a file
    stamp: int  # modification time of the container, ns
    packed: int  # bytes in the container
    check: int  # CRC-32 of the image file


def file_item(path: Path) -> Item:
    """A file as it is now; one that cannot be looked at has its row too."""
    name = str(path)
    size, stamp = stamp_of(name)
    return Item(name, Kind.FILE, name, 0, size, stamp, size, UNKNOWN)


def stamp_of(name: str) -> tuple[int, int]:
    """Size in bytes and modification time in ns; both `UNKNOWN` where the system does not tell."""
    try:
        status = os.stat(name)  # noqa: PTH116 - once per image: a Path takes longer than the call
    except (OSError, ValueError):
        return UNKNOWN, UNKNOWN
    return status.st_size, status.st_mtime_ns


def read(item: Item) -> bytes | Refused:
    """The bytes of an image, or why there are none. Never raises; not for `CELL` and `REMOTE`.

    An image that was changed after it was planned is refused, so that a job that was interrupted gives the
    rows of one that was not.
    """
    try:
        match item.kind:
            case Kind.FILE:
                return _unchanged(item, read_bytes(Path(item.path)))
            case Kind.STORED | Kind.DEFLATED:
                return _unchanged(item, _read_member(item))
            case _:
                return Refused(
                    Refusal.UNSUPPORTED_FORMAT, "It is encrypted or packed in a way that is not read here."
                )
    except (OSError, ValueError) as error:
        return refused_by_system(error)
    except MemoryError:
        return Refused(Refusal.TOO_LARGE, "It does not fit into memory.")


def _unchanged(item: Item, data: bytes | Refused) -> bytes | Refused:
    if isinstance(data, Refused) or item.stamp == UNKNOWN:
        return data
    size, stamp = stamp_of(item.container)
    same = stamp == item.stamp and (item.kind is not Kind.FILE or size == item.size == len(data))
    return data if same else _CHANGED


def _read_member(item: Item) -> bytes | Refused:
    """A slice of an archive, unpacked to at most the size that was planned (PKWARE APPNOTE 4.3.7, 4.4.5)."""
    if item.size > MAX_FILE_BYTES or item.packed > MAX_FILE_BYTES:
        return Refused(Refusal.TOO_LARGE, f"{item.size:,} bytes; the limit is {MAX_FILE_BYTES:,}.")
    descriptor = os.open(item.container, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return _CHANGED
        packed = _slice(descriptor, item)
    finally:
        os.close(descriptor)
    if packed is None or len(packed) != item.packed:
        return Refused(Refusal.TRUNCATED, "The archive ends inside it.")
    return packed if item.kind is Kind.STORED and item.check == UNKNOWN else _unpacked(item, packed)


def _slice(descriptor: int, item: Item) -> bytes | None:
    offset = item.offset
    if item.check != UNKNOWN:  # zip: the name and the extra field of the local header come first
        header = os.pread(descriptor, 30, offset)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            return None
        offset += 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return os.pread(descriptor, item.packed, offset)


def _unpacked(item: Item, packed: bytes) -> bytes | Refused:
    if item.kind is Kind.STORED:
        data, whole = packed, True
    else:
        try:
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
            data = unpacker.decompress(packed, item.size + 1)
            whole = unpacker.eof
        except zlib.error:
            data, whole = b"", False
    if not whole or len(data) != item.size or zlib.crc32(data) != item.check:
        return Refused(Refusal.CORRUPT, "The archive is damaged here: length or CRC-32 differ.")
    return data
