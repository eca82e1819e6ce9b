"""Varied copies of images: flip, rotation, zoom, shift and colour, from a seeded generator."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetl.config import Augment
from edgetl.keras import tf


@dataclass(frozen=True)
class Variation:
    """Half-widths of the uniform distributions that a copy is drawn from."""

    flip: bool
    rotation_degrees: float
    zoom: float  # 0.1: between 0.9 and 1.1 of the size
    shift: float  # share of the side; with zoom this is a random crop
    brightness: float  # grey levels of 255
    contrast: float  # 0.1: factor between 0.9 and 1.1
    saturation: float


VARIATIONS = {
    Augment.OFF: Variation(
        flip=False, rotation_degrees=0, zoom=0, shift=0, brightness=0, contrast=0, saturation=0
    ),
    Augment.LIGHT: Variation(
        flip=True, rotation_degrees=6, zoom=0.1, shift=0.06, brightness=12, contrast=0.1, saturation=0.1
    ),
    Augment.STRONG: Variation(
        flip=True, rotation_degrees=18, zoom=0.25, shift=0.12, brightness=32, contrast=0.3, saturation=0.4
    ),
}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def vary(pixels: NDArray[np.uint8], strength: Augment, random: np.random.Generator) -> NDArray[np.uint8]:
    """One varied copy of each image. uint8 RGB [N, H, W, 3] -> the same; bilinear, edges mirrored."""
    variation = VARIATIONS[strength]
    if strength is Augment.OFF or len(pixels) == 0:
        return pixels
    transforms = _transforms(len(pixels), pixels.shape[1], pixels.shape[2], variation, random)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels.astype(np.float32),
        transforms=transforms,
        output_shape=pixels.shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    ).numpy()
    return _recolour(moved, variation, random)


def _transforms(
    count: int, height: int, width: int, variation: Variation, random: np.random.Generator
) -> NDArray[np.float32]:
    """[N, 8] projective transforms from output to input pixels, around the image's centre."""
    angle = np.deg2rad(random.uniform(-1, 1, count) * variation.rotation_degrees)
    size = 1 + random.uniform(-1, 1, count) * variation.zoom
    flip = np.where(random.random(count) < 0.5, -1.0, 1.0) if variation.flip else np.ones(count)
    shift_x = random.uniform(-1, 1, count) * variation.shift * width
    shift_y = random.uniform(-1, 1, count) * variation.shift * height
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    xx, xy = flip * np.cos(angle) * size, -np.sin(angle) * size
    yx, yy = flip * np.sin(angle) * size, np.cos(angle) * size
    rows = np.zeros((count, 8), np.float32)
    rows[:, 0], rows[:, 1] = xx, xy
    rows[:, 2] = centre_x + shift_x - xx * centre_x - xy * centre_y
    rows[:, 3], rows[:, 4] = yx, yy
    rows[:, 5] = centre_y + shift_y - yx * centre_x - yy * centre_y
    return rows


def _recolour(
    pixels: NDArray[np.float32], variation: Variation, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Brightness, contrast around the image's mean, and saturation, per image."""
    count = (len(pixels), 1, 1, 1)
    contrast = 1 + random.uniform(-1, 1, count) * variation.contrast
    saturation = 1 + random.uniform(-1, 1, count) * variation.saturation
    brightness = random.uniform(-1, 1, count) * variation.brightness
    mean = pixels.mean(axis=(1, 2, 3), keepdims=True)
    grey = (pixels @ _LUMA)[..., None]
    varied = grey + (pixels - grey) * saturation
    varied = mean + (varied - mean) * contrast + brightness
    recoloured: NDArray[np.uint8] = np.clip(np.rint(varied), 0, 255).astype(np.uint8)
    return recoloured
