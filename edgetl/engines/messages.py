"""Serialized protocol buffers without the `protobuf` package: what a device reads of an ONNX file.

protobuf.dev, encoding: a field is a key (its number and its wire type) and a value.
"""

from collections.abc import Iterator

_SIZES = {1: 8, 5: 4}  # of the wire types with a fixed size
_LENGTH = 2


def message(number: int, body: bytes) -> bytes:
    """A field that holds `body`."""
    return _varint(number << 3 | _LENGTH) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    head = bytearray()
    while value > 127:
        head.append(value & 127 | 128)
        value >>= 7
    return bytes([*head, value])


def parts(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """The bytes of every field of that number; fields of other kinds are passed over."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        match key & 7:
            case 0:
                _, at = _read_varint(data, at)
            case 2:
                size, at = _read_varint(data, at)
                if key >> 3 == wanted:
                    yield data[at : at + size]
                at += size
            case wire:
                at += _SIZES.get(wire, len(data))


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            break
    return value, at
