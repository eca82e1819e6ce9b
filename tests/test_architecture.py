"""The shape of the code: small pieces, one place for each command, and nothing heavy before it is needed."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetl.cli import COMMANDS

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "edgetl").rglob("*.py"))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in MODULES}
each_module = pytest.mark.parametrize("name", TREES)

MOST_LINES = 350
LONGEST_FUNCTION = 60
LONG_FUNCTION = 30  # nine of ten are shorter
NEEDS_DOCSTRING = 8  # lines

Function = ast.FunctionDef | ast.AsyncFunctionDef
TRAINING = {
    "tensorflow", "tf_keras", "keras", "tf2onnx", "onnx", "sklearn", "scipy", "threadpoolctl", "h5py",
    "safetensors", "tensorflow_model_optimization",
}  # fmt: skip
ENGINES = {"numpy", "PIL", "onnxruntime", "pyarrow", "ai_edge_litert", "ai_edge_quantizer"}
DEVICE_STEPS = ("bench", "cache", "data", "doctor", "drift", "evaluate", "predict", "report", "verify")


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def length(function: Function) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def loaded_by(code: str) -> set[str]:
    """The packages, and modules of them, that a new Python has loaded after `code`."""
    names = "\nimport sys; print('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code + names], capture_output=True, text=True, check=True)
    modules = done.stdout.rpartition("LOADED ")[2].split()
    return set(modules) | {module.partition(".")[0] for module in modules}


@each_module
def test_modules_are_small_enough_to_read(name):
    assert len((ROOT / name).read_text().splitlines()) <= MOST_LINES


@each_module
def test_no_function_is_long(name):
    long = {function.name: length(function) for function in functions(TREES[name])}
    assert not {function: lines for function, lines in long.items() if lines > LONGEST_FUNCTION}


def test_nine_functions_of_ten_are_short():
    lengths = [length(function) for tree in TREES.values() for function in functions(tree)]
    assert statistics.quantiles(lengths, n=10)[-1] <= LONG_FUNCTION


@each_module
def test_modules_say_what_they_are(name):
    assert ast.get_docstring(TREES[name])


@each_module
def test_public_functions_that_are_not_obvious_are_explained(name):
    bodies = [TREES[name], *(node for node in TREES[name].body if isinstance(node, ast.ClassDef))]
    public = [
        node
        for body in bodies
        if not getattr(body, "name", "").startswith("_")
        for node in body.body
        if isinstance(node, Function) and not node.name.startswith("_")
    ]
    long = [function for function in public if length(function) > NEEDS_DOCSTRING]
    assert not [function.name for function in long if not ast.get_docstring(function)]


@each_module
def test_imports_are_absolute(name):
    assert not [node for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom) and node.level]


@each_module
def test_only_the_command_line_prints(name):
    if not name.startswith("edgetl/cli/"):
        calls = [node.func for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_one_name_and_three_places(command):
    name = "evaluate" if command == "eval" else command  # Python has its own eval
    for place in (f"edgetl/cli/{name}.py", f"edgetl/steps/{name}.py", f"tests/test_{name}.py"):
        assert (ROOT / place).is_file(), place


@pytest.mark.parametrize("folder", ["cli", "steps"])
def test_every_file_of_commands_belongs_to_one(folder):
    """Others hold what several files of that folder share."""
    helpers = {
        "cli": {"__init__", "command", "control_c", "reporter", "show"},
        "steps": {
            "__init__",
            "advice",
            "making",
            "promise",
            "renew",
            "rivals",
            "shrinking",
            "teaching",
            "thinning",
            "workshop",
        },
    }
    names = {path.stem for path in (ROOT / "edgetl" / folder).glob("*.py")}
    assert names - helpers[folder] == {"evaluate" if name == "eval" else name for name in COMMANDS}


def test_import_edgetl_loads_next_to_nothing():
    own = {module for module in loaded_by("import edgetl") if module.startswith("edgetl.")}
    assert own == set()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"], ["trian"]])
def test_help_and_wrong_usage_load_no_engine_and_draw_nothing(arguments):
    code = (
        f"import sys; sys.argv = ['edgetl', *{arguments}]\n"
        "from edgetl.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )
    loaded = loaded_by(code)
    assert "typer" in loaded
    assert not loaded & (TRAINING | ENGINES | {"rich", "edgetl.card", "edgetl.results"})


@pytest.mark.parametrize("step", DEVICE_STEPS)
def test_what_a_device_runs_loads_nothing_of_training(step):
    loaded = loaded_by(f"import edgetl.steps.{step}")
    assert not loaded & (TRAINING | {"ai_edge_litert", "ai_edge_quantizer", "typer", "rich"})


def test_the_functions_of_the_package_load_nothing_of_training():
    assert not loaded_by("import edgetl; edgetl.open, edgetl.train") & (TRAINING | {"onnxruntime"})
