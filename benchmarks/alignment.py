"""Which numbers of channels int8 kernels like: the same network with all widths around multiples of 16.

`python benchmarks/alignment.py` takes about five minutes.
"""

import statistics
from functools import partial

import numpy as np
from common import publish, seconds_alone, table

from edgetl.card import InputSpec, Network
from edgetl.config import Block, Format, Head, Precision
from edgetl.engines import classifier_of
from edgetl.images import PREPROCESSING_VERSION, WHITE
from edgetl.keras.network import make_layers, whole
from edgetl.keras.to_onnx import to_onnx
from edgetl.keras.to_tflite import to_tflite
from edgetl.quantize import onnx_int8, tflite_int8
from edgetl.quantize.recipe import Recipe
from edgetl.vgg16 import layer_multiplications, widths_up_to

SIDE, BATCH, ROUNDS = 64, 8, 15
WIDTHS = (28, 30, 32, 34, 36, 40, 44, 48, 56, 60, 62, 64)


def main() -> None:
    """All widths and engines in turn, round by round; medians."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)
    spec = InputSpec(SIDE, SIDE, (120.0, 115.0, 105.0), 1 / 64, WHITE, PREPROCESSING_VERSION)
    runs = {}
    for width in WIDTHS:
        widths = tuple(width for _ in widths_up_to(Block.BLOCK4))
        layers = make_layers(Network(Block.BLOCK4, Head.GAP, (Block.BLOCK4,), 0, 10, widths), spec)
        whole(layers)
        floats, lite = to_onnx(layers), to_tflite(layers)
        contents = {
            (Format.ONNX, Precision.FP32): floats.SerializeToString(),
            (Format.ONNX, Precision.INT8): onnx_int8.calibrate(floats, pixels)
            .build(Recipe())
            .SerializeToString(),
            (Format.TFLITE, Precision.INT8): tflite_int8.calibrate(lite, pixels).build(Recipe()),
        }
        for (form, precision), content in contents.items():
            runs[width, form, precision] = classifier_of(content, form, precision)
    times: dict = {key: [] for key in runs}
    for _ in range(ROUNDS):
        for key, classifier in runs.items():
            times[key].append(seconds_alone(partial(classifier, pixels)))
    rows = []
    for width in WIDTHS:
        widths = [width] * len(widths_up_to(Block.BLOCK4))
        macs = BATCH * sum(layer_multiplications(SIDE, SIDE, Block.BLOCK4, widths))
        found = [statistics.median(times[width, *kind]) for kind in KINDS]
        rows.append((str(width), *(f"{BATCH / s:.0f} ({macs / s / 1e9:.0f})" for s in found)))
    header = ("channels of every layer", "ONNX Runtime, float32", "ONNX Runtime, int8", "LiteRT, int8")
    text = (
        f"VGG16 up to block4 with the same number of channels everywhere, random weights, {SIDE} pixels, batch {BATCH}: "
        f"images/s and, in brackets, giga multiply-adds/s; medians of {ROUNDS} rounds in which all run in turn, each alone before it is timed.\n\n"
    )
    publish("alignment", "Numbers of channels that kernels like", text + table(header, rows))


KINDS = ((Format.ONNX, Precision.FP32), (Format.ONNX, Precision.INT8), (Format.TFLITE, Precision.INT8))

if __name__ == "__main__":
    main()
