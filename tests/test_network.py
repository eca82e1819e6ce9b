"""The network: what it computes, how its pieces share weights, and what is folded into them."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose
from trained import shapes, trained, trained_once  # noqa: F401

from edgetl.card import InputSpec, Network
from edgetl.config import Block, Head
from edgetl.errors import ModelFolderError, WeightsError
from edgetl.keras import tf_keras
from edgetl.keras.classifier import KerasClassifier, open_layers
from edgetl.keras.network import (
    HIDDEN_UNITS,
    above,
    activation_shape,
    all_blocks,
    below,
    copy_weights,
    fold_feature_scale,
    fold_temperature,
    make_layers,
    set_trunk,
    whole,
)
from edgetl.keras.weights import KERAS_MEAN_RGB
from edgetl.vgg16 import block_below, conv_shapes

CAFFE = (KERAS_MEAN_RGB, 1.0)


def layers_of(
    cut=Block.BLOCK2,
    head=Head.GAP,
    side=32,
    spec=((120.0, 110.0, 100.0), 1 / 64),
    seed=0,
    scales=1,
    arithmetic="float32",
):
    hidden = 16 if head is Head.FLATTEN else 0
    seen = (cut,) if scales == 1 else (block_below(cut), cut)
    height, width = side if isinstance(side, tuple) else (side, side)
    input_spec = InputSpec(height, width, *spec, (255, 255, 255), 1)
    return make_layers(Network(cut, head, seen, hidden, 3), input_spec, seed, arithmetic)


def noise(count=4, side=32, seed=0):
    height, width = side if isinstance(side, tuple) else (side, side)
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def same(value):
    """A feature scale that changes nothing."""
    return tf_keras.layers.Rescaling(1.0)(value)


def features_of(layers, pixels):
    """What the last Dense layer gets, which is what the head sees where there is no hidden layer."""
    model = whole(layers)
    return tf_keras.Model(model.input, model.get_layer("logits").input).predict_on_batch(pixels)


POOLED = [head for head in Head if head is not Head.FLATTEN]
SEEN = [*product(POOLED, (1, 2)), (Head.FLATTEN, 1)]


@pytest.mark.parametrize(("head", "scales"), SEEN)
@pytest.mark.parametrize("cut", [Block.BLOCK2, Block.BLOCK3])
def test_shapes_at_every_boundary(cut, head, scales):
    layers = layers_of(cut, head, scales=scales)
    model = whole(layers)
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, 3)
    assert [tuple(layer.kernel.shape) for layer in layers.convolutions] == list(conv_shapes(cut))
    for block in layers.blocks:
        assert below(layers, block).output_shape[1:] == activation_shape(layers, block)
    channels = sum(conv_shapes(scale)[-1][3] for scale in layers.network.scales)
    height, width, _ = activation_shape(layers, cut)
    positions = {Head.GRID: 4, Head.FLATTEN: height * width}.get(head, 1)
    assert layers.dense[0].input_shape[-1] == layers.features == positions * channels
    probabilities = KerasClassifier(layers)(noise())
    assert probabilities.dtype == np.float32
    assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("side", [32, 44, 80, (48, 72)])
def test_gap_is_the_mean_max_the_maximum_and_grid_the_means_of_the_quarters(side):
    """In the order rows, columns, channels; an odd side's quarters overlap. Equal seeds make equal trunks."""
    gap, highest, grid = (
        layers_of(Block.BLOCK3, head, side=side) for head in (Head.GAP, Head.MAX, Head.GRID)
    )
    pixels = noise(2, side)
    maps = below(gap, Block.BLOCK3).predict_on_batch(pixels)
    scale = np.abs(maps).max()
    assert_allclose(features_of(gap, pixels) / scale, maps.mean(axis=(1, 2)) / scale, atol=1e-5)
    assert_allclose(features_of(highest, pixels) / scale, maps.max(axis=(1, 2)) / scale, atol=1e-5)
    rows, columns = ((slice((n + 1) // 2), slice(n // 2, n)) for n in maps.shape[1:3])
    quarters = [maps[:, row, column].mean(axis=(1, 2)) for row in rows for column in columns]
    assert_allclose(features_of(grid, pixels) / scale, np.concatenate(quarters, 1) / scale, atol=1e-5)


@pytest.mark.parametrize("head", POOLED)
def test_two_scales_are_the_features_of_both_the_lower_first(head):
    both = layers_of(Block.BLOCK3, head, scales=2)
    pixels = noise()
    alone = [features_of(layers_of(cut, head), pixels) for cut in (Block.BLOCK2, Block.BLOCK3)]
    wanted = np.concatenate(alone, axis=1)
    assert_allclose(features_of(both, pixels), wanted, atol=1e-5 * np.abs(wanted).max())


def test_the_whole_of_vgg16():
    layers = layers_of(Block.BLOCK5, side=224)
    assert len(layers.convolutions) == 13
    assert activation_shape(layers, Block.BLOCK5) == (7, 7, 512)
    assert HIDDEN_UNITS == 1024


@pytest.mark.parametrize(("head", "scales"), SEEN)
def test_pieces_compute_what_the_whole_does(head, scales):
    layers = layers_of(Block.BLOCK3, head, scales=scales)
    images = noise()
    wanted = np.log(KerasClassifier(layers)(images))
    lowest = layers.network.scales[0]
    for boundary in (None, *(block for block in layers.blocks if block <= lowest)):
        start = images if boundary is None else below(layers, boundary).predict_on_batch(images)
        logits = above(layers, boundary, same).predict_on_batch(start)
        centred = logits - logits.mean(axis=1, keepdims=True)
        assert_allclose(centred, wanted - wanted.mean(axis=1, keepdims=True), atol=2e-4)


def test_above_trains_what_is_above_and_the_head():
    layers = layers_of(Block.BLOCK3, scales=2)
    counts = [
        len(above(layers, boundary, same).trainable_variables)
        for boundary in (None, Block.BLOCK1, Block.BLOCK2)
    ]
    assert counts == [2 * 7 + 2, 2 * 5 + 2, 2 * 3 + 2]
    assert len(all_blocks(layers)) == 7 + 3


def test_rgb_kernels_compute_exactly_what_keras_does_on_bgr():
    """`keras.applications` VGG16 behind its own preprocess_input, against ours on plain RGB."""
    theirs = tf_keras.applications.VGG16(
        weights=None, include_top=False, pooling="avg", input_shape=(64, 64, 3)
    )
    pairs = [layer.get_weights() for layer in theirs.layers if isinstance(layer, tf_keras.layers.Conv2D)]
    random = np.random.default_rng(0)
    pairs = [(kernel, random.normal(0, 0.1, bias.shape).astype(np.float32)) for kernel, bias in pairs]
    convolutions = [layer for layer in theirs.layers if isinstance(layer, tf_keras.layers.Conv2D)]
    for layer, pair in zip(convolutions, pairs, strict=True):
        layer.set_weights(pair)
    layers = layers_of(Block.BLOCK5, side=64, spec=CAFFE)
    kernels = [pairs[0][0][:, :, ::-1], *(kernel for kernel, _ in pairs[1:])]
    set_trunk(layers, kernels, [bias for _, bias in pairs])
    pixels = noise(side=64)
    preprocessed = tf_keras.applications.vgg16.preprocess_input(pixels.astype(np.float32))
    wanted = theirs.predict_on_batch(preprocessed)
    maps = below(layers, Block.BLOCK5).predict_on_batch(pixels)
    scale = np.abs(wanted).max()
    assert scale > 0.05
    assert_allclose(maps.mean(axis=(1, 2)) / scale, wanted / scale, atol=1e-4)
    spatial = tf_keras.Model(theirs.input, theirs.layers[-2].output).predict_on_batch(preprocessed)
    assert_allclose(maps / scale, spatial / scale, atol=1e-4)


@pytest.mark.parametrize(("head", "scales"), SEEN)
def test_folded_feature_scale_is_exact(head, scales):
    layers = layers_of(head=head, scales=scales)
    whole(layers)
    width = layers.dense[0].input_shape[-1]
    random = np.random.default_rng(0)
    factor, offset = (
        random.uniform(0.1, 9, width).astype(np.float32),
        random.normal(0, 3, width).astype(np.float32),
    )
    boundary = layers.network.scales[0]
    maps = below(layers, boundary).predict_on_batch(noise())
    scaled = above(layers, boundary, tf_keras.layers.Rescaling(factor, offset=offset))
    wanted = scaled.predict_on_batch(maps)
    fold_feature_scale(layers, factor, offset)
    found = above(layers, boundary, same).predict_on_batch(maps)
    assert_allclose(found, wanted, rtol=1e-4, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("head", Head)
@pytest.mark.parametrize("temperature", [0.3, 2.5])
def test_folded_temperature_is_exact(head, temperature):
    layers = layers_of(head=head)
    images = noise()
    before = np.log(KerasClassifier(layers)(images).astype(np.float64))
    fold_temperature(layers, temperature)
    scaled = np.exp(before / temperature)
    assert_allclose(KerasClassifier(layers)(images), scaled / scaled.sum(axis=1, keepdims=True), atol=1e-5)


def test_new_layers_are_seeded():
    def weights(seed):
        return np.concatenate([value.ravel() for value in whole(layers_of(seed=seed)).get_weights()])

    assert np.array_equal(weights(1), weights(1))
    assert not np.array_equal(weights(1), weights(2))


def test_convolutions_in_bfloat16_keep_float32_weights_and_ends():
    """Training computes in bfloat16 where the CPU can; what is made from it computes in float32."""
    half = layers_of(Block.BLOCK3, Head.GRID, scales=2, arithmetic="bfloat16")
    plain = layers_of(Block.BLOCK3, Head.GRID, scales=2, seed=1)
    copy_weights(half, plain)
    for one, other in zip(whole(half).get_weights(), whole(plain).get_weights(), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)
    assert {layer.compute_dtype for layer in half.convolutions} == {"bfloat16"}
    assert {layer.compute_dtype for layer in (*half.dense, half.preprocess)} == {"float32"}
    assert {layer.compute_dtype for layer in plain.convolutions} == {"float32"}
    probabilities = KerasClassifier(half)(noise())
    assert probabilities.dtype == np.float32
    assert_allclose(probabilities, KerasClassifier(plain)(noise()), atol=0.1)


def test_a_trunk_that_is_too_short_is_refused():
    short = conv_shapes(Block.BLOCK2)
    kernels, biases = [np.zeros(shape) for shape in short], [np.zeros(shape[3]) for shape in short]
    with pytest.raises(WeightsError, match=r"ends at block2; block3 is needed\. Add --cut block2"):
        set_trunk(layers_of(Block.BLOCK3), kernels, biases)
    set_trunk(layers_of(Block.BLOCK1), kernels, biases)


def test_the_saved_network_opens_in_plain_keras(trained):
    """In safe mode, which runs no code from the file, and with the same answers."""
    plain = tf_keras.models.load_model(trained.keras_file, safe_mode=True, compile=False)
    images = noise(7)
    np.testing.assert_array_equal(
        plain.predict_on_batch(images), KerasClassifier(open_layers(trained))(images)
    )


def test_a_changed_network_is_refused(trained):
    trained.keras_file.write_bytes(trained.keras_file.read_bytes() + b"x")
    with pytest.raises(ModelFolderError, match="not the file that training wrote"):
        open_layers(trained)
    trained.keras_file.unlink()
    with pytest.raises(ModelFolderError, match=r"has no model\.keras"):
        open_layers(trained)
