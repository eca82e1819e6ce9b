"""The settings of `export`; `config` has them all."""

from dataclasses import dataclass
from pathlib import Path

from edgetl.choices import Packing, Target
from edgetl.settings import Checked, option


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Checked):
    """Which files to make, or what they must keep to."""

    format: str = option("onnx,tflite", "onnx, tflite or both, comma separated.")
    precision: str | None = option(
        None,
        "fp32, fp16, int8, w8a32 (dynamic range), w8a16 (TFLite only, slow on CPUs), comma separated "
        "(default: all but w8a16; with a goal: whichever keep it).",
    )
    data: Path | None = option(None, "Where the data folder is now (default: where it was at training).")
    calibration_images: int = option(
        200, "At most this many calibration images set the int8 ranges.", min=1, max=5000
    )
    threads: int = option(0, "CPU threads, 0: all.", min=0, max=1024)
    packed: Packing | None = option(
        None,
        "Store files compressed, gz or zst: smaller to download; unpacked in memory, as fast as before.",
        panel="Download size",
    )
    cluster: int | None = option(
        None,
        "Let the weights of a layer share so many levels: smaller packed files, the same speed.",
        min=4,
        max=128,
        panel="Download size",
    )
    sparsity: float | None = option(
        None,
        "Make this share of the weights 0, the smallest: smaller packed files, the same speed.",
        min=0.05,
        max=0.95,
        panel="Download size",
    )
    max_drop: str | None = option(
        None,
        "Make the best file that loses less accuracy than this, proven: points (1.0), or a share of it (1%).",
        panel="Goals",
    )
    max_size: str | None = option(None, "Largest file allowed: 2MB.", panel="Goals")
    max_latency: float | None = option(
        None, "Longest time for one image on this machine, ms.", min=0.001, max=1e6, panel="Goals"
    )
    target: Target | None = option(
        None, "Where the files are to run (default: a CPU like this one).", panel="Goals"
    )
