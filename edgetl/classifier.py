"""What every engine is."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Classifier(Protocol):
    """Turns images into class probabilities."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 RGB [N, H, W, 3], 0..255 -> float32 [N, classes]; each row sums to 1."""
        ...
