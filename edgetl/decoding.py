"""From the bytes of an image file to an upright RGB image, by Pillow; `images` is the door to it.

Every rule that `images` promises about modes, transparency, orientation and frames is kept here.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

# WebPImagePlugin is imported to be registered: otherwise Pillow looks for it by loading all of its parsers.
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin, features  # noqa: F401

from edgetl.refusals import (
    ALLOWED_FORMATS,
    MAX_PIXELS,
    NO_MEMORY,
    Refusal,
    Refused,
    refused_by_size,
    undecodable,
    unidentified,
)

MAX_COUNTED_FRAMES = 100  # a TIFF page takes 0.2 ms to find, and a crafted file holds millions of them

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageFacts:
    """What the file holds. Width and height in pixels, upright; format and mode as Pillow names them.

    `frames` is at most `MAX_COUNTED_FRAMES`, and 1 when later frames cannot be read.
    """

    width: int
    height: int
    format: str
    mode: str
    frames: int


# `warnings.catch_warnings` puts back a whole saved list when it ends, so two threads that overlap can leave
# warnings off, or on, for good. One entry added and the same entry removed, each a single list operation,
# cannot; and an "ignore" entry is never remembered per module, so nothing of it stays behind.
_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@contextmanager
def _pillow_kept_quiet() -> Iterator[None]:
    filters = cast("list[object]", warnings.filters)
    filters.insert(0, _IGNORE_PILLOW)
    try:
        yield
    finally:
        with suppress(ValueError):  # somebody called warnings.resetwarnings()
            filters.remove(_IGNORE_PILLOW)


def upright(
    data: bytes, background: tuple[int, int, int], draft_side: int | None = None
) -> tuple[Image.Image, ImageFacts] | Refused:
    """The first frame as an RGB image, turned as its EXIF data says.

    With `draft_side`, a JPEG file may come at 1/2, 1/4 or 1/8 of its size, made from fewer coefficients
    (ITU T.81), as long as both sides keep that many pixels, and a whole number of them: a fraction would
    shift what is seen. The facts then state the smaller size.
    """
    if not data:
        return Refused(Refusal.EMPTY, "The file is empty.")
    try:
        with _pillow_kept_quiet(), Image.open(io.BytesIO(data), formats=ALLOWED_FORMATS) as image:
            if refused := refused_by_size(*image.size):
                return refused
            mode = image.mode
            if draft_side is not None and mode in ("RGB", "L"):
                _draft(image, draft_side)
            image.load()
            rgb = _rgb(image, data, background)
            if isinstance(rgb, Refused):
                return rgb
            turned = _turned(rgb, _orientation(image))
            return turned, ImageFacts(*turned.size, str(image.format), mode, _count_frames(image))
    except MemoryError:
        return NO_MEMORY
    except Image.DecompressionBombError:
        return Refused(Refusal.TOO_LARGE, f"The limit is {MAX_PIXELS:,} pixels in all.")
    except UnidentifiedImageError:
        return unidentified(data)
    except Exception as error:  # noqa: BLE001 - Pillow answers bad files with nine kinds of exception
        return undecodable(data, " ".join(str(error).split()) or type(error).__name__)


def _draft(image: Image.Image, least_side: int) -> None:
    width, height = image.size
    for scale in (8, 4, 2):
        if width % scale == height % scale == 0 and min(width, height) >= least_side * scale:
            image.draft(None, (width // scale, height // scale))
            return


def resized(image: Image.Image, height: int, width: int) -> Image.Image:
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _rgb(image: Image.Image, data: bytes, background: tuple[int, int, int]) -> Image.Image | Refused:
    """A loaded image of any mode as an RGB image, not yet turned."""
    if image.mode.startswith(("I", "F")):
        grey = _grey_from_floats(image) if image.mode == "F" else _grey_from_integers(image)
        if isinstance(grey, Refused):
            return grey
        pixels = np.repeat(grey[:, :, np.newaxis], 3, axis=2)
        if (transparent := image.info.get("transparency")) is not None:
            pixels[np.asarray(image) == transparent] = background
        return Image.fromarray(pixels)
    if not image.has_transparency_data:
        return image.convert("RGB")
    _scale_transparent_colour(image, data)
    straight = image.convert("LA") if image.mode == "La" else image
    canvas = Image.new("RGB", image.size, background)
    visible = straight.convert("RGBA")
    canvas.paste(visible, mask=visible)
    return canvas


def _scale_transparent_colour(image: Image.Image, data: bytes) -> None:
    """Bring the one transparent colour of a PNG to the 8 bits its samples were brought to.

    Pillow leaves it in the file's bit depth (PNG specification 11.3.2.1). 16-bit colours keep the high byte.
    """
    colour = image.info.get("transparency")
    if image.format != "PNG" or image.mode not in ("L", "RGB") or colour is None:
        return
    bits = data[24]  # PNG specification 11.2.2: signature, length, type, width, height, bit depth
    largest = 2**bits - 1
    if image.mode == "RGB":
        image.info["transparency"] = tuple((value & largest) >> (bits - 8) for value in colour)
    else:
        image.info["transparency"] = (colour & largest) * 255 // largest


def _grey_from_integers(image: Image.Image) -> Pixels | Refused:
    samples = np.asarray(image)
    lowest, highest = int(samples.min()), int(samples.max())
    white = 4095 if _tiff_tag(image, TiffImagePlugin.BITSPERSAMPLE) == (12,) else 65535
    if lowest < 0 or highest > white:
        detail = f"Integer samples from {lowest:,} to {highest:,} have no agreed white; use 0 to {white:,}."
        return Refused(Refusal.UNSUPPORTED_FORMAT, detail)
    grey = ((samples.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    return _black_is_zero(image, grey)


def _grey_from_floats(image: Image.Image) -> Pixels | Refused:
    samples = np.asarray(image)
    if not np.isfinite(samples).all():
        return Refused(Refusal.NON_FINITE, "It holds samples that are infinite or not a number.")
    lowest, highest = float(samples.min()), float(samples.max())
    if lowest < 0 or highest > 255:
        detail = f"Float samples from {lowest:g} to {highest:g} have no agreed white; use 0 to 1 or 0 to 255."
        return Refused(Refusal.UNSUPPORTED_FORMAT, detail)
    return _black_is_zero(image, np.rint(samples * (255 if highest <= 1 else 1)).astype(np.uint8))


def _black_is_zero(image: Image.Image, grey: Pixels) -> Pixels:
    """Pillow inverts WhiteIsZero TIFF files of up to 8 bits only."""
    return 255 - grey if _tiff_tag(image, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0 else grey


def _tiff_tag(image: Image.Image, tag: int) -> object:
    return image.tag_v2.get(tag) if isinstance(image, TiffImagePlugin.TiffImageFile) else None


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - the pixels are good; EXIF that cannot be parsed says nothing
        return None


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _turned(image: Image.Image, orientation: object) -> Image.Image:
    """The image as it should be seen: orientation 2 to 8 of Exif 2.32, 4.6.4; anything else is upright."""
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _count_frames(image: Image.Image) -> int:
    try:
        if not isinstance(image, TiffImagePlugin.TiffImageFile):
            return min(int(getattr(image, "n_frames", 1)), MAX_COUNTED_FRAMES)
        for frame in range(1, MAX_COUNTED_FRAMES):
            try:
                image.seek(frame)
            except EOFError:
                return frame
    except Exception:  # noqa: BLE001 - the first frame is good; what is wrong with later ones changes nothing
        return 1
    return MAX_COUNTED_FRAMES


def codec_versions() -> dict[str, str]:
    """Pillow and the libraries in it that parse strangers' files, with their versions; "" where absent."""
    names = {"Pillow": "pil", "JPEG": "libjpeg_turbo", "PNG": "zlib", "WebP": "webp", "TIFF": "libtiff"}
    return {name: features.version(feature) or "" for name, feature in names.items()}
