"""Both orders: a head trained on float features, or on those of the int8 trunk that the device will run.

`python benchmarks/quantize_first.py WORK` needs Debian's `dataset-fashion-mnist` and about ten minutes.
"""

import sys
from pathlib import Path

import numpy as np
from common import card, edgetl, publish, table
from fashion import write_folders

from edgetl.card import Model
from edgetl.config import TrainConfig
from edgetl.dataset import Role, load
from edgetl.engines import open_classifier, run_batches
from edgetl.statistics import mcnemar_exact
from edgetl.steps.demo import copy_samples

SIDES = {"emoji": 96, "Fashion-MNIST": 64}
SEEDS = (0, 1, 2)


def main() -> None:
    """Head-only models of both orders, exported to int8 ONNX, on the same certification images."""
    work = Path(sys.argv[1])
    emoji = work / "emoji"
    if not emoji.exists():
        copy_samples(emoji, ("noto", "twemoji"))
    folders = {"emoji": emoji, "Fashion-MNIST": write_folders(work / "fashion-2000", train=200, val=50)}
    rows = []
    for name, data in folders.items():
        for seed in SEEDS:
            rows += compare(name, data, work, seed)
    header = (
        "data", "seed", "trunk in training", "first result", "full precision", "int8", "drop", "at most",
        "int8 right only: this / other", "p",
    )  # fmt: skip
    text = (
        "Linear heads without fine-tuning; the same images, cut and seed. *Drop* and *at most* (one-sided 95 % bound) "
        "are those of `edgetl verify`, int8 ONNX against the same head on the float trunk. The last columns compare "
        "the two int8 files with each other: images that only one of them gets right, and the exact McNemar test.\n\n"
        + table(header, rows)
        + "\n\nNeither order is more accurate; with int8 features the first result is there earlier, which is why they "
        "are the default where the CPU is made for them.\n"
    )
    publish("quantize-first", "Training the head on int8 features", text)


def compare(name: str, data: Path, work: Path, seed: int) -> list[tuple[str, ...]]:
    """One line for each order."""
    side = SIDES[name]
    models = {
        order: make(data, work / f"{name}-{order}-{seed}", order, side, seed) for order in ("fp32", "int8")
    }
    certification = load(data, side, side, TrainConfig(seed=seed)).roles[Role.CERTIFICATION]
    right = {}
    for order, folder in models.items():
        model = Model.open(folder)
        classifier = open_classifier(model, model.artifact("onnx-int8"))
        found = run_batches(classifier, certification.pixels, 32, order)
        right[order] = found.argmax(axis=1) == certification.labels
    lines = []
    for order, other in (("fp32", "int8"), ("int8", "fp32")):
        found = card(models[order])
        mine = int(np.count_nonzero(right[order] & ~right[other]))
        theirs = int(np.count_nonzero(right[other] & ~right[order]))
        parity = found["parity"]["onnx-int8"]
        lines.append(
            (
                name,
                str(seed),
                order,
                f"{found['training']['history'][0]['elapsed_seconds']:.0f} s",
                f"{100 * found['scores']['keras']['accuracy']:.2f} %",
                f"{100 * right[order].mean():.2f} %",
                f"{parity['drop_points']:+.2f}",
                f"{parity['drop_upper_points']:.2f}",
                f"{mine} / {theirs}",
                f"{mcnemar_exact(mine, theirs):.2f}",
            )
        )
    return lines


def make(data: Path, model: Path, order: str, side: int, seed: int) -> Path:
    """A model with an int8 ONNX file that was verified."""
    if not model.exists():
        edgetl(
            "train", str(data), "-o", str(model), "--features", order, "--unfreeze", "none", "--views", "1",
            "--image-size", str(side), "--seed", str(seed), "--cache-folder", str(model) + "-cache",
        )  # fmt: skip
        edgetl("export", str(model), "--format", "onnx", "--precision", "int8")
        edgetl("verify", str(model), "--max-drop", "1.0", check=False)
    return model


if __name__ == "__main__":
    main()
