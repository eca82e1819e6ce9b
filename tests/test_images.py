"""Every promise of `edgetl.images`, with files made on the spot."""

import io
import os
import struct
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgetl import decoding, images
from edgetl.images import Refusal, Refused

RAMP = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
RANDOM = np.random.default_rng(7)
PHOTO = np.array(
    Image.fromarray(RANDOM.integers(0, 256, (6, 8, 3), np.uint8)).resize((64, 48), Image.Resampling.BICUBIC)
)


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, file_format, **options)
    return buffer.getvalue()


def png(width, height, bits, colour_type, rows=b"", transparent=b""):
    """A PNG file made by hand: Pillow cannot write every bit depth, nor headers of images it does not hold."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    colour = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + header + colour + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(width, height, bits, samples, white_is_zero=False):
    """A one-strip grey little-endian TIFF file made by hand."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 0)]
    tags += [(277, 1), (278, height), (279, len(samples))]
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + samples


def pixels_of(data, **options):
    decoded = images.decode(data, **options)
    assert isinstance(decoded, images.Decoded), decoded
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.shape == (decoded.facts.height, decoded.facts.width, 3)
    return decoded.pixels


def reason_of(data):
    refused = images.decode(data)
    assert isinstance(refused, Refused), refused
    assert refused.detail.endswith(".")
    return refused.reason


def exif_with(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# Pixels


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_pixels_back(file_format):
    np.testing.assert_array_equal(pixels_of(encoded(PHOTO, file_format)), PHOTO)


def test_webp_gives_the_pixels_back():
    np.testing.assert_array_equal(pixels_of(encoded(PHOTO, "WEBP", lossless=True)), PHOTO)


def test_facts():
    facts = images.decode(encoded(PHOTO, "JPEG", exif=exif_with(6))).facts
    assert facts == images.ImageFacts(width=48, height=64, format="JPEG", mode="RGB", frames=1)


@pytest.mark.parametrize(
    ("file_format", "options"), [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})]
)
def test_16_bit_grey_is_scaled_and_not_clipped(file_format, options):
    pixels = pixels_of(encoded(Image.fromarray(RAMP), file_format, **options))
    np.testing.assert_array_equal(pixels, np.rint(RAMP / 257).astype(np.uint8)[:, :, None].repeat(3, axis=2))
    assert abs(pixels.mean() - 127.5) < 0.1


def test_16_bit_big_endian_tiff():
    pixels = pixels_of(encoded(Image.frombytes("I;16B", (64, 48), RAMP.astype(">u2").tobytes()), "TIFF"))
    np.testing.assert_array_equal(pixels[:, :, 0], np.rint(RAMP / 257))


def test_32_bit_integers_are_scaled_like_16_bit_or_refused():
    inside = encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF")
    np.testing.assert_array_equal(pixels_of(inside)[:, :, 1], np.rint(RAMP / 257))
    for outside in (-1, 65536):
        assert (
            reason_of(encoded(Image.fromarray(np.full((4, 4), outside, np.int32)), "TIFF"))
            == Refusal.UNSUPPORTED_FORMAT
        )


def test_12_bit_tiff_reaches_white():
    samples = bytes([0xFF, 0xF0, 0x00]) * 8  # white, black, white, ...
    assert pixels_of(tiff(4, 4, 12, samples))[0, :, 0].tolist() == [255, 0, 255, 0]


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_where_white_is_zero(bits):
    samples = np.array([0, 2**bits - 1] * 8, f"<u{bits // 8}").tobytes()
    assert pixels_of(tiff(4, 4, bits, samples, white_is_zero=True))[0, :2, 0].tolist() == [255, 0]


@pytest.mark.parametrize(("highest", "expected"), [(1.0, 255), (200.0, 200)])
def test_float_tiff(highest, expected):
    pixels = pixels_of(encoded(Image.fromarray(np.array([[0, highest]], np.float32)), "TIFF"))
    assert pixels[0, :, 0].tolist() == [0, expected]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.nan, Refusal.NON_FINITE),
        (np.inf, Refusal.NON_FINITE),
        (-0.1, Refusal.UNSUPPORTED_FORMAT),
        (256.0, Refusal.UNSUPPORTED_FORMAT),
    ],
)
def test_float_tiff_without_a_meaning_is_refused(value, reason):
    assert reason_of(encoded(Image.fromarray(np.array([[0, value]], np.float32)), "TIFF")) == reason


def test_other_modes_become_rgb():
    red = Image.new("RGB", (16, 16), (200, 30, 40))
    cases = [
        (red.convert("1", dither=Image.Dither.NONE), "PNG", (0, 0, 0)),
        (red.convert("L"), "JPEG", (82, 82, 82)),
        (red.convert("P", palette=Image.Palette.ADAPTIVE), "GIF", (200, 30, 40)),
        (red.convert("CMYK"), "JPEG", (200, 30, 40)),
        (red.convert("CMYK"), "TIFF", (200, 30, 40)),
        (red.convert("YCbCr"), "TIFF", (200, 30, 40)),
        (Image.new("LAB", (16, 16), (255, 128, 128)), "TIFF", (255, 255, 255)),
    ]
    for picture, file_format, colour in cases:
        pixels = pixels_of(encoded(picture, file_format))
        np.testing.assert_allclose(pixels.astype(int), np.broadcast_to(colour, pixels.shape), atol=4)


# Transparency


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_hidden_colours_stay_hidden(mode, background):
    options = {}
    if mode == "P":
        picture, options = Image.new("L", (8, 8), 5).convert("P"), {"transparency": 5}
    else:
        picture = Image.new("RGBA", (8, 8), (200, 0, 0, 0)).convert(mode)
    data = encoded(picture, "TIFF" if mode == "PA" else "PNG", **options)
    assert (pixels_of(data, background=background) == background).all()


def test_grey_already_multiplied_by_its_alpha():
    data = encoded(Image.new("LA", (1, 1), (64, 128)), "TIFF")
    extra_samples = struct.pack("<HHI", 338, 3, 1)
    decoded = images.decode(data.replace(extra_samples + b"\2", extra_samples + b"\1"))
    assert decoded.facts.mode == "La"
    assert decoded.pixels[0, 0].tolist() == [191, 191, 191]


def test_palette_with_an_alpha_for_each_entry():
    picture = Image.new("P", (2, 1))
    picture.putpalette([250, 0, 0, 0, 0, 250])
    picture.putdata([0, 1])
    data = encoded(picture, transparency=bytes([0, 128]))
    assert pixels_of(data)[0].tolist() == [[255, 255, 255], [127, 127, 252]]


def test_half_transparent_grey_of_16_bits():
    rows = b"\0" + struct.pack(">HH", 0, 0x8080)
    assert pixels_of(png(1, 1, 16, 4, rows))[0, 0].tolist() == [127, 127, 127]


@pytest.mark.parametrize(
    ("bits", "colour_type", "row", "transparent"),
    [
        (1, 0, b"\x40", struct.pack(">H", 0)),
        (2, 0, b"\x60", struct.pack(">H", 1)),
        (4, 0, b"\x5a", struct.pack(">H", 5)),
        (8, 0, b"\x05\x0a", struct.pack(">H", 5)),
        (16, 0, struct.pack(">2H", 500, 501), struct.pack(">H", 500)),
        (8, 2, bytes([1, 2, 3, 4, 5, 6]), struct.pack(">3H", 1, 2, 3)),
        (16, 2, struct.pack(">6H", 300, 600, 900, 4000, 5000, 6000), struct.pack(">3H", 300, 600, 900)),
    ],
)
def test_one_transparent_colour_in_every_bit_depth(bits, colour_type, row, transparent):
    pixels = pixels_of(png(2, 1, bits, colour_type, b"\0" + row, transparent), background=(9, 8, 7))
    assert pixels[0, 0].tolist() == [9, 8, 7]
    assert pixels[0, 1].tolist() != [9, 8, 7]


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (20, 10), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    for file_format in ("GIF", "WEBP", "PNG", "TIFF", "MPO"):
        options = {"lossless": True} if file_format == "WEBP" else {}
        decoded = images.decode(
            encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        )
        np.testing.assert_allclose(decoded.pixels[5, 5].astype(int), (255, 0, 0), atol=2)
        assert (decoded.facts.format, decoded.facts.frames) == (file_format, 3)


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_every_orientation_is_shown_upright(orientation, file_format):
    stored = [
        PHOTO,
        PHOTO[:, ::-1],
        PHOTO[::-1, ::-1],
        PHOTO[::-1],
        PHOTO.transpose(1, 0, 2),
        np.rot90(PHOTO, 1),
        np.rot90(PHOTO, 2).transpose(1, 0, 2),
        np.rot90(PHOTO, -1),
    ][orientation - 1]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(np.ascontiguousarray(stored), file_format, exif=exif_with(orientation), **options)
    np.testing.assert_array_equal(pixels_of(data), PHOTO)


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_unknown_orientation_is_ignored(orientation):
    np.testing.assert_array_equal(pixels_of(encoded(PHOTO, exif=exif_with(orientation))), PHOTO)


def test_garbage_exif_is_ignored_in_silence():
    good = encoded(PHOTO, "JPEG")
    entries = struct.pack("<HHHII", 2, 0x0112, 3, 9_000, 9_000) + struct.pack("<HHII", 0x010F, 2, 400, 70_000)
    for body in (b"garbage", b"II*\0\x08\0\0\0" + entries, b"II*\0\xff\xff\xff\xff", b"MM\0*" + bytes(40)):
        exif = b"Exif\0\0" + body
        data = good[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + good[2:]
        np.testing.assert_array_equal(pixels_of(data), pixels_of(good))


# Warnings


def warning_tiff():
    """A good TIFF file with a tag that points behind its end, at which Pillow warns."""
    data = bytearray(tiff(4, 4, 8, bytes(16)))
    struct.pack_into("<HHII", data, 8 + 2 + 12 * 6, 270, 2, 900, 10_000)
    return bytes(data)


def test_warnings_of_pillow_stay_inside_and_the_filters_as_they_were():
    with pytest.warns(UserWarning, match="larger than file"), Image.open(io.BytesIO(warning_tiff())) as image:
        image.load()
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(pixels_of, [warning_tiff()] * 200))
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="larger than file"), Image.open(io.BytesIO(warning_tiff())) as image:
        image.load()


# Refusals


@pytest.mark.parametrize(
    ("width", "height"),
    [(13_400, 13_400), (10_000, 10_000), (7_100, 7_100), (1, 1_000_000), (31_000, 200), (1, 201)],
)
def test_large_and_thin_images_are_refused_from_the_header(width, height):
    limit = Image.MAX_IMAGE_PIXELS
    assert reason_of(png(width, height, 8, 2)) == Refusal.TOO_LARGE
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_aspect_limit_itself_is_accepted():
    assert pixels_of(encoded(Image.new("L", (1, 200)))).shape == (200, 1, 3)


def test_lack_of_memory_is_a_refusal(monkeypatch):
    def fail(*_arguments):
        raise MemoryError

    monkeypatch.setattr(decoding, "_rgb", fail)
    assert reason_of(encoded(PHOTO)) == Refusal.TOO_LARGE


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.97])
def test_truncated_files_are_refused(file_format, share):
    data = encoded(PHOTO, file_format)
    reason = reason_of(data[: int(len(data) * share)])
    allowed = {Refusal.TRUNCATED, Refusal.CORRUPT} if file_format == "TIFF" else {Refusal.TRUNCATED}
    assert reason in allowed


def test_damage_is_not_called_truncation():
    data = bytearray(encoded(PHOTO))
    data[data.index(b"IDAT") + 20] ^= 0xFF
    assert reason_of(bytes(data)) == Refusal.CORRUPT


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Refusal.EMPTY),
        (b"\xff", Refusal.NOT_AN_IMAGE),
        (b"<!DOCTYPE html><html><body>404</body></html>", Refusal.NOT_AN_IMAGE),
        (bytes(1000), Refusal.NOT_AN_IMAGE),
        (b"\0\0\0\x20ftypavif" + bytes(20), Refusal.UNSUPPORTED_FORMAT),
        (b"\0\0\0\x18ftypheic" + bytes(20), Refusal.UNSUPPORTED_FORMAT),
        (b"\0\0\0\x18ftypmp42" + bytes(20), Refusal.NOT_AN_IMAGE),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), Refusal.UNSUPPORTED_FORMAT),
        (b"8BPS" + bytes(30), Refusal.UNSUPPORTED_FORMAT),
        (b"%PDF-1.7\n", Refusal.UNSUPPORTED_FORMAT),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', Refusal.UNSUPPORTED_FORMAT),
        (encoded(PHOTO, "ICO"), Refusal.UNSUPPORTED_FORMAT),
        (encoded(PHOTO, "PPM"), Refusal.UNSUPPORTED_FORMAT),
    ],
)
def test_what_is_no_readable_image_is_named(data, reason):
    assert reason_of(data) == reason


def test_unsupported_formats_are_called_by_name():
    assert "HEIC" in images.decode(b"\0\0\0\x18ftypheic" + bytes(20)).detail


MUTATED = {
    "PNG": encoded(PHOTO),
    "JPEG": encoded(PHOTO, "JPEG", exif=exif_with(6)),
    "GIF": encoded(PHOTO, "GIF", save_all=True, append_images=[Image.new("RGB", (64, 48))]),
    "TIFF": encoded(PHOTO, "TIFF", compression="tiff_lzw", exif=exif_with(3)),
    "TIFF16": encoded(Image.fromarray(RAMP), "TIFF"),
    "WEBP": encoded(PHOTO, "WEBP"),
    "BMP": encoded(Image.fromarray(PHOTO).convert("P"), "BMP"),
}


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(sorted(MUTATED)),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255), st.booleans()), max_size=6),
    cut=st.none() | st.floats(0, 1),
)
def test_no_mutation_raises(name, flips, cut):
    data = bytearray(MUTATED[name])
    for share, change, in_header in flips:
        reach = min(len(data), 200) if in_header else len(data)
        data[int(share * (reach - 1))] ^= change
    data = bytes(data if cut is None else data[: int(len(data) * cut)])
    decoded = images.decode(data)
    if isinstance(decoded, Refused):
        assert decoded.reason in Refusal
    else:
        resized = images.resize(decoded.pixels, 17, 23)
        assert (resized.shape, resized.dtype) == ((17, 23, 3), np.uint8)


# Files


def test_wrong_suffix_is_accepted_by_content(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(PHOTO, "JPEG"))
    assert images.prepare(path, 32, 40).shape == (32, 40, 3)


def test_a_link_to_a_file_is_read(tmp_path):
    (tmp_path / "store").write_bytes(b"content")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "store")
    assert images.read_bytes(tmp_path / "link.jpg") == b"content"


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    (tmp_path / "file.jpg").touch()
    expected = {
        tmp_path: Refusal.NOT_REGULAR,
        Path("/dev/zero"): Refusal.NOT_REGULAR,
        tmp_path / "missing.jpg": Refusal.MISSING,
        tmp_path / "dangling.jpg": Refusal.MISSING,
        tmp_path / "file.jpg" / "below.jpg": Refusal.MISSING,
        tmp_path / "zero\0byte.jpg": Refusal.MISSING,
        tmp_path / "circle.jpg": Refusal.IO_ERROR,
        tmp_path / ("long" * 100): Refusal.IO_ERROR,
        tmp_path / "file.jpg": Refusal.EMPTY,
    }
    assert {path: images.prepare(path, 8, 8).reason for path in expected} == expected


@pytest.mark.parametrize("swapped_after_the_first_look", [False, True])
def test_a_pipe_does_not_hang(tmp_path, monkeypatch, swapped_after_the_first_look):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "file").touch()
    if swapped_after_the_first_look:
        regular = (tmp_path / "file").stat()
        monkeypatch.setattr(Path, "stat", lambda _path, **_options: regular)
    results = []
    thread = threading.Thread(
        target=lambda: results.append(images.read_bytes(tmp_path / "pipe.jpg")), daemon=True
    )
    thread.start()
    thread.join(5)
    assert [result.reason for result in results] == [Refusal.NOT_REGULAR]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "no"), Refusal.PERMISSION),
        (FileNotFoundError(2, "vanished"), Refusal.MISSING),
        (OSError(5, "disk"), Refusal.IO_ERROR),
        (OSError("no number"), Refusal.IO_ERROR),
    ],
)
def test_errors_of_the_system(tmp_path, monkeypatch, error, reason):
    def fail(*_arguments):
        raise error

    (tmp_path / "photo.jpg").write_bytes(encoded(PHOTO, "JPEG"))
    monkeypatch.setattr(images.os, "open", fail)
    assert images.prepare(tmp_path / "photo.jpg", 8, 8).reason == reason


def test_a_file_that_grows_or_is_too_long(tmp_path, monkeypatch):
    (tmp_path / "long.png").write_bytes(encoded(PHOTO))
    short = tmp_path / "short.png"
    short.write_bytes(b"short")
    with monkeypatch.context() as patched:
        status = short.stat()
        patched.setattr(images.os, "fstat", lambda _descriptor: status)
        assert images.read_bytes(tmp_path / "long.png").reason == Refusal.IO_ERROR
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 4)
    assert images.read_bytes(short).reason == Refusal.TOO_LARGE


# Sizes, thumbnails, batches


def test_resize_to_the_same_size_is_the_identity():
    assert images.resize(PHOTO, 48, 64) is PHOTO


def test_resize_averages_what_it_makes_smaller():
    checkerboard = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    assert np.ptp(images.resize(checkerboard, 8, 8)) <= 4
    assert images.resize(checkerboard, 8, 4).mean() == pytest.approx(127.5, abs=2)


def test_thumbnails():
    small = images.thumbnails(np.stack([PHOTO, 255 - PHOTO]))
    assert (small.shape, small.dtype) == ((2, 768), np.float32)
    np.testing.assert_array_equal(small[0], images.resize(PHOTO, 16, 16).reshape(-1))
    assert images.thumbnails(np.empty((0, 8, 8, 3), np.uint8)).shape == (0, 768)


def test_encoders():
    np.testing.assert_array_equal(pixels_of(images.encode_png(PHOTO)), PHOTO)
    np.testing.assert_array_equal(pixels_of(images.encode_png(PHOTO[:, :, 0]))[:, :, 2], PHOTO[:, :, 0])
    assert pixels_of(images.encode_jpeg_thumbnail(PHOTO, 32)).shape == (24, 32, 3)
    assert pixels_of(images.encode_jpeg_thumbnail(PHOTO, 500)).shape == (48, 64, 3)


@pytest.fixture
def gallery(tmp_path):
    """Forty paths; every seventh is no image."""
    for index in range(40):
        content = b"no image" if index % 7 == 3 else encoded(np.full((9 + index, 12, 3), index * 5, np.uint8))
        (tmp_path / f"{index:02}.png").write_bytes(content)
    return images.find([tmp_path])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_keep_the_order(gallery, threads):
    for index, result in enumerate(images.prepare_many(gallery, 6, 5, threads=threads)):
        if index % 7 == 3:
            assert result.reason == Refusal.NOT_AN_IMAGE
        else:
            assert (result == index * 5).all()
            assert result.shape == (6, 5, 3)


def test_threads_look_ahead_only_so_far(gallery, monkeypatch):
    asked = []
    monkeypatch.setattr(images, "prepare", lambda path, *_rest: asked.append(path))
    results = images.prepare_many(gallery, 6, 5, threads=2)
    next(results)
    time.sleep(0.1)
    assert len(asked) == 16


def test_closing_drops_what_has_not_begun(gallery, monkeypatch):
    asked = []

    def slow(path, *_rest):
        time.sleep(0.02)
        asked.append(path)

    monkeypatch.setattr(images, "prepare", slow)
    results = images.prepare_many(gallery, 6, 5, threads=2)
    next(results)
    results.close()
    assert len(asked) < 8


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (224, 224), (5, 7)])
def test_prepare_is_decode_then_resize(tmp_path, size):
    data = encoded(PHOTO, "JPEG", exif=exif_with(6))
    (tmp_path / "photo.jpg").write_bytes(data)
    prepared = images.prepare(tmp_path / "photo.jpg", *size)
    np.testing.assert_array_equal(prepared, images.resize(pixels_of(data), *size))


def test_equal_files_give_equal_pixels(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(PHOTO, "JPEG"))
    first, *others = images.prepare_many([path] * 20, 20, 30, threads=4)
    assert all(np.array_equal(first, other) for other in others)


# Finding


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root, *paths):
    return [os.fsdecode(os.fsencode(path.relative_to(root))) for path in images.find(paths)]


def test_a_folder_gives_its_images_in_byte_order(tmp_path):
    touch(
        tmp_path, "b/2.PNG", "b/10.jpg", "a.jpeg", "Z.heic", "é.gif", "a/x/y.tif", "notes.txt", "b/card.json"
    )
    touch(tmp_path, ".hidden.jpg", ".cache/1.jpg", "b/.thumb/2.jpg")
    assert found(tmp_path, tmp_path) == ["Z.heic", "a.jpeg", "a/x/y.tif", "b/10.jpg", "b/2.PNG", "é.gif"]


def test_names_that_are_no_text_are_found(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.jpg")).write_bytes(encoded(PHOTO, "JPEG"))
    (path,) = images.find([tmp_path])
    assert images.prepare(path, 8, 8).shape == (8, 8, 3)


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "store/1.jpg", "farm/own.jpg", "farm/deep/2.jpg")
    (tmp_path / "farm/linked").symlink_to(tmp_path / "store")
    (tmp_path / "farm/up").symlink_to(tmp_path / "farm")
    (tmp_path / "farm/deep/root").symlink_to(tmp_path)
    (tmp_path / "farm/self.jpg").symlink_to("self.jpg")
    names = found(tmp_path, tmp_path / "farm")
    assert names[0] == "farm/deep/2.jpg"
    assert names[-3:] == ["farm/linked/1.jpg", "farm/own.jpg", "farm/self.jpg"]
    assert len(names) < 12


def test_what_is_named_is_returned_whatever_it_is(tmp_path):
    touch(tmp_path, "notes.txt", ".hidden.jpg", "a.jpg")
    paths = [tmp_path / name for name in ("missing.jpg", "notes.txt", ".hidden.jpg", "a.jpg")]
    assert images.find(paths) == paths
    assert images.find([*paths, tmp_path, str(paths[0])]) == paths


def test_patterns(tmp_path):
    touch(
        tmp_path, "one/b.jpg", "one/a.jpg", "two/deep/c.jpg", "two/.d.jpg", "literal[1].jpg", "literal1.jpg"
    )
    (tmp_path / "two/loop").symlink_to(tmp_path)
    assert found(tmp_path, tmp_path / "one/*.jpg") == ["one/a.jpg", "one/b.jpg"]
    assert found(tmp_path, tmp_path / "o*") == ["one/a.jpg", "one/b.jpg"]
    assert found(tmp_path, tmp_path / "t*/**/?.jpg") == ["two/deep/c.jpg"]
    assert found(tmp_path, tmp_path / "literal[1].jpg") == ["literal[1].jpg"]
    assert found(tmp_path, tmp_path / "none*.jpg") == ["none*.jpg"]
    assert found(tmp_path, tmp_path / "a**b") == ["a**b"]


def test_a_folder_that_cannot_be_listed_is_seen(tmp_path, monkeypatch):
    touch(tmp_path, "open/1.jpg", "closed/2.jpg")
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "no")
        return scandir(path)

    monkeypatch.setattr(images.os, "scandir", guarded)
    assert found(tmp_path, tmp_path) == ["closed", "open/1.jpg"]


# --- drafts ---------------------------------------------------------------------------------------------------------


def _photo(width: int, height: int, seed: int, smooth: int, subsampling: int, mode: str = "RGB") -> bytes:
    """A JPEG file of random blocks `smooth` pixels wide under noise: harder than photos."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (height // smooth + 1, width // smooth + 1, 3), dtype=np.uint8)
    image = Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(image, np.int16) + random.integers(-20, 21, (height, width, 3), dtype=np.int16)
    buffer = io.BytesIO()
    picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)
    picture.save(buffer, "JPEG", quality=88, subsampling=subsampling)
    return buffer.getvalue()


@pytest.mark.parametrize("side", [32, 64, 96, 224])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_drafts_stay_within_the_tolerance_that_is_stated(side, mode, subsampling):
    largest = 0
    for seed, (width, height) in enumerate([(1000, 752), (1608, 1204), (2400, 1800), (904, 1904)]):
        for smooth in (1, 12, 40):
            data = _photo(width, height, seed, smooth, subsampling, mode)
            exact = images.prepare_bytes(data, side, side).astype(int)
            draft = images.prepare_bytes(data, side, side, draft=True).astype(int)
            largest = max(largest, abs(exact - draft).max())
            assert abs(exact - draft).mean() < 0.6
    assert largest <= 4


def test_drafts_are_made_of_large_jpeg_files_only():
    small, large = _photo(500, 400, 0, 4, 0), _photo(1104, 1104, 0, 4, 0)
    assert np.array_equal(
        images.prepare_bytes(small, 64, 64), images.prepare_bytes(small, 64, 64, draft=True)
    )
    assert not np.array_equal(
        images.prepare_bytes(large, 64, 64), images.prepare_bytes(large, 64, 64, draft=True)
    )
