"""`edgetl train`: a data folder becomes a model folder."""

import os
import time
from dataclasses import fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from edgetl.card import (
    CARD_FILE,
    KERAS,
    KERAS_FILE,
    REFERENCE_FILE,
    DataSummary,
    Model,
    ModelCard,
    Reference,
    RoleSummary,
    TrainingSummary,
)
from edgetl.card_versions import SCHEMA_VERSION
from edgetl.config import DataConfig, Recipe, TrainConfig
from edgetl.dataset import Dataset, Images, Role, role_fingerprint
from edgetl.engines import run_batches
from edgetl.files import make_folder, replacing, sha256_of, write_atomically
from edgetl.keras.classifier import KerasClassifier
from edgetl.keras.history import HISTORY_FILE, history_csv, versions
from edgetl.keras.network import Layers, whole
from edgetl.keras.parallel import communicating
from edgetl.keras.recipes import Run, Trained, train_by_plan, train_classic
from edgetl.keras.schedule import refuse_contradictions
from edgetl.keras.weights import load_trunk
from edgetl.keras.workplace import FINISHED, check_place, publish, working_folder
from edgetl.progress import COMMAND_SECONDS, say
from edgetl.records import to_json
from edgetl.reference import tuning_answers, tuning_sample, write_file_lists, write_reference
from edgetl.scoring import score

EDGETL_VERSION = version("edgetl")
_IMAGES_AT_ONCE = 32
_MAY_DIFFER = {
    "weights", "weights_input", "allow_download", "class_map", "cache_folder", "cache_limit", "shrink",
    "workers_config", "tensorboard", "resume", "overwrite",
}  # fmt: skip # settings that say where and how one of several workers does its part


def train(data: Path, output: Path, config: TrainConfig) -> Model:
    """Train a network on `data` and write the model folder `output`.

    All work happens in the folder `output`.partial; the model gets its place when it is complete. Every
    worker of several writes the same model. Raises `UsageError` when `output` exists, settings contradict
    each other or the time is too short, `DataError`, `WeightsError`, `StorageError`, and `EdgetlError` when
    a worker is missing, lost, or asked for something else.
    """
    running = COMMAND_SECONDS.get()
    began = time.monotonic() - (running() if running else 0.0)
    refuse_contradictions(config)
    place = check_place(output, overwrite=config.overwrite, resume=config.resume)
    with communicating(config.workers_config) as communication:
        trunk = load_trunk(config)
        with working_folder(place, resume=config.resume and communication.is_first) as partial:
            run = Run(config, data, partial, trunk, began, communication)
            _agree(run)
            trained = train_classic(run) if config.recipe is Recipe.CLASSIC else train_by_plan(run)
            card = write_folder(
                trained.layers, trained.dataset, _card(run, trained, place), partial / FINISHED
            )
            publish(partial, place)
    _tell_time(run, trained)
    return Model(output, card)


def _agree(run: Run) -> None:
    """Refuse workers that were asked for something else, before any work."""
    same: dict[str, object] = {f"version of {package}": number for package, number in versions().items()}
    for field in fields(run.config):
        if field.name not in _MAY_DIFFER:
            same[f"--{field.name.replace('_', '-')}"] = getattr(run.config, field.name)
    same["pretrained weights"] = run.trunk.origin.sha256
    for what, value in same.items():
        run.communication.agree(what, repr(value))


def _card(run: Run, trained: Trained, place: Path) -> ModelCard:
    """What is known before the files are written."""
    return ModelCard(
        schema_version=SCHEMA_VERSION,
        edgetl_version=EDGETL_VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=place.name,
        labels=trained.dataset.labels,
        input=trained.layers.spec,
        network=trained.layers.network,
        weights=run.trunk.origin,
        data=summarise(trained.dataset, run.config, place),
        training=_training_summary(trained),
        compression=None,
        reference=Reference(REFERENCE_FILE, "", 0, 0),
        keras_sha256="",
        artifacts=(),
        tried=(),
        explained=(),
        scores={},
        parity={},
        timing={},
    )


def write_folder(layers: Layers, dataset: Dataset, card: ModelCard, folder: Path) -> ModelCard:
    """Write the network, its reference and, when all else is there, the card into `folder`."""
    make_folder(folder)
    with replacing(folder / KERAS_FILE) as temporary:
        whole(layers).save(temporary)
    full = KerasClassifier(layers)
    certification, tuning = dataset.roles[Role.CERTIFICATION], dataset.roles[Role.TUNING]
    what = "reference of the certification images"
    probabilities = run_batches(full, certification.pixels, _IMAGES_AT_ONCE, what)
    write_file_lists(folder, dataset.roles[Role.CALIBRATION], tuning)
    stored = write_reference(
        folder / REFERENCE_FILE, certification, probabilities, card.labels, card.data.seed
    )
    write_atomically(folder / HISTORY_FILE, history_csv(card.training.history))
    digest, keras_sha256 = sha256_of(folder / REFERENCE_FILE), sha256_of(folder / KERAS_FILE)
    some = tuning_sample(len(tuning), card.data.seed)
    what = "reference of the tuning images"
    answers = run_batches(full, tuning.pixels[some], _IMAGES_AT_ONCE, what)
    digests = [tuning.digests[i] for i in some]
    tuning_answers(folder, keras_sha256, card.input.preprocessing_version, digests).write(answers)
    card = replace(
        card,
        reference=Reference(REFERENCE_FILE, digest, len(certification), stored),
        keras_sha256=keras_sha256,
        scores={KERAS: score(KERAS, "certification", probabilities, certification.labels)},
    )
    write_atomically(folder / CARD_FILE, to_json(card))
    return card


def _training_summary(trained: Trained) -> TrainingSummary:
    schedule, fitted = trained.schedule, trained.fitted
    settings = {
        field.name: _in_words(getattr(schedule, field.name))
        for field in fields(schedule)
        if field.name != "stages"
    }
    for stage in schedule.stages:
        settings[f"stage {stage.name}"] = (
            f"{stage.epochs} epochs, rate {stage.rate:g}, frozen up to {stage.boundary or 'nothing'}"
        )
    if trained.plan is not None:
        settings["features"] = str(trained.plan.features)
        settings["expected minutes"] = f"{trained.plan.seconds / 60:.1f}"
    return TrainingSummary(
        settings=settings,
        cuts=trained.cuts,
        history=fitted.history,
        chosen_stage=fitted.chosen_stage,
        chosen_epoch=fitted.chosen_epoch,
        temperature=fitted.temperature,
        minutes=fitted.minutes,
        versions={name: number for name, number in versions().items() if name != "edgetl"},
    )


def _in_words(value: object) -> str:
    return " and ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def summarise(dataset: Dataset, config: DataConfig, place: Path) -> DataSummary:
    """What the card of a model at `place` keeps of a dataset; a relative path names nobody's home."""
    return DataSummary(
        folder=os.path.relpath(dataset.folder.resolve(), place.resolve()),
        layout=dataset.layout,
        seed=config.seed,
        roles={role.value: _summarise_role(dataset.roles[role], len(dataset.labels)) for role in Role},
        unreadable=len(dataset.skipped),
        leaking=len(dataset.leaking),
        tuning_share=config.tuning_share,
        calibration_share=config.calibration_share,
        certification_share=config.certification_share,
    )


def _summarise_role(role: Images, classes: int) -> RoleSummary:
    counts = [0] * classes
    for label in role.labels.tolist():
        counts[label] += 1
    return RoleSummary(len(role), tuple(counts), role_fingerprint(role.digests))


def _tell_time(run: Run, trained: Trained) -> None:
    if trained.plan is not None:
        say(f"took {run.seconds / 60:.1f} minutes; {trained.plan.seconds / 60:.1f} were expected")
