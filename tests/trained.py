"""A tiny real network, trained and exported once per session and handed out as copies.

Import the fixtures that a test module uses: `from trained import exported, trained`.
"""

import shutil
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

if find_spec("tensorflow") is None:  # importing it here would be too early: edgetl.keras sets it up
    pytest.skip("needs edgetl[train]", allow_module_level=True)

from edgetl.card import KERAS_FILE, Model
from edgetl.config import Block, CompressConfig, ExportConfig, TrainConfig
from edgetl.keras import tf_keras
from edgetl.progress import REPORTER, Silent
from edgetl.steps.export import export
from edgetl.steps.train import train

SIDE = 32
SHAPES = {"circle": (200, 60, 50), "square": (60, 160, 70), "stripes": (50, 80, 190)}
IMAGES_PER_SPLIT = {"train": 20, "val": 6, "test": 12}  # of each class
QUICK = {
    "weights": "random",
    "image_size": SIDE,
    "cut": Block.BLOCK2,
    "epochs_finetune": 2,
    "views": 2,
}
LOOSE = "25"  # points of drop: what the few certification images can prove
QUICK_COMPRESS = {"max_drop": LOOSE, "epochs": 3, "pictures": 2, "rate": 1e-3}
ALL_PRECISIONS = "fp32,fp16,int8,w8a32,w8a16"


def quick(**settings) -> TrainConfig:
    """Settings that train in a few seconds, with some of them replaced."""
    return TrainConfig(**(QUICK | settings))


def quick_compress(**settings) -> CompressConfig:
    """Settings that compress in a few seconds, with some of them replaced."""
    return CompressConfig(**(QUICK_COMPRESS | settings))


@contextmanager
def said():
    """The lines that a step tells whoever watches."""
    lines = []

    class Watching(Silent):
        def say(self, text):
            lines.append(text)

    token = REPORTER.set(Watching())
    try:
        yield lines
    finally:
        REPORTER.reset(token)


def draw(path: Path, label: str, seed: int) -> None:
    """A PNG of one class: its shape in about its colour, anywhere on noise; no two seeds look alike."""
    random = np.random.default_rng(seed)
    image = Image.fromarray(
        random.integers(0, 120, (40, 40, 3), np.uint8) + random.integers(0, 100, 3, np.uint8)
    )
    colour = tuple(
        int(value) for value in np.clip(np.array(SHAPES[label]) + random.integers(-60, 60, 3), 0, 255)
    )
    left, top = (int(value) for value in random.integers(0, 18, 2))
    right, bottom = left + int(random.integers(14, 22)), top + int(random.integers(14, 22))
    pen = ImageDraw.Draw(image)
    if label == "circle":
        pen.ellipse((left, top, right, bottom), colour)
    elif label == "square":
        pen.rectangle((left, top, right, bottom), colour)
    else:
        for y in range(top, bottom, 4):
            pen.line((left, y, right, y), colour, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def draw_data(folder: Path, images_per_split=None, seed: int = 0) -> Path:
    """A data folder with train/, val/ and test/; another seed draws other images."""
    for split, count in (images_per_split or IMAGES_PER_SPLIT).items():
        for label in SHAPES:
            for number in range(count):
                seed += 1
                draw(folder / split / label / f"{number:02d}.png", label, seed)
    return folder


def copy_of(folder: Path, target: Path) -> Model:
    """A model folder of one's own."""
    shutil.copytree(folder, target)
    return Model.open(target)


_MADE: dict[str, Path] = {}  # pytest would make a session fixture again for each module that imports it


def once(name, make, tmp_path_factory) -> Path:
    """The folder that `make(new path)` returned the first time in this session."""
    if name not in _MADE:
        _MADE[name] = make(tmp_path_factory.mktemp(name) / name)
    return _MADE[name]


def weights_of(folder: Path) -> list[np.ndarray]:
    """Every weight of a model folder's network, in order."""
    return tf_keras.models.load_model(folder / KERAS_FILE, compile=False).get_weights()


def assert_same_weights(one: Path, other: Path) -> None:
    """Bit for bit."""
    for left, right in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """The data folder; tests must not change it."""
    return once("data", draw_data, tmp_path_factory)


@pytest.fixture(scope="session")
def trained_once(shapes, tmp_path_factory) -> Path:
    """A trained model folder; tests must not change it."""
    return once("model", lambda path: train(shapes, path, quick()).folder, tmp_path_factory)


@pytest.fixture(scope="session")
def exported_once(trained_once, tmp_path_factory) -> Path:
    """The same with every artifact; tests must not change it."""

    def make(path):
        return export(copy_of(trained_once, path), ExportConfig(precision=ALL_PRECISIONS))[0].folder

    return once("exported", make, tmp_path_factory)


@pytest.fixture
def trained(trained_once, tmp_path) -> Model:
    """A copy of the trained model folder."""
    return copy_of(trained_once, tmp_path / "model")


@pytest.fixture
def exported(exported_once, tmp_path) -> Model:
    """A copy of the exported model folder."""
    return copy_of(exported_once, tmp_path / "model")
