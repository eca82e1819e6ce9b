"""ONNX models with fewer bits. Every function takes a float model and returns a new one."""

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgetl.errors import CheckFailed
from edgetl.progress import Advance, task

IMAGES_AT_ONCE = 8
LEAST_WEIGHTS = 1024  # smaller tensors stay float: nothing to gain
WEIGHTED = ("Conv", "MatMul", "Gemm")
# Without Relu, ranges are set before it: half of every range is wasted on negative numbers, and activations
# are rounded twice.
QUANTIZED = ("Conv", "Relu", "MaxPool", "MatMul", "Gemm")


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


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Hands calibration images to ONNX Runtime's calibrator."""

    def __init__(self, name: str, pixels: NDArray[np.uint8], advance: Advance) -> None:
        self._batches = self._in_batches(name, pixels, advance)

    def _in_batches(
        self, name: str, pixels: NDArray[np.uint8], advance: Advance
    ) -> Iterator[dict[str, NDArray[np.uint8]]]:
        for start in range(0, len(pixels), IMAGES_AT_ONCE):
            batch = pixels[start : start + IMAGES_AT_ONCE]
            yield {name: batch}
            advance(len(batch))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next batch, or None."""
        return next(self._batches, None)


def to_int8(model: onnx.ModelProto, pixels: NDArray[np.uint8]) -> onnx.ModelProto:
    """Static int8 as QDQ nodes: unsigned activations per tensor, signed weights per channel.

    pixels: calibration images, uint8 RGB [N, H, W, 3]. The last Dense layer, if any, stays float.
    Raises `CheckFailed` unless every convolution really runs in int8.
    """
    with task("calibrating ONNX int8", len(pixels)) as advance, _quiet():
        quantized = _quantize(model, _Calibration(model.graph.input[0].name, pixels, advance))
    executed = executed_operators(quantized.SerializeToString())
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    if executed["QLinearConv"] != convolutions:
        raise CheckFailed(
            f"Only {executed['QLinearConv']} of {convolutions} convolutions would run in int8.",
            "This is a fault in the conversion; please report it with the model's card.json.",
        )
    return quantized


def _quantize(model: onnx.ModelProto, calibration: CalibrationDataReader) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (
            Path(folder) / name for name in ("source.onnx", "prepared.onnx", "int8.onnx")
        )
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        dense = last_dense(onnx.load(prepared))  # preparing renames what it fuses
        quantize_static(
            prepared,
            target,
            calibration,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=[dense] if dense else [],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(target)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer logs through the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


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
