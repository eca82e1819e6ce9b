"""Every setting, declared once: type, default, range, help; the flag, the check and the card follow."""

from dataclasses import dataclass
from pathlib import Path

from edgetl.choices import (
    FASTEST_FIRST,
    Arithmetic,
    Augment,
    BatchEngine,
    Block,
    ClassWeights,
    FeaturePrecision,
    Format,
    Head,
    Optimizer,
    Packing,
    Precision,
    Recipe,
    Target,
    TrunkInput,
    Unfreeze,
)
from edgetl.config_compress import CompressConfig
from edgetl.config_export import ExportConfig
from edgetl.config_predict import PredictConfig
from edgetl.settings import Checked, option

__all__ = [
    "FASTEST_FIRST",
    "Arithmetic",
    "Augment",
    "BatchEngine",
    "BenchConfig",
    "Block",
    "CacheConfig",
    "ClassWeights",
    "CompressConfig",
    "DataConfig",
    "DemoConfig",
    "DriftConfig",
    "EvalConfig",
    "ExportConfig",
    "FeaturePrecision",
    "Format",
    "Head",
    "Optimizer",
    "Packing",
    "Precision",
    "PredictConfig",
    "Recipe",
    "ReportConfig",
    "Target",
    "TrainConfig",
    "TrunkInput",
    "Unfreeze",
    "VerifyConfig",
]


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
    minutes: float | None = option(
        None, "Time for the whole command: a plan is made that keeps to it.", min=0.01, panel="Training"
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
    image_size: int | None = option(
        None,
        "Height and width of the network's input, pixels (default: 96, or what the minutes allow).",
        min=32,
        max=512,
        panel="Network",
    )
    cut: Block | None = option(
        None,
        "Last block of VGG16 that is kept (default: the best of block3, 4 and 5 by its features; "
        "classic: block5).",
        panel="Network",
    )
    head: Head | None = option(
        None,
        "gap, max, grid or flatten (default: one of the first three, by their features; classic: flatten).",
        panel="Network",
    )
    scales: int | None = option(
        None,
        "Blocks that the head sees, 1: the last, 2: also the one below (default: by their features).",
        min=1,
        max=2,
        panel="Network",
    )
    features: FeaturePrecision = option(
        FeaturePrecision.AUTO,
        "Precision of the frozen trunk in training, fp32 or int8 as on the device (auto: int8 where the CPU "
        "is made for it).",
        panel="Training",
    )
    unfreeze: Unfreeze | None = option(
        None,
        "Lowest block to fine-tune (default: the top block, all for many images; classic: all).",
        panel="Training",
    )
    epochs_head: int | None = option(
        None,
        "Epochs of a head with a hidden layer (default: 60; classic: 10); other heads have a closed form.",
        min=1,
        max=10000,
        panel="Training",
    )
    epochs_finetune: int | None = option(
        None, "Epochs of fine-tuning (default: 8; classic: 10).", min=0, max=10000, panel="Training"
    )
    steps_per_epoch: int | None = option(
        None, "Steps per epoch (default: all images; classic: 100).", min=1, panel="Training"
    )
    batch: int | None = option(
        None, "Images per step (default: 32, 64 from 20,000 images).", min=1, max=4096, panel="Training"
    )
    optimizer: Optimizer | None = option(
        None,
        "sgd (Nesterov momentum 0.9) or adam (default: sgd, adam from 20,000 images; classic: sgd).",
        panel="Training",
    )
    arithmetic: Arithmetic = option(
        Arithmetic.AUTO,
        "float32 or bfloat16 for fine-tuning (auto: bfloat16 where the CPU has it).",
        panel="Training",
    )
    rate_head: float | None = option(
        None,
        "Learning rate of a head with a hidden layer (default: 0.02; classic: 1e-4).",
        min=0,
        max=10,
        panel="Training",
    )
    rate_finetune: float | None = option(
        None,
        "Learning rate of fine-tuning (default: 1e-3, adam 2e-4; classic: 1e-4).",
        min=0,
        max=10,
        panel="Training",
    )
    weight_decay: float | None = option(
        None,
        "L2 decay of kernels per step (default: the head's penalty; classic: 0).",
        min=0,
        max=1,
        panel="Training",
    )
    augment: Augment | None = option(
        None, "off, light or strong (default: light; classic: off).", panel="Training"
    )
    views: int | None = option(
        None,
        "Varied copies of each image for the frozen trunk, the image itself among them (default: 4, "
        "1 from 20,000 images).",
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
    cache_folder: Path | None = option(
        None,
        "Where activations are kept for later runs (default: as edgetl cache says).",
        panel="Run",
    )
    cache_limit: str = option(
        "10GB", "Most that all kept activations may take; the least recently used go first.", panel="Run"
    )
    shrink: bool = option(
        False, "Use fewer views, or none, when disk or limit are too small for the plan.", panel="Run"
    )
    workers_config: Path | None = option(
        None,
        "Share fine-tuning among machines: a JSON file with their addresses and this one's number.",
        panel="Run",
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
    renew_reference: bool = option(
        False, "First store full-precision probabilities anew, for images as this edgetl decodes them."
    )


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(Checked):
    """What parity is promised."""

    max_drop: float = option(1.0, "Largest loss of accuracy allowed, in points.", min=0.01, max=100)
    artifact: str | None = option(None, "One artifact (default: all).")
    data: Path | None = option(None, "Where the data folder is now (default: where it was at training).")
    batch: int = option(32, "Images per step.", min=1, max=4096)
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


@dataclass(frozen=True, kw_only=True)
class CacheConfig(Checked):
    """What to do with stored activations."""

    clear: bool = option(False, "Remove everything that no running process uses.")
    older_than: float | None = option(
        None, "With --clear: only what was last used this many days ago or earlier.", min=0, max=100000
    )
    limit: str | None = option(
        None, "Remove what was used least recently down to this size, such as 4GB or 512MiB."
    )
    folder: Path | None = option(
        None, "The cache (default: $EDGETL_CACHE_DIR, $XDG_CACHE_HOME/edgetl or ~/.cache/edgetl)."
    )


@dataclass(frozen=True, kw_only=True)
class DriftConfig(Checked):
    """What is compared, and how much may change."""

    reference: Path | None = option(
        None, "Earlier results to compare with (default: the certification images)."
    )
    tolerance: float = option(0.1, "Change allowed: KL in nats, PSI / 2, share moved.", min=0.001, max=1)
    vectors: int = option(1000, "Rows of each side whose vectors are compared.", min=50, max=3000)
    seed: int = option(0, "Seed of every random choice.", min=0)
