"""Activations of the frozen part of the trunk, computed once per image and varied copy."""

import math
import os
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
    """Stored activations [views, N, ...]; epoch e shows view (e + i) mod views of image i: views mixed."""

    views: NDArray[Any]

    def batch(self, positions: NDArray[np.int64], epoch: int) -> NDArray[np.float32]:
        """float32 activations of one view of each image."""
        return np.asarray(self.views[(epoch + positions) % len(self.views), positions], np.float32)


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


@dataclass(frozen=True)
class Views:
    """How many copies of each image there are and how far they vary; the first is the image itself."""

    count: int
    strength: Augment
    seed: int


def store_views(model: Any, pixels: NDArray[np.uint8], views: Views, file: Path) -> NDArray[np.float16]:
    """Activations of `model` for every image and view, as a float16 memory map [views, N, ...].

    Raises `StorageError` before starting when the disk has no room.
    """
    stored = new_array(file, (views.count, len(pixels), *model.output_shape[1:]))
    name = f"running {len(pixels)} images x {views.count} views through the frozen trunk"
    with task(name, views.count * len(pixels)) as advance:
        for view in range(views.count):
            for start in range(0, len(pixels), IMAGES_AT_ONCE):
                batch = pixels[start : start + IMAGES_AT_ONCE]
                if view > 0:
                    batch = vary(batch, views.strength, np.random.default_rng((views.seed, view, start)))
                stored[view, start : start + len(batch)] = np.minimum(forward(model, batch), LARGEST_HALF)
                advance(len(batch))
    return stored


def new_array(file: Path, shape: tuple[int, ...]) -> NDArray[np.float16]:
    """A float16 memory map to fill. Raises `StorageError` when the disk has no room for it.

    All of it is taken from the disk at once: a disk that fills up later would end the process.
    """
    needed_bytes = 2 * math.prod(shape)
    free_bytes = shutil.disk_usage(file.parent).free
    if needed_bytes > free_bytes:
        raise StorageError(
            f"Training needs {needed_bytes / 2**30:.1f} GiB for activations in {file.parent}; "
            f"{free_bytes / 2**30:.1f} are free.",
            "Use fewer --views, a smaller --image-size, or another disk.",
        )
    with storing(file):
        stored: NDArray[np.float16] = np.lib.format.open_memmap(
            file, mode="w+", dtype=np.float16, shape=shape
        )
        with file.open("r+b") as whole:
            os.posix_fallocate(whole.fileno(), 0, file.stat().st_size)
    return stored


def pooled_features(model: Any, views: NDArray[np.float16]) -> NDArray[np.float32]:
    """Activations after the rest of the trunk, averaged over positions: [views, N, ...] -> [views, N, C]."""
    return np.stack([in_batches(lambda part: forward(model, part).mean(axis=(1, 2)), view) for view in views])


def in_batches(function: Any, values: NDArray[Any]) -> NDArray[np.float32]:
    """`function` over [N, ...] in pieces that fit the caches."""
    step = IMAGES_AT_ONCE
    return np.concatenate([function(values[start : start + step]) for start in range(0, len(values), step)])


def forward(model: Any, batch: NDArray[Any]) -> NDArray[np.float32]:
    """One inference call of a Keras model on at most `IMAGES_AT_ONCE` inputs."""
    taken = batch if batch.dtype == np.uint8 else np.asarray(batch, np.float32)
    return np.asarray(model.predict_on_batch(taken))
