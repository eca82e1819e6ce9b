"""What a killed training run needs to go on, and the time it has used."""

import io
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgetl.card import EpochRecord
from edgetl.errors import ModelFolderError
from edgetl.files import write_atomically
from edgetl.keras.parallel import ALONE, Communication
from edgetl.records import from_json, to_json

SECONDS_BETWEEN = 10.0  # a checkpoint of 90 MB takes about half a second


@dataclass(frozen=True)
class State:
    """Where training is. `stage` and `epoch` count what is finished."""

    identity: str  # of data and settings; a run with others must not continue this one
    stage: int
    epoch: int
    best_stage: str
    best_epoch: int
    best_loss: float
    seconds: float
    history: tuple[EpochRecord, ...]


class Clock:
    """Seconds of the command so far, over interruptions, and when training must end.

    Where several workers train it is worker 0's, and stands still between two calls of `read`: what depends
    on time must be the same for all.
    """

    def __init__(
        self, limit_seconds: float | None, seconds_before: float, communication: Communication = ALONE
    ) -> None:
        self._started = time.monotonic() - seconds_before
        self._communication = communication
        self._read_seconds = 0.0
        self.limit_seconds = limit_seconds
        self.read()

    @property
    def seconds(self) -> float:
        """Used so far."""
        return self._running_seconds if self._communication.size == 1 else self._read_seconds

    @property
    def _running_seconds(self) -> float:
        return time.monotonic() - self._started

    def read(self) -> None:
        """Look at worker 0's clock."""
        self._read_seconds = self._communication.number_from_first(self._running_seconds)

    def is_over(self) -> bool:
        """Whether the time is used up."""
        if self.limit_seconds is None:
            return False
        self.read()
        return self.seconds >= self.limit_seconds


class Checkpoint:
    """The state of one run, in memory and (every ten seconds) in one file, which only worker 0 writes."""

    def __init__(self, file: Path, identity: str, resume: bool, communication: Communication = ALONE) -> None:
        self.file = file
        self._is_written = communication.is_first
        self._arrays: dict[str, list[np.ndarray]] = {"current": [], "best": [], "optimizer": []}
        self.state = State(identity, 0, 0, "", 0, float("inf"), 0.0, ())
        self._saved_at = time.monotonic()
        if resume and file.is_file():
            self._read(identity)
        if communication.size > 1:
            self._take_from_first(communication)

    def restore(self, variables: list[Any]) -> None:
        """Put the saved weights, if any, into `variables`."""
        _assign(variables, self._arrays["current"])

    def enter_stage(self, number: int, variables: list[Any], optimizer: Any, *, again: bool) -> None:
        """Begin stage `number`, or go on in it. `again`: begin from the best weights so far."""
        if number == self.state.stage and self._arrays["optimizer"]:
            _assign(list(optimizer.variables), self._arrays["optimizer"])
            return
        self.state = replace(self.state, stage=number, epoch=0)
        if again:
            self.use_best(variables)

    def finish_epoch(self, record: EpochRecord, variables: list[Any], optimizer: Any, seconds: float) -> None:
        """Note one epoch; keep its weights if its tuning loss is the best so far."""
        self.state = replace(
            self.state, epoch=self.state.epoch + 1, seconds=seconds, history=(*self.state.history, record)
        )
        if record.tuning_loss < self.state.best_loss:
            self._arrays["best"] = [variable.numpy() for variable in variables]
            self.state = replace(
                self.state, best_stage=record.stage, best_epoch=record.epoch, best_loss=record.tuning_loss
            )
        if self._is_written and time.monotonic() - self._saved_at >= SECONDS_BETWEEN:
            self._save(variables, optimizer)

    def keep(
        self,
        records: tuple[EpochRecord, ...],
        variables: list[Any],
        on_epoch: Callable[[EpochRecord], None],
    ) -> None:
        """Note results that no stage made; the weights are the last one's, which is the best so far."""
        self._arrays["best"] = [variable.numpy() for variable in variables]
        for record in records:
            on_epoch(record)
            self.state = replace(
                self.state,
                best_stage=record.stage,
                best_epoch=record.epoch,
                best_loss=record.tuning_loss,
                seconds=record.elapsed_seconds,
                history=(*self.state.history, record),
            )

    def epochs_without_gain(self, stage: str) -> int:
        """Epochs of a stage since its best tuning loss."""
        losses = [record.tuning_loss for record in self.state.history if record.stage == stage]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0

    def use_best(self, variables: list[Any]) -> None:
        """Put the best weights into `variables`."""
        _assign(variables, self._arrays["best"])

    def _save(self, variables: list[Any], optimizer: Any) -> None:
        self._arrays["current"] = [variable.numpy() for variable in variables]
        self._arrays["optimizer"] = [np.asarray(variable) for variable in optimizer.variables]
        named: dict[str, Any] = {
            f"{group}-{i:03d}": array
            for group, arrays in self._arrays.items()
            for i, array in enumerate(arrays)
        }
        buffer = io.BytesIO()
        np.savez(buffer, state=np.frombuffer(to_json(self.state).encode(), np.uint8), **named)
        write_atomically(self.file, buffer.getvalue())
        self._arrays["current"], self._arrays["optimizer"] = [], []
        self._saved_at = time.monotonic()

    def _read(self, identity: str) -> None:
        try:
            with self.file.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                state = from_json(State, file["state"].tobytes())
                for group in self._arrays:
                    self._arrays[group] = [
                        file[name] for name in sorted(file.files) if name.startswith(group)
                    ]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ModelFolderError(
                f"The checkpoint {self.file} cannot be read: {error}.", "Start again without --resume."
            ) from error
        if state.identity != identity:
            raise ModelFolderError(
                "The interrupted run had other data or settings.",
                "Give the same DATA and options as before, or start again without --resume.",
            )
        self.state = state

    def _take_from_first(self, communication: Communication) -> None:
        """Go on from what worker 0 read, if it read anything."""
        found = communication.bytes_from_first(
            lambda: to_json(self.state).encode() if self.state.history else b""
        )
        if found:
            self.state = from_json(State, found)
        for group, arrays in self._arrays.items():
            self._arrays[group] = communication.from_first(arrays)


def _assign(variables: list[Any], values: list[np.ndarray]) -> None:
    if values:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
