"""The README tells the truth: its quick commands run as shown, its commands exist, its links lead somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgetl.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
SLOW = ("train", "export", "demo")  # tests/test_real_vgg16.py runs these


def console_commands() -> list[tuple[str, str]]:
    """(command, shown output) of every `$ edgetl ...` line."""
    found = []
    for language, block in BLOCKS:
        if language == "console":
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                found.append((command.split("  #")[0].strip(), output.rstrip()))
    return [(command, output) for command, output in found if command.startswith("edgetl ")]


QUICK = [
    pytest.param(command, output, id=command.split()[1])
    for command, output in console_commands()
    if command.split()[1] not in SLOW and "runs/" not in command
]


@pytest.mark.parametrize(("command", "shown"), QUICK)
def test_quick_commands_print_what_the_readme_shows(command, shown, tmp_path):
    shutil.copytree(ROOT / "models", tmp_path / "models")  # verify writes into its card
    (tmp_path / "edgetl").symlink_to(ROOT / "edgetl")
    words = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for line in shown.splitlines():
        assert without_figures(line) in without_figures(done.stdout), f"not printed: {line}"


def without_figures(text: str) -> str:
    """Text with speeds, differences and column widths evened out: they depend on the machine."""
    return re.sub(r"[ ]+", " ", re.sub(r"[-+]?\d+(\.\d+)?(e[-+]\d+)?", "#", text)).strip()


def test_there_are_quick_commands():
    assert {command.values[0].split()[1] for command in QUICK} >= {"predict", "verify", "data"}


def test_python_block_runs(tmp_path):
    (code,) = [block for language, block in BLOCKS if language == "python"]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "ok flag" in done.stdout
    assert "README.md refused None None" in done.stdout


def test_every_command_is_in_the_table_and_exists():
    named = set(re.findall(r"^\| `edgetl (\w+)", README, re.MULTILINE))
    assert named == set(COMMANDS)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"[`$] ?make (\w+)", README)
    assert {"demo", "test", "setup"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "deploy/README.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in link:
            assert (ROOT / page).parent.joinpath(link).exists(), link


def test_nothing_is_left_to_fill_in():
    assert not re.findall(r"\b[A-Z]+_[A-Z0-9]+\b|\bMEASURED\b", re.sub(r"`[^`]*`", "", README))


@pytest.mark.parametrize("runner", ["run_onnx.py", "run_tflite.py"])
def test_runners_for_devices_agree_with_predict(runner, tmp_path):
    suffix = "onnx" if "onnx" in runner else "tflite"
    images = sorted((ROOT / "edgetl/samples/noto/test").glob("*/*.png"))[::40]
    file = ROOT / f"models/demo/model_int8.{suffix}"
    command = [sys.executable, str(ROOT / "deploy" / runner), str(file), *map(str, images)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    import edgetl
    from edgetl.config import PredictConfig

    rows = edgetl.open(ROOT / "models/demo").predict(images, PredictConfig(artifact=f"{suffix}-int8"))
    expected = [(str(row.path), row.label, row.probability) for row in rows]
    printed = [re.fullmatch(r"(.*): (\S+) ([\d.]+)", line) for line in done.stdout.splitlines()]
    assert [(m[1], m[2]) for m in printed] == [(path, label) for path, label, _ in expected]
    assert [float(m[3]) for m in printed] == pytest.approx([p for _, _, p in expected], abs=2e-4)
