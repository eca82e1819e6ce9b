"""NNCF's part of `accuracy_search.py`, run by the Python of an environment that has NNCF and not edgetl.

`python accuracy_search_nncf.py FOLDER MAX_DROP` reads float.onnx and images.npz there, and writes nncf.onnx,
nncf-control.onnx and nncf.json.
"""

import json
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import nncf
import numpy as np
import onnx
import onnxruntime

IMAGES_AT_ONCE = 16


def main() -> None:
    """Quantize plainly, then with accuracy control, and tell what the second one asked for."""
    folder, max_drop = Path(sys.argv[1]), float(sys.argv[2])
    with np.load(folder / "images.npz") as file:
        pixels, tuning, labels = file["calibration"], file["tuning"], file["labels"]
    calibration = nncf.Dataset([{"image": one[None]} for one in pixels])

    started = time.perf_counter()
    plain = nncf.quantize(onnx.load(folder / "float.onnx"), calibration, subset_size=len(pixels))
    plain_seconds = time.perf_counter() - started
    onnx.save(plain, folder / "nncf.onnx")

    validation = Validation()
    started = time.perf_counter()
    kept = nncf.quantize_with_accuracy_control(
        onnx.load(folder / "float.onnx"),
        calibration_dataset=calibration,
        validation_dataset=nncf.Dataset(list(zip(tuning, labels.tolist(), strict=True))),
        validation_fn=validation,
        max_drop=max_drop,
        drop_type=nncf.DropType.ABSOLUTE,
        subset_size=len(pixels),
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
            ranking_subset_size=300
        ),
    )
    seconds = time.perf_counter() - started
    onnx.save(kept, folder / "nncf-control.onnx")
    found = {
        "version": version("nncf"),
        "plain_seconds": plain_seconds,
        "seconds": seconds,
        "calls": validation.calls,
        "images": validation.images,
    }
    (folder / "nncf.json").write_text(json.dumps(found), encoding="utf-8")


class Validation:
    """Accuracy on the images given, and for each whether it is right; counts what it is asked for."""

    def __init__(self) -> None:
        self.calls = 0
        self.images = 0

    def __call__(self, model: onnx.ModelProto, items: Iterable) -> tuple[float, list[float]]:
        """As `nncf.quantize_with_accuracy_control` wants its `validation_fn`."""
        pixels, labels = zip(*items, strict=True)
        self.calls += 1
        self.images += len(labels)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        parts = [
            session.run(None, {"image": np.stack(pixels[start : start + IMAGES_AT_ONCE])})[0]
            for start in range(0, len(pixels), IMAGES_AT_ONCE)
        ]
        right = np.concatenate(parts).argmax(axis=1) == np.array(labels)
        return float(right.mean()), right.astype(float).tolist()


if __name__ == "__main__":
    main()
