"""The commands as Python functions: the same work, the same records, and not a word printed."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import LABELS, make_image, make_tiny_model

import edgetl
from edgetl.card import Model
from edgetl.config import (
    BenchConfig,
    DataConfig,
    EvalConfig,
    ExportConfig,
    PredictConfig,
    ReportConfig,
    TrainConfig,
    VerifyConfig,
)
from edgetl.errors import DataError, ModelFolderError, UsageError
from edgetl.results import DataReport, Finding, Parity, Scores, Timing
from edgetl.rows import Status
from edgetl.statistics import Verdict


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_tiny_model(tmp_path / "model", with_reference=True).folder


def test_a_folder_opens_by_path_or_text(folder):
    for opened in (edgetl.open(folder), edgetl.open(str(folder))):
        assert opened.folder == folder
        assert opened.card.labels == LABELS


def test_a_wrong_folder_says_what_to_do(tmp_path):
    with pytest.raises(ModelFolderError, match=r"has no card\.json") as caught:
        edgetl.open(tmp_path)
    assert "edgetl train" in caught.value.fix


def test_predict_gives_a_row_for_every_image(folder, tmp_path):
    paths = [make_image(tmp_path / "red.png", "red"), str(tmp_path / "missing.png")]
    rows = edgetl.open(folder).predict(paths, PredictConfig(top=2))
    assert [row.path for row in rows] == [str(path) for path in paths]
    assert (rows[0].status, rows[0].label, len(rows[0].top)) == (Status.OK, "red", 2)
    assert rows[0].probability == rows[0].top[0].probability
    assert (rows[1].status, rows[1].reason, rows[1].label) == (Status.REFUSED, "missing", None)
    assert edgetl.open(folder).predict([]) == []


def test_predict_into_writes_as_the_command_does(folder, tmp_path):
    photo, output = make_image(tmp_path / "red.png", "red"), tmp_path / "rows/"
    summary = edgetl.open(folder).predict_into([photo], PredictConfig(output=f"{output}/"))
    assert (summary.images, summary.per_label) == (1, {"red": 1})
    assert (output / "_SUCCESS").is_file()


def test_verify_adds_to_the_card_in_memory_and_on_the_disk(folder):
    model = edgetl.open(folder)
    (parity,) = model.verify(VerifyConfig(max_drop=100))
    assert isinstance(parity, Parity)
    assert parity.verdict is Verdict.PASS
    assert model.card.parity["onnx-fp32"].verdict is Verdict.PASS
    assert edgetl.open(folder).card.parity.keys() == {"onnx-fp32"}


def test_eval_scores_certification_images_or_a_folder(folder, tmp_path):
    model = edgetl.open(folder)
    scores = model.eval(config=EvalConfig(artifact="onnx-fp32"))
    assert isinstance(scores, Scores)
    assert (scores.accuracy, scores.source) == (1.0, "certification")
    assert model.card.scores["onnx-fp32"] == scores
    other = tmp_path / "other"
    make_image(other / "red" / "1.png", "red")
    assert model.eval(str(other), EvalConfig(artifact="onnx-fp32")).images == 1
    assert model.card.scores["onnx-fp32"] == scores


def test_bench_times_and_report_draws(folder):
    model = edgetl.open(folder)
    (timing,) = model.bench(BenchConfig(seconds=0.05))
    assert isinstance(timing, Timing)
    assert model.card.timing.keys() == {"onnx-fp32"}
    assert model.report() == folder / "report.html"
    assert model.report(ReportConfig(output=folder / "page.html")).read_text().startswith("<!")


def test_data_and_doctor_need_no_model(folder):
    assert isinstance(edgetl.data(str(folder.parent / "data")), DataReport)
    assert edgetl.data(folder.parent / "data", DataConfig(seed=1)).seed == 1
    assert all(isinstance(finding, Finding) for finding in edgetl.doctor())


def test_errors_are_exceptions_and_not_exits(folder, tmp_path):
    model = edgetl.open(folder)
    with pytest.raises(UsageError, match="no artifact called"):
        model.predict(["x.png"], PredictConfig(artifact="onnx-int4"))
    with pytest.raises(DataError, match="not a folder"):
        edgetl.data(tmp_path / "missing")


def test_nothing_is_printed(folder, tmp_path, capfd):
    model = edgetl.open(folder)
    model.predict([make_image(tmp_path / "red.png", "red")])
    model.verify()
    model.report()
    assert capfd.readouterr() == ("", "")


def test_train_and_export_pass_on_what_they_are_given(folder, tmp_path, monkeypatch):
    calls = []

    def train(*arguments):
        calls.append(arguments)
        return Model.open(folder)

    def export(*arguments):
        calls.append(arguments)
        return Model.open(folder), SimpleNamespace(artifacts=Model.open(folder).card.artifacts)

    monkeypatch.setitem(sys.modules, "edgetl.steps.train", SimpleNamespace(train=train))
    monkeypatch.setitem(sys.modules, "edgetl.steps.export", SimpleNamespace(export=export))
    model = edgetl.train("flowers", str(tmp_path), TrainConfig(seed=3))
    assert model.export() == ("onnx-fp32",)
    assert calls == [
        (Path("flowers"), tmp_path, TrainConfig(seed=3)),
        (Model.open(folder), ExportConfig()),
    ]


def test_the_package_names_what_it_has():
    for name in edgetl.__all__:
        assert getattr(edgetl, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        edgetl.opne  # noqa: B018


def test_the_package_is_typed():
    assert (Path(edgetl.__file__).parent / "py.typed").is_file()
