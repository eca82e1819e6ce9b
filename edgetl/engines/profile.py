"""Where the time of an ONNX file goes, node by node, as ONNX Runtime's own profiler tells it."""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

RUNS, WARM_RUNS = 12, 3


def node_times(content: bytes, name: str, values: NDArray[np.generic]) -> list[tuple[str, float]]:
    """Operator and milliseconds, median over runs, of each node of the optimised graph, in order.

    name: of the graph's only input, which gets `values`.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for _ in range(WARM_RUNS + RUNS):
            session.run(None, {name: values})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            node = event["name"], str(event["args"].get("op_name"))
            found.setdefault(node, []).append(event["dur"] / 1000)
    return [(operator, float(np.median(times[WARM_RUNS:]))) for (_, operator), times in found.items()]
