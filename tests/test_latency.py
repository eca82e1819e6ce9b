"""What layers cost: measured node by node, and between what was measured on a rising line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetl.card import InputSpec
from edgetl.config import Block
from edgetl.engines.profile import node_times
from edgetl.features.graph import INPUT, TrunkWeights, averages_of, only, trunk_graph
from edgetl.features.latency import LatencyTable, LayerTimes, measure
from edgetl.vgg16 import conv_shapes, widths_up_to

SPEC = InputSpec(32, 32, (120.0, 115.0, 105.0), 1 / 64, (255, 255, 255), 1)


def line(*times):
    return LayerTimes(tuple(10.0 * 4**n for n in range(len(times))), times)


@given(st.floats(1, 1000), st.floats(1, 1000))
def test_more_channels_never_cost_less(one, other):
    layer = line(0.1, 0.1, 0.5, 2.0)
    less, more = sorted((one, other))
    assert 0 < layer.at(less) <= layer.at(more) <= 2.0


def test_measured_points_are_met_and_a_network_is_the_sum_of_its_layers():
    layer = line(0.1, 0.5)
    assert [layer.at(10), layer.at(40)] == [0.1, 0.5]
    table = LatencyTable((line(0.1, 0.2), line(0.3, 0.5)), rest_ms=1.0)
    widths = (10, 4)
    assert table.of(widths) == pytest.approx(1.0 + sum(table.each(widths)))
    assert table.each(widths) == (table.layers[0].at(30), table.layers[1].at(40))
    assert table.of(widths[:1]) == pytest.approx(1.0 + table.layers[0].at(30))


def test_the_profiler_tells_every_convolution():
    random = np.random.default_rng(0)
    shapes = conv_shapes(Block.BLOCK2, (16, 16, 32, 32))
    kernels = tuple(random.normal(0, 0.1, shape).astype(np.float32) for shape in shapes)
    weights = TrunkWeights(kernels, tuple(np.zeros(shape[3], np.float32) for shape in shapes))
    graph = only(trunk_graph(weights, SPEC, Block.BLOCK2), [averages_of(Block.BLOCK2)])
    pixels = random.integers(0, 256, (1, 32, 32, 3), np.uint8)
    found = node_times(graph.SerializeToString(), INPUT, pixels)
    assert sum("Conv" in operator for operator, _ in found) == 4
    assert all(time_ms >= 0 for _, time_ms in found)


def test_a_measured_table_knows_every_layer():
    table = measure(SPEC, Block.BLOCK2)
    whole = widths_up_to(Block.BLOCK2)
    assert len(table.each(whole)) == 4
    assert 0 < table.of((16, 16, 16, 16)) <= table.of(whole)
