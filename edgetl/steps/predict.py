"""`edgetl predict`: a model over any number of images, one row each, without TensorFlow."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetl import images
from edgetl.card import Artifact, Model
from edgetl.classifier import Classifier
from edgetl.config import FASTEST_FIRST, Format, Precision, PredictConfig
from edgetl.engines import open_classifier
from edgetl.errors import DataError, ModelFolderError, UsageError
from edgetl.images import Pixels, Refused
from edgetl.progress import say, task
from edgetl.results import PredictionSummary, Skipped
from edgetl.rows import ClassProbability, Prediction, Status, printable, row_format, writing
from edgetl.statistics import Verdict

STANDARD_INPUT = "-"
MOST_SKIPPED = 20  # kept in the summary; the rows have all
_REFUSED_PER_READABLE = 4  # how far refused images may fill a group before it is classified as it is

Prepared = tuple[Path, Pixels | Refused]


def predict(model: Model, inputs: Sequence[str], config: PredictConfig) -> PredictionSummary:
    """Classify images and write one row for each, in order, to `config.output`; columns: see `edgetl.rows`.

    `inputs` are files, folders (at any depth), glob patterns, or `-` for a list of paths on standard input. A
    path that is given twice has one row. Images that cannot be read have a row that says why. `seconds` is
    spent on reading and classifying, not on loading the model; `images_per_second` counts classified images.

    Raises `UsageError` before any work for contradictory requests, `DataError` when no image is found,
    `ModelFolderError`, `MissingExtra`, and `StorageError` when the output cannot be written.
    """
    row_format(config.output)
    ready = _prepare(model, config)
    paths = expand(inputs)
    counts = _Counts()
    with writing(config.output) as write, task("predicting", len(paths)) as advance:
        started = time.perf_counter()
        for rows in _predictions(ready, paths, config):
            write(rows)
            counts.add(rows)
            advance(len(rows))
        seconds = time.perf_counter() - started
    return counts.summary(ready, config.output, seconds)


def iterate(model: Model, paths: Iterable[str | Path], config: PredictConfig) -> Iterator[Prediction]:
    """One `Prediction` per path, in order, as they are made; `config.output` is not used.

    Paths are files, taken as they are. Raises as `predict` does, at the call; an image never raises.
    """
    ready = _prepare(model, config)
    return chain.from_iterable(_predictions(ready, list(map(Path, paths)), config))


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


def expand(inputs: Sequence[str]) -> list[Path]:
    """The files meant by `inputs`, each once, in order; what is named but missing stays, to get its row.

    `-` stands for the paths on standard input, one per line, or ended by zero bytes as `find -print0` gives
    them; there, patterns are not expanded. Raises `UsageError` for an empty name, `DataError` when nothing is
    found.
    """
    if "" in inputs:
        raise UsageError("The name of an image is empty.", "Check that the variable in your command is set.")
    named = (_listed() if name == STANDARD_INPUT else images.find([name]) for name in inputs)
    found = list(dict.fromkeys(chain.from_iterable(named)))
    if not found or (STANDARD_INPUT not in inputs and all(map(_is_unmatched_pattern, found))):
        suffixes = ", ".join(sorted(images.IMAGE_SUFFIXES))
        raise DataError(
            f"No images were found in {', '.join(map(repr, inputs)) or 'an empty list'}.",
            f"Name files, folders or patterns; in folders, images end in {suffixes}.",
        )
    return found


def _listed() -> list[Path]:
    content = sys.stdin.buffer.read()
    separator = b"\0" if b"\0" in content else b"\n"
    names = [os.fsdecode(line.removesuffix(b"\r")) for line in content.split(separator)]
    return [
        path
        for name in names
        if name
        for path in (images.find([name]) if Path(name).is_dir() else [Path(name)])
    ]


def _is_unmatched_pattern(path: Path) -> bool:
    return bool(set("*?[") & set(str(path))) and not os.path.lexists(path)


@dataclass(frozen=True)
class _Ready:
    """A model and the loaded artifact that will run."""

    model: Model
    artifact: Artifact
    classifier: Classifier


def _prepare(model: Model, config: PredictConfig) -> _Ready:
    """Refuse what cannot be done, choose the artifact, say which, and load it."""
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
    return _Ready(model, artifact, open_classifier(model, artifact, config.threads))


def _verdict(model: Model, artifact: Artifact) -> Verdict | None:
    """What verification said about exactly this file."""
    parity = model.card.parity.get(artifact.name)
    return parity.verdict if parity and parity.artifact_sha256 == artifact.sha256 else None


def _predictions(ready: _Ready, paths: Sequence[Path], config: PredictConfig) -> Iterator[list[Prediction]]:
    """Rows in the order of `paths`, some at a time; files are decoded ahead in threads as the engine runs."""
    spec = ready.model.card.input
    threads = config.threads or os.cpu_count() or 1
    prepared = images.prepare_many(paths, spec.height, spec.width, spec.background_rgb, threads)
    for group in _grouped(zip(paths, prepared, strict=True), config.batch):
        readable = [pixels for _, pixels in group if not isinstance(pixels, Refused)]
        probabilities = iter(_classified(ready, np.stack(readable)) if readable else ())
        yield [
            _refused(path, pixels)
            if isinstance(pixels, Refused)
            else _recognised(path, next(probabilities), ready.model.card.labels, config.top)
            for path, pixels in group
        ]


def _grouped(prepared: Iterable[Prepared], batch: int) -> Iterator[list[Prepared]]:
    """Runs of `batch` readable images with the refused ones among them, in order."""
    group: list[Prepared] = []
    readable = 0
    for item in prepared:
        group.append(item)
        readable += not isinstance(item[1], Refused)
        if readable == batch or len(group) == batch * _REFUSED_PER_READABLE:
            yield group
            group, readable = [], 0
    if group:
        yield group


def _classified(ready: _Ready, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 RGB [N, H, W, 3] to float32 [N, classes]. Raises `ModelFolderError` for anything else."""
    probabilities = ready.classifier(pixels)
    expected = (len(pixels), len(ready.model.card.labels))
    if probabilities.shape != expected or not np.isfinite(probabilities).all():
        raise ModelFolderError(
            f"{ready.artifact.name} gave {probabilities.shape} values, not {expected} finite ones.",
            f"Run edgetl export {ready.model.folder} again.",
        )
    return probabilities


def _recognised(
    path: Path, probabilities: NDArray[np.float32], labels: Sequence[str], top: int
) -> Prediction:
    best = np.argsort(-probabilities, kind="stable")[:top]  # of equal classes the earlier one, as argmax says
    likely = tuple(ClassProbability(labels[i], float(probabilities[i])) for i in best)
    return Prediction(str(path), Status.OK, None, None, likely[0].label, likely[0].probability, likely)


def _refused(path: Path, refused: Refused) -> Prediction:
    return Prediction(str(path), Status.REFUSED, refused.reason, refused.detail, None, None, ())


@dataclass
class _Counts:
    """What has been written so far."""

    per_label: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    def add(self, rows: Sequence[Prediction]) -> None:
        for row in rows:
            if row.label is not None:
                self.per_label[row.label] += 1
                continue
            self.refused += 1
            if len(self.skipped) < MOST_SKIPPED:
                self.skipped.append(Skipped(printable(row.path), str(row.reason), str(row.detail)))

    def summary(self, ready: _Ready, output: str, seconds: float) -> PredictionSummary:
        classified = self.per_label.total()
        return PredictionSummary(
            artifact=ready.artifact.name,
            images=classified + self.refused,
            refused=self.refused,
            output=output,
            seconds=seconds,
            images_per_second=classified / seconds,
            per_label=dict(self.per_label.most_common()),
            skipped=tuple(self.skipped),
        )
