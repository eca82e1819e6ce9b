"""Images inside zip and tar archives, listed without unpacking: names are labels of rows, never paths."""

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edgetl.errors import DataError
from edgetl.images import IMAGE_SUFFIXES
from edgetl.stream.items import UNKNOWN, Item, Kind, stamp_of

ARCHIVE_SUFFIXES = (".zip", ".tar")
PACKED_TAR_SUFFIXES = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_ENCRYPTED = 0x1  # bit of zip's general purpose flags, APPNOTE 4.4.4


def archive_items(archive: Path) -> Iterator[Item]:
    """The images of an archive in its own order. Raises `DataError` when it cannot be read."""
    try:
        yield from _zipped(archive) if archive.suffix.lower() == ".zip" else _taped(archive)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        ValueError,
        NotImplementedError,
    ) as error:
        raise DataError(
            f"{archive} is not a whole archive: {error}.", "Make it again, or unpack what can be unpacked."
        ) from error
    except OSError as error:
        raise DataError(f"{archive} cannot be read: {error.strerror}.", "Check the path.") from error


def refuse_packed_tar(archive: Path) -> None:
    """A member of a compressed tar cannot be read without all that is before it. Raises `DataError`."""
    if archive.name.lower().endswith(PACKED_TAR_SUFFIXES):
        raise DataError(
            f"{archive} is compressed as a whole, so that single images cannot be read from it.",
            "Unpack it, or make a .zip or a plain .tar of it.",
        )


def _zipped(archive: Path) -> Iterator[Item]:
    _, stamp = stamp_of(str(archive))
    kinds = {zipfile.ZIP_STORED: Kind.STORED, zipfile.ZIP_DEFLATED: Kind.DEFLATED}
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if info.is_dir() or not _is_image(info.filename):
                continue
            locked = info.flag_bits & _ENCRYPTED
            kind = Kind.LOCKED if locked else kinds.get(info.compress_type, Kind.LOCKED)
            sizes = (info.header_offset, info.file_size, stamp, info.compress_size)
            yield Item(_label(archive, info.filename), kind, str(archive), *sizes, info.CRC)


def _taped(archive: Path) -> Iterator[Item]:
    _, stamp = stamp_of(str(archive))
    with tarfile.open(archive, "r:", errors="surrogateescape") as opened:
        for member in opened:
            opened.members = []  # type: ignore[attr-defined] # it would keep them all
            if member.isdir() or not _is_image(member.name):
                continue
            kind = Kind.STORED if member.isreg() and not member.issparse() else Kind.LOCKED
            sizes = (member.offset_data, member.size, stamp, member.size)
            yield Item(_label(archive, member.name), kind, str(archive), *sizes, UNKNOWN)


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") and part not in (".", "..") for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def _label(archive: Path, name: str) -> str:
    return f"{archive}!{name}"
