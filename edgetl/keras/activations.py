"""Activations of the frozen part of the trunk, computed once per image and varied copy."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgetl.config import Augment
from edgetl.errors import StorageError
from edgetl.files import storing
from edgetl.keras.augment import vary
from edgetl.progress import task

LARGEST_HALF = 65504.0  # float16
IMAGES_AT_ONCE = 32


class Inputs(Protocol):
    """What a stage trains on."""

    def batch(self, positions: NDArray[np.int64], epoch: int) -> NDArray[Any]:
        """The inputs of these images in this epoch."""
        ...


@dataclass(frozen=True)
class CachedViews:
    """Stored activations [views, N, ...]; epoch e shows view e mod views of every image."""

    views: NDArray[Any]

    def batch(self, positions: NDArray[np.int64], epoch: int) -> NDArray[np.float32]:
        """float32 activations of one view."""
        view = self.views[epoch % len(self.views)]
        return np.asarray(view[positions], np.float32)


@dataclass(frozen=True)
class VariedPixels:
    """Images that are varied anew in every epoch, for stages that train the whole trunk."""

    pixels: NDArray[np.uint8]
    strength: Augment
    seed: int

    def batch(self, positions: NDArray[np.int64], epoch: int) -> NDArray[np.uint8]:
        """uint8 RGB of one batch; the variation depends on seed, epoch and images only."""
        random = np.random.default_rng((self.seed, epoch, *positions[:4].tolist()))
        return vary(self.pixels[positions], self.strength, random)


def store_views(
    model: Any, pixels: NDArray[np.uint8], views: int, strength: Augment, seed: int, file: Path, name: str
) -> NDArray[np.float16]:
    """Activations of `model` for every image and view, as a float16 memory map [views, N, ...].

    View 0 is the image itself. Raises `StorageError` before starting when the disk has no room.
    """
    shape = (views, len(pixels), *model.output_shape[1:])
    _require_room(file, 2 * int(np.prod([float(size) for size in shape])))
    with storing(file):
        stored = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
    with task(name, views * len(pixels)) as advance, storing(file):
        for view in range(views):
            for start in range(0, len(pixels), IMAGES_AT_ONCE):
                batch = pixels[start : start + IMAGES_AT_ONCE]
                if view > 0:
                    batch = vary(batch, strength, np.random.default_rng((seed, view, start)))
                stored[view, start : start + len(batch)] = np.minimum(forward(model, batch), LARGEST_HALF)
                advance(len(batch))
    return stored


def pooled_features(model: Any, views: NDArray[np.float16]) -> NDArray[np.float32]:
    """Activations after the rest of the trunk, averaged over positions: [views, N, ...] -> float32 [views, N, C]."""
    return np.stack([in_batches(lambda part: forward(model, part).mean(axis=(1, 2)), view) for view in views])


def in_batches(function: Any, values: NDArray[Any]) -> NDArray[np.float32]:
    """`function` over [N, ...] in pieces that fit the caches."""
    step = IMAGES_AT_ONCE
    return np.concatenate([function(values[start : start + step]) for start in range(0, len(values), step)])


def forward(model: Any, batch: NDArray[Any]) -> NDArray[np.float32]:
    """One inference call of a Keras model on at most `IMAGES_AT_ONCE` inputs."""
    taken = batch if batch.dtype == np.uint8 else np.asarray(batch, np.float32)
    return np.asarray(model.predict_on_batch(taken))


def _require_room(file: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(file.parent).free
    if needed_bytes > free:
        raise StorageError(
            f"Training needs {needed_bytes / 2**30:.1f} GiB for activations in {file.parent}; {free / 2**30:.1f} are free.",
            "Use fewer --views, a smaller --image-size, or another disk.",
        )
