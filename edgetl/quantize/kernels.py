"""The int8 numbers of exported files, as they are in them."""

from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import TensorProto

from edgetl.quantize.first_layer import without_fourth_channel
from edgetl.quantize.tflite import convolutions_of, graph_of

Kernel = NDArray[np.int8]


def onnx_kernels(model: onnx.ModelProto) -> list[Kernel]:
    """[O, I, 3, 3] of each int8 convolution."""
    return [
        without_fourth_channel(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4
    ]


def tflite_kernels(content: bytes) -> list[Kernel]:
    """[O, 3, 3, I] of each int8 convolution."""
    graph = graph_of(content)
    main = graph.subgraphs[0]
    weights: list[Any] = [main.tensors[operator.inputs[1]] for operator in convolutions_of(graph)]
    return [
        np.frombuffer(_bytes(content, graph.buffers[tensor.buffer]), np.int8).reshape(tensor.shape)
        for tensor in weights
        if tensor.type == schema.TensorType.INT8
    ]


def _bytes(content: bytes, buffer: Any) -> Any:
    """Of a constant, which may lie in the tree or, as the quantizer likes for large ones, behind it."""
    return content[buffer.offset : buffer.offset + buffer.size] if buffer.data is None else buffer.data
