"""Verify: three verdicts with their exit codes, planted defects that must not pass, and inputs it must not trust."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny import LABELS, add_onnx, make_tiny_model, tiny_onnx

from edgetl.card import Model
from edgetl.config import Precision, VerifyConfig
from edgetl.errors import CheckFailed, DataError, ModelFolderError, UsageError
from edgetl.reference import read_reference
from edgetl.statistics import Verdict, exact_upper
from edgetl.steps.verify import CERTIFICATION, STORED, exit_code_of, verify

GREYS = ("black", "gray", "white")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """A model of colours and its data, not to be changed."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", with_reference=True).folder.parent


@pytest.fixture
def model(made_once, tmp_path):
    """A copy with its own data folder."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    data = str(tmp_path / "data")
    return Model.open(tmp_path / "model").update(
        lambda card: replace(card, data=replace(card.data, folder=data))
    )


def spoilt(labels=LABELS, kernel=np.array, bias=np.array, mean=(0, 0, 0)) -> bytes:
    """The tiny network with other numbers; `kernel` [3, classes] takes RGB of 0..255, less `mean`."""
    proto = onnx.load_model_from_string(tiny_onnx(labels))
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    before = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    offset = np.array(mean) @ before["kernel"]
    after = {"kernel": kernel(before["kernel"]), "bias": bias(before["bias"]) - offset}
    for name, value in after.items():
        tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
    return proto.SerializeToString()


def verdict_of(model, content, max_drop=5.0):
    """The verdict on `content` as an artifact of the model."""
    model = add_onnx(model, Precision.INT8, content)
    _, verified = verify(model, VerifyConfig(artifact="onnx-int8", max_drop=max_drop))
    return verified.parity[0]


def test_an_equal_file_passes_when_the_images_suffice(model, invoke):
    done = invoke("verify", model.folder, "--max-drop", 20)
    assert done.exit_code == 0, done.output
    card = Model.open(model.folder).card
    parity = card.parity["onnx-fp32"]
    assert (parity.verdict, parity.source, parity.images) == (Verdict.PASS, CERTIFICATION, 18)
    assert (parity.agreement, parity.harmful, parity.helpful, parity.drop_points) == (1.0, 0, 0, 0.0)
    assert parity.drop_upper_points == pytest.approx(100 * exact_upper(0, 0, 18))
    assert parity.artifact_sha256 == card.artifacts[0].sha256
    assert parity.disagreements == ()
    assert card.scores["onnx-fp32"].accuracy == 1.0


def test_too_few_images_are_undecided_and_said_how_many_are_missing(model, invoke):
    done = invoke("verify", model.folder, "--json")
    assert done.exit_code == 5
    (parity,) = json.loads(done.stdout)["parity"]
    assert parity["verdict"] == "undecided"
    assert 200 < parity["more_images"] < 400, "299 are needed for 1 point when nothing differs"


def test_a_failing_file_fails(model, invoke):
    add_onnx(model, Precision.INT8, tiny_onnx(LABELS[::-1]))
    done = invoke("verify", model.folder, "--max-drop", 20, "--json")
    assert done.exit_code == 3
    found = {parity["artifact"]: parity for parity in json.loads(done.stdout)["parity"]}
    assert [found[name]["verdict"] for name in ("onnx-fp32", "onnx-int8")] == ["pass", "fail"]
    shown = found["onnx-int8"]["disagreements"]
    assert len(shown) == 12
    assert {(d["truth"], d["candidate"]) for d in shown} == {("blue", "red"), ("red", "blue")}
    surest = [d["reference_probability"] for d in shown]
    assert surest == sorted(surest, reverse=True)
    assert all(d["path"].startswith("test/") for d in shown)


def test_exit_codes_when_verdicts_differ(model):
    def parity(verdict):
        _, verified = verify(model, VerifyConfig())
        return replace(verified.parity[0], verdict=verdict)

    passed, failed, undecided = map(parity, (Verdict.PASS, Verdict.FAIL, Verdict.UNDECIDED))
    assert exit_code_of([passed, passed]) == 0
    assert exit_code_of([passed, undecided]) == 5
    assert exit_code_of([undecided, failed, passed]) == 3


DEFECTS = {
    "labels swapped": tiny_onnx(("green", "blue", "red")),
    "red and blue swapped": spoilt(kernel=lambda k: k[::-1]),
    "divided by 255 twice": spoilt(kernel=lambda k: k / 255),
    "one channel dead": spoilt(kernel=lambda k: k * [[0], [1], [1]]),
    "uniform": spoilt(kernel=np.zeros_like, bias=np.zeros_like),
    "always the same": spoilt(bias=lambda b: b + np.array([99, 0, 0])),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_planted_defects_fail(model, defect):
    parity = verdict_of(model, DEFECTS[defect])
    assert parity.verdict is Verdict.FAIL, defect
    assert parity.agreement < 0.8


@pytest.mark.parametrize("mean", [(124, 117, 104), (-124, -117, -104)])
def test_a_mean_subtracted_twice_or_never_fails(tmp_path, mean):
    model = make_tiny_model(tmp_path / "model", GREYS, with_reference=True)
    parity = verdict_of(model, spoilt(GREYS, mean=mean))
    assert parity.verdict is Verdict.FAIL


def test_a_defect_that_changes_no_decision_still_shows(model):
    """Ten times less sure of everything: accuracy is the same, so it passes, but the figures say it."""
    parity = verdict_of(model, tiny_onnx(sharpness=0.8), max_drop=20.0)
    assert parity.verdict is Verdict.PASS
    assert parity.max_difference > 0.05
    assert parity.sqnr_db < 10


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_fail(model, value, invoke):
    model = add_onnx(model, Precision.INT8, spoilt(bias=lambda b: b + value))
    with pytest.raises(CheckFailed, match="not finite"):
        verify(model, VerifyConfig(artifact="onnx-int8"))
    assert invoke("verify", model.folder, "--artifact", "onnx-int8").exit_code == 3


def test_another_number_of_classes_fails(model):
    model = add_onnx(model, Precision.INT8, tiny_onnx((*LABELS, "white")))
    with pytest.raises(CheckFailed, match=r"\(18, 4\)"):
        verify(model, VerifyConfig(artifact="onnx-int8"))


def test_without_the_data_folder_stored_samples_are_used_and_nothing_is_recorded(model, tmp_path):
    shutil.rmtree(tmp_path / "data")
    after, verified = verify(model, VerifyConfig(max_drop=20))
    assert verified.parity[0].source == STORED
    assert verified.parity[0].images == len(read_reference(model).stored) == 18
    assert verified.parity[0].verdict is Verdict.PASS
    assert after.card.parity == Model.open(model.folder).card.parity == {}
    spoilt_model = add_onnx(model, Precision.INT8, DEFECTS["red and blue swapped"])
    assert verify(spoilt_model, VerifyConfig(max_drop=20))[1].exit_code == 3


def test_a_data_folder_that_moved_can_be_named(model, tmp_path):
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    after, verified = verify(model, VerifyConfig(max_drop=20, data=tmp_path / "elsewhere"))
    assert verified.parity[0].source == CERTIFICATION
    assert "onnx-fp32" in after.card.parity
    with pytest.raises(DataError, match=r"18 of 18 certification images are not in .*--data"):
        verify(model, VerifyConfig(data=tmp_path / "model"))


def test_an_edited_file_is_refused(model, invoke):
    path = model.folder / model.card.artifacts[0].file
    path.write_bytes(spoilt(kernel=lambda k: k * 0.999))
    with pytest.raises(ModelFolderError, match="SHA-256 differs"):
        verify(model, VerifyConfig())
    assert invoke("verify", model.folder).exit_code == 1
    path.unlink()
    with pytest.raises(ModelFolderError, match="missing"):
        verify(model, VerifyConfig())


def test_an_edited_reference_is_refused(model):
    path = model.folder / "reference.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelFolderError, match="not the file that training wrote"):
        verify(model, VerifyConfig())


def test_another_preprocessing_version_is_refused(model):
    model = model.update(lambda card: replace(card, input=replace(card.input, preprocessing_version=99)))
    with pytest.raises(ModelFolderError, match=r"preprocessing version 99.*may decode other pixels"):
        verify(model, VerifyConfig())


def test_a_changed_certification_image_is_refused(model, tmp_path):
    images = sorted((tmp_path / "data" / "test" / "red").iterdir())
    images[0].write_bytes(images[1].read_bytes())
    with pytest.raises(DataError, match="changed since training"):
        verify(model, VerifyConfig())
    images[0].unlink()
    with pytest.raises(DataError, match="1 of 18 certification images"):
        verify(model, VerifyConfig())


def test_new_images_in_the_data_folder_do_not_count(model, tmp_path):
    test = tmp_path / "data" / "test"
    shutil.copy(test / "red" / "0.png", test / "blue" / "wrong.png")
    assert verify(model, VerifyConfig(max_drop=20))[1].parity[0].images == 18


def test_unknown_artifacts_are_refused_with_the_known_ones(model):
    with pytest.raises(UsageError, match=r"tflite-int8.*It has: onnx-fp32"):
        verify(model, VerifyConfig(artifact="tflite-int8"))
    empty = model.update(lambda card: replace(card, artifacts=()))
    with pytest.raises(ModelFolderError, match="Run: edgetl export"):
        verify(empty, VerifyConfig())


BLOCKED = """
import sys
for name in ("tensorflow", "tf_keras", "keras", "onnx", "tf2onnx", "ai_edge_litert", "ai_edge_quantizer", "scipy", "h5py"):
    sys.modules[name] = None
from edgetl.cli import main
sys.argv = ["edgetl", *sys.argv[1:]]
main()
"""


def test_a_device_without_tensorflow_can_verify(model):
    command = [sys.executable, "-c", BLOCKED, "verify", str(model.folder), "--max-drop", "20", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parity"][0]["verdict"] == "pass"
