"""Worker 0's closed-form result for all: machines round differently, and ties may fall differently."""

from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from edgetl.card import CutScore, EpochRecord
from edgetl.keras.linear import Linear, LinearSettings, views_of
from edgetl.keras.parallel import Communication
from edgetl.records import from_json, to_json
from edgetl.transfer.cuts import Candidate
from edgetl.transfer.heads import FeatureScale, LinearHead


@dataclass(frozen=True)
class _Choices:
    """What of a `Linear` is neither an array nor follows from the rest."""

    records: tuple[EpochRecord, ...]
    candidate: Candidate
    cuts: tuple[CutScore, ...]
    penalty: float
    tuning_accuracy: float
    train_loss: float
    train_accuracy: float
    mirrored: bool


def of_first(own: Linear, settings: LinearSettings, communication: Communication) -> Linear:
    """Worker 0's result in place of one's own."""
    if communication.size == 1:
        return own
    fit = own.fit
    figures = (fit.penalty, fit.tuning_accuracy, fit.train_loss, fit.train_accuracy)
    choices = _Choices(own.records, own.candidate, own.cuts, *figures, own.mirrored)
    told = from_json(_Choices, communication.bytes_from_first(lambda: to_json(choices).encode()))
    head, scale = fit.head, own.scale
    arrays: list[NDArray[Any]] = [
        scale.factor,
        scale.offset,
        head.kernel,
        head.bias,
        fit.tuning_losses,
        own.tuning_logits,
    ]
    factor, offset, kernel, bias, losses, logits = communication.from_first(arrays)
    return replace(
        own,
        records=told.records,
        candidate=told.candidate,
        cuts=told.cuts,
        scale=FeatureScale(factor, offset),
        fit=replace(
            fit,
            head=LinearHead(kernel, bias),
            penalty=told.penalty,
            tuning_losses=losses,
            tuning_accuracy=told.tuning_accuracy,
            train_loss=told.train_loss,
            train_accuracy=told.train_accuracy,
        ),
        tuning_logits=logits,
        views=views_of(settings.views, settings.augment, settings.seed, mirrored=told.mirrored),
        mirrored=told.mirrored,
    )
