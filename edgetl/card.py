"""The model card: what a model folder says about itself, and the opened folder itself."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgetl.card_versions import OLDEST_VERSION, SCHEMA_VERSION, upgraded
from edgetl.config import Block, Format, Head, Packing, Precision
from edgetl.errors import ModelFolderError, UsageError
from edgetl.files import locked, write_atomically
from edgetl.packing import unpack
from edgetl.records import RecordError, from_plain, parse, to_json
from edgetl.results import Attempt, Explained, LayerCost, Parity, Scores, Timing, Tried
from edgetl.vgg16 import by_block, widths_up_to

CARD_FILE = "card.json"
KERAS_FILE = "model.keras"
REFERENCE_FILE = "reference.npz"
PARTIAL_SUFFIX = ".partial"  # of a folder that training has not finished
KERAS = "keras"  # the name of the full-precision network where artifacts are named


@dataclass(frozen=True)
class InputSpec:
    """What the graph takes: uint8 RGB [N, height, width, 3]; inside it computes (x - mean_rgb) * scale."""

    height: int
    width: int
    mean_rgb: tuple[float, float, float]
    scale: float
    background_rgb: tuple[int, int, int]  # transparent pixels are composited on this
    preprocessing_version: int  # of edgetl.images; another version may decode other pixels


@dataclass(frozen=True)
class Network:
    """VGG16 cut after a block, perhaps with fewer channels, with a head."""

    cut: Block
    head: Head
    scales: tuple[Block, ...]  # the blocks whose averages the head sees, ascending; the last is the cut
    hidden_units: int  # of the flatten head's Dense layer; 0 with the others
    classes: int
    widths: tuple[int, ...] = ()  # channels of each convolution where some were removed; else empty

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each convolution."""
        return self.widths or widths_up_to(self.cut)

    @property
    def block_channels(self) -> dict[Block, int]:
        """Of what each block gives."""
        return {block: widths[-1] for block, widths in by_block(self.channels, self.cut).items()}


@dataclass(frozen=True)
class TrunkOrigin:
    """Where the pretrained convolutions come from."""

    name: str
    source: str
    licence: str
    sha256: str  # over the kernels and biases as used


@dataclass(frozen=True)
class RoleSummary:
    """One of train, tuning, calibration, certification."""

    images: int
    per_class: tuple[int, ...]
    fingerprint: str  # SHA-256 over the sorted SHA-256s of its files


@dataclass(frozen=True)
class DataSummary:
    """The images a model was made from."""

    folder: str  # relative to the model folder
    layout: str  # "split folders" or "flat"
    seed: int
    roles: dict[str, RoleSummary]
    unreadable: int
    leaking: int  # kept out of certification: copies or near copies of images in other roles
    tuning_share: float  # the shares that were asked for; with the seed they decide who has which role
    calibration_share: float
    certification_share: float


@dataclass(frozen=True)
class EpochRecord:
    """One line of the history. Losses in nats, accuracies 0..1."""

    stage: str
    epoch: int
    train_loss: float
    train_accuracy: float
    tuning_loss: float  # at the temperature that suits the epoch best
    tuning_accuracy: float
    seconds: float  # of this epoch
    elapsed_seconds: float  # since the command began, over interruptions


@dataclass(frozen=True)
class CutScore:
    """A place to cut the trunk, and what a linear head made of the features there."""

    cut: Block
    head: Head
    scales: tuple[Block, ...]
    features: int  # columns that the head sees
    giga_macs: float  # multiply-adds of one image through the trunk up to the cut, in 1e9
    tuning_loss: float  # nats, at the best temperature
    tuning_accuracy: float  # 0..1
    chosen: bool


@dataclass(frozen=True)
class TrainingSummary:
    """How the network was trained."""

    settings: dict[str, str]  # every resolved setting
    cuts: tuple[CutScore, ...]  # empty where nothing was left to choose
    history: tuple[EpochRecord, ...]
    chosen_stage: str
    chosen_epoch: int
    temperature: float  # folded into the last Dense layer
    minutes: float
    versions: dict[str, str]  # of the libraries that trained


@dataclass(frozen=True)
class Reference:
    """The full-precision probabilities that every later check compares with."""

    file: str
    sha256: str
    images: int
    stored_images: int  # how many of them travel with the model as pixels


@dataclass(frozen=True)
class Artifact:
    """One exported file."""

    name: str  # "onnx-int8"
    file: str
    format: Format
    precision: Precision
    sha256: str  # of the file as it is stored
    size_bytes: int  # of the file as it is stored
    packed: Packing | None  # how it is compressed, if it is
    unpacked_bytes: int  # of what the engine is given
    details: dict[str, str]  # opset, converter versions, what was checked


@dataclass(frozen=True)
class Compression:
    """How a network with fewer channels came about, and what it is worth beside the one it came from."""

    parent: str  # name
    parent_folder: str  # relative to the model folder
    parent_keras_sha256: str
    parent_channels: tuple[int, ...]  # of each convolution
    parent_accuracy: float  # on the certification images, 0..1
    goals: str  # in words
    settings: dict[str, str]
    attempts: tuple[Attempt, ...]  # every network that was trained
    layers: tuple[LayerCost, ...]
    parity: tuple[Parity, ...]  # of the network and its files against the parent, on certification images


@dataclass(frozen=True)
class ModelCard:
    """Everything known about a model, in `card.json`."""

    schema_version: int
    edgetl_version: str
    created: str  # UTC, ISO 8601
    name: str
    labels: tuple[str, ...]
    input: InputSpec
    network: Network
    weights: TrunkOrigin
    data: DataSummary
    training: TrainingSummary
    compression: Compression | None
    reference: Reference
    keras_sha256: str
    artifacts: tuple[Artifact, ...]
    tried: tuple[Tried, ...]  # by the last export with goals
    explained: tuple[Explained, ...]  # int8 files of it that lose too much
    scores: dict[str, Scores]
    parity: dict[str, Parity]
    timing: dict[str, Timing]


@dataclass(frozen=True)
class Model:
    """An opened model folder. Changes go through `update`, which returns the folder as it is then."""

    folder: Path
    card: ModelCard

    @staticmethod
    def open(folder: Path) -> "Model":
        """Read a model folder's card. Raises `ModelFolderError`."""
        return Model(folder, read_card(folder))

    def update(self, change: Callable[[ModelCard], ModelCard]) -> "Model":
        """Apply `change` to the card as it is on the disk now, atomically and under a lock."""
        with locked(self.folder / ".card.lock"):
            card = change(read_card(self.folder))
            write_atomically(self.folder / CARD_FILE, to_json(card))
        return Model(self.folder, card)

    def artifact(self, name: str) -> Artifact:
        """The artifact called `name`. Raises `UsageError` with the valid names."""
        for artifact in self.card.artifacts:
            if artifact.name == name:
                return artifact
        known = (
            ", ".join(artifact.name for artifact in self.card.artifacts) or "none; run edgetl export first"
        )
        raise UsageError(f"{self.folder} has no artifact called {name!r}.", f"It has: {known}.")

    def read(self, artifact: Artifact) -> bytes:
        """An artifact's bytes, exactly those that were exported, unpacked.

        Raises `ModelFolderError`, and `MissingExtra` when what unpacks it is not installed.
        """
        path = self.folder / artifact.file
        if path.parent != self.folder:  # a card from elsewhere must not pick files from here
            raise ModelFolderError(
                f"The card of {self.folder} names a file outside its folder: {artifact.file!r}.",
                "Use only model folders from people you trust.",
            )
        if not path.is_file():
            raise ModelFolderError(f"{path} is missing.", f"Run edgetl export {self.folder} again.")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != artifact.sha256:
            raise ModelFolderError(
                f"{path} is not the file that was exported (its SHA-256 differs).",
                f"Run edgetl export {self.folder} again, or restore the file.",
            )
        if artifact.packed is None:
            return content
        return unpack(content, artifact.packed, artifact.unpacked_bytes, str(path))

    @property
    def keras_file(self) -> Path:
        """The full-precision network."""
        return self.folder / KERAS_FILE

    @property
    def data_folder(self) -> Path:
        """Where the data was at training time."""
        return Path(os.path.normpath(self.folder.resolve() / self.card.data.folder))


def read_card(folder: Path) -> ModelCard:
    """`card.json` of a model folder. Raises `ModelFolderError`."""
    path = folder / CARD_FILE
    if not path.is_file():
        raise _not_a_model(folder)
    try:
        plain = parse(path.read_bytes())
        _check_version(path, plain)
        return from_plain(ModelCard, upgraded(plain))
    except OSError as error:
        raise ModelFolderError(
            f"{path} cannot be read: {error.strerror}.", "Check its permissions."
        ) from error
    except RecordError as error:
        raise ModelFolderError(
            f"{path} cannot be read: {error}.", "Restore the folder from a copy, or train again."
        ) from error


def _not_a_model(folder: Path) -> ModelFolderError:
    if folder.with_name(folder.name + PARTIAL_SUFFIX).is_dir():
        return ModelFolderError(
            f"{folder} is not finished: training was interrupted.", "Run the same edgetl train with --resume."
        )
    if not folder.exists():
        return ModelFolderError(f"{folder} does not exist.", "Check the path of the model folder.")
    return ModelFolderError(
        f"{folder} is not a model folder (it has no {CARD_FILE}).",
        "Make one with: edgetl train DATA -o MODEL",
    )


def _check_version(path: Path, plain: Any) -> None:
    """Before anything else is looked at: another version may have other fields."""
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if isinstance(version, int) and not OLDEST_VERSION <= version <= SCHEMA_VERSION:
        raise ModelFolderError(
            f"{path} has schema version {version}; this edgetl reads version {SCHEMA_VERSION}.",
            "Use the edgetl version that made it, or train again.",
        )


def with_artifact(card: ModelCard, artifact: Artifact) -> ModelCard:
    """The card with `artifact` added or replaced; what was measured on the replaced file is dropped."""
    kept = tuple(known for known in card.artifacts if known.name != artifact.name)
    return replace(
        card,
        artifacts=tuple(sorted((*kept, artifact), key=_artifact_order)),
        scores={name: value for name, value in card.scores.items() if name != artifact.name},
        parity={name: value for name, value in card.parity.items() if name != artifact.name},
        timing={name: value for name, value in card.timing.items() if name != artifact.name},
    )


def chosen_artifacts(model: Model, name: str | None) -> tuple[Artifact, ...]:
    """The named artifact, or all of them.

    Raises `UsageError` when there is none of that name, `ModelFolderError` when there is none at all.
    """
    if name is not None:
        return (model.artifact(name),)
    if not model.card.artifacts:
        raise ModelFolderError(
            f"{model.folder} has no exported artifacts yet.", f"Run: edgetl export {model.folder}"
        )
    return model.card.artifacts


def _artifact_order(artifact: Artifact) -> tuple[int, int]:
    return list(Format).index(artifact.format), list(Precision).index(artifact.precision)
