"""`edgetl demo`: the whole path on the shipped images, with the same steps that the commands run."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from edgetl import images
from edgetl.card import KERAS, Model
from edgetl.config import (
    BenchConfig,
    DemoConfig,
    ExportConfig,
    PredictConfig,
    ReportConfig,
    TrainConfig,
    VerifyConfig,
)
from edgetl.errors import UsageError
from edgetl.files import make_folder, storing, write_atomically
from edgetl.progress import say
from edgetl.steps.bench import bench
from edgetl.steps.export import export
from edgetl.steps.predict import predict
from edgetl.steps.report import report
from edgetl.steps.train import train
from edgetl.steps.verify import verify

SAMPLES = Path(__file__).parent.parent / "samples"
STYLES = ("noto", "twemoji")
MARKER = ".edgetl-demo"  # a folder with it is a demo's own and may be replaced


@dataclass(frozen=True)
class DemoRow:
    """One artifact in the closing table. Accuracies 0..1, drops in points; None: not measured for it."""

    artifact: str
    size_bytes: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    drop_points: float | None
    drop_upper_points: float | None
    verdict: str
    latency_p50_ms: float | None
    images_per_second: float | None


@dataclass(frozen=True)
class DemoResult:
    """What the demo did and where it is."""

    model: str
    predictions: str
    report: str
    minutes: float
    exit_code: int
    rows: tuple[DemoRow, ...]


def demo(output: Path, config: DemoConfig) -> DemoResult:
    """Train, evaluate, export, verify, predict, bench and report on the shipped emoji images.

    An earlier demo in `output` is replaced; a folder that is none is refused (`UsageError`).
    """
    started = time.monotonic()
    _prepare(output)
    say("two drawing styles of the same emoji, 15 classes; licences are in the copied folders")
    data = copy_samples(output / "data", STYLES)
    model = train(data, output / "model", TrainConfig(image_size=config.image_size))
    model, _ = export(model, ExportConfig())
    model, verified = verify(model, VerifyConfig(max_drop=config.max_drop))
    predictions = output / "predictions.parquet"
    predict(model, [str(data / "test")], PredictConfig(output=str(predictions), top=3))
    model, _ = bench(model, BenchConfig())
    page = report(model, ReportConfig())
    minutes = (time.monotonic() - started) / 60
    exit_code = 3 if any(parity.verdict == "fail" for parity in verified.parity) else 0
    return DemoResult(
        str(model.folder), str(predictions), str(page.output), minutes, exit_code, summary_rows(model)
    )


def copy_samples(target: Path, styles: tuple[str, ...]) -> Path:
    """The shipped images of these styles as one data folder, `<style>-<name>`, with their licences."""
    for style in styles:
        for image in images.find([SAMPLES / style]):
            split, label = image.parts[-3:-1]
            make_folder(target / split / label)
            with storing(target):
                shutil.copyfile(image, target / split / label / f"{style}-{image.name}")
        for licence in (SAMPLES / style).glob("LICENSE*"):
            with storing(target):
                shutil.copyfile(licence, target / f"{style}-{licence.name}")
    return target


def summary_rows(model: Model) -> tuple[DemoRow, ...]:
    """The full-precision network, then every artifact, from what the card holds."""
    full = model.card.scores[KERAS]
    rows = [
        DemoRow(
            "keras (full precision)", model.keras_file.stat().st_size, full.accuracy, full.accuracy_low,
            full.accuracy_high, None, None, "", None, None,
        )
    ]  # fmt: skip
    for artifact in model.card.artifacts:
        scores, parity = model.card.scores[artifact.name], model.card.parity[artifact.name]
        timing = model.card.timing[artifact.name]
        rows.append(
            DemoRow(
                artifact=artifact.name,
                size_bytes=artifact.size_bytes,
                accuracy=scores.accuracy,
                accuracy_low=scores.accuracy_low,
                accuracy_high=scores.accuracy_high,
                drop_points=parity.drop_points,
                drop_upper_points=parity.drop_upper_points,
                verdict=parity.verdict.value,
                latency_p50_ms=timing.latency_p50_ms,
                images_per_second=timing.images_per_second,
            )
        )
    return tuple(rows)


def _prepare(output: Path) -> None:
    if output.exists():
        if not (output / MARKER).is_file():
            raise UsageError(f"{output} exists and is not an earlier demo.", "Choose another folder with -o.")
        shutil.rmtree(output)
    make_folder(output)
    write_atomically(
        output / MARKER, "This folder was made by edgetl demo and is replaced by the next one.\n"
    )
