"""Exported files stored compressed: smaller to send and to keep, unpacked in memory when they are opened.

The same content gives the same bytes in every process: fixed levels, one thread, no names and no times.
"""

import gzip
import io
import zlib
from contextlib import AbstractContextManager
from typing import assert_never

from edgetl.choices import Packing
from edgetl.errors import ModelFolderError, needing

GZ_LEVEL = 9
ZST_LEVEL = 19
_LARGEST_MODEL = 2**31  # bytes; neither ONNX nor TFLite files can be larger
_ZST_WINDOW = 2**23  # bytes, of our level; a reader needs no more memory beside the content


def pack(content: bytes, packing: Packing) -> bytes:
    """`content` compressed. Raises `MissingExtra` when the package for it is not installed."""
    match packing:
        case Packing.GZ:
            packed = io.BytesIO()
            # Unlike gzip.compress, this writes the same header with every version of Python.
            with gzip.GzipFile("", "wb", GZ_LEVEL, packed, mtime=0) as file:
                file.write(content)
            return packed.getvalue()
        case Packing.ZST:
            with _needing_zst():
                import zstandard
            return zstandard.ZstdCompressor(level=ZST_LEVEL, write_checksum=True).compress(content)
        case never:
            assert_never(never)


def packer(packing: Packing) -> str:
    """What `pack` uses, for the card. Raises `MissingExtra` like it."""
    match packing:
        case Packing.GZ:
            return f"zlib {zlib.ZLIB_RUNTIME_VERSION}, level {GZ_LEVEL}"
        case Packing.ZST:
            with _needing_zst():
                import zstandard
            return f"zstandard {zstandard.__version__}, level {ZST_LEVEL}"
        case never:
            assert_never(never)


def unpack(packed: bytes, packing: Packing, size_bytes: int, name: str) -> bytes:
    """The content, which has `size_bytes`; no more than that is ever made. `name` is for messages.

    Raises `ModelFolderError` when the stream is damaged or holds another number of bytes, `MissingExtra` when
    the package for it is not installed.
    """
    if not 0 <= size_bytes < _LARGEST_MODEL:
        raise _refusal(name, f"its card says it unpacks to {size_bytes} bytes, which no model has")
    match packing:
        case Packing.GZ:
            return _from_gz(packed, size_bytes, name)
        case Packing.ZST:
            return _from_zst(packed, size_bytes, name)
        case never:
            assert_never(never)


def _from_gz(packed: bytes, size_bytes: int, name: str) -> bytes:
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)  # 16: with the header and checksum of gzip
    try:
        content = stream.decompress(packed, size_bytes + 1)
    except zlib.error as error:
        raise _refusal(name, f"its gzip stream is damaged ({error})") from error
    if len(content) > size_bytes:
        raise _refusal(name, f"it unpacks to more than the {size_bytes} bytes that its card says")
    if not stream.eof or stream.unused_data or len(content) != size_bytes:
        raise _refusal(name, f"its gzip stream is not that of one file of {size_bytes} bytes")
    return content


def _from_zst(packed: bytes, size_bytes: int, name: str) -> bytes:
    with _needing_zst():
        import zstandard
    try:
        said = zstandard.frame_content_size(packed)
        if said != size_bytes:  # the memory is taken by what the stream says
            raise _refusal(name, f"it unpacks to {said} bytes; its card says {size_bytes}")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZST_WINDOW)
        return decompressor.decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _refusal(name, f"its Zstandard stream is damaged ({error})") from error


def _needing_zst() -> AbstractContextManager[None]:
    return needing("zst", "A .zst file", "export with --packed gz, which needs nothing")


def _refusal(name: str, why: str) -> ModelFolderError:
    return ModelFolderError(
        f"{name} cannot be unpacked: {why}.", "Export the model again, or restore the file."
    )
