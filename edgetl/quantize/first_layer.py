"""A fourth colour of zeros for the first int8 convolution of an ONNX file: the same integers, sooner.

ONNX Runtime's fast int8 convolution takes its input channels in fours (MlasConvSym); three go through a
slower one, which took a fifth of the time of a narrow network. Subtracting three means is slow as well, three
numbers at a time. One Gemm does both: it scales, shifts, and adds the fourth colour.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

COLOURS, CHANNELS = 3, 4
WIDENED = "/four"  # end of the name of the kernel [O, 4, 3, 3] whose last input channel is all zeros
_TO_FIRST = [0, 3, 1, 2]


def add_fourth_channel(model: onnx.ModelProto, convolution: str) -> None:
    """Change an int8 network in place, from its image uint8 RGB [N, H, W, 3] to the node `convolution`.

    Between them stand a Cast, a Transpose, and Add, Sub or Mul with a constant for each colour or for all;
    then QuantizeLinear and DequantizeLinear. Raises `ValueError` for anything else, and leaves a convolution
    with float weights as it is.
    """
    graph = model.graph
    made_by = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    node = next(one for one in graph.node if one.name == convolution)
    if node.input[1] in constants:
        return
    levels, kernel = made_by[node.input[0]], made_by[node.input[1]]
    rounding = made_by[levels.input[0]]
    before = _up_to(made_by, graph.input[0].name, rounding.input[0])
    factor, shift = _factor_and_shift(before, constants)
    height, width = (side.dim_value for side in graph.input[0].type.tensor_type.shape.dim[1:3])
    parts = {
        "image/flat": np.array([-1, COLOURS], np.int64),
        "image/factor": np.pad(np.diag(factor), ((0, 0), (0, 1))),
        "image/shift": np.append(shift, np.float32(0)),
        "image/map": np.array([-1, height, width, CHANNELS], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in parts.items())
    nodes = (
        helper.make_node("Cast", [graph.input[0].name], ["image/float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Reshape", ["image/float", "image/flat"], ["image/colours"]),
        helper.make_node("Gemm", ["image/colours", "image/factor", "image/shift"], ["image/four"]),
        helper.make_node("Reshape", ["image/four", "image/map"], ["image/last"]),
        helper.make_node("Transpose", ["image/last"], ["image/first"], perm=_TO_FIRST),
    )
    narrow = constants[kernel.input[0]]
    kernel.input[0] += WIDENED
    narrow.CopyFrom(numpy_helper.from_array(_widened(narrow), kernel.input[0]))
    rounding.input[0] = "image/first"
    for old in before:
        graph.node.remove(old)
    for number, new in enumerate(nodes):
        graph.node.insert(number, new)
    _forget_unused(graph)


def without_fourth_channel(kernel: onnx.TensorProto) -> NDArray[Any]:
    """The numbers of a kernel [O, I, 3, 3] that mean something."""
    values: NDArray[Any] = numpy_helper.to_array(kernel)
    return values[:, :COLOURS] if kernel.name.endswith(WIDENED) else values


def _up_to(made_by: dict[str, onnx.NodeProto], start: str, end: str) -> list[onnx.NodeProto]:
    """The nodes from one tensor to another, in their order."""
    chain: list[onnx.NodeProto] = []
    while end != start:
        chain.insert(0, made_by[end])
        end = chain[0].input[0]
    return chain


def _factor_and_shift(
    nodes: Sequence[onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the nodes do with each colour [3]: value * factor + shift."""
    factor, shift = np.ones(COLOURS, np.float32), np.zeros(COLOURS, np.float32)
    for node in nodes:
        if node.op_type in {"Cast", "Transpose"}:
            continue
        if node.op_type not in {"Add", "Sub", "Mul"} or node.input[1] not in constants:
            raise ValueError(f"{node.op_type} {node.name} stands before the first convolution")
        constant = numpy_helper.to_array(constants[node.input[1]]).ravel()
        if node.op_type == "Mul":
            factor, shift = factor * constant, shift * constant
        else:
            shift = shift + constant if node.op_type == "Add" else shift - constant
    return factor, shift


def _widened(kernel: onnx.TensorProto) -> NDArray[np.int8]:
    """[O, 3, 3, 3] -> [O, 4, 3, 3]."""
    wide: NDArray[np.int8] = np.pad(numpy_helper.to_array(kernel), ((0, 0), (0, 1), (0, 0), (0, 0)))
    return wide


def _forget_unused(graph: onnx.GraphProto) -> None:
    """Constants that nothing reads, and shapes of tensors that nothing makes or that changed."""
    read = {name for node in graph.node for name in node.input}
    for tensor in [one for one in graph.initializer if one.name not in read]:
        graph.initializer.remove(tensor)
    del graph.value_info[:]
