"""The commands as Python functions: the same settings, the same records, no printing.

model = edgetl.train("flowers", "models/flowers", TrainConfig(image_size=96))
model.export()
small = model.compress("models/flowers-small", CompressConfig(max_drop="1.0"))
model.verify(VerifyConfig(max_drop=1.0))
for row in model.predict(["rose.jpg"]):
    print(row.path, row.label, row.probability)
"""

import os
from collections.abc import Iterable
from pathlib import Path

from edgetl.card import Model, ModelCard
from edgetl.config import (
    BenchConfig,
    CacheConfig,
    CompressConfig,
    DataConfig,
    DriftConfig,
    EvalConfig,
    ExportConfig,
    PredictConfig,
    ReportConfig,
    TrainConfig,
    VerifyConfig,
)
from edgetl.errors import needing
from edgetl.results import CacheUsage, DataReport, Drift, Finding, Parity, PredictionSummary, Scores, Timing
from edgetl.rows import Prediction


def open(folder: str | Path) -> "OpenModel":  # noqa: A001 - edgetl.open reads well
    """Open a model folder. Raises `ModelFolderError`."""
    return OpenModel(Model.open(Path(folder)))


def train(data: str | Path, output: str | Path, config: TrainConfig | None = None) -> "OpenModel":
    """`edgetl train`: fine-tune on a folder of labelled images; needs `edgetl[train]`."""
    with needing("train", "Training"):
        from edgetl.steps.train import train as step

    return OpenModel(step(Path(data), Path(output), config or TrainConfig()))


def data(folder: str | Path, config: DataConfig | None = None) -> DataReport:
    """`edgetl data`: what is in a folder of labelled images."""
    from edgetl.steps.data import data as step

    return step(Path(folder), config or DataConfig())


def doctor() -> tuple[Finding, ...]:
    """`edgetl doctor`: what is installed here and what is wrong with it."""
    from edgetl.steps.doctor import doctor as step

    return tuple(step())


def cache(config: CacheConfig | None = None) -> CacheUsage:
    """`edgetl cache`: what is in the cache of activations, after cleaning it as asked."""
    from edgetl.steps.cache import cache as step

    return step(config or CacheConfig())


class OpenModel:
    """A model folder; each method is the command of the same name."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def folder(self) -> Path:
        """Where the model is."""
        return self._model.folder

    @property
    def card(self) -> ModelCard:
        """What the model says about itself, as last read or changed by this object."""
        return self._model.card

    def eval(self, data: str | Path | None = None, config: EvalConfig | None = None) -> Scores:
        """Score one artifact on the certification images, or on the class folders of `data`."""
        from edgetl.steps.evaluate import evaluate as step

        scores = step(self._model, None if data is None else Path(data), config or EvalConfig())
        self._model = Model.open(self.folder)
        return scores

    def compress(
        self, output: str | Path, config: CompressConfig | None = None, data: str | Path | None = None
    ) -> "OpenModel | None":
        """Make a smaller model in `output`; None when the goals were missed. Needs `edgetl[train]`."""
        with needing("train", "Compressing"):
            from edgetl.steps.compress import compress as step

        found, _ = step(
            self._model, Path(output), config or CompressConfig(), None if data is None else Path(data)
        )
        return OpenModel(found) if found else None

    def export(self, config: ExportConfig | None = None) -> tuple[str, ...]:
        """Make ONNX and TFLite files; returns the artifacts' names. Needs `edgetl[train]`."""
        with needing("train", "Exporting"):
            from edgetl.steps.export import export as step

        self._model, exported = step(self._model, config or ExportConfig())
        return tuple(artifact.name for artifact in exported.artifacts)

    def verify(self, config: VerifyConfig | None = None) -> tuple[Parity, ...]:
        """Judge artifacts against the full-precision network; look at each `verdict`."""
        from edgetl.steps.verify import verify as step

        self._model, verified = step(self._model, config or VerifyConfig())
        return verified.parity

    def predict(self, images: Iterable[str | Path], config: PredictConfig | None = None) -> list[Prediction]:
        """Classify image files: one row for each, in order, also for those that cannot be read."""
        from edgetl.steps.predict import iterate

        return list(iterate(self._model, images, config or PredictConfig()))

    def drift(self, results: str | Path, config: DriftConfig | None = None) -> Drift:
        """Compare results of this model with its certification images or earlier results; see `verdict`."""
        from edgetl.steps.drift import drift as step

        return step(self._model, Path(results), config or DriftConfig())

    def predict_into(self, inputs: Iterable[str | Path], config: PredictConfig) -> PredictionSummary:
        """`edgetl predict`: files, folders, archives ... into `config.output`; the same call resumes it."""
        from edgetl.steps.predict import predict as step

        return step(self._model, [os.fspath(name) for name in inputs], config)

    def bench(self, config: BenchConfig | None = None) -> tuple[Timing, ...]:
        """Time artifacts on this machine."""
        from edgetl.steps.bench import bench as step

        self._model, benched = step(self._model, config or BenchConfig())
        return benched.timings

    def report(self, config: ReportConfig | None = None) -> Path:
        """Draw the card as one HTML file; returns its path."""
        from edgetl.steps.report import report as step

        return Path(step(self._model, config or ReportConfig()).output)
