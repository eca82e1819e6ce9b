"""`edgetl train`: a data folder becomes a model folder."""

import csv
import io
import os
from dataclasses import fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from edgetl import images
from edgetl.card import (
    CARD_FILE,
    KERAS,
    KERAS_FILE,
    REFERENCE_FILE,
    SCHEMA_VERSION,
    DataSummary,
    EpochRecord,
    InputSpec,
    Model,
    ModelCard,
    Network,
    Reference,
    RoleSummary,
    TrainingSummary,
    TrunkOrigin,
)
from edgetl.config import Head, TrainConfig
from edgetl.dataset import Dataset, Images, Role, load, role_fingerprint
from edgetl.engines import run_batches
from edgetl.files import fingerprint, make_folder, replacing, sha256_of, storing, write_atomically
from edgetl.keras.checkpoint import Checkpoint
from edgetl.keras.classifier import KerasClassifier
from edgetl.keras.fit import Fitted, fit
from edgetl.keras.inputs import TrainingImages
from edgetl.keras.network import HIDDEN_UNITS, Layers, make_layers, set_trunk, whole
from edgetl.keras.schedule import Schedule, decide, refuse_contradictions
from edgetl.keras.tensorboard import curves_writer
from edgetl.keras.weights import Trunk, load_trunk
from edgetl.keras.workplace import CHECKPOINT_FILE, FINISHED, check_place, publish, working_folder
from edgetl.progress import say
from edgetl.records import to_json
from edgetl.reference import CALIBRATION_FILE, write_file_list, write_reference
from edgetl.scoring import score

EDGETL_VERSION = version("edgetl")
HISTORY_FILE = "history.csv"
_IMAGES_AT_ONCE = 32


def train(data: Path, output: Path, config: TrainConfig) -> Model:
    """Train a network on `data` and write the model folder `output`.

    All work happens in the folder `output`.partial; the model gets its place when it is complete. Raises
    `UsageError` when `output` exists or settings contradict each other, `DataError`, `WeightsError`,
    `StorageError`.
    """
    refuse_contradictions(config)
    place = check_place(output, overwrite=config.overwrite, resume=config.resume)
    trunk = load_trunk(config)
    dataset = load(data, config.image_size, config.image_size, config)
    schedule = decide(config, len(dataset.roles[Role.TRAIN]))
    _tell(dataset, schedule)
    layers = _untrained(dataset, schedule, config, trunk)
    with working_folder(place, resume=config.resume) as partial:
        identity = _identity(trunk.origin, layers, dataset, schedule)
        checkpoint = Checkpoint(partial / CHECKPOINT_FILE, identity, config.resume)
        fitted = _fit(layers, dataset, schedule, checkpoint, config.tensorboard)
        card = _card(place, dataset, schedule, layers=layers, origin=trunk.origin, fitted=fitted)
        card = _write(layers, dataset, card, partial / FINISHED)
        publish(partial, place)
    return Model(output, card)


def _untrained(dataset: Dataset, schedule: Schedule, config: TrainConfig, trunk: Trunk) -> Layers:
    """The network with the pretrained trunk and a new head."""
    side = config.image_size
    spec = InputSpec(side, side, trunk.mean_rgb, trunk.scale, images.WHITE, images.PREPROCESSING_VERSION)
    hidden = HIDDEN_UNITS if schedule.head is Head.FLATTEN else 0
    layers = make_layers(Network(schedule.cut, schedule.head, hidden, len(dataset.labels)), spec, config.seed)
    set_trunk(layers, trunk.kernels, trunk.biases)
    return layers


def _fit(
    layers: Layers, dataset: Dataset, schedule: Schedule, checkpoint: Checkpoint, curves: Path | None
) -> Fitted:
    train_images, tuning = dataset.roles[Role.TRAIN], dataset.roles[Role.TUNING]
    training = TrainingImages(train_images.pixels, train_images.labels, tuning.pixels, tuning.labels)
    partial = checkpoint.file.parent
    with storing(partial), curves_writer(curves) as write_curves:

        def on_epoch(record: EpochRecord) -> None:
            write_curves(record)
            write_atomically(partial / HISTORY_FILE, history_csv((*checkpoint.state.history, record)))

        return fit(layers, training, schedule, partial, checkpoint=checkpoint, on_epoch=on_epoch)


def _identity(origin: TrunkOrigin, layers: Layers, dataset: Dataset, schedule: Schedule) -> str:
    """One digest of all that decides what training gives; a run may only be continued with the same.

    Where the images lie, how long training may take and who watches do not count.
    """
    return fingerprint(
        [
            *(f"{name} {number}" for name, number in _versions().items()),
            repr(replace(schedule, minutes=None)),
            repr((layers.network, layers.spec, dataset.labels)),
            origin.sha256,
            *(
                f"{role} {label} {digest}"
                for role, members in dataset.roles.items()
                for label, digest in zip(members.labels.tolist(), members.digests, strict=True)
            ),
        ]
    )


def _versions() -> dict[str, str]:
    """Of the packages that decide what training gives."""
    return {name: version(name) for name in ("edgetl", "tensorflow", "tf_keras", "numpy")}


def _card(
    place: Path, dataset: Dataset, schedule: Schedule, *, layers: Layers, origin: TrunkOrigin, fitted: Fitted
) -> ModelCard:
    """What is known before the files are written."""
    return ModelCard(
        schema_version=SCHEMA_VERSION,
        edgetl_version=EDGETL_VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=place.name,
        labels=dataset.labels,
        input=layers.spec,
        network=layers.network,
        weights=origin,
        data=summarise(dataset, schedule.seed, place),
        training=_training_summary(schedule, fitted),
        reference=Reference(REFERENCE_FILE, "", 0, 0),
        keras_sha256="",
        artifacts=(),
        scores={},
        parity={},
        timing={},
    )


def _write(layers: Layers, dataset: Dataset, card: ModelCard, folder: Path) -> ModelCard:
    """Write the network, its reference and, when all else is there, the card into `folder`."""
    make_folder(folder)
    with replacing(folder / KERAS_FILE) as temporary:
        whole(layers).save(temporary)
    certification = dataset.roles[Role.CERTIFICATION]
    probabilities = run_batches(
        KerasClassifier(layers),
        certification.pixels,
        _IMAGES_AT_ONCE,
        "reference of the certification images",
    )
    write_file_list(folder / CALIBRATION_FILE, dataset.roles[Role.CALIBRATION])
    stored = write_reference(folder / REFERENCE_FILE, certification, probabilities, card.data.seed)
    write_atomically(folder / HISTORY_FILE, history_csv(card.training.history))
    digest = sha256_of(folder / REFERENCE_FILE)
    card = replace(
        card,
        reference=Reference(REFERENCE_FILE, digest, len(certification), stored),
        keras_sha256=sha256_of(folder / KERAS_FILE),
        scores={KERAS: score(KERAS, "certification", probabilities, certification.labels)},
    )
    write_atomically(folder / CARD_FILE, to_json(card))
    return card


def _training_summary(schedule: Schedule, fitted: Fitted) -> TrainingSummary:
    settings = {
        field.name: str(getattr(schedule, field.name)) for field in fields(schedule) if field.name != "stages"
    }
    for stage in schedule.stages:
        settings[f"stage {stage.name}"] = (
            f"{stage.epochs} epochs, rate {stage.rate:g}, frozen up to {stage.boundary or 'nothing'}"
        )
    return TrainingSummary(
        settings=settings,
        history=fitted.history,
        chosen_stage=fitted.chosen_stage,
        chosen_epoch=fitted.chosen_epoch,
        temperature=fitted.temperature,
        minutes=fitted.minutes,
        versions={name: number for name, number in _versions().items() if name != "edgetl"},
    )


def summarise(dataset: Dataset, seed: int, place: Path) -> DataSummary:
    """What the card of a model at `place` keeps of a dataset; a relative path names nobody's home."""
    return DataSummary(
        folder=os.path.relpath(dataset.folder.resolve(), place.resolve()),
        layout=dataset.layout,
        seed=seed,
        roles={role.value: _summarise_role(dataset.roles[role], len(dataset.labels)) for role in Role},
        unreadable=len(dataset.skipped),
        leaking=len(dataset.leaking),
    )


def _summarise_role(role: Images, classes: int) -> RoleSummary:
    counts = [0] * classes
    for label in role.labels.tolist():
        counts[label] += 1
    return RoleSummary(len(role), tuple(counts), role_fingerprint(role.digests))


def history_csv(history: tuple[EpochRecord, ...]) -> str:
    """The history as CSV text with a header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [field.name for field in fields(EpochRecord)]
    writer.writerow(names)
    writer.writerows([getattr(record, name) for name in names] for record in history)
    return buffer.getvalue()


def _tell(dataset: Dataset, schedule: Schedule) -> None:
    counts = ", ".join(f"{len(dataset.roles[role])} {role.value}" for role in Role)
    say(f"{len(dataset.labels)} classes; images: {counts}")
    if dataset.skipped:
        say(f"{len(dataset.skipped)} files could not be read and are left out (see: edgetl data)")
    if dataset.leaking:
        say(f"{len(dataset.leaking)} images copy others and are kept out of certification")
    for stage in schedule.stages:
        frozen = stage.boundary or "nothing"
        say(f"stage {stage.name}: up to {stage.epochs} epochs, trunk frozen up to {frozen}")
