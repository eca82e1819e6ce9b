"""`edgetl eval`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetl.cli.command import ModelFolder, Outcome, command
from edgetl.cli.show import lines, share, table
from edgetl.config import EvalConfig

if TYPE_CHECKING:
    from edgetl.results import Scores

MOST_CONFUSIONS = 5


@command(EvalConfig)
def evaluate(
    model: ModelFolder,
    config: EvalConfig,
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="Class folders to score on (default: the certification images)."),
    ] = None,
) -> Outcome:
    """Score a model on labelled images. Accuracy with interval, per class, confusions, calibration."""
    from edgetl.card import Model
    from edgetl.steps.evaluate import evaluate as step

    opened = Model.open(model)
    return Outcome(step(opened, data, config), lambda scores: _show(scores, opened.card.labels))


def _show(scores: "Scores", labels: tuple[str, ...]) -> None:
    rows = [
        (label, str(entry.images), share(entry.precision), share(entry.recall), share(entry.f1))
        for label, entry in zip(labels, scores.per_class, strict=True)
    ]
    table("", ("class", "images", "precision", "recall", "F1"), rows)
    lines(
        f"{scores.artifact} on {scores.images} images ({scores.source})",
        f"top-1 {share(scores.accuracy)} "
        f"(95 % interval {share(scores.accuracy_low)} to {share(scores.accuracy_high)}), "
        f"top-5 {share(scores.top5_accuracy)}, balanced {share(scores.balanced_accuracy)}",
        f"loss {scores.loss:.3f} nats, calibration error {share(scores.calibration_error)}",
        *_confusions(scores, labels),
    )


def _confusions(scores: "Scores", labels: tuple[str, ...]) -> list[str]:
    found = [
        (count, f"{labels[truth]} taken for {labels[predicted]}: {count}")
        for truth, row in enumerate(scores.confusion)
        for predicted, count in enumerate(row)
        if truth != predicted and count
    ]
    ranked = sorted(found, key=lambda pair: (-pair[0], pair[1]))[:MOST_CONFUSIONS]
    return ["most frequent confusions: " + "; ".join(text for _, text in ranked)] if ranked else []
