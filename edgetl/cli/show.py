"""Tables and lines for people. Programs use `--json`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 400  # nothing is folded or cut for a program that reads lines


def console() -> "Console":
    """Standard output: as wide as the terminal, or wide and plain in a pipe."""
    from rich.console import Console

    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=PIPE_WIDTH, no_color=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    """Print a table; the first column is text, the others are right-aligned unless they are words."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    screen = console()
    drawn = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD if screen.is_terminal else None)
    for position, name in enumerate(columns):
        numeric = position > 0 and all(_is_number(row[position]) for row in rows)
        drawn.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    screen.print(drawn, markup=False)
    for note in notes:
        screen.print(note, markup=False)


def lines(*texts: str) -> None:
    """Print lines."""
    screen = console()
    for text in texts:
        screen.print(text, markup=False)


def size(size_bytes: int) -> str:
    """Megabytes (10^6), as disks and shops count."""
    return f"{size_bytes / 1e6:.2f} MB"


def share(value: float) -> str:
    """A share 0..1 in percent."""
    return f"{100 * value:.1f} %"


def _is_number(text: str) -> bool:
    return not text or text[0].isdigit() or text[0] in "+-<>≤" or text in ("", "n/a")
