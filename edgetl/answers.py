"""What a network says of known images, kept in a file."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetl.files import write_atomically


@dataclass(frozen=True)
class AnswerFile:
    """Probabilities that need not be computed again; `identity` is a digest of all they depend on."""

    path: Path
    identity: str

    def write(self, probabilities: NDArray[np.float32]) -> None:
        """Keep answers [N, classes]."""
        buffer = io.BytesIO()
        np.savez(buffer, identity=np.array(self.identity), probabilities=probabilities)
        write_atomically(self.path, buffer.getvalue())

    def read(self) -> NDArray[np.float32] | None:
        """The answers, if they were kept; None also for a damaged file."""
        try:
            with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                found = np.asarray(file["probabilities"], np.float32)
                return found if str(file["identity"]) == self.identity else None
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None
