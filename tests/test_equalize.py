"""Equalization: the same function whatever the channels' sizes were, and int8 that no longer suffers from them."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("tensorflow", exc_type=ImportError)

from edgetl.card import InputSpec, Network
from edgetl.config import Block, Head
from edgetl.engines.onnx import OnnxClassifier
from edgetl.keras.classifier import KerasClassifier
from edgetl.keras.equalize import LARGEST_FACTOR, LEAST_SHARE, _factors, _sizes, equalized
from edgetl.keras.network import copy_weights, make_layers, whole
from edgetl.keras.to_onnx import to_onnx
from edgetl.quantize.onnx_int8 import calibrate
from edgetl.quantize.recipe import Recipe
from edgetl.vgg16 import block_below

POOLED = [head for head in Head if head is not Head.FLATTEN]
SEEN = [*product(POOLED, (1, 2)), (Head.FLATTEN, 1)]
HEIGHT, WIDTH = 32, 36


def network(head=Head.GAP, scales=1, cut=Block.BLOCK2):
    """A random network with biases, whose logits are of usual size."""
    seen = (cut,) if scales == 1 else (block_below(cut), cut)
    hidden = 16 if head is Head.FLATTEN else 0
    spec = InputSpec(HEIGHT, WIDTH, (120.0, 110.0, 100.0), 1 / 64, (255, 255, 255), 1)
    layers = make_layers(Network(cut, head, seen, hidden, 3), spec)
    whole(layers)
    random = np.random.default_rng(0)
    for layer in (*layers.convolutions, *layers.dense):
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel, random.normal(scale=0.1, size=bias.shape)])
    return layers


def images(count, seed=0):
    """Blocks of colours with noise."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (count, 6, 6, 3)).repeat(6, 1).repeat(6, 2)[:, :HEIGHT, :WIDTH]
    return np.clip(blocks + random.integers(-20, 20, blocks.shape), 0, 255).astype(np.uint8)


def rescaled(layers, scales):
    """The same function with channels of each convolution multiplied by scales [C], undone where they are read."""
    made = make_layers(layers.network, layers.spec)
    copy_weights(layers, made)
    below = None
    for number, (layer, scale) in enumerate(zip(made.convolutions, scales, strict=True)):
        kernel, bias = layer.get_weights()
        kernel = kernel if number == 0 else kernel / below[:, None]
        layer.set_weights([kernel * scale, bias * scale])
        below = scale
    kernel, bias = made.dense[0].get_weights()
    seen, number = [], 0
    for block, steps in made.blocks.items():
        number += len(steps) - 1
        if block in made.network.scales:
            seen.append(scales[number - 1])
    places = len(kernel) // sum(map(len, seen))
    rows = np.concatenate([np.tile(scale, places) for scale in seen])
    made.dense[0].set_weights([kernel / rows[:, None], bias])
    return made


def random_scales(layers, decades, seed=0):
    random = np.random.default_rng(seed)
    return [
        (10 ** random.uniform(-decades, decades, layer.filters)).astype(np.float32)
        for layer in layers.convolutions
    ]


def highs_of(layers, pixels):
    return [seen.channel_highs for seen in calibrate(to_onnx(layers), pixels).activations]


@pytest.mark.parametrize(("head", "scales"), SEEN)
def test_the_function_stays_to_rounding(head, scales):
    layers = network(head, scales)
    pixels = images(6)
    wanted = KerasClassifier(layers)(pixels)
    wild = rescaled(layers, random_scales(layers, 3))
    assert_allclose(KerasClassifier(wild)(pixels), wanted, atol=1e-5)
    for start in (layers, wild):
        before = whole(start).get_weights()
        made = equalized(start, highs_of(start, pixels))
        assert_allclose(KerasClassifier(made)(pixels), wanted, atol=1e-5)
        for old, new in zip(before, whole(start).get_weights(), strict=True):
            assert_array_equal(new, old)
    assert made.network == layers.network
    assert all((layer.get_weights()[0] != 0).all() for layer in made.convolutions)


@pytest.mark.parametrize(("head", "scales"), [(Head.MAX, 2), (Head.FLATTEN, 1)])
def test_three_blocks_and_maxima_that_have_nothing_to_do_with_the_network(head, scales):
    layers = network(head, scales, Block.BLOCK3)
    random = np.random.default_rng(0)
    highs = [10 ** random.uniform(-9, 9, layer.filters).astype(np.float32) for layer in layers.convolutions]
    highs[2][:] = 0
    highs[3][::2] = 0
    pixels = images(4)
    found = KerasClassifier(equalized(layers, highs))(pixels)
    assert_allclose(found, KerasClassifier(layers)(pixels), atol=1e-5)


@pytest.mark.parametrize(("head", "scales"), [(Head.GAP, 2), (Head.FLATTEN, 1)])
def test_how_channels_were_scaled_before_does_not_matter(head, scales):
    """Up to a factor for all channels of a layer, which scales of tensors take up."""
    layers = network(head, scales)
    wild = rescaled(layers, random_scales(layers, 1.5))
    pixels = images(6)
    made = [equalized(start, highs_of(start, pixels)) for start in (layers, wild)]
    for one, other in zip(made[0].convolutions, made[1].convolutions, strict=True):
        ratio = other.get_weights()[0] / one.get_weights()[0]
        assert_allclose(ratio, np.full_like(ratio, np.median(ratio)), rtol=1e-3)


def logits(answers):
    values = np.log(answers)
    return values - values.mean(axis=1, keepdims=True)


def sqnr(wanted, found):
    return 10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum())


@pytest.mark.parametrize("head", [Head.GAP, Head.GRID])
def test_int8_recovers_from_channels_of_very_different_sizes(head):
    """On images that calibration did not see."""
    layers = network(head, 2)
    wild = rescaled(layers, random_scales(layers, 2))
    pixels, others = images(16), images(64, seed=1)
    wanted = logits(KerasClassifier(layers)(others))
    repaired = equalized(wild, highs_of(wild, pixels))
    plain, broken, again = (
        sqnr(wanted, logits(OnnxClassifier(int8(start, pixels))(others)))
        for start in (layers, wild, repaired)
    )
    assert plain > 25
    assert broken < plain - 10
    assert again > plain - 3


def int8(layers, pixels):
    return calibrate(to_onnx(layers), pixels).build(Recipe()).SerializeToString()


ONES = np.ones(4)


def test_a_channel_and_the_weights_that_read_it_get_the_same_share_of_their_ranges():
    seen, read = np.array([1.0, 100.0, 4.0, 3.0]), np.array([0.5, 0.5, 0.01, 0.0])
    factors = _factors(seen, ONES, read)
    quotients = (seen / factors)[:3] / (read * factors)[:3]
    assert_allclose(quotients, quotients[0], rtol=1e-5)
    assert_allclose(np.prod(factors), 1, rtol=1e-5)
    assert factors[3] == 1, "nothing reads it"


def test_channels_that_only_floats_read_become_alike():
    sizes = np.array([1.0, 100.0, 0.0, 10.0])
    factors = _factors(sizes, sizes, None)
    assert_allclose((sizes / factors)[[0, 1, 3]], 10, rtol=1e-6)
    assert factors[2] == 1


def test_factors_are_bounded_and_nothing_at_all_changes_nothing():
    sizes = np.array([1e-30, 1.0, 1.0, 1e30])
    assert_allclose(_factors(sizes, sizes, None), [1 / LARGEST_FACTOR, 1, 1, LARGEST_FACTOR])
    assert_array_equal(_factors(0 * ONES, ONES, None), ONES)
    assert_array_equal(_factors(ONES, ONES, 0 * ONES), ONES)


def test_what_calibration_hardly_saw_is_judged_by_its_weights():
    layers = network()
    pixels = images(6)
    highs = highs_of(layers, pixels)
    usual = _sizes(layers, highs)
    assert all((values > 0).any() for values in highs)
    for number in range(3):
        floors = np.maximum(highs[number], LEAST_SHARE * usual[number][1])
        assert_allclose(usual[number][0], floors, err_msg="channels that were active: their maxima")
    rare = [values.copy() for values in highs]
    rare[1][3], rare[1][4] = 0, 1e-9
    rare[3][:] = rare[3][::-1]
    found = _sizes(layers, rare)
    for channel in (3, 4):
        assert found[1][0][channel] == LEAST_SHARE * found[1][1][channel]
    seen, suggested = found[3]
    assert_array_equal(seen, suggested, err_msg="the last convolution: never by maxima")
    assert_allclose(seen / seen[0], usual[3][0] / usual[3][0][0], rtol=0.05)


@pytest.mark.parametrize(
    "change",
    [
        lambda highs: highs[:-1],
        lambda highs: [*highs[:-1], highs[-1][:-1]],
        lambda highs: [-highs[0], *highs[1:]],
        lambda highs: [*highs[:-1], np.full_like(highs[-1], np.nan)],
        lambda highs: [*highs[:-1], np.full_like(highs[-1], np.inf)],
    ],
)
def test_other_maxima_are_refused(change):
    layers = network()
    highs = [np.ones(layer.filters, np.float32) for layer in layers.convolutions]
    with pytest.raises(ValueError, match="channel maxima"):
        equalized(layers, change(highs))
