"""`edgetl eval --renew-reference`: the full-precision probabilities of images as they are decoded now."""

from dataclasses import replace

from edgetl.card import KERAS, REFERENCE_FILE, Model, Reference
from edgetl.config import EvalConfig
from edgetl.engines import run_batches
from edgetl.errors import DataError, ModelFolderError
from edgetl.files import sha256_of
from edgetl.images import PREPROCESSING_VERSION
from edgetl.reference import certification_images, write_reference
from edgetl.scoring import score
from edgetl.steps.evaluate import open_named


def renew(model: Model, config: EvalConfig) -> Model:
    """Write the reference anew and forget the verdicts that rest on the old one.

    Raises `DataError` unless all certification images are at hand and unchanged, `ModelFolderError` without
    the full-precision network.
    """
    if not model.keras_file.is_file():
        raise ModelFolderError(
            f"{model.keras_file} is missing: only the full-precision network can make a reference.",
            "Restore it from a copy, or train again.",
        )
    if not model.data_folder.is_dir():
        raise DataError(
            f"The data folder {model.data_folder} is not here.", "Put it back where it was at training."
        )
    images = certification_images(model, model.data_folder)
    classifier = open_named(model, KERAS, config.threads)
    found = run_batches(classifier, images.pixels, config.batch, "reference of the certification images")
    path = model.folder / REFERENCE_FILE
    stored = write_reference(path, images, found, model.card.labels, model.card.data.seed)
    reference = Reference(REFERENCE_FILE, sha256_of(path), len(images), stored)
    scores = {KERAS: score(KERAS, "certification", found, images.labels)}
    return model.update(
        lambda card: replace(
            card,
            input=replace(card.input, preprocessing_version=PREPROCESSING_VERSION),
            reference=reference,
            scores=scores,
            parity={},
        )
    )
