"""Why a file gives no pixels, told from its bytes and from what the system or the decoder said."""

import errno
import os
import re
from dataclasses import dataclass
from enum import StrEnum, auto

ALLOWED_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 50_000_000  # 150 MB as RGB; a phone's largest photo has 200 million and has to be scaled first
MAX_SIDE = 30_000
MAX_ASPECT = 200


class Refusal(StrEnum):
    """Why a file gives no pixels."""

    EMPTY = auto()
    NOT_AN_IMAGE = auto()
    UNSUPPORTED_FORMAT = auto()
    TRUNCATED = auto()
    CORRUPT = auto()
    TOO_LARGE = auto()
    NON_FINITE = auto()
    NOT_REGULAR = auto()
    MISSING = auto()
    PERMISSION = auto()
    IO_ERROR = auto()
    CHANGED = auto()
    CRASHED = auto()
    TIMEOUT = auto()


@dataclass(frozen=True)
class Refused:
    """A file that gives no pixels; `detail` is a sentence for a person and does not name the file."""

    reason: Refusal
    detail: str


NOT_REGULAR = Refused(Refusal.NOT_REGULAR, "It is a folder, a pipe or a device, not a file.")
NO_MEMORY = Refused(Refusal.TOO_LARGE, "It does not fit into memory.")


def refused_by_system(error: OSError | ValueError) -> Refused:
    """What opening or reading a file raised, in words."""
    # ValueError has no number: a path that no system call takes, as one with a zero byte.
    match getattr(error, "errno", errno.ENOENT):
        case errno.ENOENT | errno.ENOTDIR:
            return Refused(Refusal.MISSING, "There is no such file.")
        case errno.EACCES | errno.EPERM:
            return Refused(Refusal.PERMISSION, "Reading it is not permitted.")
        case number:
            said = os.strerror(number or errno.EIO)
            return Refused(Refusal.IO_ERROR, f"The system could not read it: {said}.")


def refused_by_size(width: int, height: int) -> Refused | None:
    """Why an image of this size, in pixels, is not decoded; None where it is."""
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS:,} pixels in all"
    elif max(width, height) > MAX_SIDE:
        limit = f"{MAX_SIDE:,} pixels a side"
    elif max(width, height) > MAX_ASPECT * min(width, height):
        limit = f"one side {MAX_ASPECT} times the other"
    else:
        return None
    return Refused(Refusal.TOO_LARGE, f"{width:,} x {height:,} pixels; the limit is {limit}.")


# Beginnings of files as regular expressions; the first six are the formats that are read. Only bytes are
# compared: no parser of another format ever runs. "ftyp" brands: ISO 23008-12 and the AVIF specification.
_BEGINNINGS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "BMP": rb"BM",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II[*+]\x00|MM\x00[*+]",
    "AVIF": rb"....ftypavi[fs]",
    "HEIC": rb"....ftyp(hei[cxms]|hev[cx]|mif1|msf1)",
    "JPEG 2000": rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\x00\x00\x00\x0cJXL |\xff\x0a",
    "PSD (Photoshop)": rb"8BPS",
    "PDF": rb"%PDF",
    "EPS (PostScript)": rb"%!PS|\xc5\xd0\xd3\xc6",
    "SVG": rb"(\xef\xbb\xbf)?\s*(<svg|(<\?xml|<!--|<!DOCTYPE svg).*<svg)",
    "ICO (icon)": rb"\x00\x00\x01\x00",
    "PNM (PBM, PGM, PPM)": rb"P[1-6][\s#]",
    "DICOM": rb".{128}DICM",
}


def _kind(data: bytes) -> str | None:
    start = data[:1024]
    return next((name for name, begin in _BEGINNINGS.items() if re.match(begin, start, re.DOTALL)), None)


def unidentified(data: bytes) -> Refused:
    kind = _kind(data)
    if kind is None:
        return Refused(Refusal.NOT_AN_IMAGE, "Its content is not an image.")
    if kind not in ALLOWED_FORMATS:
        readable = ", ".join(ALLOWED_FORMATS)
        return Refused(Refusal.UNSUPPORTED_FORMAT, f"Its format, {kind}, is not read here; use {readable}.")
    return undecodable(data, "header damaged or of an unknown variant")


def undecodable(data: bytes, message: str) -> Refused:
    kind = _kind(data) or "image"
    if any(words in message for words in ("nsupported", "not supported", "cannot handle")):
        return Refused(Refusal.UNSUPPORTED_FORMAT, f"This variant of {kind} is not read here ({message}).")
    told = any(words in message.lower() for words in ("truncated", "incomplete", "not enough image data"))
    if told or _is_cut_short(data, kind):
        return Refused(Refusal.TRUNCATED, f"The {kind} file ends too early ({message}).")
    return Refused(Refusal.CORRUPT, f"The {kind} file is damaged ({message}).")


def _is_cut_short(data: bytes, kind: str) -> bool:
    """Whether a file that could not be decoded lacks the end its own format asks for. Unknown for TIFF."""
    match kind:
        case "JPEG":  # the end marker follows the last start of scan
            return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
        case "PNG":
            return b"IEND" not in data
        case "GIF":
            return not data.rstrip(b"\0").endswith(b";")
        case "WEBP":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
        case "BMP":
            return int.from_bytes(data[2:6], "little") > len(data)
        case _:
            return False
