"""The ladder of ever smaller networks."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgetl.compression.selection import Ranking
from edgetl.compression.widths import ALIGNED, aligned, ladder, parameters_of
from edgetl.config import Block
from edgetl.vgg16 import conv_shapes, layer_multiplications, widths_up_to


def ranking(channels, decay):
    return Ranking(np.arange(channels), np.exp(-decay * np.arange(1, channels + 1) / channels))


def multiplications(widths):
    return sum(layer_multiplications(64, 64, Block.BLOCK2, widths))


def rungs(decays=(5.0, 5.0, 5.0, 5.0), latency=multiplications):
    widths = widths_up_to(Block.BLOCK2)
    return list(ladder([ranking(w, d) for w, d in zip(widths, decays, strict=True)], latency))


def test_it_begins_whole_and_ends_with_the_least():
    found = rungs()
    assert found[0].widths == widths_up_to(Block.BLOCK2)
    assert found[-1].widths == (ALIGNED,) * 4
    assert found[0].damage == min(rung.damage for rung in found)


def test_each_step_takes_one_layer_to_the_next_number_that_kernels_like():
    found = rungs()
    for before, after in pairwise(found):
        changed = [(b, a) for b, a in zip(before.widths, after.widths, strict=True) if b != a]
        assert len(changed) == 1
        assert changed[0][0] - changed[0][1] == ALIGNED
        assert after.latency_ms < before.latency_ms
        assert after.parameters < before.parameters


def test_layers_that_matter_keep_more():
    middle = next(r for r in rungs((1.0, 5.0, 20.0, 5.0)) if r.parameters < 60_000)
    other = next(r for r in rungs((20.0, 5.0, 1.0, 5.0)) if r.parameters < 60_000)
    assert middle.widths[2] < other.widths[2]


def test_widths_that_are_no_multiples_go_down_to_one():
    found = list(ladder([ranking(20, 5.0), ranking(37, 5.0)], lambda widths: float(sum(widths))))
    assert found[0].widths == (20, 37)
    assert all(width % ALIGNED == 0 or width in {20, 37} for rung in found for width in rung.widths)


@given(st.lists(st.floats(1, 600), min_size=1, max_size=13))
def test_aligned_widths_are_near_and_positive(widths):
    for wanted, found in zip(widths, aligned(widths), strict=True):
        assert found % ALIGNED == 0
        assert found >= ALIGNED
        assert abs(found - max(wanted, ALIGNED)) <= ALIGNED / 2


def test_parameters_are_those_of_the_kernels():
    widths = (16, 32, 48, 16)
    shapes = conv_shapes(Block.BLOCK2, widths)
    assert parameters_of(widths) == sum(np.prod(shape) + shape[3] for shape in shapes)
