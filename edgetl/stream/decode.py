"""Items become batches of pixels, in order: by decoder processes, or by threads where there are few."""

import queue
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from edgetl.images import Pixels, prepare_bytes
from edgetl.refusals import Refused
from edgetl.stream.items import Item, read
from edgetl.stream.pool import Decoding, Done, Pool
from edgetl.stream.sources import Loaded

_LOOK_SECONDS = 0.1  # how often a wish to stop is looked for


class Stopped(Exception):  # noqa: N818 - a wish of the user's, not an error
    """The user asked to stop; what came before is whole."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Neighbours in the plan: `first` is the position of the first of `items`.

    pixels: uint8 RGB [N, H, W, 3], zero where `refused` says why; good until the next batch is asked for.
    """

    first: int
    items: list[Item]
    refused: list[Refused | None]
    pixels: Pixels


def in_processes(
    tasks: Iterator[Loaded | None], how: Decoding, batch: int, wants_to_stop: Callable[[], bool]
) -> Iterator[Batch]:
    """Batches that begin at multiples of `batch`, as soon as they are whole. `how.slots` is a multiple too.

    Which images share a batch depends on the plan alone, so that their figures do not depend on when a job
    was interrupted or what was refused. `tasks` may give None where it has nothing yet.
    Raises `Stopped` when asked to.
    """
    pool = Pool(how, tasks)
    try:
        done: list[Done] = []
        for image in _in_order(pool, wants_to_stop):
            done.append(image)
            if (image.position + 1) % batch == 0:
                yield _batch(pool, done)
                pool.release(image.number + 1)
                done = []
        if done:
            yield _batch(pool, done)
    finally:
        pool.close()


def _in_order(pool: Pool, wants_to_stop: Callable[[], bool]) -> Iterator[Done]:
    early: dict[int, Done] = {}
    upcoming = 0
    while True:
        if wants_to_stop():
            raise Stopped
        try:
            result = pool.results.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            continue
        if result is None:
            return
        if isinstance(result, BaseException):
            raise result
        early[result.number] = result
        while upcoming in early:
            yield early.pop(upcoming)
            upcoming += 1


def _batch(pool: Pool, done: list[Done]) -> Batch:
    start = done[0].number % len(pool.pixels)
    pixels = pool.pixels[start : start + len(done)]
    for row, image in zip(pixels, done, strict=True):
        if image.refused is not None:
            row[:] = 0
    return Batch(done[0].position, [image.item for image in done], [image.refused for image in done], pixels)


def in_threads(
    tasks: Iterator[Loaded], how: Decoding, batch: int, wants_to_stop: Callable[[], bool]
) -> Iterator[Batch]:
    """The same in this process: nothing has to start, and a decoder that crashes takes everything with it."""
    done: list[tuple[int, Item, Pixels | Refused]] = []
    for entry in _ahead(tasks, how):
        if wants_to_stop():
            raise Stopped
        done.append(entry)
        if (entry[0] + 1) % batch == 0:
            yield _stacked(done, how)
            done = []
    if done:
        yield _stacked(done, how)


def _ahead(tasks: Iterator[Loaded], how: Decoding) -> Iterator[tuple[int, Item, Pixels | Refused]]:
    pending: deque[tuple[int, Item, Future[Pixels | Refused]]] = deque()
    pool = ThreadPoolExecutor(how.workers, thread_name_prefix="edgetl-images")
    try:
        for position, item, content in tasks:
            if len(pending) == how.workers * 8:
                first, image, future = pending.popleft()
                yield first, image, future.result()
            pending.append((position, item, pool.submit(_prepared, item, content, how)))
        for first, image, future in pending:
            yield first, image, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepared(item: Item, content: bytes | Refused | None, how: Decoding) -> Pixels | Refused:
    data = read(item) if content is None else content
    if isinstance(data, Refused):
        return data
    return prepare_bytes(data, how.height, how.width, how.background, how.draft)


def _stacked(done: list[tuple[int, Item, Pixels | Refused]], how: Decoding) -> Batch:
    pixels = np.zeros((len(done), how.height, how.width, 3), np.uint8)
    refused: list[Refused | None] = []
    for row, (_, _, prepared) in zip(pixels, done, strict=True):
        refused.append(prepared if isinstance(prepared, Refused) else None)
        if not isinstance(prepared, Refused):
            row[:] = prepared
    return Batch(done[0][0], [item for _, item, _ in done], refused, pixels)
