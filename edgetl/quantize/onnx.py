"""ONNX models with fewer bits. Every function takes a float model and returns a new one."""

import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgetl.quantize.recipe import Recipe

LEAST_WEIGHTS = 1024  # smaller tensors stay float: nothing to gain
WEIGHTED = ("Conv", "MatMul", "Gemm")


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """float16 weights and activations; uint8 in and float32 out stay. On x86 this saves space, not time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of each weight below 6e-8 that becomes a tiny number
        half: onnx.ModelProto = convert_float_to_float16(copy_of(model), keep_io_types=True)
    return half


def to_int8_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """int8 weights, a scale per output channel, float32 arithmetic: a quarter of the size, hardly a loss."""
    quantized = copy_of(model)
    graph = quantized.graph
    last = last_dense(model)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type in WEIGHTED and node.name != last and node.input[1] in weights:
            tensor = weights.pop(node.input[1])
            if np.prod(tensor.dims) >= LEAST_WEIGHTS:
                axis = 0 if node.op_type == "Conv" else 1
                graph.initializer.remove(tensor)
                graph.initializer.extend(_int8_tensors(tensor, axis))
                names = [f"{tensor.name}/{part}" for part in ("int8", "scale", "zero")]
                nodes.append(helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return quantized


def last_dense(model: onnx.ModelProto) -> str:
    """The name of the node that makes the logits; empty for a trunk without a head.

    It stays float in every precision: it is a thousandth of the work, and the feature scales folded into it
    make its inputs so unequal that one scale per output would cost 10 dB.
    """
    names: list[str] = [node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    return names[-1] if names else ""


def _int8_tensors(tensor: onnx.TensorProto, axis: int) -> list[onnx.TensorProto]:
    """Symmetric int8 values, scales and zero points along `axis`."""
    values = numpy_helper.to_array(tensor)
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.maximum(np.abs(values).max(axis=others, keepdims=True), 1e-12) / 127
    levels = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
    return [
        numpy_helper.from_array(levels, f"{tensor.name}/int8"),
        numpy_helper.from_array(scale.ravel().astype(np.float32), f"{tensor.name}/scale"),
        numpy_helper.from_array(np.zeros(scale.size, np.int8), f"{tensor.name}/zero"),
    ]


def to_int8(model: onnx.ModelProto, pixels: NDArray[np.uint8]) -> onnx.ModelProto:
    """Static int8 as `onnx_int8` makes it without repairs.

    pixels: calibration images, uint8 RGB [N, H, W, 3]. The last Dense layer, if any, stays float.
    Raises `CheckFailed` unless every convolution really runs in int8.
    """
    from edgetl.quantize.onnx_int8 import calibrate  # which uses this module

    return calibrate(model, pixels).build(Recipe())


def executed_operators(content: bytes) -> Counter[str]:
    """What ONNX Runtime really executes after its optimizations: operator names with counts."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath)
    return Counter(node.op_type for node in optimized.graph.node)


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """An independent copy."""
    duplicate = onnx.ModelProto()
    duplicate.CopyFrom(model)
    return duplicate
