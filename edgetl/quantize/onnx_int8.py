"""Static int8 ONNX: calibrated once, then quantized for any recipe in well under a second."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgetl.errors import CheckFailed
from edgetl.progress import task
from edgetl.quantize.first_layer import add_fourth_channel
from edgetl.quantize.onnx import copy_of, executed_operators, last_dense
from edgetl.quantize.ranges import Activation, tap_means
from edgetl.quantize.recipe import Recipe

IMAGES_AT_ONCE = 8
# Without Relu, ranges are set before it: half of every range is wasted on negative numbers, and activations
# are rounded twice.
QUANTIZED = ("Conv", "Relu", "MaxPool", "MatMul", "Gemm")
_SAME_VALUES = ("MaxPool", "Transpose", "Reshape", "Flatten")  # what comes out went in
_INT32 = np.iinfo(np.int32)

Ranges = dict[str, tuple[np.float32, np.float32]]  # tensor -> smallest and largest value


@dataclass(frozen=True)
class Convolution:
    """A 3x3 convolution and its ReLU, by the names that the graph gives them."""

    node: str
    relu: str
    kernel: str  # constant [O, I, 3, 3]
    bias: str  # constant [O]; empty for none: the converter leaves out those that are zero
    source: str  # the tensor it reads
    output: str  # the tensor behind the ReLU
    channels: int  # O


@dataclass(frozen=True, eq=False)
class OnnxQuantizer:
    """A float network with all that calibration saw in it. `calibrate` makes it; nothing changes it."""

    graph: onnx.ModelProto
    convolutions: tuple[Convolution, ...]
    ranges: Ranges  # of every tensor that may be quantized
    activations: tuple[Activation, ...]  # behind each convolution's ReLU
    tap_means: tuple[NDArray[np.float64], ...]  # [I, 3, 3] of what each convolution reads, padding included

    def build(self, recipe: Recipe) -> onnx.ModelProto:
        """QDQ: uint8 activations per tensor, int8 weights per output channel; the last Dense layer is float.

        `recipe.reduced` keeps weights within -64..64. x86-64 without VNNI multiplies pairs of unsigned and
        signed bytes and adds each pair in 16 bits (vpmaddubsw, which saturates) before it widens the sums to
        32 bits; 255 * 64 * 2 = 32640 is below 32768, so with any image no sum saturates, and the integers are
        those of every other CPU.

        Raises `ValueError` for layers that do not exist, and `CheckFailed` unless exactly the convolutions
        that are not to stay float really run in int8.
        """
        if list(recipe.float_layers) != sorted(set(recipe.float_layers) & set(range(len(self.convolutions)))):
            raise ValueError(
                f"float layers {recipe.float_layers}: there are {len(self.convolutions)}, from 0"
            )
        int8 = [self.convolutions[i] for i in self._int8_layers(recipe)]
        source = copy_of(self.graph)
        _shield(source, [self.convolutions[number] for number in recipe.float_layers])
        if recipe.bias_corrected:
            _complete_biases(source, int8)
        quantized = self._quantize(source, recipe)
        if recipe.bias_corrected:
            self._correct_biases(quantized, recipe)
        add_fourth_channel(quantized, self.convolutions[0].node)
        _check_executed(quantized, len(int8))
        return quantized

    def _int8_layers(self, recipe: Recipe) -> list[int]:
        return [number for number in range(len(self.convolutions)) if number not in recipe.float_layers]

    def _quantize(self, source: onnx.ModelProto, recipe: Recipe) -> onnx.ModelProto:
        dense = last_dense(source)
        floats = [self.convolutions[number] for number in recipe.float_layers]
        excluded = [name for layer in floats for name in (layer.node, layer.relu)]
        with quiet():
            quantizer = QDQQuantizer(
                source,
                per_channel=True,
                reduce_range=recipe.reduced,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=_tensors_data(self._clipped() if recipe.clipped else self.ranges),
                nodes_to_quantize=[],
                nodes_to_exclude=[*excluded, dense] if dense else excluded,
                op_types_to_quantize=list(QUANTIZED),
                extra_options={},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        quantized: onnx.ModelProto = quantizer.model.model
        return quantized

    def _clipped(self) -> Ranges:
        """Ranges behind ReLUs that end where the expected error is least; they begin at 0 as before.

        Pooled or laid out otherwise, the numbers are the same and get the same range: behind a quantized ReLU
        the quantizer does so anyway, but behind one that stays float a pooled map has a range of its own.
        """
        made_by = {output: node for node in self.graph.graph.node for output in node.output}
        clipped = dict(self.ranges)
        highs = {
            layer.output: np.float32(seen.clipped_high())
            for layer, seen in zip(self.convolutions, self.activations, strict=True)
        }
        for name, (low, high) in self.ranges.items():
            origin = name
            while origin not in highs and origin in made_by and made_by[origin].op_type in _SAME_VALUES:
                origin = made_by[origin].input[0]
            if origin in highs:
                clipped[name] = low, min(high, highs[origin])
        return clipped

    def _correct_biases(self, quantized: onnx.ModelProto, recipe: Recipe) -> None:
        """Take from every bias the mean error that rounding the weights makes.

        Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
        section 4.2: E[W' x] - E[W x] = (W' - W) E[x]. Here E[x] is measured, for each tap of the kernel.
        """
        before, after = _constants(self.graph), _constants(quantized)
        nodes = {node.name: node for node in quantized.graph.node}
        made_by = {output: node for node in quantized.graph.node for output in node.output}
        for number in self._int8_layers(recipe):
            layer = self.convolutions[number]
            dequantized = [made_by[name] for name in nodes[layer.node].input[1:]]  # the kernel and the bias
            levels, scale = (_array(after[name]) for name in dequantized[0].input[:2])
            rounding = levels * scale[:, None, None, None] - _array(before[layer.kernel])
            target, step = (after[name] for name in dequantized[1].input[:2])
            bias = _array(before[layer.bias]) if layer.bias else np.zeros(layer.channels)
            corrected = bias - np.einsum("oiyx,iyx->o", rounding, self.tap_means[number])
            rounded = np.clip(np.rint(corrected / _array(step)), _INT32.min, _INT32.max).astype(np.int32)
            target.CopyFrom(numpy_helper.from_array(rounded, target.name))


def calibrate(model: onnx.ModelProto, pixels: NDArray[np.uint8]) -> OnnxQuantizer:
    """Run calibration images, uint8 RGB [N, H, W, 3], through a float network of ours, once.

    Every convolution of it is 3x3, keeps the size, and feeds one ReLU. The ranges are those of ONNX Runtime's
    own calibration to the last bit: same operators, same optimizations (none), same number of images at once.
    Raises `ValueError` for other networks or arrays, and when numbers are met that are not finite.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) == 0:
        raise ValueError(f"calibration needs uint8 [N, H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
    prepared = _prepared(model)
    convolutions = _convolutions(prepared)
    tensors = _quantizable(prepared)
    shown = list(dict.fromkeys(name for layer in convolutions for name in (layer.source, layer.output)))
    session = _watching(prepared, tensors, shown)
    activations = tuple(Activation(layer.channels) for layer in convolutions)
    extremes: list[NDArray[np.float32]] = []
    sums: dict[str, NDArray[np.float64]] = {}
    with task("calibrating ONNX int8", len(pixels)) as advance:
        for start in range(0, len(pixels), IMAGES_AT_ONCE):
            batch = pixels[start : start + IMAGES_AT_ONCE]
            found = session.run(None, {prepared.graph.input[0].name: batch})
            extremes.append(np.array(found[: 2 * len(tensors)], np.float32))
            values = dict(zip(shown, found[2 * len(tensors) :], strict=True))
            for layer, seen in zip(convolutions, activations, strict=True):
                seen.add(values[layer.output])
            for name in {layer.source for layer in convolutions}:
                sums[name] = sums.get(name, 0) + values[name].sum(axis=0, dtype=np.float64)
            advance(len(batch))
    means = tuple(tap_means(sums[layer.source] / len(pixels)) for layer in convolutions)
    return OnnxQuantizer(prepared, convolutions, _ranges(tensors, extremes), activations, means)


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants folded, shapes known. Through files: the library spoils a model that is given in memory."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, prepared = Path(folder) / "source.onnx", Path(folder) / "prepared.onnx"
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        loaded: onnx.ModelProto = load_model_with_shape_infer(prepared)
    return loaded


def _convolutions(model: onnx.ModelProto) -> tuple[Convolution, ...]:
    constants = _constants(model)
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        shape = list(constants[node.input[1]].dims)
        operators = [reader.op_type for reader in readers.get(node.output[0], [])]
        if shape[2:] != [3, 3] or operators != ["Relu"]:
            raise ValueError(f"{node.name}: a convolution is {shape} and feeds {operators}, not one Relu")
        (relu,) = readers[node.output[0]]
        source, kernel, bias = (*node.input, "")[:3]
        found.append(Convolution(node.name, relu.name, kernel, bias, source, relu.output[0], shape[0]))
    return tuple(found)


def _quantizable(model: onnx.ModelProto) -> list[str]:
    """The float tensors around the operators that are quantized, constants apart."""
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    floats -= set(_constants(model))
    nodes = [node for node in model.graph.node if node.op_type in QUANTIZED]
    around = [name for node in nodes for name in (*node.input, *node.output)]
    return list(dict.fromkeys(name for name in around if name in floats))


def _watching(
    model: onnx.ModelProto, tensors: Sequence[str], shown: Sequence[str]
) -> onnxruntime.InferenceSession:
    """Gives the smallest value of each of `tensors`, then the largest of each, then all of `shown`."""
    watched = copy_of(model)
    extremes = {
        f"{name}/{operator}": helper.make_node(operator, [name], [f"{name}/{operator}"], keepdims=0)
        for operator in ("ReduceMin", "ReduceMax")
        for name in tensors
    }
    watched.graph.node.extend(extremes.values())
    del watched.graph.output[:]
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*extremes, *shown)
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _ranges(tensors: Sequence[str], extremes: Sequence[NDArray[np.float32]]) -> Ranges:
    """From the smallest and then the largest values of all tensors [2 * tensors] of each batch."""
    batches = np.stack(extremes).reshape(len(extremes), 2, len(tensors))
    if not np.isfinite(batches).all():
        raise ValueError("calibration met numbers that are not finite")
    low, high = batches[:, 0].min(axis=0), batches[:, 1].max(axis=0)
    return dict(zip(tensors, zip(low, high, strict=True), strict=True))


def _tensors_data(ranges: Ranges) -> TensorsData:
    """As the quantizer wants them; it changes what it is given."""
    data = {name: TensorData(lowest=low, highest=high) for name, (low, high) in ranges.items()}
    return TensorsData(CalibrationMethod.MinMax, data)


def _shield(model: onnx.ModelProto, layers: Sequence[Convolution]) -> None:
    """Keep layers float whoever runs the file: LeakyRelu with a slope of 0 takes the place of their ReLU.

    From 1.21 on, ONNX Runtime rounds the weights of a float convolution to int8, with one scale for all of
    them, where integers come in and where nothing but Relu or Clip stands before integers go out (its
    WeightBiasQuantization). LeakyRelu is fused into the convolution like Relu, so it costs nothing.
    """
    nodes = {node.name: node for node in model.graph.node}
    for layer in layers:
        relu = nodes[layer.relu]
        relu.op_type = "LeakyRelu"
        relu.attribute.append(helper.make_attribute("alpha", 0.0))


def _complete_biases(model: onnx.ModelProto, layers: Sequence[Convolution]) -> None:
    """Give zeros to convolutions without a bias."""
    nodes = {node.name: node for node in model.graph.node}
    for layer in layers:
        if not layer.bias:
            zeros = numpy_helper.from_array(np.zeros(layer.channels, np.float32), f"{layer.kernel}/bias")
            model.graph.initializer.append(zeros)
            nodes[layer.node].input.append(zeros.name)


def _check_executed(quantized: onnx.ModelProto, wanted: int) -> None:
    executed = executed_operators(quantized.SerializeToString())["QLinearConv"]
    if executed != wanted:
        raise CheckFailed(
            f"{executed} convolutions would run in int8 instead of {wanted}.",
            "This is a fault in the conversion; please report it with the model's card.json.",
        )


def _constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _array(tensor: onnx.TensorProto) -> NDArray[Any]:
    array: NDArray[Any] = numpy_helper.to_array(tensor)
    return array


@contextmanager
def quiet() -> Iterator[None]:
    """The quantizer logs through the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
