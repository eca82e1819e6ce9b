"""`edgetl compress`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetl.cli.command import ModelFolder, Outcome, command
from edgetl.cli.export import explanation
from edgetl.cli.show import lines, size, table
from edgetl.cli.verify import show_parity
from edgetl.config import CompressConfig
from edgetl.errors import ExitCode, needing

if TYPE_CHECKING:
    from edgetl.results import Attempt
    from edgetl.steps.compress import Compressed

HEADER = ("channels", "weights", "GMAC", "int8 file", "one image", "tuning", "flips", "at most", "goals")
RIVALS = (
    "Networks with a name are rivals: they learnt as the tries did and are never chosen, for a model folder "
    "holds a VGG16."
)


@command(CompressConfig)
def compress(
    model: ModelFolder,
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="Where the data folder of MODEL is now, if it was moved."),
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The model folder to make.")],
    config: CompressConfig,
) -> Outcome:
    """Make a far smaller and faster model of a trained one, as accurate as promised."""
    from edgetl.card import Model

    with needing("train", "Compressing"):
        from edgetl.steps.compress import compress as step

    _, compressed = step(Model.open(model), output, config, data)
    return Outcome(compressed, _show, ExitCode(compressed.exit_code))


def _show(compressed: "Compressed") -> None:
    before = (
        "before", f"{compressed.parent_parameters / 1e6:.2f} M", f"{compressed.parent_giga_macs:.3f}", "",
        f"{compressed.parent_latency_ms:.2f} ms", "", "", "", "",
    )  # fmt: skip
    order = sorted(compressed.attempts, key=lambda one: one.giga_macs)
    note = (
        f"goals: {compressed.goals}. Flips (harmful / helpful, against {compressed.parent}, full precision) "
        "are those of tuning images; at most: the drop in points that certification should then prove, "
        "of all formats together."
    )
    notes = [note, RIVALS] if any(attempt.student for attempt in compressed.attempts) else [note]
    table("", HEADER, [*map(_row, order), before], notes)
    for explained in compressed.explained:
        lines(explanation(explained))
    if compressed.parity:
        show_parity(compressed.parity)
    if compressed.model:
        lines(
            f"{compressed.model}: {compressed.minutes:.1f} minutes", f"next: edgetl bench {compressed.model}"
        )
    else:
        is_open = compressed.exit_code == ExitCode.UNDECIDED
        what = "Certification cannot decide" if is_open else "Nothing is proven to keep to all goals"
        lines(f"{what}; no model was written.")


def _row(attempt: "Attempt") -> tuple[str, ...]:
    return (
        attempt.student or "-".join(map(str, attempt.widths)),
        f"{attempt.parameters / 1e6:.2f} M",
        f"{attempt.giga_macs:.3f}",
        size(attempt.size_bytes),
        f"{attempt.latency_ms:.2f} ms",
        f"{100 * attempt.tuning_accuracy:.1f} %",
        f"{attempt.harmful} / {attempt.helpful} of {attempt.images}",
        f"{attempt.expected_upper_points:.2f}",
        _standing(attempt),
    )


def _standing(attempt: "Attempt") -> str:
    if attempt.misses:
        return "chosen, certification decides" if attempt.chosen else f"misses {' and '.join(attempt.misses)}"
    return "chosen" if attempt.chosen else "keeps"
