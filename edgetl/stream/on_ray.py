"""The same job on a Ray cluster: nodes classify parts of the plan, this process alone commits them.

Nothing rests on Ray's own retries or checkpoints. A part that a node does not bring back is given to another;
what was not committed when this process ends is a gap in the journal, as on one machine. Nodes have to see
the images under the same paths, and need edgetl and the engine's package in the same versions.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from edgetl.errors import DataError, UsageError
from edgetl.progress import say
from edgetl.stream.decode import Stopped
from edgetl.stream.items import Item
from edgetl.stream.node import Node, Work
from edgetl.stream.run import Classified, Meter

_CALLS = 2  # that an actor holds: decoders begin with one while the last images of another are classified
_MOST_ATTEMPTS = 5
_LOOK_SECONDS = 0.2
_RECRUIT_SECONDS = 5.0
_KNOCK_SECONDS = 5.0


@dataclass
class _Part:
    items: list[tuple[int, Item]]
    attempts: int = 0


@dataclass(frozen=True)
class _Recruit:
    """An actor that no node has started yet: it gets no part."""

    actor: Any
    lost: int  # nodes that had been lost when it was asked for


@dataclass
class _Crew:
    """Actors and what each of them is doing."""

    told: Any  # the work, in Ray's object store
    calls: dict[Any, tuple[Any, _Part]] = field(default_factory=dict)
    actors: list[Any] = field(default_factory=list)
    coming: dict[Any, _Recruit] = field(default_factory=dict)
    failed: int = 0  # actors that could not start though their node lived, one after the other
    looked: float = -_RECRUIT_SECONDS

    def recruit(self, now: float) -> None:
        """One actor for each CPU of the cluster; nodes may have come since.

        Ray counts the CPUs of a lost node for a while, so an actor may be asked for that can never start.
        """
        if now - self.looked < _RECRUIT_SECONDS:
            return
        self.looked = now
        wanted, lost = int(ray.cluster_resources().get("CPU", 0)), _nodes_lost()
        while len(self.actors) + len(self.coming) < wanted:
            actor = _REMOTE(Node).remote(self.told)
            self.coming[actor.__ray_ready__.remote()] = _Recruit(actor, lost)
        while len(self.actors) + len(self.coming) > wanted and self.coming:
            ray.kill(self.coming.popitem()[1].actor)

    def welcome(self, call: Any) -> None:
        """An actor has started, or could not. Raises `DataError` when too many could not.

        Nodes that are lost, however many, are no reason to give up: others may come.
        """
        recruit = self.coming.pop(call)
        try:
            ray.get(call)
        except ray.exceptions.RayError as error:
            if _nodes_lost() > recruit.lost:
                return
            self.failed += 1
            if self.failed == _MOST_ATTEMPTS:
                raise DataError(
                    f"{_MOST_ATTEMPTS} nodes could not begin: {error}", "See the logs of Ray."
                ) from error
            return
        self.failed = 0
        self.actors.append(recruit.actor)

    def idle(self) -> Any | None:
        """The actor with the fewest calls, if it can hold another."""
        held = [actor for actor, _ in self.calls.values()]
        able = [actor for actor in self.actors if held.count(actor) < _CALLS]
        return min(able, key=held.count, default=None)

    def dismiss(self, actor: Any) -> None:
        """An actor whose node is gone; calls that it still has will end as lost."""
        if actor in self.actors:
            self.actors.remove(actor)
            ray.kill(actor)

    def disband(self) -> None:
        """The work is done, or given up."""
        for actor in [*self.actors, *[recruit.actor for recruit in self.coming.values()]]:
            ray.kill(actor)


def _nodes_lost() -> int:
    return sum(not node["Alive"] for node in ray.nodes())


def _REMOTE(actor: type) -> Any:  # noqa: N802 - stands for a decorator
    return ray.remote(num_cpus=1, max_concurrency=_CALLS, max_restarts=0, max_task_retries=0)(actor)


def classified(
    work: Work, plan: Iterator[tuple[int, Item]], meter: Meter, wants_to_stop: Callable[[], bool]
) -> Iterator[Classified]:
    """Rows of parts as nodes bring them back, in any order. Raises `Stopped` when asked to."""
    crew, again = _Crew(ray.put(work)), deque[_Part]()
    parts = _parts(plan, work.shard_rows)
    try:
        while True:
            crew.recruit(time.monotonic())
            while (actor := crew.idle()) is not None:
                part = again.popleft() if again else next(parts, None)
                if part is None:
                    break
                crew.calls[actor.classify.remote(part.items)] = (actor, part)
            if not crew.calls and not again and crew.actors:
                return
            if wants_to_stop():
                raise Stopped
            for call in _ended([*crew.calls, *crew.coming]):
                if call in crew.coming:
                    crew.welcome(call)
                else:
                    yield from _received(call, crew, again, meter)
    finally:
        crew.disband()


def _ended(calls: list[Any]) -> list[Any]:
    """What has come back, after a short while at most."""
    if not calls:
        time.sleep(_LOOK_SECONDS)
        return []
    ready: list[Any] = ray.wait(calls, timeout=_LOOK_SECONDS)[0]
    return ready


def _received(call: Any, crew: _Crew, again: deque[_Part], meter: Meter) -> Iterator[Classified]:
    actor, part = crew.calls.pop(call)
    try:
        rows, spent = ray.get(call)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, Exception) else error from None
    except ray.exceptions.RayError as error:
        part.attempts += 1
        if part.attempts == _MOST_ATTEMPTS:
            raise DataError(
                f"{_MOST_ATTEMPTS} nodes were lost over the part at {part.items[0][0]}: {error}",
                "See the logs of Ray; with less memory per node, give --memory.",
            ) from error
        say(f"a node was lost; its part at {part.items[0][0]} is done again")
        again.append(part)
        crew.dismiss(actor)
        return
    meter.classified += spent.classified
    meter.refused += spent.refused
    meter.waiting_seconds += spent.waiting_seconds
    meter.engine_seconds += spent.engine_seconds
    yield part.items[0][0], rows


def _parts(plan: Iterator[tuple[int, Item]], rows: int) -> Iterator[_Part]:
    """Neighbours in the plan that can be committed together."""
    held: list[tuple[int, Item]] = []
    for number, item in plan:
        if held and (number != held[-1][0] + 1 or len(held) == rows):
            yield _Part(held)
            held = []
        held.append((number, item))
    if held:
        yield _Part(held)


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Be part of a cluster, or of one of this machine's CPUs. Raises `UsageError` where there is none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    if ray.is_initialized():
        yield
        return
    knock(address)
    with _told(address):
        ray.init(
            address=address or "local",
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env=_environment(),
        )
    try:
        yield
    finally:
        ray.shutdown()


def knock(address: str | None) -> None:
    """Raise `UsageError` at once where nobody listens; Ray itself tries for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        with _told(address):
            socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()


@contextmanager
def _told(address: str | None) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"There is no Ray cluster at {address}: {error}", "Start one (deploy/ray), or drop --address."
        ) from error


def _environment() -> dict[str, dict[str, str]]:
    """Of an edgetl that is not installed but run from its sources, nodes use the same."""
    root = Path(__file__).parents[2]
    return {} if root.name == "site-packages" else {"env_vars": {"PYTHONPATH": str(root)}}
