"""A network with fewer channels: nothing is lost that was not used, and little of what was."""

from types import SimpleNamespace

import numpy as np
import pytest

from edgetl.card import InputSpec, Network
from edgetl.config import Block, Head
from edgetl.keras.compressing import Larger, start_of, with_head
from edgetl.keras.inputs import in_batches
from edgetl.keras.network import features_model, make_layers, whole
from edgetl.keras.pruning import fit_head, pruned, rankings
from edgetl.measures import mean_kl
from edgetl.vgg16 import by_block

SPEC = InputSpec(32, 32, (120.0, 115.0, 105.0), 1 / 64, (255, 255, 255), 1)
FULL = (64, 64, 128, 128)
SOME = (32, 48, 48, 64)
HEADS = [
    (Head.GAP, (Block.BLOCK2,), 0),
    (Head.MAX, (Block.BLOCK1, Block.BLOCK2), 0),
    (Head.GRID, (Block.BLOCK1, Block.BLOCK2), 0),
    (Head.FLATTEN, (Block.BLOCK2,), 24),
]
each_head = pytest.mark.parametrize(("head", "scales", "hidden"), HEADS)


def network(head=Head.GAP, scales=(Block.BLOCK2,), hidden=0):
    layers = make_layers(Network(Block.BLOCK2, head, scales, hidden, 5), SPEC, seed=3)
    whole(layers)
    return layers


def pictures(count=24, seed=0):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(coarse + random.integers(-20, 20, (count, 32, 32, 3)), 0, 255).astype(np.uint8)


def answers(layers, pixels):
    return whole(layers).predict_on_batch(pixels)


def without(layers, dead):
    """The same network with some channels of each convolution that give nothing."""
    for layer, channels in zip(layers.convolutions, dead, strict=True):
        kernel, bias = layer.get_weights()
        kernel[..., channels], bias[channels] = 0, 0
        layer.set_weights([kernel, bias])
    return layers


@each_head
def test_channels_that_give_nothing_can_go_without_a_trace(head, scales, hidden):
    kept = [np.arange(many)[: few + 1] for many, few in zip(FULL, SOME, strict=True)]
    layers = without(
        network(head, scales, hidden), [np.arange(len(k), m) for k, m in zip(kept, FULL, strict=True)]
    )
    pixels = pictures()
    smaller = pruned(layers, kept, pixels, Block.BLOCK2)
    assert smaller.network.channels == tuple(len(channels) for channels in kept)
    np.testing.assert_allclose(answers(smaller, pixels), answers(layers, pixels), atol=2e-3)


@each_head
def test_rankings_find_what_gives_nothing(head, scales, hidden):
    dead = [np.arange(5, 40), np.arange(3, 20), np.arange(60), np.arange(80, 128)]
    layers = without(network(head, scales, hidden), dead)
    for found, channels, many in zip(rankings(layers, pictures()), dead, FULL, strict=True):
        alive = many - len(channels)
        assert set(found.order[:alive].tolist()).isdisjoint(channels.tolist())
        assert found.missing[alive - 1] == pytest.approx(0, abs=1e-3)


def test_fitted_weights_are_nearer_to_the_network_than_weights_left_as_they_were():
    layers, pixels = network(), pictures(48)
    ranked = rankings(layers, pixels)
    kept = [ranking.kept(few) for ranking, few in zip(ranked, SOME, strict=True)]
    fitted = pruned(layers, kept, pixels, Block.BLOCK2)
    plain = make_layers(fitted.network, SPEC)
    whole(plain)
    inputs = np.arange(3)
    for old, new, outputs in zip(layers.convolutions, plain.convolutions, kept, strict=True):
        kernel, bias = old.get_weights()
        new.set_weights([kernel[:, :, inputs][..., outputs], bias[outputs]])
        inputs = outputs
    plain.head[0].set_weights(fitted.head[0].get_weights())
    other = pictures(48, seed=9)
    before = answers(layers, other)
    assert mean_kl(before, answers(fitted, other)) < 0.7 * mean_kl(before, answers(plain, other))


def test_ranked_channels_are_better_than_others():
    layers, pixels = network(), pictures(48)
    ranked = rankings(layers, pixels)
    best = [ranking.kept(few) for ranking, few in zip(ranked, SOME, strict=True)]
    worst = [np.sort(ranking.order[-few:]) for ranking, few in zip(ranked, SOME, strict=True)]
    before = answers(layers, pixels)
    divergence = [
        mean_kl(before, answers(pruned(layers, k, pixels, Block.BLOCK2), pixels)) for k in (best, worst)
    ]
    assert divergence[0] < divergence[1]


def test_a_network_may_end_earlier_with_a_new_head():
    layers, pixels = network(Head.GAP, (Block.BLOCK1, Block.BLOCK2)), pictures(64)
    kept = [np.arange(32), np.arange(48)]
    smaller = pruned(layers, kept, pixels, Block.BLOCK1)
    assert smaller.network.scales == (Block.BLOCK1,)
    assert smaller.network.cut is Block.BLOCK1
    before = answers(layers, pixels)
    first = mean_kl(before, answers(smaller, pixels))
    fit_head(smaller, pixels, np.log(before))
    assert mean_kl(before, answers(smaller, pixels)) < first


@each_head
def test_compress_begins_with_any_head_that_may_learn_what_the_larger_network_knows(head, scales, hidden):
    layers, pixels = network(head, scales, hidden), pictures(64)
    lessons = SimpleNamespace(images=len(pixels), pixels=pixels, probabilities=answers(layers, pixels))
    larger = Larger(layers, rankings(layers, pixels), None, pixels, lessons, None)
    assert larger.heads == ((Head.MAX, Head.GAP) if head is Head.MAX else (head,))
    own = start_of(larger, SOME, Block.BLOCK2)
    chance = mean_kl(lessons.probabilities, np.full((64, 5), 0.2, np.float32))
    for kind in larger.heads:
        made = own if kind is head else with_head(larger, own, kind)
        assert (made.network.head, made.network.channels) == (kind, SOME)
        assert mean_kl(lessons.probabilities, answers(made, pixels)) < chance
        for one, other in zip(own.convolutions, made.convolutions, strict=True):
            np.testing.assert_array_equal(one.get_weights()[0], other.get_weights()[0])


def test_a_head_that_is_fitted_to_its_own_answers_stays_as_it_is():
    layers, pixels = network(), pictures(64)
    kernel, bias = layers.head[0].get_weights()
    features = in_batches(features_model(layers).predict_on_batch, pixels)
    fit_head(layers, pixels, features @ kernel + bias)
    np.testing.assert_allclose(layers.head[0].get_weights()[0], kernel, atol=1e-3)


def test_channels_of_a_block_are_the_last_ones_of_its_convolutions():
    found = Network(Block.BLOCK2, Head.GAP, (Block.BLOCK2,), 0, 5, (16, 32, 48, 64))
    assert found.block_channels == {Block.BLOCK1: 32, Block.BLOCK2: 64}
    assert by_block(found.channels, found.cut)[Block.BLOCK2] == (48, 64)
