"""`edgetl export`: the trained network becomes ONNX and TFLite files in every precision asked for."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version

import numpy as np
import onnx
from numpy.typing import NDArray

from edgetl.card import Artifact, Model, with_artifact
from edgetl.config import ExportConfig, Format, Precision
from edgetl.engines import classifier_of, run_batches
from edgetl.errors import CheckFailed
from edgetl.files import remove_leftovers, write_atomically
from edgetl.keras.classifier import open_layers
from edgetl.keras.network import Layers
from edgetl.keras.to_onnx import OPSET, to_onnx
from edgetl.keras.to_tflite import to_tflite
from edgetl.metadata.onnx import describe
from edgetl.metadata.tflite import TFLiteMetadata, add_metadata
from edgetl.progress import say, task
from edgetl.quantize import onnx as quantize_onnx
from edgetl.quantize import tflite as quantize_tflite
from edgetl.quantize.targets import CALIBRATED, wanted_pairs
from edgetl.reference import read_calibration_pixels, read_reference

LARGEST_FLOAT_DIFFERENCE = (
    1e-3  # of probabilities; float engines differ by rounding only, measured below 1e-5
)


@dataclass(frozen=True)
class Exported:
    """What `export` made."""

    model: str
    artifacts: tuple[Artifact, ...]


def export(model: Model, config: ExportConfig) -> tuple[Model, Exported]:
    """Make the artifacts one after the other; each is complete, and in the card, before the next begins.

    Raises `UsageError` for pairs that do not exist, `DataError` when calibration images are missing,
    `ModelFolderError`, `StorageError`, and `CheckFailed` when a float file does not compute what Keras does.
    """
    pairs = wanted_pairs(config.format, config.precision)
    remove_leftovers(model.folder)
    pixels = None
    if any(precision in CALIBRATED for _, precision in pairs):
        pixels = read_calibration_pixels(model, config.data or model.data_folder, config.calibration_images)
    sources = Sources(open_layers(model), pixels)
    made = []
    with task("exporting", len(pairs)) as advance:
        for form, precision in pairs:
            content, details = build(sources, model, form, precision)
            if precision is Precision.FP32:
                check_float(model, form, content, config.threads)
            model = _store(model, form, precision, content, details)
            made.append(model.artifact(artifact_name(form, precision)))
            say(f"{made[-1].file}: {made[-1].size_bytes / 1e6:.2f} MB")
            advance(1)
    return model, Exported(str(model.folder), tuple(made))


@dataclass(frozen=True)
class Sources:
    """The float models and calibration results that several artifacts share, each made when first needed."""

    layers: Layers
    pixels: NDArray[np.uint8] | None

    @cached_property
    def onnx(self) -> onnx.ModelProto:
        """The float32 ONNX model."""
        return to_onnx(self.layers)

    @cached_property
    def tflite(self) -> bytes:
        """The float32 TFLite model."""
        return to_tflite(self.layers)

    @cached_property
    def tflite_ranges(self) -> quantize_tflite.Ranges:
        """Activation ranges of the float32 TFLite model."""
        return quantize_tflite.measure_ranges(self.tflite, self.calibration_pixels)

    @property
    def calibration_pixels(self) -> NDArray[np.uint8]:
        """uint8 RGB [N, H, W, 3]."""
        if self.pixels is None:
            raise ValueError("calibration images were not read")
        return self.pixels


def build(sources: Sources, model: Model, form: Format, precision: Precision) -> tuple[bytes, dict[str, str]]:
    """The bytes of one artifact, metadata included, and what the card notes about how it was made."""
    details = {"calibration images": str(len(sources.calibration_pixels))} if precision in CALIBRATED else {}
    if form is Format.ONNX:
        made = _ONNX_BUILDERS[precision](sources)
        describe(made, model.card, precision)
        onnx.checker.check_model(made)
        details |= {"opset": str(OPSET), "converter": f"tf2onnx {version('tf2onnx')}"}
        details |= (
            {"quantizer": f"onnxruntime {version('onnxruntime')}"} if precision is not Precision.FP32 else {}
        )
        return made.SerializeToString(), details
    content = _TFLITE_BUILDERS[precision](sources)
    details |= {"converter": f"tensorflow {version('tensorflow')}"}
    if precision not in (Precision.FP32, Precision.FP16):
        details["quantizer"] = f"ai-edge-quantizer {version('ai-edge-quantizer')}"
    return add_metadata(content, _tflite_metadata(model)), details


_ONNX_BUILDERS: dict[Precision, Callable[[Sources], onnx.ModelProto]] = {
    Precision.FP32: lambda sources: quantize_onnx.copy_of(sources.onnx),
    Precision.FP16: lambda sources: quantize_onnx.to_half(sources.onnx),
    Precision.INT8: lambda sources: quantize_onnx.to_int8(sources.onnx, sources.calibration_pixels),
    Precision.W8A32: lambda sources: quantize_onnx.to_int8_weights(sources.onnx),
}
_TFLITE_BUILDERS: dict[Precision, Callable[[Sources], bytes]] = {
    Precision.FP32: lambda sources: sources.tflite,
    Precision.FP16: lambda sources: to_tflite(sources.layers, half_precision=True),
    Precision.INT8: lambda sources: quantize_tflite.to_int8(sources.tflite, sources.tflite_ranges),
    Precision.W8A32: lambda sources: quantize_tflite.to_dynamic_range(sources.tflite),
    Precision.W8A16: lambda sources: quantize_tflite.to_int8_weights_int16(
        sources.tflite, sources.tflite_ranges
    ),
}


def artifact_name(form: Format, precision: Precision) -> str:
    """How commands and the card call it: onnx-int8."""
    return f"{form}-{precision}"


def _file_name(form: Format, precision: Precision) -> str:
    return f"model.{form}" if precision is Precision.FP32 else f"model_{precision}.{form}"


def _store(
    model: Model, form: Format, precision: Precision, content: bytes, details: dict[str, str]
) -> Model:
    artifact = Artifact(
        name=artifact_name(form, precision),
        file=_file_name(form, precision),
        format=form,
        precision=precision,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        details=details,
    )
    write_atomically(model.folder / artifact.file, content)
    return model.update(lambda card: with_artifact(card, artifact))


def check_float(model: Model, form: Format, content: bytes, threads: int) -> None:
    """Hold a float file to the stored Keras probabilities before anybody sees it. Raises `CheckFailed`."""
    reference = read_reference(model)
    name = _file_name(form, Precision.FP32)
    classifier = classifier_of(content, form, Precision.FP32, threads)
    probabilities = run_batches(classifier, reference.pixels, 8, f"checking {name}")
    difference = float(np.abs(probabilities - reference.probabilities[reference.stored]).max())
    if not difference <= LARGEST_FLOAT_DIFFERENCE:  # also when it is not a number
        raise CheckFailed(
            f"{name} differs from the trained network by {difference:.4f} in a probability.",
            "This is a fault in the conversion; please report it with the model's card.json.",
        )


def _tflite_metadata(model: Model) -> TFLiteMetadata:
    card = model.card
    return TFLiteMetadata(
        name=card.name,
        description=(
            f"Classifies images of {card.input.width}x{card.input.height} pixels "
            f"into {len(card.labels)} classes."
        ),
        version=card.edgetl_version,
        author="edgetl",
        license=card.weights.licence,
        labels=card.labels,
    )
