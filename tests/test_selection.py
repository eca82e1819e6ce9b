"""Which channels are kept: by what they explain of the next layer, against direct least squares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetl.compression.selection import contributions, rank, refit, together

seeds = st.integers(0, 10_000)


def layer(seed, channels=6, outputs=4, rows=200, taps=9):
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(channels, channels)) * random.uniform(0.1, 3, channels)
    patches = (random.normal(size=(rows, taps, channels)) @ mixing).astype(np.float32)
    return patches, random.normal(size=(taps, channels, outputs)).astype(np.float32)


def explained(patches, kernel, kept):
    """Power of the sums that one factor for each kept channel leaves over, as a share."""
    parts = np.einsum("ntc,tcm->nmc", patches, kernel).reshape(-1, kernel.shape[1])
    whole = parts.sum(axis=1)
    factors, *_ = np.linalg.lstsq(parts[:, kept], whole, rcond=None)
    return float(np.square(whole - parts[:, kept] @ factors).sum() / np.square(whole).sum())


@settings(max_examples=25)
@given(seeds)
def test_what_is_missing_is_what_least_squares_leaves(seed):
    patches, kernel = layer(seed)
    ranking = rank(contributions(patches, kernel))
    for count in range(1, len(ranking.order) + 1):
        wanted = explained(patches, kernel, ranking.kept(count))
        assert ranking.missing[count - 1] == pytest.approx(wanted, abs=1e-3)


@settings(max_examples=25)
@given(seeds)
def test_more_channels_never_explain_less(seed):
    ranking = rank(contributions(*layer(seed)))
    assert sorted(ranking.order.tolist()) == list(range(6))
    assert (np.diff(ranking.missing) <= 1e-12).all()
    assert ranking.missing[-1] == pytest.approx(0, abs=1e-3)


@settings(max_examples=25)
@given(seeds)
def test_the_first_channel_is_the_best_single_one(seed):
    patches, kernel = layer(seed)
    ranking = rank(contributions(patches, kernel))
    alone = [explained(patches, kernel, [channel]) for channel in range(6)]
    assert alone[ranking.order[0]] == pytest.approx(min(alone), abs=1e-4)


def test_a_copy_of_a_channel_and_a_dead_one_come_last():
    patches, kernel = layer(1)
    patches[:, :, 4] = 0
    patches[:, :, 5], kernel[:, 5] = patches[:, :, 0], kernel[:, 0]
    order = rank(contributions(patches, kernel)).order.tolist()
    assert 4 in order[-2:]
    assert {0, 5} & set(order[-2:])


def test_a_layer_that_gives_nothing_misses_nothing():
    patches, kernel = layer(0)
    ranking = rank(contributions(patches, np.zeros_like(kernel)))
    assert sorted(ranking.order.tolist()) == list(range(6))
    assert ranking.missing.tolist() == [0] * 6


def test_channels_that_two_layers_read_count_for_both():
    one, other = layer(2), layer(3)
    both = together([contributions(*one), contributions(*other)])
    assert both.power == 2
    assert np.allclose(both.gram, sum(c.gram / c.power for c in (contributions(*one), contributions(*other))))
    same = rank(together([contributions(*one)])).order
    assert same.tolist() == rank(contributions(*one)).order.tolist()


@settings(max_examples=25)
@given(seeds)
def test_new_weights_are_those_of_least_squares(seed):
    random = np.random.default_rng(seed)
    inputs = (random.normal(size=(80, 5)) + 3).astype(np.float32)
    outputs = random.normal(size=(80, 3)).astype(np.float32)
    weights, bias = refit(inputs, outputs, np.zeros((5, 3), np.float32), ridge=0)
    found, *_ = np.linalg.lstsq(np.c_[inputs, np.ones(80)], outputs, rcond=None)
    np.testing.assert_allclose(weights, found[:-1], atol=2e-3)
    np.testing.assert_allclose(bias, found[-1], atol=1e-2)


def test_a_strong_ridge_keeps_the_weights_there_were():
    random = np.random.default_rng(0)
    before = random.normal(size=(5, 3)).astype(np.float32)
    inputs, outputs = random.normal(size=(2, 60, 8)).astype(np.float32)[..., :5], random.normal(size=(60, 3))
    weights, _ = refit(inputs[0], outputs.astype(np.float32), before, ridge=1e6)
    np.testing.assert_allclose(weights, before, atol=1e-3)
