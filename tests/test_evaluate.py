"""`edgetl eval`: labelled images, wherever they are, become scores; only certification scores are kept."""

from pathlib import Path

import numpy as np
import pytest
from tiny import IMAGES_PER_SPLIT, LABELS, add_onnx, make_image, make_tiny_model, tiny_onnx

from edgetl.card import Model
from edgetl.config import EvalConfig, Precision
from edgetl.errors import DataError, UsageError
from edgetl.progress import REPORTER, Silent
from edgetl.steps.evaluate import default_name, evaluate

CERTIFIED = IMAGES_PER_SPLIT["test"] * len(LABELS)


@pytest.fixture
def model(tmp_path) -> Model:
    return make_tiny_model(tmp_path / "model", with_reference=True)


def draw(folder: Path, **labels: str) -> Path:
    """A folder with one image for each class: its name, and the colour that it really has."""
    for number, (label, colour) in enumerate(labels.items()):
        make_image(folder / label / "1.png", colour, number)
    return folder


def test_the_certification_images_are_scored_and_remembered(model):
    scores = evaluate(model, None, EvalConfig())
    assert (scores.artifact, scores.source, scores.images) == ("onnx-fp32", "certification", CERTIFIED)
    assert scores.accuracy == scores.balanced_accuracy == 1
    assert scores.accuracy_low < 1 == scores.accuracy_high
    assert Model.open(model.folder).card.scores == {"onnx-fp32": scores}


def test_a_folder_of_labelled_images_is_scored_and_not_remembered(model, tmp_path):
    data = draw(tmp_path / "new", red="red", green="blue")
    scores = evaluate(model, data, EvalConfig())
    assert (scores.images, scores.accuracy, scores.source) == (2, 0.5, str(data))
    truth, predicted = LABELS.index("green"), LABELS.index("blue")
    assert scores.confusion[truth][predicted] == 1
    assert np.sum(scores.confusion) == 2
    assert Model.open(model.folder).card.scores == {}


def test_of_a_divided_folder_only_the_test_images_count(model):
    assert evaluate(model, model.data_folder, EvalConfig()).images == CERTIFIED


@pytest.mark.parametrize("batch", [1, 7, 4096])
def test_scores_do_not_depend_on_the_batch(model, batch):
    assert evaluate(model, None, EvalConfig(batch=batch)) == evaluate(model, None, EvalConfig())


def test_unreadable_files_are_left_out_and_told(model, tmp_path):
    class Listener(Silent):
        heard = ""

        def say(self, text: str) -> None:
            self.heard += text

    data = draw(tmp_path / "new", red="red", green="green")
    (data / "red" / "broken.png").write_text("not an image")
    listener = Listener()
    token = REPORTER.set(listener)
    try:
        assert evaluate(model, data, EvalConfig()).images == 2
    finally:
        REPORTER.reset(token)
    assert "1 files could not be read" in listener.heard
    assert "broken.png" in listener.heard


def test_folders_that_cannot_be_scored(model, tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        evaluate(model, tmp_path / "missing", EvalConfig())
    with pytest.raises(DataError, match="does not know: violet") as caught:
        evaluate(model, draw(tmp_path / "other", violet="violet"), EvalConfig())
    assert caught.value.fix == "The model knows: blue, green, red."
    (tmp_path / "empty" / "red").mkdir(parents=True)
    with pytest.raises(DataError, match="no labelled images"):
        evaluate(model, tmp_path / "empty", EvalConfig())
    (tmp_path / "empty" / "red" / "1.png").touch()
    with pytest.raises(DataError, match="no readable image"):
        evaluate(model, tmp_path / "empty", EvalConfig())


def test_changed_certification_images_are_no_certification(model):
    make_image(model.data_folder / "test" / "red" / "0.png", "red", seed=999)
    with pytest.raises(DataError, match="changed since training"):
        evaluate(model, None, EvalConfig())


def test_the_named_artifact_is_scored(model):
    both = add_onnx(model, Precision.INT8, tiny_onnx(LABELS[::-1]))
    assert evaluate(both, None, EvalConfig(artifact="onnx-int8")).accuracy < 0.5
    assert default_name(both) == "onnx-fp32"
    with pytest.raises(UsageError, match="no artifact called 'onnx-fp16'"):
        evaluate(both, None, EvalConfig(artifact="onnx-fp16"))
