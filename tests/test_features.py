"""The frozen trunk in ONNX Runtime: the numbers Keras computes, nothing twice, and each row under its own name."""

import gc
import hashlib
import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.testing import assert_allclose
from trained import draw_data  # noqa: F401 - it skips this module where TensorFlow is missing

from edgetl.cache import ActivationCache
from edgetl.card import InputSpec, Network
from edgetl.config import Block, FeaturePrecision, Head
from edgetl.errors import StorageError
from edgetl.features import frozen
from edgetl.features.frozen import LARGEST_HALF, Calibration, Filling, FrozenTrunk, fill, keys_of
from edgetl.features.graph import TrunkWeights, averages_of, maps_of, trunk_graph
from edgetl.keras import tf_keras
from edgetl.keras.network import below, make_layers, set_trunk, whole
from edgetl.transfer.layout import columns_of, row_width
from edgetl.vgg16 import block_below, blocks_up_to, conv_shapes, map_shape

B1, B2, B3, B4, B5 = Block
FP32, INT8 = FeaturePrecision.FP32, FeaturePrecision.INT8
PLENTY = 2**30


def spec_of(height, width=None):
    return InputSpec(height, width or height, (120.0, 110.0, 100.0), 1 / 64, (255, 255, 255), 1)


def weights_up_to(last, seed=0, widths=None):
    """He initialisation, and biases that are not zero."""
    random = np.random.default_rng(seed)
    shapes = conv_shapes(last, widths)
    kernels = [random.normal(0, np.sqrt(2 / (9 * shape[2])), shape).astype(np.float32) for shape in shapes]
    return TrunkWeights(
        tuple(kernels), tuple(random.normal(0, 0.1, shape[3]).astype(np.float32) for shape in shapes)
    )


def noise(count, spec, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, spec.height, spec.width, 3), np.uint8)


def trunk_of(tmp_path, last=B1, spec=None, precision=FP32, limit_bytes=PLENTY):
    spec = spec or spec_of(32)
    calibration = Calibration(noise(16, spec, seed=9), "calibration")
    cache = ActivationCache(tmp_path / "cache", limit_bytes)
    return FrozenTrunk("a trunk", weights_up_to(last), spec, precision, calibration, cache, threads=1)


def outputs(trunk, names, batch, start=None):
    return dict(zip(names, trunk.extractor(names, start)(batch), strict=True))


def all_names(last, above=None):
    blocks = [block for block in blocks_up_to(last) if above is None or block > above]
    return [name(block) for block in blocks for name in (maps_of, averages_of)]


def keras_layers(trunk, last, head=Head.GAP, scales=1):
    seen = (last,) if scales == 1 else (block_below(last), last)
    layers = make_layers(Network(last, head, seen, 0, 3), trunk.spec)
    set_trunk(layers, trunk.weights.kernels, trunk.weights.biases)
    return layers


def features_of(layers, pixels):
    """What the head of the Keras network sees."""
    model = whole(layers)
    return tf_keras.Model(model.input, model.get_layer("logits").input).predict_on_batch(pixels)


def assert_near(found, wanted, tolerance=1e-5):
    """As a share of the largest."""
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max(), rtol=0)


def sqnr_db(found, wanted):
    return 10 * np.log10(np.sum(wanted**2) / np.sum((found - wanted) ** 2))


# What the graph computes

# 80 pixels: maps of 5 x 5 after block4; 36 x 52: 9 x 13 after block2, 4 x 6 after block3.
SIZES = [(B3, spec_of(32)), (B3, spec_of(36, 52)), (B5, spec_of(80))]


@pytest.fixture(scope="module", params=SIZES, ids=["32", "36x52", "80"])
def plain(request, tmp_path_factory):
    """A float trunk, its last block, three images and all that it makes of them."""
    last, spec = request.param
    trunk = trunk_of(tmp_path_factory.mktemp("plain"), last, spec)
    pixels = noise(3, spec)
    return trunk, last, pixels, outputs(trunk, all_names(last), pixels)


def test_maps_are_what_keras_computes(plain):
    trunk, last, pixels, found = plain
    layers = keras_layers(trunk, last)
    for block in blocks_up_to(last):
        wanted = below(layers, block).predict_on_batch(pixels)
        assert wanted.shape[1:] == map_shape(trunk.spec.height, trunk.spec.width, block)
        assert_near(found[maps_of(block)], wanted)


@pytest.mark.parametrize("head", [head for head in Head if head is not Head.FLATTEN])
@pytest.mark.parametrize("scales", [1, 2])
def test_rows_hold_what_each_head_of_keras_sees_in_its_order(plain, head, scales):
    trunk, last, pixels, found = plain
    blocks = blocks_up_to(last)[1:]
    rows = np.concatenate([found[averages_of(block)] for block in blocks], axis=1)
    assert rows.shape == (len(pixels), row_width(trunk.spec, blocks))
    for cut in blocks[scales - 1 :]:
        layers = keras_layers(trunk, cut, head, scales)
        columns = columns_of(trunk.spec, blocks, head, layers.network.scales)
        assert_near(rows[:, columns], features_of(layers, pixels))


def test_it_goes_on_from_the_maps_of_any_block(plain):
    trunk, last, _, found = plain
    for start in blocks_up_to(last)[:-1]:
        names = all_names(last, start)
        for name, values in outputs(trunk, names, found[maps_of(start)], start).items():
            assert_near(values, found[name], 1e-6)


def test_it_goes_on_from_stored_maps_to_the_precision_of_float16(plain):
    trunk, last, _, found = plain
    for start in blocks_up_to(last)[:-1]:
        stored = found[maps_of(start)].astype(np.float16).astype(np.float32)
        for name, values in outputs(trunk, all_names(last, start), stored, start).items():
            assert_near(values, found[name], 2**-11)


def test_a_batch_of_one_and_several_give_the_same(plain):
    trunk, last, pixels, found = plain
    names = all_names(last)
    for number in range(len(pixels)):
        for name, values in outputs(trunk, names, pixels[number : number + 1]).items():
            assert_near(values[0], found[name][number], 1e-6)


def test_the_graph_is_valid_onnx():
    """ONNX Runtime finds out the shapes of the outputs; the checker wants any."""
    model = trunk_graph(weights_up_to(B3), spec_of(36, 52), B3)
    assert [value.name for value in model.graph.output] == all_names(B3)
    for value in model.graph.output:
        value.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(model)


# Only what is asked for


@pytest.fixture
def profiled(tmp_path, monkeypatch):
    """Lets ONNX Runtime write down what it runs. To be asked, when sessions are gone, for batches of one size."""
    options_of = onnxruntime.SessionOptions

    def options():
        made = options_of()
        made.enable_profiling = True
        made.profile_file_prefix = str(tmp_path / "profile")
        return made

    monkeypatch.setattr(onnxruntime, "SessionOptions", options)

    def convolutions(batch_size):
        gc.collect()
        events = [event for path in tmp_path.glob("profile*") for event in json.loads(path.read_text())]
        ran = [event["args"] for event in events if event["name"].endswith("_kernel_time")]
        shapes = [shape for node in ran if "Conv" in node["op_name"] for shape in node["output_type_shape"]]
        return sum(next(iter(shape.values()))[0] == batch_size for shape in shapes)

    return convolutions


@pytest.mark.parametrize(
    ("precision", "start", "asked", "convolutions"),
    [
        (FP32, None, [maps_of(B1)], 2),
        (FP32, None, [averages_of(B1), averages_of(B2)], 4),
        (FP32, B1, [maps_of(B2)], 2),
        (INT8, None, [maps_of(B1)], 2),
        (INT8, B1, [maps_of(B2)], 2),
    ],
)
def test_blocks_above_what_is_asked_for_are_not_computed(
    tmp_path, profiled, precision, start, asked, convolutions
):
    """Calibration, which computes everything, does so with other numbers of images."""
    trunk = trunk_of(tmp_path, B3, precision=precision)
    trunk = replace(trunk, calibration=replace(trunk.calibration, pixels=noise(2, trunk.spec)))
    batch = noise(5, trunk.spec) if start is None else np.ones((5, 16, 16, 64), "f")
    trunk.extractor(asked, start)(batch)
    del trunk
    assert profiled(5) == convolutions


def test_everything_that_is_asked_for_is_computed_once(tmp_path, profiled):
    trunk = trunk_of(tmp_path, B3)
    trunk.extractor(all_names(B3))(noise(5, trunk.spec))
    del trunk
    assert profiled(5) == 7


# int8


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    """An int8 trunk, images it was not calibrated with, and all that it makes of them."""
    trunk = trunk_of(tmp_path_factory.mktemp("int8"), B3, precision=INT8)
    pixels = noise(6, trunk.spec)
    return trunk, pixels, outputs(trunk, all_names(B3), pixels)


def test_int8_is_near_float(int8):
    trunk, pixels, found = int8
    plain = outputs(replace(trunk, precision=FP32, made={}), all_names(B3), pixels)
    for block in blocks_up_to(B3):
        assert 30 < sqnr_db(found[maps_of(block)], plain[maps_of(block)]) < 60, "near, and really int8"
        assert 34 < sqnr_db(found[averages_of(block)], plain[averages_of(block)]) < 70


def test_int8_maps_have_at_most_256_levels(int8):
    """So that float16, and the graph that goes on from it, can tell each of them."""
    _, _, found = int8
    for block in blocks_up_to(B3):
        assert len(np.unique(found[maps_of(block)])) <= 256


def test_int8_averages_are_the_averages_of_the_maps(int8):
    trunk, _, found = int8
    for block in blocks_up_to(B3):
        columns = columns_of(trunk.spec, [block], Head.GAP, [block])
        assert_near(found[averages_of(block)][:, columns], found[maps_of(block)].mean(axis=(1, 2)), 1e-5)


@pytest.mark.parametrize("start", [B1, B2])
def test_int8_goes_on_exactly_from_stored_maps(int8, start):
    """A row has one value, whatever it was computed from: its name in the cache does not say from what.

    Float16 moves no value by more than an eighth of a level, so each finds its level again.
    """
    trunk, _, found = int8
    stored = found[maps_of(start)].astype(np.float16).astype(np.float32)
    for name, values in outputs(trunk, all_names(B3, start), stored, start).items():
        np.testing.assert_array_equal(values, found[name])


def test_an_output_of_int8_does_not_depend_on_what_else_is_asked_for(int8):
    """Nor on the order; ONNX Runtime may join other nodes then."""
    trunk, pixels, found = int8
    for names in ([maps_of(B2)], [averages_of(B1)], [averages_of(B3), maps_of(B1)]):
        for name, values in outputs(trunk, names, pixels).items():
            np.testing.assert_array_equal(values, found[name])
    again = outputs(trunk, [averages_of(B3)], found[maps_of(B2)], B2)
    np.testing.assert_array_equal(again[averages_of(B3)], found[averages_of(B3)])


def test_int8_is_the_same_when_made_again(int8):
    trunk, pixels, found = int8
    again = outputs(replace(trunk, made={}), all_names(B3), pixels)
    for name, values in again.items():
        np.testing.assert_array_equal(values, found[name])


# Names of rows


def changed(weights, number, what="kernels"):
    """One number of one layer another one."""
    values = [value.copy() for value in getattr(weights, what)]
    values[number].flat[0] += 1e-3
    return replace(weights, **{what: tuple(values)})


def identities(trunk):
    """Of all spaces up to block2."""
    spaces = [
        trunk.maps_space(B1),
        trunk.maps_space(B2),
        trunk.pooled_space((B1, B2)),
        trunk.pooled_space((B2,)),
    ]
    return [space.identity for space in spaces]


@pytest.mark.parametrize("precision", [FP32, INT8])
def test_whatever_changes_a_row_changes_its_space(tmp_path, precision):
    trunk = trunk_of(tmp_path, B3, precision=precision)
    spec, weights = trunk.spec, trunk.weights
    others = [
        replace(trunk, weights=changed(weights, 0)),
        replace(trunk, weights=changed(weights, 1, "biases")),
        replace(trunk, spec=replace(spec, height=48)),
        replace(trunk, spec=replace(spec, width=48)),
        replace(trunk, spec=replace(spec, height=64, width=64)),
        replace(trunk, spec=replace(spec, mean_rgb=(0.0, 0.0, 0.0))),
        replace(trunk, spec=replace(spec, scale=1 / 255)),
        replace(trunk, spec=replace(spec, background_rgb=(0, 0, 0))),
        replace(trunk, spec=replace(spec, preprocessing_version=2)),
        replace(trunk, precision=INT8 if precision is FP32 else FP32),
    ]
    if precision is INT8:
        others.append(replace(trunk, calibration=replace(trunk.calibration, fingerprint="other images")))
    found = [identity for one in (trunk, *others) for identity in identities(one)]
    assert len(set(found)) == len(found) == 4 * (1 + len(others))


@pytest.mark.parametrize("precision", [FP32, INT8])
def test_what_changes_no_row_changes_no_space(tmp_path, precision):
    """Weights above the boundary, the name, the threads; and calibration images where there is no int8."""
    trunk = trunk_of(tmp_path, B3, precision=precision)
    weights = trunk.weights
    same = [
        replace(trunk, weights=changed(weights, 4)),
        replace(trunk, weights=changed(weights, 6, "biases")),
        replace(trunk, weights=TrunkWeights(weights.kernels[:4], weights.biases[:4])),
        replace(trunk, name="the same by another name", threads=2),
    ]
    if precision is FP32:
        same.append(replace(trunk, calibration=replace(trunk.calibration, fingerprint="other images")))
    for one in same:
        assert identities(one) == identities(trunk)
    assert same[0].maps_space(B3).identity != trunk.maps_space(B3).identity


def test_an_int8_row_below_does_not_feel_the_weights_above(tmp_path):
    """What the names above promise, of the numbers themselves."""
    trunk = trunk_of(tmp_path, B2, precision=INT8)
    kernels = [*trunk.weights.kernels[:2], *(3 * kernel for kernel in trunk.weights.kernels[2:])]
    other = replace(trunk, weights=replace(trunk.weights, kernels=tuple(kernels)), made={})
    pixels = noise(3, trunk.spec)
    one, two = (outputs(t, [maps_of(B1), averages_of(B1), maps_of(B2)], pixels) for t in (trunk, other))
    np.testing.assert_array_equal(one[maps_of(B1)], two[maps_of(B1)])
    np.testing.assert_array_equal(one[averages_of(B1)], two[averages_of(B1)])
    assert (one[maps_of(B2)] != two[maps_of(B2)]).any()


def test_rows_of_other_blocks_are_another_space(tmp_path):
    trunk = trunk_of(tmp_path, B3)
    assert trunk.pooled_space((B1, B3)).identity != trunk.pooled_space((B1, B2, B3)).identity


def test_shapes_and_titles_of_spaces(tmp_path):
    trunk = trunk_of(tmp_path, B5, spec_of(64, 80))
    assert trunk.maps_space(B3).row_shape == (8, 10, 256)
    assert trunk.pooled_space((B4, B5)).row_shape == (row_width(trunk.spec, (B4, B5)),)
    small = replace(trunk, spec=spec_of(32))
    assert row_width(trunk.spec, (B5,)) - row_width(small.spec, (B5,)) == 4 * 512, "no quarters of 1 x 1"
    for space, words in (
        (trunk.maps_space(B3), ["block3"]),
        (trunk.pooled_space((B4, B5)), ["block4", "block5"]),
    ):
        for word in ("a trunk", *words, "80 x 64 pixels", "fp32"):
            assert word in space.title


@pytest.mark.parametrize("precision", [FP32, INT8])
def test_a_trunk_with_fewer_channels(tmp_path, precision):
    widths = (16, 32, 48, 16)
    trunk = replace(trunk_of(tmp_path, B2, precision=precision), weights=weights_up_to(B2, widths=widths))
    assert trunk.weights.widths == widths
    assert trunk.weights.last is B2
    assert trunk.maps_space(B1).row_shape == (16, 16, 32)
    assert trunk.pooled_space((B1, B2)).row_shape == ((2 + 4) * (32 + 16),)
    assert trunk.multiplications_to(B1) == 32 * 32 * 9 * (3 * 16 + 16 * 32)
    assert trunk.multiplications_to(B2) == trunk.multiplications_to(B1) + 16 * 16 * 9 * (32 * 48 + 48 * 16)
    pixels = noise(3, trunk.spec)
    found = outputs(trunk, [maps_of(B1), maps_of(B2), averages_of(B2)], pixels)
    assert found[maps_of(B2)].shape == (3, 8, 8, 16)
    columns = columns_of(trunk.spec, (B1, B2), Head.MAX, (B2,), widths)
    assert columns.tolist() == list(range(6 * 32 + 16, 6 * 32 + 2 * 16))
    further = outputs(trunk, [maps_of(B2), averages_of(B2)], found[maps_of(B1)], B1)
    assert_near(further[maps_of(B2)], found[maps_of(B2)])
    assert_near(further[averages_of(B2)], found[averages_of(B2)])


def test_titles_tell_int8_spaces_of_other_calibration_images_apart(tmp_path):
    """`edgetl cache` lists titles: two lines that are the same would be a riddle."""
    trunk = trunk_of(tmp_path, precision=INT8)
    other = replace(trunk, calibration=replace(trunk.calibration, fingerprint="other images"))
    assert trunk.maps_space(B1).title != other.maps_space(B1).title


def test_keys_tell_images_and_views_apart_view_by_view():
    digests, views = ["a" * 64, "b" * 64, "a" * 64], ["", "light 0 1"]
    keys = keys_of(digests, views)
    assert len(keys) == 6
    assert {len(key) for key in keys} == {32}
    assert keys[0] == keys[2] != keys[1]
    assert keys[3] == keys[5] != keys[4]
    assert len(set(keys)) == 4
    assert keys[:3] == keys_of(digests, [""])
    assert keys_of(digests[:1], views[1:]) == keys[3:4]
    assert keys_of([], views) == keys_of(digests, []) == []


# Filling


class Pictures:
    """Images by position, and which were looked at."""

    def __init__(self, pixels):
        self.pixels = pixels
        self.seen = []

    def __call__(self, positions):
        self.seen += positions.tolist()
        return self.pixels[positions]


def names_of(numbers):
    return keys_of([hashlib.sha256(str(number).encode()).hexdigest() for number in numbers], [""])


@pytest.fixture(scope="module")
def pictures():
    """Forty images, more than go through the trunk at once."""
    return noise(40, spec_of(32))


@pytest.fixture(scope="module")
def wanted(pictures, tmp_path_factory):
    """What a trunk of one block makes of them, as stored."""
    found = outputs(trunk_of(tmp_path_factory.mktemp("w")), [maps_of(B1), averages_of(B1)], pictures)
    return found[maps_of(B1)].astype(np.float16), found[averages_of(B1)].astype(np.float16)


def assert_rows(rows, values):
    """Float16, to rounding: batches of other sizes may be added up in another order."""
    assert rows.dtype == np.float16
    assert_allclose(rows.astype(np.float32), values.astype(np.float32), rtol=2**-10, atol=1e-3)


def test_two_targets_are_filled_in_one_pass_and_in_order(tmp_path, pictures, wanted):
    trunk, looked = trunk_of(tmp_path), Pictures(pictures)
    keys = names_of(range(40))
    with (
        trunk.cache.rows(trunk.maps_space(B1), keys) as maps,
        trunk.cache.rows(trunk.pooled_space((B1,)), keys) as averages,
    ):
        fill(trunk, Filling((B1, maps), ((B1,), averages), None), looked)
        assert looked.seen == list(range(40))
        assert len(maps.missing) == len(averages.missing) == 0
        assert_rows(maps[:], wanted[0])
        assert_rows(averages[:], wanted[1])
        fill(trunk, Filling((B1, maps), ((B1,), averages), None), looked)
    assert len(looked.seen) == 40, "nothing was missing"


def test_the_averages_of_several_blocks_are_one_row(tmp_path, pictures):
    trunk = trunk_of(tmp_path, B2)
    with trunk.cache.rows(trunk.pooled_space((B1, B2)), names_of(range(3))) as rows:
        fill(trunk, Filling(None, ((B1, B2), rows), None), Pictures(pictures))
        found = outputs(trunk, [averages_of(B1), averages_of(B2)], pictures[:3])
        assert_rows(rows[:], np.concatenate(list(found.values()), axis=1).astype(np.float16))


def test_only_what_is_missing_is_computed_also_by_later_runs(tmp_path, pictures, wanted):
    trunk = trunk_of(tmp_path)
    space = trunk.pooled_space((B1,))
    with trunk.cache.rows(space, names_of([3, 30, 7])) as rows:
        fill(trunk, Filling(None, ((B1,), rows), None), lambda some: pictures[[3, 30, 7]][some])
    looked = Pictures(pictures)
    with trunk.cache.rows(space, names_of(range(40))) as rows:
        assert_rows(rows[np.array([7, 3, 30])], wanted[1][[7, 3, 30]])
        fill(trunk, Filling(None, ((B1,), rows), None), looked)
        assert looked.seen == [number for number in range(40) if number not in {3, 7, 30}]
        assert_rows(rows[:], wanted[1])


def test_targets_that_miss_different_rows(tmp_path, pictures, wanted):
    trunk, keys = trunk_of(tmp_path), names_of(range(10))
    with trunk.cache.rows(trunk.pooled_space((B1,)), keys[:6]) as rows:
        fill(trunk, Filling(None, ((B1,), rows), None), Pictures(pictures))
    with trunk.cache.rows(trunk.maps_space(B1), keys[4:8]) as rows:
        fill(trunk, Filling((B1, rows), None, None), lambda some: pictures[4:8][some])
    looked = Pictures(pictures)
    with (
        trunk.cache.rows(trunk.maps_space(B1), keys) as maps,
        trunk.cache.rows(trunk.pooled_space((B1,)), keys) as averages,
    ):
        fill(trunk, Filling((B1, maps), ((B1,), averages), None), looked)
        assert looked.seen == [0, 1, 2, 3, 6, 7, 8, 9]
        assert_rows(maps[:], wanted[0][:10])
        assert_rows(averages[:], wanted[1][:10])


def test_equal_images_are_computed_once(tmp_path, pictures, wanted):
    trunk, numbers = trunk_of(tmp_path), [5, 1, 5, 5, 2, 1]
    looked = Pictures(pictures[numbers])
    keys = names_of(numbers)
    with (
        trunk.cache.rows(trunk.maps_space(B1), keys) as maps,
        trunk.cache.rows(trunk.pooled_space((B1,)), keys) as averages,
    ):
        fill(trunk, Filling((B1, maps), ((B1,), averages), None), looked)
        assert looked.seen == [0, 1, 4]
        assert_rows(averages[:], wanted[1][numbers])
        assert_rows(maps[:], wanted[0][numbers])


def test_numbers_too_large_for_float16_become_the_largest(tmp_path, pictures):
    trunk = trunk_of(tmp_path)
    biases = [bias.copy() for bias in trunk.weights.biases]
    biases[1][:3] = 1e6
    trunk = replace(trunk, weights=replace(trunk.weights, biases=tuple(biases)), made={})
    with (
        trunk.cache.rows(trunk.maps_space(B1), names_of([0])) as maps,
        trunk.cache.rows(trunk.pooled_space((B1,)), names_of([0])) as averages,
    ):
        fill(trunk, Filling((B1, maps), ((B1,), averages), None), Pictures(pictures))
        assert np.isfinite(maps[:]).all()
        assert np.isfinite(averages[:]).all()
        assert (maps[:][..., :3] == LARGEST_HALF).all()
        assert (averages[:][:, :3] == LARGEST_HALF).all()
        assert maps[:][..., 3:].max() < 1000
    assert np.float16(LARGEST_HALF) == np.finfo(np.float16).max


def test_it_goes_on_from_stored_rows_without_looking_at_images(tmp_path, pictures):
    trunk, keys, looked = trunk_of(tmp_path, B2), names_of(range(34)), Pictures(pictures)
    with (
        trunk.cache.rows(trunk.maps_space(B1), keys) as low,
        trunk.cache.rows(trunk.maps_space(B2), keys) as high,
        trunk.cache.rows(trunk.pooled_space((B2,)), keys) as averages,
    ):
        fill(trunk, Filling((B1, low), None, None), looked)
        looked.seen.clear()
        fill(trunk, Filling((B2, high), ((B2,), averages), (B1, low)), looked)
        assert looked.seen == []
        found = outputs(trunk, [maps_of(B2), averages_of(B2)], pictures[:34])
        for rows, name in ((high, maps_of(B2)), (averages, averages_of(B2))):
            assert_near(rows[:].astype(np.float32), found[name], 2**-10)


@pytest.mark.parametrize("also_maps", [False, True])
def test_too_little_room_is_said_before_any_image_is_looked_at(tmp_path, pictures, also_maps):
    """Also when the averages alone would fit."""
    trunk = trunk_of(tmp_path, limit_bytes=100_000 if also_maps else 1000)
    keys, looked = names_of(range(40)), Pictures(pictures)
    with (
        trunk.cache.rows(trunk.maps_space(B1), keys) as maps,
        trunk.cache.rows(trunk.pooled_space((B1,)), keys) as averages,
        pytest.raises(StorageError),
    ):
        fill(trunk, Filling((B1, maps) if also_maps else None, ((B1,), averages), None), looked)
    assert looked.seen == []


def test_what_was_computed_before_a_failure_is_kept(tmp_path, pictures, wanted):
    trunk, keys, looked = trunk_of(tmp_path), names_of(range(40)), Pictures(pictures)

    def broken(positions):
        if positions[0] > 0:
            raise OSError("the images are gone")
        return looked(positions)

    space = trunk.pooled_space((B1,))
    with pytest.raises(OSError, match="gone"), trunk.cache.rows(space, keys) as rows:
        fill(trunk, Filling(None, ((B1,), rows), None), broken)
    assert looked.seen == list(range(frozen.IMAGES_AT_ONCE))
    with trunk.cache.rows(space, keys) as rows:
        assert rows.missing.tolist() == list(range(frozen.IMAGES_AT_ONCE, 40))
        assert_rows(rows[: frozen.IMAGES_AT_ONCE], wanted[1][: frozen.IMAGES_AT_ONCE])
        fill(trunk, Filling(None, ((B1,), rows), None), looked)
        assert_rows(rows[:], wanted[1])


def test_another_precision_or_size_finds_nothing_stored(tmp_path, pictures):
    trunk, keys = trunk_of(tmp_path), names_of(range(4))
    with trunk.cache.rows(trunk.pooled_space((B1,)), keys) as rows:
        fill(trunk, Filling(None, ((B1,), rows), None), Pictures(pictures))
    for other in (replace(trunk, precision=INT8), replace(trunk, weights=changed(trunk.weights, 0))):
        with other.cache.rows(other.pooled_space((B1,)), keys) as rows:
            assert len(rows.missing) == 4
