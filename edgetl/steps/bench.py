"""`edgetl bench`: what each artifact costs on this machine, each in a process of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetl.card import Artifact, Model, ModelCard, chosen_artifacts
from edgetl.classifier import Classifier
from edgetl.config import BenchConfig, Precision
from edgetl.engines import open_classifier
from edgetl.errors import EdgetlError
from edgetl.machine import cpu_name
from edgetl.progress import task
from edgetl.records import from_plain, to_plain
from edgetl.results import Timing

BATCHES = (1, 4, 8, 16, 32)
LEAST_RUNS = 5


@dataclass(frozen=True)
class Benched:
    """The timings of one `bench`."""

    model: str
    timings: tuple[Timing, ...]


def bench(model: Model, config: BenchConfig) -> tuple[Model, Benched]:
    """Time artifacts; each runs alone in a new process, so memory and load time are its own."""
    artifacts = list(chosen_artifacts(model, config.artifact))
    timings: dict[str, Timing] = {}
    with task("benchmarking", len(artifacts)) as advance:
        for artifact in artifacts:
            timings[artifact.name] = _in_new_process(model.folder, artifact, config)
            advance(1)
    model = model.update(lambda card: _with_timings(card, timings))
    return model, Benched(str(model.folder), tuple(model.card.timing[name] for name in timings))


def _with_timings(card: ModelCard, new: dict[str, Timing]) -> ModelCard:
    """The card with these timings, and with the ratios that they change."""
    known = {**card.timing, **new}
    return replace(card, timing={name: _with_ratio(timing, known) for name, timing in known.items()})


def _in_new_process(folder: Path, artifact: Artifact, config: BenchConfig) -> Timing:
    """Run `_main` below in a fresh interpreter: neither this process's memory nor its main module count."""
    numbers = (str(config.seconds), str(config.threads))
    command = [
        sys.executable,
        "-P",
        "-m",
        "edgetl.steps.bench",
        str(folder.resolve()),
        artifact.name,
        *numbers,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answer = json.loads((done.stdout.splitlines() or ["null"])[-1])
    if done.returncode == 0:
        return from_plain(Timing, answer)
    if answer is not None:
        raise EdgetlError(answer["what"], answer["fix"])
    if done.returncode < 0:
        raise EdgetlError(
            f"The process that ran {artifact.name} died, perhaps for lack of memory.",
            "Free memory and run edgetl bench again.",
        )
    raise RuntimeError(f"measuring {artifact.name} failed:\n{done.stderr}")


def _main(folder: str, name: str, seconds: str, threads: str) -> int:
    """Measure one artifact; the last line of standard output is the answer as JSON."""
    try:
        config = BenchConfig(seconds=float(seconds), threads=int(threads))
        answer, exit_code = to_plain(measure(Path(folder), name, config)), 0
    except EdgetlError as error:
        answer, exit_code = {"what": error.what, "fix": error.fix}, 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return exit_code


def measure(folder: Path, name: str, config: BenchConfig) -> Timing:
    """Load one artifact and time it. Runs in a process of its own."""
    model = Model.open(folder)
    artifact = model.artifact(name)
    started = time.perf_counter()
    classifier = open_classifier(model, artifact, config.threads)
    load_ms = 1000 * (time.perf_counter() - started)
    spec = model.card.input
    pixels = np.random.default_rng(0).integers(0, 256, (max(BATCHES), spec.height, spec.width, 3), np.uint8)
    single_ms = 1000 * _durations(partial(classifier, pixels[:1]), config.seconds)
    best_batch, best_rate = _best_batch(classifier, pixels, config.seconds)
    return Timing(
        artifact=name,
        size_bytes=artifact.size_bytes,
        load_ms=load_ms,
        latency_p50_ms=float(np.percentile(single_ms, 50)),
        latency_p95_ms=float(np.percentile(single_ms, 95)),
        best_batch=best_batch,
        images_per_second=best_rate,
        peak_memory_mib=_peak_memory_mib(),
        speed_ratio=float("nan"),
        threads=config.threads or os.cpu_count() or 1,
        cpu=cpu_name(),
    )


def _peak_memory_mib() -> float:
    """Of this program; `getrusage` would count the memory of the process that started it, too."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def _best_batch(classifier: Classifier, pixels: NDArray[np.uint8], seconds: float) -> tuple[int, float]:
    """The batch size with the most images per second, from the medians; sharing `seconds` among the sizes."""
    rates = {}
    for batch in BATCHES:
        times = _durations(partial(classifier, pixels[:batch]), seconds / len(BATCHES))
        rates[batch] = batch / float(np.median(times))
    best = max(rates, key=lambda batch: rates[batch])
    return best, rates[best]


def _durations(run: Callable[[], object], seconds: float) -> NDArray[np.float64]:
    """Seconds of repeated runs after one that is not counted: at least five, and as many as fit the time."""
    run()
    durations: list[float] = []
    until = time.perf_counter() + seconds
    while len(durations) < LEAST_RUNS or time.perf_counter() < until:
        started = time.perf_counter()
        run()
        durations.append(time.perf_counter() - started)
    return np.array(durations)


def _with_ratio(timing: Timing, known: dict[str, Timing]) -> Timing:
    """Images per second over those of the same format's fp32 file, when that was timed."""
    form = timing.artifact.partition("-")[0]
    full = known.get(f"{form}-{Precision.FP32}")
    return (
        timing
        if full is None
        else replace(timing, speed_ratio=timing.images_per_second / full.images_per_second)
    )


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
