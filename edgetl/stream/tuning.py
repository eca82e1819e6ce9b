"""How many decoders, engine calls and images per call are fastest here: measured once, remembered."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np

from edgetl.cache import default_folder
from edgetl.files import write_atomically
from edgetl.images import Pixels
from edgetl.machine import cores, cpu_name
from edgetl.progress import say, task
from edgetl.records import RecordError, from_plain, parse, to_plain
from edgetl.stream.classify import Network
from edgetl.stream.decode import Batch
from edgetl.stream.run import Meter, classified

FILE = "tuned.json"
SAMPLE_IMAGES = 256
_BATCHES = (1, 2, 4, 8, 16, 32)
_SECONDS = 0.5  # for each size of batch
_NEGLIGIBLE = 0.03  # a gain that is not worth a larger number

Choice = TypeVar("Choice", int, tuple[int, int])


@dataclass(frozen=True)
class Tuned:
    """What was fastest."""

    batch: int
    threads: int  # engine calls at once
    workers: int  # decoder processes


def remembered(artifact_sha256: str) -> Tuned | None:
    """What an earlier `--tune` found for this file on this machine, if anything."""
    with suppress(OSError, RecordError, KeyError, TypeError):
        return from_plain(Tuned, parse(_file().read_bytes())[_key(artifact_sha256)])
    return None


def remember(artifact_sha256: str, tuned: Tuned) -> None:
    """Keep what was found, for later runs. Raises `StorageError`."""
    known: dict[str, object] = {}
    with suppress(OSError, RecordError, TypeError):
        known = dict(parse(_file().read_bytes()))
    known[_key(artifact_sha256)] = to_plain(tuned)
    write_atomically(_file(), json.dumps(known, indent=1) + "\n")


def tune(
    network: Network,
    shape: tuple[int, int],
    most_workers: int,
    batches_of: Callable[[int, int], Iterator[Batch]],
) -> Tuned:
    """Measure. `shape`: height and width; `batches_of(workers, batch)` decodes some of the job's images."""
    sizes = {batch: _engine_speed(network, (batch, *shape, 3)) for batch in _BATCHES}
    batch = _smallest_of_the_fastest(sizes)
    choices = sorted({most_workers, max(most_workers // 2, 1)}), sorted({cores(), max(cores() // 2, 1)})
    speeds = {}
    with task("tuning", len(choices[0]) * len(choices[1])) as advance:
        for workers, threads in product(*choices):
            speed = _whole_speed(replace(network, parallel=threads), batches_of(workers, batch))
            speeds[workers, threads] = speed
            advance(1, f"{workers} decoders, {threads} engine threads: {speed:.1f} images/s")
    workers, threads = _smallest_of_the_fastest(speeds)
    say(f"tuned: batches of {batch}, {threads} engine threads, {workers} decoders")
    return Tuned(batch, threads, workers)


def _smallest_of_the_fastest(speeds: dict[Choice, float]) -> Choice:
    enough = max(speeds.values()) * (1 - _NEGLIGIBLE)
    return min(choice for choice, speed in speeds.items() if speed >= enough)


def _engine_speed(network: Network, shape: tuple[int, int, int, int]) -> float:
    """Images per second with as many calls at once as the network takes."""
    pixels: Pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    network.run(pixels)
    started = time.perf_counter()

    def work(_caller: int) -> int:
        done = 0
        while time.perf_counter() - started < _SECONDS:
            done += len(network.run(pixels)[0])
        return done

    with ThreadPoolExecutor(network.parallel) as pool:
        done = sum(pool.map(work, range(network.parallel)))
    return done / (time.perf_counter() - started)


def _whole_speed(network: Network, batches: Iterator[Batch]) -> float:
    """Images per second from files to rows, after the first batch: what starts once does not count."""
    times, images = [], 0
    for _, rows in classified(batches, network, Meter()):
        times.append(time.perf_counter())
        images += len(rows) if len(times) > 1 else 0
    return images / max(times[-1] - times[0], 1e-6) if len(times) > 1 else 0.0


def _file() -> Path:
    return default_folder().parent / FILE


def _key(artifact_sha256: str) -> str:
    return f"{artifact_sha256[:16]} {cpu_name()} {cores()}"
