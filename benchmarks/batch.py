"""Images per second from files to rows, against others: `python benchmarks/batch.py [--peers DIR] MODEL`.

MODEL is a folder with onnx-int8, onnx-fp32 and model.keras of one network. The photos are made from the shipped samples:
1 to 12 megapixels, JPEG. Every way runs in a process of its own, all of them in turn, several rounds. With `--peers`,
Ultralytics and OpenVINO are installed into an environment of their own there.
"""

import argparse
import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

from common import ROOT, publish, run, table

SIZES = ((1152, 864), (2048, 1536), (3264, 2448), (4000, 3000))  # 1.0, 3.1, 8.0 and 12.0 megapixels
PLAIN_BATCH = 16


def make_photos(folder: Path, count: int) -> Path:
    """JPEG files of the sizes by turns: a sample enlarged, with the noise of a sensor."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(0)
    samples = sorted((ROOT / "edgetl" / "samples").glob("*/test/*/*.png"))
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        with Image.open(samples[number * 7 % len(samples)]) as sample:
            large = sample.convert("RGBA").convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        noisy = np.asarray(large, np.int16) + random.integers(-8, 9, (height, width, 3), dtype=np.int16)
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        (folder / f"{number:05d}.jpg").write_bytes(buffer.getvalue())
    return folder


def make_small(folder: Path, count: int) -> Path:
    """JPEG files of 128 x 128 pixels: the samples, over and over, as links."""
    from PIL import Image

    folder.mkdir()
    samples = sorted((ROOT / "edgetl" / "samples").glob("*/test/*/*.png"))
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if number < len(samples):
            with Image.open(samples[number]) as sample:
                sample.convert("RGBA").convert("RGB").resize((128, 128)).save(path, quality=90)
        else:
            path.hardlink_to(folder / f"{number % len(samples):06d}.jpg")
    return folder


# --- ways, each in a process of its own ------------------------------------------------------------------------------


def plain_onnxruntime(model: Path, photos: Path, artifact: str) -> int:
    """What a careful user writes: Pillow, a list, onnxruntime with its defaults."""
    import numpy as np
    import onnxruntime
    from PIL import Image

    card = _card(model)
    session = onnxruntime.InferenceSession(model / _file(card, artifact))
    name, size = session.get_inputs()[0].name, (card["input"]["width"], card["input"]["height"])
    files = sorted(photos.iterdir())
    done = 0
    for start in range(0, len(files), PLAIN_BATCH):
        batch = []
        for path in files[start : start + PLAIN_BATCH]:
            with Image.open(path) as image:
                batch.append(np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR)))
        done += len(session.run(None, {name: np.stack(batch)})[0])
    return done


def plain_keras(model: Path, photos: Path, _artifact: str) -> int:
    """The widely copied way: ImageDataGenerator, flow_from_directory, predict."""
    import tf_keras
    from tf_keras.preprocessing.image import ImageDataGenerator

    card = _card(model)
    size = (card["input"]["height"], card["input"]["width"])
    network = tf_keras.models.load_model(model / "model.keras", compile=False)
    flow = ImageDataGenerator().flow_from_directory(
        photos.parent, classes=[photos.name], target_size=size, class_mode=None, shuffle=False, batch_size=32
    )
    return len(network.predict(flow, verbose=0))


def decode_only(model: Path, photos: Path, _artifact: str, exact: bool = False) -> int:
    """Our decoders with nobody behind them."""
    from edgetl.stream import decode
    from edgetl.stream.items import file_item
    from edgetl.stream.pool import Decoding

    spec = _card(model)["input"]
    how = Decoding(
        spec["height"], spec["width"], (255, 255, 255), not exact, os.cpu_count() or 1, 256, 2**30, 60
    )
    tasks = ((number, file_item(path), None) for number, path in enumerate(sorted(photos.iterdir())))
    return sum(len(batch.items) for batch in decode.in_processes(tasks, how, 16, lambda: False))


def engine_only(model: Path, photos: Path, artifact: str) -> int:
    """As many images through the engine, in the way of large jobs, without any file."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from edgetl.card import Model
    from edgetl.config import PredictConfig
    from edgetl.stream.jobs import network_of, usual_batch

    opened = Model.open(model)
    known = opened.artifact(artifact)
    network = network_of(opened.read(known), known, opened.card.labels, PredictConfig(), os.cpu_count() or 1)
    spec = opened.card.input
    batch = usual_batch(spec)
    pixels = np.random.default_rng(0).integers(0, 256, (batch, spec.height, spec.width, 3), dtype=np.uint8)
    count = len(list(photos.iterdir()))
    with ThreadPoolExecutor(network.parallel) as pool:
        done = pool.map(lambda _: len(network.run(pixels)[0]), range(-(-count // batch)))
        return sum(done)


def ours(model: Path, photos: Path, artifact: str, exact: bool = False) -> int:
    """`edgetl predict`, from a folder to one Parquet file."""
    from edgetl.card import Model
    from edgetl.config import PredictConfig
    from edgetl.steps.predict import predict

    with tempfile.TemporaryDirectory() as scratch:
        config = PredictConfig(artifact=artifact, output=f"{scratch}/rows.parquet", exact_decoding=exact)
        return predict(Model.open(model), [str(photos)], config).images


WAYS = {
    "Keras ImageDataGenerator + predict, float": (plain_keras, "keras"),
    "onnxruntime + Pillow loop, fp32": (plain_onnxruntime, "onnx-fp32"),
    "onnxruntime + Pillow loop, int8": (plain_onnxruntime, "onnx-int8"),
    "edgetl predict, fp32": (ours, "onnx-fp32"),
    "edgetl predict, int8": (ours, "onnx-int8"),
    "edgetl predict --exact-decoding, int8": (lambda *given: ours(*given, exact=True), "onnx-int8"),
    "limit: decoding alone": (decode_only, "onnx-int8"),
    "limit: exact decoding alone": (lambda *given: decode_only(*given, exact=True), "onnx-int8"),
    "limit: int8 engine alone": (engine_only, "onnx-int8"),
}


OURS = "edgetl predict, int8"
LIMITS = ("limit: decoding alone", "limit: int8 engine alone")
PEERS = {
    "Ultralytics predict, int8": "ultralytics",
    "limit: int8 in OpenVINO's benchmark_app": "openvino",
}
CHILD = Path(__file__).with_name("batch_peers.py")


def _card(model: Path) -> dict:
    import json

    return json.loads((model / "card.json").read_text())


def _file(card: dict, artifact: str) -> str:
    return next(known["file"] for known in card["artifacts"] if known["name"] == artifact)


def _has(model: Path, artifact: str) -> bool:
    if artifact == "keras":
        return (model / "model.keras").is_file()
    return any(known["name"] == artifact for known in _card(model)["artifacts"])


# --- measuring -------------------------------------------------------------------------------------------------------


def child(way: str, model: Path, photos: Path) -> None:
    """Run one way and print what it did; in a process of its own."""
    work, artifact = WAYS[way]
    started = time.perf_counter()
    images = work(model, photos, artifact)
    wall = time.perf_counter() - started
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    print(images, wall, cpu, 512 * (own.ru_oublock + children.ru_oublock))


@dataclass(frozen=True)
class Measured:
    """One run of one way."""

    speed: float  # images per second of wall time
    cpu_ms: float  # per image
    peak_mib: float  # of all processes together
    written_mib: float


def environment(folder: Path) -> Path:
    """A Python with the other tools, and with ONNX Runtime in the version of this one."""
    python = folder / "bin" / "python"
    if not python.exists():
        packages = [
            "ultralytics",
            "openvino",
            *(f"{name}=={version(name)}" for name in ("onnx", "onnxruntime")),
        ]
        print(
            f"installing {', '.join(packages)} into {folder}: several gigabytes", file=sys.stderr, flush=True
        )
        venv.create(folder, with_pip=True)
        run(str(python), "-m", "pip", "install", "--quiet", *packages)
    return python


def measure(way: str, model: Path, photos: Path, peers: Path | None) -> Measured:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--photos", str(photos), str(model)]
    if way in PEERS:
        content = model / _file(_card(model), "onnx-int8")
        command = [str(peers), str(CHILD), PEERS[way], str(content), str(photos)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak = 0.0
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.2):
            peak = max(peak, _tree_mib(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    stop.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{way} ended with {process.returncode}")
    images, wall, cpu, written = map(float, output.split()[-4:])
    return Measured(images / wall, cpu / images * 1000, peak, written / 2**20)


def _tree_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        own = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
        children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
        return own + sum(_tree_mib(int(child)) for child in children.split())
    except OSError:
        return 0.0


def compare(model: Path, photos: Path, ways: list[str], rounds: int, peers: Path | None) -> str:
    """A table of all ways over one folder: medians over rounds in which all run by turns."""
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            found[way].append(measure(way, model, photos, peers))
            print(way, found[way][-1], file=sys.stderr, flush=True)
    header = (
        "way", "images/s", "CPU ms per image", "peak MiB", "MiB written", "edgetl predict, int8, is x times as fast",
    )  # fmt: skip
    rows = []
    for way, runs in found.items():
        speed, cpu, peak, written = (
            statistics.median(getattr(run, field.name) for run in runs) for field in fields(Measured)
        )
        faster = statistics.median(
            mine.speed / run.speed for mine, run in zip(found[OURS], runs, strict=True)
        )
        rows.append((way, f"{speed:.1f}", f"{cpu:.1f}", f"{peak:.0f}", f"{written:.1f}", f"{faster:.2f}"))
    shares, possible, shared = [], [], []
    for mine, decoding, engine in zip(*(found[way] for way in (OURS, *LIMITS)), strict=True):
        shares.append(mine.speed / min(decoding.speed, engine.speed))
        together = 1 / (1 / decoding.speed + 1 / engine.speed)
        possible.append(together / min(decoding.speed, engine.speed))
        shared.append(mine.speed / together)
    words = (
        f"`edgetl predict` with int8 reaches {statistics.median(shares):.0%} of the smaller of its two limits (aim: "
        "90%). Each limit has all CPUs to itself; decoding and inference on the same CPUs together can reach "
        f"{statistics.median(possible):.0%} of the smaller one, if the rest costs nothing, so "
        f"{statistics.median(shared):.0%} of what is possible is reached."
    )
    return f"{table(header, rows)}\n\n{words}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--way")
    parser.add_argument("--peers", type=Path, help="folder for an environment with the other tools")
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--small", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.way:
        child(given.way, given.model, given.photos)
        return
    peers = environment(given.peers) if given.peers else None
    ways = [way for way, (_, artifact) in WAYS.items() if _has(given.model, artifact)]
    absent = sorted(set(WAYS) - set(ways))
    if peers:
        ways += PEERS
    else:
        absent += PEERS
    with tempfile.TemporaryDirectory() as scratch:
        large = compare(
            given.model, make_photos(Path(scratch) / "photos", given.count), ways, given.rounds, peers
        )
        small = compare(
            given.model, make_small(Path(scratch) / "small", given.small), ways, given.rounds, peers
        )
    spec = _card(given.model)["input"]
    text = (
        f"Whole work without the start of Python: from files to rows, network {spec['width']} x {spec['height']}, "
        f"{given.rounds} rounds in turn, medians; ratios are medians over the rounds. Photos: {given.count} JPEG "
        f"files of 1, 3, 8 and 12 megapixels by turns; small: {given.small} JPEG files of 128 x 128. The plain loops give no rows for damaged files and keep "
        "nothing when they are interrupted. Ultralytics is given the same int8 network with its own form of "
        "input, benchmark_app the file itself. The package of timm has no command that runs a folder of images, nor "
        f"ONNX files.{' Not there: ' + ', '.join(absent) + '.' if absent else ''}\n\n"
        f"### Photos\n\n{large}\n\n### Small images\n\n{small}"
    )
    publish("batch", "Batch inference", text)


if __name__ == "__main__":
    main()
