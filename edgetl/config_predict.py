"""The settings of `predict`, which are many; `config` has them all."""

from dataclasses import dataclass

from edgetl.choices import BatchEngine
from edgetl.settings import Checked, option


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Checked):
    """How to run a model over images."""

    artifact: str | None = option(
        None, "onnx-int8, tflite-int8 ... (default: the fastest ONNX file at parity)."
    )
    output: str = option(
        "-",
        "A .parquet, .csv or .jsonl file; - prints JSON lines; a name that ends in / is a folder of parts.",
    )
    top: int = option(1, "Also give the K most likely classes.", min=1, max=1000)
    probabilities: bool = option(False, "Also give the probability of every class.")
    embeddings: bool = option(False, "Also give what the last layer sees (ONNX).")
    column: str | None = option(
        None, "The column of a Parquet or CSV file that has paths or images (default: path, image ...)."
    )
    batch: int | None = option(
        None, "Images per step (default: 16, fewer where one takes long).", min=1, max=4096
    )
    threads: int = option(0, "CPU threads of the engine, 0: all.", min=0, max=1024, panel="Large jobs")
    workers: int | None = option(
        None,
        "Decoder processes (default: one per CPU, none for few images); 0: threads of this process.",
        min=0,
        max=1024,
        panel="Large jobs",
    )
    memory: str | None = option(
        None, "Memory for all processes, such as 2GB (default: 3/4 of this machine's).", panel="Large jobs"
    )
    timeout: float = option(
        30.0, "Seconds that one image may take to decode.", min=0.1, max=86400, panel="Large jobs"
    )
    shard_rows: int = option(
        1024,
        "Rows that are kept together; they are kept every 30 s at least.",
        min=1,
        max=1000000,
        panel="Large jobs",
    )
    tune: bool = option(
        False,
        "First measure what is fastest here, and remember it for this model.",
        panel="Large jobs",
    )
    engine: BatchEngine = option(
        BatchEngine.LOCAL, "local: this machine; ray: a cluster that sees the images.", panel="Large jobs"
    )
    address: str | None = option(
        None,
        "Of the Ray cluster, such as auto or HOST:6379 (default: one of this machine).",
        panel="Large jobs",
    )
    exact_decoding: bool = option(
        False,
        "Decode large JPEG files whole (default: at a scale that leaves 4 times the input; within 4 of 255).",
        panel="Large jobs",
    )
