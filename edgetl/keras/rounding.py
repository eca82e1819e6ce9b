"""Layers that compute in float32 what an int8 file computes in integers, and can be trained.

The quantizers are those of the TensorFlow Model Optimization Toolkit; `qat` says why not its wrappers.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetl.compression.levels import Limit
from edgetl.keras import tf, tf_keras

Array = NDArray[np.float32]
LEVELS = 127  # of a weight on either side of 0
SMALLEST_RANGE = 1e-12


@dataclass(frozen=True, eq=False)
class Rounding:
    """What an int8 file rounds in one layer; None: it stays float."""

    levels: int | None = None  # of weights on either side of 0, with a scale for each output channel
    high: float | None = None  # of what the layer makes: 256 levels from 0
    reads: tuple[float, float] | None = None  # of what it reads, unless the layer before has rounded it
    limit: Limit | None = None  # what weights may be, beyond having levels


class RoundedLayer(tf_keras.layers.Layer):  # type: ignore[misc] # Keras has no types
    """A convolution or Dense layer that computes what an int8 file does, with variables of its own.

    The variables are the weights as shares of their sizes when training begins.
    """

    def __init__(self, source: Any, rounding: Rounding) -> None:
        super().__init__(name=f"rounded_{source.name}")
        kernel, bias = source.get_weights()
        self._sizes = _kernel_sizes(kernel), _bias_sizes(bias, rounding.high)
        self._kernel = tf.Variable(kernel / self._sizes[0], name="kernel")
        self._bias = tf.Variable(bias / self._sizes[1], name="bias")
        self._activation = source.activation
        self._rounding = rounding

    def call(self, inputs: Any) -> Any:
        """Activations [N, H, W, I] -> [N, H, W, O], or features [N, I] -> [N, O]."""
        rounding = self._rounding
        if rounding.reads is not None:
            inputs = _rounded_values(inputs, *rounding.reads)
        kernel, bias = self._kernel * self._sizes[0], self._bias * self._sizes[1]
        if rounding.limit is not None:
            kernel = _limited_weights(kernel, rounding.limit)
        if rounding.levels is not None:
            kernel = _rounded_weights(kernel, rounding.levels)
        is_dense = len(kernel.shape) == 2
        product = tf.matmul(inputs, kernel) if is_dense else tf.nn.conv2d(inputs, kernel, 1, "SAME")
        made = self._activation(product + bias)
        return made if rounding.high is None else _rounded_values(made, 0.0, rounding.high)

    @property
    def trained(self) -> list[Array]:
        """Kernel and bias, not rounded."""
        return [self._kernel.numpy() * self._sizes[0], self._bias.numpy() * self._sizes[1]]


def _kernel_sizes(kernel: Array) -> Array:
    """[I, O] the largest weight of each 3x3 kernel of [3, 3, I, O], or of each row of [I, O].

    At least one level of the output channel, so that a weight of 0 can move.
    """
    absolute = np.abs(kernel)
    own = absolute.max(axis=(0, 1)) if kernel.ndim == 4 else absolute.max(axis=1, keepdims=True)
    return _above_zero(np.maximum(own, absolute.reshape(-1, kernel.shape[-1]).max(axis=0) / LEVELS))


def _bias_sizes(bias: Array, high: float | None) -> Array:
    """[O] its own size and at least one level; those of a layer without range share the largest one's."""
    absolute = np.abs(bias)
    return _above_zero(np.maximum(absolute, absolute.max() if high is None else np.float32(high / 255)))


def _above_zero(sizes: Array) -> Array:
    return np.where(sizes > 0, sizes, np.float32(1))


def _rounded_weights(kernel: Any, levels: int) -> Any:
    """Weights [..., O] on a grid for each output channel: symmetric, the largest one on the last level.

    The quantizer's own grid has 127 levels on either side; a range that is wider makes it coarser.
    """
    quantizer = _quantizers().LastValueQuantizer(num_bits=8, per_axis=True, symmetric=True, narrow_range=True)
    largest = tf.reduce_max(tf.abs(kernel), axis=list(range(len(kernel.shape) - 1)))
    ends = tf.maximum(largest, SMALLEST_RANGE) * (LEVELS / levels)
    # With "training" it would look for the range itself, in variables that begin with -6 and 6.
    return quantizer(kernel, training=False, weights={"min_var": -ends, "max_var": ends})


def _limited_weights(kernel: Any, limit: Limit) -> Any:
    """As `compression.levels.limited`; backward as if only the zeros were there."""
    if limit.kept is not None:
        kernel = kernel * tf.constant(limit.kept, tf.float32)
    if limit.codebook is None:
        return kernel
    highest = tf.reduce_max(tf.abs(kernel), axis=list(range(len(kernel.shape) - 1)))
    scales = tf.where(highest > 0, highest / limit.levels, tf.ones_like(highest))
    borders = tf.constant((limit.codebook[1:] + limit.codebook[:-1]) / 2, tf.float32)
    chosen = tf.searchsorted(borders, tf.reshape(kernel / scales, [-1]))
    shared = tf.gather(tf.constant(limit.codebook, tf.float32), tf.reshape(chosen, kernel.shape)) * scales
    if limit.kept is not None:
        shared *= tf.constant(limit.kept, tf.float32)
    return kernel + tf.stop_gradient(shared - kernel)


def _rounded_values(values: Any, low: float, high: float) -> Any:
    """Activations on 256 levels from `low` to `high`, shifted so that 0 is one of them; clipped beyond."""
    quantizer = _quantizers().FixedQuantizer(num_bits=8, init_min=low, init_max=high, narrow_range=False)
    return quantizer(values, training=False, weights={})


def _quantizers() -> Any:
    """Of the toolkit, which is slow to import and does so in a way that Python warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_model_optimization as toolkit
    return toolkit.quantization.keras.quantizers
