"""What the stages of training see: stored activations of what is frozen, or images that are varied anew."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgetl.cache import Rows
from edgetl.config import Augment
from edgetl.dataset import Images
from edgetl.keras.augment import DRAWS, vary
from edgetl.pixels import PixelRows

IMAGES_AT_ONCE = 32
WHOLE = slice(None)
Array = NDArray[Any]


class Inputs(Protocol):
    """What a stage trains on."""

    def batch(self, positions: NDArray[np.int64], epoch: int, part: slice = WHOLE) -> NDArray[Any]:
        """The inputs of these images in this epoch, or of a part of them: the same as in the whole batch."""
        ...


class Taken(Protocol):
    """[N, ...] of which some are taken at a time: an array, or what is read from the disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice) -> NDArray[Any]: ...


@dataclass(frozen=True)
class TrainingImages:
    """What the weights are fitted and chosen on."""

    train: Images
    tuning: Images


@dataclass(frozen=True)
class StageInputs:
    """One stage's view of the images."""

    train: Inputs
    tuning: Taken  # [N, ...]


@dataclass(frozen=True)
class CachedViews:
    """Stored rows, view v of image i at v * images + i; epoch e shows view (e + i) mod views of image i."""

    rows: Rows
    images: int
    views: int

    def batch(self, positions: NDArray[np.int64], epoch: int, part: slice = WHOLE) -> NDArray[np.float32]:
        """float32 activations of one view of each image."""
        positions = positions[part]
        view = (epoch + positions) % self.views
        return self.rows[view * self.images + positions].astype(np.float32)


@dataclass(frozen=True)
class VariedPixels:
    """Images that are varied anew in every epoch, for stages that train the whole trunk."""

    pixels: PixelRows
    strength: Augment
    flip: bool  # whether mirrored copies may be among them
    seed: int

    def batch(self, positions: NDArray[np.int64], epoch: int, part: slice = WHOLE) -> NDArray[np.uint8]:
        """uint8 RGB of one batch; the variation depends on seed, epoch and images only."""
        random = np.random.default_rng((self.seed, epoch, *positions[:4].tolist()))
        draws = random.random((len(positions), DRAWS))
        if not self.flip:
            draws[:, 0] = 1.0
        return vary(self.pixels[positions[part]], self.strength, draws[part])


@dataclass(frozen=True)
class Part:
    """Some neighbouring rows of stored ones."""

    rows: Rows
    start: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: slice) -> NDArray[np.float16]:
        start, stop, _ = key.indices(self.count)
        return self.rows[self.start + start : self.start + stop]


def in_batches(function: Any, values: Taken) -> NDArray[np.float32]:
    """`function` over [N, ...] in pieces that fit the caches; float16 becomes float32."""
    step = IMAGES_AT_ONCE
    return np.concatenate([function(_taken(values, start, step)) for start in range(0, len(values), step)])


def _taken(values: Taken, start: int, step: int) -> NDArray[Any]:
    part = values[start : start + step]
    return part.astype(np.float32) if part.dtype == np.float16 else part
