"""Rivals of `edgetl compress`: other networks that learn the same, are listed, and are never chosen."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from trained import shapes, trained_once  # noqa: F401
from typer.testing import CliRunner

from edgetl.card import InputSpec, Model
from edgetl.choices import Student
from edgetl.cli import app
from edgetl.cli.compress import RIVALS, _row
from edgetl.config import Arithmetic, CompressConfig, Format, Precision
from edgetl.dataset import Images
from edgetl.engines import classifier_of
from edgetl.errors import CheckFailed, ExitCode, UsageError, WeightsError
from edgetl.keras import tf, tf_keras
from edgetl.keras.checkpoint import Checkpoint, Clock
from edgetl.keras.distill import Distillation, DistillSettings
from edgetl.keras.lessons import Lessons
from edgetl.keras.students import (
    _normalizations,
    _settle,
    multiplications_of,
    parameters_of,
    student_model,
    student_onnx,
    taught,
)
from edgetl.quantize import onnx_any
from edgetl.quantize.onnx import executed_operators
from edgetl.quantize.onnx_any import any_to_int8
from edgetl.report.compression import compressed
from edgetl.steps.compress import compress
from edgetl.steps.rivals import rivals_of

SIDE, CLASSES = 32, 3
SPEC = InputSpec(SIDE, SIDE, (0.0, 0.0, 0.0), 1.0, (255, 255, 255), 1)
SMALL = Student.MOBILENET_V2_035
EACH = [student if student is SMALL else pytest.param(student, marks=pytest.mark.slow) for student in Student]
QUICK = {"max_drop": "99", "epochs": 2, "pictures": 2, "keep": 0.5, "student": SMALL}


@pytest.fixture(scope="module")
def pixels():
    """Images that differ in brightness and colour."""
    random = np.random.default_rng(0)
    colours = random.integers(0, 190, (32, 1, 1, 3))
    return (random.integers(0, 60, (32, SIDE, SIDE, 3)) + colours).astype(np.uint8)


def lively(student, pixels):
    """A student whose normalizations do something, and know the statistics of these pixels."""
    random = np.random.default_rng(1)
    model = student_model(student, SPEC, CLASSES, seed=0)
    for layer in _normalizations(model):
        gamma, beta, *rest = layer.get_weights()
        noise = random.normal(0, 0.1, (2, *gamma.shape))
        layer.set_weights([gamma + noise[0], beta + noise[1], *rest])
    _settle(model, [pixels])  # all at once: no value is then far from all others
    return model


@pytest.mark.parametrize("student", EACH)
def test_the_files_are_the_network(student, pixels):
    """Float ONNX equals Keras; in int8 only the ends and what has no int8 kernel stay float."""
    model = lively(student, pixels)
    converted = student_onnx(model)
    operators = Counter(node.op_type for node in converted.graph.node)
    assert operators["BatchNormalization"] == 0
    found = classifier_of(converted.SerializeToString(), Format.ONNX, Precision.FP32)(pixels)
    wanted = tf.nn.softmax(model.predict_on_batch(pixels)).numpy()
    assert wanted.std(axis=0).max() > 0.05
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    quantized = any_to_int8(converted, pixels)
    executed = executed_operators(quantized.SerializeToString())
    assert executed["QLinearConv"] == operators["Conv"]
    assert executed["Conv"] == 0
    stays_float = {"Cast", "Mul", "Add", "ReduceMean", "MatMul", "Softmax"}
    layout = {"QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Squeeze"}
    assert {name for name in executed if not name.startswith("QLinear")} <= stays_float | layout
    assert executed["Mul"] + executed["Add"] <= 3  # before the first convolution
    assert len(quantized.SerializeToString()) < 1.45 * parameters_of(model)
    probabilities = classifier_of(quantized.SerializeToString(), Format.ONNX, Precision.INT8)(pixels)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_lite0_has_neither_swish_nor_excitation():
    lite, whole = (
        student_model(student, SPEC, CLASSES, seed=0)
        for student in (Student.EFFICIENTNET_LITE0, Student.EFFICIENTNET_B0)
    )
    assert not [layer.name for layer in lite.layers if "_se_" in layer.name]
    activations = [layer for layer in lite.layers if layer.name.endswith("activation")]
    assert {layer.activation for layer in activations} == {tf.nn.relu6}
    assert [layer for layer in whole.layers if "_se_" in layer.name]
    assert parameters_of(lite) < parameters_of(whole)


def test_costs_are_those_that_others_count():
    """MobileNetV2 at 224 pixels: 300 million multiply-adds (Sandler et al.), 3,504,872 weights (torchvision)."""
    spec = replace(SPEC, height=224, width=224)
    model = student_model(Student.MOBILENET_V2, spec, 1000, seed=0)
    assert multiplications_of(model) == pytest.approx(300e6, rel=0.01)
    assert parameters_of(model) == 3_504_872


def test_normalization_ends_with_plain_means_over_batches(pixels):
    model = student_model(SMALL, SPEC, CLASSES, seed=0)
    _settle(model, [pixels[:8], pixels[8:16], pixels[16:24]])
    first = model.get_layer("Conv1")
    values = tf_keras.Model(model.input, first.output).predict_on_batch(pixels[:24])
    means = values.reshape(3, -1, values.shape[-1]).mean(axis=1)
    found = model.get_layer("bn_Conv1").get_weights()[2]
    np.testing.assert_allclose(found, means.mean(axis=0), atol=1e-5)


def learnt(model, pixels, folder, epochs=4):
    """Red images are of class 0, blue ones of class 1."""
    labels = (pixels[..., 2].mean(axis=(1, 2)) > pixels[..., 0].mean(axis=(1, 2))).astype(np.int64)
    answers = np.eye(CLASSES, dtype=np.float32)[labels]
    names = tuple(map(str, range(len(pixels))))
    lessons = Lessons(pixels, answers, labels, pictures=1, digests=names)
    tuning = Images(names, pixels, labels, names)
    settings = DistillSettings(epochs, 8, 1e-3, 1.0, 0.5, Arithmetic.FLOAT32, 0)
    checkpoint = Checkpoint(folder / "checkpoint.npz", "ab" * 32, resume=True)
    return taught(model, Distillation("student", lessons, tuning, settings, checkpoint, Clock(None, 0), 0.0))


@pytest.mark.slow
def test_a_student_learns_and_the_same_seed_gives_the_same(pixels, tmp_path):
    models = [student_model(SMALL, SPEC, CLASSES, seed=3) for _ in range(2)]
    before = models[0].get_weights()
    histories = [learnt(model, pixels, tmp_path / name) for name, model in zip("ab", models, strict=True)]
    assert len(histories[0]) == 4
    assert histories[0][-1].train_loss < histories[0][0].train_loss
    assert any((old != new).any() for old, new in zip(before, models[0].get_weights(), strict=True))
    for one, other in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def trunk(alpha=0.35, top=False):
    """What a user has made with tf_keras."""
    tf_keras.utils.set_random_seed(7)
    return tf_keras.applications.MobileNetV2((SIDE, SIDE, 3), alpha, include_top=top, weights=None)


@pytest.mark.parametrize("name", ["trunk.h5", "trunk.weights.h5", "whole.h5", "whole.keras"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_weights_of_the_same_architecture_are_read(name, tmp_path):
    made = trunk()
    (made.save if name.startswith("whole") else made.save_weights)(tmp_path / name)
    model = student_model(SMALL, SPEC, CLASSES, 0, tmp_path / name)
    for wanted, found in zip(made.get_weights(), model.get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(wanted, found)


def wrong(kind, folder):
    """A file that must be refused."""
    file = folder / ("weights.onnx" if kind == "ending" else "weights.h5")
    if kind == "text":
        file.write_text("no weights")
    elif kind == "ending":
        file.write_bytes(b"")
    elif kind != "missing":
        made = trunk(0.5 if kind == "wider" else 0.35, top=kind == "top")
        if kind == "nan":
            made.set_weights([np.full_like(value, np.nan) for value in made.get_weights()])
        made.save_weights(file)
    return file


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no file of weights"),
        ("ending", "no file of weights"),
        ("text", "does not hold the weights of mobilenet_v2_035"),
        ("wider", "does not hold the weights of mobilenet_v2_035"),
        ("top", "does not hold the weights of mobilenet_v2_035"),
        ("nan", "not finite"),
    ],
)
def test_other_weights_are_refused_before_any_work(kind, message, trained_once, tmp_path):
    config = CompressConfig(**QUICK, student_weights=wrong(kind, tmp_path))
    with pytest.raises(WeightsError, match=message):
        compress(Model.open(trained_once), tmp_path / "small", config)
    assert not (tmp_path / "small.partial").exists()


def test_the_scale_that_keras_adds_to_its_own_efficientnet_is_kept(pixels, tmp_path):
    made = tf_keras.applications.EfficientNetB0(False, None, input_shape=(SIDE, SIDE, 3))
    (layer,) = [one for one in made.layers if isinstance(one, tf_keras.layers.Normalization)]
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    layer.set_weights([mean, deviation, np.array(0)])  # as in the published file
    made.save_weights(tmp_path / "b0.h5")
    model = student_model(Student.EFFICIENTNET_B0, SPEC, CLASSES, 0, tmp_path / "b0.h5")
    (own,) = [one for one in model.layers if isinstance(one, tf_keras.layers.Normalization)]
    found = tf_keras.Model(model.input, own.output).predict_on_batch(pixels)
    np.testing.assert_allclose(found, (pixels / 255 - mean) / deviation, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student": "mobilenet_v2,resnet"}, "there is no 'resnet'"),
        ({"student": " , "}, "names no network"),
        ({"student_weights": "x.h5"}, "names none"),
        ({"student": "mobilenet_v2,efficientnet_b0", "student_weights": "x.h5"}, "names 2"),
        ({"student": "mobilenet_v2", "minutes": 5.0}, "--student and --minutes"),
    ],
)
def test_contradictions_are_refused(settings, message, trained_once, tmp_path):
    if "student_weights" in settings:
        settings = settings | {"student_weights": tmp_path / settings["student_weights"]}
    with pytest.raises(UsageError, match=message):
        rivals_of(CompressConfig(**settings), Model.open(trained_once).card)


def test_images_that_are_too_small_are_refused(trained_once):
    card = replace(Model.open(trained_once).card, input=replace(SPEC, height=24))
    with pytest.raises(UsageError, match="at least 32 pixels"):
        rivals_of(CompressConfig(student=SMALL), card)
    assert rivals_of(CompressConfig(), card) == ()


def test_no_convolution_stays_float_unnoticed(pixels, monkeypatch):
    converted = student_onnx(student_model(SMALL, SPEC, CLASSES, seed=0))
    first = next(node.name for node in converted.graph.node if node.op_type == "Conv")
    real = onnx_any._outer
    monkeypatch.setattr(onnx_any, "_outer", lambda graph: [first, *real(graph)])
    with pytest.raises(CheckFailed, match="51 convolutions of a rival would run in int8 instead of 52"):
        any_to_int8(converted, pixels)


@pytest.mark.slow
def test_a_rival_is_listed_and_never_chosen(trained_once, tmp_path):
    file = tmp_path / "mine.h5"
    trunk().save_weights(file)
    settings = CompressConfig(**QUICK, student_weights=file)
    model, told = compress(Model.open(trained_once), tmp_path / "small", settings)
    own, rival = told.attempts
    assert (own.student, own.chosen) == ("", True)
    assert (rival.student, rival.widths, rival.misses, rival.chosen) == (SMALL, (), (), False)
    assert (rival.images, rival.epochs) == (own.images, own.epochs)
    assert rival.parameters == pytest.approx(0.4e6, rel=0.01)
    assert model.card.compression.attempts == told.attempts
    assert model.card.network.channels == own.widths
    assert {one.name for one in model.card.artifacts} == {"onnx-int8", "tflite-int8"}
    assert str(tmp_path) not in repr(model.card.compression.settings)
    section = compressed(model.card)
    assert f">{SMALL}</small>" in section
    assert "no rival with a name" in section
    assert _row(rival)[0] == SMALL
    assert _row(rival)[-1] == "keeps"


@pytest.mark.slow
def test_the_command_lists_rivals_and_a_resume_does_not_train_them_again(trained_once, tmp_path, monkeypatch):
    place = tmp_path / "small"
    arguments = ["compress", str(trained_once), "-o", str(place), "--keep", "0.5", "--epochs", "2"]
    arguments += ["--pictures", "2", "--student", SMALL]
    monkeypatch.setattr("edgetl.quantize.search.Tuning.expected_upper", lambda *_: 0.95)
    missed = CliRunner().invoke(app, [*arguments, "--max-drop", "25"])
    assert missed.exit_code == ExitCode.CHECK_FAILED, missed.output
    assert RIVALS in missed.stdout
    assert f"{SMALL}" in missed.stdout
    monkeypatch.undo()
    monkeypatch.setattr("edgetl.steps.rivals.taught", lambda *_: pytest.fail("trained again"))
    again = CliRunner().invoke(app, [*arguments, "--max-drop", "90", "--resume", "--json"])
    assert again.exit_code in {ExitCode.DONE, ExitCode.CHECK_FAILED}, again.output
    assert f'"student": "{SMALL}"' in again.stdout
