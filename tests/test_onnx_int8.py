"""int8 ONNX: calibrated once and exactly as ONNX Runtime does, and what each repair changes in the file."""

from contextlib import contextmanager

import numpy as np
import onnx
import pytest
from numpy.testing import assert_array_equal
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import MinMaxCalibrater
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgetl.card import InputSpec, Network
from edgetl.config import Block, Head
from edgetl.engines.onnx import OnnxClassifier, session_of
from edgetl.features.graph import TrunkWeights, trunk_graph
from edgetl.progress import REPORTER, Silent
from edgetl.quantize import onnx_int8
from edgetl.quantize.first_layer import without_fourth_channel
from edgetl.quantize.onnx import copy_of, executed_operators, last_dense, to_int8
from edgetl.quantize.onnx_int8 import QUANTIZED, calibrate
from edgetl.quantize.ranges import LEVELS
from edgetl.quantize.recipe import Recipe
from edgetl.vgg16 import conv_shapes

pytest.importorskip("tensorflow", exc_type=ImportError)

SIDE = 33  # odd: the last row and column of a map are not in its pooled map
SPEC = InputSpec(SIDE, SIDE, (120.0, 110.0, 100.0), 1 / 64, (255, 255, 255), 1)
COUNT = 4  # convolutions up to block2
REPAIRED = Recipe(clipped=True, bias_corrected=True, reduced=True, float_layers=(1,))
HEADS = [(Head.GAP, 1), (Head.MAX, 1), (Head.GRID, 2), (Head.FLATTEN, 1)]


def float_network(head=Head.GAP, scales=1, biases=True):
    """A random network, He-initialised, as the exporter makes it."""
    from edgetl.keras.network import make_layers, whole
    from edgetl.keras.to_onnx import to_onnx

    seen = (Block.BLOCK1, Block.BLOCK2)[-scales:]
    hidden = 16 if head is Head.FLATTEN else 0
    layers = make_layers(Network(Block.BLOCK2, head, seen, hidden, 3), SPEC)
    whole(layers)
    random = np.random.default_rng(0)
    for layer in (*layers.convolutions, *layers.dense):
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel, random.normal(scale=0.1, size=bias.shape) if biases else bias])
    return to_onnx(layers)


def float_trunk():
    """The graph that features are extracted with."""
    random = np.random.default_rng(0)
    shapes = conv_shapes(Block.BLOCK2)
    kernels = [random.normal(0, np.sqrt(2 / np.prod(s[:3])), s).astype(np.float32) for s in shapes]
    biases = [random.normal(0, 0.1, shape[3]).astype(np.float32) for shape in shapes]
    return trunk_graph(TrunkWeights(tuple(kernels), tuple(biases)), SPEC, Block.BLOCK2)


@pytest.fixture(scope="module")
def pixels():
    """Blocks of colours with noise; three batches, the last one not full."""
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (20, 6, 6, 3)).repeat(6, 1).repeat(6, 2)[:, :SIDE, :SIDE]
    return np.clip(blocks + random.integers(-20, 20, blocks.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    """A float network with an average per channel and biases, not to be changed."""
    return float_network()


@pytest.fixture(scope="module")
def quantizer(model, pixels):
    """It, calibrated."""
    return calibrate(model, pixels)


class Reader(CalibrationDataReader):
    """As ONNX Runtime's documentation shows it."""

    def __init__(self, pixels):
        self.batches = iter([{"image": pixels[start : start + 8]} for start in range(0, len(pixels), 8)])

    def get_next(self):
        return next(self.batches, None)


def by_onnx_runtime(model, pixels, folder):
    """Static quantization by the library's public function, from calibration to file."""
    source, prepared, target = (str(folder / name) for name in ("source.onnx", "prepared.onnx", "int8.onnx"))
    onnx.save(model, source)
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    dense = last_dense(onnx.load(prepared))
    quantize_static(
        prepared,
        target,
        Reader(pixels),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(QUANTIZED),
        nodes_to_exclude=[dense] if dense else [],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return onnx.load(target)


def constants(model):
    return {tensor.name: without_fourth_channel(tensor) for tensor in model.graph.initializer}


@pytest.fixture
def three_colours(monkeypatch):
    """Files as they are before the first layer gets a fourth colour, which test_first_layer.py looks at."""
    monkeypatch.setattr(onnx_int8, "add_fourth_channel", lambda *_: None)


def quantizers(model):
    """For each quantized activation its scale and zero point."""
    values = constants(model)
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    return {node.output[0].removesuffix("_QuantizeLinear_Output"): node.input[1:] for node in nodes}, values


def weights_of(model):
    """Of each convolution: int8 levels, their scales, int32 biases and their scales; None for float ones."""
    values = constants(model)
    made_by = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv":
            sources = [made_by.get(name) for name in node.input[1:]]
            yield [values[name] for source in sources for name in source.input[:2]] if all(sources) else None


@pytest.mark.usefixtures("three_colours")
@pytest.mark.parametrize(("head", "scales"), HEADS)
@pytest.mark.parametrize("biases", [True, False])
def test_without_repairs_it_is_what_onnx_runtime_makes_bit_for_bit(head, scales, biases, pixels, tmp_path):
    model = float_network(head, scales, biases)
    assert len([node for node in model.graph.node if node.op_type == "Conv"]) == COUNT
    made = to_int8(model, pixels).SerializeToString()
    assert made == by_onnx_runtime(model, pixels, tmp_path).SerializeToString()


@pytest.mark.usefixtures("three_colours")
def test_a_trunk_without_a_head_is_what_onnx_runtime_makes_bit_for_bit(pixels, tmp_path):
    trunk = float_trunk()
    made = to_int8(trunk, pixels).SerializeToString()
    assert made == by_onnx_runtime(trunk, pixels, tmp_path).SerializeToString()


def test_ranges_are_those_of_onnx_runtimes_calibration(quantizer, pixels, tmp_path):
    path = tmp_path / "prepared.onnx"
    onnx.save(quantizer.graph, path)
    calibrater = MinMaxCalibrater(
        path, list(QUANTIZED), augmented_model_path=str(tmp_path / "augmented.onnx")
    )
    calibrater.augment_graph()
    calibrater.create_inference_session()
    calibrater.collect_data(Reader(pixels))
    theirs = calibrater.compute_data()
    assert set(theirs.keys()) == quantizer.ranges.keys()
    for name, (low, high) in quantizer.ranges.items():
        assert (theirs[name].lowest.item(), theirs[name].highest.item()) == (low, high), name
    for layer, seen in zip(quantizer.convolutions, quantizer.activations, strict=True):
        assert seen.high == quantizer.ranges[layer.output][1]
        assert (seen.images, seen.channels) == (len(pixels), layer.channels)
        assert seen.channel_highs.max() == np.float32(seen.high)


def test_images_run_once_however_many_files_are_made(model, pixels):
    done = []

    class Watching(Silent):
        @contextmanager
        def task(self, name, total, begun):
            assert begun == 0
            yield lambda units: done.append((name, total, units))

    token = REPORTER.set(Watching())
    try:
        calibrated = calibrate(model, pixels)
        for recipe in (Recipe(), REPAIRED):
            calibrated.build(recipe)
    finally:
        REPORTER.reset(token)
    name = "calibrating ONNX int8"
    assert done == [(name, 20, 8), (name, 20, 8), (name, 20, 4)]


def test_a_file_depends_on_its_recipe_alone(quantizer, model, pixels):
    before = model.SerializeToString()
    plain = quantizer.build(Recipe()).SerializeToString()
    repaired = quantizer.build(REPAIRED).SerializeToString()
    assert plain != repaired
    assert quantizer.build(Recipe()).SerializeToString() == plain
    again = calibrate(model, pixels)
    assert again.build(REPAIRED).SerializeToString() == repaired
    assert model.SerializeToString() == before


def test_clipped_ranges_begin_at_zero_and_end_where_the_error_is_least(quantizer):
    tensors, values = quantizers(quantizer.build(Recipe(clipped=True)))
    ends = [seen.clipped_high() for seen in quantizer.activations]
    assert any(end < seen.high for end, seen in zip(ends, quantizer.activations, strict=True))
    for layer, end in zip(quantizer.convolutions, ends, strict=True):
        scale, zero = tensors[layer.output]
        assert values[scale] == np.float32(np.float64(np.float32(end)) / LEVELS)
        assert values[zero] == 0
    plain, plain_values = quantizers(quantizer.build(Recipe()))
    first = quantizer.convolutions[0].source
    assert values[tensors[first][0]] == plain_values[plain[first][0]], "images are not clipped"


@pytest.mark.parametrize("float_layers", [(), (1,), (1, 3), (0, 2)])
def test_a_pooled_map_has_the_range_of_what_it_pools(quantizer, float_layers):
    """Behind a layer that stays float, too, where the quantizer would measure the pooled map by itself."""
    model = quantizer.build(Recipe(clipped=True, float_layers=float_layers))
    tensors, values = quantizers(model)
    pools = {
        node.input[0]: node.output[0] for node in quantizer.graph.graph.node if node.op_type == "MaxPool"
    }
    for number in (1, 3):
        wanted = np.float32(quantizer.activations[number].clipped_high()) / LEVELS
        pooled = pools[quantizer.convolutions[number].output]
        if pooled in tensors:
            scale, zero = tensors[pooled]
            assert values[scale] == pytest.approx(wanted)
            assert values[zero] == 0
    assert (pools[quantizer.convolutions[1].output] in tensors) == (
        2 not in float_layers or 1 not in float_layers
    )


def test_what_a_hidden_layer_reads_is_clipped_like_the_map_it_lays_out(pixels):
    quantizer = calibrate(float_network(Head.FLATTEN), pixels)
    tensors, values = quantizers(quantizer.build(Recipe(clipped=True)))
    (flat,) = [name for name in tensors if "flatten" in name]
    last = quantizer.convolutions[-1].output
    assert values[tensors[flat][0]] == values[tensors[last][0]]


def outputs_of(graph, names, pixels):
    """Values of inner tensors of the float network."""
    shown = copy_of(graph)
    shown.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    return session_of(shown.SerializeToString(), 0).run(names, {"image": pixels})


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("recipe", [Recipe(), Recipe(reduced=True), Recipe(clipped=True, float_layers=(2,))])
def test_corrected_biases_take_the_mean_error_of_every_channel(biases, recipe, pixels):
    """To a rounding step of the bias, on the calibration images: each tap's mean is exact, borders included."""
    quantizer = calibrate(float_network(biases=biases), pixels)
    corrected = Recipe(**(vars(recipe) | {"bias_corrected": True}))
    plain, better = (list(weights_of(quantizer.build(r))) for r in (Recipe(**vars(recipe)), corrected))
    values = constants(quantizer.graph)
    for number, layer in enumerate(quantizer.convolutions):
        if number in recipe.float_layers:
            assert better[number] is None
            continue
        (maps,) = outputs_of(quantizer.graph, [layer.source], pixels)
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3)
        )
        taps = windows.mean(axis=(0, 2, 3), dtype=np.float64)
        bias = values[layer.bias] if layer.bias else 0.0
        levels, scale, found, step = better[number]
        wrong = np.einsum("oiyx,iyx->o", levels * scale[:, None, None, None] - values[layer.kernel], taps)
        before = wrong + (plain[number][2] * plain[number][3] - bias if layer.bias else 0)
        after = wrong + found * step - bias
        assert_array_equal(levels, plain[number][0] if layer.bias else levels)
        assert np.abs(after).max() <= 0.51 * step.max() + 1e-6 * np.abs(before).max()
        assert np.abs(after).mean() < 0.05 * np.abs(before).mean()


def test_corrected_biases_help_the_whole_network(quantizer, model, pixels):
    """The means of the features over images, where weights are coarse."""
    features = [node.input[0] for node in model.graph.node if node.op_type == "MatMul"]
    (wanted,) = outputs_of(model, features, pixels)
    errors = []
    for recipe in (Recipe(reduced=True), Recipe(reduced=True, bias_corrected=True)):
        quantized = quantizer.build(recipe)
        (found,) = outputs_of(quantized, features, pixels)
        errors.append(np.abs((found - wanted).mean(axis=0)).mean())
    assert errors[1] < errors[0]


def test_reduced_weights_cannot_saturate_a_pair_of_products(quantizer):
    for recipe, largest in ((Recipe(), 127), (Recipe(reduced=True), 64)):
        for levels, *_ in weights_of(quantizer.build(recipe)):
            assert np.abs(levels.astype(int)).max() == largest
    assert 2 * LEVELS * 64 <= np.iinfo(np.int16).max < 2 * LEVELS * 127


@pytest.mark.parametrize(
    "float_layers", [(0,), (1,), (3,), (0, 3), (1, 2), (0, 1, 2), (1, 2, 3), (0, 1, 2, 3)]
)
def test_layers_that_stay_float_run_in_float_and_all_others_in_int8(quantizer, float_layers):
    made = quantizer.build(Recipe(float_layers=float_layers))
    executed = executed_operators(made.SerializeToString())
    assert executed["QLinearConv"] == COUNT - len(float_layers)
    assert executed["Conv"] + executed["FusedConv"] == len(float_layers)
    assert [found is None for found in weights_of(made)] == [n in float_layers for n in range(COUNT)]


def test_all_layers_in_float_are_the_float_network(quantizer, model, pixels):
    made = quantizer.build(Recipe(float_layers=(0, 1, 2, 3)))
    wanted, found = (OnnxClassifier(m.SerializeToString())(pixels) for m in (model, made))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_files_with_every_repair_are_valid_and_near(quantizer, model, pixels):
    wanted = OnnxClassifier(model.SerializeToString())(pixels)
    for recipe in (Recipe(), Recipe(clipped=True), Recipe(bias_corrected=True), REPAIRED):
        made = quantizer.build(recipe)
        onnx.checker.check_model(made, full_check=True)
        assert np.abs(OnnxClassifier(made.SerializeToString())(pixels) - wanted).max() < 0.1, recipe


@pytest.mark.parametrize("float_layers", [(4,), (-1,), (1, 0), (0, 0)])
def test_layers_that_do_not_exist_are_refused(quantizer, float_layers):
    with pytest.raises(ValueError, match="float layers"):
        quantizer.build(Recipe(float_layers=float_layers))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, SIDE, SIDE, 3), np.float32),
        np.zeros((SIDE, SIDE, 3), np.uint8),
        np.zeros((0, 33, 33, 3), np.uint8),
    ],
)
def test_other_arrays_than_images_are_refused(model, bad):
    with pytest.raises(ValueError, match="calibration needs uint8"):
        calibrate(model, bad)


def test_weights_that_are_no_numbers_are_refused(pixels):
    broken = float_trunk()
    kernel = next(
        tensor for tensor in broken.graph.initializer if len(tensor.dims) == 4 and tensor.dims[0] > 1
    )
    values = numpy_helper.to_array(kernel).copy()
    values[0] = np.nan
    kernel.CopyFrom(numpy_helper.from_array(values, kernel.name))
    with pytest.raises(ValueError, match="finite"):
        calibrate(broken, pixels[:2])


def test_networks_of_another_shape_are_refused(pixels):
    without = float_trunk()
    relu = next(node for node in without.graph.node if node.op_type == "Relu")
    relu.op_type = "Neg"
    with pytest.raises(ValueError, match="not one Relu"):
        calibrate(without, pixels[:2])
