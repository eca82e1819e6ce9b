"""The command line: what is typed becomes settings, what happened becomes an exit code, and pipes stay clean."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import LABELS, add_onnx, hearing_control_c, make_image, make_tiny_model, tiny_onnx
from typer.testing import CliRunner

from edgetl import progress
from edgetl.card import Model
from edgetl.cli import COMMANDS, app, show
from edgetl.config import (
    Arithmetic,
    BenchConfig,
    Block,
    CacheConfig,
    CompressConfig,
    DataConfig,
    DemoConfig,
    DriftConfig,
    EvalConfig,
    ExportConfig,
    FeaturePrecision,
    Head,
    Packing,
    Precision,
    PredictConfig,
    Recipe,
    ReportConfig,
    TrainConfig,
    Unfreeze,
    VerifyConfig,
)
from edgetl.errors import CheckFailed, DataError, EdgetlError, ModelFolderError, StorageError, UsageError
from edgetl.records import from_json
from edgetl.results import ReportResult

BOXES_AND_CODES = re.compile("[\u2500-\u259f]|\x1b")
STEP_OF = {name: "evaluate" if name == "eval" else name for name in COMMANDS}


class Called(Exception):  # noqa: N818 - nothing went wrong
    """What a step was called with, instead of its work."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", with_reference=True)


@pytest.fixture
def photos(tmp_path) -> Path:
    for number, label in enumerate(LABELS):
        make_image(tmp_path / "photos" / f"{number}.png", label, number)
    return tmp_path / "photos"


@pytest.fixture
def instead(monkeypatch):
    """Put a function in the place of every step; no step's module, nor TensorFlow, is loaded."""

    def replace(function) -> None:
        for step in STEP_OF.values():
            module = SimpleNamespace(**{step: function}, has_core_problem=None)
            monkeypatch.setitem(sys.modules, f"edgetl.steps.{step}", module)

    return replace


M, D, O = Path("MODEL"), Path("data"), Path("out")  # noqa: E741 - as in the usage lines
TYPED = [
    ("data data", (D, DataConfig())),
    ("data data --seed 7 --class-map names.txt", (D, DataConfig(seed=7, class_map=Path("names.txt")))),
    ("train data -o out", (D, O, TrainConfig())),
    ("train data --output out --recipe classic", (D, O, TrainConfig(recipe=Recipe.CLASSIC))),
    (
        "train data -o out --cut block3 --head flatten --unfreeze none --epochs-head 3 --rate-head 1e-3 --resume",
        (
            D,
            O,
            TrainConfig(
                cut=Block.BLOCK3,
                head=Head.FLATTEN,
                unfreeze=Unfreeze.NONE,
                epochs_head=3,
                rate_head=1e-3,
                resume=True,
            ),
        ),
    ),
    (
        "train data -o out --minutes 2.5 --scales 2 --features int8 --arithmetic bfloat16 --shrink",
        (
            D,
            O,
            TrainConfig(
                minutes=2.5,
                scales=2,
                features=FeaturePrecision.INT8,
                arithmetic=Arithmetic.BFLOAT16,
                shrink=True,
            ),
        ),
    ),
    (
        "train data -o out --views 3 --cache-limit 1MB --cache-folder out",
        (D, O, TrainConfig(views=3, cache_limit="1MB", cache_folder=O)),
    ),
    (
        "train data -o out --weights my.h5 --tuning-share 0.2",
        (D, O, TrainConfig(weights="my.h5", tuning_share=0.2)),
    ),
    ("eval MODEL", (M, None, EvalConfig())),
    ("eval MODEL data -a onnx-int8 --threads 2", (M, D, EvalConfig(artifact="onnx-int8", threads=2))),
    ("export MODEL", (M, ExportConfig())),
    (
        "export MODEL -f onnx -p int8,fp16 --data data",
        (M, ExportConfig(format="onnx", precision="int8,fp16", data=D)),
    ),
    (
        "export MODEL --packed zst --cluster 32 --sparsity 0.5",
        (M, ExportConfig(packed=Packing.ZST, cluster=32, sparsity=0.5)),
    ),
    ("verify MODEL", (M, VerifyConfig())),
    ("verify MODEL --max-drop 0.5 --batch 8", (M, VerifyConfig(max_drop=0.5, batch=8))),
    ("predict MODEL a.jpg b", (M, ["a.jpg", "b"], PredictConfig())),
    ("predict MODEL - -o rows.csv --top 3", (M, ["-"], PredictConfig(output="rows.csv", top=3))),
    ("predict MODEL -- -odd.jpg", (M, ["-odd.jpg"], PredictConfig())),
    ("compress MODEL -o out", (M, O, CompressConfig(), None)),
    (
        "compress MODEL data -o out --max-drop 2% --max-size 800KB --macs 50 --minutes 5 --resume",
        (
            M,
            O,
            CompressConfig(max_drop="2%", max_size="800KB", macs=50.0, minutes=5.0, resume=True),
            Path("data"),
        ),
    ),
    ("drift MODEL out", (M, O, DriftConfig())),
    (
        "drift MODEL out --reference data --tolerance 0.05 --vectors 200 --seed 3",
        (M, O, DriftConfig(reference=D, tolerance=0.05, vectors=200, seed=3)),
    ),
    ("bench MODEL", (M, BenchConfig())),
    ("bench MODEL --seconds 0.1 -a onnx-fp32", (M, BenchConfig(seconds=0.1, artifact="onnx-fp32"))),
    ("report MODEL", (M, ReportConfig())),
    ("report MODEL -o page.html", (M, ReportConfig(output=Path("page.html")))),
    ("cache", (CacheConfig(),)),
    (
        "cache --clear --older-than 7 --limit 4GB --folder out",
        (CacheConfig(clear=True, older_than=7.0, limit="4GB", folder=O),),
    ),
    ("doctor", ()),
    ("demo", (Path("demo-output"), DemoConfig())),
    ("demo -o out --image-size 32", (O, DemoConfig(image_size=32))),
]


def test_the_table_has_every_command():
    assert {line.split()[0] for line, _ in TYPED} == set(COMMANDS)


@pytest.mark.parametrize(("line", "expected"), TYPED, ids=[line for line, _ in TYPED])
def test_what_is_typed_becomes_settings(line, expected, model, instead, invoke):
    def step(*arguments):
        raise Called(arguments)

    instead(step)
    result = invoke(*[str(model.folder) if word == "MODEL" else word for word in line.split()])
    assert isinstance(result.exception, Called), result.output
    (arguments,) = result.exception.args
    assert tuple(given.folder if isinstance(given, Model) else given for given in arguments) == tuple(
        model.folder if given == M else given for given in expected
    )


WRONG_USAGE = {
    "": "Usage: edgetl",
    "prdict": "No such command 'prdict'. Did you mean 'predict'?",
    "predict": "Missing argument 'MODEL'",
    "predict MODEL": "Missing argument 'IMAGES'",
    "verify MODEL --artfact x": "No such option: --artfact",
    "verify MODEL --max-drop 0": "Invalid value for '--max-drop'",
    "verify MODEL --max-drop nan": "Invalid value for '--max-drop'",
    "verify MODEL --max-drop much": "Invalid value for '--max-drop'",
    "verify MODEL -a onnx-int4": "It has: onnx-fp32.",
    "compress MODEL": "Missing option '--output'",
    "compress MODEL -o out --cut block9": "Invalid value for '--cut'",
    "drift MODEL": "Missing argument 'RESULTS'",
    "drift MODEL rows.csv --tolerance 0": "Invalid value for '--tolerance'",
    "train data": "Missing option '--output'",
    "train data -o out --head round": "Invalid value for '--head'",
    "predict MODEL PHOTOS --top 9": "Choose --top from 1 to 3.",
    "predict MODEL PHOTOS -o rows.xlsx": "Valid are .parquet, .csv, .jsonl",
    "predict MODEL PHOTOS --json": "both want standard output",
}


@pytest.mark.parametrize(("line", "message"), WRONG_USAGE.items(), ids=WRONG_USAGE)
def test_wrong_usage_is_told_before_any_work(line, message, model, photos, invoke):
    result = invoke(*place(line, model, photos))
    assert result.exit_code == 2
    assert message in result.output


EXIT_CODES = [
    ("--help", 0),
    ("--version", 0),
    ("doctor -h", 0),
    ("predict MODEL PHOTOS", 0),
    ("predict MODEL PHOTOS -o TMP/rows.csv", 0),
    ("predict MODEL PHOTOS TMP/missing.png", 4),
    ("predict MODEL TMP/*.png", 1),
    ("predict MODEL PHOTOS -o PHOTOS/0.png/rows.csv", 1),
    ("predict TMP/missing PHOTOS", 1),
    ("report MODEL -o TMP/page.html", 0),
    ("eval MODEL -a onnx-fp32", 0),
    ("eval MODEL PHOTOS -a onnx-fp32", 1),
    ("verify MODEL", 5),
    ("verify MODEL --max-drop 100", 0),
    ("verify MODEL --data TMP", 1),
    ("data TMP/missing", 1),
    ("drift MODEL TMP/missing.csv", 1),
    ("drift MODEL PHOTOS", 1),
    ("cache --folder TMP/missing", 0),
    ("cache --folder PHOTOS/0.png --clear", 2),
]


@pytest.mark.parametrize(("line", "code"), EXIT_CODES, ids=[line for line, _ in EXIT_CODES])
def test_what_happened_becomes_an_exit_code(line, code, model, photos, invoke):
    result = invoke(*place(line, model, photos))
    assert result.exit_code == code, result.output
    if code == 1:
        assert re.search("^error: .+[.]$", result.stderr, re.MULTILINE)
        assert "\n  fix: " in result.stderr
        assert result.stdout == ""


def test_a_check_that_fails_has_its_own_exit_code(tmp_path, invoke):
    wrong = make_tiny_model(tmp_path / "model", with_reference=True)
    add_onnx(wrong, Precision.FP32, tiny_onnx(LABELS[::-1]))
    result = invoke("verify", wrong.folder)
    assert result.exit_code == 3
    assert "fail" in result.stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EdgetlError, 1),
        (UsageError, 2),
        (DataError, 1),
        (ModelFolderError, 1),
        (StorageError, 1),
        (CheckFailed, 3),
    ],
)
def test_every_kind_of_error_is_a_sentence_a_hint_and_an_exit_code(error, code, instead, invoke):
    def fail():
        raise error("It broke in \x1b[31ma\nfile\udce9.", "Mend it.")

    instead(fail)
    result = invoke("doctor")
    assert result.exit_code == code
    assert result.stderr == "error: It broke in \\x1b[31ma\\nfile\\udce9.\n  fix: Mend it.\n"
    as_json = invoke("doctor", "--json")
    assert as_json.exit_code == code
    assert as_json.stderr == ""
    assert json.loads(as_json.stdout) == {
        "error": "It broke in \x1b[31ma\nfile\udce9.",
        "fix": "Mend it.",
        "exit_code": code,
    }


def test_our_own_bugs_keep_their_traceback(instead, invoke):
    def fail():
        raise RuntimeError("a bug")

    instead(fail)
    assert isinstance(invoke("doctor").exception, RuntimeError)


def test_an_interrupt_is_one_sentence_and_130(instead, invoke):
    def interrupt():
        raise KeyboardInterrupt

    instead(interrupt)
    result = invoke("doctor")
    assert result.exit_code == 130
    assert "Interrupted. Nothing is half written" in result.stderr
    assert result.stdout == ""


def test_what_fails_only_because_of_an_interrupt_is_an_interrupt(instead, invoke):
    """As a zip file does that is closed in the middle of an entry."""

    def interrupt():
        with zipfile.ZipFile(io.BytesIO(), "w") as file:
            file.open("entry", "w")
            raise KeyboardInterrupt

    instead(interrupt)
    result = invoke("doctor")
    assert result.exit_code == 130
    assert result.stderr.endswith("train and compress go on with --resume.\n")


def test_the_time_of_a_command_ends_with_it(instead, invoke):
    seconds = []

    def look():
        seconds.append(progress.COMMAND_SECONDS.get()())
        raise UsageError("Seen.", "")

    instead(look)
    invoke("doctor")
    assert seconds[0] > 0
    assert progress.COMMAND_SECONDS.get() is None, "a step that a program calls has its own beginning"


def test_control_c_while_a_command_waits(model, tmp_path):
    output = tmp_path / "rows.csv"
    command = [sys.executable, "-m", "edgetl", "predict", str(model.folder), "-", "-o", str(output)]
    with hearing_control_c():
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert "using onnx-fp32" in process.stderr.readline()
        time.sleep(0.2)  # now it reads its standard input
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.endswith(
        "Interrupted. Nothing is half written. Run the command again; train and compress go on with --resume.\n"
    )
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line", ["predict MODEL PHOTOS", "report MODEL", "report MODEL --json", "doctor", "--help"]
)
def test_a_reader_that_goes_away_hears_nothing(line, model, photos):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "edgetl", *place(line, model, photos)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.returncode == (1 if line == "--help" else 0)
    assert "Broken" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("line", ["predict MODEL PHOTOS", "report MODEL", "report MODEL --json"])
def test_a_full_disk_behind_standard_output_is_told(line, model, photos):
    command = [sys.executable, "-m", "edgetl", *place(line, model, photos)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "error: Could not write standard output: the disk is full." in done.stderr
    assert "Traceback" not in done.stderr


def test_work_goes_on_when_nobody_reads_the_progress(model, photos, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "edgetl", *place("predict MODEL PHOTOS -o TMP/rows.csv", model, photos)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writing, text=True, check=False)
    os.close(writing)
    assert done.returncode == 0
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + len(LABELS)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_explains_itself(name, flag, invoke):
    result = invoke(name, flag)
    assert result.exit_code == 0
    first = COMMANDS[name].__doc__.partition(".")[0]
    assert first in " ".join(result.stdout.split())
    assert "--json" in result.stdout
    assert not BOXES_AND_CODES.search(result.stdout)


def test_options_stand_under_their_headings(invoke):
    told = invoke("train", "--help").stdout
    places = [
        told.index(f"\n{heading}:\n")
        for heading in ("Arguments", "Options", "Data", "Training", "Network", "Run")
    ]
    assert places == sorted(places)
    assert (
        told.index("\nNetwork:") < told.index("--image-size") < told.index("\nRun:") < told.index("--resume")
    )


def test_all_commands_are_listed_in_the_order_of_work(invoke):
    told = invoke("--help").stdout
    listed = re.findall(r"^  (\w+)  +\w", told[told.index("Commands:") :], re.MULTILINE)
    assert listed == list(COMMANDS)


def test_the_version(invoke):
    assert re.fullmatch(r"edgetl \d+\.\d+\.\d+\S*\n", invoke("--version").stdout)


def test_progress_is_on_standard_error_and_results_on_standard_output(model, photos, tmp_path, run_cli):
    to_file = run_cli("predict", model.folder, photos, "-o", tmp_path / "rows.csv")
    assert "predicting: 3 in" in to_file.stderr
    assert "3 images classified" in to_file.stdout
    rows = run_cli("predict", model.folder, photos)
    assert [json.loads(line)["label"] for line in rows.stdout.splitlines()] == list(LABELS)
    assert "3 images classified" in rows.stderr


def test_results_as_json_are_the_record(model, tmp_path, run_cli):
    done = run_cli("report", model.folder, "-o", tmp_path / "page.html", "--json")
    assert from_json(ReportResult, done.stdout).output == str(tmp_path / "page.html")


@pytest.mark.parametrize("line", ["verify MODEL", "eval MODEL -a onnx-fp32", "data DATA", "doctor"])
def test_in_a_pipe_tables_are_plain(line, model, photos, run_cli):
    done = run_cli(*place(line, model, photos), environment={"FORCE_COLOR": "1", "TERM": "xterm-256color"})
    assert done.stdout
    assert not BOXES_AND_CODES.search(done.stdout)
    assert not BOXES_AND_CODES.search(done.stderr)


def test_in_a_terminal_there_are_boxes_bars_and_headings(model, photos):
    assert "─ Network ─" in in_terminal("train", "--help")
    assert "─ Error ─" in in_terminal("prdict")
    assert "━" in in_terminal("predict", str(model.folder), str(photos))
    assert "─" in in_terminal("verify", str(model.folder))


def test_a_narrow_locale_is_no_error(tmp_path, run_cli):
    odd = make_tiny_model(tmp_path / "model").update(lambda card: card)
    narrow = {"PYTHONIOENCODING": "ascii"}
    folder = tmp_path / "猫\udce9"
    assert "\\udce9 does not exist" in run_cli("verify", folder, environment=narrow).stderr
    page = folder / "page.html"
    assert "\\u732b" in run_cli("report", odd.folder, "-o", page, environment=narrow).stdout
    told = run_cli("report", odd.folder, "-o", page, "--json", environment=narrow).stdout
    assert from_json(ReportResult, told).output == str(page)


def test_tables_show_names_as_they_are_and_align_numbers(capsys):
    rows = [("[bold]a", "1.5 ms", "0.png (train)", "-0.20"), (":cat:", "12.0 ms", "x\x1b[31m\ny", "n/a")]
    show.table("a [title]", ("name", "time", "file", "drop"), rows, ["[note] :cat:"])
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "a [title]",
        " name        time  file            drop",
        " [bold]a   1.5 ms  0.png (train)  -0.20",
        " :cat:    12.0 ms  x\\x1b[31m\\ny     n/a",
        "[note] :cat:",
    ]


@pytest.mark.parametrize(
    "text", ["1", "-0.5", "+3", "1.2e-05", "93.1 %", "1.50 MB", "34.5 dB", "<1", "n/a", ""]
)
def test_numbers(text):
    assert show.NUMBER.fullmatch(text)


@pytest.mark.parametrize("text", ["0.png (train)", "3 of 4", "pass", "-", "8 images", "1.jpg"])
def test_words_that_begin_like_numbers(text):
    assert not show.NUMBER.fullmatch(text)


def test_long_lines_are_whole_in_a_pipe(capsys):
    show.lines("long " * 300)
    show.table("", ("a", "b"), [("x" * 900, "1")])
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3
    assert "x" * 900 in out[2]


def place(line: str, model: Model, photos: Path) -> list[str]:
    """The words of a command line with the places of this test in it."""
    places = {
        "MODEL": model.folder,
        "PHOTOS": photos,
        "TMP": photos.parent,
        "DATA": model.folder.parent / "data",
    }
    return [re.sub("|".join(places), lambda found: str(places[found[0]]), word) for word in line.split()]


def in_terminal(*arguments: str) -> str:
    """What a person sees, standard output and error together."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "edgetl", *arguments]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # the terminal is closed
                break
    os.close(ours)
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", seen.decode())


def test_the_program_is_found_by_its_name():
    assert CliRunner().invoke(app, ["--help"]).stdout.startswith("Usage: edgetl ")
