"""`edgetl export --cluster --sparsity`: kept through int8, smaller when packed, honest about the rest."""

import gzip

import numpy as np
import onnx
import pytest
from trained import copy_of, exported_once, quick, said, shapes, trained, trained_once  # noqa: F401

from edgetl.card import Model
from edgetl.compression.levels import limit_of, limited
from edgetl.config import ExportConfig, Format, Head, Packing, Precision
from edgetl.engines import open_classifier
from edgetl.errors import CheckFailed, UsageError
from edgetl.keras import tf
from edgetl.keras.classifier import open_layers
from edgetl.keras.rounding import _limited_weights
from edgetl.quantize.kernels import onnx_kernels, tflite_kernels
from edgetl.quantize.recipe import Origin, Recipe
from edgetl.reference import read_reference
from edgetl.statistics import Verdict
from edgetl.steps.export import export
from edgetl.steps.making import Sources, Variant, build
from edgetl.steps.thinning import Thinning
from edgetl.steps.train import train

BOTH = Thinning(12, 0.5)


def kernels_of(content: bytes, form: Format) -> list[np.ndarray]:
    return tflite_kernels(content) if form is Format.TFLITE else onnx_kernels(onnx.load_from_string(content))


@pytest.fixture(scope="module")
def thin(trained_once, tmp_path_factory):
    """A model with every kind of file of few levels and many zeros, packed, and what was said."""
    model = copy_of(trained_once, tmp_path_factory.mktemp("thin") / "model")
    with said() as lines:
        settings = ExportConfig(
            precision="fp32,fp16,int8,w8a32", cluster=12, sparsity=0.5, packed=Packing.ZST
        )
        model, _ = export(model, settings)
    return model, lines


def test_int8_files_have_few_levels_and_many_zeros(thin):
    model, _ = thin
    for form in Format:
        kernels = kernels_of(model.read(model.artifact(f"{form}-int8")), form)
        assert len(kernels) == 4
        for kernel in kernels:
            assert len(np.unique(kernel)) <= 12
            assert np.count_nonzero(kernel == 0) >= 0.5 * kernel.size
            assert np.abs(kernel).max() == 127


def test_the_network_still_answers_like_the_trained_one(thin):
    model, lines = thin
    reference = read_reference(model)
    wanted = reference.probabilities[reference.stored].argmax(axis=1)
    for artifact in model.card.artifacts:
        found = open_classifier(model, artifact)(reference.pixels)
        assert (found.argmax(axis=1) == wanted).mean() >= 0.8, artifact.name
    assert any(line.startswith("quantization-aware training: divergence") for line in lines)


def test_the_card_and_the_lines_say_what_was_done_and_that_nothing_is_faster(thin):
    model, lines = thin
    for artifact in model.card.artifacts:
        assert artifact.details["weights"] == "12 levels a layer, 50 % zeros"
    assert model.artifact("onnx-int8").details["recipe"] == "thinned"
    assert lines[0] == "12 levels a layer, 50 % zeros: packed files get smaller; no engine gets faster by it"


def test_packed_files_are_smaller_than_without(thin, exported_once):
    model, plain = thin[0], Model.open(exported_once)
    for name in ("onnx-int8", "tflite-int8", "onnx-fp16"):
        artifact, before = model.artifact(name), plain.artifact(name)
        without = len(gzip.compress(plain.read(before), 9))
        assert artifact.unpacked_bytes == pytest.approx(before.size_bytes, rel=0.02)
        assert artifact.size_bytes < 0.7 * without


def test_the_same_bytes_twice(trained_once, tmp_path, shapes):
    settings = ExportConfig(format="onnx", precision="int8", cluster=16, packed=Packing.GZ, data=shapes)
    hashes = set()
    for name in ("one", "two"):
        model, _ = export(copy_of(trained_once, tmp_path / name), settings)
        hashes.add(model.artifact("onnx-int8").sha256)
    assert len(hashes) == 1


def test_without_packing_the_size_on_the_way_is_told(trained, shapes):
    with said() as lines:
        export(trained, ExportConfig(format="onnx", precision="int8", sparsity=0.5, data=shapes))
    assert "only packed files get smaller" in lines[0]
    assert "--packed" in lines[0]
    assert any(line.endswith("MB as .gz; as fast as before") for line in lines)


def test_goals_certify_thinned_files_like_others(trained, shapes):
    settings = ExportConfig(max_drop="40", cluster=16, sparsity=0.3, packed=Packing.ZST, precision="int8")
    model, exported = export(trained, settings)
    assert [parity.verdict for parity in exported.parity] == [Verdict.PASS] * 2
    assert all(tried.recipe.startswith("thinned") for tried in exported.tried)
    for artifact in exported.artifacts:
        kernels = kernels_of(model.read(artifact), artifact.format)
        assert all(len(np.unique(kernel)) <= 16 for kernel in kernels)
        assert model.card.parity[artifact.name].artifact_sha256 == artifact.sha256


@pytest.mark.parametrize("form", Format)
def test_repairs_and_seven_bits_keep_levels_and_zeros(trained, form):
    sources = Sources(open_layers(trained), read_reference(trained).pixels, reduced=True, thinning=BOTH)
    recipe = Recipe(clipped=True, bias_corrected=True, reduced=True, float_layers=(1,))
    built = build(sources, trained, Variant(form, Precision.INT8, recipe, Origin.THINNED))
    kernels = kernels_of(built.content, form)
    assert len(kernels) == 3
    for kernel in kernels:
        assert len(np.unique(kernel)) <= 12
        assert np.count_nonzero(kernel == 0) >= 0.5 * kernel.size
        assert np.abs(kernel).max() == (64 if form is Format.ONNX else 127)
    bits = "7-bit weights; " if form is Format.ONNX else ""
    assert built.details["recipe"].startswith(f"{bits}thinned; clipped")


def test_channels_of_zeros_do_no_harm(trained):
    sources = Sources(open_layers(trained), read_reference(trained).pixels, thinning=Thinning(None, 0.95))
    for form in Format:
        built = build(sources, trained, Variant(form, Precision.INT8, origin=Origin.THINNED))
        kernels = kernels_of(built.content, form)
        assert all(np.count_nonzero(kernel == 0) >= 0.95 * kernel.size for kernel in kernels)


def test_without_calibration_images_float_files_are_limited_untrained(trained, monkeypatch):
    from dataclasses import replace

    gone = trained.update(lambda card: replace(card, data=replace(card.data, folder="../nowhere")))
    with said() as lines:
        model, _ = export(gone, ExportConfig(format="onnx", precision="fp32", sparsity=0.9))
    assert any("without training" in line for line in lines)
    constants = onnx.load_from_string(model.read(model.artifact("onnx-fp32"))).graph.initializer
    kernels = [onnx.numpy_helper.to_array(one) for one in constants if len(one.dims) == 4]
    assert len(kernels) == 4
    assert all(np.count_nonzero(kernel == 0) >= 0.9 * kernel.size for kernel in kernels)


def test_training_limits_weights_as_the_export_does():
    kernel = np.random.default_rng(3).normal(size=(3, 3, 4, 6)).astype(np.float32)
    for clusters, sparsity in ((9, None), (None, 0.4), (9, 0.4)):
        limit = limit_of(kernel, clusters, sparsity, 127)
        np.testing.assert_allclose(
            _limited_weights(tf.constant(kernel), limit).numpy(), limited(kernel, limit), atol=1e-6
        )


def test_a_file_that_lost_its_levels_is_refused():
    BOTH.check([np.zeros((4, 2, 3, 3), np.int8)])
    with pytest.raises(CheckFailed, match="has 36 levels"):
        BOTH.check([np.arange(36, dtype=np.int8).reshape(4, 1, 3, 3)])
    with pytest.raises(CheckFailed, match="0 zeros"):
        BOTH.check([np.ones((4, 1, 3, 3), np.int8)])


@pytest.mark.parametrize("settings", [{"cluster": 3}, {"cluster": 200}, {"sparsity": 1.0}, {"sparsity": 0.0}])
def test_what_makes_no_sense_is_refused(settings):
    with pytest.raises(UsageError):
        ExportConfig(**settings)


@pytest.mark.slow
def test_a_hidden_layer_is_limited_too(shapes, tmp_path):
    model = train(shapes, tmp_path / "model", quick(head=Head.FLATTEN, epochs_head=12, epochs_finetune=0))
    model, _ = export(model, ExportConfig(precision="fp32,int8", cluster=16))
    reference = read_reference(model)
    wanted = reference.probabilities[reference.stored].argmax(axis=1)
    for artifact in model.card.artifacts:
        found = open_classifier(model, artifact)(reference.pixels)
        assert (found.argmax(axis=1) == wanted).mean() >= 0.7
