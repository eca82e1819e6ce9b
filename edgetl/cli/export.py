"""`edgetl export`."""

from typing import TYPE_CHECKING

from edgetl.cli.command import ModelFolder, Outcome, command
from edgetl.cli.show import size, table
from edgetl.config import ExportConfig
from edgetl.errors import needing

if TYPE_CHECKING:
    from edgetl.steps.export import Exported


@command(ExportConfig)
def export(model: ModelFolder, config: ExportConfig) -> Outcome:
    """Make ONNX and TFLite files from a trained model."""
    from edgetl.card import Model

    with needing("train", "Exporting"):
        from edgetl.steps.export import export as step

    _, exported = step(Model.open(model), config)
    return Outcome(exported, _show)


def _show(exported: "Exported") -> None:
    rows = [(made.name, made.file, size(made.size_bytes), made.sha256[:12]) for made in exported.artifacts]
    table("", ("artifact", "file", "size", "sha256"), rows, [f"next: edgetl verify {exported.model}"])
