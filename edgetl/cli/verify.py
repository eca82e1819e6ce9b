"""`edgetl verify`."""

import math
from typing import TYPE_CHECKING

from edgetl.cli.command import ModelFolder, Outcome, command
from edgetl.cli.show import table
from edgetl.config import VerifyConfig
from edgetl.errors import ExitCode

if TYPE_CHECKING:
    from edgetl.results import Parity
    from edgetl.steps.verify import Verified

COLUMNS = ("artifact", "images", "agreement", "drop", "at most", "max |dp|", "KL", "SQNR", "verdict")


@command(VerifyConfig)
def verify(model: ModelFolder, config: VerifyConfig) -> Outcome:
    """Prove exports as accurate as the network. Verdicts: pass, fail, or undecided with the images given."""
    from edgetl.card import Model
    from edgetl.steps.verify import verify as step

    _, verified = step(Model.open(model), config)
    return Outcome(verified, _show, ExitCode(verified.exit_code))


def _show(verified: "Verified") -> None:
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
        for parity in verified.parity
    ]
    note = (
        "drop: points of accuracy lost, and at most how many (one-sided 95 %); promised: under "
        f"{verified.max_drop_points:g}. "
        f"Measured on {verified.parity[0].instruction_set}, {verified.parity[0].source}."
    )
    table("", COLUMNS, rows, [note])


def in_words(parity: "Parity") -> str:
    """A verdict that says what would decide it."""
    if parity.verdict == "undecided":
        return f"cannot be decided with {parity.images} images (needs about {parity.more_images} more)"
    return str(parity.verdict.value)
