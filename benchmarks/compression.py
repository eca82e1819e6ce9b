"""How small and how fast: the ladder of `edgetl compress`, against the network it began with.

    python benchmarks/compression.py WORK [--rung NAME ...] [--students] [CASE ...]

A case is a data set, a number of pixels and a seed: fashion-2000-64-0, emoji-64-0, fashion-60000-48-0 ...
Needs Debian's `dataset-fashion-mnist`. Networks that are in WORK already are not trained again; speed is
measured anew, all files in turn. A case of 2,000 images takes about half an hour, one of 60,000 two hours and
another for each rung. --rung makes only those it names. --students lets every rival learn beside one rung
instead (an hour), and lists what they reach. Each case has its own section of the page.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from common import WARM_SECONDS, card, edgetl, publish, seconds_alone, table
from fashion import write_folders

from edgetl.card import Model, ModelCard
from edgetl.config import Format, Precision
from edgetl.engines import classifier_of
from edgetl.keras import tf_keras
from edgetl.keras.classifier import open_layers
from edgetl.keras.network import Layers, copy_weights, make_layers
from edgetl.steps.demo import copy_samples
from edgetl.steps.making import Sources, Variant, build
from edgetl.vgg16 import layer_multiplications

LADDER = {  # name and options of each rung; multiply-adds are those for one pixel
    "800 kB, fast": ("--max-size", "800KB", "--macs", "12000"),
    "25 %": ("--keep", "0.25"),
    "800 kB, 15 times": ("--max-size", "800KB", "--macs", "24000"),
    "800 kB": ("--max-size", "800KB"),
}
STUDENTS = "mobilenet_v2,mobilenet_v2_035,mobilenet_v3_small,efficientnet_b0,efficientnet_lite0"
BESIDE = ("--keep", "0.25", "--epochs", "82")  # what rivals learn beside
PUBLISHED = (
    "What others published of VGG16, each on its own data, which is harder (ImageNet, 1,000 classes) or other (CIFAR-10), so "
    "that ratios cannot be compared: ThiNet (ICCV 2017) 3.2 times fewer multiply-adds for 1.7 points of top-1 accuracy; He, "
    "Zhang and Sun (ICCV 2017) 5 times for 1.7 points of top-5; Network Slimming (ICCV 2017, CIFAR-10, VGG with batch "
    "normalisation) 20 times smaller and 5 times fewer operations in several rounds; Deep Compression (ICLR "
    "2016) 49 times smaller to download, no point lost, no dense engine faster. What tfmot does alone, zeros and shared weights, "
    "is under *Download size*: smaller packed files, no engine faster. The largest filters (Li et al., ICLR 2017) are under "
    "*Which channels to keep*."
)
LARGE = 224  # pixels of published figures
LARGE_MINUTES = "45"  # for a smaller network of such a parent
BATCH, ROUNDS = 8, 9
KERAS_IMAGES = 48
FLOAT_BYTES = 4
INTRODUCTION = (
    "`edgetl compress` from one trained parent, its data and seed; each case has its own table below. *Drop* and *at most* "
    "(exact one-sided 95 % bound, points) are those of the int8 files against the unpruned parent in full precision on the "
    f"test images. Images/s: batch {BATCH}, medians of {ROUNDS} rounds in which all files of a case run in turn, each "
    f"after {WARM_SECONDS} seconds of its own batches; at {LARGE} pixels the same network with the same weights. *x fp32*: "
    f"over the unpruned float32 file in the same engine at {LARGE} pixels; *x Keras*: over Keras's ImageDataGenerator and "
    f"`predict` with the classic VGG16 at {LARGE} pixels, reading files included, measured in the same run. *MAC*: how many "
    "times fewer multiply-adds than the parent; *smaller*: how many times smaller than the float32 weights of the classic "
    "VGG16. *Minutes*: of the whole command, when the network was made; those of parents beside other "
    f"work. At {LARGE} pixels `--minutes {LARGE_MINUTES}` ends the learning, also beside other work. The host is slower on "
    "some days: rates of different cases cannot be compared, ratios can. The network of "
    "60,000 images learnt from mirrored pictures too, which today it would not: its parent did not. Emoji networks of 0.78 MB and of "
    "64 pixels learnt from 16 pictures of each image, which today would be 87, and networks of 2,000 garments for 82 epochs, today up to 179. "
    "The Keras path's rate varies from run to run, "
    "and *x Keras* with it."
)
PARENT_EPOCHS = {"fashion-2000": 90, "emoji": 120, "fashion-60000": 12}  # 12: two hours
LARGE_EPOCHS = 40  # of parents that learn from images of that many pixels
MAX_DROP = {"fashion-2000": "3", "emoji": "20", "fashion-60000": "3"}  # few test images prove little


@dataclass(frozen=True)
class Case:
    """One data set at one size with one seed."""

    data: str
    side: int
    seed: int

    @property
    def name(self) -> str:
        """fashion-2000-64-0."""
        return f"{self.data}-{self.side}-{self.seed}"


def main() -> None:
    """Every case that was named, or one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("names", nargs="*", default=["fashion-2000-64-0"])
    parser.add_argument("--students", action="store_true")
    parser.add_argument("--rung", action="append", choices=LADDER)
    asked = parser.parse_args()
    for name in asked.names:
        data, side, seed = name.rsplit("-", 2)
        case = Case(data, int(side), int(seed))
        if asked.students:
            publish(
                f"rivals {name}",
                f"Fewer channels and other networks: {name}",
                rivals_text(rivals(case, asked.work)),
            )
        else:
            figures = measure(case, asked.work, asked.rung or list(LADDER))
            publish(f"compression {name}", f"Fewer channels: {name}", case_text(figures))
    publish("compression", "Fewer channels", f"{INTRODUCTION}\n\n{PUBLISHED}")


def measure(case: Case, work: Path, rungs: Sequence[str]) -> dict:
    """Train what is missing, time everything, and give the figures."""
    parent = parent_of(case, work)
    models = {}
    for name in rungs:
        models[name] = compressed(case, parent, name, options_of(case, name))
    rates = {side: speeds(parent, models, side) for side in sorted({case.side, LARGE})}
    rate, weights = keras_rate(work, case)
    figures = {"keras": rate, "parent": facts(parent)}
    figures["classic_bytes"] = FLOAT_BYTES * weights
    figures["rungs"] = {name: facts(model) for name, model in models.items()}
    figures["rates"] = {str(side): found for side, found in rates.items()}
    return figures


def options_of(case: Case, rung: str) -> list[str]:
    """What `compress` is told for a rung at the case's number of pixels."""
    options = [*LADDER[rung]]
    if "--macs" in options:
        options[-1] = f"{float(options[-1]) * case.side**2 / 1e6:g}"
    if case.side == LARGE:
        options += ["--minutes", LARGE_MINUTES]
    return options


def rivals(case: Case, work: Path) -> list[dict]:
    """Every network tried, of one run in which the rivals learn beside the pruned VGG16."""
    options = [*BESIDE, "--student", STUDENTS]
    return card(compressed(case, parent_of(case, work), "rivals", options))["compression"]["attempts"]


def parent_of(case: Case, work: Path) -> Path:
    """The unpruned network, trained when it is missing."""
    parent = work / f"{case.name}-parent"
    if not parent.exists():
        epochs = str(LARGE_EPOCHS if case.side == LARGE else PARENT_EPOCHS[case.data])
        edgetl(
            "train", str(folder_of(case, work)), "-o", str(parent), "--image-size", str(case.side),
            "--epochs-finetune", epochs, "--patience", epochs, "--seed", str(case.seed),
            "--cache-folder", str(work / "cache"),
        )  # fmt: skip
    return parent


def compressed(case: Case, parent: Path, name: str, options: Sequence[str]) -> Path:
    """A smaller network of it, made when it is missing."""
    model = parent.with_name(f"{case.name}-{name.replace(' ', '').replace('%', '').replace(',', '-')}")
    if not model.exists():
        edgetl(
            "compress", str(parent), "-o", str(model), "--max-drop", MAX_DROP[case.data], "--seed", str(case.seed),
            *options,
        )  # fmt: skip
    return model


def folder_of(case: Case, work: Path) -> Path:
    """The images, made when they are missing."""
    if case.data == "emoji":
        data = work / "emoji"
        if not data.exists():
            copy_samples(data, ("noto", "twemoji"))
        return data
    many = case.data.endswith("60000")
    return write_folders(work / case.data, train=5900 if many else 200, val=100 if many else 50)


def facts(model: Path) -> dict:
    """What the card says, in numbers."""
    found = card(model)
    compression = found.get("compression")
    training = found["training"]
    return {
        "accuracy": found["scores"]["keras"]["accuracy"],
        "images": found["scores"]["keras"]["images"],
        "train_images": found["data"]["roles"]["train"]["images"],
        "channels": list(Model.open(model).card.network.channels),
        "epochs": len(training["history"]),
        "kept": f"{training['chosen_stage']} {training['chosen_epoch']}",
        "minutes": training["minutes"],
        "giga_macs": giga_macs(Model.open(model).card),
        "parity": {one["artifact"]: one for one in compression["parity"]} if compression else {},
        "scores": {name: score["accuracy"] for name, score in found["scores"].items()},
        "sizes": {artifact["name"]: artifact["size_bytes"] for artifact in found["artifacts"]},
    }


def giga_macs(found: ModelCard) -> float:
    """Of one image, at the size that the network was made for."""
    network, spec = found.network, found.input
    return sum(layer_multiplications(spec.height, spec.width, network.cut, network.channels)) / 1e9


def speeds(parent: Path, models: dict[str, Path], side: int) -> dict[str, float]:
    """Images a second of the unpruned float32 file and of every int8 file, all in turn; medians."""
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), np.uint8)
    runs: dict[str, Callable[[], object]] = {}
    whole_network = Model.open(parent)
    for form in Format:
        runs[f"{form} fp32 unpruned"] = runner(whole_network, side, pixels, form, Precision.FP32)
        runs[f"{form} int8 unpruned"] = runner(whole_network, side, pixels, form, Precision.INT8)
        for name, folder in models.items():
            runs[f"{form} int8 {name}"] = runner(Model.open(folder), side, pixels, form, Precision.INT8)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            times[name].append(seconds_alone(run))
    return {name: BATCH / statistics.median(found) for name, found in times.items()}


def runner(
    model: Model, side: int, pixels: np.ndarray, form: Format, precision: Precision
) -> Callable[[], object]:
    """One batch through one file of the network for images of `side` pixels."""
    layers = at_side(open_layers(model), side)
    spec = layers.spec
    other = Model(model.folder, replace(model.card, input=spec))
    classifier = classifier_of(
        build(Sources(layers, pixels), other, Variant(form, precision)).content, form, precision
    )
    classifier(pixels)
    return lambda: classifier(pixels)


def at_side(layers: Layers, side: int) -> Layers:
    """The same weights for images of another size; averages and maxima do not care."""
    spec = replace(layers.spec, height=side, width=side)
    other = make_layers(layers.network, spec)
    copy_weights(layers, other)
    return other


def keras_rate(work: Path, case: Case) -> tuple[float, int]:
    """Images a second of the copied path, and its weights.

    ImageDataGenerator and `predict` of VGG16 with dense layers at 224 pixels.
    """
    base = tf_keras.applications.VGG16(include_top=False, weights=None, input_shape=(LARGE, LARGE, 3))
    out = tf_keras.layers.Dense(10, "softmax")(
        tf_keras.layers.Dense(1024, "relu")(tf_keras.layers.Flatten()(base.output))
    )
    model = tf_keras.Model(base.input, out)
    images = tf_keras.preprocessing.image.ImageDataGenerator(rescale=1 / 255).flow_from_directory(
        str(folder_of(case, work) / "test"), target_size=(LARGE, LARGE), batch_size=BATCH, shuffle=False
    )
    model.predict(images, steps=1, verbose=0)
    started = time.perf_counter()
    model.predict(images, steps=KERAS_IMAGES // BATCH, verbose=0)
    return KERAS_IMAGES / (time.perf_counter() - started), model.count_params()


def case_text(case: dict) -> str:
    """One case."""
    parent, large = case["parent"], case["rates"][str(LARGE)]
    rows = []
    for form in ("onnx", "tflite"):
        base = large[f"{form} fp32 unpruned"]
        for name in ("unpruned", *case["rungs"]):
            facts_ = case["rungs"].get(name, {})
            parity = facts_.get("parity", {}).get(f"{form}-int8")
            rate = large[f"{form} int8 {name}"]
            rows.append(
                (
                    form, name, "-".join(map(str, facts_.get("channels", parent["channels"]))),
                    f"{facts_['sizes'][f'{form}-int8'] / 1e6:.2f}" if facts_ else "",
                    f"{100 * facts_['scores'][f'{form}-int8']:.2f} %" if facts_ else f"{100 * parent['accuracy']:.2f} % (fp32)",
                    f"{parity['drop_points']:+.2f}" if parity else "",
                    f"{parity['drop_upper_points']:.2f}" if parity else "",
                    *(f"{rates[f'{form} int8 {name}']:.0f}" for rates in case["rates"].values()), f"{rate / base:.1f}",
                    f"{rate / case['keras']:.0f}",
                    f"{parent['giga_macs'] / facts_['giga_macs']:.0f}" if facts_ else "",
                    f"{case['classic_bytes'] / facts_['sizes'][f'{form}-int8']:.0f}" if facts_ else "",
                    f"{facts_['epochs']}" if facts_ else f"{parent['epochs']}", f"{facts_['minutes']:.1f}" if facts_ else f"{parent['minutes']:.1f}",
                )
            )  # fmt: skip
    header = (
        "engine", "kept", "channels", "MB", "accuracy", "drop", "at most",
        *(f"images/s at {side}" for side in case["rates"]), "x fp32", "x Keras", "MAC", "smaller", "epochs", "minutes",
    )  # fmt: skip
    return (
        f"{parent['train_images']:,} training images, {parent['images']:,} test images. Parent: "
        f"{100 * parent['accuracy']:.2f} %, kept {parent['kept']} of {parent['epochs']} entries of its history, "
        f"{parent['minutes']:.1f} minutes; float32 at {LARGE} pixels {large['onnx fp32 unpruned']:.1f} (ONNX Runtime) "
        f"and {large['tflite fp32 unpruned']:.1f} (LiteRT) images/s; Keras path {case['keras']:.1f} images/s.\n\n"
        + table(header, rows)
    )


def rivals_text(tries: list[dict]) -> str:
    """What other networks made of the same lessons, beside the pruned VGG16 of the same run."""
    rows = [
        (
            one["student"] or "-".join(map(str, one["widths"])), f"{one['parameters'] / 1e6:.2f}",
            f"{1000 * one['giga_macs']:.1f}", f"{one['size_bytes'] / 1e6:.2f}", f"{one['latency_ms']:.2f}",
            f"{one['epochs']}", f"{100 * one['tuning_accuracy']:.2f} %", f"{one['harmful']} / {one['helpful']}",
            f"{one['expected_upper_points']:.2f}",
        )
        for one in sorted(tries, key=lambda one: one["giga_macs"])
    ]  # fmt: skip
    header = ("network", "M weights", "million MAC", "MB", "ms", "epochs", "tuning", "flips", "at most")
    return (
        f"Rivals, from random weights, and the pruned VGG16 of the same run of `edgetl compress {' '.join(BESIDE)} "
        f"--student ...`, all taught by the same parent: int8 ONNX files on {tries[0]['images']:,} tuning images; one image, "
        "median. *Flips*: harmful and helpful against the parent; *at most*: the drop in points that certification should "
        "prove.\n\n" + table(header, rows)
    )


if __name__ == "__main__":
    main()
