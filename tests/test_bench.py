"""Bench: a whole record of each artifact, measured in a process of its own. No time is asserted."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from tiny import add_onnx, make_tiny_model, tiny_onnx

from edgetl.card import Model
from edgetl.config import BenchConfig, Precision
from edgetl.errors import EdgetlError, ModelFolderError, UsageError
from edgetl.steps import bench as step
from edgetl.steps.bench import BATCHES, bench

QUICK = BenchConfig(seconds=0.05, threads=1)


@pytest.fixture
def model(tmp_path):
    """A model of colours with two artifacts."""
    return add_onnx(make_tiny_model(tmp_path / "model"), Precision.INT8, tiny_onnx())


def test_every_artifact_gets_a_whole_record(model):
    after, benched = bench(model, QUICK)
    assert [timing.artifact for timing in benched.timings] == ["onnx-fp32", "onnx-int8"]
    assert (
        Model.open(model.folder).card.timing.keys() == after.card.timing.keys() == {"onnx-fp32", "onnx-int8"}
    )
    for timing in benched.timings:
        assert timing.size_bytes == model.artifact(timing.artifact).size_bytes
        assert 0 < timing.latency_p50_ms <= timing.latency_p95_ms
        assert timing.load_ms > 0
        assert timing.images_per_second > 0
        assert timing.best_batch in BATCHES
        assert timing.threads == 1
        assert timing.cpu
    assert benched.timings[0].speed_ratio == 1.0
    assert benched.timings[1].speed_ratio > 0


def test_the_ratio_needs_the_float_file_and_remembers_it(model):
    _, alone = bench(model, BenchConfig(seconds=0.05, artifact="onnx-int8"))
    assert math.isnan(alone.timings[0].speed_ratio)
    bench(model, BenchConfig(seconds=0.05, artifact="onnx-fp32"))
    _, after = bench(model, BenchConfig(seconds=0.05, artifact="onnx-int8"))
    assert after.timings[0].speed_ratio > 0


def test_memory_is_that_of_the_artifact_not_of_the_caller(model):
    """The caller holds half a gigabyte here; the measuring process has none of it, nor its main module."""
    held = np.ones(2**26)
    _, benched = bench(model, BenchConfig(seconds=0.05, artifact="onnx-fp32"))
    assert held.nbytes / 2**20 == 512
    assert 10 < benched.timings[0].peak_memory_mib < 300


def test_a_script_without_a_main_guard_can_bench(model, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, edgetl\n"
        "from edgetl.config import BenchConfig\n"
        "config = BenchConfig(seconds=0.05, artifact='onnx-fp32')\n"
        "print(edgetl.open(sys.argv[1]).bench(config)[0].artifact)\n"
    )
    command = [sys.executable, str(script), str(model.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "onnx-fp32\n"


def test_the_command_prints_all_of_it(model, invoke):
    done = invoke("bench", model.folder, "--seconds", 0.05, "--artifact", "onnx-fp32", "--json")
    assert done.exit_code == 0, done.output
    (timing,) = json.loads(done.stdout)["timings"]
    assert timing["artifact"] == "onnx-fp32"


def test_what_goes_wrong_in_the_process_is_said_here(model):
    artifact = model.artifact("onnx-int8")
    (model.folder / artifact.file).write_bytes(b"edited")
    with pytest.raises(EdgetlError, match="SHA-256 differs"):
        bench(model, BenchConfig(seconds=0.05, artifact="onnx-int8"))
    add_onnx(model, Precision.INT8, b"not an ONNX file")
    with pytest.raises(EdgetlError, match="ONNX Runtime refuses"):
        bench(Model.open(model.folder), BenchConfig(seconds=0.05, artifact="onnx-int8"))
    with pytest.raises(UsageError):
        bench(model, BenchConfig(artifact="tflite-fp32"))


@pytest.mark.parametrize(
    ("code", "said"), [("import os; os.abort()", "died"), ("1 / 0", "ZeroDivisionError")]
)
def test_a_process_that_dies_is_told_from_one_that_fails(model, monkeypatch, code, said):
    run = subprocess.run

    def spoilt(_command, **options):
        return run([sys.executable, "-c", code], **options)

    monkeypatch.setattr(step.subprocess, "run", spoilt)
    with pytest.raises((EdgetlError, RuntimeError), match=said):
        bench(model, QUICK)


def test_without_artifacts_export_is_suggested(model):
    with pytest.raises(ModelFolderError, match="Run: edgetl export"):
        bench(model.update(lambda card: replace(card, artifacts=())), QUICK)


def test_the_folder_may_be_named_from_anywhere(model, monkeypatch):
    monkeypatch.chdir(model.folder.parent)
    _, benched = bench(Model.open(model.folder.relative_to(model.folder.parent)), QUICK)
    assert len(benched.timings) == 2
