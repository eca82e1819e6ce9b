"""What is shipped, and what works where only the core is installed, as on a device."""

import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import pytest
from tiny import LABELS, make_image, make_tiny_model

from edgetl.card import Model

ROOT = Path(__file__).parent.parent
CORE = {"numpy", "pillow", "onnxruntime", "pyarrow", "typer", "rich"}
EXTRAS = {"train", "tflite", "weights", "remote", "ray", "zst", "all", "dev"}
TRAINING_ONLY = (
    "ai_edge_litert",
    "ai_edge_quantizer",
    "h5py",
    "keras",
    "onnx",
    "safetensors",
    "scipy",
    "sklearn",
    "tensorflow",
    "tf2onnx",
    "tf_keras",
    "threadpoolctl",
    "zstandard",
)
DEVICE = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TRAINING_ONLY}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from edgetl.cli import main
sys.argv[0] = "edgetl"
main()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel, built offline from a copy, because building writes into the source folder."""
    if int(version("setuptools").partition(".")[0]) < 80:
        pytest.skip("building the wheel needs setuptools 80, which `make setup` installs")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "edgetl", source / "edgetl", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-index"]
    build = [*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (made,) = folder.glob("*.whl")
    return zipfile.ZipFile(made)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", with_reference=True)


def on_device(*arguments: object, path: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """A command where no package of the extras can be imported, of the edgetl in `path`."""
    return subprocess.run(
        [sys.executable, "-c", DEVICE, *map(str, arguments)],
        cwd=path,  # Python looks there first
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_wheel_has_the_package_its_types_and_its_samples(wheel):
    names = wheel.namelist()
    assert "edgetl/py.typed" in names
    for style, images in (("noto", 100), ("twemoji", 100)):
        own = [name for name in names if name.startswith(f"edgetl/samples/{style}/")]
        assert any("/LICENSE" in name for name in own)
        assert len(own) > images
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "edgetl").rglob("*.py")}
    assert modules <= set(names)


def test_the_wheel_has_nothing_else(wheel):
    kinds = re.compile(r"edgetl/(samples/.*|py\.typed|[\w/]+\.py)|edgetl-[\d.]+\.dist-info/.+")
    assert not [name for name in wheel.namelist() if not kinds.fullmatch(name)]


def test_the_wheel_states_its_licences(wheel):
    licences = [name.partition("/licenses/")[2] for name in wheel.namelist() if "/licenses/" in name]
    assert "LICENSE" in licences
    assert any(name.startswith("edgetl/samples/twemoji/LICENSE") for name in licences)
    assert _metadata(wheel)["License-Expression"]


def test_the_wheel_asks_a_device_for_six_packages(wheel):
    asked = _metadata(wheel).get_all("Requires-Dist") or []
    core = {re.match(r"[\w-]+", item)[0].lower() for item in asked if "extra ==" not in item}
    assert core == CORE
    assert set(_metadata(wheel).get_all("Provides-Extra") or []) == EXTRAS


def test_the_wheel_runs_on_a_device(wheel, model, tmp_path):
    wheel.extractall(tmp_path / "site")
    image = make_image(tmp_path / "red.png", "red")
    done = on_device("predict", model.folder, image, path=tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert '"label": "red"' in done.stdout
    code = [sys.executable, "-c", "import edgetl; print(edgetl.__file__)"]
    assert str(tmp_path) in subprocess.check_output(code, cwd=tmp_path / "site", text=True)


DEVICE_COMMANDS = [
    ("--help", 0),
    ("train --help", 0),
    ("doctor", 0),
    ("predict MODEL DATA/test -o TMP/rows.parquet", 0),
    ("predict MODEL DATA/test", 0),
    ("report MODEL -o TMP/page.html", 0),
    ("verify MODEL", 5),
    ("eval MODEL", 0),
    ("data DATA", 0),
    ("bench MODEL --seconds 0.05", 0),
]


@pytest.mark.parametrize(("line", "code"), DEVICE_COMMANDS, ids=[line for line, _ in DEVICE_COMMANDS])
def test_a_device_needs_only_the_core(line, code, model, tmp_path):
    done = on_device(*_placed(line, model, tmp_path))
    assert done.returncode == code, done.stderr
    assert done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("line", ["train DATA -o TMP/out", "export MODEL", "demo -o TMP/out"])
def test_what_a_device_cannot_do_is_one_sentence(line, model, tmp_path):
    done = on_device(*_placed(line, model, tmp_path))
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: [\w ]+ needs packages that are not installed\.\n  fix: pip install 'edgetl\[train\]'\n",
        done.stderr,
    )
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_tflite_file_needs_its_extra(model, tmp_path):
    image = make_image(tmp_path / "red.png", "red")
    card = Path(shutil.copytree(model.folder, tmp_path / "model")) / "card.json"
    card.write_text(card.read_text().replace('"format": "onnx"', '"format": "tflite"'))
    done = on_device("predict", tmp_path / "model", image)
    assert done.returncode == 1
    assert done.stderr.endswith("fix: pip install 'edgetl[tflite]', or name an ONNX file with --artifact\n")


def test_the_tiny_model_is_of_use(model, tmp_path):
    """So that the tests above say something."""
    assert model.card.labels == LABELS
    done = on_device("eval", model.folder, "--json")
    assert '"accuracy": 1.0' in done.stdout


def _metadata(wheel: zipfile.ZipFile):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def _placed(line: str, model: Model, folder: Path) -> list[str]:
    places = {"MODEL": str(model.folder), "DATA": str(model.folder.parent / "data"), "TMP": str(folder)}
    return [re.sub("|".join(places), lambda found: places[found[0]], word) for word in line.split()]
