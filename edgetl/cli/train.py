"""`edgetl train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetl.cli.command import Outcome, command
from edgetl.cli.show import lines, share
from edgetl.config import TrainConfig
from edgetl.errors import needing

if TYPE_CHECKING:
    from edgetl.card import ModelCard


@command(TrainConfig)
def train(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="One folder per class, or train/, val/, test/ of them.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model folder to make.")],
    config: TrainConfig,
) -> Outcome:
    """Transfer VGG16 to a folder of labelled images."""
    with needing("train", "Training"):
        from edgetl.steps.train import train as step

    return Outcome(step(data, output, config).card, lambda card: _show(card, output))


def _show(card: "ModelCard", output: Path) -> None:
    from edgetl.report.words import cut_in_words, kept_in_words

    scores, training = card.scores["keras"], card.training
    candidates = f" (chosen among {len(training.cuts)} candidates)" if len(training.cuts) > 1 else ""
    lines(
        f"{output}: {len(card.labels)} classes, "
        f"{share(scores.accuracy)} of {scores.images} certification images right "
        f"(95 % interval {share(scores.accuracy_low)} to {share(scores.accuracy_high)})",
        f"network: {cut_in_words(card.network)}{candidates}",
        f"kept: {kept_in_words(training)}; temperature {training.temperature:.2f}; "
        f"{training.minutes:.1f} minutes",
        f"next: edgetl export {output}",
    )
