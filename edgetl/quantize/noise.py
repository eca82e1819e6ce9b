"""Where an int8 file loses: signal to quantization noise before, behind and within each convolution.

The files run here as they are written, tensor by tensor, against the float network that calibration saw.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgetl.pixels import spread_over
from edgetl.progress import task
from edgetl.quantize.first_layer import without_fourth_channel
from edgetl.quantize.onnx import copy_of
from edgetl.quantize.onnx_int8 import OnnxQuantizer
from edgetl.quantize.tflite_int8 import TFLiteQuantizer
from edgetl.quiet import native_output_hidden
from edgetl.results import LayerNoise

MOST_IMAGES = 32  # each gives a layer thousands of numbers or more
IMAGES_AT_ONCE = 8
OPSET, IR_VERSION = 17, 8  # of the graphs of one layer
_LEAST_POWER = float(np.finfo(np.float64).tiny)

Array = NDArray[np.float32]


def onnx_noise(
    quantizer: OnnxQuantizer,
    model: onnx.ModelProto | bytes,
    names: Sequence[str],
    pixels: NDArray[np.uint8],
    most_images: int = MOST_IMAGES,
) -> tuple[LayerNoise, ...]:
    """The noise of every convolution of a file that `quantizer.build` made, in their order.

    names: of the convolutions. pixels: uint8 RGB [N, H, W, 3], of which `most_images` are run.
    ONNX Runtime runs the file without optimizations, which would merge tensors away: in float, rounded where
    the file says so. This shows what rounding costs, and not what the sums of a CPU lose that saturate.

    Raises `ValueError` for another number of names, for other arrays, and for numbers that are not finite.
    """
    some = _checked(pixels[spread_over(len(pixels), most_images)], names, len(quantizer.convolutions))
    quantized = onnx.load_model_from_string(model) if isinstance(model, bytes) else model
    layers = _onnx_layers(quantized, [layer.node for layer in quantizer.convolutions])
    full_run = _watching(quantizer.graph, [(layer.source, layer.output) for layer in quantizer.convolutions])
    int8_run = _watching(quantized, [(layer.source, layer.output) for layer in layers])
    return _noise(names, [layer.rounded for layer in layers], _onnx_runs(full_run, int8_run, some))


def tflite_noise(
    quantizer: TFLiteQuantizer,
    content: bytes,
    names: Sequence[str],
    pixels: NDArray[np.uint8],
    most_images: int = MOST_IMAGES,
) -> tuple[LayerNoise, ...]:
    """The noise of every convolution of a file that `quantizer.build` made, in their order.

    names: of the convolutions. pixels: uint8 RGB [N, H, W, 3], of which `most_images` are run, one
    at a time as calibration does. LiteRT computes with the integers of the file.

    Raises `ValueError` for another number of names, for other arrays, and for numbers that are not finite.
    """
    some = _checked(pixels[spread_over(len(pixels), most_images)], names, len(quantizer.activations))
    full, int8 = _TFLiteFile(quantizer.model), _TFLiteFile(content)
    return _noise(names, int8.rounded(), _tflite_runs(full, int8, some))


def worst(found: Sequence[LayerNoise]) -> LayerNoise | None:
    """The layer that loses most by itself; None where no layer loses anything."""
    losing = [noise for noise in found if not math.isnan(noise.sqnr_alone_db)]
    return min(losing, key=lambda noise: noise.sqnr_alone_db, default=None)


@dataclass(frozen=True, eq=False)
class _Rounded:
    """The numbers that an int8 convolution computes with, and the levels of what it gives."""

    kernel: Array  # [O, I, 3, 3], dequantized
    bias: Array  # [O], dequantized
    scale: np.float32
    zero: int
    levels: np.iinfo[Any]

    def alone(self) -> Callable[[Array], Array]:
        """What makes of maps [N, I, H, W] in float those [N, O, H, W] that the layer gives, rounded."""
        constants = [
            numpy_helper.from_array(self.kernel, "kernel"),
            numpy_helper.from_array(self.bias, "bias"),
        ]
        nodes = [
            helper.make_node("Conv", ["read", "kernel", "bias"], ["sums"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["sums"], ["given"]),
        ]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("read", "given")]
        graph = helper.make_graph(nodes, "layer", ends[:1], ends[1:], constants)
        opset = [helper.make_opsetid("", OPSET)]
        session = _session(helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION))
        return lambda read: self._round(session.run(None, {"read": read})[0])

    def _round(self, values: Array) -> Array:
        levels = np.clip(np.rint(values / self.scale) + self.zero, self.levels.min, self.levels.max)
        rounded: Array = (levels - self.zero) * self.scale
        return rounded


@dataclass(frozen=True, eq=False)
class _Seen:
    """What one convolution reads, and gives behind its ReLU, for some images: maps [N, C, H, W]."""

    read: Array
    given: Array


def _noise(
    names: Sequence[str],
    rounded: Sequence[_Rounded | None],
    runs: Iterator[Iterable[tuple[_Seen, _Seen]]],
) -> tuple[LayerNoise, ...]:
    """Add up powers, run by run. A run gives for each layer what the float network and the file have there.

    `rounded` has None for layers in float.
    """
    alone = [layer.alone() if layer else None for layer in rounded]
    powers = np.zeros((len(names), 3, 2))
    for layers in runs:
        for number, ((full, int8), layer) in enumerate(zip(layers, alone, strict=True)):
            powers[number, 0] += _powers(full.read, int8.read)
            powers[number, 1] += _powers(full.given, int8.given)
            if layer:
                powers[number, 2] += _powers(full.given, layer(full.read))
    found = zip(names, powers, strict=True)
    return tuple(LayerNoise(name, *(_decibels(*pair) for pair in own.tolist())) for name, own in found)


def _powers(reference: Array, candidate: Array) -> NDArray[np.float64]:
    """[2]: sum x^2 and sum (x - y)^2, image by image, which bounds the memory.

    A file may have a further colour of zeros behind those of the reference (`first_layer`).
    """
    powers = np.zeros(2)
    for one, other in zip(reference, candidate, strict=True):
        signal = one.astype(np.float64).ravel()
        noise = signal - other[: len(one)].ravel()
        powers += signal @ signal, noise @ noise
    return powers


def _decibels(signal: float, noise: float) -> float:
    """NaN without noise. Noise where only zeros should be is finite as well: below -2000 dB."""
    if not math.isfinite(signal + noise):
        raise ValueError("a layer reads or gives numbers that are not finite")
    if noise == 0:
        return math.nan
    return 10 * (math.log10(max(signal, _LEAST_POWER)) - math.log10(noise))


def _checked(pixels: NDArray[np.uint8], names: Sequence[str], layers: int) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) == 0:
        raise ValueError(f"images are uint8 [N, H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
    if len(names) != layers:
        raise ValueError(f"there are {layers} convolutions, but {len(names)} names")
    return pixels


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # a session for each layer would keep what it needed once
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # they wait for each other
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@dataclass(frozen=True, eq=False)
class _OnnxLayer:
    """One convolution of a QDQ model."""

    source: str  # the tensor that it reads
    output: str  # the tensor behind its ReLU, rounded if the layer is int8
    rounded: _Rounded | None  # None in float


def _onnx_layers(model: onnx.ModelProto, names: Sequence[str]) -> list[_OnnxLayer]:
    """The convolutions by the names of their nodes."""
    nodes = {node.name: node for node in model.graph.node}
    made_by = {name: node for node in model.graph.node for name in node.output}
    readers = {name: node for node in model.graph.node for name in node.input}
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for name in names:
        source, kernel, *bias = nodes[name].input
        following = readers[nodes[name].output[0]]  # Relu in float, which int8 leaves to QuantizeLinear
        if kernel in values:
            found.append(_OnnxLayer(source, following.output[0], None))
            continue
        weights, *biases = (_dequantized(made_by[made], values) for made in (kernel, *bias))
        scale, zero = (numpy_helper.to_array(values[made]) for made in following.input[1:])
        rounded = _Rounded(
            kernel=weights,
            bias=biases[0] if biases else np.zeros(len(weights), np.float32),
            scale=np.float32(scale),
            zero=int(zero),
            levels=np.iinfo(zero.dtype),
        )
        found.append(_OnnxLayer(source, readers[following.output[0]].output[0], rounded))
    return found


def _dequantized(node: Any, values: dict[str, onnx.TensorProto]) -> Array:
    """A symmetric constant [O, ...] behind its DequantizeLinear, a scale for each of O."""
    levels, scale = (without_fourth_channel(values[name]) for name in node.input[:2])
    return _times_scales(levels, scale)


def _times_scales(levels: NDArray[Any], scales: NDArray[Any]) -> Array:
    """levels [O, ...] times scales [O], or one for all."""
    shape = (-1, *[1] * (levels.ndim - 1))
    product: Array = levels.astype(np.float32) * scales.astype(np.float32).reshape(shape)
    return product


_Run = Callable[[NDArray[np.uint8]], Iterator[_Seen]]


def _watching(model: onnx.ModelProto, places: Sequence[tuple[str, str]]) -> _Run:
    """Gives what convolutions have in these pairs of tensors for images [N, H, W, 3]."""
    watched = copy_of(model)
    shown = list(dict.fromkeys(name for place in places for name in place))
    del watched.graph.output[:]
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in shown
    )
    session = _session(watched)
    image = watched.graph.input[0].name

    def run(batch: NDArray[np.uint8]) -> Iterator[_Seen]:
        found = dict(zip(shown, session.run(None, {image: batch}), strict=True))
        for source, output in places:
            yield _Seen(found[source], found[output])

    return run


def _onnx_runs(
    full_run: _Run, int8_run: _Run, pixels: NDArray[np.uint8]
) -> Iterator[Iterable[tuple[_Seen, _Seen]]]:
    """Both networks, batch by batch. What they gave is let go before the next batch runs."""
    with task("noise of each layer, ONNX", len(pixels)) as advance:
        for start in range(0, len(pixels), IMAGES_AT_ONCE):
            batch = pixels[start : start + IMAGES_AT_ONCE]
            yield zip(full_run(batch), int8_run(batch), strict=True)
            advance(len(batch))


class _TFLiteFile:
    """A file that keeps every tensor of the image that it ran last."""

    def __init__(self, content: bytes) -> None:
        graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        self._convolutions = [
            operator
            for operator in graph.subgraphs[0].operators
            if graph.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.CONV_2D
        ]
        with warnings.catch_warnings(), native_output_hidden():
            warnings.simplefilter("ignore")  # it warns that keeping all tensors needs memory
            self._interpreter = Interpreter(
                model_content=content, num_threads=os.cpu_count(), experimental_preserve_all_tensors=True
            )
        self._interpreter.allocate_tensors()
        self._details = {detail["index"]: detail for detail in self._interpreter.get_tensor_details()}

    def run(self, image: NDArray[np.uint8]) -> None:
        """Compute all tensors of an image [1, H, W, 3]."""
        self._interpreter.set_tensor(self._interpreter.get_input_details()[0]["index"], image)
        self._interpreter.invoke()

    def seen(self) -> Iterator[_Seen]:
        """What its convolutions read and gave for that image."""
        for operator in self._convolutions:
            yield _Seen(self._maps(operator.inputs[0]), self._maps(operator.outputs[0]))

    def rounded(self) -> list[_Rounded | None]:
        """The numbers of its convolutions in order, None for one in float."""
        tensors = [(*operator.inputs[1:3], *operator.outputs) for operator in self._convolutions]
        return [self._rounded(kernel, bias, output) for kernel, bias, output in tensors]

    def _rounded(self, kernel: int, bias: int, output: int) -> _Rounded | None:
        kind = self._details[output]["dtype"]
        if kind == np.float32:
            return None
        weights = self._constant(kernel).transpose(0, 3, 1, 2)
        scale, zero = self._details[output]["quantization"]
        return _Rounded(
            np.ascontiguousarray(weights), self._constant(bias), np.float32(scale), zero, np.iinfo(kind)
        )

    def _constant(self, index: int) -> Array:
        """A symmetric constant [O, ...], dequantized."""
        scales = self._details[index]["quantization_parameters"]["scales"]
        return _times_scales(self._interpreter.get_tensor(index), scales)

    def _maps(self, index: int) -> Array:
        """An activation [1, C, H, W], dequantized by its own scale and zero point if it is int8."""
        values = self._interpreter.get_tensor(index).transpose(0, 3, 1, 2)
        if self._details[index]["dtype"] == np.float32:
            return np.ascontiguousarray(values)
        scale, zero = self._details[index]["quantization"]
        return np.ascontiguousarray((values.astype(np.float32) - zero) * np.float32(scale))


def _tflite_runs(
    full: _TFLiteFile, int8: _TFLiteFile, pixels: NDArray[np.uint8]
) -> Iterator[Iterable[tuple[_Seen, _Seen]]]:
    """Both networks, image by image."""
    with task("noise of each layer, TFLite", len(pixels)) as advance:
        for number in range(len(pixels)):
            for file in (full, int8):
                file.run(pixels[number : number + 1])
            yield zip(full.seen(), int8.seen(), strict=True)
            advance(1)
