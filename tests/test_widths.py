"""How many channels are left: no more than limits allow, most where they matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetl.compression.selection import Ranking
from edgetl.compression.widths import ALIGNED, Limit, aligned, parameters_of, within
from edgetl.config import Block
from edgetl.vgg16 import conv_shapes, layer_multiplications, widths_up_to

WHOLE = widths_up_to(Block.BLOCK2)
COSTS = {
    "multiply-adds": lambda widths: sum(layer_multiplications(64, 64, Block.BLOCK2, widths)),
    "weights": parameters_of,
}


def rankings(*decays):
    shares = [np.exp(-decay * np.arange(1, w + 1) / w) for w, decay in zip(WHOLE, decays, strict=True)]
    return [Ranking(np.arange(len(missing)), missing) for missing in shares]


def limited(decays, **shares):
    """The network that is left where costs may only be these shares of the whole one's."""
    names = {"weights": "weights", "work": "multiply-adds"}
    limits = [Limit(COSTS[names[name]], share * COSTS[names[name]](WHOLE)) for name, share in shares.items()]
    return within(rankings(*decays), limits)


@settings(max_examples=30)
@given(st.sampled_from(sorted(COSTS)), st.floats(0.1, 1.5))
def test_a_network_is_within_its_limit_and_not_far_below(name, share):
    most = share * COSTS[name](WHOLE)
    found = within(rankings(5, 5, 5, 5), [Limit(COSTS[name], most)])
    assert COSTS[name](found) <= most
    assert found == WHOLE or COSTS[name](found) > 0.6 * most
    assert all(few % ALIGNED == 0 and 0 < few <= many for few, many in zip(found, WHOLE, strict=True))


def test_without_limits_nothing_goes():
    assert within(rankings(5, 5, 5, 5), []) == WHOLE


def test_what_even_the_smallest_network_exceeds_is_told():
    least = parameters_of((ALIGNED,) * 4)
    assert within(rankings(5, 5, 5, 5), [Limit(parameters_of, least)]) == (ALIGNED,) * 4
    assert within(rankings(5, 5, 5, 5), [Limit(parameters_of, least - 1)]) is None


def test_layers_that_matter_keep_more():
    one, other = limited((1, 5, 20, 5), weights=0.3), limited((20, 5, 1, 5), weights=0.3)
    assert one[2] < other[2]
    assert one[0] > other[0]


def test_the_limit_decides_where_channels_go():
    """Early layers have few weights and much work."""
    light, quick = limited((5, 5, 5, 5), weights=0.25), limited((5, 5, 5, 5), work=0.25)
    assert light[0] + light[1] > quick[0] + quick[1]
    both = limited((5, 5, 5, 5), weights=0.25, work=0.25)
    assert all(cost(both) <= 0.25 * cost(WHOLE) for cost in COSTS.values())


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
    assert pytest.approx(parameters_of(WHOLE)) == 260_160
