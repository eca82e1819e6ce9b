"""What calibration keeps of activations, whatever they are and in whatever order they come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from edgetl.quantize.ranges import BINS, LEVELS, Activation, covered, tap_means

CHANNELS = 3


@st.composite
def batches(draw):
    """One to four arrays [N, C, H, W] >= 0 of very different sizes, with many zeros."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.integers(1, 3)), CHANNELS, draw(st.integers(1, 5)), draw(st.integers(1, 5))
        scale = 10.0 ** draw(st.integers(-12, 12))
        found.append(np.maximum(random.normal(size=shape) * scale, 0).astype(np.float32))
    return found


def seen(arrays):
    activation = Activation(CHANNELS)
    for values in arrays:
        activation.add(values)
    return activation


@given(batches())
def test_the_histogram_counts_every_number_in_its_bin(arrays):
    activation = seen(arrays)
    everything = np.concatenate([values.ravel() for values in arrays])
    assert activation.counts.sum() == everything.size
    assert activation.top > activation.high == everything.max()
    assert np.log2(activation.top) % 1 == 0
    wanted, _ = np.histogram(everything, bins=BINS, range=(0, activation.top))
    assert_array_equal(activation.counts, wanted)


@given(batches())
def test_the_order_of_images_does_not_matter(arrays):
    forward, backward = seen(arrays), seen(arrays[::-1])
    assert_array_equal(forward.counts, backward.counts)
    assert_array_equal(forward.channel_highs, backward.channel_highs)
    assert_allclose(forward.channel_means, backward.channel_means, rtol=1e-6)
    assert (forward.high, forward.top, forward.images) == (backward.high, backward.top, backward.images)


@given(batches())
def test_channels_are_measured_one_by_one(arrays):
    activation = seen(arrays)
    assert_array_equal(activation.channel_highs, np.max([v.max(axis=(0, 2, 3)) for v in arrays], axis=0))
    of_images = np.concatenate([values.astype(np.float64).mean(axis=(2, 3)) for values in arrays])
    assert_allclose(activation.channel_means, of_images.mean(axis=0), rtol=1e-5)


def test_doubling_keeps_the_counts_and_merges_neighbours():
    small, large = (np.full((1, CHANNELS, 1, 1), value, np.float32) for value in (0.75, 200.0))
    activation = seen([small])
    assert activation.top == 1
    assert np.flatnonzero(activation.counts).tolist() == [0.75 * BINS]
    activation.add(large)
    assert activation.top == 256
    assert np.flatnonzero(activation.counts).tolist() == [0.75 * BINS // 256, 200 * BINS // 256]
    assert activation.counts.sum() == 2 * CHANNELS


def test_another_layout_in_memory_is_the_same():
    values = np.maximum(np.random.default_rng(0).normal(size=(2, 5, 4, CHANNELS)), 0).astype(np.float32)
    view, copy = values.transpose(0, 3, 1, 2), np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    assert_array_equal(seen([view]).counts, seen([copy]).counts)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, -1e-30])
def test_numbers_that_no_relu_gives_are_refused(bad):
    values = np.ones((1, CHANNELS, 2, 2), np.float32)
    values[0, 1, 1, 0] = bad
    activation = seen([np.ones_like(values)])
    with pytest.raises(ValueError, match="finite and at least 0"):
        activation.add(values)
    assert (activation.images, activation.counts.sum()) == (1, values.size), "nothing of it was counted"


@pytest.mark.parametrize("shape", [(1, CHANNELS + 1, 2, 2), (CHANNELS, 2, 2), (0, CHANNELS, 2, 2)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="are needed"):
        Activation(CHANNELS).add(np.ones(shape, np.float32))


@given(batches())
def test_clipping_stays_within_the_range_and_never_expects_more_error(arrays):
    activation = seen(arrays)
    end = activation.clipped_high()
    assert 0 <= end <= activation.high
    if end > 0:
        clipped, whole = activation.squared_errors(np.array([end, activation.high]))
        assert clipped <= whole


def test_nothing_seen_and_only_zeros():
    assert Activation(CHANNELS).clipped_high() == 0
    assert_array_equal(Activation(CHANNELS).channel_means, np.zeros(CHANNELS))
    activation = seen([np.zeros((2, CHANNELS, 4, 4), np.float32)])
    assert activation.clipped_high() == 0
    assert activation.counts[0] == activation.counts.sum() == 2 * CHANNELS * 16


def rounded(values, end):
    """What an 8-bit range [0, end] makes of numbers."""
    step = end / LEVELS
    return np.minimum(np.rint(values / step), LEVELS) * step


@pytest.mark.parametrize("tail", [0.0, 3.0])
def test_clipping_lowers_the_real_error_of_heavy_tails_and_keeps_uniform_ranges(tail):
    random = np.random.default_rng(0)
    values = random.uniform(0, 1, (20, CHANNELS, 128, 128)).astype(np.float32)
    values[random.uniform(size=values.shape) < 0.5] = 0
    values[0, 0, 0, 0] += tail
    activation = seen([values])
    end = activation.clipped_high()
    if tail == 0:
        assert end > 0.98 * activation.high
    else:
        assert end < 0.9 * activation.high
    ends = np.array([end, activation.high])
    clipped, whole = (np.mean((rounded(values, high) - values) ** 2, dtype=np.float64) for high in ends)
    assert clipped <= 1.01 * whole
    assert_allclose([clipped, whole], activation.squared_errors(ends), rtol=0.1)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_tap_means_are_those_of_a_padded_convolution(height, width, seed):
    """The mean output of a convolution is its kernel times the taps' means."""
    random = np.random.default_rng(seed)
    maps, kernel = random.normal(size=(2, height, width)), random.normal(size=(2, 3, 3))
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
    outputs = [(padded[:, y : y + 3, x : x + 3] * kernel).sum() for y in range(height) for x in range(width)]
    assert_allclose((tap_means(maps) * kernel).sum(), np.mean(outputs), atol=1e-12)


def test_a_tap_at_the_side_reads_zeros():
    means = tap_means(np.ones((1, 6, 6)))
    assert_allclose(means[0], np.outer([5 / 6, 1, 5 / 6], [5 / 6, 1, 5 / 6]))


def test_what_calibrated_ranges_reach_is_a_share_of_the_values():
    def seen(values):
        activation = Activation(1)
        activation.add(np.array(values, np.float32).reshape(1, 1, 1, -1))
        return activation

    calibrated = seen([0.0, 1.0, 4.0])
    assert covered(calibrated, seen([0.0, 0.5, 3.0, 2.0])) == 1
    assert covered(calibrated, seen([0.0, 0.5, 3.0, 2.0, 9.0])) == 0.75
    assert covered(seen([0.0, 0.0]), seen([1.0, 2.0])) == 0
    assert covered(seen([0.0]), seen([0.0])) == 1
