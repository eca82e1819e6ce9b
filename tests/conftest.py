"""What every test has: no writes into the home folder, fixed seeds, and two ways to run a command."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import settings
from typer.testing import CliRunner, Result

from edgetl.cli import app

settings.register_profile("edgetl", deadline=None, derandomize=True, database=None)
settings.load_profile("edgetl")

LOOKS = (
    "FORCE_COLOR",
    "NO_COLOR",
    "PY_COLORS",
    "GITHUB_ACTIONS",
    "COLUMNS",
    "TERMINAL_WIDTH",
    "TYPER_USE_RICH",
)
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Invoke = Callable[..., Result]


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches go to a temporary folder; nothing outside decides how output looks."""
    caches = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("EDGETL_CACHE_DIR", "KERAS_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
            patch.setenv(name, str(caches / name.lower()))
        for name in LOOKS:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The same random numbers in every run and every order."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the libraries' own generator, not ours


@pytest.fixture
def run_cli() -> Run:
    """`python -m edgetl ...` in a process of its own; `environment` is added to the present one."""

    def run(*arguments: object, environment: dict[str, str] | None = None, **options):
        return subprocess.run(
            [sys.executable, "-m", "edgetl", *map(str, arguments)],
            env=os.environ | (environment or {}),
            check=False,
            timeout=120,
            **({"capture_output": True, "text": True} | options),
        )

    return run


@pytest.fixture
def invoke() -> Invoke:
    """A command in this process; fast, and open to `monkeypatch`."""

    def run(*arguments: object, **options) -> Result:
        return CliRunner().invoke(app, list(map(str, arguments)), **options)

    return run
