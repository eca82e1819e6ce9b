"""`edgetl drift`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetl.cli.command import ModelFolder, Outcome, command
from edgetl.cli.show import lines, share, table
from edgetl.config import DriftConfig
from edgetl.errors import ExitCode

if TYPE_CHECKING:
    from edgetl.drifting import Distance
    from edgetl.results import Drift, DriftAspect

MOST_CLASSES = 5
SURELY = 0.05
COLUMNS = ("what", "rows", "measure", "value", "95 % interval", "allowed", "p", "verdict")
EXIT_CODES = {
    "not drifted": ExitCode.DONE,
    "drifted": ExitCode.CHECK_FAILED,
    "cannot tell": ExitCode.UNDECIDED,
}


@command(DriftConfig)
def drift(
    model: ModelFolder,
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS", help="What predict wrote: .parquet, .csv, .jsonl or a folder of parts."
        ),
    ],
    config: DriftConfig,
) -> Outcome:
    """Compare results with the certification images or earlier results: drifted, not drifted, cannot tell."""
    from edgetl.card import Model
    from edgetl.steps.drift import drift as step

    found = step(Model.open(model), results, config)
    return Outcome(found, _show, EXIT_CODES[found.verdict])


def _show(found: "Drift") -> None:
    title = f"{found.results}: {found.rows} images, against {found.reference}: {found.reference_rows} images"
    table(title, COLUMNS, [row for aspect in found.aspects for row in _rows(aspect)])
    lines(
        "",
        f"mean confidence {share(found.reference_mean_confidence)} before, "
        f"{share(found.mean_confidence)} now; "
        f"refused {share(found.reference_refused_share)} before, {share(found.refused_share)} now",
    )
    if found.classes:
        lines("classes that moved most (share before, now, 95 % interval of the difference in points):")
    for one in found.classes[:MOST_CLASSES]:
        lines(
            f"  {one.label}: {share(one.reference_share)}, {share(one.share)}, "
            f"{100 * one.difference_low:+.1f} to {100 * one.difference_high:+.1f}"
        )
    lines(*(f"note: {note}" for note in found.notes))
    remarks = [_remark(aspect, found.rows) for aspect in found.aspects]
    lines(*filter(None, remarks), f"verdict: {found.verdict}")


def _rows(aspect: "DriftAspect") -> list[tuple[str, ...]]:
    first, *others = aspect.distances
    compared = f"{aspect.name} ({aspect.compared})" if aspect.compared != aspect.name else aspect.name
    told = (f"{aspect.p_adjusted:.3f}", str(aspect.verdict))
    return [
        (compared, str(aspect.rows), *_measured(first), *told),
        *(("", "", *_measured(distance), "", "") for distance in others),
    ]


def _measured(distance: "Distance") -> tuple[str, ...]:
    if distance.measure == "moved share":
        value, low, high, allowed = map(
            share, (distance.value, distance.low, distance.high, distance.threshold)
        )
        return distance.measure, value, f"{low} to {high}", f"< {allowed}"
    return (
        distance.measure,
        f"{distance.value:.3f}",
        f"{distance.low:.3f} to {distance.high:.3f}",
        f"< {distance.threshold:.3f}",
    )


def _remark(aspect: "DriftAspect", all_rows: int) -> str:
    """A change that does not count, or how many images would settle an aspect that cannot be told."""
    if aspect.verdict == "not drifted" and aspect.p_adjusted <= SURELY:
        return f"{aspect.name}: a change is proven, and proven to be smaller than allowed"
    if aspect.verdict != "cannot tell":
        return ""
    if aspect.rows_needed < 0:
        return (
            f"{aspect.name}: the reference has only {aspect.reference_rows} images; with about "
            f"{aspect.reference_rows_needed} in both, no change would be seen as none in 80 of 100 cases"
        )
    if aspect.rows_needed <= aspect.rows:
        return f"{aspect.name}: a change is neither proven nor proven to be small"
    more = " (raise --vectors)" if aspect.rows < all_rows else ""
    return (
        f"{aspect.name}: {aspect.rows} images are too few{more}; with about {aspect.rows_needed}, no change "
        "would be seen as none in 80 of 100 cases"
    )
