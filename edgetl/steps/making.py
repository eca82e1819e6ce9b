"""Exported files: from the trained network to bytes with metadata, and into the model folder."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version

import numpy as np
import onnx
from numpy.typing import NDArray

from edgetl.card import Artifact, Model, with_artifact
from edgetl.compression.levels import Limit
from edgetl.config import Format, Packing, Precision
from edgetl.engines import classifier_of, run_batches
from edgetl.engines.onnx import SUMS, SUMS_FIT
from edgetl.errors import CheckFailed
from edgetl.files import write_atomically
from edgetl.keras.classifier import KerasClassifier
from edgetl.keras.equalize import equalized
from edgetl.keras.network import Layers
from edgetl.keras.qat import QatImages, QatSettings, quantization_aware, with_limits
from edgetl.keras.rounding import LEVELS
from edgetl.keras.to_onnx import OPSET, to_onnx
from edgetl.keras.to_tflite import to_int8_tflite, to_tflite
from edgetl.metadata.onnx import describe
from edgetl.metadata.tflite import TFLiteMetadata, add_metadata
from edgetl.packing import pack, packer
from edgetl.progress import say
from edgetl.quantize import onnx as quantize_onnx
from edgetl.quantize import onnx_int8, tflite_int8
from edgetl.quantize import tflite as quantize_tflite
from edgetl.quantize.kernels import onnx_kernels, tflite_kernels
from edgetl.quantize.recipe import Origin, Recipe
from edgetl.quantize.targets import CALIBRATED
from edgetl.reference import read_reference
from edgetl.steps.thinning import Thinning

_IMAGES_AT_ONCE = 32
_REDUCED_LEVELS = 64  # of a weight on either side of 0
_THINNING_EPOCHS = 20  # 5 leave a network with 70 % zeros far from where more lead it
LARGEST_FLOAT_DIFFERENCE = (
    1e-3  # of probabilities; float engines differ by rounding only, measured below 1e-5
)


@dataclass(frozen=True)
class Variant:
    """Which file: `recipe` matters for int8 only, and so does `origin` unless it is THINNED."""

    form: Format
    precision: Precision
    recipe: Recipe = field(default_factory=Recipe)
    origin: Origin = Origin.TRAINED
    packed: Packing | None = None

    @property
    def name(self) -> str:
        """How commands and the card call the artifact: onnx-int8."""
        return f"{self.form}-{self.precision}"

    @property
    def file(self) -> str:
        """In the model folder."""
        name = "model" if self.precision is Precision.FP32 else f"model_{self.precision}"
        return ".".join(word for word in (name, self.form, self.packed) if word)

    def in_words(self, names: tuple[str, ...]) -> str:
        """What was done beyond plain quantization; `names` are those of the convolutions."""
        recipe = self.recipe
        done = [
            word
            for word, is_so in {
                "7-bit weights": recipe.reduced and self.form is Format.ONNX,
                "thinned": self.origin is Origin.THINNED,
                "equalized": self.origin in {Origin.EQUALIZED, Origin.RETRAINED},
                "trained with rounding": self.origin is Origin.RETRAINED,
                "clipped": recipe.clipped,
                "biases corrected": recipe.bias_corrected,
            }.items()
            if is_so
        ]
        if recipe.float_layers:
            done.append(f"{', '.join(names[layer] for layer in recipe.float_layers)} in float")
        return "; ".join(done) or "plain"


@dataclass(frozen=True)
class Built:
    """One file's bytes, metadata included, and what the card notes about how it was made."""

    variant: Variant
    content: bytes  # what an engine is given
    details: dict[str, str]

    @cached_property
    def stored(self) -> bytes:
        """What is written."""
        return pack(self.content, self.variant.packed) if self.variant.packed else self.content


@dataclass(frozen=True)
class Sources:
    """The float models and calibrations that several artifacts share, each made when first needed."""

    layers: Layers
    pixels: NDArray[np.uint8] | None
    reduced: bool = False  # whether weights will have 7 bits, where it has to be known beforehand
    thinning: Thinning | None = None  # of the files that are asked for

    @property
    def origin(self) -> Origin:
        """Of files before any repair."""
        return Origin.THINNED if self.thinning else Origin.TRAINED

    @cached_property
    def onnx(self) -> onnx.ModelProto:
        """The float32 ONNX model."""
        return to_onnx(self.layers)

    @cached_property
    def tflite(self) -> bytes:
        """The float32 TFLite model."""
        return to_tflite(self.layers)

    @cached_property
    def onnx_quantizer(self) -> onnx_int8.OnnxQuantizer:
        """Makes int8 ONNX files."""
        return onnx_int8.calibrate(self.onnx, self.calibration_pixels)

    @cached_property
    def tflite_quantizer(self) -> tflite_int8.TFLiteQuantizer:
        """Makes int8 TFLite files."""
        return tflite_int8.calibrate(self.tflite, self.calibration_pixels)

    @cached_property
    def equalized(self) -> "Sources":
        """The same function with channels of like size."""
        highs = [activation.channel_highs for activation in self.onnx_quantizer.activations]
        return Sources(equalized(self.layers, highs), self.pixels, self.reduced)

    @cached_property
    def retrained(self) -> "Sources":
        """Equalized weights that have learnt to live on the grid of an int8 file, from calibration images."""
        return Sources(self._trained_with_rounding(self.equalized), self.pixels, self.reduced)

    @cached_property
    def thinned(self) -> "Sources":
        """Limited weights that have learnt to live with it, from calibration images if there are any."""
        if self.thinning is None:
            raise ValueError("nothing says how weights are limited")
        limits = self.thinning.limits(self.layers)
        if self.pixels is None:
            say("no calibration images: weights are limited without training, which costs accuracy")
            return Sources(with_limits(self.layers, limits), None, self.reduced)
        return Sources(self._trained_with_rounding(self, limits), self.pixels, self.reduced)

    def _trained_with_rounding(self, base: "Sources", limits: Sequence[Limit] = ()) -> Layers:
        """The layers of `base` after lessons by this network."""
        pixels = self.calibration_pixels
        answers = run_batches(
            KerasClassifier(self.layers), pixels, _IMAGES_AT_ONCE, "reference of the calibration images"
        )
        quantizer = base.onnx_quantizer
        low, high = quantizer.ranges[quantizer.convolutions[0].source]
        return quantization_aware(
            base.layers,
            QatImages(pixels, answers),
            QatSettings(
                epochs=_THINNING_EPOCHS if limits else QatSettings.epochs,
                levels=_REDUCED_LEVELS if self.reduced else LEVELS,
            ),
            [activation.high for activation in quantizer.activations],
            image_range=(float(low), float(high)),
            limits=limits,
        )

    def of(self, origin: Origin) -> "Sources":
        """Of the network that is quantized."""
        match origin:
            case Origin.TRAINED:
                return self
            case Origin.EQUALIZED:
                return self.equalized
            case Origin.RETRAINED:
                return self.retrained
            case Origin.THINNED:
                return self.thinned

    @property
    def calibration_pixels(self) -> NDArray[np.uint8]:
        """uint8 RGB [N, H, W, 3]."""
        if self.pixels is None:
            raise ValueError("calibration images were not read")
        return self.pixels

    @property
    def names(self) -> tuple[str, ...]:
        """Of the convolutions."""
        return tuple(layer.name for layer in self.layers.convolutions)


def build(sources: Sources, model: Model, variant: Variant) -> Built:
    """One file. Raises `CheckFailed` when it would not run as its precision says."""
    details = {}
    if variant.precision in CALIBRATED:
        details["calibration images"] = str(len(sources.calibration_pixels))
    if variant.packed is not None:
        details["packer"] = packer(variant.packed)
    if variant.precision is Precision.INT8 and (variant.recipe, variant.origin) != (Recipe(), Origin.TRAINED):
        details["recipe"] = variant.in_words(sources.names)
    if variant.origin is Origin.THINNED and sources.thinning:
        details["weights"] = sources.thinning.in_words()
    origin = sources.of(variant.origin)
    if variant.form is Format.ONNX:
        made = _onnx(origin, variant)
        _check_limits(sources, variant, lambda: onnx_kernels(made))
        sums_fit = variant.precision is Precision.INT8 and variant.recipe.reduced
        describe(made, model.card, variant.precision, {SUMS: SUMS_FIT} if sums_fit else None)
        onnx.checker.check_model(made)
        details |= {"opset": str(OPSET), "converter": f"tf2onnx {version('tf2onnx')}"}
        if variant.precision is not Precision.FP32:
            details["quantizer"] = f"onnxruntime {version('onnxruntime')}"
        return Built(variant, made.SerializeToString(), details)
    details |= {"converter": f"tensorflow {version('tensorflow')}"}
    if variant.precision not in (Precision.FP32, Precision.FP16):
        details["quantizer"] = f"ai-edge-quantizer {version('ai-edge-quantizer')}"
    try:
        content = _tflite(origin, variant)
    except quantize_tflite.Refused as refusal:
        if variant.precision is not Precision.INT8 or variant.recipe.float_layers:
            raise
        say(f"{refusal.what} TensorFlow's own converter makes the file, without repairs")
        content = to_int8_tflite(origin.layers, sources.calibration_pixels)
        details["quantizer"] = f"tensorflow {version('tensorflow')}"
    _check_limits(sources, variant, lambda: tflite_kernels(content))
    return Built(variant, add_metadata(content, _tflite_metadata(model)), details)


def _check_limits(sources: Sources, variant: Variant, kernels: Callable[[], list[NDArray[np.int8]]]) -> None:
    if sources.thinning and variant.origin is Origin.THINNED and variant.precision is Precision.INT8:
        sources.thinning.check(kernels())


def _onnx(sources: Sources, variant: Variant) -> onnx.ModelProto:
    match variant.precision:
        case Precision.FP32:
            return quantize_onnx.copy_of(sources.onnx)
        case Precision.FP16:
            return quantize_onnx.to_half(sources.onnx)
        case Precision.W8A32:
            return quantize_onnx.to_int8_weights(sources.onnx)
        case Precision.INT8:
            return sources.onnx_quantizer.build(variant.recipe)
        case Precision.W8A16:
            raise ValueError("there is no such ONNX file")  # wanted_pairs refuses it


def _tflite(sources: Sources, variant: Variant) -> bytes:
    match variant.precision:
        case Precision.FP32:
            return sources.tflite
        case Precision.FP16:
            return to_tflite(sources.layers, half_precision=True)
        case Precision.W8A32:
            return quantize_tflite.to_dynamic_range(sources.tflite)
        case Precision.INT8:
            return sources.tflite_quantizer.build(variant.recipe)
        case Precision.W8A16:
            return quantize_tflite.to_int8_weights_int16(sources.tflite, sources.tflite_quantizer.ranges)


def artifact_of(built: Built) -> Artifact:
    """What the card says of a file."""
    return Artifact(
        name=built.variant.name,
        file=built.variant.file,
        format=built.variant.form,
        precision=built.variant.precision,
        sha256=hashlib.sha256(built.stored).hexdigest(),
        size_bytes=len(built.stored),
        packed=built.variant.packed,
        unpacked_bytes=len(built.content),
        details=built.details,
    )


def store(model: Model, built: Built) -> Model:
    """Write a file, then name it in the card; what stood there under another name, packed or not, goes."""
    artifact = artifact_of(built)
    write_atomically(model.folder / artifact.file, built.stored)
    model = model.update(lambda card: with_artifact(card, artifact))
    for packed in (None, *Packing):
        if packed is not built.variant.packed:
            with suppress(OSError):
                (model.folder / replace(built.variant, packed=packed).file).unlink()
    return model


def check_float(model: Model, built: Built, threads: int, layers: Layers | None = None) -> None:
    """Hold a float file to Keras probabilities before anybody sees it: the stored ones, or those of `layers`.

    Raises `CheckFailed`.
    """
    reference = read_reference(model)
    expected = reference.probabilities[reference.stored]
    if layers is not None:
        expected = run_batches(KerasClassifier(layers), reference.pixels, 8, "full precision")
    classifier = classifier_of(built.content, built.variant.form, Precision.FP32, threads)
    probabilities = run_batches(classifier, reference.pixels, 8, f"checking {built.variant.file}")
    difference = float(np.abs(probabilities - expected).max())
    if not difference <= LARGEST_FLOAT_DIFFERENCE:  # also when it is not a number
        raise CheckFailed(
            f"{built.variant.file} differs from the trained network by {difference:.4f} in a probability.",
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
