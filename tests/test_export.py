"""Exported files: valid, self-describing, alike in every runtime, and made without ever being half there."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer
from trained import copy_of, exported, exported_once, quick, said, shapes, trained, trained_once  # noqa: F401

from edgetl.card import Model
from edgetl.config import EvalConfig, ExportConfig, Format, Head, Precision, VerifyConfig
from edgetl.engines import open_classifier
from edgetl.errors import CheckFailed, DataError, ModelFolderError, UsageError
from edgetl.metadata.tflite import read_metadata
from edgetl.reference import read_reference
from edgetl.statistics import Verdict
from edgetl.steps import export as step
from edgetl.steps import making
from edgetl.steps.evaluate import evaluate
from edgetl.steps.export import export
from edgetl.steps.train import train
from edgetl.steps.verify import verify

FILES = {
    "model.onnx",
    "model_fp16.onnx",
    "model_int8.onnx",
    "model_w8a32.onnx",
    "model.tflite",
    "model_fp16.tflite",
    "model_int8.tflite",
    "model_w8a16.tflite",
    "model_w8a32.tflite",
}


@pytest.fixture(scope="module")
def model(exported_once):
    """The exported model folder, not to be changed."""
    return Model.open(exported_once)


def of(model, form):
    return [artifact for artifact in model.card.artifacts if artifact.format is form]


def answers(model, artifact, pixels):
    return open_classifier(model, artifact)(pixels)


def test_the_card_describes_every_file(model):
    assert {artifact.file for artifact in model.card.artifacts} == FILES
    assert [artifact.name for artifact in model.card.artifacts][:2] == ["onnx-fp32", "onnx-fp16"]
    for artifact in model.card.artifacts:
        content = (model.folder / artifact.file).read_bytes()
        assert artifact.sha256 == hashlib.sha256(content).hexdigest()
        assert artifact.size_bytes == len(content)
        assert artifact.name == f"{artifact.format}-{artifact.precision}"
        calibrated = artifact.precision in {Precision.INT8, Precision.W8A16}
        assert ("calibration images" in artifact.details) == calibrated
    assert not list(model.folder.glob(".edgetl-tmp-*"))


def test_onnx_files_are_valid_and_of_the_stated_opset(model):
    for artifact in of(model, Format.ONNX):
        proto = onnx.load(model.folder / artifact.file)
        onnx.checker.check_model(proto, full_check=True)
        opsets = {entry.domain: entry.version for entry in proto.opset_import}
        assert opsets[""] == 17
        assert artifact.details["opset"] == "17"
        (image,), (output,) = proto.graph.input, proto.graph.output
        assert (image.name, output.name) == ("image", "probabilities")
        assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        dimensions = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
        assert dimensions == ["N", 32, 32, 3]
        assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["N", 3]
        used = {node.domain for node in proto.graph.node}
        assert used == {""}, "standard operators only"


def test_onnx_files_say_what_they_are(model):
    for artifact in of(model, Format.ONNX):
        content = model.read(artifact)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        found = session.get_modelmeta().custom_metadata_map
        assert found["Image.BitmapPixelFormat"] == "Rgb8"
        assert found["Image.ColorSpaceGamma"] == "SRGB"
        assert found["Image.NominalPixelRange"] == "NominalRange_0_255"
        assert json.loads(found["names"]) == {"0": "circle", "1": "square", "2": "stripes"}
        assert json.loads(found["imgsz"]) == [32, 32]
        assert found["task"] == "classify"
        assert found["model_info labels"] == "circle square stripes"
        assert found["model_info model_type"] == "Classification"
        assert found["edgetl.precision"] == artifact.precision
        assert json.loads(found["edgetl.contract"])["preprocessing_version"] == 1


def test_tflite_files_say_what_they_are(model):
    for artifact in of(model, Format.TFLITE):
        metadata = read_metadata(model.read(artifact))
        assert metadata.labels == model.card.labels
        assert metadata.name == model.card.name
        assert metadata.license == model.card.weights.licence
        assert zipfile.ZipFile(model.folder / artifact.file).namelist() == ["labels.txt"]


PLAIN = """
import json, sys
import numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1])
for path in sys.argv[2:]:
    image = Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    (probabilities,) = session.run(None, {"image": np.asarray(image)[None]})
    print(json.dumps(probabilities[0].tolist()))
"""


def test_ten_lines_of_plain_onnxruntime_give_the_same_answers(model, shapes):
    """With Pillow's own decoding and resizing: nothing of edgetl is needed to use a file."""
    reference = read_reference(model)
    paths = [str(shapes / path) for path in reference.paths[::5]]
    command = [sys.executable, "-c", PLAIN, str(model.folder / "model.onnx"), *paths]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    np.testing.assert_allclose([json.loads(line) for line in lines], reference.probabilities[::5], atol=1e-5)


@pytest.mark.parametrize("batch", [1, 7])
def test_openvino_agrees_on_every_onnx_file(model, batch):
    openvino = pytest.importorskip("openvino")
    pixels = read_reference(model).pixels[:21]
    for artifact in of(model, Format.ONNX):
        # unless told otherwise it computes in bfloat16 where the CPU has it
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(str(model.folder / artifact.file), "CPU", options)
        found = np.concatenate([compiled(pixels[i : i + batch])[0] for i in range(0, len(pixels), batch)])
        wanted = answers(model, artifact, pixels)
        exact = artifact.precision in {Precision.FP32, Precision.W8A32}
        tolerance = 1e-3 if exact else 0.05 if artifact.precision is Precision.INT8 else 0.01
        np.testing.assert_allclose(found, wanted, atol=tolerance, err_msg=artifact.name)
        margins = np.diff(np.sort(wanted, axis=1)[:, -2:], axis=1)[:, 0]
        sure = margins > 2 * tolerance
        assert (found.argmax(axis=1) == wanted.argmax(axis=1))[sure].all()


@pytest.mark.parametrize("scales", [1, 2])
@pytest.mark.parametrize("head", Head)
def test_every_head_is_exported(shapes, tmp_path, head, scales):
    """Also one that sees two blocks, whose features are joined."""
    if head is Head.FLATTEN and scales == 2:
        return
    epochs = {"epochs_head": 2} if head is Head.FLATTEN else {}
    config = quick(head=head, scales=scales, views=1, epochs_finetune=1, **epochs)
    model, _ = export(train(shapes, tmp_path / "model", config), ExportConfig(precision="fp32,int8"))
    graph = onnx.load(model.folder / "model.onnx").graph
    assert ("Concat" in {node.op_type for node in graph.node}) == (scales == 2)
    reference = read_reference(model)
    wanted = reference.probabilities[reference.stored]
    for artifact in model.card.artifacts:
        found = answers(model, artifact, reference.pixels)
        if artifact.precision is Precision.FP32:
            np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=artifact.name)
    _, verified = verify(model, VerifyConfig(max_drop=50))
    assert len(verified.parity) == 4
    assert Verdict.FAIL not in {parity.verdict for parity in verified.parity}


def test_every_engine_takes_any_batch_size(model):
    pixels = read_reference(model).pixels[:7]
    for artifact in model.card.artifacts:
        classifier = open_classifier(model, artifact)
        one_by_one = np.concatenate([classifier(pixels[i : i + 1]) for i in range(7)])
        together = classifier(pixels)
        assert together.dtype == np.float32
        np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-3)
        np.testing.assert_allclose(together, one_by_one, atol=1e-4, err_msg=artifact.name)


def test_litert_opens_every_tflite_file_at_both_sizes(model):
    for artifact in of(model, Format.TFLITE):
        for batch in (1, 7):
            interpreter = Interpreter(model_path=str(model.folder / artifact.file))
            (image,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
            interpreter.resize_tensor_input(image["index"], [batch, 32, 32, 3])
            interpreter.allocate_tensors()
            interpreter.set_tensor(image["index"], read_reference(model).pixels[:batch])
            interpreter.invoke()
            assert interpreter.get_tensor(output["index"]).shape == (batch, 3)


def test_export_again_gives_the_same_files(exported_once, trained, tmp_path):
    """Byte for byte, also from another folder: nothing random, no dates, no paths."""
    once = export(trained, ExportConfig())[0]
    before = {artifact.name: artifact.sha256 for artifact in once.card.artifacts}
    again = export(once, ExportConfig())[0]
    assert {artifact.name: artifact.sha256 for artifact in again.card.artifacts} == before
    first = Model.open(exported_once)
    assert {name: first.artifact(name).sha256 for name in before} == before
    assert {path.name for path in again.folder.glob("model*")} == (FILES | {"model.keras"}) - {
        "model_w8a16.tflite"
    }


def test_a_new_file_drops_what_was_measured_on_the_old_one(exported):
    model, _ = verify(exported, VerifyConfig(max_drop=50))
    assert model.card.parity.keys() == {artifact.name for artifact in model.card.artifacts}
    model, _ = export(model, ExportConfig(format="onnx", precision="int8"))
    assert "onnx-int8" not in model.card.parity
    assert "onnx-fp32" in model.card.parity


def test_what_was_finished_before_an_interruption_stays(trained, monkeypatch):
    build = step.build

    def interrupted(sources, model, variant):
        if variant.precision is Precision.INT8:
            raise KeyboardInterrupt
        return build(sources, model, variant)

    monkeypatch.setattr(step, "build", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(trained, ExportConfig(format="onnx"))
    names = [artifact.name for artifact in Model.open(trained.folder).card.artifacts]
    assert names == ["onnx-fp32", "onnx-fp16"]
    monkeypatch.setattr(step, "build", build)
    (trained.folder / ".edgetl-tmp-left.onnx").write_bytes(b"half a file")
    model, _ = export(Model.open(trained.folder), ExportConfig(format="onnx"))
    assert len(model.card.artifacts) == 4
    assert not (trained.folder / ".edgetl-tmp-left.onnx").exists()


def test_a_float_file_that_computes_something_else_is_never_stored(trained, monkeypatch):
    to_onnx = making.to_onnx

    def spoilt(layers):
        made = to_onnx(layers)
        for tensor in made.graph.initializer:
            if len(tensor.dims) == 4:
                values = onnx.numpy_helper.to_array(tensor)[:, ::-1]
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
                break
        return made

    monkeypatch.setattr(making, "to_onnx", spoilt)
    with pytest.raises(CheckFailed, match=r"model\.onnx differs from the trained network"):
        export(trained, ExportConfig(format="onnx", precision="fp32"))
    assert Model.open(trained.folder).card.artifacts == ()
    assert not (trained.folder / "model.onnx").exists()


def moved_data(trained, tmp_path):
    folder = str(tmp_path / "gone")
    return trained.update(lambda card: replace(card, data=replace(card.data, folder=folder)))


def test_calibration_images_that_are_not_there_are_asked_for(trained, shapes, tmp_path):
    model = moved_data(trained, tmp_path)
    with pytest.raises(DataError, match=r"calibration images are not in .*gone.*--data"):
        export(model, ExportConfig())
    assert Model.open(model.folder).card.artifacts == (), "refused before work"
    _, exported = export(model, ExportConfig(precision="int8", data=shapes))
    assert len(exported.artifacts) == 2
    export(model, ExportConfig(format="onnx", precision="fp32"))  # needs none


def test_changed_calibration_images_are_refused(trained, shapes, tmp_path):
    copy = tmp_path / "copy"
    names = json.loads((trained.folder / "calibration.json").read_text())["paths"]
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((shapes / name).read_bytes())
    export(trained, ExportConfig(format="onnx", precision="int8", data=copy))
    other = next(path for path in (shapes / "train" / "circle").iterdir() if str(path) not in names)
    (copy / names[0]).write_bytes(other.read_bytes())
    with pytest.raises(DataError, match="changed since training"):
        export(trained, ExportConfig(format="onnx", precision="int8", data=copy))


def test_fewer_calibration_images_can_be_asked_for(trained):
    _, exported = export(trained, ExportConfig(format="onnx", precision="int8", calibration_images=2))
    assert exported.artifacts[0].details["calibration images"] == "2"


def test_requests_that_cannot_be_met_are_refused_before_work(trained):
    with pytest.raises(UsageError, match="onnx has no w8a16"):
        export(trained, ExportConfig(format="onnx", precision="w8a16"))
    trained.keras_file.unlink()
    with pytest.raises(ModelFolderError, match=r"no model\.keras"):
        export(trained, ExportConfig(format="onnx", precision="fp32"))


def test_files_are_readable_by_others(exported):
    mode = (exported.folder / "model.onnx").stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    assert mode == 0o666 & ~mask


def test_a_reference_of_another_preprocessing_is_renewed_by_the_command_that_is_named(exported, invoke):
    """Decoded pixels may differ between versions, so verdicts of the old reference are forgotten."""
    verified, _ = verify(exported, VerifyConfig(artifact="onnx-fp32", max_drop=20))
    old = verified.update(lambda card: replace(card, input=replace(card.input, preprocessing_version=99)))
    refused = invoke("verify", old.folder)
    assert refused.exit_code == 1
    command = re.search(r"edgetl (eval .*--renew-reference)", refused.stderr).group(1)
    assert invoke(*command.split()).exit_code == 0
    renewed = Model.open(old.folder)
    assert renewed.card.parity == {}
    assert list(renewed.card.scores) == ["keras"]
    np.testing.assert_array_equal(
        read_reference(renewed).probabilities, read_reference(exported).probabilities
    )
    _, again = verify(renewed, VerifyConfig(artifact="onnx-fp32", max_drop=20))
    assert again.parity[0].verdict is Verdict.PASS


def test_a_reference_needs_the_network_and_the_data_to_be_renewed(exported, tmp_path):
    exported.keras_file.unlink()
    with pytest.raises(ModelFolderError, match="only the full-precision network can make a reference"):
        evaluate(exported, None, EvalConfig(renew_reference=True))


def test_a_reference_is_not_renewed_without_the_data(exported):
    gone = exported.update(lambda card: replace(card, data=replace(card.data, folder="../nowhere")))
    with pytest.raises(DataError, match="is not here"):
        evaluate(gone, None, EvalConfig(renew_reference=True))


def test_a_network_that_the_quantizer_refuses_goes_through_the_old_converter(trained, shapes, monkeypatch):
    """Said aloud and noted; what it makes answers like the network."""

    def refuse(*_):
        raise RuntimeError("unknown operator")

    monkeypatch.setattr(quantizer.Quantizer, "quantize", refuse)
    with said() as lines:
        model, _ = export(trained, ExportConfig(format="tflite", precision="int8"))
    assert any(
        "AI Edge Quantizer refuses the network: RuntimeError: unknown operator" in line for line in lines
    )
    artifact = model.artifact("tflite-int8")
    assert artifact.details["quantizer"].startswith("tensorflow ")
    reference = read_reference(model)
    found = answers(model, artifact, reference.pixels)
    assert (found.argmax(axis=1) == reference.probabilities[reference.stored].argmax(axis=1)).mean() > 0.9
    with pytest.raises(CheckFailed, match="refuses the network"):
        export(trained, ExportConfig(format="tflite", precision="w8a32"))
