"""Rivals of the tries of `compress`: small networks of others, taught the same, never chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgetl.card import ModelCard
from edgetl.choices import Student
from edgetl.config import CompressConfig, Format, Precision
from edgetl.dataset import Role
from edgetl.engines import classifier_of
from edgetl.errors import UsageError
from edgetl.files import sha256_of
from edgetl.keras.attempts import AttemptFiles
from edgetl.keras.checkpoint import Checkpoint, Clock
from edgetl.keras.distill import Distillation
from edgetl.keras.students import (
    LEAST_SIDE,
    multiplications_of,
    parameters_of,
    student_model,
    student_onnx,
    taught,
)
from edgetl.keras.workplace import ATTEMPTS
from edgetl.metadata.onnx import describe
from edgetl.quantize.onnx_any import any_to_int8
from edgetl.results import Attempt
from edgetl.steps.promise import latency_of
from edgetl.steps.workshop import Learnt, Work, identity_of, judged


@dataclass(frozen=True)
class Rival:
    """An architecture, and where its weights begin."""

    student: Student
    weights: Path | None  # None: at random

    def model(self, card: ModelCard, seed: int) -> Any:
        """A Keras model for the images and classes of `card`. Raises `WeightsError`."""
        return student_model(self.student, card.input, len(card.labels), seed, self.weights)


def rivals_of(config: CompressConfig, card: ModelCard) -> tuple[Rival, ...]:
    """Those that settings ask for. Raises `UsageError`, and `WeightsError` for a file of something else."""
    students = _students(config.student)
    _refuse_contradictions(config, students)
    if students and min(card.input.height, card.input.width) < LEAST_SIDE:
        raise UsageError(
            f"--student takes images of at least {LEAST_SIDE} pixels; this model's have "
            f"{card.input.width}x{card.input.height}.",
            "Leave it out.",
        )
    rivals = tuple(Rival(student, config.student_weights) for student in students)
    if config.student_weights is not None:
        rivals[0].model(card, config.seed)  # refuses before any work
    return rivals


def _students(text: str | None) -> tuple[Student, ...]:
    if text is None:
        return ()
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    unknown = [word for word in words if word not in list(Student)]
    if unknown or not words:
        raise UsageError(
            f"--student {text!r}: there is no {unknown[0]!r}." if unknown else "--student names no network.",
            f"Known: {', '.join(Student)}.",
        )
    return tuple(map(Student, words))


def _refuse_contradictions(config: CompressConfig, students: Sequence[Student]) -> None:
    if config.student_weights is not None and len(students) != 1:
        raise UsageError(
            f"--student-weights is for one network; --student names {len(students) or 'none'}.",
            "Give --student the one architecture that the file is of.",
        )
    if students and config.minutes is not None:
        raise UsageError(
            "--student and --minutes: rivals must learn for as many epochs as the tries, whatever it takes.",
            "Say --epochs instead of --minutes.",
        )


def compete(work: Work, rival: Rival, epochs: int) -> Attempt:
    """Train one rival as long as the tries, unless that has been done, and see what its int8 file costs."""
    work = replace(work, settings=replace(work.settings, epochs=epochs))
    card, student = work.parent.model.card, rival.student
    start = None if rival.weights is None else sha256_of(rival.weights)
    files = AttemptFiles(work.partial / ATTEMPTS, identity_of(work, (student, start)))
    model = rival.model(card, work.config.seed)
    history = files.read_weights(model)
    if history is None:
        checkpoint = Checkpoint(files.checkpoint, files.identity, work.config.resume)
        clock = Clock(None, checkpoint.state.seconds + work.seconds)
        tuning, lessons = work.dataset.roles[Role.TUNING], work.larger.lessons
        history = taught(
            model,
            Distillation(student, lessons, tuning, work.settings, checkpoint, clock, clock.seconds),
        )
        files.write_weights(model.get_weights(), history)
    quantized = any_to_int8(student_onnx(model), work.parent.sources.calibration_pixels)
    describe(quantized, card, Precision.INT8)
    content = quantized.SerializeToString()
    classifier = classifier_of(content, Format.ONNX, Precision.INT8, work.config.threads)
    learnt = Learnt(
        name=student,
        student=student,
        widths=(),
        parameters=parameters_of(model),
        giga_macs=multiplications_of(model) / 1e9,
        size_bytes=len(content),
        latency_ms=latency_of(classifier, work.tuning.pixels),
        epochs=len(history),
    )
    return judged(work, learnt, classifier)
