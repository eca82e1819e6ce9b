"""`edgetl bench`."""

import math
from typing import TYPE_CHECKING

from edgetl.cli.command import ModelFolder, Outcome, command
from edgetl.cli.show import size, table
from edgetl.config import BenchConfig

if TYPE_CHECKING:
    from edgetl.steps.bench import Benched

COLUMNS = ("artifact", "size", "load ms", "p50 ms", "p95 ms", "images/s", "batch", "MiB", "x fp32")


@command(BenchConfig)
def bench(model: ModelFolder, config: BenchConfig) -> Outcome:
    """Measure speed and memory on this machine. Load time, latency and throughput of every artifact."""
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
    first = benched.timings[0]
    note = f"{first.cpu}, {first.threads} threads; p50 and p95 for one image at a time; MiB: peak memory"
    table("", COLUMNS, rows, [note])
