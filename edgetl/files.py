"""Files that nobody ever reads half: atomic writes, fingerprints, and disk errors in plain words."""

import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from edgetl.errors import StorageError

TEMPORARY_PREFIX = ".edgetl-tmp-"
_DYING_SECONDS = 2.0

_STORAGE_REASONS = {
    errno.ENOSPC: ("the disk is full", "Free some space (or choose another disk) and run the command again."),
    errno.EDQUOT: ("your disk quota is used up", "Free some space and run the command again."),
    errno.EROFS: ("the disk is read-only", "Choose a folder that can be written."),
    errno.EACCES: ("permission was denied", "Choose a folder that you may write, or change its permissions."),
    errno.EPERM: ("permission was denied", "Choose a folder that you may write, or change its permissions."),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "Choose another path."),
    errno.ENOENT: ("the folder is not there, or takes no files", "Choose another folder."),
    errno.EEXIST: ("a part of the path is a file, not a folder", "Choose another path."),
    errno.EISDIR: ("the path is a folder", "Name a file."),
    errno.ENAMETOOLONG: ("the name is too long", "Choose a shorter name."),
    errno.EFBIG: (
        "the file would be larger than is allowed here",
        "Choose another disk, or raise the limit (ulimit -f).",
    ),
    errno.EIO: ("the disk reports an error", "Check the disk, or choose another one."),
}


def refuse_storage(error: OSError, path: Path) -> NoReturn:
    """Raise the `StorageError` that tells a person what the disk refused while `path` was being written."""
    if error.errno not in _STORAGE_REASONS:
        raise error
    reason, fix = _STORAGE_REASONS[error.errno]
    raise StorageError(f"Could not write {path}: {reason}.", fix) from error


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn the disk's refusals inside this block into a `StorageError` about `path`."""
    try:
        yield
    except OSError as error:
        refuse_storage(error, path)


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents. Raises `StorageError`."""
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what the block writes there replaces `path` if the block succeeds.

    The content is on the disk (fsync) before the name changes, so a reader, a kill or a power cut sees the
    old file or the new one. Raises `StorageError` when the disk refuses; the temporary file is removed.
    """
    make_folder(path.parent)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{path.suffix}"
    try:
        with storing(path):
            temporary.touch(
                0o666, exist_ok=False
            )  # less the umask: the device's service user must read models
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) so that `path` is either the old file or the whole new one."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed command left in `folder`."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError):
            leftover.unlink()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(parts: Iterable[str]) -> str:
    """One SHA-256 over a list of texts, each ended by a zero byte so that no two lists look alike."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (created if missing) against other edgetl processes."""
    with storing(path):
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def lock_alone(handle: int) -> None:
    """Lock an open file against all other processes. Raises `BlockingIOError` when one has it.

    A killed process is given time to die: a child that it was just starting has a copy of its lock.
    """
    patience = time.monotonic() + _DYING_SECONDS
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > patience:
                raise
            time.sleep(0.02)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot sync a folder
            raise
