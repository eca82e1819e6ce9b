"""The settings of `compress`, which are many; `config` has them all."""

from dataclasses import dataclass
from pathlib import Path

from edgetl.choices import Augment, Block
from edgetl.settings import Checked, option


@dataclass(frozen=True, kw_only=True)
class CompressConfig(Checked):
    """How small, how fast, how true. With sizes and times those of int8 files are meant."""

    max_drop: str = option(
        "1.0",
        "Largest loss of accuracy against MODEL in full precision, proven: points, or a share of it (1%).",
        panel="Goals",
    )
    max_size: str | None = option(None, "Largest int8 file allowed: 800KB.", panel="Goals")
    max_latency: float | None = option(
        None, "Longest time for one image on this machine, ms.", min=0.001, max=1e6, panel="Goals"
    )
    macs: float | None = option(
        None, "Most multiply-adds for one image, in millions.", min=0.1, max=1e6, panel="Goals"
    )
    keep: float | None = option(
        None, "Keep this share of the channels of every layer.", min=0.01, max=1, panel="Goals"
    )
    widths: str | None = option(
        None, "Keep exactly so many channels, layer by layer: 16,16,32,32 ...", panel="Goals"
    )
    cut: Block | None = option(
        None, "Last block of the smaller network (default: as far up as proves useful).", panel="Goals"
    )
    minutes: float | None = option(None, "Time for the whole command.", min=0.1, panel="Run")
    unlabelled: Path | None = option(
        None, "A folder of further images without labels to learn from.", panel="Training"
    )
    epochs: int | None = option(
        None,
        "Epochs for each network that is tried (default: by the number of images and the network's work).",
        min=1,
        panel="Training",
    )
    pictures: int | None = option(
        None,
        "Varied and mixed pictures of each image to learn from (default: by the number of images).",
        min=1,
        max=256,
        panel="Training",
    )
    student: str | None = option(
        None,
        "Rivals, never chosen or written: mobilenet_v2, mobilenet_v2_035, mobilenet_v3_small, "
        "efficientnet_b0, efficientnet_lite0, comma separated.",
        panel="Training",
    )
    student_weights: Path | None = option(
        None,
        "Weights that --student begins with: .h5 or .keras of tf_keras, without top (default: random).",
        panel="Training",
    )
    augment: Augment = option(Augment.LIGHT, "off, light or strong.", panel="Training")
    temperature: float = option(
        4.0, "How far the larger network's answers are softened.", min=0.5, max=50, panel="Training"
    )
    label_weight: float = option(
        0.1,
        "Share of the labels in the loss; the rest is the larger network's.",
        min=0,
        max=1,
        panel="Training",
    )
    rate: float = option(3e-4, "Learning rate at its height.", min=0, max=1, panel="Training")
    batch: int = option(64, "Images per step.", min=1, max=4096, panel="Training")
    seed: int = option(0, "Seed of every random choice.", min=0, panel="Training")
    format: str = option("onnx,tflite", "onnx, tflite or both, comma separated.", panel="Run")
    class_map: Path | None = option(
        None, "The file with class names that MODEL was trained with, if any.", panel="Run"
    )
    threads: int = option(0, "CPU threads, 0: all.", min=0, max=1024, panel="Run")
    resume: bool = option(
        False, "Go on with what was interrupted; also with other goals after they were missed.", panel="Run"
    )
    overwrite: bool = option(
        False, "Replace the model folder if it exists, once the new model is complete.", panel="Run"
    )
