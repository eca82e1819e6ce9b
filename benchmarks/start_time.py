"""CPU seconds of `edgetl --help` and of other starts: `python benchmarks/start_time.py`."""

import statistics
import sys

from common import ROOT, publish, run, table

REPEATS = 15
CASES = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "import typer": (sys.executable, "-c", "import typer"),
    "import edgetl": (sys.executable, "-c", "import edgetl"),
    "edgetl --help": (sys.executable, "-m", "edgetl", "--help"),
    "edgetl train --help": (sys.executable, "-m", "edgetl", "train", "--help"),
    "edgetl predict (one image, models/demo)": (
        sys.executable, "-m", "edgetl", "predict", str(ROOT / "models/demo"),
        str(next((ROOT / "edgetl/samples/noto/test/flag").glob("*.png"))),
    ),
}  # fmt: skip


def main() -> None:
    """Run the cases in turn, so that a slow moment hits all of them."""
    cpu: dict[str, list[float]] = {name: [] for name in CASES}
    wall: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(REPEATS):
        for name, command in CASES.items():
            done = run(*command)
            cpu[name].append(done.cpu_seconds)
            wall[name].append(done.wall_seconds)
    rows = [
        (
            name,
            f"{statistics.median(cpu[name]):.2f}",
            f"{max(cpu[name]):.2f}",
            f"{statistics.median(wall[name]):.2f}",
        )
        for name in CASES
    ]
    header = ("start", "CPU s, median", "CPU s, largest", "wall s, median")
    text = (
        f"Whole processes, {REPEATS} rounds in turn. Target for `edgetl --help`: at most 0.35 s of CPU.\n\n"
    )
    publish("start", "Starting", text + table(header, rows))


if __name__ == "__main__":
    main()
