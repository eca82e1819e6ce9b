"""Jobs: one row for every image, whatever happens, and the same rows however often it happened."""

import contextlib
import csv
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from faults import killers
from hypothesis import given
from hypothesis import strategies as st
from tiny import PHOTO_COLOURS as COLOURS
from tiny import add_onnx, make_image, make_photos, make_tiny_model, tiny_onnx
from typer.testing import CliRunner

from edgetl import rows
from edgetl.card import Model
from edgetl.cli import app
from edgetl.config import BatchEngine, Precision, PredictConfig
from edgetl.errors import DataError, MissingExtra, StorageError, UsageError
from edgetl.images import Refusal
from edgetl.rows import read_parquet
from edgetl.steps.predict import predict
from edgetl.stream import jobs, journal, tuning
from edgetl.stream.digest import rows_digest
from edgetl.stream.items import Kind, read
from edgetl.stream.journal import Journal, _read_log, sole_writer
from edgetl.stream.limits import limits_of, slots_of
from edgetl.stream.plan import read_plan, write_plan
from edgetl.stream.sources import inputs_of, items_of

COUNT = 90  # more than are done at once


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Ninety images; every seventh is none."""
    return make_photos(tmp_path_factory.mktemp("photos"), COUNT)


@pytest.fixture(scope="module")
def undisturbed(model, photos, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("job") / "rows"
    predict(model, [str(photos)], PredictConfig(output=f"{output}/", shard_rows=16))
    return output


def config_for(output: Path, **settings) -> PredictConfig:
    return PredictConfig(**{"output": f"{output}/", "shard_rows": 16, **settings})


def rows_of(folder: Path) -> list[dict]:
    return [row for part in sorted(folder.glob("part-*")) for row in read_parquet(part)]


def digest_of(folder: Path) -> str:
    return json.loads((folder / "_SUCCESS").read_text())["digest"]


# --- a job ----------------------------------------------------------------------------------------------------------


def test_a_job_has_a_row_for_every_image_in_order(undisturbed, photos):
    rows = rows_of(undisturbed)
    assert [row["path"] for row in rows] == [str(photos / f"{number:03d}.png") for number in range(COUNT)]
    for number, row in enumerate(rows):
        assert row["label"] == (None if number % 7 == 3 else COLOURS[number % 3])
        assert row["reason"] == ("not_an_image" if number % 7 == 3 else None)


def test_other_readers_see_the_rows_and_nothing_else(undisturbed):
    assert pyarrow.dataset.dataset(undisturbed, format="parquet").count_rows() == COUNT


def test_success_tells_the_totals(undisturbed):
    told = json.loads((undisturbed / "_SUCCESS").read_text())
    assert (told["rows"], told["refused"], told["per_reason"]) == (COUNT, 13, {"not_an_image": 13})
    assert sum(told["per_label"].values()) == COUNT - 13
    assert told["digest"] == rows_digest(0, rows_of(undisturbed))


@pytest.mark.parametrize("form", [".parquet", ".csv", ".jsonl"])
def test_one_file_has_the_same_rows_and_nothing_stays_beside_it(model, photos, undisturbed, tmp_path, form):
    output = tmp_path / f"rows{form}"
    summary = predict(model, [str(photos)], PredictConfig(output=str(output), shard_rows=16))
    assert summary.digest == digest_of(undisturbed)
    assert list(tmp_path.iterdir()) == [output]
    if form == ".parquet":
        assert read_parquet(output) == rows_of(undisturbed)
    if form == ".jsonl":
        assert list(map(json.loads, output.read_text().splitlines())) == rows_of(undisturbed)


@pytest.mark.parametrize("settings", [{"workers": 1}, {"workers": 3}, {"workers": 0}, {"shard_rows": 1000}])
def test_digest_depends_on_neither_workers_nor_parts(model, photos, undisturbed, tmp_path, settings):
    summary = predict(model, [str(photos)], config_for(tmp_path / "rows", **settings))
    assert summary.digest == digest_of(undisturbed)


def test_a_job_that_is_done_is_told_and_not_made_again(model, photos, tmp_path):
    first = predict(model, [str(photos)], config_for(tmp_path / "rows"))
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").glob("part-*")}
    again = predict(model, [str(photos)], config_for(tmp_path / "rows"))
    assert (again.resumed, again.digest, again.per_label) == (COUNT, first.digest, first.per_label)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


def test_streams_have_the_rows_of_jobs(model, photos, undisturbed):
    result = CliRunner().invoke(app, ["predict", str(model.folder), str(photos)])
    assert list(map(json.loads, result.stdout.splitlines())) == rows_of(undisturbed)


def test_a_few_images_start_no_process(model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    few = [str(path) for path in sorted(photos.iterdir())[:20]]
    assert predict(model, few, PredictConfig(output=str(tmp_path / "rows.csv"))).images == 20
    assert predict(model, few, config_for(tmp_path / "rows")).images == 20


# --- interruptions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["", ".parquet"])
def test_killed_again_and_again_it_gives_the_same(model, photos, undisturbed, tmp_path, monkeypatch, form):
    """The parent is cut off before each commit in turn, as a kill would; its rows of that moment are lost."""
    output = tmp_path / f"rows{form}"
    config = config_for(output) if not form else PredictConfig(output=str(output), shard_rows=16)
    commit = Journal.commit
    for lives in range(5):
        left = iter(range(lives))

        def dying(journal, *arguments, left=left):
            if next(left, None) is None:
                raise SystemExit(9)
            commit(journal, *arguments)

        monkeypatch.setattr(Journal, "commit", dying)
        with contextlib.suppress(SystemExit):  # the last time it may get through
            predict(model, [str(photos)], config)
    monkeypatch.setattr(Journal, "commit", commit)
    summary = predict(model, [str(photos)], config)
    assert summary.digest == digest_of(undisturbed)
    assert summary.images == COUNT


def test_resumed_rows_are_counted(model, photos, tmp_path, monkeypatch):
    _interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        predict(model, [str(photos)], config_for(tmp_path / "rows"))
    monkeypatch.undo()
    assert not (tmp_path / "rows" / "_SUCCESS").exists()
    summary = predict(model, [str(photos)], config_for(tmp_path / "rows"))
    assert (summary.resumed, summary.images) == (32, COUNT)


def _interrupt_after(monkeypatch, parts: int) -> None:
    commit, made = Journal.commit, itertools.count(1)

    def interrupting(journal, *arguments):
        commit(journal, *arguments)
        if next(made) == parts:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "commit", interrupting)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_stop_it_keeps_what_is_done(model, photos, undisturbed, tmp_path, number):
    """Nothing was committed yet when the signal comes, and yet nothing that was classified is lost."""
    code = (
        "import itertools, os, signal, sys\n"
        "from edgetl.cli import main\n"
        "from edgetl.stream import run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whoever runs tests may ignore them
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "original, seen, number = run.predictions, itertools.count(1), int(sys.argv.pop())\n"
        "def signalled(batch, network):\n"
        "    if next(seen) == 3:\n"
        "        os.kill(os.getpid(), number)\n"
        "    return original(batch, network)\n"
        "run.predictions = signalled\n"
        "main()"
    )
    command = ["predict", model.folder, photos, "-o", f"{tmp_path}/rows/", "--shard-rows", 1000, int(number)]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, "Run the command again" in done.stderr) == (130, True), done.stderr
    summary = predict(model, [str(photos)], config_for(tmp_path / "rows", shard_rows=1000))
    assert 48 <= summary.resumed < COUNT
    assert summary.digest == digest_of(undisturbed)


def test_interrupted_command_has_its_exit_code(model, photos, tmp_path, monkeypatch):
    _interrupt_after(monkeypatch, 2)
    output = ["-o", f"{tmp_path}/rows/", "--shard-rows", "16"]
    result = CliRunner().invoke(app, ["predict", str(model.folder), str(photos), *output])
    assert result.exit_code == 130
    assert "Run the command again" in result.stderr


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(model, photos, tmp_path, monkeypatch) -> Path:
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            predict(model, [str(photos)], config_for(tmp_path / "rows"))
    return tmp_path / "rows"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"top": 2}, "top was 1, is 2"),
        ({"batch": 4}, "batch was 16, is 4"),
        ({"probabilities": True}, "probabilities was False, is True"),
        ({"timeout": 5}, "timeout was 30 s, is 5 s"),
        ({"exact_decoding": True}, "exact decoding was False, is True"),
    ],
)
def test_other_settings_are_another_job(model, photos, begun, settings, told):
    with pytest.raises(UsageError, match=told):
        predict(model, [str(photos)], config_for(begun, **settings))


def test_other_images_are_another_job(model, photos, begun):
    with pytest.raises(UsageError, match="images was"):
        predict(model, [str(photos / "*.png")], config_for(begun))


def test_another_network_is_another_job(photos, begun, model, tmp_path):
    other = add_onnx(make_tiny_model(tmp_path / "other"), Precision.FP32, tiny_onnx(sharpness=9))
    with pytest.raises(UsageError, match="its SHA-256 was"):
        predict(other, [str(photos)], config_for(begun))


def test_another_plan_is_refused(model, photos, begun):
    plan = begun / "_plan.parquet"
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    with pytest.raises(StorageError, match="not the plan"):
        predict(model, [str(photos)], config_for(begun))


def test_damaged_job_file_is_refused(model, photos, begun):
    (begun / "_job.json").write_text("{")
    with pytest.raises(StorageError, match="cannot be read"):
        predict(model, [str(photos)], config_for(begun))


def test_two_at_once_are_refused(model, photos, begun):
    with sole_writer(begun), pytest.raises(UsageError, match="Another edgetl predict"):
        predict(model, [str(photos)], config_for(begun))


def test_one_that_was_killed_and_is_not_dead_yet_is_waited_for(model, photos, begun):
    dying = contextlib.ExitStack()
    dying.enter_context(sole_writer(begun))
    death = threading.Timer(0.3, dying.close)
    death.start()
    predict(model, [str(photos)], config_for(begun))
    death.join()
    assert (begun / "_SUCCESS").is_file()


def test_a_folder_with_other_files_takes_no_job(model, photos, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.txt"):
        predict(model, [str(photos)], config_for(tmp_path))


def test_nothing_found_leaves_nothing(model, tmp_path):
    with pytest.raises(DataError):
        predict(model, [str(tmp_path / "*.png")], config_for(tmp_path / "rows"))
    assert not (tmp_path / "rows").exists()


# --- the journal ----------------------------------------------------------------------------------------------------


def _row(number: int) -> dict:
    return {
        "path": f"{number}.png", "status": "ok", "reason": None, "detail": None, "label": "red",
        "probability": 0.5, "top": [],
    }  # fmt: skip


def _journal(folder: Path, parts: int) -> Journal:
    folder.mkdir(exist_ok=True)
    journal = Journal(folder)
    for part in range(parts):
        journal.commit(part * 4, [_row(part * 4 + offset) for offset in range(4)], ())
    return journal


def test_any_damage_to_the_log_costs_rows_and_nothing_else(tmp_path):
    """The log is cut and flipped at every byte; what is read is always a beginning of what was written."""
    _journal(tmp_path / "job", 3).close()
    log = tmp_path / "job" / "_commits.log"
    whole = log.read_bytes()
    damaged = [whole[:size] for size in range(0, len(whole), 3)]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 9)]
    for content in damaged:
        log.write_bytes(content)
        read_back = [part.first for part in _read_log(log)]
        assert read_back == [0, 4, 8][: len(read_back)]


def test_a_part_that_is_not_in_the_log_is_deleted(tmp_path):
    journal = _journal(tmp_path / "job", 3)
    journal.close()
    log = tmp_path / "job" / "_commits.log"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]) + b"torn li")
    again = Journal(tmp_path / "job")
    assert again.missing(12) == [range(8, 12)]
    assert len(list((tmp_path / "job").glob("part-*"))) == 2
    assert b"torn" not in log.read_bytes()
    again.commit(8, [_row(8)], ())
    again.close()
    assert Journal(tmp_path / "job").missing(12) == [range(9, 12)]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PAR1")])
def test_a_damaged_part_is_made_again(tmp_path, damage):
    _journal(tmp_path / "job", 3).close()
    damage(tmp_path / "job" / "part-000000000004.parquet")
    journal = Journal(tmp_path / "job")
    assert (journal.dropped, journal.missing(12)) == (1, [range(4, 8)])


def test_gaps_are_filled_in_a_whole_job(model, photos, undisturbed, tmp_path):
    predict(model, [str(photos)], config_for(tmp_path / "rows"))
    digest = digest_of(tmp_path / "rows")
    for name in ("part-000000000016.parquet", "part-000000000064.parquet"):
        (tmp_path / "rows" / name).write_bytes(b"rot")
    summary = predict(model, [str(photos)], config_for(tmp_path / "rows"))
    assert (summary.resumed, summary.digest) == (COUNT - 32, digest)


@given(st.lists(st.integers(0, 5), max_size=8))
def test_digest_is_that_of_the_rows_in_their_order(cuts):
    rows = [_row(number) for number in range(12)]
    whole = rows_digest(0, rows)
    edges = sorted({0, 12, *(cut * 2 for cut in cuts)})
    parts = [int(rows_digest(low, rows[low:high]), 16) for low, high in itertools.pairwise(edges)]
    assert f"{sum(parts) % 2**256:064x}" == whole
    assert rows_digest(0, rows[::-1]) != whole


# --- disks ----------------------------------------------------------------------------------------------------------


def test_full_disk_keeps_what_is_committed_and_says_what_is_needed(model, photos, tmp_path, monkeypatch):
    def full(_path, _rows, _extras):
        if (tmp_path / "rows" / "part-000000000016.parquet").exists():
            raise OSError(28, "No space left on device")
        return original(_path, _rows, _extras)

    original = journal.write_parquet
    monkeypatch.setattr(journal, "write_parquet", full)
    with pytest.raises(StorageError, match="the disk is full; 32 of 90 rows are safe") as raised:
        predict(model, [str(photos)], config_for(tmp_path / "rows"))
    assert "MB" in raised.value.fix
    monkeypatch.undo()
    assert predict(model, [str(photos)], config_for(tmp_path / "rows")).resumed == 32


@pytest.mark.parametrize("form", [".parquet", ".csv"])
def test_full_disk_at_the_very_end_keeps_all_rows(model, photos, undisturbed, tmp_path, monkeypatch, form):
    output = tmp_path / f"rows{form}"
    original = rows._opened
    with monkeypatch.context() as patch:
        patch.setattr(rows, "_opened", lambda form, _path, extras: original(form, Path("/dev/full"), extras))
        with pytest.raises(StorageError, match="the disk is full; all 90 rows are safe") as raised:
            predict(model, [str(photos)], PredictConfig(output=str(output), shard_rows=16))
    assert "MB more are needed" in raised.value.fix
    summary = predict(model, [str(photos)], PredictConfig(output=str(output), shard_rows=16))
    assert (summary.resumed, summary.digest) == (COUNT, digest_of(undisturbed))
    assert list(tmp_path.iterdir()) == [output]


# --- images that fight back -----------------------------------------------------------------------------------------


@pytest.fixture
def weak_decoders(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{killers.site_folder(tmp_path / 'site')}:{Path(__file__).parents[1]}")


def test_poison_costs_its_own_row(model, tmp_path, weak_decoders):
    folder = tmp_path / "poison"
    poison = {
        10: b"SEGFAULT",
        20: b"KILL",
        30: b"ABORT",
        40: b"HANG",
        50: b"BLOAT",
        70: b"SEGFAULT",
        71: b"ABORT",
    }
    for number in range(COUNT):
        path = make_image(folder / f"{number:03d}.png", COLOURS[number % 3], number)
        if number in poison:
            path.write_bytes(poison[number])
    predict(model, [str(folder)], config_for(tmp_path / "rows", timeout=2, memory="1GiB"))
    rows = rows_of(tmp_path / "rows")
    assert len(rows) == COUNT
    refused = {number: row["reason"] for number, row in enumerate(rows) if row["label"] is None}
    assert refused == {
        10: "crashed", 20: "crashed", 30: "crashed", 40: "timeout", 50: "too_large", 70: "crashed", 71: "crashed",
    }  # fmt: skip
    assert "SIGSEGV" in rows[10]["detail"]


def test_a_bug_in_a_decoder_is_not_taken_for_a_bad_image(model, tmp_path, weak_decoders):
    for number in range(COUNT):
        make_image(tmp_path / "photos" / f"{number:03d}.png", "red", number)
    (tmp_path / "photos" / "050.png").write_bytes(b"BUG")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        predict(model, [str(tmp_path / "photos")], config_for(tmp_path / "rows"))


def test_decoders_end_with_their_parent(model, photos, tmp_path):
    code = (
        "import os, pathlib, signal, sys\n"
        "from edgetl.stream.journal import Journal\n"
        "def die(*_):\n"
        "    listed = pathlib.Path('/proc/self/task').glob('*/children')\n"
        "    pathlib.Path(os.environ['CHILDREN']).write_text(' '.join(each.read_text() for each in listed))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Journal.commit = die\n"
        "from edgetl.cli import main\nmain()"
    )
    output = ["-o", f"{tmp_path}/rows/", "--shard-rows", "16", "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", str(model.folder), str(photos), *output],
        env=os.environ | {"CHILDREN": str(tmp_path / "children")}, check=False, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    children = [int(child) for child in (tmp_path / "children").read_text().split()]
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while any(map(_is_decoder, children)) and time.monotonic() < deadline:
        os.sched_yield()
    assert not any(map(_is_decoder, children))


def _is_decoder(process: int) -> bool:
    try:
        return b"edgetl.stream.worker" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


# --- sources --------------------------------------------------------------------------------------------------------


def items(*names: object, column: str | None = None):
    return list(items_of(inputs_of([str(name) for name in names], column)))


def test_zip_and_tar_without_unpacking(model, photos, undisturbed, tmp_path):
    files = sorted(photos.iterdir())
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for path in files[:45]:
            packed.write(path, path.name)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as stored, tarfile.open(tmp_path / "c.tar", "w") as tape:
        for path in files[45:70]:
            stored.write(path, f"folder/{path.name}")
        for path in files[70:]:
            tape.add(path, path.name)
    archives = [tmp_path / name for name in ("a.zip", "b.zip", "c.tar")]
    predict(model, list(map(str, archives)), config_for(tmp_path / "rows"))
    rows, expected = rows_of(tmp_path / "rows"), rows_of(undisturbed)
    assert [row | {"path": ""} for row in rows] == [row | {"path": ""} for row in expected]
    assert rows[0]["path"] == f"{tmp_path}/a.zip!000.png"
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "b.zip", "c.tar", "rows"}


def test_hostile_names_in_archives_are_labels_only(tmp_path):
    png = make_image(tmp_path / "x.png", "red").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for name in ("../../etc/evil.png", "/abs.png", ".hidden.png", "text.txt", "folder/"):
            packed.writestr(name, png)
    with tarfile.open(tmp_path / "b.tar", "w") as tape:
        for name, kind in (
            ("../evil.png", tarfile.REGTYPE),
            ("link.png", tarfile.SYMTYPE),
            ("p.png", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(png) if kind == tarfile.REGTYPE else 0
            info.linkname = "/etc/passwd"
            tape.addfile(info, io.BytesIO(png))
    found = items(tmp_path / "a.zip", tmp_path / "b.tar")
    assert [item.path.split("!")[1] for item in found] == [
        "../../etc/evil.png", "/abs.png", "../evil.png", "link.png", "p.png",
    ]  # fmt: skip
    assert [read(item) == png for item in found] == [True, True, True, False, False]
    assert read(found[3]).reason is Refusal.UNSUPPORTED_FORMAT


def test_bombs_in_archives_are_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("bomb.png", bytes(3 * 2**20))
        packed.writestr("liar.png", bytes(2**20))
    bomb, liar = items(tmp_path / "a.zip")
    assert read(replace(bomb, size=2**40)).reason is Refusal.TOO_LARGE
    assert read(replace(liar, size=100)).reason is Refusal.CORRUPT
    assert read(replace(liar, check=1)).reason is Refusal.CORRUPT
    assert read(replace(liar, packed=10**7)).reason is Refusal.TRUNCATED
    assert len(read(bomb)) == 3 * 2**20


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.parquet"])
def test_damaged_containers_are_data_errors(tmp_path, name):
    (tmp_path / name).write_bytes(b"not what it says" * 100)
    with pytest.raises(DataError, match=name):
        items(tmp_path / name)


def test_tables_of_paths(tmp_path):
    make_image(tmp_path / "red.png", "red")
    (tmp_path / "a.csv").write_text("label,path\nx,red.png\ny,absent.png\nz,\n")
    pyarrow.parquet.write_table(pa.table({"where": ["red.png", None]}), tmp_path / "b.parquet")
    found = items(tmp_path / "a.csv")
    assert [item.path for item in found] == [
        str(tmp_path / name) for name in ("red.png", "absent.png", "a.csv#2")
    ]
    assert items(tmp_path / "b.parquet", column="where")[0].path == str(tmp_path / "red.png")
    with pytest.raises(UsageError, match="--column: where"):
        items(tmp_path / "b.parquet")
    with pytest.raises(UsageError, match="no column 'size'"):
        items(tmp_path / "a.csv", column="size")


@pytest.mark.parametrize("form", ["bytes", "record"])
def test_tables_of_images(model, photos, undisturbed, tmp_path, form):
    content = [path.read_bytes() for path in sorted(photos.iterdir())]
    values = content if form == "bytes" else [{"bytes": each, "path": None} for each in content]
    table = pa.table({"image": values})
    pyarrow.parquet.write_table(table, tmp_path / "images.parquet", row_group_size=13)
    config = config_for(tmp_path / "rows", workers=2)
    predict(model, [str(tmp_path / "images.parquet")], config)
    rows = rows_of(tmp_path / "rows")
    assert [row | {"path": ""} for row in rows] == [row | {"path": ""} for row in rows_of(undisturbed)]
    (tmp_path / "rows" / "part-000000000032.parquet").unlink()
    assert predict(model, [str(tmp_path / "images.parquet")], config).digest == digest_of(tmp_path / "rows")


def test_changed_images_are_refused_when_a_job_goes_on(model, tmp_path, monkeypatch):
    for number in range(COUNT):
        make_image(tmp_path / "photos" / f"{number:03d}.png", "red", number)
    _interrupt_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        predict(model, [str(tmp_path / "photos")], config_for(tmp_path / "rows"))
    monkeypatch.undo()
    make_image(tmp_path / "photos" / "080.png", "blue", 80, side=30)
    (tmp_path / "photos" / "081.png").unlink()
    make_image(tmp_path / "photos" / "999.png", "blue", 999)
    predict(model, [str(tmp_path / "photos")], config_for(tmp_path / "rows"))
    rows = rows_of(tmp_path / "rows")
    assert len(rows) == COUNT
    assert [rows[number]["reason"] for number in (79, 80, 81)] == [None, "changed", "missing"]


def test_plan_keeps_any_name(tmp_path):
    names = [os.fsdecode(bytes([byte])) + ".png" for byte in range(1, 256) if byte not in b"./"]
    for name in names:
        (tmp_path / "photos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"x")
    planned = items(tmp_path / "photos")
    assert [os.fsencode(item.path) for item in planned] == sorted(os.fsencode(item.path) for item in planned)
    assert len(planned) == len(names)
    plan = write_plan(tmp_path / "plan.parquet", planned)
    count, sha256 = plan.rows, plan.sha256
    assert count == len(names)
    assert list(read_plan(tmp_path / "plan.parquet", sha256, [range(count)])) == list(enumerate(planned))
    some = [range(3, 7), range(100, 101)]
    assert [number for number, _ in read_plan(tmp_path / "plan.parquet", sha256, some)] == [3, 4, 5, 6, 100]


# --- columns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [".parquet", ".csv", ".jsonl"])
def test_probabilities_and_embeddings(model, photos, tmp_path, form):
    few = [str(path) for path in sorted(photos.iterdir())[:5]]
    output = tmp_path / f"rows{form}"
    predict(model, few, PredictConfig(output=str(output), probabilities=True, embeddings=True))
    match form:
        case ".parquet":
            rows = read_parquet(output)
        case ".jsonl":
            rows = list(map(json.loads, output.read_text().splitlines()))
        case _:
            rows = [
                row | {name: json.loads(row[name] or "null") for name in ("probabilities", "embedding")}
                for row in csv.DictReader(io.StringIO(output.read_bytes().decode(), newline=""))
            ]
    assert (rows[3]["probabilities"], rows[3]["embedding"]) == (None, None)
    assert max(rows[0]["probabilities"]) == pytest.approx(float(rows[0]["probability"]))
    assert sum(rows[0]["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert len(rows[0]["embedding"]) == 3  # the tiny network's means of red, green and blue
    assert rows[0]["embedding"][0] > rows[0]["embedding"][2]


# --- limits ---------------------------------------------------------------------------------------------------------


@given(st.integers(600, 64_000), st.integers(1, 64))
def test_memory_is_never_promised_twice(mebibytes, workers):
    limits = limits_of(mebibytes * 2**20, workers)
    assert 1 <= limits.workers <= workers
    assert limits.workers * (limits.decoder_bytes + 64 * 2**20) + 384 * 2**20 <= mebibytes * 2**20


def test_too_little_memory_is_told(model, photos, tmp_path):
    with pytest.raises(UsageError, match="--memory 576MiB"):
        predict(model, [str(photos)], config_for(tmp_path / "rows", memory="300MiB"))


@given(st.integers(1, 4096), st.integers(1, 3_000_000))
def test_shared_memory_holds_whole_batches(batch, image_bytes):
    slots = slots_of(batch, image_bytes)
    assert slots % batch == 0
    assert slots >= 2 * batch


def test_folder_outputs_are_told_from_files(tmp_path):
    assert jobs.folder_of("-") is None
    assert jobs.folder_of("rows.csv") == Path("rows.csv.partial")
    assert jobs.folder_of("rows/") == Path("rows")
    assert Kind("cell") is Kind.CELL


# --- tuning ---------------------------------------------------------------------------------------------------------


def test_what_tuning_finds_is_remembered_for_this_file(model, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGETL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "_SECONDS", 0.01)
    predict(model, [str(photos)], config_for(tmp_path / "rows", tune=True))
    (artifact,) = model.card.artifacts
    found = tuning.remembered(artifact.sha256)
    assert found is not None
    assert json.loads((tmp_path / "rows" / "_job.json").read_text())["batch"] == found.batch
    assert tuning.remembered("0" * 64) is None
    tuning.remember("0" * 64, tuning.Tuned(8, 1, 1))
    assert tuning.remembered(artifact.sha256) == found
    predict(model, [str(photos)], config_for(tmp_path / "again"))
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "rows")
    (tmp_path / "cache" / "tuned.json").write_text("{")
    assert tuning.remembered(artifact.sha256) is None


@pytest.mark.parametrize(
    ("speeds", "best"),
    [
        ({1: 10.0, 2: 10.2, 4: 20.0}, 4),
        ({1: 99.0, 2: 100.0, 4: 98.0}, 1),
        ({(1, 1): 1.0, (2, 1): 2.0}, (2, 1)),
    ],
)
def test_the_smallest_of_the_fastest_is_chosen(speeds, best):
    assert tuning._smallest_of_the_fastest(speeds) == best


# --- clusters -------------------------------------------------------------------------------------------------------


def test_a_cluster_writes_folders_only(model, photos, tmp_path):
    with pytest.raises(UsageError, match="folder of parts"):
        predict(model, [str(photos)], PredictConfig(output=str(tmp_path / "a.csv"), engine=BatchEngine.RAY))


def test_without_ray_the_extra_is_named(model, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "edgetl.stream.on_ray", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "edgetl.stream.on_ray")
    with pytest.raises(MissingExtra, match=r"edgetl\[ray\]"):
        predict(model, [str(photos)], config_for(tmp_path / "rows", engine=BatchEngine.RAY))


@pytest.mark.parametrize("port", [None, 99999])
def test_no_cluster_is_told_at_once(model, photos, tmp_path, port):
    pytest.importorskip("ray")
    if port is None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
    config = config_for(tmp_path / "rows", engine=BatchEngine.RAY, address=f"127.0.0.1:{port}")
    with pytest.raises(UsageError, match="no Ray cluster"):
        predict(model, [str(photos)], config)
    other = predict(model, [str(photos)], config_for(tmp_path / "rows", top=1))
    assert other.images > 0, "a job that could not begin has not taken the folder"
