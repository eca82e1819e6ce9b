"""Engines: files become classifiers. `open_classifier` is the one place that looks at the format."""

from collections.abc import Callable
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from edgetl.card import Artifact, Model
from edgetl.classifier import Classifier
from edgetl.config import Format, Precision
from edgetl.errors import UsageError, needing
from edgetl.pixels import PixelRows
from edgetl.progress import task


def open_classifier(model: Model, artifact: Artifact, threads: int = 0) -> Classifier:
    """Load one artifact from the bytes whose hash was checked. `threads` 0: all CPUs.

    Raises `ModelFolderError` when the file is missing, changed or refused by its engine, `MissingExtra` when
    the engine is not installed.
    """
    return classifier_of(model.read(artifact), artifact.format, artifact.precision, threads)


def classifier_of(content: bytes, form: Format, precision: Precision, threads: int = 0) -> Classifier:
    """Load a file's bytes. Raises like `open_classifier`."""
    match form:
        case Format.ONNX:
            from edgetl.engines.onnx import OnnxClassifier

            return OnnxClassifier(content, threads, precision is Precision.W8A32)
        case Format.TFLITE:
            with needing("tflite", "Running a TFLite file", "name an ONNX file with --artifact"):
                from edgetl.engines.tflite import TFLiteClassifier

            return TFLiteClassifier(content, threads)
        case never:
            assert_never(never)


def embedder_of(
    content: bytes, form: Format, precision: Precision, threads: int = 0
) -> Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Load a file's bytes so that it also gives embeddings. Raises `UsageError`, `ModelFolderError`."""
    if form is not Format.ONNX:
        raise UsageError(
            "Only ONNX files give embeddings.", "Name one with --artifact, or drop --embeddings."
        )
    from edgetl.engines.onnx import OnnxEmbedder

    return OnnxEmbedder(content, threads, precision is Precision.W8A32)


def run_batches(classifier: Classifier, pixels: PixelRows, batch: int, name: str) -> NDArray[np.float32]:
    """Probabilities [N, classes] of uint8 RGB images [N, H, W, 3], `batch` at a time, with progress."""
    parts = []
    with task(name, len(pixels)) as advance:
        for start in range(0, len(pixels), batch):
            parts.append(classifier(pixels[start : start + batch]))
            advance(len(parts[-1]))
    return np.concatenate(parts)
