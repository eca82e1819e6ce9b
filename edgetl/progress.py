"""How long work shows itself without knowing who watches: steps report, the command line draws."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol


class Advance(Protocol):
    """Tells of units done, and how it goes in a few words."""

    def __call__(self, units: int, note: str = "", /) -> None:
        """More of them."""
        ...


class Reporter(Protocol):
    """Somebody who watches."""

    def task(self, name: str, total: int | None, begun: int = 0) -> AbstractContextManager[Advance]:
        """A piece of work of `total` units (None: unknown), `begun` of them by an earlier run.

        Call the given function with units done.
        """
        ...

    def say(self, text: str) -> None:
        """One line about what was decided or found."""
        ...


class Silent:
    """Nobody watches: what library callers get."""

    @contextmanager
    def task(self, name: str, total: int | None, begun: int = 0) -> Iterator[Advance]:  # noqa: ARG002 - the protocol's names
        """Count nothing."""
        yield lambda _units, _note="": None

    def say(self, text: str) -> None:
        """Say nothing."""


# How long the command has been running to which a step belongs; None where a program calls the step.
COMMAND_SECONDS: ContextVar[Callable[[], float] | None] = ContextVar("edgetl_command_seconds", default=None)
REPORTER: ContextVar[Reporter] = ContextVar("edgetl_reporter", default=Silent())  # noqa: B039 - holds no state


@contextmanager
def silenced() -> Iterator[None]:
    """For small parts of a task that would each tell of themselves."""
    token = REPORTER.set(Silent())
    try:
        yield
    finally:
        REPORTER.reset(token)


def task(name: str, total: int | None = None, begun: int = 0) -> AbstractContextManager[Advance]:
    """Announce a piece of work to whoever watches; see `Reporter.task`."""
    return REPORTER.get().task(name, total, begun)


@contextmanager
def standing(name: str, total: int, begun: int = 0) -> Iterator[Callable[[int], None]]:
    """A `task` that is told how many units are done in all, of which nothing is said twice."""
    with task(name, total, begun) as advance:
        shown = begun

        def show(done: int) -> None:
            nonlocal shown
            advance(done - shown)
            shown = done

        yield show


def say(text: str) -> None:
    """Tell whoever watches one thing."""
    REPORTER.get().say(text)
