"""`edgetl predict`: a model over any number of images, one row each, without TensorFlow."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from edgetl import images
from edgetl.card import Artifact, Model
from edgetl.config import FASTEST_FIRST, BatchEngine, Format, Precision, PredictConfig
from edgetl.errors import ModelFolderError, UsageError
from edgetl.machine import cores
from edgetl.progress import say, task
from edgetl.results import PredictionSummary, Skipped
from edgetl.rows import Prediction, Row, row_format, writing
from edgetl.statistics import Verdict
from edgetl.stream import decode, jobs
from edgetl.stream.classify import predictions
from edgetl.stream.items import Item, file_item
from edgetl.stream.jobs import Ready, network_of
from edgetl.stream.run import Meter, classified
from edgetl.stream.sources import inputs_of, items_of, loaded
from edgetl.stream.stopping import interruptible

MOST_SKIPPED = 20  # kept in the summary; the rows have all


def predict(model: Model, inputs: Sequence[str], config: PredictConfig) -> PredictionSummary:
    """Classify images and write one row for each, in order, to `config.output`; columns: see `edgetl.rows`.

    `inputs` are files, folders (at any depth), glob patterns, archives (.zip, .tar), tables (.parquet,
    .csv), addresses, or `-` for a list of paths on standard input. A path that is given twice has one row.
    Images that cannot be read have a row that says why. `seconds` is spent on reading and classifying, not
    on loading the model; `images_per_second` counts classified images.

    More than a few images into a file or a folder are a job (docs/batch.md): what is done is kept whatever
    happens, and the same call goes on with it.

    Raises `UsageError` before any work for contradictory requests, or when the output holds another job;
    `DataError` when no image is found, `ModelFolderError`, `MissingExtra`, `StorageError` when the output
    cannot be written, `KeyboardInterrupt` when it is asked to stop.
    """
    is_folder = jobs.is_folder(config.output)
    if not is_folder:
        row_format(config.output)
    folder = jobs.folder_of(config.output)
    if config.engine is BatchEngine.RAY and not is_folder:
        raise UsageError(
            f"A cluster writes a folder of parts, not {config.output}.",
            "End the output in a slash: -o results/.",
        )
    artifact = _choose(model, config)
    named = inputs_of(inputs, config.column)
    with interruptible():
        if folder is not None and (is_folder or jobs.is_begun(folder)):
            return jobs.run(folder, _load(model, artifact, config, is_few=False), named, config)
        items = items_of(named)
        few = list(islice(items, jobs.FEW + 1))
        is_few = len(few) <= jobs.FEW
        ready = _load(model, artifact, config, is_few=is_few)
        if folder is not None and not is_few:
            return jobs.run(folder, ready, named, config)
        return _at_once(ready, chain(few, items), is_few, config)


def iterate(model: Model, paths: Iterable[str | Path], config: PredictConfig) -> Iterator[Prediction]:
    """One `Prediction` per path, in order, as they are made; `config.output` is not used.

    Paths are files, taken as they are. Raises as `predict` does, at the call; an image never raises.
    """
    ready = _load(model, _choose(model, config), config, is_few=True)
    batch = config.batch or jobs.usual_batch(model.card.input)
    how = jobs.decoding(ready, config, config.threads or os.cpu_count() or 1, batch)
    tasks = loaded(enumerate(map(file_item, map(Path, paths))), None)
    batches = decode.in_threads(tasks, how, batch, lambda: False)
    return chain.from_iterable(predictions(batch, ready.network) for batch in batches)


def default_artifact(model: Model) -> Artifact:
    """The fastest ONNX precision proven at parity; else the fp32 one, the first ONNX file, the first of all.

    Raises `ModelFolderError` when the model has none.
    """
    known = model.card.artifacts
    onnx = [artifact for artifact in known if artifact.format is Format.ONNX]
    proven = [artifact for artifact in onnx if _verdict(model, artifact) is Verdict.PASS]
    fastest = sorted(proven, key=lambda artifact: FASTEST_FIRST.index(artifact.precision))
    exact = [artifact for artifact in onnx if artifact.precision is Precision.FP32]
    for artifact in (*fastest, *exact, *onnx, *known):
        return artifact
    raise ModelFolderError(
        f"{model.folder} has no exported artifacts yet.", f"Run: edgetl export {model.folder}"
    )


def _verdict(model: Model, artifact: Artifact) -> Verdict | None:
    """What verification said about exactly this file."""
    parity = model.card.parity.get(artifact.name)
    return parity.verdict if parity and parity.artifact_sha256 == artifact.sha256 else None


def _choose(model: Model, config: PredictConfig) -> Artifact:
    """Refuse what cannot be done, choose the artifact, and say which."""
    classes = len(model.card.labels)
    if config.top > classes:
        raise UsageError(
            f"The {config.top} most likely classes were asked for; {model.folder} has {classes}.",
            f"Choose --top from 1 to {classes}.",
        )
    artifact = model.artifact(config.artifact) if config.artifact else default_artifact(model)
    verdict = _verdict(model, artifact)
    say(f"using {artifact.name} (parity with full precision: {verdict.value if verdict else 'not verified'})")
    if model.card.input.preprocessing_version != images.PREPROCESSING_VERSION:
        say("this edgetl prepares images otherwise than the one that trained: run edgetl verify")
    return artifact


def _load(model: Model, artifact: Artifact, config: PredictConfig, *, is_few: bool) -> Ready:
    parallel = 1 if is_few else config.threads or cores()
    return Ready(
        model,
        artifact,
        network_of(model.read(artifact), artifact, model.card.labels, config, parallel),
    )


def _at_once(ready: Ready, items: Iterator[Item], is_few: bool, config: PredictConfig) -> PredictionSummary:
    """Rows as they come, kept nowhere but in the output."""
    counts, meter, extras = _Counts(), Meter(), ready.network.extras
    batch = config.batch or jobs.usual_batch(ready.model.card.input)
    tasks = loaded(enumerate(items), config.column)
    with writing(config.output, extras) as write, task("predicting") as advance:
        for _, rows in classified(jobs.batches(ready, tasks, batch, is_few, config), ready.network, meter):
            write(rows)
            counts.add(rows)
            advance(len(rows), meter.words())
    return counts.summary(ready, config.output, meter)


@dataclass
class _Counts:
    """What has been written so far."""

    per_label: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row["label"] is not None:
                self.per_label[row["label"]] += 1
                continue
            self.refused += 1
            if len(self.skipped) < MOST_SKIPPED:
                self.skipped.append(Skipped(row["path"], str(row["reason"]), str(row["detail"])))

    def summary(self, ready: Ready, output: str, meter: Meter) -> PredictionSummary:
        return PredictionSummary(
            artifact=ready.artifact.name,
            images=self.per_label.total() + self.refused,
            refused=self.refused,
            output=output,
            seconds=meter.seconds,
            images_per_second=meter.images_per_second,
            per_label=dict(self.per_label.most_common()),
            skipped=tuple(self.skipped),
            resumed=0,
            limit=meter.limit,
            digest="",
        )
