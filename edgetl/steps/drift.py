"""`edgetl drift`: do the results of a model still look like its reference? Needs numpy and pyarrow only."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetl.card import Model
from edgetl.config import DriftConfig
from edgetl.drifting import (
    Comparison,
    DriftVerdict,
    compare_counts,
    compare_vectors,
    confidence_cells,
    in_equal_bins,
    judge,
    overall,
    top_vectors,
)
from edgetl.errors import Undecidable
from edgetl.reading import Sample, read_results
from edgetl.reference import read_reference
from edgetl.results import ClassShift, Drift, DriftAspect
from edgetl.statistics import wilson_interval

CERTIFICATION = "certification images"
MOST_CLASSES = 10
REFERENCE_TOO_SMALL = -1
_SUCCESS = "_SUCCESS"  # what a finished folder of results has

Aspect = tuple[str, str, tuple[int, int], Comparison]  # name, what is compared, rows before and now


def drift(model: Model, results: Path, config: DriftConfig) -> Drift:
    """Compare results with the certification images of the model, or with earlier results of it.

    Raises `DataError` for what is not the result of this model, `Undecidable` when no image was classified,
    `ModelFolderError`.
    """
    random = np.random.default_rng(config.seed)
    labels = model.card.labels
    if config.reference is None:
        before = _certified(model, config.vectors, random)
    else:
        before = read_results(config.reference, labels, config.vectors, random)
    now = read_results(results, labels, config.vectors, random)
    for sample in (before, now):
        _check_rows(sample)
    aspects = _judged(list(_compared(before, now, config, random)))
    return Drift(
        results=now.source,
        reference=before.source,
        tolerance=config.tolerance,
        rows=now.rows,
        reference_rows=before.rows,
        refused_share=_refused_share(now),
        reference_refused_share=_unreadable_share(model)
        if config.reference is None
        else _refused_share(before),
        mean_confidence=now.mean_confidence,
        reference_mean_confidence=before.mean_confidence,
        aspects=aspects,
        classes=moved_classes(labels, before.classes, now.classes),
        notes=tuple(_notes(before, now, results, config)),
        verdict=overall([aspect.verdict for aspect in aspects]),
    )


def moved_classes(
    labels: tuple[str, ...], before: NDArray[np.int64], now: NDArray[np.int64]
) -> tuple[ClassShift, ...]:
    """The classes whose share of counts [classes] changed, at most ten, those that changed most first."""
    rows = int(before.sum()), int(now.sum())
    shifts = now / rows[1] - before / rows[0]
    order = [place for place in np.argsort(-np.abs(shifts), kind="stable") if shifts[place]]
    return tuple(
        _class_shift(labels[place], int(before[place]), rows[0], int(now[place]), rows[1])
        for place in order[:MOST_CLASSES]
    )


def _class_shift(label: str, before: int, rows_before: int, now: int, rows_now: int) -> ClassShift:
    old, new = before / rows_before, now / rows_now
    old_interval, new_interval = wilson_interval(before, rows_before), wilson_interval(now, rows_now)
    down = math.hypot(new - new_interval.low, old_interval.high - old)
    up = math.hypot(new_interval.high - new, old - old_interval.low)
    return ClassShift(label, old, new, new - old - down, new - old + up)


def _certified(model: Model, most: int, random: np.random.Generator) -> Sample:
    """What full precision said about the certification images."""
    probabilities = read_reference(model).probabilities
    rows, confidences = len(probabilities), probabilities.max(axis=1, initial=0)
    classes = np.bincount(probabilities.argmax(axis=1), minlength=len(model.card.labels))
    chosen = random.permutation(rows)[:most]
    return Sample(
        source=CERTIFICATION,
        rows=rows,
        refused=0,
        classes=classes.astype(np.int64),
        confidences=confidence_cells(confidences),
        mean_confidence=float(confidences.mean()) if rows else 0.0,
        outputs=probabilities[chosen],
        top=len(model.card.labels),
        embeddings=None,
    )


def _check_rows(sample: Sample) -> None:
    if sample.rows < 2:
        refused = f" {sample.refused} images were refused." if sample.refused else ""
        raise Undecidable(
            f"{sample.source}: {sample.rows} classified images cannot be compared.{refused}",
            "Name results with more images.",
        )


def _compared(
    before: Sample, now: Sample, config: DriftConfig, random: np.random.Generator
) -> Iterator[Aspect]:
    tolerance, rows = config.tolerance, (before.rows, now.rows)
    histograms = before.classes, now.classes
    yield "classes", "predicted classes", rows, compare_counts(*histograms, tolerance, random)
    bins = in_equal_bins(before.confidences, now.confidences)
    yield "confidence", "largest probabilities", rows, compare_counts(*bins, tolerance, random)
    top = min(before.top, now.top)
    # Roots of probabilities: their distance, Hellinger's, sees what happens near 0 and near 1.
    old, new = (np.sqrt(top_vectors(sample.outputs, top)) for sample in (before, now))
    known = f"{top} largest probabilities" if top < len(before.classes) else "all probabilities"
    words = "class and largest probability" if top == 1 else known
    yield "outputs", words, (len(old), len(new)), compare_vectors(old, new, tolerance, random)
    if (pair := _embeddings(before, now)) is not None:
        sizes = len(pair[0]), len(pair[1])
        yield "embeddings", "embeddings", sizes, compare_vectors(*pair, tolerance, random)
    if config.reference is not None and before.refused + now.refused:
        was, has = (np.array([sample.rows, sample.refused], np.int64) for sample in (before, now))
        sizes = before.rows + before.refused, now.rows + now.refused
        yield "refused", "share of refused images", sizes, compare_counts(was, has, tolerance, random)


def _embeddings(before: Sample, now: Sample) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    old, new = before.embeddings, now.embeddings
    if old is None or new is None or old.shape[1] != new.shape[1] or min(len(old), len(new)) < 2:
        return None
    return old, new


def _judged(compared: list[Aspect]) -> tuple[DriftAspect, ...]:
    verdicts = judge([comparison for *_, comparison in compared])
    return tuple(
        DriftAspect(
            name,
            words,
            rows[1],
            rows[0],
            comparison.distances,
            comparison.p_value,
            p_adjusted,
            verdict,
            *(_needed(comparison) if verdict is DriftVerdict.CANNOT_TELL else (0, 0)),
        )
        for (name, words, rows, comparison), (p_adjusted, verdict) in zip(compared, verdicts, strict=True)
    )


def _needed(comparison: Comparison) -> tuple[int, int]:
    small = not math.isfinite(comparison.rows_needed)
    rows = REFERENCE_TOO_SMALL if small else math.ceil(comparison.rows_needed)
    return rows, comparison.reference_rows_needed


def _unreadable_share(model: Model) -> float:
    """Of the files in the data folder of the model."""
    data = model.card.data
    return data.unreadable / max(1, data.unreadable + sum(role.images for role in data.roles.values()))


def _refused_share(sample: Sample) -> float:
    return sample.refused / (sample.rows + sample.refused)


def _notes(before: Sample, now: Sample, results: Path, config: DriftConfig) -> Iterator[str]:
    """What a reader of the verdict should know."""
    for path in (results, config.reference):
        if path is not None and path.is_dir() and not (path / _SUCCESS).exists():
            yield f"{path} has no {_SUCCESS}: its images may be only the first of a job that is not done"
    if config.reference is None:
        yield "the reference's mix of classes is that of the certification images"
        if now.embeddings is not None:
            yield "embeddings were not compared: a model folder has none; name earlier results (--reference)"
    elif (before.embeddings is None) != (now.embeddings is None):
        yield "embeddings were not compared: only one of the two has them"
    elif before.embeddings is not None and _embeddings(before, now) is None:
        yield "embeddings were not compared: they have different widths"
