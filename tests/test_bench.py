"""`edgetl bench`: every artifact is timed in a process of its own, and the card remembers."""

import math
from dataclasses import replace

import pytest
from tiny import add_onnx, make_tiny_model, tiny_onnx

from edgetl.card import Model
from edgetl.config import BenchConfig, Precision
from edgetl.errors import EdgetlError, UsageError
from edgetl.steps import bench as step
from edgetl.steps.bench import BATCHES, LEAST_RUNS, bench

QUICK = BenchConfig(seconds=0.05, threads=1)


@pytest.fixture
def model(tmp_path) -> Model:
    return make_tiny_model(tmp_path / "model")


def test_all_artifacts_are_timed_and_remembered(model):
    model = add_onnx(model, Precision.INT8, tiny_onnx())
    after, benched = bench(model, QUICK)
    assert [timing.artifact for timing in benched.timings] == ["onnx-fp32", "onnx-int8"]
    for timing in benched.timings:
        assert timing.size_bytes == model.artifact(timing.artifact).size_bytes
        assert 0 < timing.latency_p50_ms <= timing.latency_p95_ms
        assert timing.best_batch in BATCHES
        assert timing.images_per_second > 0
        assert 10 < timing.peak_memory_mib < 1000
        assert timing.threads == 1
    full, small = benched.timings
    assert full.speed_ratio == 1
    assert small.speed_ratio == pytest.approx(small.images_per_second / full.images_per_second)
    assert (
        Model.open(model.folder).card.timing == after.card.timing == {t.artifact: t for t in benched.timings}
    )


def test_one_artifact_is_compared_with_what_was_timed_before(model):
    model = add_onnx(model, Precision.INT8, tiny_onnx())
    alone, _ = bench(model, replace(QUICK, artifact="onnx-int8"))
    assert math.isnan(alone.card.timing["onnx-int8"].speed_ratio)
    both, _ = bench(alone, replace(QUICK, artifact="onnx-fp32"))
    again, _ = bench(both, replace(QUICK, artifact="onnx-int8"))
    assert again.card.timing["onnx-int8"].speed_ratio > 0


def test_what_goes_wrong_in_the_other_process_is_told_here(model):
    (model.folder / model.artifact("onnx-fp32").file).write_bytes(b"changed")
    with pytest.raises(EdgetlError, match="SHA-256 differs"):
        bench(model, QUICK)
    with pytest.raises(UsageError, match="no artifact called"):
        bench(model, replace(QUICK, artifact="tflite-fp32"))
    assert Model.open(model.folder).card.timing == {}


def test_every_figure_comes_from_several_runs():
    runs = []
    assert len(step._durations(lambda: runs.append(None), seconds=0)) == LEAST_RUNS == len(runs) - 1


def test_formats_are_compared_with_their_own_kind(model):
    full = bench(model, QUICK)[1].timings[0]
    tflite = replace(full, artifact="tflite-int8", speed_ratio=math.nan)
    assert math.isnan(step._with_ratio(tflite, {"onnx-fp32": full}).speed_ratio)
