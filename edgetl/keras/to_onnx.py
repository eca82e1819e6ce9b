"""The full-precision network as an ONNX model."""

import logging
import re
from typing import Any

import onnx
import tf2onnx

from edgetl.keras import tf
from edgetl.keras.network import Layers, whole

OPSET = 17  # the newest that OpenVINO, ONNX Runtime 1.12 and later, and ort-web all read


def to_onnx(layers: Layers) -> onnx.ModelProto:
    """uint8 RGB [N, H, W, 3] "image" -> float32 [N, classes] "probabilities", float32 weights, opset 17."""
    return converted_to_onnx(whole(layers))


def converted_to_onnx(model: Any) -> onnx.ModelProto:
    """The same of any Keras model, uint8 RGB [N, H, W, 3] -> probabilities."""
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    converted, _ = tf2onnx.convert.from_keras(
        model, input_signature=[tf.TensorSpec(model.input_shape, tf.uint8, name="image")], opset=OPSET
    )
    for value in (*converted.graph.input, *converted.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    _name_output(converted, "probabilities")
    _number_names_anew(converted)
    onnx.checker.check_model(converted, full_check=True)
    proto: onnx.ModelProto = converted
    return proto


def _name_output(model: Any, name: str) -> None:
    """Keras names the output after the layer; hold it to that whatever the converter did."""
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = [name if value == output.name else value for value in node.output]
    output.name = name


def _number_names_anew(model: Any) -> None:
    """The converter numbers over the life of a process; the same network must give the same bytes."""
    numbers: dict[str, str] = {}

    def renamed(name: str) -> str:
        return re.sub(r"__\d+", lambda old: numbers.setdefault(old[0], f"__{len(numbers) + 1}"), name)

    for node in model.graph.node:
        node.name = renamed(node.name)
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = renamed(tensor.name)
