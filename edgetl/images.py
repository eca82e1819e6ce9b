"""The one way from a file to pixels, for training, calibration, verification and prediction alike.

`find` lists files; `prepare` is `read_bytes`, `decode`, `resize`; `prepare_many` does it in threads.
A bad file becomes a `Refused` with a named reason, never an exception. What decoding promises:

- the content decides, not the suffix, and only the parsers of `ALLOWED_FORMATS` ever run;
- size is judged from the header, before a pixel is decoded;
- EXIF orientation is applied; unreadable EXIF is ignored;
- transparency is laid on a stated background; animations and multi-page files give their first frame;
- 16-bit grey is scaled by 1/257, 12-bit TIFF by 255/4095, float TIFF from 0..1 or 0..255; nothing is clipped;
- ICC profiles are ignored on purpose: samples are taken as sRGB, in training as on the device.

Bit rot in the scan data of a JPEG mostly decodes without complaint; only a checksum of the file can show it.
Only this module and `decoding` import Pillow.
"""

import hashlib
import io
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgetl.decoding import ImageFacts, Pixels, codec_versions, resized, upright
from edgetl.refusals import (
    ALLOWED_FORMATS,
    NO_MEMORY,
    NOT_REGULAR,
    Refusal,
    Refused,
    refused_by_system,
)

__all__ = [
    "ALLOWED_FORMATS",
    "Decoded",
    "Examined",
    "ImageFacts",
    "Pixels",
    "Refusal",
    "Refused",
    "codec_versions",
    "decode",
    "encode_jpeg_thumbnail",
    "encode_png",
    "examine",
    "examine_many",
    "find",
    "found",
    "prepare",
    "prepare_bytes",
    "prepare_many",
    "read_bytes",
    "resize",
    "thumbnails",
]

PREPROCESSING_VERSION = 1  # raised whenever a pixel could come out differently; written into model cards

_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
_OTHER_SUFFIXES = (".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff")
# Not read, yet found in folders: a photo refused with a reason is seen, one that is passed over is not.
_REFUSED_SUFFIXES = (".heic", ".heif", ".avif", ".jp2", ".jxl")
IMAGE_SUFFIXES = frozenset(_JPEG_SUFFIXES + _OTHER_SUFFIXES + _REFUSED_SUFFIXES)
MAX_FILE_BYTES = 512 * 2**20
THUMBNAIL_SIDE = 16
DRAFT_FACTOR = 4  # with 2, single samples differ by up to 8 of 255
WHITE = (255, 255, 255)

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels uint8 RGB [height, width, 3] of the first frame, upright, and the facts of the file."""

    pixels: Pixels
    facts: ImageFacts


@dataclass(frozen=True, eq=False)
class Examined:
    """A file read once. `pixels` as `prepare` gives them; `thumbnail` uint8 RGB [16, 16, 3]."""

    pixels: Pixels
    thumbnail: Pixels
    facts: ImageFacts
    digest: str  # SHA-256 of the file, hexadecimal


def find(paths: Iterable[str | Path]) -> list[Path]:
    """Every file meant by files, folders and glob patterns, in the order given, each path once.

    A folder gives its files with one of `IMAGE_SUFFIXES`, at any depth, sorted by the bytes of their paths.
    Hidden files and folders are passed over; links are followed, but not into a folder they lie in. A folder
    that cannot be listed is returned itself, so its loss is seen. Anything named is returned even when it is
    missing or no image. A pattern (`*`, `?`, `[`; `**` for any depth) stands for its matches, as in a shell,
    or for itself when it has none.
    """
    return list(dict.fromkeys(found(paths)))


def found(paths: Iterable[str | Path]) -> Iterator[Path]:
    """`find` as it goes, in memory for one folder at a time; a path meant twice comes twice."""
    for path in map(Path, paths):
        for named in _expand(path):
            yield from _walk(named) if named.is_dir() else (named,)


def read_bytes(path: Path) -> bytes | Refused:
    """The content of a regular file or of a link to one; pipes, devices and folders are refused at once."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return NOT_REGULAR
        # O_NONBLOCK because a pipe may take the file's place between the two calls, and opening it waits.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return NOT_REGULAR
            if status.st_size > MAX_FILE_BYTES:
                detail = f"{status.st_size:,} bytes; the limit is {MAX_FILE_BYTES:,}."
                return Refused(Refusal.TOO_LARGE, detail)
            data = file.read(status.st_size + 1)
    except (OSError, ValueError) as error:
        return refused_by_system(error)
    except MemoryError:
        return NO_MEMORY
    if len(data) != status.st_size:
        return Refused(Refusal.IO_ERROR, "The file changed while it was being read.")
    return data


def decode(data: bytes, background: tuple[int, int, int] = WHITE) -> Decoded | Refused:
    """Upright uint8 RGB pixels of the first frame of an image file; `background` (RGB 0..255) shows through.

    Never raises for what the bytes hold. Equal bytes give equal pixels with one version of Pillow.
    """
    opened = upright(data, background)
    if isinstance(opened, Refused):
        return opened
    image, facts = opened
    try:
        return Decoded(np.array(image), facts)
    except MemoryError:
        return NO_MEMORY


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """uint8 [H, W, 3] to uint8 [height, width, 3], bilinear with antialiasing; the aspect ratio is not kept.

    The array itself is returned when it has that size already.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(resized(Image.fromarray(pixels), height, width))


def prepare(
    path: Path, height: int, width: int, background: tuple[int, int, int] = WHITE
) -> Pixels | Refused:
    """A file as uint8 RGB [height, width, 3], as every engine takes it; never raises for a bad file."""
    data = read_bytes(path)
    return data if isinstance(data, Refused) else prepare_bytes(data, height, width, background)


def prepare_bytes(
    data: bytes, height: int, width: int, background: tuple[int, int, int] = WHITE, draft: bool = False
) -> Pixels | Refused:
    """`prepare` of a file's content.

    `draft`: of JPEG files with at least 8 times the pixels a side, only as much is decoded as leaves 4 times
    the pixels. Samples then differ by at most 4 of 255, by less than 0.6 on average (tests/test_images.py).
    """
    opened = upright(data, background, DRAFT_FACTOR * max(height, width) if draft else None)
    if isinstance(opened, Refused):
        return opened
    try:
        # Not through `decode` and `resize`, which give the same pixels: a 12-megapixel photo would be copied
        # into an array and back, 10 ms with the interpreter lock held.
        return np.array(resized(opened[0], height, width))
    except MemoryError:
        return NO_MEMORY


def examine(
    path: Path, height: int, width: int, background: tuple[int, int, int] = WHITE
) -> Examined | Refused:
    """`prepare`, and what a data set has to know of the file besides; never raises for a bad file."""
    data = read_bytes(path)
    if isinstance(data, Refused):
        return data
    opened = upright(data, background)
    if isinstance(opened, Refused):
        return opened
    image, facts = opened
    small = image.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    pixels = np.array(resized(image, height, width))
    return Examined(pixels, np.array(small), facts, hashlib.sha256(data).hexdigest())


def prepare_many(
    paths: Sequence[Path], height: int, width: int, background: tuple[int, int, int] = WHITE, threads: int = 2
) -> Iterator[Pixels | Refused]:
    """`prepare` of every path, in the order of the paths; at most 8 results per thread are made ahead.

    Threads, because Pillow decodes and resizes without holding the interpreter lock. Closing the iterator
    drops what has not begun.
    """
    return _ahead(lambda path: prepare(path, height, width, background), paths, threads)


def examine_many(
    paths: Sequence[Path], height: int, width: int, background: tuple[int, int, int] = WHITE, threads: int = 2
) -> Iterator[Examined | Refused]:
    """`examine` of every path, as `prepare_many` does it."""
    return _ahead(lambda path: examine(path, height, width, background), paths, threads)


def _ahead(work: Callable[[Path], Result], paths: Sequence[Path], threads: int) -> Iterator[Result]:
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="edgetl-images")
    try:
        for path in paths:
            if len(pending) == threads * 8:
                yield pending.popleft().result()
            pending.append(pool.submit(work, path))
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def thumbnails(pixels: Pixels) -> NDArray[np.float32]:
    """uint8 RGB [N, H, W, 3] to float32 [N, 768], 0..255: 16 x 16 RGB, for the search of near duplicates."""
    small = np.empty((len(pixels), THUMBNAIL_SIDE * THUMBNAIL_SIDE * 3), np.float32)
    for row, image in zip(small, pixels, strict=True):
        row[:] = resize(image, THUMBNAIL_SIDE, THUMBNAIL_SIDE).reshape(-1)
    return small


def encode_png(pixels: Pixels) -> bytes:
    """uint8 RGB [H, W, 3] or grey [H, W] as a PNG file; lossless."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def encode_jpeg_thumbnail(pixels: Pixels, side: int) -> bytes:
    """uint8 RGB [H, W, 3] as a JPEG file of at most side x side pixels; aspect ratio kept, never enlarged."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _expand(path: Path) -> list[Path]:
    """The matches of a pattern in byte order; a path that exists, or matches nothing, stands for itself."""
    plain = next((index for index, part in enumerate(path.parts) if set(part) & set("*?[")), len(path.parts))
    if plain == len(path.parts) or os.path.lexists(path):
        return [path]
    base = Path(*path.parts[:plain])
    pattern = str(Path(*path.parts[plain:]))
    try:  # not glob.glob: its ** follows links in circles
        matches = [match for match in base.glob(pattern) if not _is_hidden(match, base)]
    except (OSError, ValueError):  # ValueError: a pattern that cannot be one, as "a**"
        return [path]
    return _sorted(matches) or [path]


def _is_hidden(match: Path, base: Path) -> bool:
    return any(part.startswith(".") for part in match.relative_to(base).parts)


def _sorted(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=os.fsencode)


def _walk(root: Path) -> Iterator[Path]:
    """In the order of the bytes of whole paths, which is that of names if those of folders end in a slash."""
    pending: list[tuple[bool, Path, frozenset[tuple[int, int]]]] = [(True, root, frozenset())]
    while pending:
        is_folder, path, above = pending.pop()
        if not is_folder:
            yield path
            continue
        try:
            status = path.stat()
            with os.scandir(path) as listing:
                entries = [(_is_folder(entry), entry.name) for entry in listing if entry.name[0] != "."]
        except OSError:
            yield path
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            continue
        entries.sort(key=lambda entry: os.fsencode(entry[1]) + b"/" * entry[0], reverse=True)
        within = above | {identity}
        pending += [
            (inner, path / name, within)
            for inner, name in entries
            if inner or Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
