"""What the last layer of an ONNX file sees, as a second output; in memory, without the `onnx` package.

Serialized protocol buffers can be joined: a message that comes twice is merged, and a repeated field gets the
entries of both (protobuf.dev, encoding, "last one wins"). So a model gets another output by appending a model
that holds nothing but that output. Field numbers are those of onnx.proto3.
"""

from edgetl.engines.messages import message, parts
from edgetl.errors import ModelFolderError

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_NODE_INPUT, _NODE_OPERATION = 1, 4
_VALUE_NAME = 1
_LAYERS = (b"Gemm", b"MatMul")  # what a Dense layer is in ONNX


def with_embedding(content: bytes) -> tuple[bytes, str]:
    """The file with one more output, and its name: what goes into the last Dense layer.

    Raises `ModelFolderError` where there is no such layer.
    """
    embedding = b""
    for graph in parts(memoryview(content), _MODEL_GRAPH):
        for node in parts(graph, _GRAPH_NODE):
            if bytes(next(parts(node, _NODE_OPERATION), b"")) in _LAYERS:
                embedding = bytes(next(parts(node, _NODE_INPUT), b""))
    if not embedding:
        raise ModelFolderError(
            "The network has no Dense layer to take embeddings from.", "Drop --embeddings."
        )
    output = message(_GRAPH_OUTPUT, message(_VALUE_NAME, embedding))
    return content + message(_MODEL_GRAPH, output), embedding.decode()
