"""Noise layer by layer: the layer that was damaged is found, others are not blamed, float layers have none."""

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from trained import trained_once  # noqa: F401 - it skips this module where there is no TensorFlow

from edgetl import images
from edgetl.card import InputSpec, Network
from edgetl.config import Block, Head
from edgetl.keras import tf_keras
from edgetl.keras.equalize import equalized
from edgetl.keras.network import make_layers, whole
from edgetl.keras.to_onnx import to_onnx
from edgetl.keras.to_tflite import to_tflite
from edgetl.pixels import spread_over
from edgetl.quantize import noise, onnx_int8, tflite_int8
from edgetl.quantize.noise import LayerNoise, onnx_noise, tflite_noise, worst
from edgetl.quantize.recipe import Recipe

IMAGES = 12
NAMES = ("block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2")
LAYERS = len(NAMES)
DAMAGED = 1
GOOD, BAD = 25, 15  # dB
each_format = pytest.mark.parametrize("form", ["onnx", "tflite"])
each_recipe = pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(reduced=True),
        Recipe(clipped=True, bias_corrected=True),
        Recipe(bias_corrected=True, float_layers=(0,)),
        Recipe(float_layers=(1, 2)),
        Recipe(clipped=True, float_layers=(3,)),
    ],
)


def network(biases=True):
    """Four random convolutions."""
    spec = InputSpec(32, 32, (120.0, 110.0, 100.0), 1 / 64, images.WHITE, images.PREPROCESSING_VERSION)
    layers = make_layers(Network(Block.BLOCK2, Head.GAP, (Block.BLOCK2,), 0, 3), spec)
    whole(layers)
    random = np.random.default_rng(0)
    for layer in layers.convolutions if biases else ():
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel, random.normal(0, 0.1, bias.shape)])
    assert tuple(layer.name for layer in layers.convolutions) == NAMES
    return layers


def quantizer_of(form, layers, pixels):
    if form == "onnx":
        return onnx_int8.calibrate(to_onnx(layers), pixels)
    return tflite_int8.calibrate(to_tflite(layers), pixels)


def found_by(quantizer, recipe, pixels, **more):
    measure = onnx_noise if isinstance(quantizer, onnx_int8.OnnxQuantizer) else tflite_noise
    return measure(quantizer, quantizer.build(recipe), NAMES, pixels, **more)


@pytest.fixture(scope="module")
def pixels():
    """Coarse patterns, uint8 [N, 32, 32, 3]."""
    coarse = np.random.default_rng(1).integers(0, 256, (IMAGES, 8, 8, 3), np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(scope="module")
def layers():
    return network()


@pytest.fixture(scope="module")
def quantizers(layers, pixels):
    return {form: quantizer_of(form, layers, pixels) for form in ("onnx", "tflite")}


def with_wide_range(quantizer, factor):
    """One layer gets an output range that ends too late."""
    ranges = dict(quantizer.ranges)
    if isinstance(quantizer, onnx_int8.OnnxQuantizer):
        name = quantizer.convolutions[DAMAGED].output
        low, high = ranges[name]
        ranges[name] = low, np.float32(factor * high)
    else:
        code = tflite_int8.CODES.CONV_2D
        name = [step.makes for step in quantizer.operators if step.code == code][DAMAGED]
        ranges[name] = ranges[name] | {"max": np.float32(factor) * ranges[name]["max"]}
    return replace(quantizer, ranges=ranges)


@each_format
@each_recipe
def test_clean_networks_are_good_everywhere(quantizers, pixels, form, recipe):
    found = found_by(quantizers[form], recipe, pixels)
    assert tuple(layer.layer for layer in found) == NAMES
    for number, layer in enumerate(found):
        assert math.isnan(layer.sqnr_alone_db) == (number in recipe.float_layers), "no noise of its own"
        for value in (layer.sqnr_in_db, layer.sqnr_out_db, layer.sqnr_alone_db):
            assert math.isnan(value) or GOOD < value < 60, layer
    assert math.isnan(found[0].sqnr_in_db) == (0 in recipe.float_layers), "the pixels are rounded otherwise"
    assert worst(found).sqnr_alone_db > GOOD


@each_format
def test_a_layer_whose_range_is_too_wide_is_the_worst(quantizers, pixels, form):
    damaged = with_wide_range(quantizers[form], 100)
    found = found_by(damaged, Recipe(), pixels)
    assert worst(found) == found[DAMAGED]
    assert found[DAMAGED].sqnr_in_db > GOOD
    assert found[DAMAGED].sqnr_out_db < BAD
    assert found[DAMAGED].sqnr_alone_db < BAD
    for layer in found[DAMAGED + 1 :]:  # they hand on what they get
        assert max(layer.sqnr_in_db, layer.sqnr_out_db) < BAD
        assert layer.sqnr_alone_db > GOOD


@each_format
def test_in_float_the_damaged_layer_is_good_again(quantizers, pixels, form):
    found = found_by(with_wide_range(quantizers[form], 100), Recipe(float_layers=(1, 2)), pixels)
    assert min(layer.sqnr_out_db for layer in found) > GOOD


@each_format
def test_channels_that_a_large_one_hides_show_in_the_layer_that_needs_them(pixels, form):
    """The sums are those of the large channel: where the others vanish, nothing is seen."""
    layers = network()
    (kernel, bias), (following, its_bias) = (
        layer.get_weights() for layer in layers.convolutions[DAMAGED : DAMAGED + 2]
    )
    kernel[..., 0] *= 1000
    bias[0] *= 1000
    following[:, :, 0] /= 1000  # the float network computes what it did
    layers.convolutions[DAMAGED].set_weights([kernel, bias])
    layers.convolutions[DAMAGED + 1].set_weights([following, its_bias])
    quantizer = quantizer_of(form, layers, pixels)
    found = found_by(quantizer, Recipe(), pixels)
    assert min(found[DAMAGED].sqnr_out_db, found[DAMAGED].sqnr_alone_db) > GOOD
    reader = found[DAMAGED + 1]
    assert worst(found) == reader
    assert reader.sqnr_in_db > GOOD
    assert reader.sqnr_out_db < 3 < 10 < reader.sqnr_alone_db
    repaired = equalized(layers, [activation.channel_highs for activation in quantizer.activations])
    found = found_by(quantizer_of(form, repaired, pixels), Recipe(), pixels)
    assert (values_of(found) > GOOD).all()


@each_format
def test_a_file_all_in_float_has_no_noise(quantizers, pixels, form):
    found = found_by(quantizers[form], Recipe(float_layers=tuple(range(LAYERS))), pixels)
    assert all(
        math.isnan(value)
        for layer in found
        for value in (layer.sqnr_in_db, layer.sqnr_out_db, layer.sqnr_alone_db)
    )
    assert worst(found) is None


def decibels(reference, candidate):
    noise = np.square(reference.astype(np.float64) - candidate).sum()
    return 10 * np.log10(np.square(reference, dtype=np.float64).sum() / noise)


@each_format
def test_alone_is_the_rounded_layer_on_the_float_networks_input(quantizers, layers, pixels, form):
    """Computed by Keras, for all images at once. Rounded biases are left out: they hardly matter."""
    value = layers.preprocess(tf_keras.backend.constant(pixels))
    steps = [step for block in layers.blocks.values() for step in block]
    expected = []
    for step in steps:
        made = step(value)
        if step in layers.convolutions:
            kernel, bias = step.get_weights()
            rounded = tflite_int8.rounded(kernel.transpose(3, 0, 1, 2)).transpose(1, 2, 3, 0)
            sums = tf_keras.backend.conv2d(value, rounded, padding="same").numpy() + bias
            scale = made.numpy().max() / 255
            expected.append(decibels(made.numpy(), np.clip(np.rint(sums / scale), 0, 255) * scale))
        value = made
    found = [layer.sqnr_alone_db for layer in found_by(quantizers[form], Recipe(), pixels)]
    np.testing.assert_allclose(found, expected, atol=0.02)


def values_of(found):
    return np.array([[one.sqnr_in_db, one.sqnr_out_db, one.sqnr_alone_db] for one in found])


@pytest.mark.parametrize("at_once", [1, 3, IMAGES])
def test_batches_add_up_to_all_at_once(quantizers, pixels, monkeypatch, at_once):
    wanted = values_of(found_by(quantizers["onnx"], Recipe(), pixels))
    monkeypatch.setattr(noise, "IMAGES_AT_ONCE", at_once)
    np.testing.assert_allclose(values_of(found_by(quantizers["onnx"], Recipe(), pixels)), wanted, atol=1e-3)


@each_format
def test_never_more_images_in_memory_than_said(quantizers, pixels, monkeypatch, form):
    seen = []
    original = noise._powers
    monkeypatch.setattr(noise, "_powers", lambda one, other: seen.append(len(one)) or original(one, other))
    found_by(quantizers[form], Recipe(), pixels)
    assert max(seen) <= noise.IMAGES_AT_ONCE < IMAGES
    assert sum(seen) == 3 * LAYERS * IMAGES


@each_format
def test_powers_add_up_over_images(quantizers, pixels, form):
    """Decibels lie between those of single images; some are taken from all of them, which lie class by class."""
    some = pixels[spread_over(IMAGES, 4)]
    found = values_of(found_by(quantizers[form], Recipe(), pixels))
    single = [values_of(found_by(quantizers[form], Recipe(), one[None])) for one in some]
    few = values_of(found_by(quantizers[form], Recipe(), pixels, most_images=4))
    assert (few >= np.min(single, axis=0) - 1e-6).all()
    assert (few <= np.max(single, axis=0) + 1e-6).all()
    np.testing.assert_array_equal(few, values_of(found_by(quantizers[form], Recipe(), some)))
    assert not np.array_equal(few, found)


def test_both_formats_tell_the_same(quantizers, pixels):
    """TFLite rounds pixels in more than one place, the layers are the same."""
    one, other = (values_of(found_by(quantizers[form], Recipe(), pixels)) for form in ("onnx", "tflite"))
    np.testing.assert_allclose(one[:, 2], other[:, 2], atol=0.02)
    np.testing.assert_allclose(one, other, atol=2)


def test_a_model_may_come_as_bytes(quantizers, pixels):
    quantizer = quantizers["onnx"]
    model = quantizer.build(Recipe())
    before = model.SerializeToString()
    found = onnx_noise(quantizer, model, NAMES, pixels[:2])
    assert found == onnx_noise(quantizer, before, NAMES, pixels[:2])
    assert model.SerializeToString() == before
    onnx.checker.check_model(model)


@each_format
def test_convolutions_without_a_bias(pixels, form):
    """The converters leave out biases that are zero, or make one of all of them."""
    quantizer = quantizer_of(form, network(biases=False), pixels)
    for recipe in (Recipe(), Recipe(bias_corrected=True)):
        found = values_of(found_by(quantizer, recipe, pixels[:4]))
        assert (found > GOOD).all()


@each_format
def test_other_arrays_and_names_are_refused(quantizers, pixels, form):
    quantizer = quantizers[form]
    measure = onnx_noise if form == "onnx" else tflite_noise
    content = quantizer.build(Recipe())
    for wrong in (pixels[:0], pixels[0], pixels.astype(np.float32)):
        with pytest.raises(ValueError, match="images are uint8"):
            measure(quantizer, content, NAMES, wrong)
    with pytest.raises(ValueError, match="images are uint8"):
        measure(quantizer, content, NAMES, pixels, most_images=0)
    with pytest.raises(ValueError, match="there are 4 convolutions, but 3 names"):
        measure(quantizer, content, NAMES[1:], pixels)


def test_decibels():
    assert noise._decibels(100.0, 1.0) == pytest.approx(20)
    assert math.isnan(noise._decibels(100.0, 0.0))
    assert math.isnan(noise._decibels(0.0, 0.0))
    assert -4000 < noise._decibels(0.0, 1e30) < -2000, "noise where nothing should be is not 'identical'"
    for broken in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not finite"):
            noise._decibels(1.0, broken)


def test_worst_is_the_one_that_loses_most_by_itself():
    found = [
        LayerNoise("first", math.nan, 10.0, 40.0),
        LayerNoise("float", 10.0, 5.0, math.nan),
        LayerNoise("second", 5.0, 4.0, 30.0),
    ]
    assert worst(found) == found[2]
    assert worst(found[1:2]) is None
    assert worst([]) is None
