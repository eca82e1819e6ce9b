"""`edgetl predict`."""

from typing import TYPE_CHECKING, Annotated

import typer

from edgetl.cli.command import ModelFolder, Outcome, command
from edgetl.cli.show import printable
from edgetl.config import PredictConfig
from edgetl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from edgetl.results import PredictionSummary

MOST_LABELS = 10
MOST_REFUSED = 5


@command(PredictConfig)
def predict(
    context: typer.Context,
    model: ModelFolder,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES", help="Files, folders, patterns, or - for a list of paths on standard input."
        ),
    ],
    config: PredictConfig,
) -> Outcome:
    """Classify any number of images. One row each, in order, as Parquet, CSV or JSON lines."""
    from edgetl.card import Model
    from edgetl.steps.predict import predict as step

    if context.params["json"] and config.output == "-":
        raise UsageError(
            "Rows and --json both want standard output.", "Write the rows to a file with -o, or drop --json."
        )
    summary = step(Model.open(model), images, config)
    return Outcome(summary, _show, ExitCode.SOME_SKIPPED if summary.refused else ExitCode.DONE)


def _show(summary: "PredictionSummary") -> None:
    """To standard error where standard output holds the rows."""
    for text in _texts(summary):
        typer.echo(printable(text), err=summary.output == "-")


def _texts(summary: "PredictionSummary") -> list[str]:
    classified = summary.images - summary.refused
    written = "" if summary.output == "-" else f"{summary.output}: "
    speed = f"{summary.images_per_second:.1f} images/s"
    texts = [f"{written}{classified} images classified, {summary.refused} refused, {speed}"]
    texts += [f"  {label}: {count}" for label, count in list(summary.per_label.items())[:MOST_LABELS]]
    if len(summary.per_label) > MOST_LABELS:
        texts.append(f"  and {len(summary.per_label) - MOST_LABELS} more classes")
    for item in summary.skipped[:MOST_REFUSED]:
        texts.append(f"refused {item.path}: {item.reason}. {item.detail}")
    if summary.refused > MOST_REFUSED:
        texts.append(f"and {summary.refused - MOST_REFUSED} more refused: see their rows")
    return texts
