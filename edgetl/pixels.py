"""Where the pixels of many images are: in memory, or in a file on the disk that is read batch by batch."""

import errno
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgetl.errors import DataError, StorageError
from edgetl.files import TEMPORARY_PREFIX, storing


def spread_over(images: int, most: int) -> NDArray[np.int64]:
    """Positions of at most so many images, evenly over all: they lie class by class."""
    return np.arange(min(images, most)) * images // max(1, min(images, most))


class StoredPixels:
    """uint8 RGB images [N, H, W, 3] in a file; what is indexed is read, and nothing else takes memory.

    Takes what the first axis of an array takes, and gives the same. `rows` [N] are the numbers of the images
    in the file. Not a memory map, whose pages would count as memory of the process for as long as the system
    likes.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, file: "NamelessFile", height: int, width: int, rows: NDArray[np.int64]) -> None:
        self.shape = (len(rows), height, width, 3)
        self._file = file
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int | slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        rows = np.asarray(self._rows[key])
        pixels = np.empty((*rows.shape, *self.shape[1:]), np.uint8)
        self._read(rows.reshape(-1), pixels.reshape(-1))
        return pixels

    def select(self, positions: Sequence[int]) -> "StoredPixels":
        """Only these of the images, in this order; no pixel is read or moved."""
        _, height, width, _ = self.shape
        return StoredPixels(self._file, height, width, self._rows[np.asarray(positions, np.int64)])

    def _read(self, rows: NDArray[np.int64], samples: NDArray[np.uint8]) -> None:
        """Fill the flat array with the images of these numbers: neighbours in the file in one go."""
        size = math.prod(self.shape[1:])
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        for start, stop in pairwise([0, *breaks.tolist(), len(rows)]):
            if start < stop:
                self._file.read(int(rows[start]) * size, samples[start * size : stop * size].data)


PixelRows = NDArray[np.uint8] | StoredPixels  # [N, H, W, 3] RGB, taken a few at a time


class Room(Protocol):
    """Where decoded images are put, one by one."""

    def put(self, number: int, image: NDArray[np.uint8]) -> None:
        """Keep uint8 RGB [H, W, 3] as the image of this number."""
        ...

    def first(self, count: int) -> PixelRows:
        """The images 0 to `count` - 1."""
        ...


class NamelessFile:
    """A file of `size_bytes` in `folder` that is gone when nobody uses it, or the process was killed."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        with storing(folder):
            self._handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=folder)
            weakref.finalize(self, os.close, self._handle)
            Path(name).unlink()
            os.posix_fallocate(self._handle, 0, max(1, size_bytes))

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from this place in the file on."""
        while buffer:
            count = os.preadv(self._handle, [buffer], offset)  # at most 2 GiB in one call
            if count == 0:
                raise OSError(errno.EIO, "a temporary file is shorter than it was")
            buffer, offset = buffer[count:], offset + count

    def write(self, offset: int, content: memoryview) -> None:
        """Write all of the content to this place in the file."""
        while content:
            count = os.pwrite(self._handle, content, offset)
            content, offset = content[count:], offset + count


class InMemory:
    """Room for `count` images in memory. Raises `DataError` when they do not fit."""

    def __init__(self, count: int, height: int, width: int) -> None:
        try:
            self._pixels = np.empty((count, height, width, 3), np.uint8)
        except MemoryError as error:
            raise DataError(
                f"{count} images of {height} x {width} pixels take {_gib(count, height, width):.1f} GiB of "
                "memory.",
                "Use a smaller --image-size or fewer images.",
            ) from error

    def put(self, number: int, image: NDArray[np.uint8]) -> None:
        """Keep uint8 RGB [H, W, 3] as the image of this number."""
        self._pixels[number] = image

    def first(self, count: int) -> NDArray[np.uint8]:
        """The images 0 to `count` - 1."""
        return self._pixels[:count]


_FIX = "Use a smaller --image-size, fewer images, or another disk."


class OnDisk:
    """Room for `count` images in a file in `folder`. Raises `StorageError` when the disk has too little.

    All of it is taken from the disk at once: a disk that fills up later would waste the work until then.
    """

    def __init__(self, folder: Path, count: int, height: int, width: int, fix: str = _FIX) -> None:
        needed_gib = _gib(count, height, width)
        with storing(folder):
            free_gib = shutil.disk_usage(folder).free / 2**30
        if needed_gib > free_gib:
            raise StorageError(
                f"{count} images of {height} x {width} pixels take {needed_gib:.1f} GiB in {folder}; "
                f"{free_gib:.1f} are free.",
                fix,
            )
        self._folder, self._height, self._width = folder, height, width
        self._file = NamelessFile(folder, count * height * width * 3)

    def put(self, number: int, image: NDArray[np.uint8]) -> None:
        """Keep uint8 RGB [H, W, 3] as the image of this number. Raises `StorageError`."""
        content = image.reshape(-1).data
        with storing(self._folder):
            self._file.write(number * len(content), content)

    def first(self, count: int) -> StoredPixels:
        """The images 0 to `count` - 1."""
        return StoredPixels(self._file, self._height, self._width, np.arange(count))


def split_rows(pixels: PixelRows, parts: Sequence[Sequence[int]]) -> list[PixelRows]:
    """The images of each part, given by disjoint positions; `pixels` itself must not be used any more.

    Rows in memory change places, because a copy would double it.
    """
    if isinstance(pixels, StoredPixels):
        return [pixels.select(positions) for positions in parts]
    first = [position for positions in parts for position in positions]
    _reorder(pixels, [*first, *sorted(set(range(len(pixels))) - set(first))])
    ends = np.cumsum([0, *map(len, parts)]).tolist()
    return [pixels[start:end] for start, end in pairwise(ends)]


def _reorder(rows: NDArray[np.uint8], order: Sequence[int]) -> None:
    """Let `rows[k]` become what `rows[order[k]]` was, in place, cycle by cycle."""
    done = [False] * len(order)
    for start in range(len(order)):
        if done[start]:
            continue
        held, position = rows[start].copy(), start
        while not done[position]:
            done[position] = True
            source = order[position]
            rows[position] = held if source == start else rows[source]
            position = source


def _gib(count: int, height: int, width: int) -> float:
    return count * height * width * 3 / 2**30
