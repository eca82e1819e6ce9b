"""int8 TFLite files by recipe: what calibration sees, what each repair changes, and what stays float."""

import warnings
from collections import Counter
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import recipe as recipes
from trained import shapes, trained_once  # noqa: F401

from edgetl import images
from edgetl.card import InputSpec, Model, Network
from edgetl.config import Block, Head
from edgetl.engines.tflite import TFLiteClassifier
from edgetl.errors import CheckFailed
from edgetl.keras.classifier import open_layers
from edgetl.keras.network import make_layers
from edgetl.keras.to_tflite import to_tflite
from edgetl.quantize import tflite as quantize_tflite
from edgetl.quantize import tflite_int8
from edgetl.quantize.recipe import Recipe
from edgetl.quantize.tflite_int8 import calibrate
from edgetl.reference import read_reference

INT8, FLOAT = schema.TensorType.INT8, schema.TensorType.FLOAT32
CODES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
LAYERS = 4
EVERY_RECIPE = [
    Recipe(),
    Recipe(clipped=True),
    Recipe(bias_corrected=True),
    Recipe(clipped=True, bias_corrected=True, float_layers=(0, 3)),
    Recipe(float_layers=tuple(range(LAYERS))),
]
each_recipe = pytest.mark.parametrize("recipe", EVERY_RECIPE)


@pytest.fixture(scope="module")
def pixels(trained_once):
    """Many calibration images."""
    return read_reference(Model.open(trained_once)).pixels


@pytest.fixture(scope="module")
def model(trained_once):
    """The trained network as a float32 file; its head sees the largest values of block 2."""
    return to_tflite(open_layers(Model.open(trained_once)))


@pytest.fixture(scope="module")
def quantizer(model, pixels):
    return calibrate(model, pixels)


def untrained(head, scales, mean_rgb=(120.0, 110.0, 100.0), scale=1 / 64):
    """The float32 file of a random network; its biases are all zero."""
    spec = InputSpec(32, 32, mean_rgb, scale, images.WHITE, images.PREPROCESSING_VERSION)
    hidden = 16 if head is Head.FLATTEN else 0
    return to_tflite(make_layers(Network(scales[-1], head, scales, hidden, 3), spec))


def tensors_of(content):
    """Name -> schema tensor."""
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    return {tensor.name.decode(): tensor for tensor in graph.subgraphs[0].tensors}


def steps(content):
    """(operator, names read, name made) in order."""
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    main = graph.subgraphs[0]
    names = [tensor.name.decode() for tensor in main.tensors]
    return [
        (
            CODES[graph.operatorCodes[step.opcodeIndex].builtinCode],
            [names[index] for index in step.inputs if index >= 0],
            names[step.outputs[0]],
        )
        for step in main.operators
    ]


def convolutions(content):
    return [(reads, made) for operator, reads, made in steps(content) if operator == "CONV_2D"]


def interpreter_of(content, keep=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the memory that keeping takes
        interpreter = Interpreter(model_content=content, experimental_preserve_all_tensors=keep)
    interpreter.allocate_tensors()
    return interpreter


def constants(content):
    """The kernel and the bias of each convolution."""
    interpreter = interpreter_of(content, keep=True)
    indices = {detail["name"]: detail["index"] for detail in interpreter.get_tensor_details()}
    return [
        [interpreter.get_tensor(indices[name]) for name in reads[1:]] for reads, _ in convolutions(content)
    ]


@pytest.fixture(scope="module")
def inside(model, pixels):
    """Name -> every value [images, ...] that the float network has on calibration images."""
    interpreter = interpreter_of(model, keep=True)
    indices = {detail["name"]: detail["index"] for detail in interpreter.get_tensor_details()}
    seen = {name: [] for name in indices}
    for image in pixels:
        interpreter.set_tensor(indices["serving_default_image:0"], image[None])
        interpreter.invoke()
        for name, index in indices.items():
            seen[name].append(interpreter.get_tensor(index))
    return {name: np.stack(values) for name, values in seen.items()}


def test_ranges_are_the_true_smallest_and_largest(quantizer, inside, model):
    assert set(quantizer.ranges) == {made for _, _, made in steps(model)} | {"serving_default_image:0"}
    for name, found in quantizer.ranges.items():
        assert found["min"].ravel() == [inside[name].min()], name
        assert found["max"].ravel() == [inside[name].max()], name


def test_more_images_only_widen_ranges(quantizer, model, pixels):
    few = calibrate(model, pixels[:3]).ranges
    assert few.keys() == quantizer.ranges.keys()
    for name, found in few.items():
        assert (quantizer.ranges[name]["min"] <= found["min"]).all()
        assert (quantizer.ranges[name]["max"] >= found["max"]).all()


def test_calibration_sees_what_convolutions_read_and_give(quantizer, inside, model):
    assert len(quantizer.activations) == len(quantizer.tap_means) == LAYERS
    found = zip(convolutions(model), quantizer.activations, quantizer.tap_means, strict=True)
    for (reads, made), activation, means in found:
        given, read = inside[made][:, 0], inside[reads[0]][:, 0]
        assert activation.high == given.max()
        assert activation.images == len(inside[made])
        np.testing.assert_array_equal(activation.channel_highs, given.max(axis=(0, 1, 2)))
        np.testing.assert_allclose(activation.channel_means, given.mean(axis=(0, 1, 2)), rtol=1e-4)
        middle, corner = means[:, 1, 1], means[:, 0, 0]
        places = read.shape[1] * read.shape[2]
        np.testing.assert_allclose(middle, read.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-4)
        without = read[:, :-1, :-1].sum(axis=(1, 2), dtype=np.float64).mean(axis=0) / places
        np.testing.assert_allclose(corner, without, rtol=1e-3, atol=1e-4)


def test_building_changes_nothing_and_always_gives_the_same_bytes(quantizer, model, pixels):
    other = calibrate(model, pixels)
    before = {
        name: {end: value.copy() for end, value in found.items()} for name, found in other.ranges.items()
    }
    for recipe in [*EVERY_RECIPE, *reversed(EVERY_RECIPE)]:
        assert other.build(recipe) == quantizer.build(recipe)
    assert other.model == model
    for name, found in before.items():
        for end, value in found.items():
            np.testing.assert_array_equal(other.ranges[name][end], value)


def test_the_plain_recipe_is_what_the_quantizer_makes_of_true_ranges(quantizer, model):
    """Byte for byte."""
    assert quantizer.build(Recipe()) == quantize_tflite.quantize(
        model, recipes.static_wi8_ai8(), quantizer.ranges
    )


@pytest.mark.parametrize("head", [Head.GAP, Head.GRID])
def test_averages_apart_other_heads_as_well(head, pixels, monkeypatch):
    model = untrained(head, (Block.BLOCK1, Block.BLOCK2))
    quantizer = calibrate(model, pixels)
    before = deepcopy(quantizer.ranges)
    plain = quantize_tflite.quantize(model, recipes.static_wi8_ai8(), quantizer.ranges)
    assert quantizer.ranges == before, "the library writes into ranges that it is given"
    tensors = tensors_of(quantizer.build(Recipe()))
    averages = [made for operator, _, made in steps(model) if operator in {"MEAN", "AVERAGE_POOL_2D"}]
    assert [tensors[name].type for name in averages] == [FLOAT, FLOAT]
    assert [tensors_of(plain)[name].type for name in averages] == [INT8, INT8]
    monkeypatch.setattr(tflite_int8, "AVERAGES", ())
    assert quantizer.build(Recipe()) == plain


@pytest.mark.parametrize("head", [Head.GAP, Head.GRID])
def test_averages_in_float_are_nearer_to_the_float_network(head, pixels, monkeypatch):
    """Of two blocks, whose averages differ in size."""
    model = untrained(head, (Block.BLOCK1, Block.BLOCK2))
    quantizer = calibrate(model, pixels)
    wanted = TFLiteClassifier(model)(pixels)
    without = np.abs(TFLiteClassifier(quantizer.build(Recipe()))(pixels) - wanted).mean()
    monkeypatch.setattr(tflite_int8, "AVERAGES", ())
    assert without < np.abs(TFLiteClassifier(quantizer.build(Recipe()))(pixels) - wanted).mean()


@each_recipe
def test_files_open_take_bytes_give_floats_and_stay_near(quantizer, model, pixels, recipe):
    content = quantizer.build(recipe)
    interpreter = interpreter_of(content)
    (image,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (image["dtype"], image["quantization"]) == (np.uint8, (0.0, 0))
    assert output["dtype"] == np.float32
    wanted, found = TFLiteClassifier(model)(pixels), TFLiteClassifier(content)(pixels)
    sure = np.sort(wanted, axis=1)[:, -1] - np.sort(wanted, axis=1)[:, -2] > 0.3
    assert (wanted.argmax(axis=1) == found.argmax(axis=1))[sure].all()
    assert np.abs(wanted - found).mean() < 0.05


def test_exactly_the_layers_asked_for_stay_float(quantizer, model):
    original = tensors_of(model)
    for kept in ((), (0,), (1,), (3,), (0, 2), (1, 2, 3)):
        content = quantizer.build(Recipe(float_layers=kept, bias_corrected=True))
        tensors = tensors_of(content)
        for number, (reads, _) in enumerate(convolutions(content)):
            wanted = [FLOAT, FLOAT] if number in kept else [INT8, INT8]
            assert [tensors[name].type for name in reads[:2]] == wanted, (kept, number)
            assert list(tensors[reads[1]].shape) == list(original[reads[1]].shape)


def test_all_layers_in_float_are_the_float_network(quantizer, model, pixels):
    content = quantizer.build(Recipe(clipped=True, bias_corrected=True, float_layers=tuple(range(LAYERS))))
    assert not {"QUANTIZE", "DEQUANTIZE"} & {operator for operator, _, _ in steps(content)}
    np.testing.assert_array_equal(TFLiteClassifier(content)(pixels), TFLiteClassifier(model)(pixels))


def test_nothing_is_rounded_between_float_layers(quantizer):
    """1 and 2 have a max pool between them."""
    content = quantizer.build(Recipe(float_layers=(1, 2)))
    tensors = tensors_of(content)
    assert [tensors[made].type for operator, _, made in steps(content) if operator == "MAX_POOL_2D"] == [
        FLOAT,
        INT8,
    ]
    assert (
        Counter(operator for operator, _, _ in steps(content))["DEQUANTIZE"] == 2
    )  # before 1; before averages


def test_the_first_layer_in_float_reads_float_pixels(quantizer):
    operators = [operator for operator, _, _ in steps(quantizer.build(Recipe(float_layers=(0,))))]
    assert "QUANTIZE" not in operators[: operators.index("CONV_2D")]
    assert operators[operators.index("CONV_2D") + 1] == "QUANTIZE"


@pytest.mark.parametrize("numbers", [(-1,), (LAYERS,), (1, 0), (2, 2)])
def test_numbers_that_are_not_those_of_convolutions_are_refused(quantizer, numbers):
    with pytest.raises(ValueError, match="there are 4, from 0"):
        quantizer.build(Recipe(float_layers=numbers))


def test_clipped_ranges_are_in_the_file(quantizer):
    plain, clipped = (tensors_of(quantizer.build(Recipe(clipped=value))) for value in (False, True))
    layers = convolutions(quantizer.model)
    ends = {made: seen.clipped_high() for (_, made), seen in zip(layers, quantizer.activations, strict=True)}
    highs = {made: seen.high for (_, made), seen in zip(layers, quantizer.activations, strict=True)}
    for operator, reads, made in steps(quantizer.model):
        if operator == "MAX_POOL_2D":
            ends[made], highs[made] = ends[reads[0]], highs[reads[0]]
    assert any(ends[name] < highs[name] for name in ends)
    for name, end in ends.items():
        assert clipped[name].quantization.scale == pytest.approx([end / 255], rel=1e-6)
        assert plain[name].quantization.scale == pytest.approx([highs[name] / 255], rel=1e-6)
        assert list(clipped[name].quantization.zeroPoint) == [-128]


@pytest.mark.parametrize(
    ("head", "layer", "reader"), [(Head.MAX, 1, "block1_pool"), (Head.FLATTEN, 3, "flatten")]
)
def test_a_clipped_range_holds_behind_the_pool_of_a_float_layer(head, layer, reader, pixels):
    """A pooled map in float has a range of its own when the next weights are int8."""
    quantizer = calibrate(untrained(head, (Block.BLOCK2,)), pixels)
    content = quantizer.build(Recipe(clipped=True, float_layers=(layer,)))
    (scale,) = [
        tensors_of(content)[made].quantization.scale[0]
        for operator, reads, made in steps(content)
        if operator == "QUANTIZE" and reader in reads[0]
    ]
    end = quantizer.activations[layer].clipped_high()
    assert end < quantizer.activations[layer].high
    assert scale == pytest.approx(end / 255, rel=1e-6)


def test_weights_are_rounded_as_the_quantizer_rounds_them(quantizer, model):
    content = quantizer.build(Recipe())
    names = [reads[1] for reads, _ in convolutions(model)]
    for name, (kernel, _), (levels, _) in zip(names, constants(model), constants(content), strict=True):
        scale = np.asarray(tensors_of(content)[name].quantization.scale, np.float32)
        assert levels.dtype == np.int8
        assert np.abs(levels.astype(int)).max() == 127
        np.testing.assert_array_equal(tflite_int8.rounded(kernel), levels * scale[:, None, None, None])


def test_corrected_biases_take_back_the_mean_error_of_rounded_weights(quantizer, inside, model):
    """Each convolution alone, on the float network's own inputs, before ReLU."""
    errors = tflite_int8.bias_errors(model, quantizer.tap_means)
    for (reads, _), (kernel, _), error in zip(convolutions(model), constants(model), errors, strict=True):
        rounding = tflite_int8.rounded(kernel) - kernel
        values = inside[reads[0]][:, 0].astype(np.float64)
        height, width = values.shape[1:3]
        padded = np.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)))
        mean = sum(
            padded[:, y : y + height, x : x + width].mean(axis=(0, 1, 2)) @ rounding[:, y, x].T
            for y in range(3)
            for x in range(3)
        )
        np.testing.assert_allclose(error, mean, atol=1e-3 * np.abs(mean).max())


@pytest.mark.parametrize("layer", range(1, LAYERS))
def test_correction_brings_the_channel_means_nearer(quantizer, inside, model, pixels, layer):
    """Of one convolution in int8; the input of the first has means near 0 here, and nothing to correct."""
    name = convolutions(model)[layer][1]
    others = tuple(number for number in range(LAYERS) if number != layer)
    off = []
    for corrected in (False, True):
        content = quantizer.build(Recipe(bias_corrected=corrected, float_layers=others))
        interpreter = interpreter_of(content, keep=True)
        (detail,) = [found for found in interpreter.get_tensor_details() if found["name"] == name]
        scale, zero = detail["quantization"]
        sums = 0
        for image in pixels:
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
            interpreter.invoke()
            levels = interpreter.get_tensor(detail["index"]).astype(np.float64)
            sums += scale * (levels - zero).mean(axis=(0, 1, 2))
        off.append(np.abs(sums / len(pixels) - inside[name].mean(axis=(0, 1, 2, 3))).mean())
    assert off[1] < off[0]


def test_correction_is_for_int8_layers_only(quantizer, model):
    """Of the file that is quantized, the biases of the others and all weights are as they were."""
    content = tflite_int8.with_lower_biases(model, {1: np.full(64, 2, np.float32)})
    layers = zip(constants(model), constants(content), strict=True)
    for number, ((kernel, bias), (new_kernel, new_bias)) in enumerate(layers):
        np.testing.assert_array_equal(new_kernel, kernel)
        np.testing.assert_allclose(new_bias, bias - (2 if number == 1 else 0), rtol=1e-6)
    both = Recipe(bias_corrected=True, float_layers=(0, 1, 2, 3))
    assert quantizer.build(both) == quantizer.build(replace(both, bias_corrected=False))


def test_biases_that_are_one_tensor_are_corrected_each_on_its_own(pixels):
    """TensorFlow's converter makes one of those that are all zero."""
    model = untrained(Head.GAP, (Block.BLOCK2,))
    names = [reads[2] for reads, _ in convolutions(model)]
    assert len(set(names)) < LAYERS
    wanted = [np.arange(channels, dtype=np.float32) for channels in (64, 64, 128, 128)]
    content = tflite_int8.with_lower_biases(model, dict(enumerate(wanted)))
    for (_, bias), values in zip(constants(content), wanted, strict=True):
        np.testing.assert_array_equal(bias, -values)
    corrected = calibrate(model, pixels).build(Recipe(bias_corrected=True))
    assert TFLiteClassifier(corrected)(pixels).shape == (len(pixels), 3)


def test_seven_bit_weights_are_not_needed_here(quantizer):
    assert quantizer.build(Recipe(reduced=True)) == quantizer.build(Recipe())


@pytest.mark.parametrize("head", Head)
def test_every_head_is_quantized(head, pixels):
    scales = (Block.BLOCK2,) if head is Head.FLATTEN else (Block.BLOCK1, Block.BLOCK2)
    model = untrained(head, scales)
    quantizer = calibrate(model, pixels)
    for recipe in (Recipe(clipped=True, bias_corrected=True), Recipe(float_layers=(3,))):
        content = quantizer.build(recipe)
        dense = [reads for operator, reads, _ in steps(content) if operator == "FULLY_CONNECTED"]
        tensors = tensors_of(content)
        assert {tensors[name].type for name in dense[-1]} == {FLOAT}, "logits"
        assert all(tensors[name].type == INT8 for reads in dense[:-1] for name in reads[:2]), "hidden"
        difference = TFLiteClassifier(content)(pixels) - TFLiteClassifier(model)(pixels)
        assert np.abs(difference).mean() < 0.1


def test_a_file_that_the_quantizer_does_not_follow_is_refused(quantizer, monkeypatch):
    monkeypatch.setattr(tflite_int8, "to_int8", lambda *_: quantizer.model)
    with pytest.raises(CheckFailed, match="Of 4 convolutions 0 are int8"):
        quantizer.build(Recipe())


def test_what_the_quantizer_raises_is_explained(quantizer, monkeypatch):
    def fail(*_arguments, **_options):
        raise RuntimeError("no such operator")

    monkeypatch.setattr("ai_edge_quantizer.quantizer.Quantizer.quantize", fail)
    with pytest.raises(CheckFailed, match="refuses the network: RuntimeError: no such operator") as caught:
        quantizer.build(Recipe())
    assert "--precision" in caught.value.fix
    assert isinstance(caught.value.__cause__, RuntimeError)
    monkeypatch.setattr("ai_edge_quantizer.quantizer.Quantizer.calibrate", fail)
    with pytest.raises(CheckFailed, match="refuses the network"):
        calibrate(quantizer.model, np.zeros((1, 32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(model, wrong):
    with pytest.raises(ValueError, match="calibration needs uint8"):
        calibrate(model, wrong)


def test_numbers_that_are_not_finite_are_refused(pixels):
    broken = untrained(Head.GAP, (Block.BLOCK2,), scale=float("inf"))
    with pytest.raises(ValueError, match="finite"):
        calibrate(broken, pixels[:1])
