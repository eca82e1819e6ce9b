"""What one CPU of a cluster does: parts of the plan come in, rows go out; decoders and network stay."""

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from edgetl.card import Artifact
from edgetl.config import PredictConfig
from edgetl.errors import DataError
from edgetl.refusals import Refusal
from edgetl.rows import Row
from edgetl.stream import decode, jobs
from edgetl.stream.items import UNKNOWN, Item, Kind
from edgetl.stream.pool import Decoding
from edgetl.stream.run import Meter, rows_of
from edgetl.stream.sources import loaded

Numbered = list[tuple[int, Item]]


@dataclass(frozen=True)
class Work:
    """What every node is told once."""

    content: bytes  # of the artifact
    artifact: Artifact
    labels: tuple[str, ...]
    config: PredictConfig
    how: Decoding
    batch: int
    shard_rows: int


@dataclass
class _Call:
    numbered: Numbered
    rows: list[Row] = field(default_factory=list)
    done: "Future[None]" = field(default_factory=Future)
    meter: Meter = field(default_factory=Meter)


class Node:
    """A network and decoders that live as long: to start decoders takes longer than a small part.

    Calls may overlap; their images go through in the order in which the calls came.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        config = replace(work.config, threads=work.config.threads or 1)  # a node is one CPU
        self._network = jobs.network_of(work.content, work.artifact, work.labels, config, parallel=1)
        self._lock = threading.Lock()
        self._given: queue.SimpleQueue[Numbered | None] = queue.SimpleQueue()
        self._calls: deque[_Call] = deque()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="edgetl-node", daemon=True)
        self._thread.start()

    def classify(self, numbered: Numbered) -> tuple[list[Row], Meter]:
        """Rows of neighbours in the plan, in order. Raises `DataError` where no file is to be seen."""
        call = _Call(numbered)
        if numbered[0][0] % self._work.batch == len(numbered) % self._work.batch == 0:
            with self._lock:
                if self._failed is not None:
                    raise self._failed
                self._calls.append(call)
                self._given.put(numbered)
            call.done.result()
        else:  # such as the end of a plan: nothing may follow a batch that is not whole
            for batch, waited in self._batches(iter(numbered)):
                self._take(call, batch, waited)
        _refuse_blindness(numbered, call.rows)
        return call.rows, call.meter

    def close(self) -> None:
        """End the decoders; calls that are under way are finished before."""
        self._given.put(None)
        self._thread.join()

    def _serve(self) -> None:
        try:
            for batch, waited in self._batches(self._items()):
                call = self._calls[0]
                self._take(call, batch, waited)
                if len(call.rows) == len(call.numbered):
                    self._calls.popleft().done.set_result(None)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            with self._lock:
                self._failed = error
                for call in self._calls:
                    call.done.set_exception(error)

    def _items(self) -> Iterator[tuple[int, Item] | None]:
        while True:
            try:
                numbered = self._given.get_nowait()
            except queue.Empty:
                yield None
                continue
            if numbered is None:
                return
            yield from numbered

    def _batches(self, items: Iterator[tuple[int, Item] | None]) -> Iterator[tuple[decode.Batch, float]]:
        """Batches, and the seconds that each was waited for."""
        work = self._work
        found = decode.in_processes(loaded(items, work.config.column), work.how, work.batch, lambda: False)
        before = time.perf_counter()
        for batch in found:
            yield batch, time.perf_counter() - before
            before = time.perf_counter()

    def _take(self, call: _Call, batch: decode.Batch, waited: float) -> None:
        before = time.perf_counter()
        call.rows += rows_of(batch, self._network)
        call.meter.count(batch)
        call.meter.waiting_seconds += waited
        call.meter.engine_seconds += time.perf_counter() - before


def _refuse_blindness(numbered: Numbered, rows: list[Row]) -> None:
    """Files that were there when the job was planned, and of which a node sees none."""
    pairs = zip(numbered, rows, strict=True)
    there = [row for (_, item), row in pairs if item.kind is Kind.FILE and item.stamp != UNKNOWN]
    if there and all(row["reason"] == Refusal.MISSING for row in there):
        raise DataError(
            f"The node {os.uname().nodename} sees none of {len(there)} images, such as {there[0]['path']}.",
            "Put images where all nodes see them under the same path, or name addresses (s3://...).",
        )
