"""Channels of like size: the same function, which int8 represents better.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section
4.1: ReLU, maximum and average commute with a positive factor for each channel, so what a convolution's
channel is divided by, all that read it can be multiplied by. They balance the weights of neighbours. Weights
have a scale for each output channel here, so it is the activation, which has one scale for all channels, that
is balanced against the weights that read it, as in Xiao et al., "SmoothQuant", ICML 2023, equation 4 with
alpha = 0.5. Both are taken in units of the size that the weights suggest: so whatever factors channels had
before, the same network comes out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetl.keras.network import Array, Layers, copy_weights, make_layers

Sizes = NDArray[np.float64]
LARGEST_FACTOR = 1024.0  # keeps all numbers far from the ends of float32, whatever was measured
LEAST_SHARE = 1 / 8  # of the size that a channel's weights suggest


def equalized(layers: Layers, channel_highs: Sequence[NDArray[np.float32]]) -> Layers:
    """New layers that compute what `layers` do, with each convolution's channels divided by factors.

    channel_highs: for each convolution, the largest activation of each channel [C] on calibration images.
    Raises `ValueError` when they are not finite, negative, or not those of this network.
    """
    shapes = [(layer.filters,) for layer in layers.convolutions]
    if [np.shape(highs) for highs in channel_highs] != shapes:
        raise ValueError(f"channel maxima of shapes {shapes} are needed")
    if not all((highs >= 0).all() and np.isfinite(highs).all() for highs in channel_highs):
        raise ValueError("channel maxima are finite and at least 0")
    made = make_layers(layers.network, layers.spec)
    copy_weights(layers, made)
    for number, (seen, suggested) in enumerate(_sizes(layers, channel_highs)):
        read = _read_weights(made, number, suggested)
        _divide(made, number, _factors(seen, suggested, read))
    return made


def _sizes(layers: Layers, channel_highs: Sequence[Array]) -> list[tuple[Sizes, Sizes]]:
    """For each convolution how large its channels [C] were seen to be, and how large its weights suggest.

    Maxima far below what the weights suggest are those of rare features, and say little of other images. Of
    the last convolution nearly all are: other images exceed what 64 had shown of a channel by a factor of 5
    and more, and to give each the whole range cost VGG16 13 dB. There the weights alone decide.
    """
    sizes = []
    read = np.ones(3, np.float32)  # red, green and blue are alike
    for layer, highs in zip(layers.convolutions, channel_highs, strict=True):
        kernel = layer.get_weights()[0]
        suggested = np.sqrt(np.square(kernel * read[:, None], dtype=np.float64).sum(axis=(0, 1, 2)))
        alive = (highs > 0) & (suggested > 0)
        suggested *= np.median(highs[alive] / suggested[alive]) if alive.any() else 1.0
        last = layer is layers.convolutions[-1]
        sizes.append((suggested if last else np.maximum(highs, LEAST_SHARE * suggested), suggested))
        read = highs
    return sizes


def _factors(seen: Sizes, suggested: Sizes, read: Sizes | None) -> Array:
    """[C] what to divide channels by; their geometric mean is 1, and so is that of a channel without effect.

    Seen and suggested sizes as `_sizes` gives them; how much the weights that read channels in int8 count.
    None: nothing reads them in int8, so that only the channels are made alike.
    """
    counts = np.ones(len(seen)) if read is None else read
    wanted = np.sqrt(seen * suggested / np.where(counts > 0, counts, 1))
    alive = (wanted > 0) & (counts > 0)
    factors = np.ones(len(seen))
    if alive.any():
        factors[alive] = wanted[alive] / np.exp(np.log(wanted[alive]).mean())
    return np.clip(factors, 1 / LARGEST_FACTOR, LARGEST_FACTOR).astype(np.float32)


def _read_weights(layers: Layers, number: int, suggested: Sizes) -> Sizes | None:
    """[C] how much each channel of a convolution counts where int8 weights read it, 0..1.

    The largest product of a weight and the channel's suggested size, as a share of the largest of all
    channels, which sets the scale; the quadratic mean over those who read. None where only the last Dense
    layer reads, which stays float.
    """
    convolutions = layers.convolutions
    if number + 1 < len(convolutions):
        kernel = convolutions[number + 1].get_weights()[0]
    elif len(layers.dense) > 1:
        kernel = layers.dense[0].get_weights()[0]
    else:
        return None
    largest = np.abs(kernel).reshape(-1, len(suggested), kernel.shape[-1]).max(axis=0)
    products = largest * suggested[:, None]  # [C, O]
    highest = products.max(axis=0)
    shares: Sizes = np.sqrt(np.square(products / np.where(highest > 0, highest, 1)).mean(axis=1))
    return shares


def _divide(layers: Layers, number: int, factors: Array) -> None:
    """Divide the channels of a convolution's output, and multiply the weights of all that read them."""
    convolutions = layers.convolutions
    kernel, bias = convolutions[number].get_weights()
    convolutions[number].set_weights([kernel / factors, bias / factors])
    if number + 1 < len(convolutions):
        kernel, bias = convolutions[number + 1].get_weights()
        convolutions[number + 1].set_weights([kernel * factors[:, None], bias])
    rows = _rows(layers, convolutions[number])
    if rows.stop > rows.start:
        kernel, bias = layers.dense[0].get_weights()
        kernel[rows] *= np.tile(factors, (rows.stop - rows.start) // len(factors))[:, None]
        layers.dense[0].set_weights([kernel, bias])


def _rows(layers: Layers, convolution: Any) -> slice:
    """The rows of the head's first kernel that read a convolution: its features, or none.

    They lie by blocks, then places, then channels, as `network.whole` makes them.
    """
    ends = [layers.blocks[block][-2] for block in layers.pools]  # before the maximum that ends a block
    places = layers.features // sum(end.filters for end in ends)
    if convolution not in ends:
        return slice(0, 0)
    start = places * sum(end.filters for end in ends[: ends.index(convolution)])
    return slice(start, start + places * convolution.filters)
