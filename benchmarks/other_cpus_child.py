"""Run one exported file over prepared images, batch by batch, and keep every finished batch.

`python other_cpus_child.py ENGINE FILE PIXELS.npy OUTPUT [--batch 8] [--session-option KEY=VALUE]` needs
numpy and the file's engine, not edgetl, so that it runs where only these are: under an emulator, on a device. OUTPUT gets
`seen.json` (what the CPU looks like from inside) and one `START-STOP.npy` of float32 probabilities per batch. Batches
that are there are not computed again, so a run that was cut off goes on.
"""

import argparse
import io
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ERRORS_ONLY = 3  # of onnxruntime's log levels


def main() -> None:
    """Compute the batches that are missing, with one thread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=("onnx", "tflite"))
    parser.add_argument("file", type=Path)
    parser.add_argument("pixels", type=Path, help="uint8 RGB [N, H, W, 3]")
    parser.add_argument("output", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--session-option", action="append", default=[], help="of ONNX Runtime: KEY=VALUE")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    write(chosen.output / "seen.json", json.dumps(seen()).encode())
    pixels = np.load(chosen.pixels, mmap_mode="r")
    missing = [
        (start, stop)
        for start, stop in batches(len(pixels), chosen.batch)
        if not (chosen.output / batch_name(start, stop)).exists()
    ]
    if missing:
        compute(missing, pixels, chosen)


def compute(missing: list[tuple[int, int]], pixels: np.ndarray, chosen: argparse.Namespace) -> None:
    """Write the probabilities of each of these batches, with a line of progress."""
    content = chosen.file.read_bytes()
    classify = tflite(content) if chosen.engine == "tflite" else onnx(content, chosen.session_option)
    started = time.monotonic()
    for start, stop in missing:
        found = classify(np.ascontiguousarray(pixels[start:stop]))
        write_array(chosen.output / batch_name(start, stop), found)
        print(f"  {stop} of {len(pixels)} images, {time.monotonic() - started:.0f} s", flush=True)


def batches(images: int, batch: int) -> list[tuple[int, int]]:
    """First image and the one after the last of each batch."""
    return [(start, min(start + batch, images)) for start in range(0, images, batch)]


def batch_name(start: int, stop: int) -> str:
    """The file of the images from `start` up to, not including, `stop`."""
    return f"{start:06d}-{stop:06d}.npy"


def seen() -> dict[str, object]:
    """The CPU as numpy finds it: not /proc/cpuinfo, where an emulator shows the real one."""
    features = np._core._multiarray_umath.__cpu_features__  # noqa: SLF001 - numpy has no public form of it
    return {
        "machine": platform.machine(),
        "features": sorted(name for name, there in features.items() if there),
    }


def onnx(content: bytes, entries: list[str]) -> Callable[[np.ndarray], np.ndarray]:
    """As edgetl/engines/onnx.py opens a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    for entry in entries:
        options.add_session_config_entry(*entry.split("=", 1))
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})[0]


def tflite(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """As edgetl/engines/tflite.py opens a file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    place = interpreter.get_input_details()[0]["index"]
    output = interpreter.get_output_details()[0]["index"]

    def classify(pixels: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(place, pixels.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(place, pixels)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return classify


def write_array(path: Path, array: np.ndarray) -> None:
    """As float32, whole or not at all."""
    content = io.BytesIO()
    np.save(content, np.asarray(array, np.float32))
    write(path, content.getvalue())


def write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)


if __name__ == "__main__":
    main()
