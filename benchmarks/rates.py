"""The ratios that plans are made with: int8 and training against float32 inference in ONNX Runtime.

`python benchmarks/rates.py` takes about a minute.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
from common import publish, table

from edgetl.card import InputSpec, Network
from edgetl.config import Block, FeaturePrecision, Head
from edgetl.engines.onnx import session_of
from edgetl.features.graph import INPUT, TrunkWeights, averages_of, only, trunk_graph
from edgetl.keras import tf
from edgetl.keras.network import make_layers, whole
from edgetl.quantize.onnx import to_int8
from edgetl.vgg16 import conv_shapes, multiplications

SIDE, BATCH, ROUNDS = 64, 32, 7
LAST = Block.BLOCK4


def main() -> None:
    """All engines in turn, round by round; medians."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)
    work = {
        "ONNX Runtime, float32": inference(FeaturePrecision.FP32, pixels),
        "ONNX Runtime, int8": inference(FeaturePrecision.INT8, pixels),
        "TensorFlow training, float32": training("float32", pixels),
        "TensorFlow training, bfloat16": training("bfloat16", pixels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, once in work.items():
            started = time.perf_counter()
            once()
            seconds[name].append(time.perf_counter() - started)
    macs = BATCH * multiplications(SIDE, SIDE, None, LAST)
    rate = {
        name: (3 if "training" in name else 1) * macs / statistics.median(found)
        for name, found in seconds.items()
    }
    base = rate["ONNX Runtime, float32"]
    rows = [(name, f"{found / 1e9:.0f}", f"{found / base:.2f}") for name, found in rate.items()]
    text = (
        f"Trunk up to {LAST}, {SIDE} pixels, batches of {BATCH}, {ROUNDS} rounds in turn, medians. Training counts "
        "three times the multiply-adds of inference.\n\n"
        + table(("work", "giga multiply-adds / s", "ratio"), rows)
    )
    publish("rates", "Ratios that plans are made with", text)


def inference(precision: FeaturePrecision, pixels: np.ndarray) -> Callable[[], object]:
    """One batch through the trunk."""
    random = np.random.default_rng(0)
    shapes = conv_shapes(LAST)
    kernels = tuple((random.standard_normal(s) / np.sqrt(9 * s[2])).astype(np.float32) for s in shapes)
    weights = TrunkWeights(kernels, tuple(np.zeros(shape[3], np.float32) for shape in shapes))
    graph = trunk_graph(weights, spec(), LAST)
    if precision is FeaturePrecision.INT8:
        graph = to_int8(graph, pixels[:4])
    session = session_of(only(graph, [averages_of(LAST)]).SerializeToString())
    return lambda: session.run(None, {INPUT: pixels})


def training(arithmetic: str, pixels: np.ndarray) -> Callable[[], object]:
    """One step of gradient descent on one batch."""
    model = whole(make_layers(Network(LAST, Head.GAP, (LAST,), 0, 10), spec(), 0, arithmetic))
    labels = np.arange(BATCH) % 10

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.keras.losses.sparse_categorical_crossentropy(labels, model(pixels)))
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
        ):
            variable.assign_sub(1e-6 * gradient)

    step()
    return step


def spec() -> InputSpec:
    """Of the network that is timed."""
    return InputSpec(SIDE, SIDE, (120.0, 120.0, 120.0), 1 / 64, (255, 255, 255), 1)


if __name__ == "__main__":
    main()
