"""The search for int8 beside NNCF's accuracy control and plain static quantization, on the same images.

`python benchmarks/accuracy_search.py WORK [--images N] [--max-drop POINTS]` takes about 20 minutes. NNCF is
installed into WORK/nncf, an environment of its own; `accuracy_search_nncf.py` runs there.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from common import edgetl, publish, run, seconds_alone, table
from fashion import write_folders
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgetl.card import Model
from edgetl.classifier import Classifier
from edgetl.config import Format, Precision
from edgetl.engines import run_batches
from edgetl.engines.onnx import OnnxClassifier
from edgetl.keras.classifier import open_layers
from edgetl.keras.network import Layers
from edgetl.quantize.onnx import executed_operators
from edgetl.quantize.recipe import Origin, Recipe
from edgetl.quantize.search import Candidate, Tuning, search
from edgetl.reference import certification_images, read_calibration_pixels, read_tuning_images
from edgetl.statistics import PairedDrop, paired_drop
from edgetl.steps.demo import copy_samples
from edgetl.steps.making import Sources, Variant
from edgetl.vgg16 import layer_multiplications

SIDES = {"emoji": 96, "Fashion-MNIST": 64}
MOST_CERTIFICATION_IMAGES = 2000
MOST_CALIBRATION_IMAGES = 200
IMAGES_AT_ONCE = 16
ROUNDS = 15
DECADES = 1.5  # channels are multiplied by 10 to the power of -1.5..1.5
CANCELLED = 1000.0  # how much larger than their sum the two weights of a pair are
PAIR_IN, PAIR_NAME = 2, "block2_conv1"  # the convolution, from 0, of which two channels become the same
LARGEST_DIFFERENCE = 1e-4  # of probabilities, where the function is said to be unchanged
TARGET = 1 / 3  # of the evaluations
CONTROL, OURS, OURS_WEAKER = "NNCF accuracy control", "edgetl", "edgetl, NNCF's rule"
OURS_EQUAL = "edgetl, NNCF's drop"
CHILD = Path(__file__).with_name("accuracy_search_nncf.py")


@dataclass(frozen=True, eq=False)
class Images:
    """What everybody is given, and what the results are judged by."""

    calibration: np.ndarray
    tuning: np.ndarray
    tuning_labels: np.ndarray
    certification: np.ndarray
    certification_labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Result:
    """What a contestant made of one float network."""

    name: str
    content: bytes
    seconds: float
    images_run: int | None  # to choose by; None: it does not choose
    note: str = ""


@dataclass(frozen=True)
class AsNncf(Tuning):
    """The promise as NNCF reads it: the drop seen on the tuning images is not larger."""

    def expected_upper(self, harmful: int, helpful: int) -> float:
        """Below `promised` exactly where the drop is at most that."""
        return (harmful - helpful) / len(self.labels) - 1e-9


@dataclass
class Counting:
    """A workshop of `quantize.search` that counts the images run."""

    sources: Sources
    images_run: int = 0
    tried: list[Candidate] = field(default_factory=list)

    @property
    def layer_costs(self) -> Sequence[float]:
        """See `Workshop`."""
        spec, cut = self.sources.layers.spec, self.sources.layers.network.cut
        return layer_multiplications(spec.height, spec.width, cut)

    def build(self, recipe: Recipe, origin: Origin) -> bytes:
        """See `Workshop`."""
        return self.sources.of(origin).onnx_quantizer.build(recipe).SerializeToString()

    def run(self, content: bytes) -> Classifier:
        """See `Workshop`."""
        classifier = OnnxClassifier(content)

        def counted(pixels: np.ndarray) -> np.ndarray:
            self.images_run += len(pixels)
            return classifier(pixels)

        return counted


def main() -> None:
    """All contestants on all networks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=int, default=2000, help="tuning images at most")
    parser.add_argument("--max-drop", type=float, default=2.0, help="points")
    parser.add_argument("--without-speed", action="store_true", help="where other programs use the CPUs")
    settings = parser.parse_args()
    python = environment(settings.work / "nncf")
    rows, ratios, counts = [], [], []
    for data, side in SIDES.items():
        model = trained(settings.work, data, side)
        images = images_of(model, settings.images)
        counts.append(in_numbers(data, side, images))
        for network, layers in networks(model, images).items():
            name = f"{data}, {network}"
            print(name, flush=True)
            results = contest(name, layers, images, settings, python)
            found = drops(results, images)
            rows += lines(name, results, found, images)
            ratios.append(ratio(name, results, found, len(images.tuning_labels)))
    publish(
        "accuracy-search", "Searching for int8 that keeps a promise", text(rows, ratios, counts, settings)
    )


def environment(folder: Path) -> Path:
    """A Python with NNCF, and with ONNX Runtime and ONNX in the versions of this one."""
    python = folder / "bin" / "python"
    if not python.exists():
        packages = ["nncf", *(f"{name}=={version(name)}" for name in ("onnx", "onnxruntime"))]
        print(f"installing {', '.join(packages)} into {folder}", flush=True)
        venv.create(folder, with_pip=True)
        run(str(python), "-m", "pip", "install", "--quiet", *packages)
    return python


def trained(work: Path, data: str, side: int) -> Model:
    """A head trained on the real trunk."""
    images, folder = work / data, work / f"{data}-model"
    if data != "emoji":
        write_folders(images, train=200, val=50)
    elif not images.exists():
        copy_samples(images, ("noto", "twemoji"))
    if not folder.exists():
        edgetl(
            "train", str(images), "-o", str(folder), "--unfreeze", "none", "--views", "1", "--image-size",
            str(side), "--seed", "0", "--cache-folder", str(work / "cache"),
        )  # fmt: skip
    return Model.open(folder)


def images_of(model: Model, most: int) -> Images:
    """As `edgetl export --max-drop` would take them."""
    tuning = read_tuning_images(model, model.data_folder, most)
    certification = certification_images(model, model.data_folder)
    some = np.random.default_rng(0).permutation(len(certification))[:MOST_CERTIFICATION_IMAGES]
    return Images(
        read_calibration_pixels(model, model.data_folder, MOST_CALIBRATION_IMAGES),
        tuning.pixels,
        tuning.labels,
        certification.pixels[some],
        certification.labels[some],
    )


def in_numbers(data: str, side: int, images: Images) -> str:
    """How many images there are."""
    return (
        f"{data}, {side} pixels: {len(images.calibration)} calibration, {len(images.tuning)} tuning and "
        f"{len(images.certification)} certification images"
    )


def networks(model: Model, images: Images) -> dict[str, Layers]:
    """The network as trained, one with unequal channels, one with weights that cancel each other."""
    plain, unequal, cancelling = (open_layers(model) for _ in range(3))
    scale_channels(unequal)
    difference = np.abs(said(unequal, images.tuning) - said(plain, images.tuning)).max()
    print(f"unequal channels change probabilities by {difference:.1e}", flush=True)
    if not difference <= LARGEST_DIFFERENCE:
        sys.exit("the network with unequal channels computes something else")
    cancel_weights(cancelling)
    return {"as trained": plain, "unequal channels": unequal, "cancelling weights": cancelling}


def said(layers: Layers, pixels: np.ndarray) -> np.ndarray:
    """Probabilities of the float ONNX file."""
    content = Sources(layers, None).onnx.SerializeToString()
    return run_batches(OnnxClassifier(content), pixels, IMAGES_AT_ONCE, "float")


def scale_channels(layers: Layers) -> None:
    """Multiply each convolution's channels by random factors, and divide the weights that read them."""
    random = np.random.default_rng(0)
    factors = [
        (10 ** random.uniform(-DECADES, DECADES, layer.filters)).astype(np.float32)
        for layer in layers.convolutions
    ]
    read = [np.ones(3, np.float32), *factors]
    for layer, made, seen in zip(layers.convolutions, factors, read, strict=False):
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel * made / seen[:, None], bias * made])
    ends = [layers.convolutions.index(layers.blocks[block][-2]) for block in layers.pools]
    places = layers.features // sum(len(factors[end]) for end in ends)
    kernel, bias = layers.dense[0].get_weights()
    rows = np.concatenate([np.tile(factors[end], places) for end in ends])
    layers.dense[0].set_weights([kernel / rows[:, None], bias])


def cancel_weights(layers: Layers) -> None:
    """Let the least channel repeat the greatest; readers take 1 + CANCELLED of one and -CANCELLED of the other.

    Factors for channels can only divide the harm: what weights win, activations lose.
    """
    source, reader = layers.convolutions[PAIR_IN : PAIR_IN + 2]
    (kernel, bias), (read, read_bias) = source.get_weights(), reader.get_weights()
    effect = np.abs(read).sum(axis=(0, 1, 3)) * np.sqrt(np.square(kernel).sum(axis=(0, 1, 2)))
    least, greatest = int(effect.argmin()), int(effect.argmax())
    kernel[..., least], bias[least] = kernel[..., greatest], bias[greatest]
    read[:, :, least] = -CANCELLED * read[:, :, greatest]
    read[:, :, greatest] *= 1 + CANCELLED
    source.set_weights([kernel, bias])
    reader.set_weights([read, read_bias])


def contest(
    name: str, layers: Layers, images: Images, settings: argparse.Namespace, python: Path
) -> list[Result]:
    """Everybody's result, the float file first."""
    folder = settings.work / name.replace(", ", "-").replace(" ", "-")
    folder.mkdir(exist_ok=True)
    max_drop = settings.max_drop / 100
    content = Sources(layers, None).onnx.SerializeToString()
    (folder / "float.onnx").write_bytes(content)
    np.savez(
        folder / "images.npz",
        calibration=images.calibration, tuning=images.tuning, labels=images.tuning_labels,
    )  # fmt: skip
    results = [
        Result("float32", content, 0.0, None),
        static(folder, images),
        *by_nncf(folder, max_drop, python),
        by_edgetl(OURS, Tuning, layers, images, max_drop),
        by_edgetl(OURS_WEAKER, AsNncf, layers, images, max_drop),
    ]
    theirs = tuning_drop(content, results[3].content, images)
    results.append(by_edgetl(OURS_EQUAL, AsNncf, layers, images, theirs))
    for result in results:
        print(
            f"  {result.name}: {result.seconds:.0f} s, {result.images_run} images, {result.note}", flush=True
        )
    return results


def tuning_drop(float_file: bytes, other: bytes, images: Images) -> float:
    """The drop seen on the tuning images, a share."""
    before, after = (
        (run_batches(OnnxClassifier(content), images.tuning, IMAGES_AT_ONCE, "drop").argmax(axis=1)
        == images.tuning_labels).mean()
        for content in (float_file, other)
    )  # fmt: skip
    return float(before - after)


class Reader(CalibrationDataReader):
    """Calibration images one by one."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._items = iter([{"image": one[None]} for one in pixels])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """See `CalibrationDataReader`."""
        return next(self._items, None)


def static(folder: Path, images: Images) -> Result:
    """What the documentation of ONNX Runtime suggests."""
    started = time.perf_counter()
    quant_pre_process(folder / "float.onnx", folder / "prepared.onnx", skip_symbolic_shape=True)
    quantize_static(
        folder / "prepared.onnx",
        folder / "static.onnx",
        Reader(images.calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    seconds = time.perf_counter() - started
    return Result("quantize_static", (folder / "static.onnx").read_bytes(), seconds, None)


def by_nncf(folder: Path, max_drop: float, python: Path) -> list[Result]:
    """Plain, and with accuracy control."""
    log = folder / "nncf.log"
    with log.open("wb") as output:
        done = subprocess.run(
            [python, CHILD, folder, str(max_drop)], stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        sys.exit(f"NNCF ended with {done.returncode}; see {log}")
    found = json.loads((folder / "nncf.json").read_text(encoding="utf-8"))
    plain, kept = ((folder / file).read_bytes() for file in ("nncf.onnx", "nncf-control.onnx"))
    return [
        Result("NNCF quantize", plain, found["plain_seconds"], None),
        Result(CONTROL, kept, found["seconds"], found["images"], f"{found['calls']} validations"),
    ]


def by_edgetl(
    name: str, rule: Callable[..., Tuning], layers: Layers, images: Images, max_drop: float
) -> Result:
    """The search as `edgetl export --max-drop` makes it, with the float network's answers that training kept."""
    shop = Counting(Sources(layers, images.calibration))
    float_file = shop.sources.onnx.SerializeToString()  # everybody is given it
    probabilities = said(layers, images.tuning)
    started = time.perf_counter()
    tuning = rule(
        images.tuning, images.tuning_labels, probabilities, max_drop, len(images.certification_labels)
    )
    best = search(shop, tuning, Recipe(), shop.tried.append)
    seconds = time.perf_counter() - started
    words = "none found, stays float32" if best is None else in_words(best, shop.sources.names)
    return Result(
        name, best.content if best else float_file, seconds, shop.images_run,
        f"{len(shop.tried)} candidates: {words}",
    )  # fmt: skip


def in_words(best: Candidate, names: tuple[str, ...]) -> str:
    """What was done to the network."""
    return Variant(Format.ONNX, Precision.INT8, best.recipe, best.origin).in_words(names)


def drops(results: list[Result], images: Images) -> list[PairedDrop]:
    """Each file against the float file, which is the first."""
    right = [
        run_batches(OnnxClassifier(one.content), images.certification, IMAGES_AT_ONCE, one.name).argmax(
            axis=1
        )
        == images.certification_labels
        for one in results
    ]
    return [paired_drop(right[0], correct) for correct in right]


def lines(
    network: str, results: list[Result], found: list[PairedDrop], images: Images
) -> list[tuple[str, ...]]:
    """The table's lines of one network."""
    classifiers = [OnnxClassifier(result.content) for result in results]
    per_second = rates(classifiers, images.certification[:IMAGES_AT_ONCE])
    told = []
    for result, drop, speeds in zip(results, found, per_second, strict=True):
        faster = statistics.median(mine / base for mine, base in zip(speeds, per_second[0], strict=True))
        speed = (f"{statistics.median(speeds):.0f}", f"{faster:.2f}")
        told.append(line(network, result, drop, speed, images))
    return told


def line(
    network: str, result: Result, drop: PairedDrop, speed: tuple[str, str], images: Images
) -> tuple[str, ...]:
    """One line."""
    operators = executed_operators(result.content)
    int8 = operators["QLinearConv"]
    floats = sum(operators[name] for name in ("Conv", "FusedConv"))
    ran = result.images_run
    return (
        network,
        result.name,
        f"{100 * drop.drop:+.2f}",
        f"{100 * drop.upper:.2f}",
        f"{int8} of {int8 + floats}",
        *speed,
        f"{len(result.content) / 1e6:.2f}",
        "" if ran is None else f"{ran / len(images.tuning_labels):.1f}",
        f"{result.seconds:.0f}",
        result.note,
    )


def rates(classifiers: Sequence[Classifier], pixels: np.ndarray) -> list[list[float]]:
    """Images per second of each in each round; in a round all run in turn."""
    found: list[list[float]] = [[] for _ in classifiers]
    for _ in range(ROUNDS):
        for classifier, speeds in zip(classifiers, found, strict=True):
            speeds.append(len(pixels) / seconds_alone(partial(classifier, pixels)))
    return found


def ratio(network: str, results: list[Result], found: list[PairedDrop], tuning_images: int) -> str:
    """What the searches took for each image and second that NNCF's accuracy control took."""
    ran = {one.name: (one, drop.drop) for one, drop in zip(results, found, strict=True)}
    control, theirs = ran[CONTROL]
    parts = []
    for name in (OURS, OURS_WEAKER, OURS_EQUAL):
        mine, drop = ran[name]
        share = mine.images_run / control.images_run
        whole = (mine.images_run + tuning_images) / control.images_run
        met = "met" if share <= TARGET and drop <= theirs else "missed"
        parts.append(
            f"{name} {share:.2f} of the evaluations ({whole:.2f} with the float32 network's), "
            f"{mine.seconds / control.seconds:.2f} of the seconds, "
            f"{100 * (drop - theirs):+.2f} points of drop: {met}"
        )
    return f"- {network}: {'; '.join(parts)}."


def without_speed(row: tuple[str, ...]) -> tuple[str, ...]:
    """All columns but images/s and x float32."""
    return row[:5] + row[7:]


def text(
    rows: list[tuple[str, ...]], ratios: list[str], counts: list[str], settings: argparse.Namespace
) -> str:
    """The section."""
    header = (
        "network", "made by", "drop", "at most", "int8 convolutions", "images/s", "x float32", "MB",
        "evaluations", "seconds", "how",
    )  # fmt: skip
    nncf = json.loads((settings.work / "emoji-as-trained" / "nncf.json").read_text(encoding="utf-8"))
    if settings.without_speed:
        header, rows = without_speed(header), [without_speed(row) for row in rows]
    speeds = (
        "Speeds are left out: other programs used the CPUs in this run. "
        if settings.without_speed
        else f"Images/s and *x float32*: ONNX Runtime {version('onnxruntime')}, batch {IMAGES_AT_ONCE}, medians of "
        f"{ROUNDS} rounds in which all run in turn, each alone before it is timed. "
    )
    return (
        f"Heads trained on the VGG16 trunk, as float32 ONNX files. All get the same file, the same images and "
        f"{settings.max_drop:g} points of drop ({'; '.join(counts)}). *Unequal channels*: every convolution's "
        f"channels multiplied by 10 to the power of -{DECADES} to {DECADES}, what reads them divided: the same "
        "function, and the very case that edgetl's equalization is made for. *Cancelling weights*: two channels "
        f"of {PAIR_NAME} carry the same feature and are read with weights {CANCELLED:g} times as large as their "
        "sum: factors for channels only divide the harm between the two convolutions.\n\n"
        "*Drop* in points against the float32 file and *at most*, its exact one-sided 95 % bound, are those of "
        f"certification images, which nobody chose by. {speeds}"
        "*Evaluations*: images run to choose by, for each tuning image, those of sensitivity or "
        "ranking included, calibration and training not. NNCF's include the float32 network's, which its interface "
        "runs; `edgetl train` keeps those answers in the model folder. *Seconds* are from the float32 file "
        "to the int8 file. The machine was shared: take times as rough.\n\n"
        f"NNCF {nncf['version']} ran on its ONNX backend with default settings, ranking by up to 300 images. It is "
        "content when the drop seen on the tuning images is small enough, edgetl when certification is expected "
        "to prove it; *NNCF's rule* is edgetl's search with NNCF's aim, *NNCF's drop* the same held to the drop that "
        "NNCF's file has on the tuning images. `quantize_static` has QDQ, weights per "
        "channel, unsigned activations.\n\n"
        + table(header, rows)
        + f"\n\nAgainst NNCF's accuracy control; the target is at most {TARGET:.2f} of the evaluations for an equal "
        "or smaller drop:\n\n"
        + "\n".join(ratios)
        + "\n\nWhere plain int8 is good at once there is nothing to search: NNCF runs the float32 network and one "
        "int8 file to the end, edgetl stops within the int8 file. Where weights cancel, the cheap repairs are tried "
        "before layers are left in float, which NNCF begins with: edgetl's file is faster, and NNCF's loses fewer images "
        "of those that nobody chose by. Held to NNCF's drop on the tuning images, edgetl needs as few evaluations, and "
        "the difference on the others stays; both keep to the points allowed.\n"
    )


if __name__ == "__main__":
    main()
