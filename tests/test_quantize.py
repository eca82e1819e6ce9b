"""Fewer bits: what really runs in int8, what stays float, how near the numbers stay, and which ranges are used."""

import logging
import types

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from trained import exported_once, shapes, trained, trained_once  # noqa: F401

from edgetl.card import InputSpec, Model
from edgetl.config import Block, Format, Precision
from edgetl.engines.onnx import OnnxClassifier
from edgetl.engines.tflite import TFLiteClassifier
from edgetl.errors import CheckFailed, UsageError
from edgetl.features.graph import TrunkWeights, trunk_graph
from edgetl.keras import tf_keras
from edgetl.keras.classifier import open_layers
from edgetl.keras.network import whole
from edgetl.keras.to_onnx import to_onnx
from edgetl.keras.to_tflite import to_tflite
from edgetl.quantize import onnx as quantize_onnx
from edgetl.quantize import onnx_int8, tflite_int8
from edgetl.quantize import tflite as quantize_tflite
from edgetl.quantize.targets import BY_DEFAULT, SUPPORTED, wanted_pairs
from edgetl.reference import read_calibration_pixels, read_reference
from edgetl.steps.export import Sources
from edgetl.vgg16 import conv_shapes

CONVOLUTIONS = 4  # of the tiny network


@pytest.fixture(scope="module")
def model(exported_once):
    """The exported model folder, not to be changed."""
    return Model.open(exported_once)


@pytest.fixture(scope="module")
def sources(model):
    """Float models and many calibration images."""
    return Sources(open_layers(model), read_reference(model).pixels)


def content(model, name):
    return model.read(model.artifact(name))


def answers(model, name, pixels):
    engine = OnnxClassifier if name.startswith("onnx") else TFLiteClassifier
    return engine(content(model, name))(pixels)


def nodes(model, name):
    return onnx.load_model_from_string(content(model, name)).graph.node


def test_every_convolution_of_int8_onnx_runs_in_int8(model):
    executed = quantize_onnx.executed_operators(content(model, "onnx-int8"))
    assert executed["QLinearConv"] == CONVOLUTIONS
    assert executed["Conv"] == executed["FusedConv"] == 0
    assert executed["QGemm"] == executed["QLinearMatMul"] == 0, "the logits are made in float"


def zero_points(model):
    """The zero points of what convolutions give: how many of 256 levels are for negative numbers."""
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made_by = {node.output[0]: node.op_type for node in model.graph.node}
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    return [int(values[node.input[2]]) for node in quantizers if made_by.get(node.input[0]) == "Conv"]


def test_relu_must_be_quantized_with_the_convolutions(sources, monkeypatch):
    """Without it ranges are set before Relu, which runs on its own: levels wasted, values rounded twice."""
    right = quantize_onnx.to_int8(sources.onnx, sources.pixels)
    assert zero_points(right) == [0] * CONVOLUTIONS
    assert all(node.op_type != "Relu" for node in right.graph.node)
    without = tuple(name for name in onnx_int8.QUANTIZED if name != "Relu")
    monkeypatch.setattr(onnx_int8, "QUANTIZED", without)
    wrong = quantize_onnx.to_int8(sources.onnx, sources.pixels)
    assert np.mean(zero_points(wrong)) > 64, "a quarter of the levels"
    assert sum(node.op_type == "Relu" for node in wrong.graph.node) == CONVOLUTIONS


def test_a_conversion_that_leaves_convolutions_float_is_refused(sources, monkeypatch):
    monkeypatch.setattr(onnx_int8, "QUANTIZED", ("MaxPool",))
    with pytest.raises(CheckFailed, match=f"0 convolutions would run in int8 instead of {CONVOLUTIONS}"):
        quantize_onnx.to_int8(sources.onnx, sources.pixels)


def test_quantizing_leaves_logging_as_it_was(sources):
    logging.getLogger().setLevel(logging.INFO)
    quantize_onnx.to_int8(sources.onnx, sources.pixels[:2])
    assert logging.getLogger().level == logging.INFO
    logging.getLogger().setLevel(logging.WARNING)


def test_weights_of_int8_onnx_have_a_scale_per_channel(model):
    graph = onnx.load_model_from_string(content(model, "onnx-int8")).graph
    int8 = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    kernels = [tensor for tensor in int8 if len(tensor.dims) == 4]
    assert len(kernels) == CONVOLUTIONS
    scales = {tensor.name: tensor.dims for tensor in graph.initializer if "scale" in tensor.name}
    for kernel in kernels:
        assert [kernel.dims[0]] in [list(dims) for dims in scales.values()]


@pytest.mark.parametrize("name", ["onnx-w8a32", "onnx-fp16", "onnx-int8"])
def test_the_last_dense_layer_of_onnx_is_precise(model, sources, name):
    """Its kernel is there to the last bit, or to that of float16."""
    wanted = sources.layers.dense[-1].get_weights()[0]
    graph = onnx.load_model_from_string(content(model, name)).graph
    floats = [
        onnx.numpy_helper.to_array(tensor).astype(np.float32)
        for tensor in graph.initializer
        if tensor.data_type in {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    ]
    tolerance = 1e-3 * np.abs(wanted).max() if name == "onnx-fp16" else 0
    same = [v for v in floats if v.shape == wanted.shape and np.abs(v - wanted).max() <= tolerance]
    same += [v for v in floats if v.shape == wanted.T.shape and np.abs(v.T - wanted).max() <= tolerance]
    assert len(same) == 1


def tflite_graph(data):
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    main = graph.subgraphs[0]
    for operator in main.operators:
        code = names[graph.operatorCodes[operator.opcodeIndex].builtinCode]
        yield code, [main.tensors[i].type for i in operator.inputs if i >= 0]


INT8, INT16, FLOAT, UINT8 = (
    schema.TensorType.INT8,
    schema.TensorType.INT16,
    schema.TensorType.FLOAT32,
    schema.TensorType.UINT8,
)


@pytest.mark.parametrize(
    ("name", "activation", "weight"),
    [("tflite-int8", INT8, INT8), ("tflite-w8a32", FLOAT, INT8), ("tflite-w8a16", INT16, INT8)],
)
def test_tflite_types(model, name, activation, weight):
    operators = list(tflite_graph(content(model, name)))
    convolutions = [types_[:2] for code, types_ in operators if code == "CONV_2D"]
    assert convolutions == [[activation, weight]] * CONVOLUTIONS
    (logits,) = [types_ for code, types_ in operators if code == "FULLY_CONNECTED"]
    assert set(logits) == {FLOAT}, "the last Dense layer stays float"
    (softmax,) = [types_ for code, types_ in operators if code == "SOFTMAX"]
    assert softmax == [FLOAT]


def test_every_tflite_file_takes_bytes_and_gives_floats(model):
    for artifact in model.card.artifacts:
        if artifact.format is Format.TFLITE:
            interpreter = Interpreter(model_content=model.read(artifact))
            (image,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
            assert (image["dtype"], list(image["shape"])) == (np.uint8, [1, 32, 32, 3])
            assert (output["dtype"], list(output["shape"])) == (np.float32, [1, 3])
            assert image["quantization"] == (0.0, 0), "plain 0..255, not to be scaled by the caller"


@pytest.mark.parametrize("form", Format)
def test_how_near_each_precision_stays(model, form):
    """On the calibration images, so that no range is left."""
    pixels = read_calibration_pixels(model, model.data_folder, 100)
    reference = answers(model, f"{form}-fp32", pixels)
    bounds = {Precision.FP16: 0.005, Precision.W8A32: 0.12, Precision.INT8: 0.3}
    errors = {p: np.abs(answers(model, f"{form}-{p}", pixels) - reference).max() for p in bounds}
    for precision, bound in bounds.items():
        assert 0 < errors[precision] < bound, precision
    assert errors[Precision.FP16] < errors[Precision.W8A32]


def test_sixteen_bit_activations_leave_only_the_weights_error(model):
    pixels = read_calibration_pixels(model, model.data_folder, 100)
    weights_only = answers(model, "onnx-w8a32", pixels)
    assert np.abs(answers(model, "tflite-w8a16", pixels) - weights_only).max() < 0.05


def test_sizes_follow_the_bits():
    """Of a network large enough that weights are nearly all of the file."""
    inputs = tf_keras.Input((8, 8, 3), dtype="uint8", name="image")
    value = tf_keras.layers.Rescaling(1 / 255)(inputs)
    for width in (64, 128, 128):
        value = tf_keras.layers.Conv2D(width, 3, padding="same", activation="relu")(value)
    value = tf_keras.layers.GlobalAveragePooling2D()(value)
    logits = tf_keras.layers.Dense(3, name="logits")(value)
    net = tf_keras.Model(inputs, tf_keras.layers.Softmax(name="probabilities")(logits))
    layers = types.SimpleNamespace(spec=types.SimpleNamespace(height=8, width=8))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgetl.keras.to_onnx.whole", lambda _layers: net)
        patch.setattr("edgetl.keras.to_tflite.whole", lambda _layers: net)
        full_onnx, full_tflite = to_onnx(layers), to_tflite(layers)
        half_tflite = to_tflite(layers, half_precision=True)
    size = full_onnx.ByteSize()
    assert 0.5 <= quantize_onnx.to_half(full_onnx).ByteSize() / size < 0.55
    assert 0.25 <= quantize_onnx.to_int8_weights(full_onnx).ByteSize() / size < 0.3
    assert 0.25 <= quantize_onnx.to_int8(full_onnx, pixels).ByteSize() / size < 0.3
    assert 0.5 <= len(half_tflite) / len(full_tflite) < 0.55
    assert 0.25 <= len(quantize_tflite.to_dynamic_range(full_tflite)) / len(full_tflite) < 0.3


def test_tflite_ranges_are_the_true_smallest_and_largest(sources):
    """Measured against Keras, layer by layer, over all images."""
    ranges = tflite_int8.calibrate(sources.tflite, sources.pixels).ranges
    layers = [*sources.layers.convolutions, sources.layers.dense[-1]]
    outputs, seen = [], []

    def run(value, steps):
        for step in steps:
            value = step(value)
            outputs.extend([value.numpy()] if step in layers else [])
        return value

    value = run(tf_keras.backend.constant(sources.pixels), [sources.layers.preprocess])
    for block, steps in sources.layers.blocks.items():
        value = run(value, steps)
        if block in sources.layers.pools:
            seen.append(run(value, sources.layers.pools[block]))
    run(np.concatenate(seen, axis=1), sources.layers.head)
    found = [(float(r["min"].ravel()[0]), float(r["max"].ravel()[0])) for r in ranges.values()]
    for layer, values in zip(layers, outputs, strict=True):
        low, high = float(values.min()), float(values.max())
        tolerance = 1e-4 * max(high, -low)
        assert any(abs(a - low) < tolerance and abs(b - high) < tolerance for a, b in found), layer.name


def test_a_trunk_without_a_head_becomes_int8_as_well():
    """All of it, and what it was made from stays as it is."""
    random = np.random.default_rng(0)
    shapes_ = conv_shapes(Block.BLOCK2)
    kernels = tuple(
        random.normal(0, np.sqrt(2 / (9 * shape[2])), shape).astype(np.float32) for shape in shapes_
    )
    weights = TrunkWeights(kernels, tuple(np.zeros(shape[3], np.float32) for shape in shapes_))
    spec = InputSpec(32, 32, (120.0, 110.0, 100.0), 1 / 64, (255, 255, 255), 1)
    trunk = trunk_graph(weights, spec, Block.BLOCK2)
    assert quantize_onnx.last_dense(trunk) == ""
    before = trunk.SerializeToString()
    quantized = quantize_onnx.to_int8(trunk, random.integers(0, 256, (9, 32, 32, 3), np.uint8))
    assert trunk.SerializeToString() == before
    executed = quantize_onnx.executed_operators(quantized.SerializeToString())
    assert executed["QLinearConv"] == 4
    assert [value.name for value in quantized.graph.output] == [value.name for value in trunk.graph.output]


def test_float_files_agree_with_keras_to_rounding(model, sources):
    wanted = whole(sources.layers).predict_on_batch(sources.pixels)
    for name in ("onnx-fp32", "tflite-fp32"):
        np.testing.assert_allclose(answers(model, name, sources.pixels), wanted, atol=1e-5)


def test_pairs_by_default_and_on_request():
    by_default = wanted_pairs("onnx,tflite", None)
    assert len(by_default) == len(set(by_default)) == 8
    assert (Format.TFLITE, Precision.W8A16) not in by_default
    assert all(set(BY_DEFAULT[form]) <= set(SUPPORTED[form]) for form in Format)
    assert wanted_pairs(" onnx , onnx", "int8,int8 ") == [(Format.ONNX, Precision.INT8)]
    assert wanted_pairs("onnx,tflite", "w8a16,fp32") == [
        (Format.ONNX, Precision.FP32),
        (Format.TFLITE, Precision.W8A16),
        (Format.TFLITE, Precision.FP32),
    ]


@pytest.mark.parametrize(
    ("formats", "precisions", "said"),
    [
        ("onnx", "w8a16", "onnx has no w8a16"),
        ("pdf", None, "no format called 'pdf'"),
        ("onnx", "int4", "no precision called 'int4'"),
        ("", None, "Nothing to export"),
        ("onnx", " , ", "Nothing to export"),
    ],
)
def test_pairs_that_do_not_exist_are_refused_with_those_that_do(formats, precisions, said):
    with pytest.raises(UsageError, match=said) as caught:
        wanted_pairs(formats, precisions)
    assert "onnx: fp32, fp16, int8, w8a32; tflite: fp32, fp16, int8, w8a32, w8a16" in caught.value.fix
