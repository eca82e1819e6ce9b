"""`edgetl report`."""

from typing import TYPE_CHECKING

from edgetl.cli.command import ModelFolder, Outcome, command
from edgetl.cli.show import lines, size
from edgetl.config import ReportConfig

if TYPE_CHECKING:
    from edgetl.results import ReportResult


@command(ReportConfig)
def report(model: ModelFolder, config: ReportConfig) -> Outcome:
    """Draw a model's card into one HTML file. Everything known about it, readable offline."""
    from edgetl.card import Model
    from edgetl.steps.report import report as step

    return Outcome(step(Model.open(model), config), _show)


def _show(result: "ReportResult") -> None:
    images = (
        f"{result.thumbnails} images of disagreements"
        if result.data_found
        else "no images: the data folder is away"
    )
    lines(result.headline, f"{result.output}: {size(result.size_bytes)}, {images}")
