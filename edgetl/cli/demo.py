"""`edgetl demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetl.cli.command import Outcome, command
from edgetl.cli.show import lines, share, size, table
from edgetl.config import DemoConfig
from edgetl.errors import ExitCode, needing

if TYPE_CHECKING:
    from edgetl.steps.demo import DemoResult, DemoRow

COLUMNS = (
    "artifact",
    "size",
    "accuracy",
    "95 % interval",
    "drop",
    "at most",
    "verdict",
    "p50 ms",
    "images/s",
)


@command(DemoConfig)
def demo(
    config: DemoConfig,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where everything goes.")] = Path(
        "demo-output"
    ),
) -> Outcome:
    """See the whole path once. On shipped images: train, evaluate, export, verify, predict, bench, report."""
    with needing("train", "The demo"):
        from edgetl.steps.demo import demo as step

    result = step(output, config)
    return Outcome(result, _show, ExitCode(result.exit_code))


def _show(result: "DemoResult") -> None:
    table("", COLUMNS, [_cells(row) for row in result.rows])
    lines(
        "drop: points of accuracy lost on the same images; at most: its one-sided 95 % bound",
        f"model folder: {result.model}",
        f"predictions:  {result.predictions}",
        f"report:       {result.report}",
        f"done in {result.minutes:.1f} minutes",
    )


def _cells(row: "DemoRow") -> tuple[str, ...]:
    return (
        row.artifact,
        size(row.size_bytes),
        share(row.accuracy),
        f"{100 * row.accuracy_low:.1f} to {100 * row.accuracy_high:.1f}",
        "" if row.drop_points is None else f"{row.drop_points:+.2f}",
        "" if row.drop_upper_points is None else f"{row.drop_upper_points:.2f}",
        row.verdict,
        "" if row.latency_p50_ms is None else f"{row.latency_p50_ms:.1f}",
        "" if row.images_per_second is None else f"{row.images_per_second:.1f}",
    )
