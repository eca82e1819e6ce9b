"""The proof on ten thousand images: every file of a default model on Fashion-MNIST.

`python benchmarks/fashion_parity.py WORK` needs Debian's `dataset-fashion-mnist` and about ten minutes.
"""

import sys
from pathlib import Path

from common import card, edgetl, publish, table
from fashion import write_folders


def main() -> None:
    """Train, unless that has been done, then export, verify and time."""
    work = Path(sys.argv[1])
    model = work / "Fashion-MNIST-default"
    if not model.exists():
        data = write_folders(work / "fashion-2000", train=200, val=50)
        edgetl("train", str(data), "-o", str(model), "--image-size", "64")
    publish("fashion-parity", "Parity on Fashion-MNIST", parity(model))


def parity(model: Path) -> str:
    """Export, verify at 1 point and bench; the table of what came out."""
    edgetl("export", str(model))
    verified = edgetl("verify", str(model), "--max-drop", "1.0", check=False)
    edgetl("bench", str(model), "--seconds", "3")
    found = card(model)
    rows = []
    for artifact in found["artifacts"]:
        result, timing = found["parity"][artifact["name"]], found["timing"][artifact["name"]]
        rows.append(
            (
                artifact["name"],
                f"{artifact['size_bytes'] / 1e6:.2f}",
                f"{100 * found['scores'][artifact['name']]['accuracy']:.2f} %",
                f"{result['drop_points']:+.2f}",
                f"{result['drop_upper_points']:.2f}",
                f"{result['sqnr_db']:.1f}" if result["sqnr_db"] is not None else "equal",
                result["verdict"],
                f"{timing['latency_p50_ms']:.1f}",
                f"{timing['images_per_second']:.0f}",
                "" if timing["speed_ratio"] is None else f"{timing['speed_ratio']:.2f}",
            )
        )
    header = (
        "file",
        "MB",
        "accuracy",
        "drop",
        "at most",
        "SQNR dB",
        "verdict",
        "p50 ms",
        "images/s",
        "x fp32",
    )
    images = found["reference"]["images"]
    return (
        f"`edgetl train --image-size 64` on 1,840 images: {images:,} certification images, `edgetl verify --max-drop 1.0` "
        f"(exit code {verified.exit_code}). Drops are points against full precision on the same images; *at most* is "
        "the one-sided 95 % bound.\n\n" + table(header, rows)
    )


if __name__ == "__main__":
    main()
