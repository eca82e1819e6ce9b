"""The models that ship: whole, small, proven, and right about images of their kind."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetl.card import Model
from edgetl.config import PredictConfig
from edgetl.statistics import Verdict
from edgetl.steps.predict import iterate

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(folder.name for folder in (ROOT / "models").iterdir() if folder.is_dir())
LARGEST_BYTES = 2_000_000
EACH = 10  # images of each class


@pytest.fixture(scope="module")
def garments(tmp_path_factory) -> list[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("garments")
    with np.load(ROOT / "tests" / "fashion" / "fashion.npz") as file:
        found = []
        for label, images in zip(file["labels"].tolist(), file["test"][:, :EACH], strict=True):
            for number, image in enumerate(images):
                path = folder / f"{label}-{number}.png"
                Image.fromarray(image).save(path)
                found.append((path, label))
    return found


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_whole_small_and_proven(name):
    model = Model.open(ROOT / "models" / name)
    assert {artifact.name for artifact in model.card.artifacts} == {"onnx-int8", "tflite-int8"}
    for artifact in model.card.artifacts:
        assert len(model.read(artifact)) < LARGEST_BYTES
        assert model.card.parity[artifact.name].verdict is Verdict.PASS
    assert not Path(model.card.data.folder).is_absolute()


def test_the_compressed_one_is_proven_against_the_network_it_came_from():
    compression = Model.open(ROOT / "models" / "fashion").card.compression
    for parity in compression.parity:
        assert parity.verdict is Verdict.PASS
        assert parity.max_drop_points == pytest.approx(1.0)
        assert parity.images > 9000


@pytest.mark.parametrize("artifact", ["onnx-int8", "tflite-int8"])
def test_it_knows_garments(artifact, garments):
    model = Model.open(ROOT / "models" / "fashion")
    rows = iterate(model, [path for path, _ in garments], PredictConfig(artifact=artifact))
    right = [row.label == label for row, (_, label) in zip(rows, garments, strict=True)]
    assert np.mean(right) > 0.8
