"""Static int8 of any convolutional ONNX network, plainly, by ONNX Runtime's own quantizer."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgetl.errors import CheckFailed
from edgetl.quantize.onnx import executed_operators, last_dense
from edgetl.quantize.onnx_int8 import IMAGES_AT_ONCE, quiet


class _Batches(CalibrationDataReader):  # type: ignore[misc] # the library has no types
    """Calibration images, some at a time."""

    def __init__(self, name: str, pixels: NDArray[np.uint8]) -> None:
        starts = range(0, len(pixels), IMAGES_AT_ONCE)
        self._batches: Iterator[dict[str, NDArray[np.uint8]]] = iter(
            [{name: pixels[start : start + IMAGES_AT_ONCE]} for start in starts]
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._batches, None)


def any_to_int8(model: onnx.ModelProto, pixels: NDArray[np.uint8]) -> onnx.ModelProto:
    """QDQ: uint8 activations per tensor, int8 weights per output channel, ranges from smallest to largest.

    pixels: calibration images, uint8 RGB [N, H, W, 3]. What stands before the first convolution stays float,
    and the last Dense layer with all behind it, as in our own files. Raises `CheckFailed` unless every
    convolution really runs in int8.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, prepared, made = (Path(folder) / f"{name}.onnx" for name in ("source", "prepared", "made"))
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared)
        _pool_by_name(graph)
        onnx.save(graph, prepared)
        quantize_static(
            prepared,
            made,
            _Batches(graph.graph.input[0].name, pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_outer(graph),
        )
        quantized: onnx.ModelProto = onnx.load(made)
    _shorten_names(quantized)
    wanted = sum(node.op_type == "Conv" for node in graph.graph.node)
    executed = executed_operators(quantized.SerializeToString())["QLinearConv"]
    if executed != wanted:
        raise CheckFailed(
            f"{executed} convolutions of a rival would run in int8 instead of {wanted}.",
            "This is a fault in the conversion; please report it, and leave out --student.",
        )
    return quantized


def _pool_by_name(model: onnx.ModelProto) -> None:
    """Means over a whole map, for which int8 has only the other word."""
    for node in model.graph.node:
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "ReduceMean" and attributes == {"axes": [2, 3], "keepdims": 1}:
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]


def _shorten_names(model: onnx.ModelProto) -> None:
    """Names are many of the bytes of a network with many small layers."""
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    made = [name for node in graph.node for name in node.output]
    inner = [name for name in (*made, *[tensor.name for tensor in graph.initializer]) if name not in kept]
    short = {name: f"{number:x}" for number, name in enumerate(inner)}
    for node in graph.node:
        node.name = ""
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = short[tensor.name]
    del graph.value_info[:]


def _outer(model: onnx.ModelProto) -> list[str]:
    """Nodes before the first convolution, and from the last Dense layer on."""
    nodes: Sequence[onnx.NodeProto] = model.graph.node
    first = next(number for number, node in enumerate(nodes) if node.op_type == "Conv")
    last = next(number for number, node in enumerate(nodes) if node.name == last_dense(model))
    return [node.name for node in (*nodes[:first], *nodes[last:])]
