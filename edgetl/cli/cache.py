"""`edgetl cache`."""

from typing import TYPE_CHECKING

from edgetl.cli.command import Outcome, command
from edgetl.cli.show import lines, size, table
from edgetl.config import CacheConfig

if TYPE_CHECKING:
    from edgetl.results import CacheUsage

COLUMNS = ("activations of", "rows", "size", "last used", "in use")
NAMES_SHOWN = 3


@command(CacheConfig)
def cache(config: CacheConfig) -> Outcome:
    """Show or clean the cache of activations. Training runs share it, so that they start sooner."""
    from edgetl.steps.cache import cache as step

    usage = step(config)
    return Outcome(usage, _show_cleaned if config.clear or config.limit else _show)


def _show_cleaned(usage: "CacheUsage") -> None:
    kept = " What is in use was kept." if any(space.in_use for space in usage.spaces) else ""
    lines(f"freed: {size(usage.freed_bytes)}.{kept}")
    _show(usage)


def _show(usage: "CacheUsage") -> None:
    if usage.spaces:
        rows = [
            (
                space.title,
                str(space.rows),
                size(space.size_bytes),
                _minute(space.last_used),
                "yes" if space.in_use else "no",
            )
            for space in usage.spaces
        ]
        total = ("all", str(sum(space.rows for space in usage.spaces)), size(usage.size_bytes), "", "")
        table(f"cache: {usage.folder}", COLUMNS, [*rows, total])
    else:
        lines(f"The cache in {usage.folder} is empty; the next training run will fill it.")
    if usage.damaged:
        lines(
            f"note: damaged or unfinished: {_some(usage.damaged)}", "  fix: edgetl cache --clear removes them"
        )
    if usage.foreign:
        lines(f"note: not made by this version of edgetl, and left alone: {_some(usage.foreign)}")


def _minute(moment: str) -> str:
    """An ISO 8601 moment in UTC, as people read it."""
    return f"{moment[:16].replace('T', ' ')} UTC"


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
