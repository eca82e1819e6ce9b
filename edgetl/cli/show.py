"""Tables and lines for people. Programs use `--json`."""

import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 100_000  # nothing is folded or cut for a program that reads lines
NUMBER = re.compile(
    r"([-+<>≤]?\d[\d.,]*(e[-+]?\d+)?( [\w%]{1,3})?|n/a|identical|)"
)  # with a unit such as ms, %, MB


def console() -> "Console":
    """Standard output: as wide as the terminal, or wide and plain in a pipe. Texts are taken as they are."""
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # the command line's error boundary knows what to do

    if sys.stdout.isatty():
        return Screen(highlight=False, markup=False, emoji=False)
    return Screen(highlight=False, markup=False, emoji=False, color_system=None, width=PIPE_WIDTH)


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> None:
    """Print a table, then notes; columns of numbers are right-aligned, but for the first."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    screen = console()
    if title:
        screen.print(printable(title), soft_wrap=True)
    drawn = Table(box=SIMPLE_HEAD if sys.stdout.isatty() else None)
    for position, name in enumerate(columns):
        numeric = position > 0 and all(NUMBER.fullmatch(row[position]) for row in rows)
        drawn.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*map(printable, row))
    screen.print(drawn)
    lines(*notes)


def lines(*texts: str) -> None:
    """Print lines; a terminal wraps them itself, so that they can be copied whole."""
    screen = console()
    for text in texts:
        screen.print(printable(text), soft_wrap=True)


def printable(text: str) -> str:
    """The text with what a terminal would obey or refuse, as odd file names hold it, shown as escapes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )


def settle_standard_output() -> None:
    """Let what cannot be written go nowhere, so that Python does not complain when it flushes at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def size(size_bytes: int) -> str:
    """Megabytes (10^6), as disks and shops count."""
    return f"{size_bytes / 1e6:.2f} MB"


def share(value: float) -> str:
    """A share 0..1 in percent."""
    return f"{100 * value:.1f} %"
