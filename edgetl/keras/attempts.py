"""Smaller networks that were trained, kept in files: run again, a command does not train them again."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgetl.card import EpochRecord, InputSpec, Network
from edgetl.files import write_atomically
from edgetl.keras.network import Array, Layers, make_layers, whole
from edgetl.records import RecordError, from_json, to_json


@dataclass(frozen=True, eq=False)
class Made:
    """A trained network and how its training went."""

    layers: Layers
    history: tuple[EpochRecord, ...]


@dataclass(frozen=True)
class _History:
    records: tuple[EpochRecord, ...]


@dataclass(frozen=True)
class AttemptFiles:
    """The files of one training; `identity` is a digest of all that decides what comes out."""

    folder: Path
    identity: str

    @property
    def checkpoint(self) -> Path:
        """Of a training that is not finished."""
        return self.folder / f"{self.identity[:16]}.checkpoint.npz"

    @property
    def _result(self) -> Path:
        return self.folder / f"{self.identity[:16]}.npz"

    def write(self, made: Made) -> None:
        """Keep a trained network; its checkpoint goes."""
        self.write_weights(whole(made.layers).get_weights(), made.history)

    def write_weights(self, weights: Sequence[Array], history: tuple[EpochRecord, ...]) -> None:
        """The same of any network."""
        buffer = io.BytesIO()
        records = np.frombuffer(to_json(_History(history)).encode(), np.uint8)
        named: dict[str, Any] = {f"weight-{i:03d}": value for i, value in enumerate(weights)}
        np.savez(buffer, identity=np.array(self.identity), history=records, **named)
        write_atomically(self._result, buffer.getvalue())
        self.checkpoint.unlink(missing_ok=True)

    def read(self, network: Network, spec: InputSpec) -> Made | None:
        """The trained network, if it was kept; None also for a file that is damaged: it is made again."""
        layers = make_layers(network, spec)
        history = self.read_weights(whole(layers))
        return None if history is None else Made(layers, history)

    def read_weights(self, model: Any) -> tuple[EpochRecord, ...] | None:
        """Put the weights that were kept into a Keras model; None if there are none, or a damaged file."""
        if not self._result.is_file():
            return None
        try:
            with np.load(self._result, allow_pickle=False) as file:
                if str(file["identity"]) != self.identity:
                    return None
                history = from_json(_History, file["history"].tobytes()).records
                weights = [file[name] for name in sorted(file.files) if name.startswith("weight")]
            model.set_weights(weights)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, RecordError):
            return None
        return history
