"""What files weigh on their way to a device: plain, gzip, Zstandard; weights as trained, of few levels, with zeros.

`python benchmarks/download_size.py WORK` trains the model that ships as models/demo and takes about ten minutes.
"""

import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from common import edgetl, publish, seconds_alone, table

from edgetl.card import Model
from edgetl.compression.levels import limit_of, limited
from edgetl.config import DataConfig, Packing
from edgetl.dataset import Role, load
from edgetl.engines import open_classifier, run_batches
from edgetl.keras import tf_keras
from edgetl.keras.classifier import open_layers
from edgetl.keras.rounding import LEVELS
from edgetl.packing import pack, unpack
from edgetl.reference import read_reference
from edgetl.statistics import paired_drop

DATA = "edgetl/samples/noto"
SIDE = 64
ROUNDS = 7
VARIANTS = {
    "as trained": (),
    "64 levels": ("--cluster", "64"),
    "32 levels": ("--cluster", "32"),
    "16 levels": ("--cluster", "16"),
    "50 % zeros": ("--sparsity", "0.5"),
    "70 % zeros": ("--sparsity", "0.7"),
    "50 % zeros, 16 levels": ("--sparsity", "0.5", "--cluster", "16"),
}
CLUSTERS = (64, 32, 16)
PRECISIONS = ("fp32", "fp16", "int8")


def main() -> None:
    """One table for sizes and accuracy, one for times."""
    work = Path(sys.argv[1])
    folder = work / "model"
    if not folder.exists():
        edgetl("train", DATA, "-o", str(folder), "--image-size", str(SIDE), "--cut", "block3")
    images = load(Path(DATA), SIDE, SIDE, DataConfig()).roles[Role.CERTIFICATION]
    rows, times, sessions = [], [], {}
    for name, options in VARIANTS.items():
        edgetl("export", str(folder), "--precision", ",".join(PRECISIONS), *options)
        model = Model.open(folder)
        reference = read_reference(model).probabilities.argmax(axis=1) == images.labels
        for artifact in model.card.artifacts:
            if artifact.precision not in PRECISIONS or (
                artifact.format == "tflite" and artifact.precision != "int8"
            ):
                continue
            if options and artifact.precision == "fp32":
                continue
            content = model.read(artifact)
            classifier = open_classifier(model, artifact, threads=1)
            right = run_batches(classifier, images.pixels, 32, name).argmax(axis=1) == images.labels
            drop = paired_drop(reference, right, 0.05)
            packed = {packing: pack(content, packing) for packing in Packing}
            rows.append(
                (
                    artifact.name,
                    name,
                    f"{len(content) / 1e6:.2f}",
                    *(f"{len(packed[packing]) / 1e6:.2f}" for packing in Packing),
                    f"{100 * right.mean():.1f} %",
                    f"{drop.harmful} / {drop.helpful}",
                    f"{100 * drop.upper:.1f}",
                )
            )
            if artifact.name == "onnx-int8":
                sessions[name] = classifier
                times.append((name, *(unpacking_ms(packed[one], one, len(content)) for one in Packing)))
    speeds = latencies_ms(sessions, images.pixels[:1])
    header = ("file", "weights", "MB", ".gz MB", ".zst MB", "accuracy", "harmful / helpful", "at most")
    text = (
        f"The model that ships as `models/demo` (VGG16 up to block3, {SIDE} px, Noto emoji, {len(images.labels)} "
        "certification images), exported with `--cluster` and `--sparsity`, packed with `--packed gz` (level 9) and "
        "`--packed zst` (level 19). *Harmful / helpful*: images that only the full-precision network, or only the "
        "file, gets right; *at most*: the exact 95 % bound of the drop in points. With so few images it cannot be "
        "small.\n\n"
        + table(header, rows)
        + "\n\nUnpacking is paid once, when a file is opened. No engine gets faster by few levels or zeros: the int8 "
        "ONNX files, taken in turn, each alone before it is timed, one image, one thread.\n\n"
        + table(
            ("weights", "unpack .gz, ms", "unpack .zst, ms", "one image, ms"),
            [(name, f"{gz:.1f}", f"{zst:.1f}", f"{speeds[name]:.2f}") for name, gz, zst in times],
        )
    )
    publish("download-size", "Download size", text)
    compare_with_toolkit(folder)


def compare_with_toolkit(folder: Path) -> None:
    """The same number of values for each kernel, float values of the toolkit or int8 levels; nothing is trained."""
    rows = []
    sizes = np.zeros((len(CLUSTERS), 3))
    noise = np.zeros((len(CLUSTERS), 2))
    signal = 0.0
    for layer in open_layers(Model.open(folder)).convolutions:
        kernel = layer.get_weights()[0]
        signal += float(np.square(kernel).sum())
        for row, clusters in enumerate(CLUSTERS):
            shared = limited(kernel, limit_of(kernel, clusters, None, LEVELS))
            float_shared = clustered_by_toolkit(kernel, clusters)
            sizes[row] += [packed_bytes(one) for one in (kernel, float_shared, shared)]
            noise[row] += [float(np.square(one - kernel).sum()) for one in (float_shared, shared)]
    for clusters, size, (toolkit_noise, own_noise) in zip(CLUSTERS, sizes, noise, strict=True):
        rows.append(
            (
                str(clusters),
                *(f"{part / 1e6:.2f}" for part in size),
                f"{10 * np.log10(signal / toolkit_noise):.1f}",
                f"{10 * np.log10(signal / own_noise):.1f}",
            )
        )
    header = (
        "values", "as trained, MB", "float values, MB", "int8 levels, MB", "float values, dB", "int8 levels, dB",
    )  # fmt: skip
    text = (
        "The kernels of the same model in int8 (a scale for each output channel), packed by Zstandard: as trained; with "
        "so many float values for each layer, as tensorflow_model_optimization clusters them (k-means++); with so many "
        "int8 levels for each layer, as `--cluster` does. *dB*: signal to noise of the weights before int8 rounds "
        "them.\n\n" + table(header, rows)
    )
    publish("download-size-clusters", "Clusters of float values or of int8 levels", text)


def clustered_by_toolkit(kernel: np.ndarray, clusters: int) -> np.ndarray:
    """A kernel [3, 3, I, O] with so many float values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_model_optimization as toolkit
    keras = toolkit.clustering.keras
    layer = tf_keras.layers.Conv2D(kernel.shape[3], 3, use_bias=False)
    layer.build((None, SIDE, SIDE, kernel.shape[2]))
    layer.set_weights([kernel])
    kind = keras.CentroidInitialization.KMEANS_PLUS_PLUS
    wrapped = keras.cluster_weights(layer, number_of_clusters=clusters, cluster_centroids_init=kind)
    model = tf_keras.Sequential([tf_keras.Input((SIDE, SIDE, kernel.shape[2])), wrapped])
    return keras.strip_clustering(model).layers[-1].get_weights()[0]


def packed_bytes(kernel: np.ndarray) -> int:
    """Of [3, 3, I, O] in int8, laid out as in an ONNX file."""
    scales = np.maximum(np.abs(kernel).max(axis=(0, 1, 2)), 1e-12) / LEVELS
    return len(pack(np.rint(kernel / scales).astype(np.int8).transpose(3, 2, 0, 1).tobytes(), Packing.ZST))


def unpacking_ms(packed: bytes, packing: Packing, size_bytes: int) -> float:
    """The median of some."""
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        unpack(packed, packing, size_bytes, "benchmark")
        taken.append(time.perf_counter() - started)
    return 1000 * float(np.median(taken))


def latencies_ms(classifiers: dict, image: np.ndarray) -> dict[str, float]:
    """Of one image, the median; all files in turn, so that whatever else runs here slows all alike."""
    taken = {name: [] for name in classifiers}
    for _ in range(60):
        for name, classifier in classifiers.items():
            taken[name].append(seconds_alone(partial(classifier, image)))
    return {name: 1000 * float(np.median(times)) for name, times in taken.items()}


if __name__ == "__main__":
    main()
