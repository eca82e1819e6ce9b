"""Eval: the figures against scikit-learn, and which images of which folders count."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics
from tiny import LABELS, add_onnx, make_image, make_tiny_model, tiny_onnx

from edgetl.card import Model
from edgetl.config import EvalConfig, Precision
from edgetl.errors import DataError, ModelFolderError, UsageError
from edgetl.scoring import score
from edgetl.steps import evaluate as step
from edgetl.steps.evaluate import evaluate


@pytest.fixture
def model(tmp_path):
    """A model of colours; its data are in tmp_path / "data"."""
    return make_tiny_model(tmp_path / "model", with_reference=True)


def test_figures_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    classes, images = 6, 300
    labels = random.choice(classes - 1, images, p=[0.4, 0.3, 0.15, 0.1, 0.05])  # one class has no image
    logits = random.normal(0, 1, (images, classes)) + 1.5 * np.eye(classes)[labels]
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    predicted = probabilities.argmax(axis=1)
    scores = score("x", "y", probabilities, labels)
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert scores.balanced_accuracy == pytest.approx(
        metrics.recall_score(labels, predicted, average="macro", labels=range(classes - 1))
    )
    assert scores.loss == pytest.approx(
        metrics.log_loss(labels, probabilities, labels=range(classes)), rel=1e-5
    )
    assert scores.top5_accuracy == pytest.approx(
        metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=range(classes))
    )
    np.testing.assert_array_equal(
        scores.confusion, metrics.confusion_matrix(labels, predicted, labels=range(classes))
    )
    wanted = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=0
    )
    found = [(c.precision, c.recall, c.f1, c.images) for c in scores.per_class]
    np.testing.assert_allclose(found, np.array(wanted).T)
    assert scores.accuracy_low < scores.accuracy < scores.accuracy_high
    assert 0 <= scores.calibration_error < 0.5


def test_certification_scores_go_into_the_card(model):
    scores = evaluate(model, None, EvalConfig())
    assert (scores.artifact, scores.source, scores.images, scores.accuracy) == (
        "onnx-fp32",
        "certification",
        18,
        1.0,
    )
    assert Model.open(model.folder).card.scores["onnx-fp32"] == scores


def test_a_folder_of_ones_own_does_not_go_into_the_card(model, tmp_path, invoke):
    for number in range(4):
        make_image(tmp_path / "mine" / "red" / f"{number}.png", "red", number)
    make_image(tmp_path / "mine" / "blue" / "wrong.png", "red", 9)
    done = invoke("eval", model.folder, tmp_path / "mine", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["images"], found["accuracy"]) == (5, 0.8)
    assert found["confusion"] == [[0, 0, 1], [0, 0, 0], [0, 0, 4]]
    assert found["source"] == str(tmp_path / "mine")
    assert Model.open(model.folder).card.scores == {}


def test_of_a_folder_with_splits_test_counts(model, tmp_path):
    assert evaluate(model, tmp_path / "data", EvalConfig()).images == 18
    shutil.rmtree(tmp_path / "data" / "train")
    assert evaluate(model, tmp_path / "data", EvalConfig()).images == 18
    assert evaluate(model, tmp_path / "data" / "val", EvalConfig()).images == 12


def test_a_class_that_is_called_test_is_a_class(tmp_path):
    labels = ("red", "test")
    model = make_tiny_model(tmp_path / "model", ("red", "blue"))
    model = model.update(lambda card: replace(card, labels=labels))
    make_image(tmp_path / "mine" / "test" / "a.png", "blue")
    make_image(tmp_path / "mine" / "red" / "a.png", "red")
    assert evaluate(model, tmp_path / "mine", EvalConfig()).accuracy == 1.0


def test_unknown_classes_are_refused_with_the_known_ones(model, tmp_path):
    make_image(tmp_path / "mine" / "purple" / "a.png", "red")
    make_image(tmp_path / "mine" / ".hidden" / "a.png", "red")
    with pytest.raises(DataError, match=rf"does not know: purple.*knows: {', '.join(LABELS)}"):
        evaluate(model, tmp_path / "mine", EvalConfig())


def test_unlabelled_empty_and_missing_folders_are_refused(model, tmp_path):
    make_image(tmp_path / "flat" / "a.png", "red")
    with pytest.raises(DataError, match=r"no labelled images.*edgetl predict"):
        evaluate(model, tmp_path / "flat", EvalConfig())
    with pytest.raises(DataError, match="is not a folder"):
        evaluate(model, tmp_path / "none", EvalConfig())
    (tmp_path / "bad" / "red").mkdir(parents=True)
    (tmp_path / "bad" / "red" / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="no readable image"):
        evaluate(model, tmp_path / "bad", EvalConfig())


def test_unreadable_images_are_left_out(model, tmp_path):
    make_image(tmp_path / "mine" / "red" / "a.png", "red")
    (tmp_path / "mine" / "red" / "b.png").write_bytes(b"no image")
    assert evaluate(model, tmp_path / "mine", EvalConfig()).images == 1


def test_without_the_data_folder_the_way_out_is_named(model, tmp_path):
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(DataError, match=r"is not here.*edgetl eval .*model DATA"):
        evaluate(model, None, EvalConfig())


def test_any_artifact_can_be_scored(model):
    model = add_onnx(model, Precision.INT8, tiny_onnx(LABELS[::-1]))
    assert evaluate(model, None, EvalConfig(artifact="onnx-int8")).accuracy == pytest.approx(1 / 3)
    with pytest.raises(UsageError, match="It has: onnx-fp32, onnx-int8"):
        evaluate(model, None, EvalConfig(artifact="tflite-fp32"))
    with pytest.raises(ModelFolderError, match="exported model without its full-precision network"):
        evaluate(model, None, EvalConfig(artifact="keras"))


def test_batches_do_not_change_the_figures(model):
    assert evaluate(model, None, EvalConfig(batch=5)) == evaluate(model, None, EvalConfig(batch=32))


def test_the_default_is_the_network_where_tensorflow_is_and_an_artifact_elsewhere(model, monkeypatch):
    assert step.default_name(model) == "onnx-fp32"
    model.keras_file.write_bytes(b"")
    monkeypatch.setattr(step, "find_spec", lambda _name: object())
    assert step.default_name(model) == "keras"
    monkeypatch.setattr(step, "find_spec", lambda _name: None)
    assert step.default_name(model) == "onnx-fp32"
