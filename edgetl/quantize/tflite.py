"""TFLite models with fewer bits, made from the float file by AI Edge Quantizer."""

import io
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import qtyping, quantizer, recipe
from numpy.typing import NDArray

from edgetl.errors import CheckFailed
from edgetl.progress import task
from edgetl.quiet import native_output_hidden

Ranges = dict[str, dict[str, NDArray[np.float32]]]  # tensor name -> {"min", "max"}
LOGITS = "logits"  # edgetl.keras.network calls the last Dense layer so
_FLOAT_ENDS = (qtyping.TFLOperationName.SOFTMAX, qtyping.TFLOperationName.OUTPUT)


def to_dynamic_range(model: bytes) -> bytes:
    """int8 weights; activations are quantized on the way, image by image."""
    return _quantize(model, recipe.dynamic_wi8_afp32(), None)


def to_int8(model: bytes, ranges: Ranges) -> bytes:
    """Static int8 with per-channel weights. Raises `CheckFailed` unless every convolution is int8."""
    quantized = _quantize(model, recipe.static_wi8_ai8(), ranges)
    inputs = convolution_inputs(quantized)
    if set(inputs) != {schema.TensorType.INT8}:
        raise CheckFailed(
            f"Not every convolution is int8: {dict(inputs)}.",
            "This is a fault in the conversion; please report it.",
        )
    return quantized


def to_int8_weights_int16(model: bytes, ranges: Ranges) -> bytes:
    """int8 weights, int16 activations: near float accuracy, for accelerators that have it; slow on CPUs."""
    return _quantize(model, recipe.static_wi8_ai16(), ranges)


def measure_ranges(model: bytes, pixels: NDArray[np.uint8]) -> Ranges:
    """The true smallest and largest value of every activation over images, uint8 RGB [N, H, W, 3].

    The quantizer's own calibration takes a moving average, which cuts off what only some images reach; it is
    asked once, for the names of the tensors it wants to know.
    """
    asked = _calibrate_once(model, pixels[:1])
    with warnings.catch_warnings(), native_output_hidden():
        warnings.simplefilter("ignore")  # it warns that keeping all tensors needs memory
        interpreter = Interpreter(
            model_content=model, num_threads=os.cpu_count(), experimental_preserve_all_tensors=True
        )
    interpreter.allocate_tensors()
    image = interpreter.get_input_details()[0]["index"]
    indices = {detail["name"]: detail["index"] for detail in interpreter.get_tensor_details()}
    wanted = {name: indices[name] for name in asked if name in indices}
    low = dict.fromkeys(wanted, np.inf)
    high = dict.fromkeys(wanted, -np.inf)
    with task("calibrating TFLite int8", len(pixels)) as advance:
        for start in range(len(pixels)):
            interpreter.set_tensor(image, pixels[start : start + 1])
            interpreter.invoke()
            for name, index in wanted.items():
                values = interpreter.get_tensor(index)
                low[name] = min(low[name], float(values.min()))
                high[name] = max(high[name], float(values.max()))
            advance(1)
    return {name: _with_range(value, low.get(name), high.get(name)) for name, value in asked.items()}


def convolution_inputs(model: bytes) -> Counter[int]:
    """Tensor types (of the TFLite schema) that the convolutions of a model read, with counts."""
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    found: Counter[int] = Counter()
    for operator in graph.subgraphs[0].operators:
        code = graph.operatorCodes[operator.opcodeIndex].builtinCode
        if code == schema.BuiltinOperator.CONV_2D:
            found[graph.subgraphs[0].tensors[operator.inputs[0]].type] += 1
    return found


def _with_range(
    asked: dict[str, Any], low: float | None, high: float | None
) -> dict[str, NDArray[np.float32]]:
    """The measured range in the shape the quantizer uses; its own where a tensor cannot be read."""
    if low is None or high is None:
        return asked
    shape = np.shape(asked["min"])
    return {"min": np.full(shape, low, np.float32), "max": np.full(shape, high, np.float32)}


def _calibrate_once(model: bytes, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    made = quantizer.Quantizer(bytearray(model))
    made.load_quantization_recipe(recipe.static_wi8_ai8())
    (name,) = Interpreter(model_content=model).get_signature_list()["serving_default"]["inputs"]
    with _quiet():
        found: dict[str, Any] = made.calibrate({"serving_default": [{name: pixels}]})
    return found


def _quantize(model: bytes, wanted: Any, ranges: Ranges | None) -> bytes:
    made = quantizer.Quantizer(bytearray(model))
    made.load_quantization_recipe(wanted)
    for operation in _FLOAT_ENDS:  # probabilities in steps of 1/256 would make ties
        made.update_quantization_recipe(
            regex=".*", operation_name=operation, algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE
        )
    made.update_quantization_recipe(  # for the reason that quantize.onnx.last_dense gives
        regex=f".*{LOGITS}.*",
        operation_name=qtyping.TFLOperationName.FULLY_CONNECTED,
        algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE,
    )
    with _quiet():
        return bytes(made.quantize(ranges).quantized_model)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer prints summaries and draws progress bars of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), native_output_hidden():
            yield
