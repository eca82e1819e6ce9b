"""`edgetl bench`."""

import math
from typing import TYPE_CHECKING

from edgetl.cli.command import ModelFolder, Outcome, command
from edgetl.cli.show import size, table
from edgetl.config import BenchConfig

if TYPE_CHECKING:
    from edgetl.steps.bench import Benched

COLUMNS = ("artifact", "size", "load ms", "p50 ms", "p95 ms", "images/s", "batch", "memory MiB", "x fp32")


@command(BenchConfig)
def bench(model: ModelFolder, config: BenchConfig) -> Outcome:
    """Measure load time, latency, throughput and memory of every artifact on this machine."""
    from edgetl.card import Model
    from edgetl.steps.bench import bench as step

    _, benched = step(Model.open(model), config)
    return Outcome(benched, _show)


def _show(benched: "Benched") -> None:
    rows = [
        (
            timing.artifact,
            size(timing.size_bytes),
            f"{timing.load_ms:.0f}",
            f"{timing.latency_p50_ms:.1f}",
            f"{timing.latency_p95_ms:.1f}",
            f"{timing.images_per_second:.1f}",
            str(timing.best_batch),
            f"{timing.peak_memory_mib:.0f}",
            "n/a" if math.isnan(timing.speed_ratio) else f"{timing.speed_ratio:.2f}",
        )
        for timing in benched.timings
    ]
    notes = [f"{benched.timings[0].cpu}, {benched.timings[0].threads} threads; p50 and p95 for one image at a time"]
    table("", COLUMNS, rows, notes)
