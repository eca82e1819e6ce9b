"""`edgetl data`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetl.cli.command import Outcome, command
from edgetl.cli.show import lines, table
from edgetl.config import DataConfig

if TYPE_CHECKING:
    from edgetl.results import DataReport

ROWS_SHOWN = 20


@command(DataConfig)
def data(
    folder: Annotated[
        Path, typer.Argument(metavar="DATA", help="One folder per class, or train/, val/, test/ of them.")
    ],
    config: DataConfig,
) -> Outcome:
    """Show what is in a data folder, and what to do about it."""
    from edgetl.steps.data import data as step

    return Outcome(step(folder, config), _show)


def _show(report: "DataReport") -> None:
    _show_classes(report)
    kinds = report.kinds
    smallest, median, largest = (
        f"{width} x {height}" for width, height in (kinds.smallest, kinds.median, kinds.largest)
    )
    formats = ", ".join(f"{name} {count}" for name, count in kinds.formats.items())
    lines(
        f"sizes: smallest {smallest}, median {median}, largest {largest} pixels",
        f"formats: {formats}; grey {kinds.grey}, transparent {kinds.transparent}",
        f"imbalance: {report.imbalance:.1f} (largest class over smallest)",
    )
    _show_unreadable(report)
    _show_pairs(report)
    if report.ignored:
        lines(f"ignored files: {report.ignored}, such as {', '.join(report.ignored_examples[:3])}")
    for finding in report.findings:
        lines(f"{finding.status}: {finding.found}", f"  fix: {finding.fix}")


def _show_classes(report: "DataReport") -> None:
    rows = [
        [
            one.label,
            *map(str, (one.train, one.tuning, one.calibration, one.certification, one.kept_out, one.total)),
        ]
        for one in report.classes
    ]
    sums = [sum(int(row[column]) for row in rows) for column in range(1, 7)]
    table(
        f"{report.folder}: {report.images} images, {len(report.classes)} classes, {report.layout}",
        ["class", "train", "tuning", "calibration", "certification", "kept out", "all"],
        [*rows, ["all", *map(str, sums)]],
    )


def _show_unreadable(report: "DataReport") -> None:
    if not report.unreadable:
        return
    rows = [[file.path, file.reason, file.detail] for file in report.unreadable[:ROWS_SHOWN]]
    table("unreadable files", ["file", "reason", "detail"], rows, _more(len(report.unreadable)))


def _show_pairs(report: "DataReport") -> None:
    if not report.pairs:
        return
    rows = [
        [
            f"{pair.first} ({pair.first_role})",
            f"{pair.second} ({pair.second_role})",
            pair.kind,
            "across roles" if pair.leaks else "",
            "" if pair.same_label else "across classes",
        ]
        for pair in report.pairs[:ROWS_SHOWN]
    ]
    exact = sum(pair.kind == "exact" for pair in report.pairs)
    table(
        f"copies: {exact} exact and {len(report.pairs) - exact} near pairs; "
        f"kept out of certification: {report.leaking + report.repeated + report.disputed} images",
        ["image", "copy", "kind", "leak", "label"],
        rows,
        _more(len(report.pairs)),
    )


def _more(count: int) -> list[str]:
    return [f"... and {count - ROWS_SHOWN} more (--json lists all)"] if count > ROWS_SHOWN else []
