"""Training for int8: the numbers of the file itself, what is broken gets better, and nothing else changes."""

import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from trained import SIDE, exported_once, said, shapes, trained_once  # noqa: F401

from edgetl.card import InputSpec, Model, Network
from edgetl.config import Block, DataConfig, Head
from edgetl.dataset import Role, load
from edgetl.engines.onnx import OnnxClassifier
from edgetl.keras import qat, rounding, tf
from edgetl.keras.classifier import open_layers
from edgetl.keras.network import copy_weights, make_layers, whole
from edgetl.keras.qat import QatImages, QatSettings, fake_quantized, quantization_aware
from edgetl.keras.to_onnx import to_onnx
from edgetl.measures import centred_logits, mean_kl, sqnr_db
from edgetl.progress import REPORTER
from edgetl.quantize.first_layer import WIDENED, without_fourth_channel
from edgetl.quantize.onnx_int8 import calibrate
from edgetl.quantize.recipe import Recipe

SETTINGS = QatSettings(epochs=6, batch=8)
SHORT = QatSettings(epochs=2, batch=16)


@pytest.fixture(scope="module")
def layers(trained_once):
    """The trained network, not to be changed."""
    return open_layers(Model.open(trained_once))


@pytest.fixture(scope="module")
def images(shapes, layers):
    """The training images and what the network says of them."""
    pixels = np.asarray(load(shapes, SIDE, SIDE, DataConfig()).roles[Role.TRAIN].pixels)
    return QatImages(pixels, whole(layers).predict_on_batch(pixels))


@pytest.fixture(scope="module")
def others(shapes, layers):
    """Images that nothing was trained on, likewise."""
    pixels = np.asarray(load(shapes, SIDE, SIDE, DataConfig()).roles[Role.CERTIFICATION].pixels)
    return QatImages(pixels, whole(layers).predict_on_batch(pixels))


@pytest.fixture(scope="module")
def quantizer(layers, images):
    """Makes the int8 file of the trained network."""
    return calibrate(to_onnx(layers), images.pixels)


def highs_of(quantizer):
    return [seen.high for seen in quantizer.activations]


def image_range_of(quantizer):
    low, high = quantizer.ranges[quantizer.convolutions[0].source]
    return float(low), float(high)


def with_highs(quantizer, highs):
    """The quantizer with other ranges behind the ReLUs; pools take those of what they pool."""
    own = {
        layer.output: (np.float32(0), np.float32(high))
        for layer, high in zip(quantizer.convolutions, highs, strict=True)
    }
    return replace(quantizer, ranges=quantizer.ranges | own)


def answers(quantizer, pixels, recipe=Recipe()):  # noqa: B008 - frozen
    return OnnxClassifier(quantizer.build(recipe).SerializeToString())(pixels)


def likeness_db(one, other):
    return sqnr_db(centred_logits(one), centred_logits(other))


def unevenly_scaled(layers, decades, seed=1):
    """The same function with each channel times 10**(-decades..decades), undone by what reads it."""
    made = make_layers(layers.network, layers.spec)
    copy_weights(layers, made)
    random = np.random.default_rng(seed)
    before = np.ones(3, np.float32)
    seen_by_head = []
    for layer in made.convolutions:
        kernel, bias = layer.get_weights()
        factors = (10 ** random.uniform(-decades, decades, layer.filters)).astype(np.float32)
        layer.set_weights([kernel / before[:, None] * factors, bias * factors])
        before = factors
        if any(layer is made.blocks[block][-2] for block in made.pools):
            seen_by_head.append(factors)
    kernel, bias = made.dense[0].get_weights()
    made.dense[0].set_weights([kernel / np.concatenate(seen_by_head)[:, None], bias])
    return made


@pytest.mark.parametrize(("recipe", "levels"), [(Recipe(), 127), (Recipe(reduced=True), 64)])
def test_it_computes_what_the_int8_file_does(layers, others, quantizer, recipe, levels):
    model = fake_quantized(layers, highs_of(quantizer), levels=levels, image_range=image_range_of(quantizer))
    ours, file = model.predict_on_batch(others.pixels), answers(quantizer, others.pixels, recipe)
    assert likeness_db(file, ours) > likeness_db(file, others.probabilities) + 10


@pytest.mark.parametrize(("recipe", "levels"), [(Recipe(), 127), (Recipe(reduced=True), 64)])
def test_its_weights_are_those_of_the_int8_file(layers, quantizer, recipe, levels):
    constants = quantizer.build(recipe).graph.initializer
    values = {t.name.removesuffix(WIDENED): without_fourth_channel(t) for t in constants}
    kernels = [convolution.kernel for convolution in quantizer.convolutions]
    stored = [values[f"{name}_quantized"] * values[f"{name}_scale"][:, None, None, None] for name in kernels]
    for layer, wanted in zip(layers.convolutions, stored, strict=True):
        ours = rounding._rounded_weights(tf.constant(layer.get_weights()[0]), levels).numpy()
        differing = np.abs(ours.transpose(3, 2, 0, 1) - wanted) > 1e-6 * np.abs(wanted).max()
        assert differing.mean() < 1e-4, "those that lie halfway between two levels may go either way"


def test_every_weight_learns_as_if_nothing_had_been_rounded(layers):
    """The largest of each channel, too, though rounding may put the end of the grid just below it."""
    for layer in layers.convolutions:
        kernel = tf.constant(layer.get_weights()[0])
        wanted = np.random.default_rng(0).normal(size=kernel.shape).astype(np.float32)
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            value = tf.reduce_sum(rounding._rounded_weights(kernel, 127) * wanted)
        np.testing.assert_allclose(tape.gradient(value, kernel).numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_ranges_are_those_given_from_the_first_step_on(layers, others):
    """The toolkit's wrappers would clip at 6 and begin at -6."""
    highs = [5.0, 20.0, 300.0, 7.0]
    rounded, own = qat._rounded_layers(layers, highs, 127, (-1.0, 2.0))
    assert [layer._rounding.high for layer in own] == [*highs, None]
    assert [layer._rounding.reads for layer in own] == [(-1.0, 2.0), None, None, None, None]
    values = rounded.preprocess(others.pixels)
    for layer, high in zip(own[:2], highs, strict=False):
        values = layer(1000 * values)
        levels = values.numpy() * 255 / high
        assert values.numpy().min() == 0
        assert values.numpy().max() == pytest.approx(high, rel=1e-6)
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)


def test_channels_of_unlike_size_become_good_int8(layers, images, others):
    """As a user would get it: the file of the trained network, calibrated anew."""
    broken = unevenly_scaled(layers, decades=1)
    np.testing.assert_allclose(whole(broken).predict_on_batch(others.pixels), others.probabilities, atol=1e-4)
    before = calibrate(to_onnx(broken), images.pixels)
    trained = quantization_aware(broken, images, SETTINGS, highs_of(before))
    after = calibrate(to_onnx(trained), images.pixels)
    for seen in (images, others):
        harm = mean_kl(seen.probabilities, answers(before, seen.pixels))
        assert harm > 0.1
        assert mean_kl(seen.probabilities, answers(after, seen.pixels)) < harm / 2


def test_a_network_learns_to_live_with_ranges_far_too_small(layers, images, others, quantizer):
    highs = [high / 4 for high in highs_of(quantizer)]
    trained = quantization_aware(layers, images, SETTINGS, highs, image_range=image_range_of(quantizer))
    before, after = (
        with_highs(quantizer, highs),
        with_highs(calibrate(to_onnx(trained), images.pixels), highs),
    )
    for seen in (images, others):
        harm = mean_kl(seen.probabilities, answers(before, seen.pixels))
        assert harm > 0.1
        assert mean_kl(seen.probabilities, answers(after, seen.pixels)) < harm / 2


def test_the_same_seed_gives_the_same_weights_and_the_input_stays_as_it_was(layers, images, quantizer):
    before = whole(layers).get_weights()
    highs = [high / 4 for high in highs_of(quantizer)]
    one, same, other = (
        whole(quantization_aware(layers, images, replace(SHORT, seed=seed), highs)).get_weights()
        for seed in (0, 0, 1)
    )
    for left, right, different, source in zip(one, same, other, before, strict=True):
        np.testing.assert_array_equal(left, right)
        assert (left != different).any()
        assert (left != source).any()
    for left, right in zip(whole(layers).get_weights(), before, strict=True):
        np.testing.assert_array_equal(left, right)


def test_training_that_does_not_help_changes_nothing(layers, images, quantizer):
    settings = replace(SHORT, rate=0.01, epochs=1)
    trained = quantization_aware(layers, images, settings, highs_of(quantizer))
    assert trained is not layers
    for left, right in zip(whole(trained).get_weights(), whole(layers).get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_training_that_diverges_is_told_and_changes_nothing(layers, images, quantizer):
    with said() as lines:
        trained = quantization_aware(layers, images, replace(SHORT, rate=1e6), highs_of(quantizer))
    (told,) = [line for line in lines if "diverged" in line]
    assert "rate 1e+06" in told
    for left, right in zip(whole(trained).get_weights(), whole(layers).get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("now", [math.nan, 1.5])
def test_what_is_not_a_number_or_worse_than_knowing_nothing_is_divergence(images, now):
    run = qat.Run(None, None, images, SHORT, None)
    assert qat._has_diverged(now, 0.1, run)
    assert not qat._has_diverged(1.0, 0.1, run)
    assert not qat._has_diverged(1.5, 2.0, run)


class RecordedPixels:
    """As images on the disk: rows are read when they are asked for."""

    def __init__(self, pixels):
        self._pixels = pixels
        self.read = []

    def __len__(self):
        return len(self._pixels)

    def __getitem__(self, key):
        rows = self._pixels[key]
        self.read.append(len(rows))
        return rows


class SteppingClock:
    """A second passes each time it is asked whether time is up."""

    def __init__(self, limit_seconds, seconds_before):
        self.limit_seconds, self.seconds = limit_seconds, seconds_before

    def is_over(self):
        self.seconds += 1
        return self.seconds >= self.limit_seconds


class Recorder:
    """Adds up what tasks advance."""

    def __init__(self):
        self.tasks, self.said = [], []

    @contextmanager
    def task(self, name, total, begun):
        done = [begun]
        yield done.append
        self.tasks.append((name, total, sum(done)))

    def say(self, text):
        self.said.append(text)


def test_it_ends_when_time_is_up_and_shows_how_far_it_is(layers, images, quantizer, monkeypatch):
    monkeypatch.setattr(qat, "Clock", SteppingClock)
    recorder = Recorder()
    pixels = RecordedPixels(images.pixels)
    settings = QatSettings(epochs=50, batch=8, seconds=4)
    highs = [high / 4 for high in highs_of(quantizer)]
    token = REPORTER.set(recorder)
    try:
        quantization_aware(layers, replace(images, pixels=pixels), settings, highs)
    finally:
        REPORTER.reset(token)
    steps = 50 * math.ceil(len(images.pixels) / 8)
    assert pixels.read == [len(images.pixels), 8, 8, 8, len(images.pixels)], "three steps between two looks"
    (shown,) = [task for task in recorder.tasks if task[0] == "quantization-aware training"]
    assert shown[1:] == (steps, steps * 3 // 4)
    assert "divergence" in recorder.said[-1]


def test_no_time_at_all_changes_nothing(layers, images, quantizer):
    trained = quantization_aware(layers, images, replace(SHORT, seconds=0.0), highs_of(quantizer))
    for left, right in zip(whole(trained).get_weights(), whole(layers).get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("highs", "count"), [([1.0] * 3, 4), ([1.0, 1.0, math.inf, 1.0], 4), ([-1.0] * 4, 4), ([1.0] * 4, 0)]
)
def test_ranges_and_images_of_another_network_are_refused(layers, images, highs, count):
    some = QatImages(images.pixels[:count], images.probabilities[:4])
    with pytest.raises(ValueError, match=r"needed|needs"):
        quantization_aware(layers, some, SHORT, highs)


def test_a_hidden_layer_has_int8_weights_and_a_layer_that_is_never_active_does_no_harm():
    spec = InputSpec(16, 16, (123.0, 117.0, 104.0), 1 / 64, (255, 255, 255), 1)
    layers = make_layers(Network(Block.BLOCK1, Head.FLATTEN, (Block.BLOCK1,), 32, 3), spec)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    probabilities = whole(layers).predict_on_batch(pixels)
    _, own = qat._rounded_layers(layers, [3.0, 0.0], 127, None)
    assert [layer._rounding.levels for layer in own] == [127, 127, 127, None]
    trained = quantization_aware(
        layers, QatImages(pixels, probabilities), replace(SHORT, epochs=1), [3.0, 0.0]
    )
    assert all(np.isfinite(weights).all() for weights in whole(trained).get_weights())
