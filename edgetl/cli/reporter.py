"""How progress is drawn, on standard error: bars with time left in a terminal, plain lines in a pipe."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from edgetl.cli.show import printable
from edgetl.progress import Advance, Reporter

SECONDS_BETWEEN_LINES = 15.0


def reporter_for(stream: TextIO) -> Reporter:
    """Bars for a terminal, lines for anything else."""
    return TerminalReporter() if stream.isatty() else PlainReporter(stream)


class Interruptible:
    """Tells another reporter, and first looks each time whether the work was to end long ago."""

    def __init__(self, reporter: Reporter, arrive: Callable[[], None]) -> None:
        self._reporter, self._arrive = reporter, arrive

    @contextmanager
    def task(self, name: str, total: int | None, begun: int = 0) -> Iterator[Advance]:
        """See `Reporter`."""
        with self._reporter.task(name, total, begun) as told:

            def advance(units: int, note: str = "") -> None:
                self._arrive()
                told(units, note)

            yield advance

    def say(self, text: str) -> None:
        """See `Reporter`."""
        self._reporter.say(text)


class TerminalReporter:
    """Rich progress bars that leave one line behind."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)

    @contextmanager
    def task(self, name: str, total: int | None, begun: int = 0) -> Iterator[Advance]:
        """See `Reporter`."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeLeft(),
            TextColumn("{task.fields[note]}", markup=False),
        )  # fmt: skip
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task(name, total=total, completed=begun, note="")

            def advance(units: int, note: str = "") -> None:
                progress.update(bar, advance=units, note=note)

            yield advance

    def say(self, text: str) -> None:
        """See `Reporter`."""
        self._console.print(printable(text), soft_wrap=True)


class PlainReporter:
    """A line when work begins or ends, and one now and then with the time left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @contextmanager
    def task(self, name: str, total: int | None, begun: int = 0) -> Iterator[Advance]:
        """See `Reporter`."""
        started = last = time.monotonic()
        done = begun

        def advance(units: int, note: str = "") -> None:
            nonlocal done, last
            done += units
            now = time.monotonic()
            if now - last >= SECONDS_BETWEEN_LINES and total and done > begun:
                last = now
                left = (now - started) / (done - begun) * (total - done)
                self.say(f"{name}: {done} of {total}, about {left:.0f} s left{note and ', '}{note}")

        yield advance
        own = f", {done - begun} of them" if begun else ""
        self.say(f"{name}: {done}{own} in {time.monotonic() - started:.1f} s")

    def say(self, text: str) -> None:
        """See `Reporter`."""
        with suppress(OSError):  # nobody may be there to listen any more, which must not stop the work
            print(printable(text), file=self._stream, flush=True)
