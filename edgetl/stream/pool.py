"""Decoder processes and the memory they share: images in, pixels out, whatever the images do."""

import itertools
import json
import math
import mmap
import os
import queue
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgetl.images import Pixels
from edgetl.records import to_json
from edgetl.refusals import Refusal, Refused
from edgetl.stream.items import Item
from edgetl.stream.sources import Loaded
from edgetl.stream.worker import FAILED, READY, Settings, pack

_AHEAD = 3  # tasks that a worker holds, so that it never waits for the next
_ATTEMPTS = 2  # an image is to blame when it takes two workers with it
_FAILED_STARTS = 5
_LONGEST_START_SECONDS = 60.0
_JOIN_SECONDS = 2.0
_STARVED_SECONDS = 0.02  # until a source of tasks that had none is asked again


@dataclass(frozen=True)
class Decoding:
    """How images are decoded."""

    height: int
    width: int
    background: tuple[int, int, int]
    draft: bool
    workers: int
    slots: int  # images in shared memory
    memory_bytes: int  # that one worker may take for one image
    timeout_seconds: float  # for one image


@dataclass(frozen=True)
class Done:
    """One image: its number, counted from 0 as they came, its place in the plan, and why it has no pixels."""

    number: int
    position: int
    item: Item
    refused: Refused | None


@dataclass
class _Task:
    number: int
    position: int
    item: Item
    content: bytes | None
    attempts: int = 0


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    since: float  # when it was started, or began with the first of its tasks
    tasks: deque[_Task] = field(default_factory=deque)
    ready: bool = False


class Pool:
    """Workers and a thread that keeps them busy.

    `tasks` may give None where it has nothing yet; it is asked again soon. `pixels` is shared memory,
    uint8 RGB [slots, H, W, 3]; image n lies in row n % slots until it is released. `results` gives every
    image as it is done, None at the end, or what went wrong with the work itself.
    """

    def __init__(self, how: Decoding, tasks: Iterator[Loaded | None]) -> None:
        self._how = how
        self._tasks = tasks
        self._numbers = itertools.count()
        size = how.slots * how.height * how.width * 3
        self._file = _shared_file()
        self._file.truncate(size)
        memory = mmap.mmap(self._file.fileno(), size)
        self.pixels: Pixels = np.frombuffer(memory, np.uint8).reshape(-1, how.height, how.width, 3)
        self.results: queue.SimpleQueue[Done | BaseException | None] = queue.SimpleQueue()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._released = 0
        self._closed = False
        self._waiting: deque[_Task] = deque()  # given back by workers that died, or not given yet
        self._exhausted = False
        self._starved = False
        self._failed_starts = 0
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="edgetl-pool", daemon=True)
        self._thread.start()

    def release(self, number: int) -> None:
        """The pixels of all images before this number are not needed any more."""
        self._released = number
        with suppress(OSError):  # full of such news already
            self._wake.send(b"\0")

    def close(self) -> None:
        """End all workers at once."""
        self._closed = True
        self.release(self._released)
        self._thread.join(_JOIN_SECONDS)  # longer only where an address does not answer

    def _run(self) -> None:
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        try:
            for _ in range(self._how.workers):
                self._hire()
            while not self._closed and self._feed():
                self._listen()
            self.results.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever reads the results
            self.results.put(error)
        finally:
            for worker in list(self._workers):
                self._dismiss(worker)
            self._selector.close()
            self._wake.close()
            self._woken.close()
            self._file.close()

    def _hire(self) -> None:
        ours, theirs = socket.socketpair()
        how = self._how
        with theirs:
            descriptors = (theirs.fileno(), self._file.fileno())
            settings = Settings(
                *descriptors, how.height, how.width, how.background, how.draft, how.memory_bytes
            )
            process = subprocess.Popen(
                [sys.executable, "-m", "edgetl.stream.worker", to_json(settings)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # libraries for images print what they think of them
                pass_fds=descriptors,
                env=_environment(),
            )
        worker = _Worker(process, Connection(ours.detach()), time.monotonic())
        self._workers.append(worker)
        self._selector.register(worker.connection, selectors.EVENT_READ, worker)

    def _feed(self) -> bool:
        """Give tasks to whoever can take them; whether anything is left to wait for."""
        while (task := self._upcoming()) is not None:
            able = [worker for worker in self._workers if worker.ready and len(worker.tasks) < _AHEAD]
            worker = min(able, key=lambda each: len(each.tasks), default=None)
            # Only a worker that waits reads at once; a message of megabytes to another would block all.
            if worker is None or (task.content is not None and worker.tasks):
                break
            self._waiting.popleft()
            if not worker.tasks:
                worker.since = time.monotonic()
            worker.tasks.append(task)
            try:
                worker.connection.send_bytes(pack(task.number % self._how.slots, task.item, task.content))
            except OSError:
                self._lose(worker, Refusal.CRASHED)
        return bool(self._waiting) or not self._exhausted or any(worker.tasks for worker in self._workers)

    def _upcoming(self) -> _Task | None:
        """The first task that waits, after fetching one if none does and there is room for its pixels."""
        self._starved = False
        while not self._waiting and not (self._exhausted or self._starved):
            try:
                loaded = next(self._tasks)
            except StopIteration:
                self._exhausted = True
                break
            if loaded is None:
                self._starved = True
                break
            number = next(self._numbers)
            position, item, content = loaded
            if isinstance(content, Refused):
                self.results.put(Done(number, position, item, content))
            else:
                self._waiting.append(_Task(number, position, item, content))
        if self._waiting and self._waiting[0].number < self._released + self._how.slots:
            return self._waiting[0]
        return None

    def _listen(self) -> None:
        now = time.monotonic()
        until = min((self._deadline(worker) for worker in self._workers), default=now)
        longest = _STARVED_SECONDS if self._starved else _LONGEST_START_SECONDS
        for key, _ in self._selector.select(max(min(until - now, longest), 0.0)):
            if key.data is None:
                self._woken.recv(4096)
            elif key.data in self._workers:
                self._hear(key.data)
        now = time.monotonic()
        for worker in list(self._workers):
            if now > self._deadline(worker) and not worker.connection.poll():
                self._lose(worker, Refusal.TIMEOUT)

    def _deadline(self, worker: _Worker) -> float:
        if not worker.ready:
            return worker.since + _LONGEST_START_SECONDS
        return worker.since + self._how.timeout_seconds if worker.tasks else math.inf

    def _hear(self, worker: _Worker) -> None:
        try:
            answer = worker.connection.recv_bytes()
        except (EOFError, OSError):
            self._lose(worker, Refusal.CRASHED)
            return
        worker.since = time.monotonic()
        if answer == READY:
            worker.ready = True
            self._failed_starts = 0
            return
        task = worker.tasks.popleft()
        if answer.startswith(FAILED):
            raise RuntimeError(f"decoding {task.item.path!r}:\n{answer.removeprefix(FAILED).decode()}")
        self._settle(task, _refusal_of(answer))

    def _settle(self, task: _Task, refused: Refused | None) -> None:
        self.results.put(Done(task.number, task.position, task.item, refused))

    def _lose(self, worker: _Worker, reason: Refusal) -> None:
        """A worker died, or is killed because it takes too long; the first of its tasks is why."""
        code = self._dismiss(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts == _FAILED_STARTS:
                raise RuntimeError(f"decoder processes end as they start (exit code {code})")
        elif worker.tasks:
            task = worker.tasks.popleft()
            task.attempts += 1
            if task.attempts < _ATTEMPTS:
                self._waiting.appendleft(task)
            else:
                self._settle(task, _blamed(reason, code, self._how.timeout_seconds))
        self._waiting.extendleft(reversed(worker.tasks))
        self._waiting = deque(sorted(self._waiting, key=lambda task: task.number))
        self._hire()

    def _dismiss(self, worker: _Worker) -> int:
        self._workers.remove(worker)
        self._selector.unregister(worker.connection)
        worker.process.kill()
        code = worker.process.wait()
        worker.connection.close()
        return code


def _refusal_of(answer: bytes) -> Refused | None:
    if not answer:
        return None
    reason, detail = json.loads(answer)
    return Refused(Refusal(reason), detail)


def _blamed(reason: Refusal, code: int, timeout_seconds: float) -> Refused:
    if reason is Refusal.TIMEOUT:
        return Refused(reason, f"Decoding it took longer than {timeout_seconds:g} s, twice.")
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Refused(reason, f"It ended the process that decoded it, twice ({how}).")


def _environment() -> dict[str, str]:
    """So that workers find this very package, and start no threads for arithmetic they do not do."""
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}


def _shared_file() -> BinaryIO:
    """A file without a name, in memory where the system can (Linux)."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("edgetl-pixels"), "w+b")
    return tempfile.TemporaryFile()
