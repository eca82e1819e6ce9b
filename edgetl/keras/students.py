"""Small networks of others, by tf_keras.applications, that take and give what ours do.

They are built with random weights or read weights of the same architecture from a file; they learn with the
statistics of each batch, and leave as ONNX with all batch normalization folded into the convolutions.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from tf_keras.src.applications.efficientnet import DEFAULT_BLOCKS_ARGS, EfficientNet

from edgetl.card import EpochRecord, InputSpec
from edgetl.choices import Student
from edgetl.errors import WeightsError
from edgetl.keras import tf, tf_keras
from edgetl.keras.distill import Distillation, teach
from edgetl.keras.network import LOGITS, Array
from edgetl.keras.to_onnx import converted_to_onnx

LEAST_SIDE = 32  # pixels, of all of them
ENDINGS = (".h5", ".keras")
_MOMENTUM = 0.9  # of the statistics that are looked at while it learns; theirs need thousands of steps
_SETTLING_BATCHES = 50
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def student_model(
    student: Student, spec: InputSpec, classes: int, seed: int, weights: Path | None = None
) -> Any:
    """A Keras model, uint8 RGB [N, H, W, 3] -> logits [N, classes], with a new last layer.

    `weights`: a file of the same architecture without top, as tf_keras saves it. Raises `WeightsError`.
    """
    tf_keras.utils.set_random_seed(seed)
    image = tf_keras.Input((spec.height, spec.width, 3), dtype="uint8", name="image")
    trunk = _trunk(student, image)
    if weights is not None:
        _read(trunk, student, weights)
    for layer in _normalizations(trunk):
        layer.momentum = _MOMENTUM
    return tf_keras.Model(image, tf_keras.layers.Dense(classes, name=LOGITS)(trunk.output), name=student)


def _trunk(student: Student, image: Any) -> Any:
    """From uint8 RGB to averages of the last map; what the network wants of pixels is part of it."""
    given = {"include_top": False, "weights": None, "input_shape": tuple(image.shape[1:]), "pooling": "avg"}
    small_numbers = tf_keras.layers.Rescaling(1 / 127.5, offset=-1.0)
    applications = tf_keras.applications
    match student:
        case Student.MOBILENET_V2:
            return applications.MobileNetV2(input_tensor=small_numbers(image), **given)
        case Student.MOBILENET_V2_035:
            return applications.MobileNetV2(input_tensor=small_numbers(image), alpha=0.35, **given)
        case Student.MOBILENET_V3_SMALL:
            return applications.MobileNetV3Small(input_tensor=image, **given)
        case Student.EFFICIENTNET_B0:  # dropping connections at random would not survive an interruption
            return EfficientNet(1.0, 1.0, 224, drop_connect_rate=0.0, input_tensor=image, **given)
        case Student.EFFICIENTNET_LITE0:
            blocks = [{**block, "se_ratio": 0.0} for block in DEFAULT_BLOCKS_ARGS]
            return EfficientNet(
                1.0, 1.0, 224, drop_connect_rate=0.0, input_tensor=image,
                activation=tf.nn.relu6, blocks_args=blocks, **given,
            )  # fmt: skip


def _read(trunk: Any, student: Student, path: Path) -> None:
    """Only numbers are read, never code."""
    if not path.is_file() or path.suffix.lower() not in ENDINGS:
        raise WeightsError(
            f"{path} is no file of weights.", f"Give a file of tf_keras that ends in {' or '.join(ENDINGS)}."
        )
    try:
        trunk.load_weights(str(path))
    except Exception as error:  # h5py, zipfile and Keras each raise what they like
        raise WeightsError(
            f"{path} does not hold the weights of {student} without top: {str(error).splitlines()[0]}",
            "Save them with tf_keras from the same architecture, made with include_top=False.",
        ) from error
    if not all(np.isfinite(value).all() for value in trunk.get_weights()):
        raise WeightsError(f"{path} holds numbers that are not finite.", "Check that the file is whole.")
    for layer in trunk.layers:
        if isinstance(layer, tf_keras.layers.Normalization) and np.allclose(
            layer.adapt_mean, _IMAGENET_MEAN, atol=1e-3
        ):  # Keras divides by a further root of the deviation, but only where it reads the file itself
            layer.adapt_variance.assign(layer.adapt_variance * _IMAGENET_STD)
            layer.finalize_state()


def taught(model: Any, run: Distillation) -> tuple[EpochRecord, ...]:
    """Train a student in place as `distill` trains a smaller VGG16; how it went."""
    teach(model, run, lambda _record: None)
    lessons, batch = run.lessons, run.settings.batch
    order = np.random.default_rng(run.settings.seed).permutation(lessons.images * lessons.pictures)
    batches = max(1, min(_SETTLING_BATCHES, len(order) // batch))
    _settle(model, [lessons.pixels[rows] for rows in np.array_split(order[: batches * batch], batches)])
    return run.checkpoint.state.history


def _settle(model: Any, batches: Sequence[NDArray[np.uint8]]) -> None:
    """Give batch normalization the plain means over these batches, of the weights as they are now.

    Wu & Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3: moving averages remember older weights.
    """
    layers = _normalizations(model)
    for number, pixels in enumerate(batches, 1):
        for layer in layers:
            layer.momentum = 1 - 1 / number
        model(tf.constant(pixels), training=True)
    for layer in layers:
        layer.momentum = _MOMENTUM


def student_onnx(model: Any) -> onnx.ModelProto:
    """uint8 RGB [N, H, W, 3] "image" -> float32 probabilities [N, classes], without batch normalization."""
    folded = _folded(model)
    probabilities = tf_keras.layers.Softmax(name="probabilities")(folded.output)
    return converted_to_onnx(tf_keras.Model(folded.input, probabilities))


def _folded(model: Any) -> Any:
    """The same function of one image, with every batch normalization inside the convolution before it."""
    before = {layer.name: _convolution_before(layer) for layer in _normalizations(model)}
    followed = {convolution.name: model.get_layer(name) for name, convolution in before.items()}

    def copied(layer: Any) -> Any:
        if layer.name in before:
            return tf_keras.layers.Activation("linear", name=layer.name)
        settings = layer.get_config()
        if layer.name in followed:
            settings["use_bias"] = True
        return type(layer).from_config(settings)

    folded = tf_keras.models.clone_model(model, clone_function=copied)
    for layer in model.layers:
        if layer.name in followed:
            folded.get_layer(layer.name).set_weights(_with_normalization(layer, followed[layer.name]))
        elif layer.name not in before:
            other = folded.get_layer(layer.name)
            other.set_weights(layer.get_weights())
            other.finalize_state()
    return folded


def _with_normalization(convolution: Any, layer: Any) -> list[Array]:
    """Kernel and bias that give what the convolution and then the normalization would give."""
    kernel, *bias = convolution.get_weights()
    gamma, beta, mean, variance = layer.get_weights()
    factor = gamma / np.sqrt(variance + layer.epsilon)
    depthwise = isinstance(convolution, tf_keras.layers.DepthwiseConv2D)
    kernel = kernel * (factor.reshape(kernel.shape[2:]) if depthwise else factor)
    return [kernel, ((bias[0] if bias else 0.0) - mean) * factor + beta]


def _convolution_before(layer: Any) -> Any:
    return layer.input._keras_history.layer  # noqa: SLF001 - Keras has no public way back


def _normalizations(model: Any) -> list[Any]:
    return [layer for layer in model.layers if isinstance(layer, tf_keras.layers.BatchNormalization)]


def parameters_of(model: Any) -> int:
    """Weights that are trained, the last layer's included."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def multiplications_of(model: Any) -> float:
    """Multiply-adds of all convolutions for one image."""
    found = 0.0
    for layer in model.layers:
        if isinstance(layer, (tf_keras.layers.Conv2D, tf_keras.layers.DepthwiseConv2D)):
            _, height, width, _ = layer.output_shape
            found += height * width * math.prod(layer.get_weights()[0].shape)
    return found
