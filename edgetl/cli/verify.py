"""`edgetl verify`."""

import math
from typing import TYPE_CHECKING

from edgetl.cli.command import ModelFolder, Outcome, command
from edgetl.cli.show import lines, table
from edgetl.config import VerifyConfig
from edgetl.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgetl.results import Parity
    from edgetl.steps.verify import Verified

MOST_CLASSES, MOST_IMAGES = 5, 10
SURELY = 0.05
COLUMNS = ("artifact", "images", "agreement", "drop", "at most", "max |dp|", "KL", "SQNR", "verdict")


@command(VerifyConfig)
def verify(model: ModelFolder, config: VerifyConfig) -> Outcome:
    """Prove exports as accurate as the network. Verdicts: pass, fail, or undecided with the images given."""
    from edgetl.card import Model
    from edgetl.steps.verify import verify as step

    _, verified = step(Model.open(model), config)
    return Outcome(verified, _show, ExitCode(verified.exit_code))


def _show(verified: "Verified") -> None:
    show_parity(verified.parity)


def show_parity(found: "Sequence[Parity]") -> None:
    """Verdicts, one line each, and what they mean."""
    rows = [
        (
            parity.artifact,
            str(parity.images),
            f"{100 * parity.agreement:.2f} %",
            f"{parity.drop_points:+.2f}",
            f"{parity.drop_upper_points:.2f}",
            f"{parity.max_difference:.4f}",
            f"{parity.mean_kl:.1e}",
            f"{parity.sqnr_db:.1f} dB" if math.isfinite(parity.sqnr_db) else "identical",
            in_words(parity),
        )
        for parity in found
    ]
    note = (
        "drop: points of accuracy lost, and at most how many (one-sided 95 %); promised: under "
        f"{found[0].max_drop_points:g}. Measured on {found[0].instruction_set}, {found[0].source}."
    )
    table("", COLUMNS, rows, [note])
    for parity in found:
        if parity.verdict != "pass":
            lines(*reasons(parity))


def reasons(parity: "Parity") -> list[str]:
    """Which classes and images stand behind a verdict that is no pass."""
    worse = [one for one in parity.classes if one.harmful > one.helpful][:MOST_CLASSES]
    told = [
        f"{one.label} {one.harmful} worse, {one.helpful} better of {one.images}"
        + (f" (p {one.p_adjusted:.2g})" if one.p_adjusted <= SURELY else "")
        for one in worse
    ]
    found = [f"{parity.artifact}, classes that lose: {'; '.join(told)}"] if told else []
    harmful = [one for one in parity.disagreements if one.reference == one.truth][:MOST_IMAGES]
    images = [
        f"  {one.path}: {one.truth} ({one.reference_probability:.2f}) becomes {one.candidate} "
        f"({one.candidate_probability:.2f})"
        for one in harmful
    ]
    return found + images


def in_words(parity: "Parity") -> str:
    """A verdict that says what would decide it."""
    if parity.verdict == "undecided":
        return f"cannot be decided with {parity.images} images (needs about {parity.more_images} more)"
    return str(parity.verdict.value)
