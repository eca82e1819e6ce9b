"""What the last layer of an ONNX file sees, as a second output; in memory, without the `onnx` package.

Serialized protocol buffers can be joined: a message that comes twice is merged, and a repeated field gets the
entries of both (protobuf.dev, encoding, "last one wins"). So a model gets another output by appending a model
that holds nothing but that output. Field numbers are those of onnx.proto3.
"""

from collections.abc import Iterator

from edgetl.errors import ModelFolderError

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_NODE_INPUT, _NODE_OPERATION = 1, 4
_VALUE_NAME = 1
_LAYERS = (b"Gemm", b"MatMul")  # what a Dense layer is in ONNX
_SIZES = {1: 8, 5: 4}  # of the wire types with a fixed size
_LENGTH = 2


def with_embedding(content: bytes) -> tuple[bytes, str]:
    """The file with one more output, and its name: what goes into the last Dense layer.

    Raises `ModelFolderError` where there is no such layer.
    """
    embedding = b""
    for graph in _parts(memoryview(content), _MODEL_GRAPH):
        for node in _parts(graph, _GRAPH_NODE):
            if bytes(next(_parts(node, _NODE_OPERATION), b"")) in _LAYERS:
                embedding = bytes(next(_parts(node, _NODE_INPUT), b""))
    if not embedding:
        raise ModelFolderError(
            "The network has no Dense layer to take embeddings from.", "Drop --embeddings."
        )
    output = _message(_GRAPH_OUTPUT, _message(_VALUE_NAME, embedding))
    return content + _message(_MODEL_GRAPH, output), embedding.decode()


def _message(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    head = bytearray()
    while value > 127:
        head.append(value & 127 | 128)
        value >>= 7
    return bytes([*head, value])


def _parts(data: memoryview, wanted: int) -> Iterator[memoryview]:
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
