"""Gradient descent on several machines at once: each computes its share of every step's gradient.

TensorFlow's MultiWorkerMirroredStrategy only carries the messages (gRPC, ring all-reduce). Model and
optimizer are ordinary; every worker applies the same summed gradient to the same weights. What decides how
many steps there are (plan, start, time, tuning loss) is worker 0's. Nothing is encrypted and nobody is asked
for a password: for trusted networks only.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorflow.python.distribute import collective_all_reduce_strategy as collective
from tensorflow.python.eager import context as eager

from edgetl.errors import EdgetlError
from edgetl.keras import tf
from edgetl.progress import say
from edgetl.workers import Workers, read_workers

START_SECONDS = 60  # for all workers to be started
_HEALTH = {"interval": 5, "timeout": 5, "retry_limit": 3}  # seconds: a frozen worker is noticed in 20
_ABORTED = re.compile(r"Collective ops is aborted by: (.*)")
_LOST = re.compile(r"task:(\d+) is down|remote target /job:worker/replica:0/task:(\d+)")


@dataclass(frozen=True)
class Share:
    """One worker's part of a batch."""

    part: slice
    weight: float  # what the mean loss of the part counts in the mean loss of the batch


class Communication:
    """What workers tell each other. All must make the same calls in the same order.

    Without a strategy there is one worker, which is told what it says.
    """

    def __init__(self, index: int = 0, size: int = 1, strategy: Any = None) -> None:
        self.index, self.size = index, size
        self._strategy = strategy
        self._summed: Callable[..., Any] = tf.function(self.sum, reduce_retracing=True)

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that decides."""
        return self.index == 0

    def share(self, count: int) -> Share:
        """This worker's part of a batch of `count` images.

        A part that would be empty is one image that counts 0: TensorFlow's convolutions fail without images.
        """
        start, stop = (number * count // self.size for number in (self.index, self.index + 1))
        if start == stop:
            return Share(slice(0, 1), 0.0)
        return Share(slice(start, stop), (stop - start) / count)

    def sum(self, tensors: Sequence[Any]) -> list[Any]:
        """Every tensor summed over the workers, the same bits on each. For use inside a `tf.function`."""
        if self._strategy is None:
            return list(tensors)

        def add(*local: Any) -> Any:  # identity gives each tensor the device that all_reduce asks for
            return tf.distribute.get_replica_context().all_reduce("SUM", [tf.identity(one) for one in local])

        return list(self._strategy.run(add, args=tuple(tensors)))

    def from_first(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The arrays of worker 0, of 32 or 64 bit numbers, whatever the others give."""
        forms = [(array.dtype.str, array.shape) for array in arrays]
        told = json.loads(self.bytes_from_first(lambda: json.dumps(forms).encode()))
        own = arrays if self.is_first else [np.zeros(shape, kind) for kind, shape in told]
        return [self._exchange(array) for array in own]

    def bytes_from_first(self, make: Callable[[], bytes]) -> bytes:
        """What `make` gives on worker 0; the others do not call it."""
        own = make() if self.is_first else b""
        length = int(self._exchange(np.array([len(own)]))[0])
        numbers = np.zeros(length, np.int32)
        numbers[: len(own)] = np.frombuffer(own, np.uint8)
        return self._exchange(numbers).astype(np.uint8).tobytes()

    def number_from_first(self, number: float) -> float:
        """Worker 0's number."""
        return float(self._exchange(np.array([number if self.is_first else 0.0]))[0])

    def equalize(self, variables: Sequence[Any]) -> None:
        """Give the variables worker 0's values."""
        if self._strategy is not None:
            values = self.from_first([variable.numpy() for variable in variables])
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def agree(self, what: str, value: str) -> None:
        """Raise `EdgetlError` on every worker unless all have the same `value`; `what` names it."""
        table = np.zeros((self.size, 8), np.int32)
        table[self.index] = np.frombuffer(sha256(value.encode()).digest(), np.int32)
        table = self._exchange(table)
        others = [str(number) for number in range(self.size) if (table[number] != table[0]).any()]
        if others:
            raise EdgetlError(
                f"Worker 0 and worker {', '.join(others)} do not have the same {what}.",
                "Make them the same on every machine, and start all again.",
            )

    def finish(self) -> None:
        """Wait for all, and tell nothing any more: from here on a worker may end without the others."""
        self._exchange(np.zeros(1, np.float32))
        self.stop()

    def stop(self) -> None:
        """Watch the others no more."""
        stopping = getattr(
            self._strategy and self._strategy.extended, "_check_health_thread_should_stop", None
        )
        if stopping is not None:
            stopping.set()

    def _exchange(self, array: NDArray[Any]) -> NDArray[Any]:
        """The sum of everybody's array; an empty one would crash TensorFlow."""
        if self._strategy is None or array.size == 0:
            return array
        summed: NDArray[Any] = _interruptible(self._summed, [tf.constant(array)])[0].numpy()
        return summed


ALONE = Communication()


@contextmanager
def communicating(file: Path | None) -> Iterator[Communication]:
    """Connect to the workers that `file` names, and tell in words when one is lost; no file: train alone.

    Must come before all else TensorFlow does in a process. Raises `UsageError` and `EdgetlError`.
    """
    if file is None:
        yield ALONE
        return
    workers = read_workers(file)
    count = len(workers.workers)
    say(
        f"worker {workers.index} of {count}, counted from 0: waiting at most {START_SECONDS} s for the others"
    )
    with _worker_errors(workers):
        communication = Communication(workers.index, count, _connect(workers, START_SECONDS))
        try:
            yield communication
        finally:
            communication.stop()


def _connect(workers: Workers, seconds: int) -> Any:
    """The strategy, once all workers are there."""
    hosts = ",".join(address.rpartition(":")[0] for address in workers.workers)
    os.environ["no_grpc_proxy"] = hosts  # noqa: SIM112 - gRPC would send even localhost through http_proxy
    # TensorFlow 2.21 prefers its coordination service, which waits for a missing worker for ever and swallows
    # SIGTERM. The older health check does neither, but only these private names choose and set it.
    eager.context().configure_coordination_service(service_type="")
    for name, value in {"initial_timeout": seconds, **_HEALTH}.items():
        setattr(collective.CollectiveAllReduceExtended, f"_check_health_{name}", value)
    tf.get_logger().setLevel(
        "CRITICAL"
    )  # the health check tells its trouble twice, here and in what it raises
    cluster = tf.train.ClusterSpec({"worker": list(workers.workers)})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, "", "worker", workers.index)
    ring = tf.distribute.experimental.CommunicationImplementation.RING
    options = tf.distribute.experimental.CommunicationOptions(implementation=ring)
    try:
        return _interruptible(tf.distribute.MultiWorkerMirroredStrategy, resolver, options)
    except tf.errors.UnknownError as error:
        address = workers.workers[workers.index]
        raise EdgetlError(
            f"Cannot listen on {address}: {error.message}.",
            "Is the port in use, or the address another machine's?",
        ) from error
    except RuntimeError as error:
        if "Timeout" not in str(error):
            raise EdgetlError(
                f"Training with workers cannot begin here: {error}.",
                "Start it in a process of its own, before TensorFlow is used in any other way.",
            ) from error
        raise EdgetlError(
            f"Not all of {', '.join(workers.workers)} could be reached within {seconds} seconds.",
            "Start all of them, each with its own index; open their ports.",
        ) from error


def _interruptible(call: Callable[..., Any], *arguments: Any) -> Any:
    """What `call` gives, from a thread: while TensorFlow waits for other workers it does not see Ctrl-C."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(call(*arguments))
        except BaseException as error:  # noqa: BLE001 - raised again where `call` is wanted
            future.set_exception(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        return future.result()
    except KeyboardInterrupt:
        thread.join(1)  # what waits for nobody ends by itself; Python must not shut down in its middle
        raise


@contextmanager
def _worker_errors(workers: Workers) -> Iterator[None]:
    """Turn what TensorFlow raises when a worker is gone into `EdgetlError`."""
    try:
        yield
    except tf.errors.OpError as error:
        aborted, lost = _ABORTED.search(error.message), _LOST.search(error.message)
        if not aborted:
            raise
        name = workers.workers[int(lost[1] or lost[2])] if lost else "another worker"
        raise EdgetlError(
            f"The connection to {name} was lost: {aborted[1]}.",
            "See what happened there, then start all again with --resume.",
        ) from error
