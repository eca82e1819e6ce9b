"""`reference.npz`: the full-precision probabilities of the certification images, and a few of the images.

Every later check compares with these, so parity needs no TensorFlow; the stored images let a device that has
no data folder check itself.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetl.answers import AnswerFile
from edgetl.card import Model
from edgetl.dataset import Entry, Images, ImagesInMemory, Role, read_images, role_fingerprint
from edgetl.errors import DataError, ModelFolderError
from edgetl.files import fingerprint, sha256_of, write_atomically
from edgetl.records import RecordError, from_json, to_json

CALIBRATION_FILE = "calibration.json"
TUNING_FILE = "tuning.json"
TUNING_ANSWERS_FILE = "tuning.npz"
MOST_TUNING_IMAGES = 2000
STORED_IMAGES = 32  # a self-test, not a proof: enough to see a wrong channel order, label order or mean


@dataclass(frozen=True)
class FileList:
    """Image files of one role, so that a later command uses these and no others."""

    paths: tuple[str, ...]  # relative to the data folder
    digests: tuple[str, ...]  # SHA-256
    labels: tuple[int, ...] = ()  # empty where nobody asks for them


@dataclass(frozen=True)
class ReferenceData:
    """What `reference.npz` holds."""

    paths: tuple[str, ...]
    digests: tuple[str, ...]
    labels: NDArray[np.int64]  # [N]
    probabilities: NDArray[np.float32]  # [N, classes] of the full-precision network
    stored: NDArray[np.int64]  # positions of the images whose pixels are kept
    pixels: NDArray[np.uint8]  # [stored, H, W, 3]


def write_reference(
    path: Path, images: Images, probabilities: NDArray[np.float32], names: Sequence[str], seed: int
) -> int:
    """Write the reference, with the names of the classes, atomically; returns how many images are stored."""
    count = min(STORED_IMAGES, len(images))
    stored = np.sort(np.random.default_rng(seed).permutation(len(images))[:count])
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        paths=np.array(images.paths),
        digests=np.array(images.digests),
        labels=images.labels,
        names=np.array(names),
        probabilities=probabilities.astype(np.float32),
        stored=stored,
        pixels=images.pixels[stored],
    )
    write_atomically(path, buffer.getvalue())
    return count


def read_reference(model: Model) -> ReferenceData:
    """The reference of a model folder.

    Raises `ModelFolderError` when it is missing or was changed, or when the card names other classes.
    """
    path = model.folder / model.card.reference.file
    if not path.is_file():
        raise ModelFolderError(f"{path} is missing.", "Restore it from a copy, or train again.")
    if sha256_of(path) != model.card.reference.sha256:
        raise ModelFolderError(
            f"{path} is not the file that training wrote (its SHA-256 differs).",
            "Restore it, or train again.",
        )
    with np.load(path, allow_pickle=False) as file:
        if tuple(file["names"].tolist()) != model.card.labels:
            raise ModelFolderError(
                f"The card of {model.folder} names the classes otherwise than the reference does: "
                "who reads its answers would be told wrong names.",
                "Restore card.json from a copy, or train again.",
            )
        return ReferenceData(
            paths=tuple(file["paths"].tolist()),
            digests=tuple(file["digests"].tolist()),
            labels=file["labels"],
            probabilities=file["probabilities"],
            stored=file["stored"],
            pixels=file["pixels"],
        )


def write_file_lists(folder: Path, calibration: Images, tuning: Images) -> None:
    """Write the names and digests of what sets ranges and of what choices are made by, atomically."""
    write_atomically(folder / CALIBRATION_FILE, to_json(FileList(calibration.paths, calibration.digests)))
    labels = tuple(tuning.labels.tolist())
    write_atomically(folder / TUNING_FILE, to_json(FileList(tuning.paths, tuning.digests, labels)))


def tuning_sample(count: int, seed: int, most: int = MOST_TUNING_IMAGES) -> NDArray[np.int64]:
    """Positions of the images among `count` that searches run; in order."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def tuning_answers(
    folder: Path, keras_sha256: str, preprocessing_version: int, digests: Sequence[str]
) -> AnswerFile:
    """Where a model folder keeps what its full-precision network says of the images that searches run."""
    identity = fingerprint([keras_sha256, str(preprocessing_version), *digests])
    return AnswerFile(folder / TUNING_ANSWERS_FILE, identity)


def read_calibration_pixels(model: Model, folder: Path, most: int) -> NDArray[np.uint8]:
    """Up to `most` calibration images as the network takes them, uint8 RGB [N, H, W, 3].

    Raises `ModelFolderError` when the list is missing, `DataError` when images are missing or were changed.
    """
    return _some_of(model, folder, Role.CALIBRATION, most).pixels


def read_tuning_images(model: Model, folder: Path, most: int) -> ImagesInMemory:
    """Up to `most` tuning images with their labels. Raises like `read_calibration_pixels`."""
    return _some_of(model, folder, Role.TUNING, most)


def _some_of(model: Model, folder: Path, role: Role, most: int) -> ImagesInMemory:
    listed = _file_list(model, role)
    order = tuning_sample(len(listed.paths), model.card.data.seed, most)
    paths, digests = ([values[i] for i in order] for values in (listed.paths, listed.digests))
    found = _read_unchanged(model, folder, paths, digests, role)
    return replace(found, labels=np.array(listed.labels, np.int64)[order]) if listed.labels else found


def _file_list(model: Model, role: Role) -> FileList:
    """The files of a role, which must be those that training used and none of certification."""
    path = model.folder / {Role.CALIBRATION: CALIBRATION_FILE, Role.TUNING: TUNING_FILE}[role]
    if not path.is_file():
        raise ModelFolderError(f"{path} is missing.", "Restore it from a copy, or train again.")
    try:
        listed = from_json(FileList, path.read_bytes())
    except RecordError as error:
        raise ModelFolderError(
            f"{path} cannot be read: {error}.", "Restore it from a copy, or train again."
        ) from error
    if role_fingerprint(listed.digests) != model.card.data.roles[role.value].fingerprint:
        raise ModelFolderError(
            f"{path} does not list the {role} images of this model.",
            "Restore it from a copy, or train again.",
        )
    return listed


def check_roles_apart(model: Model) -> None:
    """Refuse a certification image that sets ranges or takes part in choices. Raises `ModelFolderError`."""
    certification = set(read_reference(model).digests)
    for role in (Role.CALIBRATION, Role.TUNING):
        common = certification.intersection(_file_list(model, role).digests)
        if common:
            raise ModelFolderError(
                f"{len(common)} certification images are {role} images too: a verdict would prove nothing.",
                "Restore the model folder from a copy, or train again.",
            )


def certification_images(model: Model, folder: Path) -> ImagesInMemory:
    """The certification images of a model, from `folder`. Raises `DataError` unless all are unchanged."""
    reference = read_reference(model)
    found = _read_unchanged(model, folder, reference.paths, reference.digests, Role.CERTIFICATION)
    return replace(found, labels=reference.labels)


def _read_unchanged(
    model: Model, folder: Path, paths: Sequence[str], digests: Sequence[str], role: Role
) -> ImagesInMemory:
    """Files of a role as the network takes them, if all are there and have these SHA-256s; labels are 0."""
    files = [Entry(folder / path, 0, "") for path in paths]
    missing = [entry.path for entry in files if not entry.path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} {role} images are not in {folder} (first: {missing[0].name}).",
            "Say where the data folder is now with --data DIR.",
        )
    found, _, _ = read_images(files, folder, model.card.input.height, model.card.input.width)
    if found.digests != tuple(digests):
        raise DataError(
            f"{role.capitalize()} images in {folder} were changed since training.",
            "Restore them, or train again.",
        )
    return found
