"""What makes a small network as good as its parent: where it begins, and what it learns from.

`python benchmarks/distillation.py WORK [--epochs 30]` needs Debian's `dataset-fashion-mnist` and about an hour. All
networks have the same channels; only one thing differs from `edgetl compress` in each line.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import edgetl, publish, table
from fashion import write_folders

from edgetl.card import Model, ModelCard
from edgetl.config import CompressConfig
from edgetl.dataset import Role
from edgetl.keras.checkpoint import Checkpoint, Clock
from edgetl.keras.classifier import open_layers
from edgetl.keras.compressing import lesson_plan, start_of
from edgetl.keras.distill import Distillation, distill
from edgetl.keras.inputs import in_batches
from edgetl.keras.network import Layers, make_layers, whole
from edgetl.reference import read_reference
from edgetl.statistics import paired_drop
from edgetl.steps.compress import same_dataset
from edgetl.steps.making import Sources
from edgetl.steps.promise import FloatNetwork
from edgetl.steps.teaching import work_of
from edgetl.steps.workshop import Work, goals_for, prepare

WIDTHS = (16, 16, 32, 32, 48, 48, 64, 96, 96, 128)
SIDE = 64
VARIANTS: dict[str, dict[str, float]] = {
    "as it is": {},
    "temperature 1": {"temperature": 1.0},
    "temperature 2": {"temperature": 2.0},
    "temperature 8": {"temperature": 8.0},
    "no labels": {"label_weight": 0.0},
    "half labels": {"label_weight": 0.5},
    "labels alone": {"label_weight": 1.0},
    "a third of the rate": {"rate": 1e-4},
    "three times the rate": {"rate": 1e-3},
}


def main() -> None:
    """Every variant from the same start, then other starts."""
    asked, rows, found = asked_and_measured(__doc__, "distillation", measured)
    pictures = lesson_plan(
        CompressConfig(), found.data.roles["train"].images, work_of(found), flip=True
    ).pictures
    header = ("begins with", "learns", "tuning", "test", "drop", "at most", "seconds")
    text = (
        f"Fashion-MNIST, {found.data.roles['train'].images:,} training images, {SIDE} pixels, channels "
        f"{'-'.join(map(str, WIDTHS))} of {'-'.join(map(str, found.network.channels))}, {asked.epochs} epochs of "
        f"{pictures} pictures each, one seed: differences of 0.3 points are chance. Float networks on tuning and test images; *drop* and "
        "*at most* (exact one-sided 95 % bound) in points against the parent.\n\n" + table(header, rows)
    )
    publish("distillation", "Where a small network begins, and what it learns from", text)


def asked_and_measured(
    about: str | None, name: str, measure: Callable[[Path, Path, int], list[tuple[str, ...]]]
) -> tuple[argparse.Namespace, list[tuple[str, ...]], ModelCard]:
    """What the command line says, the rows of `measure`, kept in the working folder, and the parent's card."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    asked = parser.parse_args()
    parent = parent_of(asked.work)
    kept = asked.work / f"{name}-{asked.epochs}-rows.json"  # delete it to train anew
    if not kept.is_file():
        kept.write_text(json.dumps(measure(parent, asked.work, asked.epochs)), encoding="utf-8")
    rows = [tuple(row) for row in json.loads(kept.read_text(encoding="utf-8"))]
    return asked, rows, Model.open(parent).card


def parent_of(work: Path) -> Path:
    """The network that all begin with, trained when it is missing."""
    parent = work / "distillation-parent"
    if not parent.exists():
        data = write_folders(work / "fashion-2000", train=200, val=50)
        edgetl(
            "train", str(data), "-o", str(parent), "--image-size", str(SIDE), "--epochs-finetune", "40",
            "--patience", "40",
        )  # fmt: skip
    return parent


def measured(parent: Path, work: Path, epochs: int) -> list[tuple[str, ...]]:
    """One line for each start and way to learn."""
    bench = Bench(prepared(Model.open(parent), CompressConfig(epochs=epochs), work))
    larger = bench.work.larger
    start = start_of(larger, WIDTHS, larger.layers.network.cut)
    rows = [bench.row("ranked and fitted", "before it learns", start, None)]
    rows += [bench.row("ranked and fitted", name, start, changed) for name, changed in VARIANTS.items()]
    for name, make in {"largest weights, left as they were": by_weights, "random weights": at_random}.items():
        rows.append(bench.row(name, "before it learns", make(bench.work, start), None))
        rows.append(bench.row(name, "as it is", make(bench.work, start), {}))
    return rows


def prepared(model: Model, config: CompressConfig, work: Path) -> Work:
    """What `edgetl compress` has before its first try."""
    partial = work / "distillation.partial"
    partial.mkdir(exist_ok=True)
    dataset = same_dataset(model, model.data_folder, config, partial)
    sources = Sources(open_layers(model), dataset.roles[Role.CALIBRATION].pixels[:])
    goals = goals_for(config, model.card)
    parent = FloatNetwork(model, sources)
    return prepare(config, goals, parent, dataset, together=1, partial=partial, began=time.monotonic())


class Bench:
    """The images that networks are compared on."""

    def __init__(self, work: Work) -> None:
        self.work = work
        reference = read_reference(work.parent.model)
        self.right = reference.probabilities.argmax(axis=1) == reference.labels

    def row(
        self, begins: str, learns: str, start: Layers, changed: dict[str, float] | None
    ) -> tuple[str, ...]:
        """Train with one thing changed (None: not at all), and see what comes of it."""
        if changed is None:
            return self.row_of(begins, learns, lambda: start, timed=False)
        return self.row_of(begins, learns, lambda: self.trained(start, changed))

    def row_of(
        self, begins: str, learns: str, make: Callable[[], Layers], *, timed: bool = True
    ) -> tuple[str, ...]:
        """Make a network, and see what it is worth."""
        began = time.perf_counter()
        layers = make()
        seconds = time.perf_counter() - began
        roles = self.work.dataset.roles
        accuracies = []
        for role in (Role.TUNING, Role.CERTIFICATION):
            found = in_batches(whole(layers).predict_on_batch, roles[role].pixels).argmax(axis=1)
            accuracies.append(found == roles[role].labels)
        drop = paired_drop(self.right, accuracies[1], 0.05)
        line = (
            begins, learns, f"{100 * accuracies[0].mean():.1f} %", f"{100 * accuracies[1].mean():.2f} %",
            f"{100 * drop.drop:+.2f}", f"{100 * drop.upper:.2f}", f"{seconds:.0f}" if timed else "",
        )  # fmt: skip
        print(line, flush=True)
        return line

    def trained(self, start: Layers, changed: dict[str, float]) -> Layers:
        """After learning."""
        work = self.work
        settings = replace(work.settings, **changed)
        checkpoint = Checkpoint(work.partial / "none.npz", repr(settings), resume=False)
        tuning = work.dataset.roles[Role.TUNING]
        run = Distillation("try", work.larger.lessons, tuning, settings, checkpoint, Clock(None, 0.0), 0.0)
        return distill(start, run, lambda _record: None)


def by_weights(work: Work, start: Layers) -> Layers:
    """Filters with the largest sums of absolute weights, nothing fitted (Li et al., ICLR 2017)."""
    parent = work.larger.layers
    made = make_layers(start.network, start.spec)
    whole(made)
    inputs = np.arange(3)
    for old, new in zip(parent.convolutions, made.convolutions, strict=True):
        kernel, bias = old.get_weights()
        outputs = np.sort(np.argsort(-np.abs(kernel).sum(axis=(0, 1, 2)))[: new.filters])
        new.set_weights([kernel[:, :, inputs][..., outputs], bias[outputs]])
        inputs = outputs
    return made


def at_random(_work: Work, start: Layers) -> Layers:
    """He initialisation."""
    made = make_layers(start.network, start.spec)
    whole(made)
    return made


if __name__ == "__main__":
    main()
