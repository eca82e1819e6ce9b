"""Do programs we did not write open the exported files, and do they agree? `python benchmarks/readers.py MODEL`.

Readers: onnx.checker, OpenVINO, a plain onnxruntime script fed with Pillow pixels, and MediaPipe Tasks'
ImageClassifier. MediaPipe wants packages that exclude edgetl's own, so it is run by the Python that
EDGETL_MEDIAPIPE_PYTHON names (an environment with `pip install mediapipe`).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
from common import ROOT, publish, table
from PIL import Image

import edgetl
from edgetl.card import Artifact
from edgetl.config import Format, PredictConfig

IMAGES = 60


def main() -> None:
    """Compare every reader with `edgetl predict` on shipped images."""
    model = edgetl.open(sys.argv[1])
    size = (model.card.input.width, model.card.input.height)
    paths = sorted((ROOT / "edgetl/samples/noto/test").glob("*/*.png"))[:: max(1, 232 // IMAGES)][:IMAGES]
    with tempfile.TemporaryDirectory() as folder:
        # At the exact input size every reader sees the same pixels: resizing is theirs, and differs.
        exact = [flattened(path, Path(folder) / f"{i:03d}.png", size) for i, path in enumerate(paths)]
        rows = [row for artifact in model.card.artifacts for row in check(model, artifact, exact)]
    text = (
        f"{len(paths)} shipped images at the exact input size; largest difference of a probability from "
        "`edgetl predict` of the same file, and share of equal top classes.\n\n"
    )
    publish(
        "readers",
        "Other readers",
        text + table(("file", "reader", "largest difference", "same top class"), rows),
    )


def flattened(path: Path, target: Path, size: tuple[int, int]) -> Path:
    """The image on white, resized by Pillow."""
    picture = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    Image.alpha_composite(white, picture).convert("RGB").resize(size, Image.Resampling.BILINEAR).save(target)
    return target


def check(model: edgetl.OpenModel, artifact: Artifact, paths: list[Path]) -> list[tuple[str, ...]]:
    """One row per reader that reads this format."""
    config = PredictConfig(artifact=artifact.name, top=len(model.card.labels))
    own = [{entry.label: entry.probability for entry in row.top} for row in model.predict(paths, config)]
    expected = np.array([[row[label] for label in model.card.labels] for row in own])
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    file = model.folder / artifact.file
    found = {}
    if artifact.format is Format.ONNX:
        onnx.checker.check_model(str(file), full_check=True)
        found["plain onnxruntime"] = onnxruntime.InferenceSession(str(file)).run(None, {"image": pixels})[0]
        # OpenVINO computes in bfloat16 where the CPU has it, unless told otherwise; both are worth knowing.
        core = openvino.Core()
        exactly = {"INFERENCE_PRECISION_HINT": "f32"}
        found["OpenVINO, as it comes"] = core.compile_model(str(file), "CPU")({"image": pixels})[0]
        found["OpenVINO, f32"] = core.compile_model(str(file), "CPU", exactly)({"image": pixels})[0]
    elif os.environ.get("EDGETL_MEDIAPIPE_PYTHON"):
        found["MediaPipe ImageClassifier"] = mediapipe(file, paths, model.card.labels)
    else:
        return [(artifact.name, "MediaPipe ImageClassifier", "not run", "EDGETL_MEDIAPIPE_PYTHON is not set")]
    return [
        (
            artifact.name,
            reader,
            f"{np.abs(values - expected).max():.1e}",
            f"{100 * (values.argmax(1) == expected.argmax(1)).mean():.1f} %",
        )
        for reader, values in found.items()
    ]


def mediapipe(file: Path, paths: list[Path], labels: tuple[str, ...]) -> np.ndarray:
    """Top classes of MediaPipe as an array: its score where it names a class, -inf is not used, 0 elsewhere."""
    command = [os.environ["EDGETL_MEDIAPIPE_PYTHON"], str(ROOT / "scripts/read_with_mediapipe.py"), str(file)]
    done = subprocess.run(
        [*command, *map(str, paths)], capture_output=True, text=True, check=True, timeout=300
    )
    answers = json.loads(done.stdout)
    return np.array([[answer["scores"][label] for label in labels] for answer in answers])


if __name__ == "__main__":
    main()
