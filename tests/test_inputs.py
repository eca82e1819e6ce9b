"""What training sees: stored features and activations in their order, from as few passes as can be, and views."""

import hashlib
from contextlib import ExitStack
from dataclasses import replace
from itertools import count, pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose
from trained import draw_data  # noqa: F401 - it skips this module where TensorFlow is missing

from edgetl.cache import ActivationCache
from edgetl.card import InputSpec, Network
from edgetl.config import Augment, Block, ClassWeights, FeaturePrecision, Head
from edgetl.dataset import Images
from edgetl.features.frozen import Calibration, FrozenTrunk
from edgetl.features.graph import TrunkWeights
from edgetl.keras import linear
from edgetl.keras.augment import VARIATIONS, View
from edgetl.keras.classifier import KerasClassifier
from edgetl.keras.inputs import (
    IMAGES_AT_ONCE,
    CachedViews,
    Part,
    TrainingImages,
    VariedPixels,
    in_batches,
)
from edgetl.keras.linear import (
    Gallery,
    LinearSettings,
    fit_linear,
    image_weights,
    map_scale,
    stage_inputs,
    views_of,
)
from edgetl.keras.network import below, fold_feature_scale, make_layers, set_trunk, whole
from edgetl.transfer.cuts import Candidate, candidates
from edgetl.transfer.layout import columns_of
from edgetl.vgg16 import conv_shapes

B1, B2 = Block.BLOCK1, Block.BLOCK2
SPEC = InputSpec(32, 32, (120.0, 110.0, 100.0), 1 / 64, (255, 255, 255), 1)
ORIGINAL = View(0, Augment.OFF, 0)
THREE_VIEWS = (ORIGINAL, View(1, Augment.STRONG, 0), View(2, Augment.STRONG, 0))
COLOURS = np.array([[200, 60, 50], [60, 160, 70], [50, 80, 190]])
HALF = 2**-10  # what float16 may be away, as a share of the largest


class CountedPixels:
    """Pixels as `PixelRows` are, of which is known which images were looked at."""

    def __init__(self, pixels):
        self._pixels = pixels
        self.shape, self.dtype = pixels.shape, pixels.dtype
        self.seen = []

    def __len__(self):
        return len(self._pixels)

    def __getitem__(self, key):
        self.seen += np.arange(len(self))[key].tolist()
        return self._pixels[key]


def pictures(count, seed, labels=None):
    """Images of three colours under noise, all different."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3 if labels is None else labels
    pixels = np.clip(COLOURS[labels][:, None, None] + random.normal(0, 60, (count, 32, 32, 3)), 0, 255)
    pixels = pixels.astype(np.uint8)
    digests = tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in pixels)
    paths = tuple(f"{number}.png" for number in range(count))
    return Images(paths, CountedPixels(pixels), labels, digests)


def plain(images):
    """All pixels, uncounted."""
    return images.pixels._pixels


@pytest.fixture(scope="module")
def images():
    """More tuning than training images, and more than go through the trunk at once."""
    return TrainingImages(pictures(21, 1), pictures(50, 2))


@pytest.fixture
def gallery(tmp_path, images):
    """A new cache each time; nothing was looked at yet."""
    with ExitStack() as open_rows:
        images.train.pixels.seen.clear()
        images.tuning.pixels.seen.clear()
        yield Gallery(trunk_of(tmp_path), images, open_rows)


def trunk_of(tmp_path, last=B2, precision=FeaturePrecision.FP32):
    random = np.random.default_rng(0)
    kernels = tuple(
        random.normal(0, np.sqrt(2 / (9 * shape[2])), shape).astype(np.float32) for shape in conv_shapes(last)
    )
    weights = TrunkWeights(kernels, tuple(np.full(kernel.shape[3], 0.1, np.float32) for kernel in kernels))
    some = np.random.default_rng(3).integers(0, 256, (8, 32, 32, 3), np.uint8)
    calibration = Calibration(some, "")
    cache = ActivationCache(tmp_path / "cache", 2**30)
    return FrozenTrunk("a trunk", weights, SPEC, precision, calibration, cache, threads=1)


def maps_by_keras(trunk, boundary, pixels):
    layers = make_layers(Network(B2, Head.GAP, (B2,), 0, 3), SPEC)
    set_trunk(layers, trunk.weights.kernels, trunk.weights.biases)
    return below(layers, boundary).predict_on_batch(pixels)


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def seen(images):
    return len(images.train.pixels.seen), len(images.tuning.pixels.seen)


def assert_near(found, wanted):
    assert found.shape == wanted.shape
    assert_allclose(found.astype(np.float32), wanted, atol=HALF * np.abs(wanted).max(), rtol=0)


def shown(images, train, views):
    """The pixels that rows stand for: view by view of these training images, then the tuning images."""
    digests = [images.train.digests[i] for i in train]
    parts = [view.of(plain(images.train)[train], digests) for view in views]
    return np.concatenate([*parts, plain(images.tuning)])


# The gallery


@pytest.mark.parametrize("views", [THREE_VIEWS[:1], THREE_VIEWS, THREE_VIEWS[::2]])
def test_averages_are_of_view_by_view_of_the_chosen_images_then_of_tuning(gallery, images, views):
    train = np.array([1, 4, 5, 9, 20])
    rows = gallery.averages((B1, B2), train, views)
    columns = columns_of(SPEC, (B1, B2), Head.GAP, (B1,))
    wanted = maps_by_keras(gallery.trunk, B1, shown(images, train, views)).mean(axis=(1, 2))
    assert len(rows) == len(views) * 5 + 50
    assert_near(rows[:][:, columns], wanted)
    assert seen(images) == (len(views) * 5, 50)


def test_activations_are_of_all_images_in_the_same_order(gallery, images):
    rows = gallery.activations(B2, THREE_VIEWS)
    wanted = maps_by_keras(gallery.trunk, B2, shown(images, np.arange(21), THREE_VIEWS))
    assert rows.shape == (3 * 21 + 50, 8, 8, 128)
    assert_near(rows[:], wanted)


def test_activations_kept_on_the_way_cost_no_second_look(gallery, images):
    gallery.averages((B1, B2), np.arange(21), [ORIGINAL], B1)
    assert seen(images) == (21, 50)
    rows = gallery.activations(B1, [ORIGINAL])
    assert seen(images) == (21, 50)
    assert_near(rows[:], maps_by_keras(gallery.trunk, B1, shown(images, np.arange(21), [ORIGINAL])))


def test_a_higher_boundary_goes_on_from_a_lower_one_in_int8(gallery, images, tmp_path):
    with ExitStack() as open_rows:
        int8 = Gallery(trunk_of(tmp_path, precision=FeaturePrecision.INT8), images, open_rows)
        int8.activations(B1, THREE_VIEWS)
        looked_at = seen(images)
        found = int8.activations(B2, THREE_VIEWS)[:]
        assert seen(images) == looked_at == (3 * 21, 50)
        fresh = Gallery(trunk_of(tmp_path / "other", precision=FeaturePrecision.INT8), images, open_rows)
        np.testing.assert_array_equal(found, fresh.activations(B2, THREE_VIEWS)[:])


def test_in_fp32_nothing_depends_on_what_was_stored_before(gallery, images, tmp_path):
    gallery.activations(B1, THREE_VIEWS)
    found = gallery.activations(B2, THREE_VIEWS)[:]
    assert seen(images) == (6 * 21, 100)
    with ExitStack() as open_rows:
        fresh = Gallery(trunk_of(tmp_path / "other"), images, open_rows)
        np.testing.assert_array_equal(found, fresh.activations(B2, THREE_VIEWS)[:])


def test_a_lower_boundary_that_lacks_a_view_is_of_no_use(gallery, images):
    gallery.activations(B1, THREE_VIEWS[:2])
    before = seen(images)
    rows = gallery.activations(B2, THREE_VIEWS)
    assert seen(images) == (before[0] + 3 * 21, before[1] + 50)
    assert_near(rows[:], maps_by_keras(gallery.trunk, B2, shown(images, np.arange(21), THREE_VIEWS)))


def test_more_views_and_more_images_only_cost_what_is_new(gallery, images):
    gallery.averages((B2,), np.arange(0, 21, 2), [ORIGINAL])
    assert seen(images) == (11, 50)
    gallery.averages((B2,), np.arange(21), [ORIGINAL])
    assert seen(images) == (21, 50)
    gallery.averages((B2,), np.arange(21), THREE_VIEWS)
    assert seen(images) == (63, 50)
    gallery.averages((B2,), np.arange(21), THREE_VIEWS[::-1])
    assert seen(images) == (63, 50)


def test_another_run_looks_at_no_image_again(gallery, images):
    found = gallery.averages((B2,), np.arange(21), THREE_VIEWS)[:]
    before = seen(images)
    with ExitStack() as open_rows:
        again = Gallery(replace(gallery.trunk, made={}), images, open_rows)
        np.testing.assert_array_equal(again.averages((B2,), np.arange(21), THREE_VIEWS)[:], found)
    assert seen(images) == before


def test_images_twice_in_the_data_are_computed_once(tmp_path):
    train = pictures(6, 1)
    digests = (*train.digests[:5], train.digests[0])
    pixels = plain(train)[[0, 1, 2, 3, 4, 0]]
    images = TrainingImages(replace(train, pixels=CountedPixels(pixels), digests=digests), pictures(3, 2))
    with ExitStack() as open_rows:
        gallery = Gallery(trunk_of(tmp_path, B1), images, open_rows)
        rows = gallery.averages((B1,), np.arange(6), THREE_VIEWS)[:]
    assert seen(images) == (3 * 5, 3)
    np.testing.assert_array_equal(rows[[0, 6, 12]], rows[[5, 11, 17]])


# Stages


def test_a_stage_shows_every_view_of_every_image_in_turn(gallery, images):
    inputs = stage_inputs(gallery, THREE_VIEWS, B1)
    everything = maps_by_keras(gallery.trunk, B1, shown(images, np.arange(21), THREE_VIEWS))
    positions = np.array([4, 0, 20, 7])
    for epoch in range(4):
        batch = inputs.train.batch(positions, epoch)
        assert batch.dtype == np.float32
        assert_near(batch, everything[((epoch + positions) % 3) * 21 + positions])
    assert len(inputs.tuning) == 50
    assert_near(inputs.tuning[:], everything[63:])
    assert_near(inputs.tuning[48:60], everything[63 + 48 :])


def test_views_take_turns_and_all_are_shown_equally_often():
    """Rows here are their own numbers."""
    views = CachedViews(np.arange(5 * 7, dtype=np.float16), 7, 5)
    epochs = np.stack([views.batch(np.arange(7), epoch) for epoch in range(5)])
    assert sorted(epochs.ravel()) == list(range(35))
    np.testing.assert_array_equal(epochs % 7, np.tile(np.arange(7), (5, 1)))
    assert len(set((epochs[0] // 7).tolist())) == 5, "not all images in the same view at once"
    np.testing.assert_array_equal(views.batch(np.arange(7), 5), epochs[0])


def test_a_part_of_rows_is_cut_as_an_array_is():
    rows = np.arange(100, dtype=np.float16)
    part = Part(rows, 40, 25)
    assert len(part) == 25
    for key in (slice(None), slice(0, 10), slice(20, 30), slice(3), slice(24, None), slice(-5, None)):
        np.testing.assert_array_equal(part[key], rows[40:65][key])


def test_functions_see_float32_or_bytes_in_pieces():
    taken = []

    def double(batch):
        taken.append((len(batch), batch.dtype))
        return 2.0 * batch

    count = IMAGES_AT_ONCE + 3
    found = in_batches(double, np.arange(count, dtype=np.float16))
    np.testing.assert_array_equal(found, 2 * np.arange(count))
    assert taken == [(IMAGES_AT_ONCE, np.float32), (3, np.float32)]
    taken.clear()
    in_batches(double, np.arange(5, dtype=np.uint8))
    assert taken == [(5, np.uint8)]


def test_varied_pixels_are_seeded_by_epoch_and_images(images):
    pixels = plain(images.train)
    positions = np.array([3, 1, 17])

    def batch(seed=0, epoch=0, positions=positions):
        return VariedPixels(pixels, Augment.LIGHT, flip=True, seed=seed).batch(positions, epoch)

    np.testing.assert_array_equal(batch(), batch())
    for other in (batch(seed=1), batch(epoch=1)):
        assert (other != batch()).any()
    assert batch().dtype == np.uint8
    off = VariedPixels(pixels, Augment.OFF, flip=True, seed=0).batch(positions, 0)
    np.testing.assert_array_equal(off, pixels[positions])


@pytest.mark.parametrize("cuts", [(0, 4, 9), (0, 1, 9), (0, 3, 3, 6, 9)])
def test_machines_that_share_a_batch_see_together_what_one_would(images, cuts):
    """Each takes a part of the positions; how it is shared out changes no image."""
    positions = np.array([3, 1, 17, 2, 20, 11, 5, 0, 9])
    rows = CachedViews(np.arange(3 * 21, dtype=np.float16), 21, 3)
    pixels = VariedPixels(plain(images.train), Augment.STRONG, flip=True, seed=4)
    for inputs in (rows, pixels):
        parts = [inputs.batch(positions, 2, slice(*ends)) for ends in pairwise(cuts)]
        np.testing.assert_array_equal(np.concatenate(parts), inputs.batch(positions, 2))


@pytest.mark.parametrize("flip", [False, True])
def test_varied_pixels_are_mirrored_only_where_that_helps(images, monkeypatch, flip):
    monkeypatch.setitem(VARIATIONS, Augment.LIGHT, replace(VARIATIONS[Augment.OFF], flip=True))
    pixels = plain(images.train)
    copies = VariedPixels(pixels, Augment.LIGHT, flip=flip, seed=0).batch(np.arange(21), 0)
    mirrored = [np.array_equal(copy, image[:, ::-1]) for copy, image in zip(copies, pixels, strict=True)]
    kept = [np.array_equal(copy, image) for copy, image in zip(copies, pixels, strict=True)]
    assert all(np.logical_xor(mirrored, kept))
    assert any(mirrored) is flip
    assert any(kept)


def test_the_scale_of_maps_is_that_of_their_channels(gallery):
    inputs = stage_inputs(gallery, [ORIGINAL], B2)
    scale = map_scale(inputs, 8 * 8 * 128)
    flat = inputs.tuning[:].astype(np.float32).reshape(50, -1) * scale.factor + scale.offset
    channels = flat.reshape(-1, 128)
    assert_allclose(channels.mean(axis=0), 0, atol=1e-2)
    assert (channels.std(axis=0) < 1.01).all()
    assert np.median(channels.std(axis=0)) == pytest.approx(1, abs=0.01)


# Choices


def test_views_that_mirror_have_odd_numbers():
    assert [view.number for view in views_of(4, Augment.LIGHT, 7, mirrored=True)] == [0, 1, 2, 3]
    assert [view.number for view in views_of(4, Augment.LIGHT, 7, mirrored=False)] == [0, 2, 4, 6]
    assert {(view.strength, view.seed) for view in views_of(4, Augment.LIGHT, 7, mirrored=True)[1:]} == {
        (Augment.LIGHT, 7)
    }
    for mirrored in (False, True):
        assert views_of(1, Augment.STRONG, 7, mirrored=mirrored) == (ORIGINAL,)
        assert views_of(9, Augment.OFF, 7, mirrored=mirrored) == (ORIGINAL,)


def test_fewer_views_are_the_first_of_more():
    """So that another run finds them in the cache."""
    for mirrored in (False, True):
        many = views_of(8, Augment.LIGHT, 0, mirrored=mirrored)
        for number in range(1, 8):
            assert views_of(number, Augment.LIGHT, 0, mirrored=mirrored) == many[:number]


def test_sampled_images_keep_the_shares_of_the_classes():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [120, 60, 2]))
    chosen = linear._sample(labels, 60, 0)
    assert np.bincount(labels[chosen]).tolist() == [40, 20, 1]
    assert sorted(set(chosen.tolist())) == chosen.tolist()
    np.testing.assert_array_equal(chosen, linear._sample(labels, 60, 0))
    assert not np.array_equal(chosen, linear._sample(labels, 60, 1))


def test_few_images_are_all_in_the_sample():
    assert linear._sample(np.arange(30) % 3, 30, 0).tolist() == list(range(30))


def test_balanced_weights_make_classes_count_the_same():
    labels = np.array([0, 0, 0, 0, 0, 0, 2, 2, 3])
    weights = image_weights(labels, ClassWeights.BALANCED)
    assert weights.mean() == pytest.approx(1)
    sums = [weights[labels == label].sum() for label in (0, 2, 3)]
    assert_allclose(sums, 3)
    np.testing.assert_array_equal(image_weights(labels, ClassWeights.NONE), np.ones(9))
    assert weights.dtype == np.float32


def linear_of(gallery, tried, settings, boundary=None):
    return fit_linear(gallery, tried, settings, boundary, count(1).__next__)


SETTINGS = LinearSettings(views=3, augment=Augment.LIGHT, class_weights=ClassWeights.NONE, seed=0)


def logits_by_keras(trunk, found, pixels):
    """Of the network that the head makes together with the trunk, as training puts it together."""
    candidate = found.candidate
    layers = make_layers(Network(candidate.cut, candidate.head, candidate.scales, 0, 3), trunk.spec)
    set_trunk(layers, trunk.weights.kernels, trunk.weights.biases)
    whole(layers)
    layers.dense[0].set_weights([found.fit.head.kernel, found.fit.head.bias])
    fold_feature_scale(layers, found.scale.factor, found.scale.offset)
    return np.log(KerasClassifier(layers)(pixels))


@pytest.mark.parametrize("head", [head for head in Head if head is not Head.FLATTEN])
@pytest.mark.parametrize("scales", [1, 2])
def test_the_head_in_closed_form_is_that_of_the_keras_network(gallery, images, head, scales):
    tried = candidates(SPEC, B2, head, scales, B2)
    found = linear_of(gallery, tried, SETTINGS, None)
    wanted = logits_by_keras(gallery.trunk, found, plain(images.tuning))
    assert_allclose(log_softmax(found.tuning_logits), wanted, atol=0.02)
    right = np.mean(wanted.argmax(axis=1) == images.tuning.labels)
    assert found.fit.tuning_accuracy == right > 0.9
    assert found.candidate == tried[0] == Candidate(B2, head, (B2,) if scales == 1 else (B1, B2))


def test_what_is_left_open_is_compared_and_one_is_chosen(gallery, images):
    tried = candidates(SPEC, B2, None, None, B2)
    found = linear_of(gallery, tried, SETTINGS, B1)
    assert [(score.cut, score.head, score.scales) for score in found.cuts] == [
        (candidate.cut, candidate.head, candidate.scales) for candidate in tried
    ]
    assert [score.chosen for score in found.cuts].index(True) == tried.index(found.candidate)
    assert sum(score.chosen for score in found.cuts) == 1
    looked_at = seen(images)
    gallery.activations(B1, [ORIGINAL])
    assert seen(images) == looked_at, "the activations that fine-tuning will probably want are there"
    assert found.views == views_of(3, Augment.LIGHT, 0, mirrored=found.mirrored)


def test_the_first_result_is_noted_when_it_is_there(gallery, images):
    """And what copies made of it, when they made it better."""
    found = linear_of(gallery, candidates(SPEC, B2, Head.GAP, 1, B2), SETTINGS)
    alone = linear_of(gallery, candidates(SPEC, B2, Head.GAP, 1, B2), replace(SETTINGS, views=1))
    assert [(record.stage, record.epoch) for record in found.records] == [("head", 1), ("head", 2)][
        : len(found.records)
    ]
    assert [record.elapsed_seconds for record in found.records] == [1.0, 3.0][: len(found.records)]
    assert replace(found.records[0], elapsed_seconds=0) == replace(alone.records[0], elapsed_seconds=0)
    assert found.records[-1].tuning_loss == found.fit.tuning_loss <= found.records[0].tuning_loss
    assert len(alone.records) == 1


@pytest.mark.parametrize("settings", [replace(SETTINGS, augment=Augment.OFF), replace(SETTINGS, views=1)])
def test_without_copies_only_the_images_are_looked_at(gallery, images, settings):
    found = linear_of(gallery, candidates(SPEC, B2, Head.GAP, 1, B2), settings, None)
    assert seen(images) == (21, 50)
    assert (found.views, found.mirrored) == ((ORIGINAL,), False)


def test_mirrored_copies_are_dropped_where_left_and_right_decide(tmp_path):
    """Whether a square is bright on the left or on the right is all that tells the classes apart."""

    def sides(count, seed):
        random = np.random.default_rng(seed)
        labels = np.arange(count) % 2
        pixels = random.integers(0, 120, (count, 32, 32, 3)).astype(np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[8:24, 18 * label + 2 : 18 * label + 12] += 60
        images = pictures(count, seed, labels)
        return replace(images, pixels=CountedPixels(pixels))

    images = TrainingImages(sides(40, 1), sides(40, 2))
    with ExitStack() as open_rows:
        gallery = Gallery(trunk_of(tmp_path), images, open_rows)
        found = linear_of(gallery, candidates(SPEC, B2, Head.GRID, 1, B2), SETTINGS, None)
    assert found.mirrored is False
    assert [view.number for view in found.views] == [0, 2, 4]
    assert found.fit.tuning_accuracy > 0.8


def test_many_images_are_compared_on_some_and_fitted_on_all(gallery, images, monkeypatch):
    monkeypatch.setattr(linear, "MOST_SCORED", 9)
    tried = candidates(SPEC, B2, None, 1, B2)
    found = linear_of(gallery, tried, replace(SETTINGS, views=1), B1)
    assert set(images.train.pixels.seen) == set(range(21))
    wanted = logits_by_keras(gallery.trunk, found, plain(images.tuning))
    assert_allclose(log_softmax(found.tuning_logits), wanted, atol=0.02)


def test_as_many_numbers_as_fit_into_memory_are_fitted_on(gallery, images, monkeypatch):
    monkeypatch.setattr(linear, "MOST_NUMBERS", 30 * 128)
    found = linear_of(gallery, candidates(SPEC, B2, Head.GAP, 1, B2), SETTINGS, None)
    wanted = logits_by_keras(gallery.trunk, found, plain(images.tuning))
    assert_allclose(log_softmax(found.tuning_logits), wanted, atol=0.02)
    assert found.fit.tuning_accuracy > 0.9


def test_the_same_result_from_a_full_cache_as_from_an_empty_one(gallery, images):
    tried = candidates(SPEC, B2, None, None, B2)
    first = linear_of(gallery, tried, SETTINGS, None)
    before = seen(images)
    with ExitStack() as open_rows:
        again = linear_of(Gallery(replace(gallery.trunk, made={}), images, open_rows), tried, SETTINGS, None)
    assert seen(images) == before
    np.testing.assert_array_equal(again.fit.head.kernel, first.fit.head.kernel)
    np.testing.assert_array_equal(again.tuning_logits, first.tuning_logits)
    assert again.cuts == first.cuts
    assert (again.views, again.mirrored) == (first.views, first.mirrored)
