"""The figures behind docs/decisions: `python benchmarks/precision_choices.py MODEL` (a folder that edgetl demo made).

What int8 in the last Dense layer costs, what leaving Relu out of static quantization costs, how slow w8a16 is, and
what dequantizing weights at every batch costs.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
from common import card, edgetl, publish, table

from edgetl.card import Model
from edgetl.engines.onnx import OnnxClassifier
from edgetl.keras.classifier import open_layers
from edgetl.keras.to_onnx import to_onnx
from edgetl.measures import centred_logits, sqnr_db
from edgetl.quantize import onnx as quantize
from edgetl.reference import certification_images, read_calibration_pixels, read_reference

BATCH = 16
REPEATS = 9


def main() -> None:
    """Run all comparisons on one model."""
    model = Model.open(Path(sys.argv[1]))
    whole = to_onnx(open_layers(model))
    images = certification_images(model, model.data_folder)
    calibration = read_calibration_pixels(model, model.data_folder, 200)
    reference = centred_logits(read_reference(model).probabilities)

    def row(name: str, make: Callable[[], object]) -> tuple[str, ...]:
        content = make().SerializeToString()
        classifier = OnnxClassifier(content)
        parts = [classifier(images.pixels[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        found = sqnr_db(reference, centred_logits(np.concatenate(parts)))
        return name, f"{found:.1f}", f"{rate(classifier, images.pixels[:BATCH]):.0f}"

    rows = [
        row("w8a32", lambda: quantize.to_int8_weights(whole)),
        row("w8a32, last Dense layer int8 too", lambda: with_int8_logits(whole)),
        row("int8", lambda: quantize.to_int8(whole, calibration)),
        row("int8, Relu not among the quantized operators", lambda: without_relu(whole, calibration)),
    ]
    weights = quantize.to_int8_weights(whole).SerializeToString()
    once, always = (
        rate(OnnxClassifier(weights, float_weights=fold), images.pixels[:BATCH]) for fold in (True, False)
    )
    text = (
        f"ONNX Runtime, {len(images)} certification images, SQNR of centred logits against full precision, images/s at "
        f"batch {BATCH} (median of {REPEATS}).\n\n"
        + table(("file", "SQNR dB", "images/s"), rows)
        + f"\n\nw8a32 with weights dequantized once at load: {once:.0f} images/s; at every batch: {always:.0f}.\n\n"
        + slow_int16(model.folder)
    )
    publish("choices", "Choices of precision", text)


def rate(classifier: OnnxClassifier, pixels: np.ndarray) -> float:
    """Images per second, from the median of several runs after one that is not counted."""
    classifier(pixels)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        classifier(pixels)
        seconds.append(time.perf_counter() - started)
    return len(pixels) / statistics.median(seconds)


def with_int8_logits(whole: object) -> object:
    """The weight-only model as it would be if the last Dense layer were not spared."""
    with mock.patch.object(quantize, "last_dense", return_value="none of them"):
        return quantize.to_int8_weights(whole)


def without_relu(whole: object, calibration: np.ndarray) -> object:
    """The static model as it would be if Relu were not among the quantized operators."""
    original = quantize.quantize_static

    def other(*arguments: object, **settings: object) -> None:
        settings["op_types_to_quantize"] = ["Conv", "MaxPool"]
        original(*arguments, **settings)

    with mock.patch.object(quantize, "quantize_static", other):
        return quantize.to_int8(whole, calibration)


def slow_int16(folder: Path) -> str:
    """How TFLite w8a16 runs beside fp32."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(folder, Path(place) / "model"))
        data = str(Model.open(folder).data_folder)
        edgetl("export", str(copy), "--format", "tflite", "--precision", "fp32,w8a16", "--data", data)
        for name in ("tflite-fp32", "tflite-w8a16"):
            edgetl("bench", str(copy), "--artifact", name)
        timing = card(copy)["timing"]
    fast, slow = (timing[name]["images_per_second"] for name in ("tflite-fp32", "tflite-w8a16"))
    return f"LiteRT: w8a16 {slow:.1f} images/s, fp32 {fast:.0f}: {fast / slow:.0f} times slower."


if __name__ == "__main__":
    main()
