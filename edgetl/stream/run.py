"""A job on this machine: what is missing is decoded, classified and committed, then the job is finished."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from edgetl.errors import StorageError
from edgetl.files import refuse_storage
from edgetl.progress import say, task
from edgetl.rows import Extras, Row, row_of
from edgetl.stream.classify import Network, predictions
from edgetl.stream.decode import Batch, Stopped
from edgetl.stream.journal import Journal
from edgetl.stream.stopping import stopping

COMMIT_SECONDS = 30.0
_USUAL_ROW_BYTES = 100


@dataclass
class Meter:
    """Where the time goes: waiting for pixels, or classifying."""

    started: float = field(default_factory=time.perf_counter)
    classified: int = 0
    refused: int = 0
    waiting_seconds: float = 0.0
    engine_seconds: float = 0.0  # waiting for it

    def count(self, batch: Batch) -> None:
        """The images of a batch are done."""
        refused = sum(why is not None for why in batch.refused)
        self.refused += refused
        self.classified += len(batch.items) - refused

    @property
    def limit(self) -> str:
        """What more speed would have to come from."""
        if self.classified == 0:
            return ""
        return "decoding" if self.waiting_seconds > self.engine_seconds else "inference"

    @property
    def seconds(self) -> float:
        """Since the start."""
        return max(time.perf_counter() - self.started, 1e-9)

    @property
    def images_per_second(self) -> float:
        """Classified images over the time since the start."""
        return self.classified / self.seconds

    def words(self) -> str:
        """For the line of progress."""
        limit = self.limit and f", limited by {self.limit}"
        return f"{self.images_per_second:.1f} images/s, {self.refused} refused{limit}"


Classified = tuple[int, list[Row]]  # the position of the first, and rows
Source = Callable[[list[range], Callable[[], bool]], Iterator[Classified]]  # of the rows at those positions


def classified(batches: Iterator[Batch], network: Network, meter: Meter) -> Iterator[Classified]:
    """Rows of batches, in order; as many batches at once as the network takes; the meter runs."""
    pending: deque[tuple[Batch, Future[list[Row]]]] = deque()
    with ThreadPoolExecutor(network.parallel, thread_name_prefix="edgetl-engine") as pool:
        try:
            while (batch := _next(batches, meter)) is not None:
                own = replace(batch, pixels=batch.pixels.copy())  # the next batch takes the place of this one
                pending.append((own, pool.submit(rows_of, own, network)))
                if len(pending) > network.parallel:
                    yield _settled(*pending.popleft(), meter)
        except Stopped:
            yield from (_settled(*entry, meter) for entry in pending)
            raise
        yield from (_settled(*entry, meter) for entry in pending)


def rows_of(batch: Batch, network: Network) -> list[Row]:
    """One for each image of a batch, in order. Raises as `predictions`."""
    return [row_of(prediction, network.extras) for prediction in predictions(batch, network)]


def _next(batches: Iterator[Batch], meter: Meter) -> Batch | None:
    before = time.perf_counter()
    batch = next(batches, None)
    meter.waiting_seconds += time.perf_counter() - before
    return batch


def _settled(batch: Batch, future: Future[list[Row]], meter: Meter) -> Classified:
    before = time.perf_counter()
    rows = future.result()
    meter.engine_seconds += time.perf_counter() - before
    meter.count(batch)
    return batch.first, rows


def fill(
    journal: Journal, planned: int, source: Source, meter: Meter, *, extras: Extras, shard_rows: int
) -> None:
    """Make and commit the rows that a journal lacks.

    Asked to stop, it commits what is done and raises `KeyboardInterrupt`. When the disk refuses, what was
    committed stays, and the `StorageError` says how much space the rest needs.
    """
    missing = journal.missing(planned)
    if not missing:
        return
    writer = _Writer(journal, planned, extras, shard_rows)
    with stopping() as wants_to_stop, task("predicting", planned, journal.rows) as advance:
        try:
            for first, rows in source(missing, wants_to_stop):
                writer.add(first, rows)
                advance(len(rows), meter.words())
        except Stopped:
            writer.commit()
            say(f"stopped: {journal.rows} of {planned} rows are kept in {journal.folder}; run the same again")
            raise KeyboardInterrupt from None
        writer.commit()


class _Writer:
    """Rows that wait to be committed together."""

    def __init__(self, journal: Journal, planned: int, extras: Extras, shard_rows: int) -> None:
        self._journal = journal
        self._planned = planned
        self._extras = extras
        self._shard_rows = shard_rows
        self._first = 0
        self._rows: list[Row] = []
        self._since = time.monotonic()

    def add(self, first: int, rows: list[Row]) -> None:
        """Take rows, and commit when they are many, old, or do not follow."""
        if self._rows and first != self._first + len(self._rows):
            self.commit()
        if not self._rows:
            self._first = first
        self._rows += rows
        if len(self._rows) >= self._shard_rows or time.monotonic() - self._since > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Make what waits durable. Raises `StorageError`."""
        if self._rows:
            try:
                self._journal.commit(self._first, self._rows, self._extras)
            except OSError as error:
                self._refuse(error)
        self._rows = []
        self._since = time.monotonic()

    def _refuse(self, error: OSError) -> None:
        try:
            refuse_storage(error, self._journal.folder)
        except StorageError as refusal:
            raise StorageError(
                f"{refusal.what[:-1]}; {self._journal.rows} of {self._planned} rows are safe there.",
                f"{refusal.fix} The rest needs about {in_words(self._needed())}.",
            ) from error

    def _needed(self) -> int:
        parts = self._journal.ordered()
        rows = sum(part.rows for part in parts)
        each = sum(part.size_bytes for part in parts) / rows if rows else _USUAL_ROW_BYTES
        return int((self._planned - rows) * each) + 2**20


def in_words(size_bytes: int) -> str:
    """Such as 12 MB."""
    return f"{size_bytes / 1e6:.0f} MB" if size_bytes < 1e9 else f"{size_bytes / 1e9:.1f} GB"
