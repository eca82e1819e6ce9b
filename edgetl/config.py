"""Every setting, declared once: type, default, range, help; the flag, the check and the card follow."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from edgetl.settings import Checked, option


class Recipe(StrEnum):
    """How a network is trained."""

    DEFAULT = "default"
    CLASSIC = "classic"


class Head(StrEnum):
    """What stands on the trunk: GlobalAveragePooling + Dense, or Flatten + Dense(1024, relu) + Dense."""

    GAP = "gap"
    FLATTEN = "flatten"


class Block(StrEnum):
    """The blocks of VGG16."""

    BLOCK1 = "block1"
    BLOCK2 = "block2"
    BLOCK3 = "block3"
    BLOCK4 = "block4"
    BLOCK5 = "block5"


class Unfreeze(StrEnum):
    """The lowest block that fine-tuning changes; it and all above it are trained."""

    NONE = "none"
    BLOCK5 = "block5"
    BLOCK4 = "block4"
    BLOCK3 = "block3"
    BLOCK2 = "block2"
    ALL = "all"


class Optimizer(StrEnum):
    """SGD has Nesterov momentum."""

    SGD = "sgd"
    ADAM = "adam"


class Augment(StrEnum):
    """How far training images are varied."""

    OFF = "off"
    LIGHT = "light"
    STRONG = "strong"


class ClassWeights(StrEnum):
    """Whether rare classes count more in the loss."""

    NONE = "none"
    BALANCED = "balanced"


class TrunkInput(StrEnum):
    """What a foreign trunk expects: Keras's VGG16 (BGR minus mean) or torchvision's (RGB, mean and std)."""

    KERAS = "keras"
    TORCHVISION = "torchvision"


class Format(StrEnum):
    """File formats of exported models."""

    ONNX = "onnx"
    TFLITE = "tflite"


class Precision(StrEnum):
    """wA aB: A bits per weight, B bits per activation."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    W8A32 = "w8a32"
    W8A16 = "w8a16"


# On CPUs; w8a32 is as fast as int8 in LiteRT and as slow as fp32 in ONNX Runtime.
FASTEST_FIRST = (Precision.INT8, Precision.W8A32, Precision.FP16, Precision.FP32, Precision.W8A16)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """How a folder of images becomes four roles."""

    seed: int = option(0, "Seed of every random choice.", min=0, panel="Data")
    tuning_share: float = option(
        0.12, "Share kept for model selection where there is no val/.", min=0.02, max=0.5, panel="Data"
    )
    calibration_share: float = option(
        0.08,
        "Share of the rest kept for quantization ranges, at most 256 images.",
        min=0.01,
        max=0.5,
        panel="Data",
    )
    certification_share: float = option(
        0.25, "Share kept for the parity proof where there is no test/.", min=0.02, max=0.8, panel="Data"
    )
    class_map: Path | None = option(
        None, "A file with one class name per line that fixes the class order.", panel="Data"
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataConfig):
    """What `train` may be told. None: the recipe decides."""

    recipe: Recipe = option(
        Recipe.DEFAULT,
        "default: frozen trunk, head, then fine-tuning of the top; classic: the widely copied Keras recipe.",
        panel="Training",
    )
    weights: str = option(
        "imagenet", "imagenet, edges, random, a weights file or a model folder.", panel="Network"
    )
    weights_input: TrunkInput = option(
        TrunkInput.KERAS, "What a foreign .onnx, .h5 or .keras trunk expects.", panel="Network"
    )
    allow_download: bool = option(
        False, "Let Keras fetch the ImageNet weights when they are not on this machine.", panel="Network"
    )
    image_size: int = option(
        96, "Height and width of the network's input, pixels.", min=32, max=512, panel="Network"
    )
    cut: Block | None = option(
        None,
        "Last block of VGG16 that is kept (default: block4 below 160 pixels, else block5; classic: block5).",
        panel="Network",
    )
    head: Head | None = option(None, "gap or flatten (default: gap; classic: flatten).", panel="Network")
    unfreeze: Unfreeze | None = option(
        None, "Lowest block to fine-tune (default: the top block; classic: all).", panel="Training"
    )
    epochs_head: int | None = option(
        None, "Epochs of stage 1 (default: 60; classic: 10).", min=1, max=10000, panel="Training"
    )
    epochs_finetune: int | None = option(
        None, "Epochs of stage 2 (default: 8; classic: 10).", min=0, max=10000, panel="Training"
    )
    steps_per_epoch: int | None = option(
        None, "Steps per epoch (default: all images; classic: 100).", min=1, panel="Training"
    )
    batch: int = option(32, "Images per step.", min=1, max=4096, panel="Training")
    optimizer: Optimizer = option(Optimizer.SGD, "sgd (Nesterov momentum 0.9) or adam.", panel="Training")
    rate_head: float | None = option(
        None, "Learning rate of stage 1 (default: 0.02; classic: 1e-4).", min=0, max=10, panel="Training"
    )
    rate_finetune: float | None = option(
        None, "Learning rate of stage 2 (default: 3e-4; classic: 1e-4).", min=0, max=10, panel="Training"
    )
    weight_decay: float | None = option(
        None,
        "L2 decay of kernels per step (default: 20 / training images; classic: 0).",
        min=0,
        max=1,
        panel="Training",
    )
    augment: Augment | None = option(
        None, "off, light or strong (default: light; classic: off).", panel="Training"
    )
    views: int | None = option(
        None,
        "Varied copies of each image in a frozen-trunk stage (default: 4).",
        min=1,
        max=64,
        panel="Training",
    )
    class_weights: ClassWeights = option(
        ClassWeights.NONE, "balanced: rare classes count more.", panel="Training"
    )
    patience: int | None = option(
        None,
        "Epochs without a better tuning loss that end a stage (default: 10, fine-tuning 3; classic: never).",
        min=1,
        panel="Training",
    )
    minutes: float | None = option(
        None, "Stop training after this many minutes and keep the best so far.", min=0.01, panel="Run"
    )
    tensorboard: Path | None = option(
        None, "Also write the curves for TensorBoard into this folder.", panel="Run"
    )
    resume: bool = option(False, "Continue a run that was interrupted.", panel="Run")
    overwrite: bool = option(
        False, "Replace the model folder if it exists, once the new model is complete.", panel="Run"
    )


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Checked):
    """Which artifact to score, and how."""

    artifact: str | None = option(
        None, "keras, onnx-fp32, onnx-int8, tflite-int8 ... (default: the best at hand)."
    )
    batch: int = option(32, "Images per step.", min=1, max=4096)
    threads: int = option(0, "CPU threads, 0: all.", min=0, max=1024)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Checked):
    """Which files to make."""

    format: str = option("onnx,tflite", "onnx, tflite or both, comma separated.")
    precision: str | None = option(
        None,
        "fp32, fp16, int8, w8a32 (dynamic range), w8a16 (TFLite only, slow on CPUs), comma separated "
        "(default: all but w8a16).",
    )
    data: Path | None = option(None, "Where the data folder is now (default: where it was at training).")
    calibration_images: int = option(
        200, "At most this many calibration images set the int8 ranges.", min=1, max=5000
    )
    threads: int = option(0, "CPU threads, 0: all.", min=0, max=1024)


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(Checked):
    """What parity is promised."""

    max_drop: float = option(1.0, "Largest loss of accuracy allowed, in points.", min=0.01, max=100)
    artifact: str | None = option(None, "One artifact (default: all).")
    data: Path | None = option(None, "Where the data folder is now (default: where it was at training).")
    batch: int = option(32, "Images per step.", min=1, max=4096)
    threads: int = option(0, "CPU threads, 0: all.", min=0, max=1024)


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Checked):
    """How to run a model over images."""

    artifact: str | None = option(
        None, "onnx-int8, tflite-int8 ... (default: the fastest ONNX file at parity)."
    )
    output: str = option("-", "A .parquet, .csv or .jsonl file; - prints JSON lines.")
    top: int = option(1, "Also give the K most likely classes.", min=1, max=1000)
    batch: int = option(16, "Images per step.", min=1, max=4096)
    threads: int = option(0, "CPU threads, 0: all.", min=0, max=1024)


@dataclass(frozen=True, kw_only=True)
class BenchConfig(Checked):
    """How long to measure."""

    artifact: str | None = option(None, "One artifact (default: all).")
    seconds: float = option(1.0, "Measuring time of each figure.", min=0.05, max=600)
    threads: int = option(0, "CPU threads, 0: all.", min=0, max=1024)


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Checked):
    """The guided run on shipped images."""

    image_size: int = option(64, "Height and width of the network's input, pixels.", min=32, max=512)
    max_drop: float = option(2.0, "Largest loss of accuracy allowed, in points.", min=0.01, max=100)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Checked):
    """Where the page goes."""

    output: Path | None = option(None, "The HTML file to write (default: report.html in the model folder).")
