"""Where training works, and how its result gets its place without ever being half there.

MODEL            the model folder; it appears, or is replaced, complete
MODEL.partial/   all work, for one process at a time (flock on .lock)
  plan.json        what was planned, so that a resumed run does the same
  checkpoint.npz   what --resume needs
  attempts/        smaller networks that compress has trained
  candidate/       a smaller model that compress has not proven yet
  finished/        the complete new model, about to become MODEL
  replaced/        the model that was MODEL until then
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgetl.card import CARD_FILE, PARTIAL_SUFFIX
from edgetl.errors import UsageError
from edgetl.files import lock_alone, make_folder, storing
from edgetl.listing import is_text, printable
from edgetl.progress import say

CHECKPOINT_FILE = "checkpoint.npz"
PLAN_FILE = "plan.json"
ATTEMPTS = "attempts"
CANDIDATE = "candidate"
FINISHED = "finished"
_REPLACED = "replaced"
_LOCK_FILE = ".lock"
_WORTH_KEEPING = (CHECKPOINT_FILE, ATTEMPTS, f"{FINISHED}/{CARD_FILE}", f"{_REPLACED}/{CARD_FILE}")


def check_place(output: Path, *, overwrite: bool, resume: bool) -> Path:
    """The absolute place of a model to be made. Raises `UsageError` when it is taken.

    Puts right what a kill in the middle of `publish` left.
    """
    place = Path(os.path.abspath(output))  # noqa: PTH100 - resolve would replace what a link points to
    if not is_text(place.name):
        raise UsageError(
            f"The name {printable(place.name)} is not UTF-8; a model's files hold it.",
            "Choose another -o.",
        )
    if not place.exists() and _partial_of(place).is_dir():
        with _held(_partial_of(place)) as partial:
            _take_back(partial, place, resume)
    if not place.exists():
        return place
    if not overwrite:
        raise UsageError(f"{output} exists already.", "Choose another -o, or add --overwrite to replace it.")
    if not (place / CARD_FILE).is_file():
        raise UsageError(f"{output} is not a model folder; it will not be replaced.", "Choose another -o.")
    return place


def _take_back(partial: Path, place: Path, resume: bool) -> None:
    """A model that a kill caught without its place gets it: the new one, else the one it was to replace.

    With `resume` the new one is left to training, which sees from the checkpoint how little is to be done.
    """
    for name in (_REPLACED,) if resume else (FINISHED, _REPLACED):
        if (partial / name / CARD_FILE).is_file():
            with storing(place):
                (partial / name).rename(place)
            say(f"training was interrupted when {place} was being replaced: put right")
            return


@contextmanager
def working_folder(place: Path, *, resume: bool) -> Iterator[Path]:
    """`place`.partial, held against other processes; it stays when there is something to go on with."""
    make_folder(_partial_of(place))
    with _held(_partial_of(place)) as partial:
        if resume and not any((partial / name).exists() for name in (CHECKPOINT_FILE, ATTEMPTS)):
            say("nothing to resume: starting from the beginning")
        _clear(partial, keep={_LOCK_FILE, CHECKPOINT_FILE, PLAN_FILE, ATTEMPTS} if resume else {_LOCK_FILE})
        try:
            yield partial
        finally:
            if not any((partial / name).exists() for name in _WORTH_KEEPING):
                shutil.rmtree(partial, ignore_errors=True)


def finish_candidate(partial: Path) -> None:
    """What was a candidate is proven, and the complete new model."""
    with storing(partial):
        (partial / CANDIDATE).rename(partial / FINISHED)


def publish(partial: Path, place: Path) -> None:
    """Give the finished model its place; a model that stood there goes away only then."""
    with storing(place):
        if place.exists():
            place.rename(partial / _REPLACED)
        (partial / FINISHED).rename(place)
    shutil.rmtree(partial, ignore_errors=True)


def _partial_of(place: Path) -> Path:
    return place.with_name(place.name + PARTIAL_SUFFIX)


@contextmanager
def _held(partial: Path) -> Iterator[Path]:
    """Keep other processes out of the folder. Raises `UsageError` when one is in it."""
    with storing(partial), (partial / _LOCK_FILE).open("w") as lock:
        try:
            lock_alone(lock.fileno())
        except BlockingIOError as error:
            raise UsageError(
                f"Another edgetl is at work in {partial}.", "Wait until it ends, or choose another -o."
            ) from error
        yield partial


def _clear(partial: Path, keep: set[str]) -> None:
    for child in partial.iterdir():
        if child.name in keep:
            continue
        if child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink()
