"""`edgetl predict`: one row per image, in order, in every form, whatever the images are called."""

import csv
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest
from tiny import add_onnx, add_parity, make_data, make_image, make_tiny_model, tiny_onnx
from typer.testing import CliRunner

from edgetl import progress
from edgetl import rows as row_files
from edgetl.card import Model
from edgetl.cli import app
from edgetl.config import Precision, PredictConfig
from edgetl.errors import DataError, ModelFolderError, StorageError, UsageError
from edgetl.images import Refusal
from edgetl.rows import COLUMNS, RowFormat, Status, row_of
from edgetl.statistics import Verdict
from edgetl.steps.predict import default_artifact, iterate, predict
from edgetl.stream import classify as classify_module
from edgetl.stream.sources import inputs_of, items_of

ODD_NAMES = (
    "new\nline.png",
    "carriage\rreturn.png",
    "comma, \"quote\" and 'quote'.png",
    "猫 été .png",
    "line\u2028separator.png",
    "back\\slash.png",
    "-dash.png",
    "[1]*?.png",
    os.fsdecode(b"latin-\xe9.png"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    """Red, an empty file, green, text, a missing file, blue: in that order."""
    folder = tmp_path / "photos"
    made = [
        make_image(folder / "1.png", "red", 1),
        folder / "2.png",
        make_image(folder / "3.png", "green", 2),
        folder / "4.jpg",
        folder / "5.png",
        make_image(folder / "6.png", "blue", 3),
    ]
    made[1].touch()
    made[3].write_text("not an image")
    return made


def expand(names: Sequence[str]) -> list[Path]:
    return [Path(item.path) for item in items_of(inputs_of(names, None))]


def run(*arguments: object, stdin: bytes | None = None):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], input=stdin)


def read_rows(path: Path) -> list[dict]:
    """The rows of any form of output as JSON lines would give them."""
    match RowFormat(path.suffix):
        case RowFormat.PARQUET:
            return pyarrow.parquet.read_table(path).to_pylist()
        case RowFormat.JSON_LINES:
            return [json.loads(line) for line in path.read_text().splitlines()]
        case RowFormat.CSV:
            with path.open(encoding="utf-8", newline="") as file:
                return [_from_cells(row) for row in csv.DictReader(file)]


def _from_cells(row: dict[str, str]) -> dict:
    plain = {name: cell or None for name, cell in row.items()}
    probability = plain["probability"]
    return plain | {"probability": probability and float(probability), "top": json.loads(row["top"])}


# --- rows -----------------------------------------------------------------------------------------------------------


def test_every_input_has_its_row_in_order(model, photos):
    rows = list(iterate(model, photos, PredictConfig(top=2)))
    assert [row.path for row in rows] == list(map(str, photos))
    assert [row.label for row in rows] == ["red", None, "green", None, None, "blue"]
    assert [row.reason for row in rows] == [
        None, Refusal.EMPTY, None, Refusal.NOT_AN_IMAGE, Refusal.MISSING, None,
    ]  # fmt: skip
    for row in rows:
        assert (row.status is Status.OK) == (row.detail is None) == (row.probability is not None)
        assert [each.label for each in row.top[:1]] == [row.label] * (row.status is Status.OK)
        assert len(row.top) == (2 if row.status is Status.OK else 0)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 1000])
def test_batches_change_nothing(model, tmp_path, batch):
    paths = []
    for number in range(40):
        paths.append(tmp_path / f"{number}.png")
        if number % 3 == 0 or 10 < number < 25:
            paths[-1].touch()
        else:
            make_image(paths[-1], ("red", "green", "blue")[number % 3], number)
    rows = list(iterate(model, paths, PredictConfig(batch=batch, threads=1)))
    assert [row.path for row in rows] == list(map(str, paths))
    for number, row in enumerate(rows):
        assert row.label == (
            None if number % 3 == 0 or 10 < number < 25 else ("red", "green", "blue")[number % 3]
        )


def test_top_is_sorted_and_sums_to_one(model, photos):
    (row,) = iterate(model, photos[:1], PredictConfig(top=3))
    probabilities = [each.probability for each in row.top]
    assert probabilities == sorted(probabilities, reverse=True)
    assert math.isclose(sum(probabilities), 1, abs_tol=1e-6)
    assert {each.label for each in row.top} == set(model.card.labels)


def test_equal_classes_keep_their_order(tmp_path):
    """As argmax does, so `eval`, `verify` and `predict` name the same class."""
    twins = make_tiny_model(tmp_path / "model", labels=("blue", "fuchsia", "magenta"))
    (row,) = iterate(twins, [make_image(tmp_path / "a.png", "magenta")], PredictConfig(top=2))
    assert [each.label for each in row.top] == ["fuchsia", "magenta"]


def test_rows_come_before_all_images_are_read(model, tmp_path):
    """Memory is needed for the look-ahead only, however many images there are or are refused."""
    paths = [make_image(tmp_path / "first.png", "red")] + [tmp_path / f"{n}.png" for n in range(500)]
    late = make_image(tmp_path / "late.png", "red")
    rows = iterate(model, [*paths, late], PredictConfig(batch=4, threads=1))
    assert next(rows).label == "red"
    late.unlink()
    assert list(rows)[-1].reason is Refusal.MISSING


# --- outputs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", RowFormat)
def test_every_form_has_equal_content(model, photos, tmp_path, form):
    odd = [make_image(tmp_path / "odd" / name, "red", number) for number, name in enumerate(ODD_NAMES)]
    paths = [*photos, *odd, tmp_path / os.fsdecode(b"missing-\xff.png")]
    config = PredictConfig(output=str(tmp_path / f"rows{form}"), top=3)
    summary = predict(model, [str(path) for path in paths], config)
    expected = [json.loads(json.dumps(row_of(row))) for row in iterate(model, paths, config)]
    assert read_rows(Path(config.output)) == expected
    assert expected[-2]["path"].endswith("latin-\\xe9.png")
    assert summary.skipped[-1].path.endswith("missing-\\xff.png")
    assert summary.per_label == {"red": 1 + len(odd), "green": 1, "blue": 1}
    assert (summary.images, summary.refused) == (len(paths), 4)
    assert tuple(expected[0]) == COLUMNS


def test_parquet_is_written_in_row_groups(model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("edgetl.rows._ROW_GROUP", 3)
    output = tmp_path / "rows.parquet"
    predict(model, list(map(str, photos)), PredictConfig(output=str(output), batch=1))
    metadata = pyarrow.parquet.read_metadata(output)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [3, 3]


@pytest.mark.parametrize("output", ["rows", "rows.txt", "rows.parquet.gz", ".csv"])
def test_unknown_suffix_is_refused_before_any_work(tmp_path, output):
    with pytest.raises(UsageError, match=r"\.parquet, \.csv, \.jsonl; -"):
        predict(Model.open(_no_artifacts(tmp_path)), ["absent"], PredictConfig(output=str(tmp_path / output)))


def _no_artifacts(tmp_path: Path) -> Path:
    model = make_tiny_model(tmp_path / "bare")
    model.update(lambda card: replace(card, artifacts=()))
    return model.folder


def test_folder_as_output_is_refused(model, photos, tmp_path):
    (tmp_path / "rows.csv").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        predict(model, [str(photos[0])], PredictConfig(output=str(tmp_path / "rows.csv")))


def test_output_below_a_file_is_refused_by_the_disk(model, photos):
    with pytest.raises(StorageError, match="a part of the path is a file"):
        predict(model, [str(photos[0])], PredictConfig(output=str(photos[0] / "out" / "rows.csv")))


@pytest.mark.parametrize("form", RowFormat)
def test_interrupted_write_leaves_the_old_file(model, photos, tmp_path, monkeypatch, form):
    output = tmp_path / "out" / f"rows{form}"
    output.parent.mkdir()
    output.write_text("old")
    classify, calls = classify_module._checked, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return classify(*arguments)

    monkeypatch.setattr(classify_module, "_checked", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(model, list(map(str, photos)), PredictConfig(output=str(output), batch=1))
    assert output.read_text() == "old"
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("form", RowFormat)
def test_full_disk_is_a_storage_error(model, photos, monkeypatch, form):
    """Nothing is left beside the output, and the message names it."""
    folder = photos[0].parent.parent / "out"
    original = row_files._opened
    monkeypatch.setattr(
        row_files, "_opened", lambda form, _temporary, extras: original(form, Path("/dev/full"), extras)
    )
    with pytest.raises(StorageError, match="the disk is full"):
        predict(model, list(map(str, photos)), PredictConfig(output=str(folder / f"rows{form}")))
    assert list(folder.iterdir()) == []


# --- inputs ---------------------------------------------------------------------------------------------------------


def test_folders_globs_and_files_together(model, photos, tmp_path):
    data = make_data(tmp_path / "data")
    output = tmp_path / "rows.jsonl"
    inputs = [
        str(photos[5]),
        str(data / "t*" / "green"),
        str(data / "val"),
        str(tmp_path / "absent" / "*.png"),
    ]
    summary = predict(model, inputs, PredictConfig(output=str(output)))
    rows = read_rows(output)
    assert rows[0]["path"] == str(photos[5])
    assert rows[-1]["path"].endswith("*.png")
    assert rows[-1]["reason"] == "missing"
    for row in rows[1:-1]:
        assert Path(row["path"]).parent.name == row["label"]
    assert (summary.images, summary.refused) == (1 + 14 + 12 + 1, 1)


def test_path_given_twice_has_one_row(photos):
    assert expand([str(photos[0]), str(photos[0].parent)]).count(photos[0]) == 1


@pytest.mark.parametrize("inputs", [["absent/*.png"], ["."], ["*.png", "[ab].jpg"], []])
def test_nothing_found_is_an_error(tmp_path, monkeypatch, inputs):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="No images were found") as raised:
        expand(inputs)
    assert ".png" in raised.value.fix


def test_empty_name_is_not_the_current_folder():
    with pytest.raises(UsageError, match="empty"):
        expand([""])


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
def test_list_on_standard_input(model, photos, separator):
    listed = separator.join([*(os.fsencode(path) for path in photos), b"", b"[1]*.png", b""])
    result = run(model.folder, "-", stdin=listed)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["path"] for row in rows] == [*map(str, photos), "[1]*.png"]
    assert result.exit_code == 4


def test_listed_names_are_not_patterns(model, tmp_path, monkeypatch):
    make_image(tmp_path / "a1.png", "red")
    make_image(tmp_path / os.fsdecode(b"new\nline-\xe9.png"), "red")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(os.fsencode(tmp_path) + b"/a[1].png")))
    assert expand(["-"]) == [tmp_path / "a[1].png"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(os.fsencode(tmp_path))))
    assert len(expand(["-"])) == 2


# --- which artifact -------------------------------------------------------------------------------------------------


def _grown(model: Model) -> Model:
    """With an int8 and an fp16 file that are smaller than fp32; int8 is the smallest."""
    tiny = tiny_onnx()
    model = add_onnx(model, Precision.FP32, tiny_onnx() + _padding(200))
    model = add_onnx(model, Precision.FP16, tiny + _padding(100))
    return add_onnx(model, Precision.INT8, tiny)


def _padding(size_bytes: int) -> bytes:
    """A field that ONNX does not know, which readers pass over."""
    return b"\xfa\x3f" + bytes([size_bytes % 128 + 128, size_bytes // 128]) + bytes(size_bytes)


def test_smallest_file_at_parity_is_the_default(tmp_path):
    model = _grown(make_tiny_model(tmp_path / "model"))
    assert default_artifact(model).name == "onnx-fp32"
    model = add_parity(model, "onnx-int8", Verdict.UNDECIDED)
    assert default_artifact(model).name == "onnx-fp32"
    model = add_parity(model, "onnx-fp16", Verdict.PASS)
    assert default_artifact(model).name == "onnx-fp16"
    model = add_parity(model, "onnx-int8", Verdict.PASS)
    assert default_artifact(model).name == "onnx-int8"
    assert add_parity(model, "onnx-int8", Verdict.FAIL).card.parity["onnx-int8"].verdict is Verdict.FAIL
    assert default_artifact(Model.open(model.folder)).name == "onnx-fp16"


def test_model_without_artifacts_says_what_to_do(tmp_path):
    with pytest.raises(ModelFolderError, match="edgetl export"):
        default_artifact(Model.open(_no_artifacts(tmp_path)))


def test_choice_is_announced(tmp_path, photos):
    model = _grown(make_tiny_model(tmp_path / "model"))
    assert "using onnx-fp32 (parity with full precision: not verified)" in run(model.folder, photos[0]).stderr
    add_parity(model, "onnx-int8", Verdict.PASS)
    assert "using onnx-int8 (parity with full precision: pass)" in run(model.folder, photos[0]).stderr
    assert "using onnx-fp16" in run(model.folder, photos[0], "-a", "onnx-fp16").stderr


def test_unknown_artifact_is_refused(model, photos):
    with pytest.raises(UsageError, match="onnx-fp32"):
        predict(model, [str(photos[0])], PredictConfig(artifact="keras"))


def test_changed_artifact_is_refused(tmp_path, photos):
    model = make_tiny_model(tmp_path / "model")
    path = model.folder / model.card.artifacts[0].file
    path.write_bytes(path.read_bytes() + b"\0")
    output = tmp_path / "rows.csv"
    with pytest.raises(ModelFolderError, match="SHA-256"):
        predict(model, [str(photos[0])], PredictConfig(output=str(output)))
    assert not output.exists()


def test_network_that_does_not_fit_the_card_is_refused(tmp_path, photos):
    model = add_onnx(make_tiny_model(tmp_path / "model"), Precision.FP32, tiny_onnx(("red", "blue")))
    with pytest.raises(ModelFolderError, match=r"\(1, 2\)"):
        list(iterate(model, photos[:1], PredictConfig()))


def test_values_that_are_no_probabilities_are_refused(tmp_path, photos):
    model = make_tiny_model(tmp_path / "model")
    model = add_onnx(model, Precision.FP32, tiny_onnx(sharpness=math.nan))
    with pytest.raises(ModelFolderError, match="finite"):
        list(iterate(model, photos[:1], PredictConfig()))


def test_more_classes_than_there_are_is_refused_at_the_call(model, photos):
    with pytest.raises(UsageError, match="--top from 1 to 3"):
        iterate(model, photos, PredictConfig(top=4))


def test_other_preprocessing_is_told(model, photos, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("edgetl.images.PREPROCESSING_VERSION", 99)
    token = progress.REPORTER.set(_Listener(said))
    try:
        iterate(model, photos, PredictConfig())
    finally:
        progress.REPORTER.reset(token)
    assert "edgetl verify" in said[-1]


class _Listener(progress.Silent):
    def __init__(self, said: list[str]) -> None:
        self.say = said.append


# --- the command ----------------------------------------------------------------------------------------------------


def test_exit_codes(model, photos, tmp_path):
    fine, broken = photos[0], photos[1]
    assert run(model.folder, fine).exit_code == 0
    assert run(model.folder, fine, broken).exit_code == 4
    assert run(model.folder, tmp_path / "none*.png").exit_code == 1
    assert run(tmp_path, fine).exit_code == 1
    assert run(model.folder, fine, "--top", 4).exit_code == 2
    assert run(model.folder, fine, "-o", tmp_path / "rows.txt").exit_code == 2
    assert run(model.folder).exit_code == 2
    assert run(model.folder, fine, "-o", fine / "out" / "rows.csv").exit_code == 1


def test_rows_alone_are_on_standard_output(model, photos):
    result = run(model.folder, *photos)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["label"] for row in rows] == ["red", None, "green", None, None, "blue"]
    assert "3 images classified, 3 refused" in result.stderr
    assert f"refused {photos[1]}: empty. The file is empty." in result.stderr


def test_summary_is_on_standard_output_beside_a_file(model, photos, tmp_path):
    result = run(model.folder, *photos, "-o", tmp_path / "rows.csv")
    assert result.stdout.startswith(f"{tmp_path / 'rows.csv'}: 3 images classified, 3 refused")
    assert "  red: 1\n" in result.stdout


def test_summary_cannot_steer_the_terminal(model, photos, tmp_path):
    result = run(model.folder, tmp_path / "\x1b[2Jabsent.png", photos[0])
    assert "\x1b" not in result.stderr + result.stdout
    assert result.exit_code == 4


def test_json_summary(model, photos, tmp_path):
    result = run(model.folder, *photos, "--json", "-o", tmp_path / "rows.parquet")
    summary = json.loads(result.stdout)
    assert (summary["images"], summary["refused"], summary["artifact"]) == (6, 3, "onnx-fp32")
    assert summary["skipped"][0] == {
        "path": str(photos[1]),
        "reason": "empty",
        "detail": "The file is empty.",
    }
    assert result.exit_code == 4


def test_json_and_rows_do_not_share_standard_output(model, photos):
    result = run(model.folder, photos[0], "--json")
    assert result.exit_code == 2
    assert "standard output" in json.loads(result.stdout)["error"]


def _program(arguments: Sequence[object], **settings) -> subprocess.CompletedProcess:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('tensorflow' in sys.modules, file=sys.stderr))\n"
        "from edgetl.cli import main\n"
        "main()"
    )
    command = [sys.executable, "-c", code, "predict", *map(os.fsencode, map(str, arguments))]
    return subprocess.run(command, capture_output=True, check=False, timeout=120, **settings)


def test_no_tensorflow_is_loaded_and_any_locale_works(model, tmp_path):
    odd = [make_image(tmp_path / name, "red") for name in ODD_NAMES]
    locale = os.environ | {
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
    }
    done = _program([model.folder, *odd, tmp_path / "absent.png"], env=locale)
    assert done.returncode == 4, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["label"] for row in rows] == ["red"] * len(odd) + [None]
    assert rows[3]["path"] == str(odd[3])
    assert done.stderr.splitlines()[-1] == b"False"


def test_full_standard_output_is_a_storage_error(model, photos):
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "edgetl", "predict", str(model.folder), str(photos[0])]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=120)
    assert b"Could not write standard output: the disk is full." in done.stderr
    assert b"Traceback" not in done.stderr


def test_colours_are_told_apart_by_any_labels(tmp_path):
    labels = ("black", "cyan", "orange", "purple", "white")
    model = make_tiny_model(tmp_path / "model", labels, with_reference=True)
    rows = iterate(model, expand([str(tmp_path / "data" / "test")]), PredictConfig())
    assert {row.label == Path(row.path).parent.name for row in rows} == {True}
