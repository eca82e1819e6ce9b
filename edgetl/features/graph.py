"""The frozen part of VGG16 as an ONNX graph with the outputs that training wants."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.utils import Extractor

from edgetl.card import InputSpec
from edgetl.config import Block, Head
from edgetl.transfer.layout import parts_of
from edgetl.vgg16 import BLOCK_WIDTHS, blocks_up_to, conv_shapes, grid_side, map_size

OPSET, IR_VERSION = 17, 8
INPUT = "image"
_TO_FIRST, _TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


@dataclass(frozen=True, eq=False)
class TrunkWeights:
    """HWIO kernels and biases, float32, of the trunk's convolutions in order, for RGB input."""

    kernels: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each convolution."""
        return tuple(kernel.shape[3] for kernel in self.kernels)

    @property
    def last(self) -> Block:
        """The block that these weights end with."""
        return next(block for block in Block if len(conv_shapes(block)) >= len(self.kernels))

    @cached_property
    def digests(self) -> dict[Block, str]:
        """For each block, the SHA-256 of all weights up to it."""
        digest, found = hashlib.sha256(), {}
        layers = zip(self.kernels, self.biases, strict=True)
        for block in blocks_up_to(self.last):
            for kernel, bias in itertools.islice(layers, len(BLOCK_WIDTHS[block])):
                digest.update(np.ascontiguousarray(kernel).data)
                digest.update(np.ascontiguousarray(bias).data)
            found[block] = digest.hexdigest()
        return found


def maps_of(block: Block) -> str:
    """The output with the activations [N, h, w, C] after a block."""
    return f"maps_{block}"


def averages_of(block: Block) -> str:
    """The output with the averages [N, F] of a block, laid out as `transfer.layout` says."""
    return f"averages_{block}"


@dataclass
class _Drawing:
    """A graph that is being drawn."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """A node with one output, whose name is returned."""
        output = name or f"{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def constant(self, value: NDArray[Any]) -> str:
        """The name of a constant."""
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


def trunk_graph(weights: TrunkWeights, spec: InputSpec, last: Block) -> onnx.ModelProto:
    """uint8 RGB [N, H, W, 3] -> maps and averages of all blocks up to `last`, float32.

    See `only` for the part of it that is wanted.
    """
    drawing = _Drawing()
    value = _preprocess(drawing, spec)
    outputs: list[str] = []
    layers = zip(weights.kernels, weights.biases, strict=True)
    for block in blocks_up_to(last):
        for _ in BLOCK_WIDTHS[block]:
            kernel, bias = next(layers)
            constants = drawing.constant(kernel.transpose(3, 2, 0, 1)), drawing.constant(bias)
            value = drawing.add("Conv", value, *constants, kernel_shape=[3, 3], pads=[1] * 4)
            value = drawing.add("Relu", value)
        value = drawing.add("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
        outputs.append(drawing.add("Transpose", value, name=maps_of(block), perm=_TO_LAST))
        pooled = _pool(drawing, value, spec, block)
        outputs.append(drawing.add("Concat", *pooled, name=averages_of(block), axis=1))
    return _finish(drawing, spec, outputs)


def only(graph: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The part that leads to these outputs: ONNX Runtime would compute every node, wanted or not."""
    part: onnx.ModelProto = Extractor(shape_inference.infer_shapes(graph)).extract_model([INPUT], list(names))
    return part


def continuing(graph: onnx.ModelProto, shape: tuple[int, int, int], start: Block) -> onnx.ModelProto:
    """The part of a trunk graph, quantized or not, above `start`: takes its float32 maps [N, *shape].

    A quantized graph rounds its own maps to themselves, so nothing differs from going on without a stop.
    """
    made_by = {output: node for node in graph.graph.node for output in node.output}
    value = made_by[maps_of(start)].input[0]
    while made_by[value].op_type in ("DequantizeLinear", "QuantizeLinear"):
        value = made_by[value].input[0]
    above = [block for block in Block if block > start]
    names = {output.name for output in graph.graph.output}
    wanted = [name for block in above for name in (maps_of(block), averages_of(block)) if name in names]
    part = Extractor(shape_inference.infer_shapes(graph)).extract_model([value], wanted)
    del part.graph.input[:]
    part.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", *shape]))
    part.graph.node.insert(0, helper.make_node("Transpose", [INPUT], [value], perm=_TO_FIRST))
    continued: onnx.ModelProto = part
    return continued


def _preprocess(drawing: _Drawing, spec: InputSpec) -> str:
    value = drawing.add("Transpose", drawing.add("Cast", INPUT, to=TensorProto.FLOAT), perm=_TO_FIRST)
    mean = np.array(spec.mean_rgb, np.float32).reshape(1, 3, 1, 1)
    centred = drawing.add("Sub", value, drawing.constant(mean))
    return drawing.add("Mul", centred, drawing.constant(np.array(spec.scale, np.float32)))


def _pool(drawing: _Drawing, value: str, spec: InputSpec, block: Block) -> list[str]:
    """Flat averages and maxima of [N, C, h, w]: each as Keras flattens it, positions before channels."""
    pooled = []
    height, width = map_size(spec.height, spec.width, block)
    for part in parts_of(spec, block):
        if part.head is Head.GAP:
            found = drawing.add("GlobalAveragePool", value)
        elif part.head is Head.MAX:
            found = drawing.add("GlobalMaxPool", value)
        else:
            (kernel_y, stride_y), (kernel_x, stride_x) = grid_side(height), grid_side(width)
            found = drawing.add(
                "AveragePool", value, kernel_shape=[kernel_y, kernel_x], strides=[stride_y, stride_x]
            )
        last = drawing.add("Transpose", found, perm=_TO_LAST)
        pooled.append(drawing.add("Flatten", last))
    return pooled


def _finish(drawing: _Drawing, spec: InputSpec, outputs: list[str]) -> onnx.ModelProto:
    image = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", spec.height, spec.width, 3])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(drawing.nodes, "trunk", [image], values, drawing.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
