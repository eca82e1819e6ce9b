"""The only folder that imports TensorFlow: networks, weights, training, and the way out to ONNX and TFLite.

TensorFlow is told to use the Keras 2 that tfmot and tf2onnx work with, to keep its log to errors, and not to
look for accelerators; all three must be set before its first import.
"""

import os

from edgetl.errors import MissingExtra
from edgetl.quiet import native_output_hidden

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

try:
    with native_output_hidden():  # TensorFlow greets before its log level is known
        import tensorflow as tf
        import tf_keras
except ModuleNotFoundError as error:
    raise MissingExtra("Training and exporting", "train") from error

tf.get_logger().setLevel("ERROR")

__all__ = ["tf", "tf_keras"]
