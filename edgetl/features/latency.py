"""What each int8 convolution costs on this machine, for any number of channels.

ONNX Runtime's own profiler tells the time of every node of networks with random weights and several widths;
between them, a layer's time grows with the product of its channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetl.card import InputSpec
from edgetl.compression.widths import aligned
from edgetl.config import Block
from edgetl.engines.profile import node_times
from edgetl.features.graph import INPUT, TrunkWeights, averages_of, only, trunk_graph
from edgetl.progress import silenced, task
from edgetl.quantize.onnx import to_int8
from edgetl.vgg16 import COLOURS, conv_shapes, widths_up_to

_SHARES = (1.0, 0.5, 0.25, 0.125)


@dataclass(frozen=True)
class LayerTimes:
    """One convolution: milliseconds of one image at several products of its channels, both ascending."""

    products: tuple[float, ...]
    times_ms: tuple[float, ...]

    def at(self, product: float) -> float:
        """Milliseconds; beyond what was measured, on the line through the two nearest."""
        if product < self.products[0]:
            slope = (self.times_ms[1] - self.times_ms[0]) / (self.products[1] - self.products[0])
            return float(max(self.times_ms[0] / 2, self.times_ms[0] + slope * (product - self.products[0])))
        return float(np.interp(product, self.products, self.times_ms))


@dataclass(frozen=True)
class LatencyTable:
    """All convolutions up to a cut, and what the rest takes."""

    layers: tuple[LayerTimes, ...]
    rest_ms: float

    def of(self, widths: Sequence[int]) -> float:
        """Milliseconds of one image through a network with these channels, which may end earlier."""
        return self.rest_ms + sum(self.each(widths))

    def each(self, widths: Sequence[int]) -> tuple[float, ...]:
        """Milliseconds of each convolution."""
        inputs = (COLOURS, *widths[:-1])
        known = self.layers[: len(widths)]
        return tuple(
            layer.at(before * after) for layer, before, after in zip(known, inputs, widths, strict=True)
        )


def measure(spec: InputSpec, cut: Block) -> LatencyTable:
    """Profile int8 networks of several widths, in turn on this machine; a few seconds."""
    profiled = []
    with task("measuring how long layers take", len(_SHARES)) as advance:
        for share in _SHARES:
            widths = aligned([share * width for width in widths_up_to(cut)])
            with silenced():
                profiled.append((widths, *_profile(spec, cut, widths)))
            advance(1)
    layers = []
    for number in range(len(profiled[0][0])):
        points = {
            float((widths[number - 1] if number else COLOURS) * widths[number]): times[number]
            for widths, times, _ in reversed(profiled)
        }
        rising = np.maximum.accumulate(list(points.values())).tolist()
        layers.append(LayerTimes(tuple(points), tuple(rising)))
    return LatencyTable(tuple(layers), profiled[-1][2])


def _profile(spec: InputSpec, cut: Block, widths: Sequence[int]) -> tuple[NDArray[np.float64], float]:
    """Milliseconds of each convolution, in order, and of all else: medians over runs of one image."""
    random = np.random.default_rng(0)
    shapes = conv_shapes(cut, widths)
    kernels = [
        random.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape).astype(np.float32) for shape in shapes
    ]
    weights = TrunkWeights(tuple(kernels), tuple(np.zeros(width, np.float32) for width in widths))
    pixels = random.integers(0, 256, (2, spec.height, spec.width, 3), np.uint8)
    graph = only(to_int8(trunk_graph(weights, spec, cut), pixels), [averages_of(cut)])
    nodes = node_times(graph.SerializeToString(), INPUT, pixels[:1])
    heavy = [time_ms for operator, time_ms in nodes if operator == "QLinearConv"]
    if len(heavy) != len(widths):
        raise RuntimeError(f"{len(heavy)} of {len(widths)} convolutions ran in int8")
    return np.array(heavy), sum(time_ms for _, time_ms in nodes) - sum(heavy)
