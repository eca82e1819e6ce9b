"""The history of a run as a table, and the one digest of all that decides what training gives."""

import csv
import io
from dataclasses import fields, replace
from importlib.metadata import version

from edgetl.card import EpochRecord
from edgetl.dataset import Dataset
from edgetl.files import fingerprint
from edgetl.keras.network import Layers
from edgetl.keras.schedule import Schedule

HISTORY_FILE = "history.csv"


def history_csv(history: tuple[EpochRecord, ...]) -> str:
    """The history as CSV text with a header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [field.name for field in fields(EpochRecord)]
    writer.writerow(names)
    writer.writerows([getattr(record, name) for name in names] for record in history)
    return buffer.getvalue()


def identity_of(trunk_sha256: str, layers: Layers, dataset: Dataset, schedule: Schedule) -> str:
    """A run may only be continued with the same identity.

    Where the images lie, how long training may take and who watches do not count.
    """
    return fingerprint(
        [
            *(f"{name} {number}" for name, number in versions().items()),
            repr(replace(schedule, minutes=None)),
            repr((layers.network, layers.spec, dataset.labels)),
            trunk_sha256,
            *members_of(dataset),
        ]
    )


def members_of(dataset: Dataset) -> list[str]:
    """Role, label and digest of every image."""
    return [
        f"{role} {label} {digest}"
        for role, members in dataset.roles.items()
        for label, digest in zip(members.labels.tolist(), members.digests, strict=True)
    ]


def versions() -> dict[str, str]:
    """Of the packages that decide what training gives."""
    return {name: version(name) for name in ("edgetl", "tensorflow", "tf_keras", "numpy", "onnxruntime")}
