"""TFLite models with fewer bits, made from the float file by AI Edge Quantizer."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import qtyping, quantizer, recipe
from numpy.typing import NDArray

from edgetl.errors import CheckFailed
from edgetl.quiet import native_output_hidden

Ranges = dict[str, dict[str, NDArray[np.float32]]]  # tensor name -> {"min", "max"}
LOGITS = "logits"  # edgetl.keras.network calls the last Dense layer so
_FLOAT_ENDS = (qtyping.TFLOperationName.SOFTMAX, qtyping.TFLOperationName.OUTPUT)


class Refused(CheckFailed):
    """AI Edge Quantizer does not take the network."""


def to_dynamic_range(model: bytes) -> bytes:
    """int8 weights; activations are quantized on the way, image by image. Raises `CheckFailed`."""
    return quantize(model, recipe.dynamic_wi8_afp32(), None)


def to_int8_weights_int16(model: bytes, ranges: Ranges) -> bytes:
    """int8 weights, int16 activations: near float accuracy, for accelerators that have it; slow on CPUs."""
    return quantize(model, recipe.static_wi8_ai16(), ranges)


def to_int8(model: bytes, ranges: Ranges, float_tensors: Sequence[str] = ()) -> bytes:
    """Static int8 weights per output channel and int8 activations per tensor. Raises `CheckFailed`.

    `float_tensors` names what is computed in float32 nevertheless, by the tensors that operators make.
    """
    return quantize(model, recipe.static_wi8_ai8(), ranges, float_tensors)


def tensors_to_measure(model: bytes, pixels: NDArray[np.uint8]) -> Ranges:
    """Which tensors the quantizer wants to know, with ranges in the shape that it uses.

    The numbers are those of `pixels`, one image [1, H, W, 3]: of more, the quantizer would take a moving
    average, which cuts off what only some images reach.
    """
    (name,) = Interpreter(model_content=model).get_signature_list()["serving_default"]["inputs"]
    with _quiet(), _failures_explained():
        made = quantizer.Quantizer(bytearray(model))
        made.load_quantization_recipe(recipe.static_wi8_ai8())
        found: Ranges = made.calibrate({"serving_default": [{name: pixels}]})
    return found


def graph_of(model: bytes) -> Any:
    """A file as objects of the TFLite schema (`ModelT`); constants are views of `model`."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))


def convolutions_of(graph: Any) -> list[Any]:
    """The convolutions (`OperatorT`) of a `ModelT` in their order."""
    codes = [code.builtinCode for code in graph.operatorCodes]
    convolution = schema.BuiltinOperator.CONV_2D
    return [
        operator for operator in graph.subgraphs[0].operators if codes[operator.opcodeIndex] == convolution
    ]


def quantize(model: bytes, wanted: Any, ranges: Ranges | None, float_tensors: Sequence[str] = ()) -> bytes:
    """What AI Edge Quantizer makes of a float32 file by one of its recipes; ends and logits stay float.

    Raises `CheckFailed` when it refuses.
    """
    with _quiet(), _failures_explained():
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
        if float_tensors:  # an operator goes by the names of what it makes, each with ; behind it
            made.update_quantization_recipe(
                regex=f"^({'|'.join(map(re.escape, float_tensors))});$",
                operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
                algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE,
            )
        return bytes(made.quantize(deepcopy(ranges)).quantized_model)  # it changes ranges that it is given


@contextmanager
def _failures_explained() -> Iterator[None]:
    """The quantizer raises errors of all kinds for networks that it cannot quantize."""
    try:
        yield
    except Exception as error:
        raise Refused(
            f"AI Edge Quantizer refuses the network: {type(error).__name__}: {error}",
            "Export another precision (--precision fp32,fp16) or ONNX (--format onnx), and report this.",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer prints summaries and draws progress bars of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), native_output_hidden():
            yield
