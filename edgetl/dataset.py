"""A folder of labelled images becomes four roles that are kept apart, with fingerprints.

train          fits the weights
tuning         chooses: epochs, temperature, everything that is selected
calibration    sets quantization ranges
certification  proves parity; only `eval` and `verify` read it
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetl import images
from edgetl.config import DataConfig
from edgetl.duplicates import Copies, find_copies
from edgetl.errors import DataError
from edgetl.files import fingerprint
from edgetl.images import ImageFacts
from edgetl.listing import Entry, Listing, check_classes, is_text, list_images, printable
from edgetl.pixels import InMemory, OnDisk, PixelRows, Room, split_rows
from edgetl.progress import task
from edgetl.results import Skipped
from edgetl.roles import KeptOut, Role, assign_roles, check_shares, keep_out

__all__ = [
    "Dataset",
    "Division",
    "Entry",
    "FilesRead",
    "Images",
    "ImagesInMemory",
    "Listing",
    "Role",
    "assign_roles",
    "divide",
    "list_images",
    "load",
    "read_files",
    "read_images",
    "role_fingerprint",
]


@dataclass(frozen=True)
class Images:
    """The readable images of one role, in a fixed order."""

    paths: tuple[str, ...]  # relative to the data folder
    pixels: PixelRows  # uint8 [N, H, W, 3] RGB
    labels: NDArray[np.int64]  # [N]
    digests: tuple[str, ...]  # SHA-256 of the files

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class ImagesInMemory(Images):
    """Images whose pixels are an array."""

    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class FilesRead:
    """What reading labelled files once gives; all but `skipped` is about the readable ones."""

    images: Images
    kept: tuple[int, ...]  # positions in the entries given
    thumbnails: NDArray[np.uint8]  # [N, 768] of 16 x 16 RGB, 0..255, whatever the size of `images.pixels`
    facts: tuple[ImageFacts, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Division:
    """Who has which role, and which certification images do not count. Numbers are positions."""

    roles: NDArray[np.str_]  # [N]
    copies: Copies
    kept_out: KeptOut

    def of(self, role: Role) -> list[int]:
        """The positions of a role, without certification images that do not count."""
        outside = self.kept_out.all()
        return [int(i) for i in np.flatnonzero(self.roles == role.value) if int(i) not in outside]


@dataclass(frozen=True)
class Dataset:
    """A data folder, read once and divided."""

    folder: Path
    layout: str
    labels: tuple[str, ...]
    roles: dict[Role, Images]
    skipped: tuple[Skipped, ...]
    leaking: tuple[str, ...]  # all that is kept out of certification: see `KeptOut`


def load(
    folder: Path,
    height: int,
    width: int,
    config: DataConfig,
    threads: int = 2,
    *,
    scratch: Path | None = None,
) -> Dataset:
    """Read a data folder once and divide it into roles.

    Images that copy, or nearly copy, an image of another role or an earlier certification image are kept out
    of certification, where they would make the proof too easy. Roles do not depend on height and width.
    Pixels are kept in memory, or in a nameless file in the folder `scratch`; the rest takes about 3 KiB of
    memory for each image. Raises `DataError` when a class is too small to be divided, `UsageError` for
    contradictory shares, `StorageError` when the disk has no room.
    """
    listing = list_images(folder, config.class_map)
    check_classes(listing)
    read = read_files(listing.entries, folder, height, width, threads, scratch=scratch)
    division = divide(listing, read, config)
    paths = read.images.paths
    return Dataset(
        folder=folder,
        layout=listing.layout,
        labels=listing.labels,
        roles=_split(read.images, division),
        skipped=read.skipped,
        leaking=tuple(paths[i] for i in sorted(division.kept_out.all())),
    )


def read_images(
    entries: Sequence[Entry], folder: Path, height: int, width: int, threads: int = 2
) -> tuple[ImagesInMemory, list[int], list[Skipped]]:
    """Decode every entry. Returns the readable ones, their positions in `entries`, and the refused ones."""
    room = InMemory(len(entries), height, width)
    read = _read_into(room, entries, folder, height, width, threads=threads)
    found = read.images
    in_memory = ImagesInMemory(found.paths, room.first(len(found)), found.labels, found.digests)
    return in_memory, list(read.kept), list(read.skipped)


def read_files(
    entries: Sequence[Entry],
    folder: Path,
    height: int,
    width: int,
    threads: int = 2,
    *,
    scratch: Path | None = None,
) -> FilesRead:
    """Read and decode every entry once, into memory or a nameless file in the folder `scratch`.

    Raises `DataError` when the pixels do not fit into memory, `StorageError` when the disk has no room.
    """
    count = len(entries)
    room = InMemory(count, height, width) if scratch is None else OnDisk(scratch, count, height, width)
    return _read_into(room, entries, folder, height, width, threads=threads)


def _read_into(
    room: Room, entries: Sequence[Entry], folder: Path, height: int, width: int, *, threads: int
) -> FilesRead:
    thumbnails = np.empty((len(entries), images.THUMBNAIL_SIDE**2 * 3), np.uint8)
    kept: list[int] = []
    paths: list[str] = []
    facts: list[ImageFacts] = []
    digests: list[str] = []
    skipped: list[Skipped] = []
    examined = images.examine_many([entry.path for entry in entries], height, width, threads=threads)
    with task("reading images", len(entries)) as advance:
        for position, image in enumerate(examined):
            advance(1)
            name = str(entries[position].path.relative_to(folder))
            if isinstance(image, images.Refused):
                skipped.append(Skipped(printable(name), image.reason.value, image.detail))
            elif not is_text(name):
                skipped.append(Skipped(printable(name), "name", "Its name is not UTF-8; rename it."))
            else:
                room.put(len(kept), image.pixels)
                thumbnails[len(kept)] = image.thumbnail.reshape(-1)
                kept.append(position)
                paths.append(name)
                facts.append(image.facts)
                digests.append(image.digest)
    labels = np.array([entries[i].label for i in kept], np.int64)
    readable = Images(tuple(paths), room.first(len(kept)), labels, tuple(digests))
    return FilesRead(readable, tuple(kept), thumbnails[: len(kept)], tuple(facts), tuple(skipped))


def divide(listing: Listing, read: FilesRead, config: DataConfig) -> Division:
    """Give every readable image a role. Raises `DataError` where a class has too few, `UsageError`."""
    splits = [listing.entries[i].split for i in read.kept]
    check_shares(splits, config)
    labels = read.images.labels
    copies = find_copies(read.images.digests, read.thumbnails, labels)
    roles = assign_roles(labels, splits, config, copies.groups)
    _check_roles(roles, listing, read)
    division = Division(roles, copies, keep_out(roles, labels, copies))
    if not division.of(Role.CERTIFICATION):
        left, right = (read.images.paths[i] for i in next(chain(copies.exact, copies.near)))
        raise DataError(
            f"No certification image is left: all copy other images, such as {left} and {right}.",
            "Give test/ images of its own, and each image one class.",
        )
    return division


def _check_roles(roles: NDArray[np.str_], listing: Listing, read: FilesRead) -> None:
    for role in Role:
        present = set(read.images.labels[roles == role.value].tolist())
        missing = [name for i, name in enumerate(listing.labels) if i not in present]
        if missing:
            unreadable = [f"{file.path} ({file.reason})" for file in read.skipped[:5]]
            shown = (
                f" Unreadable files: {len(read.skipped)}, such as {', '.join(unreadable)}."
                if unreadable
                else ""
            )
            raise DataError(
                f"No readable image for {role.value} is left in: {', '.join(missing)}.{shown}",
                "Add readable images of these classes, or move their folders away.",
            )


def _split(everything: Images, division: Division) -> dict[Role, Images]:
    """Each role's images; `everything.pixels` must not be used any more."""
    positions = {role: division.of(role) for role in Role}
    pixels = split_rows(everything.pixels, list(positions.values()))
    return {
        role: Images(
            paths=tuple(everything.paths[i] for i in chosen),
            pixels=rows,
            labels=everything.labels[chosen],
            digests=tuple(everything.digests[i] for i in chosen),
        )
        for (role, chosen), rows in zip(positions.items(), pixels, strict=True)
    }


def role_fingerprint(digests: Sequence[str]) -> str:
    """The identity of a set of image files, whatever their names and order."""
    return fingerprint(sorted(digests))
