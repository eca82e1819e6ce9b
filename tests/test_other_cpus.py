"""Other CPUs: the same subset, the same arithmetic, nothing computed twice, and figures that say what happened.

What needs an emulator is only a test where there is one: see docs/other-cpus.md about EDGETL_QEMU.
"""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgetl.card import Model
from edgetl.config import Format, Precision, VerifyConfig
from edgetl.engines import classifier_of, run_batches
from edgetl.engines.embedding import with_embedding
from edgetl.engines.onnx import SUMS, SUMS_FIT
from edgetl.errors import CheckFailed, EdgetlError, ModelFolderError, UsageError

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "models" / "demo"
CHILD = ROOT / "benchmarks" / "other_cpus_child.py"
FILES = {"onnx": "model_int8.onnx", "tflite": "model_int8.tflite"}
each_engine = pytest.mark.parametrize("engine", FILES)


@pytest.fixture(scope="module", autouse=True)
def benchmarks_can_be_imported():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """The images that travel with the demo model, and the file that holds them."""
    path = tmp_path_factory.mktemp("pixels") / "pixels.npy"
    with np.load(DEMO / "reference.npz") as reference:
        np.save(path, reference["pixels"])
    return path


def child(engine, pixels, output, batch):
    """The command that runs the demo's file here."""
    command = (sys.executable, CHILD, engine, DEMO / FILES[engine], pixels, output, "--batch", batch)
    return [str(part) for part in command]


def own_answers(engine, pixels, batch):
    content = (DEMO / FILES[engine]).read_bytes()
    return run_batches(classifier_of(content, Format(engine), Precision.INT8, 1), np.load(pixels), batch, "")


def batches_in(output):
    return sorted(output.glob("*.npy"))


@each_engine
def test_the_child_answers_exactly_as_the_engine_does(engine, pixels, tmp_path):
    done = subprocess.run(child(engine, pixels, tmp_path, 12), capture_output=True, text=True, check=True)
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == [
        f"  {count} of 32 images" for count in (12, 24, 32)
    ]
    found = np.concatenate([np.load(path) for path in batches_in(tmp_path)])
    assert found.dtype == np.float32
    assert np.array_equal(found, own_answers(engine, pixels, 12))


@each_engine
def test_a_run_that_is_cut_off_goes_on(engine, pixels, tmp_path):
    with subprocess.Popen(child(engine, pixels, tmp_path, 1), stdout=subprocess.PIPE, text=True) as running:
        running.stdout.readline()
        running.kill()
    (tmp_path / "000031-000032.part").write_bytes(b"half a file")
    (tmp_path / "000031-000032.npy").unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in batches_in(tmp_path)}
    assert before
    done = subprocess.run(child(engine, pixels, tmp_path, 1), capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 32 - len(before)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in batches_in(tmp_path)}.items()
    found = np.concatenate([np.load(path) for path in batches_in(tmp_path)])
    assert np.array_equal(found, own_answers(engine, pixels, 1))


def test_the_child_needs_nothing_of_ours():
    """Not even where edgetl is installed: it is read for a device that has only numpy and an engine."""
    text = CHILD.read_text()
    assert "import edgetl" not in text
    assert "from edgetl" not in text


def test_the_subset_is_the_same_every_time_and_a_larger_one_holds_it():
    from other_cpus import draw

    model = Model.open(DEMO)
    few, again, more, everything = (draw(model, VerifyConfig(), images) for images in (20, 20, 50, 0))
    assert len(everything.labels) == everything.available == 232
    assert np.array_equal(few.pixels, again.pixels)
    for name in ("pixels", "labels", "reference"):
        assert np.array_equal(getattr(few, name), getattr(more, name)[:20])
        assert np.array_equal(getattr(more, name), getattr(everything, name)[:50])
    assert len(set(few.labels.tolist())) > 5  # not the first class and the second


def test_a_subset_of_less_than_nothing_is_refused():
    from other_cpus import draw

    with pytest.raises(UsageError, match="--images"):
        draw(Model.open(DEMO), VerifyConfig(), -1)


def test_without_names_the_int8_files_are_taken():
    from other_cpus import files_of

    model = Model.open(DEMO)
    assert [artifact.name for artifact in files_of(model, None)] == ["onnx-int8", "tflite-int8"]
    assert [artifact.name for artifact in files_of(model, ["tflite-int8"])] == ["tflite-int8"]
    with pytest.raises(UsageError, match="onnx-int8, tflite-int8"):
        files_of(model, ["onnx-int4"])
    with pytest.raises(ModelFolderError, match="edgetl export"):
        files_of(replace(model, card=replace(model.card, artifacts=())), None)


def test_figures_are_those_of_the_paired_test():
    from other_cpus import compare

    labels = np.zeros(400, np.int64)
    before = np.tile(np.float32([0.75, 0.25]), (400, 1))
    after = before.copy()
    before[:3] = [0.25, 0.75]  # wrong before, right after
    after[3:8] = [0.25, 0.75]  # the other way around
    found = compare(before, after, labels, 1.0)
    assert (found.harmful, found.helpful, found.agreement) == (5, 3, 392 / 400)
    assert found.drop_points == pytest.approx(0.5)
    assert found.drop_points < found.drop_upper_points < 3
    assert found.max_difference == 0.5
    assert found.verdict == "undecided"
    assert found.more_images > 0
    same = compare(before, before, labels, 1.0)
    assert (same.verdict, same.more_images, same.max_difference) == ("pass", 0, 0)


@pytest.mark.parametrize("wrong", [np.full((4, 2), np.nan, np.float32), np.ones((3, 2), np.float32)])
def test_answers_that_are_no_probabilities_are_refused(wrong):
    from other_cpus import compare

    with pytest.raises(CheckFailed, match="probabilities"):
        compare(np.ones((4, 2), np.float32), wrong, np.zeros(4, np.int64), 1.0)


def test_the_wrong_cpu_is_noticed():
    from other_cpus import check_seen
    from other_cpus_emulator import CPUS, Emulated

    haswell = Emulated(CPUS["haswell"], (), {}, "")
    check_seen({"machine": "x86_64", "features": ["AVX", "AVX2"]}, haswell)
    for machine, features in (("x86_64", ["AVX2", "AVX512F"]), ("x86_64", ["AVX"]), ("aarch64", ["AVX2"])):
        with pytest.raises(CheckFailed, match="Haswell"):
            check_seen({"machine": machine, "features": features}, haswell)


@pytest.fixture
def plain(monkeypatch):
    """In place of emulators: this machine under another name."""
    import other_cpus
    from other_cpus_emulator import Cpu, Emulated

    cpu = Cpu("plain", "no other CPU at all", platform.machine(), "none", (), ())
    emulated = Emulated(cpu, (sys.executable,), dict(os.environ), "qemu 0")
    monkeypatch.setattr(other_cpus, "set_up", lambda _folder, _cpus: [emulated])
    return emulated


def test_the_whole_way_and_nothing_twice(plain, tmp_path, capfd):
    from other_cpus import main

    def run(*more: str) -> str:
        assert main([str(tmp_path), str(DEMO), "--only-print", *more]) == 5  # so few images decide nothing
        return capfd.readouterr().out

    def computed(said: str) -> int:
        """Batches."""
        return sum(line.startswith("  ") for line in said.splitlines())

    first = run("--images", "16")
    assert "demo: 16 of 232 certification images" in first
    for file in ("onnx-int8", "tflite-int8"):
        assert f"| demo | {file} | this machine (" in first
        # equal to the last bit, and with no drop, in the table against this machine
        assert f"| demo | {file} | no other CPU at all | 16 | 100.0 % | 0 | 0 | +0.00 |" in first
    assert first.count("| 0 |\n") == 2  # no probability differs at all
    assert "speed means nothing" in first
    assert computed(first) == 4  # two batches of two files
    assert computed(run("--images", "16")) == 0
    assert computed(run("--images", "24")) == 2
    assert run("--images", "24", "--artifact", "onnx-int8").count("tflite-int8") == 0


def test_answers_of_other_files_and_cpus_are_not_mixed_up(plain):
    from other_cpus import draw, key_of

    model, drawn = Model.open(DEMO), draw(Model.open(DEMO), VerifyConfig(), 8)
    onnx, tflite = model.card.artifacts
    others = [
        (onnx, plain, drawn),
        (tflite, plain, drawn),
        (replace(onnx, sha256="0" * 64), plain, drawn),
        (onnx, replace(plain, cpu=replace(plain.cpu, qemu="Haswell")), drawn),
        (onnx, replace(plain, made_of="qemu 1"), drawn),
        (onnx, replace(plain, cpu=replace(plain.cpu, as_it_comes=True)), drawn),
        (onnx, plain, replace(drawn, source="stored samples")),
    ]
    assert len({key_of(model, *other) for other in others}) == len(others)
    assert key_of(model, onnx, plain, drawn) == key_of(model, onnx, plain, draw(model, VerifyConfig(), 16))


def test_files_are_opened_as_the_engine_opens_them(plain):
    from other_cpus import session_options

    model = Model.open(DEMO)
    artifact = model.card.artifacts[0]
    exact = "session.x64quantprecision=1"
    assert session_options(model, artifact, plain) == (exact,)
    floats = (exact, "session.disable_quant_qdq=1")
    assert session_options(model, replace(artifact, precision=Precision.W8A32), plain) == floats
    assert session_options(model, artifact, replace(plain, cpu=replace(plain.cpu, as_it_comes=True))) == ()


@pytest.mark.parametrize(
    ("saturates", "says", "entries"),
    [
        (True, {}, ["1"]),
        (True, {SUMS: SUMS_FIT}, []),
        (True, {SUMS: "may be anything"}, ["1"]),
        (True, {"other": SUMS_FIT}, ["1"]),
        (False, {}, []),
        (False, {SUMS: SUMS_FIT}, []),
    ],
)
def test_sums_are_exact_where_they_would_saturate_and_fast_elsewhere(monkeypatch, saturates, says, entries):
    from edgetl.engines import onnx as engine

    model = Model.open(DEMO)
    file = onnx.load_model_from_string(model.read(model.card.artifacts[0]))
    described = {one.key: one.value for one in file.metadata_props}
    onnx.helper.set_model_props(file, described | says)
    content = file.SerializeToString()
    assert engine.sums_fit(content) == (says == {SUMS: SUMS_FIT})
    assert engine.sums_fit(with_embedding(content)[0]) == (says == {SUMS: SUMS_FIT})
    monkeypatch.setattr(engine, "int8_sums_may_saturate", lambda: saturates)
    opened = engine.session_of(content).get_session_options()
    found = []
    with suppress(RuntimeError):  # onnxruntime's for an entry that is not there
        found.append(opened.get_session_config_entry("session.x64quantprecision"))
    assert found == entries


def test_a_child_that_dies_is_reported_with_its_last_words(plain, tmp_path, monkeypatch, capsys):
    import other_cpus

    failing = tmp_path / "failing.py"
    failing.write_text("import sys; sys.exit('no such instruction')")
    monkeypatch.setattr(other_cpus, "CHILD", failing)
    assert other_cpus.main([str(tmp_path), str(DEMO), "--only-print", "--images", "8"]) == 1
    said = capsys.readouterr().err
    assert "no such instruction" in said
    assert "Finished batches are kept" in said


def test_a_verdict_of_fail_is_the_exit_code():
    from other_cpus import Row, compare, exit_code_of

    labels = np.zeros(300, np.int64)
    right, wrong = (np.tile(np.float32(row), (300, 1)) for row in ([1, 0], [0, 1]))
    passed, failed = compare(right, right, labels, 1.0), compare(right, wrong, labels, 1.0)
    undecided = compare(right[:9], right[:9], labels[:9], 1.0)
    assert (passed.verdict, failed.verdict, undecided.verdict) == ("pass", "fail", "undecided")
    rows = [Row("m", "onnx-int8", "cpu", 300, 1.0, found, None) for found in (passed, undecided, failed)]
    assert [exit_code_of(rows[:count]) for count in (1, 2, 3)] == [0, 5, 3]


def test_a_folder_is_made_once_and_never_half(tmp_path, capsys):
    from other_cpus_emulator import once

    made = []

    def build(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text(str(len(made)))

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise EdgetlError("The network is gone.")

    for recipe, content in (("a==1", "1"), ("a==1", "1"), ("a==2", "2")):
        assert (once(tmp_path / "site", recipe, build) / "file").read_text() == content
    with pytest.raises(EdgetlError, match="network"):
        once(tmp_path / "site", "a==3", fail)
    assert (once(tmp_path / "site", "a==2", build) / "file").read_text() == "2"
    assert not (once(tmp_path / "site", "a==3", build) / "half").exists()
    assert capsys.readouterr().out.count("making") == 4


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    import other_cpus_emulator

    with pytest.raises(EdgetlError, match=r"no-such-program is not on this machine.*Debian 12"):
        other_cpus_emulator.run(["no-such-program"], "")
    with pytest.raises(EdgetlError, match=r"(?s)ended with 1.*not today.*Try again"):
        other_cpus_emulator.run([sys.executable, "-c", "raise SystemExit('not today')"], "Try again.")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(UsageError, match=r"riscv64.*x86-64"):
        other_cpus_emulator.set_up(tmp_path, [])


if folder := os.environ.get("EDGETL_QEMU"):  # else there is nothing to test, and nothing is skipped

    @pytest.mark.slow
    def test_an_emulated_haswell_runs_the_shipped_files(tmp_path, capfd):
        from other_cpus import main

        (tmp_path / "qemu").symlink_to(Path(folder).resolve() / "qemu")
        assert main([str(tmp_path), str(DEMO), "--only-print", "--images", "4", "--cpu", "haswell"]) in {3, 5}
        lines = [line for line in capfd.readouterr().out.splitlines() if "Haswell) | 4 |" in line]
        assert len(lines) == 4  # two files in two tables
        # LiteRT sums exactly on every CPU, so the same file gives the same bits
        assert lines[-1].startswith("| demo | tflite-int8 |")
        assert lines[-1].endswith("| 0 |")
