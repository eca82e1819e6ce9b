"""Everything edgetl tells a user has gone wrong, and the exit code that goes with it.

EdgetlError                what happened, what to do; exit 1
├── UsageError             contradictory or unknown request, refused before work begins; exit 2
├── DataError              the images or their folders are not usable as they are; exit 1
├── ModelFolderError       a model folder is missing, unfinished, damaged or of another version; exit 1
├── WeightsError           pretrained weights are missing or are not a VGG16 trunk; exit 1
├── MissingExtra           an optional dependency is not installed; exit 1
├── StorageError           the disk refused: full, read-only, no permission; exit 1
├── CheckFailed            the work was done and the answer is no; exit 3
└── Undecidable            no work was done, for no answer could come of it; exit 5

Exit 4 (done, but some inputs were skipped) and, after work, exit 5 (not decidable with the data given) are
results, not errors: the records of `predict` and `verify` carry them. Anything that is not an `EdgetlError`
is our bug and keeps its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the shell sees."""

    DONE = 0
    FIXABLE = 1
    USAGE = 2
    CHECK_FAILED = 3
    SOME_SKIPPED = 4
    UNDECIDED = 5
    INTERRUPTED = 130


class EdgetlError(Exception):
    """`what` happened and the `fix` to try next, both whole sentences for the user."""

    exit_code: ClassVar[ExitCode] = ExitCode.FIXABLE

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what} {self.fix}".strip()


class UsageError(EdgetlError):
    """A contradictory or unknown request."""

    exit_code = ExitCode.USAGE


class DataError(EdgetlError):
    """Images or folders that cannot be used as they are."""


class ModelFolderError(EdgetlError):
    """A model folder that is missing, unfinished, damaged or of another version."""


class WeightsError(EdgetlError):
    """Pretrained weights that are missing or are not a VGG16 trunk."""


class MissingExtra(EdgetlError):  # noqa: N818 - it names what is missing, like ModuleNotFoundError's friends
    """An optional dependency that is not installed; `otherwise` is a way to do without."""

    def __init__(self, feature: str, extra: str, otherwise: str = "") -> None:
        super().__init__(
            f"{feature} needs packages that are not installed.",
            f"pip install 'edgetl[{extra}]'{otherwise and f', or {otherwise}'}",
        )


@contextmanager
def needing(extra: str, feature: str, otherwise: str = "") -> Iterator[None]:
    """Turn a package that an import inside the block does not find into `MissingExtra`."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "edgetl":
            raise  # our bug, not a missing package
        raise MissingExtra(feature, extra, otherwise) from error


class StorageError(EdgetlError):
    """The disk refused to store a file."""


class CheckFailed(EdgetlError):  # noqa: N818 - a verdict, not a malfunction
    """The work was done and the answer is no."""

    exit_code = ExitCode.CHECK_FAILED


class Undecidable(EdgetlError):  # noqa: N818 - like CheckFailed, an answer rather than a fault
    """A question that the data given cannot decide, seen before any work."""

    exit_code = ExitCode.UNDECIDED
