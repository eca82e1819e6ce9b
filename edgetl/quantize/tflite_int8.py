"""int8 TFLite files: calibrated once, then made anew for every recipe in a fraction of a second."""

import copy
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools.flatbuffer_utils import convert_object_to_bytearray
from numpy.typing import NDArray

from edgetl.errors import CheckFailed
from edgetl.progress import task
from edgetl.quantize.ranges import Activation, tap_means
from edgetl.quantize.recipe import Recipe
from edgetl.quantize.tflite import Ranges, convolutions_of, graph_of, tensors_to_measure, to_int8
from edgetl.quiet import native_output_hidden

Array = NDArray[np.float32]
CODES = schema.BuiltinOperator
LEVELS = 127  # of a weight, on either side of 0
# The features that the head sees. In int8 an average pool has to keep the scale of what it averages, and a
# concatenation one scale for all: with averages of two blocks that cost 5 dB of the logits. ONNX files have
# them in float, too.
AVERAGES = (CODES.MEAN, CODES.AVERAGE_POOL_2D)
_WEIGHTED = (CODES.CONV_2D, CODES.FULLY_CONNECTED)  # int8 whatever they read
_SAME_VALUES = (CODES.MAX_POOL_2D, CODES.RESHAPE)  # what comes out went in


@dataclass(frozen=True)
class Operator:
    """One operator of a TFLite file, with the names of its tensors."""

    code: int  # of BuiltinOperator
    reads: tuple[str, ...]
    makes: str


@dataclass(frozen=True, eq=False)
class TFLiteQuantizer:
    """A float32 file with all that calibration saw in it. `calibrate` makes it; nothing changes it."""

    model: bytes
    operators: tuple[Operator, ...]
    ranges: Ranges  # the smallest and the largest value of every activation
    activations: tuple[Activation, ...]  # behind each convolution's ReLU
    tap_means: tuple[NDArray[np.float64], ...]  # [I, 3, 3] of what each convolution reads, padding included

    def build(self, recipe: Recipe) -> bytes:
        """An int8 file: uint8 in, float32 out; averages, the last Dense layer and softmax stay float.

        `recipe.reduced` changes nothing, because no sum can saturate here. On x86-64 without VNNI, XNNPACK's
        kernels for int8 weights with a scale per channel extend both factors to 16 bits and add each pair of
        products in 32 bits (pmaddwd: its src/qs8-igemm/MRx8c8-avx2.c.in, MRx16c8-avx512skx.c.in and
        MRx4c8-sse.c.in; LiteRT 2.3 has no others). It is vpmaddubsw that saturates with ONNX Runtime.

        Raises `ValueError` for layers that do not exist, and `CheckFailed` when the quantizer refuses or when
        other convolutions are int8 than those that are not to stay float.
        """
        count = len(self.activations)
        if list(recipe.float_layers) != sorted(set(recipe.float_layers) & set(range(count))):
            raise ValueError(f"float layers {recipe.float_layers}: there are {count}, from 0")
        model = self.model
        if recipe.bias_corrected:
            int8 = [number for number in range(count) if number not in recipe.float_layers]
            model = with_lower_biases(model, {number: self._bias_errors[number] for number in int8})
        ranges = self._clipped_ranges if recipe.clipped else self.ranges
        quantized = to_int8(model, ranges, float_tensors(self.operators, recipe.float_layers))
        _check_types(quantized, recipe.float_layers)
        return quantized

    @cached_property
    def _bias_errors(self) -> list[Array]:
        return bias_errors(self.model, self.tap_means)

    @cached_property
    def _clipped_ranges(self) -> Ranges:
        """Ranges behind ReLUs, and max pools of them, that end where the expected error is least."""
        ends: dict[str, float] = {}
        highs = iter([seen.clipped_high() for seen in self.activations])
        for operator in self.operators:
            if operator.code == CODES.CONV_2D:
                ends[operator.makes] = next(highs)
            elif operator.code in _SAME_VALUES and operator.reads[0] in ends:
                ends[operator.makes] = ends[operator.reads[0]]
        return {
            name: {"min": found["min"], "max": np.minimum(found["max"], np.float32(ends.get(name, np.inf)))}
            for name, found in self.ranges.items()
        }


def calibrate(model: bytes, pixels: NDArray[np.uint8]) -> TFLiteQuantizer:
    """Run calibration images, uint8 RGB [N, H, W, 3], through a float32 file of ours, once.

    Every convolution of it is 3x3, keeps the size and is followed by ReLU. Raises `ValueError` for other
    arrays and for numbers that are not finite, and `CheckFailed` when the quantizer refuses the file.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) == 0:
        raise ValueError(f"calibration needs uint8 [N, H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
    operators = operators_of(model)
    convolutions = [operator for operator in operators if operator.code == CODES.CONV_2D]
    asked = tensors_to_measure(model, pixels[:1])
    activations: list[Activation] = []
    sums = [np.zeros(1)] * len(convolutions)
    extremes = []
    for read in _runs(model, pixels):
        extremes.append([(values.min(), values.max()) for values in map(read, asked)])
        activations = activations or [Activation(read(layer.makes).shape[3]) for layer in convolutions]
        for number, layer in enumerate(convolutions):
            activations[number].add(read(layer.makes).transpose(0, 3, 1, 2))
            sums[number] = sums[number] + read(layer.reads[0])[0]
    means = tuple(tap_means(total.transpose(2, 0, 1) / len(pixels)) for total in sums)
    ranges = _ranges(asked, np.array(extremes, np.float32))
    return TFLiteQuantizer(model, operators, ranges, tuple(activations), means)


def _ranges(asked: Ranges, extremes: Array) -> Ranges:
    """In the shapes of `asked`, from the extremes [images, tensors, 2] of its tensors."""
    if not np.isfinite(extremes).all():
        raise ValueError("calibration met numbers that are not finite")
    low, high = extremes[..., 0].min(axis=0), extremes[..., 1].max(axis=0)
    shapes = {name: found["min"].shape for name, found in asked.items()}
    return {
        name: {"min": np.full(shape, low[number]), "max": np.full(shape, high[number])}
        for number, (name, shape) in enumerate(shapes.items())
    }


def operators_of(model: bytes) -> tuple[Operator, ...]:
    """The operators of a file in the order in which they run."""
    graph = graph_of(model)
    names = [tensor.name.decode() for tensor in graph.subgraphs[0].tensors]
    return tuple(
        Operator(
            graph.operatorCodes[operator.opcodeIndex].builtinCode,
            tuple(names[index] for index in operator.inputs if index >= 0),
            names[operator.outputs[0]],
        )
        for operator in graph.subgraphs[0].operators
    )


def _runs(model: bytes, pixels: NDArray[np.uint8]) -> Iterator[Callable[[str], Array]]:
    """After each image: a function that reads a tensor [1, ...] by its name."""
    with warnings.catch_warnings(), native_output_hidden():
        warnings.simplefilter("ignore")  # it warns that keeping all tensors needs memory
        interpreter = Interpreter(
            model_content=model, num_threads=os.cpu_count(), experimental_preserve_all_tensors=True
        )
    interpreter.allocate_tensors()
    image = interpreter.get_input_details()[0]["index"]
    indices = {detail["name"]: detail["index"] for detail in interpreter.get_tensor_details()}
    with task("calibrating TFLite int8", len(pixels)) as advance:
        for start in range(len(pixels)):
            interpreter.set_tensor(image, pixels[start : start + 1])
            interpreter.invoke()
            yield lambda name: interpreter.get_tensor(indices[name])
            advance(1)


def float_tensors(operators: Sequence[Operator], float_layers: Sequence[int]) -> list[str]:
    """The names of what is made in float when these convolutions and all averages are.

    That is also what follows those, until the next weights, and what comes before the first convolution if it
    is one of them: a pool between two float convolutions would round what they hand on.
    """
    found: list[str] = []
    number = 0
    for operator in operators:
        if operator.code == CODES.CONV_2D:
            is_float = number in float_layers
            number += 1
        elif number == 0:
            is_float = 0 in float_layers
        else:
            follows = operator.code not in _WEIGHTED and not set(found).isdisjoint(operator.reads)
            is_float = follows or operator.code in AVERAGES
        if is_float:
            found.append(operator.makes)
    return found


def rounded(kernel: Array) -> Array:
    """A kernel [O, h, w, I] as the quantizer rounds it: symmetric, a scale per output channel."""
    highs = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True)
    scale = np.maximum(highs, np.float32(1e-9)) / LEVELS
    return np.asarray(np.rint(kernel / scale) * scale, np.float32)


def bias_errors(model: bytes, tap_means: Sequence[NDArray[np.float64]]) -> list[Array]:
    """[O] for each convolution: the mean error that rounding its weights makes when it reads means [I, 3, 3].

    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section
    4.2: E[W' x] - E[W x] = (W' - W) E[x].
    """
    graph = graph_of(model)
    kernels = [_values(graph, operator.inputs[1]) for operator in convolutions_of(graph)]
    return [
        np.einsum("oyxi,iyx->o", rounded(kernel) - kernel, means).astype(np.float32)
        for kernel, means in zip(kernels, tap_means, strict=True)
    ]


def with_lower_biases(model: bytes, errors: Mapping[int, Array]) -> bytes:
    """The float32 file with the biases of convolutions, by number, lower by [O].

    Biases that are all zero are one tensor for several convolutions; each gets its own.
    """
    graph = graph_of(model)
    main = graph.subgraphs[0]
    users = Counter(
        main.tensors[index].buffer for operator in main.operators for index in operator.inputs if index >= 0
    )
    for number, operator in enumerate(convolutions_of(graph)):
        if number not in errors:
            continue
        bias = main.tensors[operator.inputs[2]]
        values = _values(graph, operator.inputs[2]) - errors[number]
        if users[bias.buffer] > 1:
            users[bias.buffer] -= 1
            bias = copy.copy(bias)
            bias.name, bias.buffer = bias.name + f"/{number}".encode(), len(graph.buffers)
            operator.inputs = [*operator.inputs[:2], len(main.tensors)]
            main.tensors.append(bias)
            graph.buffers.append(schema.BufferT())
        graph.buffers[bias.buffer].data = values.view(np.uint8)
    return bytes(convert_object_to_bytearray(graph))


def _check_types(quantized: bytes, float_layers: Sequence[int]) -> None:
    graph = graph_of(quantized)
    tensors = graph.subgraphs[0].tensors
    types = [tensors[operator.inputs[0]].type for operator in convolutions_of(graph)]
    kept = [number for number, kind in enumerate(types) if kind == schema.TensorType.FLOAT32]
    int8 = types.count(schema.TensorType.INT8)
    if kept != list(float_layers) or int8 + len(kept) != len(types):
        raise CheckFailed(
            f"Of {len(types)} convolutions {int8} are int8 and those numbered {kept} are float; "
            f"{list(float_layers)} should be.",
            "This is a fault in the conversion; please report it with the model's card.json.",
        )


def _values(graph: Any, index: int) -> Array:
    """A constant of the file."""
    tensor = graph.subgraphs[0].tensors[index]
    return np.frombuffer(graph.buffers[tensor.buffer].data, np.float32).reshape(tensor.shape)
