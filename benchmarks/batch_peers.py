"""Other tools at the work of `batch.py`; runs in an environment of its own, which has them and no edgetl.

    python batch_peers.py {ultralytics|openvino} MODEL.onnx PHOTOS

Prints images, seconds, CPU seconds and bytes written, without the start of Python.
"""

import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

BATCH = 16
SECONDS = 10  # of benchmark_app


def side_of(network: onnx.ModelProto) -> int:
    """Height and width of what it takes."""
    return network.graph.input[0].type.tensor_type.shape.dim[1].dim_value


def wrapped(network: onnx.ModelProto) -> onnx.ModelProto:
    """Give it the form that Ultralytics takes: float RGB in 0..1, [N, 3, H, W], with its metadata."""
    side, graph = side_of(network), network.graph
    (image,) = graph.input
    levels = helper.make_tensor("levels", TensorProto.FLOAT, (), [255.0])
    graph.initializer.append(levels)
    nodes = [
        helper.make_node("Mul", ["images", "levels"], ["images_levels"]),
        helper.make_node("Round", ["images_levels"], ["images_rounded"]),
        helper.make_node("Cast", ["images_rounded"], ["images_uint8"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["images_uint8"], [image.name], perm=[0, 2, 3, 1]),
    ]
    others = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes + others)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, side, side]))
    classes = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    names = {number: str(number) for number in range(classes)}
    told = {
        "task": "classify",
        "stride": 1,
        "imgsz": [side, side],
        "batch": BATCH,
        "names": names,
        "dynamic": True,
    }
    del network.metadata_props[:]
    helper.set_model_props(network, {name: str(value) for name, value in told.items()})
    return network


def ultralytics(model: Path, photos: Path) -> tuple[int, float, float]:
    """What `yolo classify predict model=... source=...` runs, after its start: images, seconds, CPU seconds."""
    from ultralytics import YOLO

    network = onnx.load(model)
    side = side_of(network)
    with tempfile.TemporaryDirectory() as scratch:
        usable = Path(scratch) / "model.onnx"
        onnx.save(wrapped(network), usable)
        started, before = time.perf_counter(), used().seconds
        found = YOLO(str(usable), task="classify").predict(
            source=str(photos), stream=True, batch=BATCH, imgsz=side, device="cpu", save=False,
            verbose=False,
        )  # fmt: skip
        images = sum(1 for _ in found)
        return images, time.perf_counter() - started, used().seconds - before


def openvino(model: Path, photos: Path) -> tuple[int, float, float]:
    """The engine alone: images, and the seconds and CPU seconds that they take at the rate benchmark_app reports."""
    side = side_of(onnx.load(model))
    command = [
        Path(sys.executable).with_name("benchmark_app"),
        "-m",
        model,
        "-d",
        "CPU",
        "-hint",
        "throughput",
    ]
    command += ["-t", str(SECONDS), "-shape", f"[{BATCH},{side},{side},3]"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = float(re.search(r"Throughput:\s+([\d.]+)", told)[1])
    images = len(list(photos.iterdir()))
    return images, images / rate, used().seconds * images / (rate * SECONDS)


@dataclass(frozen=True)
class Used:
    """What this process and its children have used so far."""

    seconds: float  # of CPU
    written: int  # bytes


def used() -> Used:
    """See `Used`."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Used(sum(one.ru_utime + one.ru_stime for one in usage), 512 * sum(one.ru_oublock for one in usage))


if __name__ == "__main__":
    way = {"ultralytics": ultralytics, "openvino": openvino}[sys.argv[1]]
    print(*way(Path(sys.argv[2]), Path(sys.argv[3])), used().written)
