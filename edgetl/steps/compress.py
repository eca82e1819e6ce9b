"""`edgetl compress`: a trained model folder becomes one with far fewer channels, proven against the first."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from edgetl.card import Artifact, Compression, Model, ModelCard, TrainingSummary
from edgetl.config import CompressConfig, DataConfig, ExportConfig, VerifyConfig
from edgetl.dataset import Dataset, Role, load, role_fingerprint
from edgetl.errors import DataError, ExitCode
from edgetl.keras.attempts import Made
from edgetl.keras.classifier import open_layers
from edgetl.keras.compressing import refuse_cut, weights_in
from edgetl.keras.history import versions
from edgetl.keras.inputs import in_batches
from edgetl.keras.network import above, fold_temperature
from edgetl.keras.workplace import CANDIDATE, check_place, finish_candidate, publish, working_folder
from edgetl.machine import cores
from edgetl.progress import COMMAND_SECONDS, say
from edgetl.quantize.goals import precisions_by_format
from edgetl.results import Attempt, Explained, Parity
from edgetl.steps.making import Sources
from edgetl.steps.promise import FloatNetwork, Kept, keep, refuse_too_few
from edgetl.steps.rivals import compete, rivals_of
from edgetl.steps.shrinking import search
from edgetl.steps.teaching import learnt_from_mirrored
from edgetl.steps.train import summarise, write_folder
from edgetl.steps.verify import verify
from edgetl.steps.workshop import Work, goals_for, prepare, refuse_contradictions
from edgetl.transfer.heads import fit_temperature

_PRECISION = "int8"


@dataclass(frozen=True)
class Compressed:
    """What `compress` did; the verdicts are against the network it began with."""

    model: str  # the new folder; empty where goals were missed
    parent: str
    goals: str
    parent_accuracy: float
    parent_parameters: int
    parent_giga_macs: float
    parent_latency_ms: float  # of one image in its int8 ONNX file, expected from the layers' times
    attempts: tuple[Attempt, ...]
    artifacts: tuple[Artifact, ...]
    explained: tuple[Explained, ...]
    parity: tuple[Parity, ...]
    minutes: float
    exit_code: int


def compress(
    model: Model, output: Path, config: CompressConfig, data: Path | None = None
) -> tuple[Model | None, Compressed]:
    """Write the model folder `output` with a smaller network that provably keeps to all goals, or none.

    `data`: where the data folder of `model` is now. Trained networks stay in `output`.partial when goals are
    missed, for another try with `resume`. Raises `UsageError` for contradictions, `Undecidable` before any
    work when no proof is possible with so few certification images, `DataError` when the images are not those
    of training, `ModelFolderError`, `StorageError`.
    """
    running = COMMAND_SECONDS.get()
    began = time.monotonic() - (running() if running else 0.0)
    refuse_contradictions(config)
    goals = goals_for(config, model.card)
    together = len(precisions_by_format(goals, config.format, _PRECISION))
    refuse_too_few(model, goals, together)
    layers = open_layers(model)
    refuse_cut(config, layers)
    rivals = rivals_of(config, model.card)
    place = check_place(output, overwrite=config.overwrite, resume=config.resume)
    with working_folder(place, resume=config.resume) as partial:
        dataset = same_dataset(model, data or model.data_folder, config, partial)
        sources = Sources(layers, dataset.roles[Role.CALIBRATION].pixels[:])
        parent = FloatNetwork(model, sources)
        work = prepare(config, goals, parent, dataset, together=together, partial=partial, began=began)
        made, tries = search(work)
        epochs = max(attempt.epochs for attempt in tries)
        attempts = (*tries, *(compete(work, rival, epochs) for rival in rivals))
        if made is None:
            return None, _told(work, "", attempts, Kept((), (), (), (), ExitCode.CHECK_FAILED))
        small, kept = _finish(work, made, attempts, place)
        if kept.exit_code is not ExitCode.DONE:
            say(f"nothing is written: {output}.partial keeps what was trained, for --resume with other goals")
            return None, _told(work, "", attempts, kept)
        finish_candidate(partial)
        publish(partial, place)
    return Model(output, small.card), _told(work, str(output), attempts, kept)


def same_dataset(model: Model, folder: Path, config: CompressConfig, scratch: Path) -> Dataset:
    """The images of a model in the roles they had. Raises `DataError` when they are others."""
    known = model.card.data
    if not folder.is_dir():
        raise DataError(
            f"The data folder {folder} is not here.", "Say where it is now: edgetl compress MODEL DATA"
        )
    shares = {
        field.name: getattr(known, field.name) for field in fields(known) if field.name.endswith("_share")
    }
    division = DataConfig(seed=known.seed, class_map=config.class_map, **shares)
    spec = model.card.input
    dataset = load(folder, spec.height, spec.width, division, threads=cores(), scratch=scratch)
    if dataset.labels != model.card.labels:
        raise DataError(
            f"The classes in {folder} are not those of {model.folder}, or not in its order.",
            "Give the folder it was trained on, and its --class-map if it had one.",
        )
    for role in Role:
        if role_fingerprint(dataset.roles[role].digests) != known.roles[role.value].fingerprint:
            raise DataError(
                f"The {role} images in {folder} are not those that {model.folder} was made with.",
                "Restore them, or train again.",
            )
    return dataset


def _finish(work: Work, made: Made, attempts: Sequence[Attempt], place: Path) -> tuple[Model, Kept]:
    """The model folder, in the working folder, with files that are proven against the larger network."""
    tuning = work.dataset.roles[Role.TUNING]
    logits = in_batches(above(made.layers, None, lambda features: features).predict_on_batch, tuning.pixels)
    temperature = fit_temperature(logits, tuning.labels)
    fold_temperature(made.layers, temperature)
    folder = work.partial / CANDIDATE
    card = write_folder(made.layers, work.dataset, _card(work, made, attempts, temperature, place), folder)
    export = ExportConfig(
        format=work.config.format, precision=_PRECISION, data=work.dataset.folder, threads=work.config.threads
    )
    sources = Sources(made.layers, work.parent.sources.pixels)
    small, kept = keep(Model(folder, card), export, work.goals, sources, work.parent.model)
    if kept.exit_code is ExitCode.DONE:
        small, _ = verify(small, VerifyConfig(data=work.dataset.folder, threads=work.config.threads))
        small = small.update(lambda found: replace(found, compression=_with_parity(found.compression, kept)))
    return small, kept


def _with_parity(known: Compression | None, kept: Kept) -> Compression | None:
    return known and replace(known, parity=kept.parity)


def _card(work: Work, made: Made, attempts: Sequence[Attempt], temperature: float, place: Path) -> ModelCard:
    """What is known before the files are written."""
    parent = work.parent.model
    settings = {
        field.name: str(getattr(work.config, field.name))
        for field in fields(work.config)
        if field.name
        not in {"resume", "overwrite", "threads", "class_map", "unlabelled", "format", "student_weights"}
    }
    training = TrainingSummary(
        settings=settings
        | {
            "epochs": str(len(made.history)),
            "pictures": str(work.larger.lessons.pictures),
            "flip": str(learnt_from_mirrored(parent.card)),
        },
        cuts=(),
        history=made.history,
        chosen_stage=made.history[-1].stage,
        chosen_epoch=made.history[-1].epoch,
        temperature=temperature,
        minutes=work.seconds / 60,
        versions={name: number for name, number in versions().items() if name != "edgetl"},
    )
    compression = Compression(
        parent=parent.card.name,
        parent_folder=os.path.relpath(parent.folder.resolve(), place.resolve()),
        parent_keras_sha256=parent.card.keras_sha256,
        parent_channels=parent.card.network.channels,
        parent_accuracy=work.parent_accuracy,
        goals=work.goals_in_words,
        settings=settings,
        attempts=tuple(attempts),
        layers=work.layer_costs(made.layers.network),
        parity=(),
    )
    return replace(
        parent.card,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=place.name,
        network=made.layers.network,
        data=summarise(work.dataset, _division(parent), place),
        training=training,
        compression=compression,
        artifacts=(),
        tried=(),
        explained=(),
        scores={},
        parity={},
        timing={},
    )


def _division(parent: Model) -> DataConfig:
    known = parent.card.data
    return DataConfig(
        seed=known.seed,
        tuning_share=known.tuning_share,
        calibration_share=known.calibration_share,
        certification_share=known.certification_share,
    )


def _told(work: Work, model: str, attempts: Sequence[Attempt], kept: Kept) -> Compressed:
    network = work.parent.model.card.network
    return Compressed(
        model=model,
        parent=str(work.parent.model.folder),
        goals=work.goals_in_words,
        parent_accuracy=work.parent_accuracy,
        parent_parameters=weights_in(work.larger.layers),
        parent_giga_macs=work.larger.multiplications(network.channels, network.cut) / 1e9,
        parent_latency_ms=work.larger.table.of(network.channels),
        attempts=tuple(attempts),
        artifacts=kept.artifacts,
        explained=kept.explained,
        parity=kept.parity,
        minutes=work.seconds / 60,
        exit_code=int(kept.exit_code),
    )
