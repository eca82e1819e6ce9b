"""The full-precision network as TFLite files."""

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
