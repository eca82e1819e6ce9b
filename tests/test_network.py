"""The network: what it computes, how its pieces share weights, and what is folded into them."""

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
    below,
    between,
    conv_shapes,
    fold_feature_scale,
    fold_temperature,
    make_layers,
    set_trunk,
    whole,
)
from edgetl.keras.weights import KERAS_MEAN_RGB

CAFFE = (KERAS_MEAN_RGB, 1.0)


def layers_of(cut=Block.BLOCK2, head=Head.GAP, side=32, spec=((120.0, 110.0, 100.0), 1 / 64), seed=0):
    hidden = 16 if head is Head.FLATTEN else 0
    input_spec = InputSpec(side, side, *spec, (255, 255, 255), 1)
    return make_layers(Network(cut, head, hidden, 3), input_spec, seed)


def noise(count=4, side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.mark.parametrize("head", Head)
@pytest.mark.parametrize("cut", [Block.BLOCK1, Block.BLOCK3])
def test_shapes_at_every_boundary(cut, head):
    layers = layers_of(cut, head)
    model = whole(layers)
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, 3)
    assert [tuple(layer.kernel.shape) for layer in layers.convolutions] == list(conv_shapes(cut))
    for block in layers.blocks:
        assert below(layers, block).output_shape[1:] == activation_shape(layers, block)
        assert between(layers, block).output_shape[1:] == activation_shape(layers, cut)
    probabilities = KerasClassifier(layers)(noise())
    assert probabilities.dtype == np.float32
    assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_the_whole_of_vgg16():
    layers = layers_of(Block.BLOCK5, side=224)
    assert len(layers.convolutions) == 13
    assert activation_shape(layers, Block.BLOCK5) == (7, 7, 512)
    assert HIDDEN_UNITS == 1024


def test_pieces_compute_what_the_whole_does():
    layers = layers_of(Block.BLOCK3, Head.FLATTEN)
    no_scale = tf_keras.layers.Rescaling(1.0)
    images = noise()
    wanted = np.log(KerasClassifier(layers)(images))
    for boundary in (None, *layers.blocks):
        start = images if boundary is None else below(layers, boundary).predict_on_batch(images)
        logits = above(layers, boundary, no_scale).predict_on_batch(start)
        centred = logits - logits.mean(axis=1, keepdims=True)
        assert_allclose(centred, wanted - wanted.mean(axis=1, keepdims=True), atol=2e-4)


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


@pytest.mark.parametrize("head", Head)
def test_folded_feature_scale_is_exact(head):
    layers = layers_of(head=head)
    random = np.random.default_rng(0)
    factor, offset = (
        random.uniform(0.1, 9, 128).astype(np.float32),
        random.normal(0, 3, 128).astype(np.float32),
    )
    maps = below(layers, Block.BLOCK2).predict_on_batch(noise())
    scaled = above(layers, Block.BLOCK2, tf_keras.layers.Rescaling(factor, offset=offset))
    wanted = scaled.predict_on_batch(maps)
    fold_feature_scale(layers, factor, offset)
    found = above(layers, Block.BLOCK2, tf_keras.layers.Rescaling(1.0)).predict_on_batch(maps)
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
