"""`edgetl verify`: every artifact against the full-precision network, with a verdict. Needs no TensorFlow."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgetl.card import Artifact, Model, chosen_artifacts
from edgetl.config import VerifyConfig
from edgetl.engines import open_classifier, run_batches
from edgetl.errors import CheckFailed, DataError, ExitCode, ModelFolderError
from edgetl.images import PREPROCESSING_VERSION
from edgetl.machine import instruction_set
from edgetl.progress import say
from edgetl.reference import ReferenceData, certification_images, read_reference
from edgetl.results import Disagreement, Parity
from edgetl.scoring import score
from edgetl.statistics import Verdict, centred_logits, judge, mean_kl, paired_drop, sqnr_db

SHOWN_DISAGREEMENTS = 24
CERTIFICATION = "certification images"
STORED = "stored samples"


@dataclass(frozen=True)
class Verified:
    """The verdicts of one `verify`."""

    model: str
    max_drop_points: float
    parity: tuple[Parity, ...]
    exit_code: int


@dataclass(frozen=True)
class Sample:
    """Images with what the full-precision network said about them."""

    source: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    paths: tuple[str, ...]


def verify(model: Model, config: VerifyConfig) -> tuple[Model, Verified]:
    """Compare artifacts with the stored full-precision probabilities and judge each one.

    Uses all certification images if the data folder is at hand, else the samples stored in the model folder.
    Raises `ModelFolderError` when reference and preprocessing do not belong together.
    """
    if model.card.input.preprocessing_version != PREPROCESSING_VERSION:
        raise ModelFolderError(
            f"The reference was made by preprocessing version {model.card.input.preprocessing_version}; "
            f"this edgetl has version {PREPROCESSING_VERSION} and may decode other pixels.",
            "Train again, or verify with the edgetl version that trained.",
        )
    sample = read_sample(model, config)
    verdicts = []
    for artifact in list(chosen_artifacts(model, config.artifact)):
        classifier = open_classifier(model, artifact, config.threads)
        probabilities = run_batches(classifier, sample.pixels, config.batch, f"verifying {artifact.name}")
        parity = compare(artifact, sample, probabilities, model.card.labels, config.max_drop)
        verdicts.append(parity)
        model = _remember(model, parity, sample, probabilities)
    return model, Verified(str(model.folder), config.max_drop, tuple(verdicts), int(exit_code_of(verdicts)))


def read_sample(model: Model, config: VerifyConfig) -> Sample:
    """All certification images with their reference, or the stored ones when the data folder is gone."""
    reference = read_reference(model)
    folder = config.data or model.data_folder
    if config.data is None and not folder.is_dir():
        stored = len(reference.stored)
        say(f"the data folder {folder} is not here: checking with the {stored} stored samples only")
        return _stored_sample(reference)
    images = certification_images(model, folder)
    return Sample(CERTIFICATION, images.pixels, images.labels, reference.probabilities, images.paths)


def _stored_sample(reference: ReferenceData) -> Sample:
    if len(reference.stored) == 0:
        raise DataError(
            "The model folder has no stored samples.", "Say where the data folder is with --data DIR."
        )
    chosen = reference.stored
    return Sample(
        STORED,
        reference.pixels,
        reference.labels[chosen],
        reference.probabilities[chosen],
        tuple(reference.paths[i] for i in chosen),
    )


def compare(
    artifact: Artifact,
    sample: Sample,
    probabilities: NDArray[np.float32],
    labels: tuple[str, ...],
    max_drop: float,
) -> Parity:
    """All parity figures of one artifact. probabilities [N, classes]; max_drop in points.

    Raises `CheckFailed` when the artifact does not give probabilities at all.
    """
    if probabilities.shape != sample.probabilities.shape or not np.isfinite(probabilities).all():
        raise CheckFailed(
            f"{artifact.file} gives {probabilities.shape} with "
            f"{int((~np.isfinite(probabilities)).sum())} values that are not finite; "
            f"expected {sample.probabilities.shape} probabilities.",
            "Export the model again.",
        )
    reference_top, candidate_top = sample.probabilities.argmax(axis=1), probabilities.argmax(axis=1)
    drop = paired_drop(reference_top == sample.labels, candidate_top == sample.labels)
    verdict, more = judge(drop, max_drop / 100)
    logits, candidate_logits = centred_logits(sample.probabilities), centred_logits(probabilities)
    return Parity(
        artifact=artifact.name,
        artifact_sha256=artifact.sha256,
        images=drop.images,
        source=sample.source,
        agreement=float((reference_top == candidate_top).mean()),
        harmful=drop.harmful,
        helpful=drop.helpful,
        drop_points=100 * drop.drop,
        drop_upper_points=100 * drop.upper,
        drop_lower_points=100 * drop.lower,
        max_drop_points=max_drop,
        max_difference=float(np.abs(probabilities - sample.probabilities).max()),
        mean_kl=mean_kl(sample.probabilities, probabilities),
        sqnr_db=sqnr_db(logits, candidate_logits),
        verdict=verdict,
        more_images=more,
        instruction_set=instruction_set(),
        disagreements=_disagreements(sample, probabilities, labels),
    )


def _disagreements(
    sample: Sample, probabilities: NDArray[np.float32], labels: tuple[str, ...]
) -> tuple[Disagreement, ...]:
    """Images with another top class, those the full-precision network was surest of first."""
    reference_top, candidate_top = sample.probabilities.argmax(axis=1), probabilities.argmax(axis=1)
    differing = np.flatnonzero(reference_top != candidate_top)
    surest = differing[np.argsort(-sample.probabilities.max(axis=1)[differing], kind="stable")]
    return tuple(
        Disagreement(
            path=sample.paths[i],
            truth=labels[sample.labels[i]],
            reference=labels[reference_top[i]],
            reference_probability=float(sample.probabilities[i].max()),
            candidate=labels[candidate_top[i]],
            candidate_probability=float(probabilities[i].max()),
        )
        for i in surest[:SHOWN_DISAGREEMENTS]
    )


def _remember(model: Model, parity: Parity, sample: Sample, probabilities: NDArray[np.float32]) -> Model:
    """Note the verdict, and the scores, which cost nothing more, when all certification images were used."""
    if sample.source != CERTIFICATION:
        return model
    scores = score(parity.artifact, "certification", probabilities, sample.labels)
    return model.update(
        lambda card: replace(
            card,
            parity={**card.parity, parity.artifact: parity},
            scores={**card.scores, parity.artifact: scores},
        )
    )


def exit_code_of(verdicts: list[Parity]) -> ExitCode:
    """3 when one failed, else 5 when one is undecided, else 0."""
    found = {parity.verdict for parity in verdicts}
    if Verdict.FAIL in found:
        return ExitCode.CHECK_FAILED
    return ExitCode.UNDECIDED if Verdict.UNDECIDED in found else ExitCode.DONE
