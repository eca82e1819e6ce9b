"""`edgetl eval`: how well one artifact classifies labelled images."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetl.card import KERAS, Model
from edgetl.classifier import Classifier
from edgetl.config import EvalConfig
from edgetl.dataset import Entry, read_images
from edgetl.engines import open_classifier, run_batches
from edgetl.errors import DataError
from edgetl.images import find as find_images
from edgetl.progress import say
from edgetl.reference import certification_images
from edgetl.results import Scores
from edgetl.scoring import score


def evaluate(model: Model, data: Path | None, config: EvalConfig) -> Scores:
    """Score an artifact on the certification images, or on the class folders of `data`.

    Only certification scores are added to the card. Raises `DataError` when `data` has unknown classes or
    none, or when the certification images are not where they were.
    """
    if config.renew_reference:
        from edgetl.steps.renew import renew

        model = renew(model, config)
    name = config.artifact or default_name(model)
    classifier = open_named(model, name, config.threads)
    if data is None:
        if not model.data_folder.is_dir():
            raise DataError(
                f"The data folder {model.data_folder} is not here.",
                f"Name a folder of labelled images: edgetl eval {model.folder} DATA",
            )
        images, source = certification_images(model, model.data_folder), "certification"
        pixels, labels = images.pixels, images.labels
    else:
        pixels, labels = read_labelled(model, data)
        source = str(data)
    result = score(name, source, run_batches(classifier, pixels, config.batch, f"evaluating {name}"), labels)
    if data is None:
        model.update(lambda card: replace(card, scores={**card.scores, name: result}))
    return result


def read_labelled(model: Model, data: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images of `data` (test/ of it, where there is one) with labels in the model's class order."""
    entries = labelled_entries(data, model.card.labels)
    images, _, skipped = read_images(entries, data, model.card.input.height, model.card.input.width)
    if skipped:
        say(
            f"{len(skipped)} files could not be read and are left out "
            f"(first: {skipped[0].path}: {skipped[0].detail})"
        )
    if len(images) == 0:
        raise DataError(
            f"{data} has no readable image.", "Name a folder with one folder of images per class."
        )
    return images.pixels, images.labels


def labelled_entries(data: Path, labels: tuple[str, ...]) -> list[Entry]:
    """The files in the class folders of `data`, or of its test/. `DataError` for classes not in the model."""
    if not data.is_dir():
        raise DataError(f"{data} is not a folder.", "Name a folder that has one folder of images per class.")
    root = data / "test" if (data / "test").is_dir() and "test" not in labels else data
    folders = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    unknown = [folder.name for folder in folders if folder.name not in labels]
    if unknown:
        raise DataError(
            f"{root} has classes that the model does not know: {', '.join(unknown)}.",
            f"The model knows: {', '.join(labels)}.",
        )
    entries = [
        Entry(path, labels.index(folder.name), "") for folder in folders for path in find_images([folder])
    ]
    if not entries:
        raise DataError(
            f"{root} has no labelled images.",
            "eval needs one folder of images per class; for unlabelled images use edgetl predict.",
        )
    return entries


def open_named(model: Model, name: str, threads: int) -> Classifier:
    """The full-precision network or an artifact, by name."""
    if name == KERAS:
        from edgetl.keras.classifier import KerasClassifier, open_layers

        return KerasClassifier(open_layers(model))
    return open_classifier(model, model.artifact(name), threads)


def default_name(model: Model) -> str:
    """The full-precision network where it can run, else the artifact that stands for it."""
    if model.keras_file.is_file() and find_spec("tensorflow") is not None:
        return KERAS
    names = [artifact.name for artifact in model.card.artifacts]
    return next((name for name in names if name.startswith("onnx")), names[0]) if names else "onnx-fp32"
