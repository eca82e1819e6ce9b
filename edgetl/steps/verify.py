"""`edgetl verify`: every artifact against the full-precision network, with a verdict. Needs no TensorFlow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgetl.card import Artifact, Model, chosen_artifacts
from edgetl.config import VerifyConfig
from edgetl.engines import open_classifier, run_batches
from edgetl.errors import CheckFailed, DataError, ExitCode, ModelFolderError
from edgetl.images import PREPROCESSING_VERSION
from edgetl.machine import instruction_set
from edgetl.measures import centred_logits, mean_kl, sqnr_db
from edgetl.progress import say
from edgetl.reference import ReferenceData, certification_images, read_reference
from edgetl.results import ClassLoss, Disagreement, Parity, Scores
from edgetl.scoring import score
from edgetl.statistics import ALPHA, Verdict, class_drops, drop_of, exact_p, holm, judge, paired_drop

SHOWN_DISAGREEMENTS = 24
SHOWN_CLASSES = 20
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
            f"Renew the reference: edgetl eval {model.folder} --renew-reference",
        )
    sample = read_sample(model, config)
    found, scores = [], {}
    for artifact in list(chosen_artifacts(model, config.artifact)):
        classifier = open_classifier(model, artifact, config.threads)
        probabilities = run_batches(classifier, sample.pixels, config.batch, f"verifying {artifact.name}")
        found.append(compare(artifact, sample, probabilities, model.card.labels, config.max_drop))
        scores[artifact.name] = score(artifact.name, "certification", probabilities, sample.labels)
    verdicts = with_holm(found)
    if sample.source == CERTIFICATION:
        model = remember(model, verdicts, scores)
    return model, Verified(str(model.folder), config.max_drop, verdicts, int(exit_code_of(verdicts)))


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
    right, still_right = reference_top == sample.labels, candidate_top == sample.labels
    drop = paired_drop(right, still_right, ALPHA)
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
        p_value=exact_p(drop.harmful, drop.helpful, drop.images, max_drop / 100),
        p_adjusted=float("nan"),
        verdict=verdict,
        more_images=more,
        instruction_set=instruction_set(),
        classes=_class_losses(right, still_right, sample.labels, labels),
        disagreements=_disagreements(sample, probabilities, labels),
    )


def _class_losses(
    right: NDArray[np.bool_],
    still_right: NDArray[np.bool_],
    truth: NDArray[np.int64],
    labels: tuple[str, ...],
) -> tuple[ClassLoss, ...]:
    """Classes whose images changed, those that lose most surely first."""
    found = class_drops(right, still_right, truth, len(labels))
    losses = [
        ClassLoss(label, one.images, one.harmful, one.helpful, one.p_worse, one.p_adjusted)
        for label, one in zip(labels, found, strict=True)
        if one.harmful + one.helpful > 0
    ]
    return tuple(sorted(losses, key=lambda one: one.p_value)[:SHOWN_CLASSES])


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


def with_holm(found: Sequence[Parity]) -> tuple[Parity, ...]:
    """Verdicts that hold together: with twenty files, one would pass by luck at 5 % each. Holm 1979."""
    adjusted = holm([parity.p_value for parity in found])
    return tuple(_adjusted(parity, p, len(found)) for parity, p in zip(found, adjusted, strict=True))


def _adjusted(parity: Parity, p_adjusted: float, together: int) -> Parity:
    """The verdict that holds beside the others; one that no longer passes needs as many images as alone at a
    level divided by their number.
    """
    if together == 1 or p_adjusted <= ALPHA or parity.verdict is not Verdict.PASS:
        return replace(parity, p_adjusted=p_adjusted)
    level = ALPHA / together
    drop = drop_of(parity.harmful, parity.helpful, parity.images, level)
    _, more = judge(drop, parity.max_drop_points / 100)
    return replace(parity, p_adjusted=p_adjusted, verdict=Verdict.UNDECIDED, more_images=max(1, more))


def remember(model: Model, verdicts: Sequence[Parity], scores: Mapping[str, Scores]) -> Model:
    """Note verdicts from all certification images, and the scores, which cost nothing more."""
    named = {parity.artifact: parity for parity in verdicts}
    return model.update(
        lambda card: replace(card, parity={**card.parity, **named}, scores={**card.scores, **scores})
    )


def exit_code_of(verdicts: Sequence[Parity]) -> ExitCode:
    """3 when one failed, else 5 when one is undecided, else 0."""
    found = {parity.verdict for parity in verdicts}
    if Verdict.FAIL in found:
        return ExitCode.CHECK_FAILED
    return ExitCode.UNDECIDED if Verdict.UNDECIDED in found else ExitCode.DONE
