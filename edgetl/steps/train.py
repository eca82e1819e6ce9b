"""`edgetl train`: a data folder becomes a model folder."""

import csv
import io
import shutil
from dataclasses import fields
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
from edgetl.errors import UsageError
from edgetl.files import fingerprint, make_folder, replacing, sha256_of, storing, write_atomically
from edgetl.keras.checkpoint import Checkpoint
from edgetl.keras.classifier import KerasClassifier
from edgetl.keras.fit import Fitted, TrainingImages, fit
from edgetl.keras.network import HIDDEN_UNITS, Layers, make_layers, set_trunk, whole
from edgetl.keras.schedule import Schedule, decide
from edgetl.keras.tensorboard import curves_writer
from edgetl.keras.weights import Trunk, load_trunk
from edgetl.progress import say
from edgetl.records import to_json
from edgetl.reference import CALIBRATION_FILE, write_file_list, write_reference
from edgetl.scoring import score

EDGETL_VERSION = version("edgetl")
HISTORY_FILE = "history.csv"
CHECKPOINT_FILE = "checkpoint.npz"
_RESULT_NEUTRAL = {"resume", "overwrite", "tensorboard", "allow_download", "minutes"}  # may differ on --resume
_IMAGES_AT_ONCE = 32


def train(data: Path, output: Path, config: TrainConfig) -> Model:
    """Train a network on `data` and write the model folder `output`.

    All work happens in `output`.partial; the folder gets its name when it is complete. Raises `UsageError` when
    `output` exists, `DataError`, `WeightsError`, `StorageError`.
    """
    partial = _prepare_output(output, config)
    trunk = load_trunk(config)
    dataset = load(data, config.image_size, config.image_size, config)
    schedule = decide(config, len(dataset.roles[Role.TRAIN]))
    _tell(dataset, schedule)
    spec = InputSpec(
        config.image_size, config.image_size, trunk.mean_rgb, trunk.scale, images.WHITE, images.PREPROCESSING_VERSION
    )
    hidden = HIDDEN_UNITS if schedule.head is Head.FLATTEN else 0
    network = Network(schedule.cut, schedule.head, hidden, len(dataset.labels))
    layers = make_layers(network, spec, config.seed)
    set_trunk(layers, trunk.kernels, trunk.biases)
    fitted = _fit(layers, dataset, schedule, config, trunk, partial)
    card = _finish(layers, dataset, trunk.origin, schedule, fitted, partial, output)
    _publish(partial, output)
    return Model(output, card)


def _prepare_output(output: Path, config: TrainConfig) -> Path:
    """The folder to work in; what an earlier run left there is kept only to resume it."""
    if output.exists() and not config.overwrite:
        raise UsageError(f"{output} exists already.", "Choose another -o, or add --overwrite to replace it.")
    if output.exists() and not (output / CARD_FILE).is_file():
        raise UsageError(f"{output} is not a model folder; it will not be replaced.", "Choose another -o.")
    partial = output.with_name(output.name + ".partial")
    if config.resume and not (partial / CHECKPOINT_FILE).is_file():
        say("nothing to resume: starting from the beginning")
    if partial.exists() and not config.resume:
        shutil.rmtree(partial)
    make_folder(partial)
    return partial


def _fit(
    layers: Layers, dataset: Dataset, schedule: Schedule, config: TrainConfig, trunk: Trunk, partial: Path
) -> Fitted:
    train_images, tuning = dataset.roles[Role.TRAIN], dataset.roles[Role.TUNING]
    identity = fingerprint(
        [
            *(f"{f.name}={getattr(config, f.name)}" for f in fields(config) if f.name not in _RESULT_NEUTRAL),
            trunk.origin.sha256,
            *(role_fingerprint(dataset.roles[role].digests) for role in Role),
        ]
    )
    checkpoint = Checkpoint(partial / CHECKPOINT_FILE, identity, config.resume)
    training = TrainingImages(train_images.pixels, train_images.labels, tuning.pixels, tuning.labels)
    with storing(partial), curves_writer(config.tensorboard) as write_curves:

        def on_epoch(record: EpochRecord) -> None:
            write_curves(record)
            write_atomically(partial / HISTORY_FILE, history_csv((*checkpoint.state.history, record)))

        return fit(layers, training, schedule, partial, checkpoint, on_epoch)


def _finish(
    layers: Layers,
    dataset: Dataset,
    origin: TrunkOrigin,
    schedule: Schedule,
    fitted: Fitted,
    partial: Path,
    output: Path,
) -> ModelCard:
    """Save the network, its reference and its card into `partial`."""
    with replacing(partial / KERAS_FILE) as temporary:
        whole(layers).save(temporary)
    certification = dataset.roles[Role.CERTIFICATION]
    probabilities = run_batches(
        KerasClassifier(layers), certification.pixels, _IMAGES_AT_ONCE, "reference of the certification images"
    )
    write_file_list(partial / CALIBRATION_FILE, dataset.roles[Role.CALIBRATION])
    stored = write_reference(partial / REFERENCE_FILE, certification, probabilities, schedule.seed)
    card = ModelCard(
        schema_version=SCHEMA_VERSION,
        edgetl_version=EDGETL_VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=output.name,
        labels=dataset.labels,
        input=layers.spec,
        network=layers.network,
        weights=origin,
        data=summarise(dataset, schedule.seed),
        training=_training_summary(schedule, fitted),
        reference=Reference(REFERENCE_FILE, sha256_of(partial / REFERENCE_FILE), len(certification), stored),
        keras_sha256=sha256_of(partial / KERAS_FILE),
        artifacts=(),
        scores={KERAS: score(KERAS, "certification", probabilities, certification.labels)},
        parity={},
        timing={},
    )
    write_atomically(partial / HISTORY_FILE, history_csv(fitted.history))
    write_atomically(partial / CARD_FILE, to_json(card))
    return card


def _training_summary(schedule: Schedule, fitted: Fitted) -> TrainingSummary:
    settings = {field.name: str(getattr(schedule, field.name)) for field in fields(schedule) if field.name != "stages"}
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
        versions={name: version(name) for name in ("tensorflow", "tf_keras", "numpy")},
    )


def summarise(dataset: Dataset, seed: int) -> DataSummary:
    """What the card keeps of a dataset."""
    return DataSummary(
        folder=str(dataset.folder.resolve()),
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
        say(f"stage {stage.name}: up to {stage.epochs} epochs, trunk frozen up to {stage.boundary or 'nothing'}")


def _publish(partial: Path, output: Path) -> None:
    """Give the finished folder its name; a folder that stood there goes away only then."""
    for name in (CHECKPOINT_FILE, "train.npy", "tuning.npy", "maps.npy"):
        (partial / name).unlink(missing_ok=True)
    replaced = output.with_name(output.name + ".replaced")
    with storing(output):
        if output.exists():
            output.rename(replaced)
        partial.rename(output)
    shutil.rmtree(replaced, ignore_errors=True)

