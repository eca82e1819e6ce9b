"""`edgetl export`."""

import math
from typing import TYPE_CHECKING

from edgetl.cli.command import ModelFolder, Outcome, command
from edgetl.cli.show import lines, size, table
from edgetl.cli.verify import show_parity
from edgetl.config import ExportConfig
from edgetl.errors import ExitCode, needing

if TYPE_CHECKING:
    from edgetl.results import Explained
    from edgetl.steps.export import Exported

MOST_LAYERS = 3


@command(ExportConfig)
def export(model: ModelFolder, config: ExportConfig) -> Outcome:
    """Make ONNX and TFLite files from a trained model."""
    from edgetl.card import Model

    with needing("train", "Exporting"):
        from edgetl.steps.export import export as step

    _, exported = step(Model.open(model), config)
    return Outcome(exported, _show, ExitCode(exported.exit_code))


def _show(exported: "Exported") -> None:
    if exported.goals:
        _show_search(exported)
    is_packed = any(made.packed for made in exported.artifacts)
    header = ("artifact", "file", "size", *["unpacked"] * is_packed, "sha256")
    rows = [
        (
            made.name,
            made.file,
            size(made.size_bytes),
            *[size(made.unpacked_bytes)] * is_packed,
            made.sha256[:12],
        )
        for made in exported.artifacts
    ]
    after = [] if exported.goals else [f"next: edgetl verify {exported.model}"]
    if rows:
        table("", header, rows, after)


def explanation(explained: "Explained") -> str:
    """The layers that lose most, and what that means."""
    losing = [one for one in explained.layers if math.isfinite(one.sqnr_out_db)]
    worst = sorted(losing, key=lambda one: min(one.sqnr_alone_db, one.sqnr_out_db))[:MOST_LAYERS]
    told = "; ".join(
        f"{one.layer} reads {one.sqnr_in_db:.0f} dB, gives {one.sqnr_out_db:.0f} dB, "
        f"alone {one.sqnr_alone_db:.0f} dB"
        for one in worst
    )
    return f"{explained.format}-int8, {explained.recipe}, loses most in: {told} (signal to noise)"


def _show_search(exported: "Exported") -> None:
    """What was tried, best first, then the verdicts, or the nearest misses."""
    order = sorted(exported.tried, key=lambda one: (len(one.misses), one.latency_ms))
    rows = [
        (
            f"{one.format}-{one.precision}",
            one.recipe,
            size(one.size_bytes),
            f"{one.latency_ms:.1f} ms",
            f"{one.harmful} / {one.helpful} of {one.images}",
            f"{one.expected_upper_points:.2f}",
            f"misses {' and '.join(one.misses)}" if one.misses else ("chosen" if one.chosen else "keeps"),
        )
        for one in order
    ]
    note = (
        f"goals: {exported.goals}. Flips (harmful / helpful) are those of tuning images; at most: the drop "
        "in points that certification should then prove, of all formats together."
    )
    table("", ("tried", "recipe", "size", "one image", "flips", "at most", "goals"), rows, [note])
    for explained in exported.explained:
        lines(explanation(explained))
    if exported.parity:
        show_parity(exported.parity)
    else:
        lines(
            "Nothing that was tried keeps to all goals; no file was written. The nearest misses come first."
        )
