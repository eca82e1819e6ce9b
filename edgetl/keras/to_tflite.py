"""The full-precision network as TFLite files."""

import warnings

import numpy as np
from numpy.typing import NDArray

from edgetl.keras import tf
from edgetl.keras.network import Layers, whole


def to_tflite(layers: Layers, half_precision: bool = False) -> bytes:
    """uint8 RGB [1, H, W, 3] -> float32 [1, classes]; the batch can be resized.

    `half_precision` stores weights as float16; LiteRT turns them back into float32 when it loads the file.
    """
    converter = tf.lite.TFLiteConverter.from_keras_model(whole(layers))
    if half_precision:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return bytes(converter.convert())


def to_int8_tflite(layers: Layers, pixels: NDArray[np.uint8]) -> bytes:
    """Static int8 by TensorFlow's own converter, for a network that AI Edge Quantizer refuses.

    uint8 in, float32 out; unlike there, the last Dense layer is int8 too. pixels: calibration images, uint8
    RGB [N, H, W, 3].
    """
    converter = tf.lite.TFLiteConverter.from_keras_model(whole(layers))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([pixels[i : i + 1]] for i in range(len(pixels)))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses statistics of the input, which are 0 to 255
        return bytes(converter.convert())
