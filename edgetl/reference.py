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

from edgetl.card import Model
from edgetl.dataset import Entry, Images, ImagesInMemory, Role, read_images, role_fingerprint
from edgetl.errors import DataError, ModelFolderError
from edgetl.files import sha256_of, write_atomically
from edgetl.records import RecordError, from_json, to_json

CALIBRATION_FILE = "calibration.json"
STORED_IMAGES = 32  # a self-test, not a proof: enough to see a wrong channel order, label order or mean


@dataclass(frozen=True)
class FileList:
    """Image files of one role, so that a later command uses these and no others."""

    paths: tuple[str, ...]  # relative to the data folder
    digests: tuple[str, ...]  # SHA-256


@dataclass(frozen=True)
class ReferenceData:
    """What `reference.npz` holds."""

    paths: tuple[str, ...]
    digests: tuple[str, ...]
    labels: NDArray[np.int64]  # [N]
    probabilities: NDArray[np.float32]  # [N, classes] of the full-precision network
    stored: NDArray[np.int64]  # positions of the images whose pixels are kept
    pixels: NDArray[np.uint8]  # [stored, H, W, 3]


def write_reference(path: Path, images: Images, probabilities: NDArray[np.float32], seed: int) -> int:
    """Write the reference atomically; returns how many images are stored as pixels."""
    count = min(STORED_IMAGES, len(images))
    stored = np.sort(np.random.default_rng(seed).permutation(len(images))[:count])
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        paths=np.array(images.paths),
        digests=np.array(images.digests),
        labels=images.labels,
        probabilities=probabilities.astype(np.float32),
        stored=stored,
        pixels=images.pixels[stored],
    )
    write_atomically(path, buffer.getvalue())
    return count


def read_reference(model: Model) -> ReferenceData:
    """The reference of a model folder. Raises `ModelFolderError` when it is missing or was changed."""
    path = model.folder / model.card.reference.file
    if not path.is_file():
        raise ModelFolderError(f"{path} is missing.", "Restore it from a copy, or train again.")
    if sha256_of(path) != model.card.reference.sha256:
        raise ModelFolderError(
            f"{path} is not the file that training wrote (its SHA-256 differs).",
            "Restore it, or train again.",
        )
    with np.load(path, allow_pickle=False) as file:
        return ReferenceData(
            paths=tuple(file["paths"].tolist()),
            digests=tuple(file["digests"].tolist()),
            labels=file["labels"],
            probabilities=file["probabilities"],
            stored=file["stored"],
            pixels=file["pixels"],
        )


def write_file_list(path: Path, images: Images) -> None:
    """Write the names and digests of a role's images atomically."""
    write_atomically(path, to_json(FileList(images.paths, images.digests)))


def read_calibration_pixels(model: Model, folder: Path, most: int) -> NDArray[np.uint8]:
    """Up to `most` calibration images as the network takes them, uint8 RGB [N, H, W, 3].

    Raises `ModelFolderError` when the list is missing, `DataError` when images are missing or were changed.
    """
    path = model.folder / CALIBRATION_FILE
    if not path.is_file():
        raise ModelFolderError(f"{path} is missing.", "Restore it from a copy, or train again.")
    try:
        listed = from_json(FileList, path.read_bytes())
    except RecordError as error:
        raise ModelFolderError(
            f"{path} cannot be read: {error}.", "Restore it from a copy, or train again."
        ) from error
    if role_fingerprint(listed.digests) != model.card.data.roles[Role.CALIBRATION.value].fingerprint:
        raise ModelFolderError(
            f"{path} does not list the calibration images of this model.",
            "Restore it from a copy, or train again.",
        )
    order = np.sort(np.random.default_rng(model.card.data.seed).permutation(len(listed.paths))[:most])
    paths, digests = ([values[i] for i in order] for values in (listed.paths, listed.digests))
    return _read_unchanged(model, folder, paths, digests, Role.CALIBRATION).pixels


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
