"""Images behind addresses (https, s3, gs, memory ...), through fsspec; needs `edgetl[remote]`."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from edgetl.errors import DataError, needing
from edgetl.images import IMAGE_SUFFIXES, MAX_FILE_BYTES
from edgetl.refusals import Refusal, Refused
from edgetl.stream.items import UNKNOWN, Item, Kind

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_address(name: str) -> bool:
    """Whether an input is the address of something elsewhere."""
    return _ADDRESS.match(name) is not None


def remote_items(address: str) -> Iterator[Item]:
    """A file; all images below a folder (it ends in a slash), by name; or the matches of a pattern, by name.

    Raises `DataError` when the place cannot be listed, `MissingExtra` without the packages for it.
    """
    system, path = _system(address)
    try:
        if address.endswith("/"):
            sizes = {name: info.get("size") for name, info in system.find(path, detail=True).items()}
            names = [name for name in sizes if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
        elif set("*?[") & set(path) and not address.startswith("http"):
            sizes = {name: info.get("size") for name, info in system.glob(path, detail=True).items()}
            names = list(sizes)
        else:
            sizes, names = {}, [path]
    except Exception as error:  # every protocol has its own kinds
        raise DataError(
            f"{address} cannot be listed: {type(error).__name__}: {error}", "Check address and credentials."
        ) from error
    for name in sorted(names):
        size = sizes.get(name)
        full = address if not sizes else system.unstrip_protocol(name)
        yield Item(
            full, Kind.REMOTE, full, 0, UNKNOWN if size is None else int(size), UNKNOWN, UNKNOWN, UNKNOWN
        )


def fetch(item: Item) -> bytes | Refused:
    """The bytes behind an address, or why there are none; tried three times; never raises."""
    said = ""
    for _ in range(3):
        try:
            system, path = _system(item.path)
            if item.size == UNKNOWN and (size := system.info(path).get("size")) and size > MAX_FILE_BYTES:
                return Refused(Refusal.TOO_LARGE, f"{size:,} bytes; the limit is {MAX_FILE_BYTES:,}.")
            data = bytes(system.cat_file(path, end=MAX_FILE_BYTES + 1 if item.size == UNKNOWN else None))
        except FileNotFoundError:
            return Refused(Refusal.MISSING, "There is no such file.")
        except PermissionError:
            return Refused(Refusal.PERMISSION, "Reading it is not permitted.")
        except Exception as error:  # noqa: BLE001 - every protocol has its own kinds
            said = type(error).__name__
            continue
        if item.size not in (UNKNOWN, len(data)):
            return Refused(Refusal.CHANGED, f"It had {item.size:,} bytes when the job was planned.")
        return data
    return Refused(Refusal.IO_ERROR, f"It could not be fetched ({said}).")


def _system(address: str) -> tuple[Any, str]:
    with needing("remote", "Reading from addresses"):
        import fsspec

        try:
            system, path = fsspec.core.url_to_fs(address)
        except ImportError as error:  # fsspec's own, when the package of a protocol is not there
            raise ModuleNotFoundError(str(error)) from error
        except ValueError as error:
            raise DataError(f"{address} is of no known kind: {error}.", "Check the address.") from error
    return system, str(path)
