"""The fourth colour of zeros: nothing changes but the time."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgetl.card import InputSpec
from edgetl.config import Block
from edgetl.features.graph import TrunkWeights, trunk_graph
from edgetl.quantize import onnx_int8
from edgetl.quantize.first_layer import CHANNELS, WIDENED, add_fourth_channel
from edgetl.quantize.kernels import onnx_kernels
from edgetl.quantize.recipe import Recipe
from edgetl.vgg16 import conv_shapes

SIDE = 36


@pytest.fixture(scope="module", params=[1.0, 1 / 64], ids=["VGG16's scale", "another scale"])
def quantizer(request):
    """Of a trunk of two blocks with random weights, whose images are scaled."""
    random = np.random.default_rng(0)
    shapes = conv_shapes(Block.BLOCK2)
    kernels = tuple(
        random.normal(0, np.sqrt(2 / (9 * shape[2])), shape).astype(np.float32) for shape in shapes
    )
    weights = TrunkWeights(
        kernels, tuple(random.normal(0, 1, shape[3]).astype(np.float32) for shape in shapes)
    )
    spec = InputSpec(SIDE, SIDE, (123.68, 116.779, 103.939), request.param, (255, 255, 255), 1)
    return onnx_int8.calibrate(trunk_graph(weights, spec, Block.BLOCK2), images(8))


def images(count):
    return np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def narrow(quantizer, monkeypatch, recipe=Recipe()):  # noqa: B008
    """The file as it would be with three colours."""
    with monkeypatch.context() as patch:
        patch.setattr(onnx_int8, "add_fourth_channel", lambda *_: None)
        return quantizer.build(recipe)


def answers(model, pixels):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": pixels})


def test_the_answers_are_the_same_to_the_last_bit(quantizer, monkeypatch):
    wide, before = quantizer.build(Recipe()), narrow(quantizer, monkeypatch)
    for one, other in zip(answers(wide, images(5)), answers(before, images(5)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_first_convolution_reads_four_colours_of_which_one_is_nothing(quantizer, monkeypatch):
    wide = quantizer.build(Recipe())
    (kernel,) = (tensor for tensor in wide.graph.initializer if tensor.name.endswith(WIDENED))
    values = numpy_helper.to_array(kernel)
    assert values.shape == (64, CHANNELS, 3, 3)
    assert not values[:, -1].any()
    assert values[:, :-1].any()
    for one, other in zip(onnx_kernels(wide), onnx_kernels(narrow(quantizer, monkeypatch)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_is_left_of_what_it_replaces(quantizer):
    wide = quantizer.build(Recipe())
    onnx.checker.check_model(wide, full_check=True)
    read = {name for node in wide.graph.node for name in node.input}
    assert {tensor.name for tensor in wide.graph.initializer} <= read
    assert not [node for node in wide.graph.node if node.op_type in {"Add", "Sub", "Mul"}]


def test_a_first_convolution_in_float_stays_as_it_is(quantizer):
    made = quantizer.build(Recipe(float_layers=(0,)))
    assert not [tensor for tensor in made.graph.initializer if tensor.name.endswith(WIDENED)]
    assert [node for node in made.graph.node if node.op_type == "Sub"]


def test_what_is_not_known_before_the_first_convolution_is_refused(quantizer, monkeypatch):
    model = narrow(quantizer, monkeypatch)
    index, sub = next((i, node) for i, node in enumerate(model.graph.node) if node.op_type == "Sub")
    root = helper.make_node("Sqrt", [sub.output[0]], ["root"], name="root")
    for node in model.graph.node:
        node.input[:] = ["root" if name == sub.output[0] else name for name in node.input]
    model.graph.node.insert(index + 1, root)
    with pytest.raises(ValueError, match="Sqrt root stands before the first convolution"):
        add_fourth_channel(model, quantizer.convolutions[0].node)
