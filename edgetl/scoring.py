"""Probabilities and truth become `Scores`."""

import numpy as np
from numpy.typing import NDArray

from edgetl.measures import (
    class_scores,
    confusion_matrix,
    expected_calibration_error,
    negative_log_likelihood,
    top_k_accuracy,
)
from edgetl.results import Scores
from edgetl.statistics import wilson_interval


def score(
    artifact: str, source: str, probabilities: NDArray[np.float32], labels: NDArray[np.int64]
) -> Scores:
    """All figures of `eval`. probabilities [N, classes], labels [N]."""
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    right = predicted == labels
    confusion = confusion_matrix(labels, predicted, classes)
    per_class = class_scores(confusion)
    interval = wilson_interval(int(right.sum()), len(labels))
    seen = [entry.recall for entry in per_class if entry.images > 0]
    return Scores(
        artifact=artifact,
        source=source,
        images=len(labels),
        loss=negative_log_likelihood(probabilities, labels),
        accuracy=float(right.mean()),
        accuracy_low=interval.low,
        accuracy_high=interval.high,
        top5_accuracy=top_k_accuracy(probabilities, labels, min(5, classes)),
        balanced_accuracy=float(np.mean(seen)),
        calibration_error=expected_calibration_error(probabilities.max(axis=1), right),
        per_class=tuple(per_class),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )
