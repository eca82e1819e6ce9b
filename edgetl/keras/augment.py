"""Varied copies of images: flip, rotation, zoom, shift and colour, from numbers drawn before."""

import hashlib
from collections.abc import Sequence
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


DRAWS = 8  # numbers that decide one copy
_FLIP, _ANGLE, _ZOOM, _SHIFT_X, _SHIFT_Y, _CONTRAST, _SATURATION, _BRIGHTNESS = range(DRAWS)


@dataclass(frozen=True)
class View:
    """One way to look at every image. Number 0 is the image itself; odd numbers mirror, even ones do not."""

    number: int
    strength: Augment
    seed: int

    @property
    def name(self) -> str:
        """What tells this view from others; empty for the image itself."""
        return (
            ""
            if self.number == 0
            else f"{self.strength} {self.seed} {self.number} {VARIATIONS[self.strength]}"
        )

    def of(self, pixels: NDArray[np.uint8], digests: Sequence[str]) -> NDArray[np.uint8]:
        """This view of images uint8 RGB [N, H, W, 3], decided by what the image files hold alone."""
        if self.number == 0 or len(pixels) == 0:
            return pixels
        draws = np.stack([_draws_for(f"{digest} {self.seed} {self.number}") for digest in digests])
        draws[:, _FLIP] = 0.0 if self.number % 2 else 1.0
        return vary(pixels, self.strength, draws)


def _draws_for(text: str) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    return np.random.default_rng(seed).random(DRAWS)


def vary(pixels: NDArray[np.uint8], strength: Augment, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
    """One varied copy of each image. uint8 RGB [N, H, W, 3] -> the same; bilinear, edges mirrored.

    draws: [N, DRAWS], uniform in 0..1.
    """
    variation = VARIATIONS[strength]
    if strength is Augment.OFF or len(pixels) == 0:
        return pixels
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels.astype(np.float32),
        transforms=_transforms(pixels.shape[1], pixels.shape[2], variation, draws),
        output_shape=pixels.shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    ).numpy()
    return _recolour(moved, variation, draws)


def _transforms(
    height: int, width: int, variation: Variation, draws: NDArray[np.float64]
) -> NDArray[np.float32]:
    """[N, 8] projective transforms from output to input pixels, around the image's centre."""
    signed = 2 * draws - 1
    angle = np.deg2rad(signed[:, _ANGLE] * variation.rotation_degrees)
    size = 1 + signed[:, _ZOOM] * variation.zoom
    flip = np.where((draws[:, _FLIP] < 0.5) & variation.flip, -1.0, 1.0)
    shift_x = signed[:, _SHIFT_X] * variation.shift * width
    shift_y = signed[:, _SHIFT_Y] * variation.shift * height
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    xx, xy = flip * np.cos(angle) * size, -np.sin(angle) * size
    yx, yy = flip * np.sin(angle) * size, np.cos(angle) * size
    rows = np.zeros((len(draws), 8), np.float32)
    rows[:, 0], rows[:, 1] = xx, xy
    rows[:, 2] = centre_x + shift_x - xx * centre_x - xy * centre_y
    rows[:, 3], rows[:, 4] = yx, yy
    rows[:, 5] = centre_y + shift_y - yx * centre_x - yy * centre_y
    return rows


def _recolour(
    pixels: NDArray[np.float32], variation: Variation, draws: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Brightness, contrast around the image's mean, and saturation, per image."""
    signed = (2 * draws.astype(np.float32) - 1)[:, :, None, None, None]
    contrast = 1 + signed[:, _CONTRAST] * variation.contrast
    saturation = 1 + signed[:, _SATURATION] * variation.saturation
    brightness = signed[:, _BRIGHTNESS] * variation.brightness
    mean = pixels.mean(axis=(1, 2, 3), keepdims=True)
    grey = (pixels @ _LUMA)[..., None]
    varied = grey + (pixels - grey) * saturation
    varied = mean + (varied - mean) * contrast + brightness
    recoloured: NDArray[np.uint8] = np.clip(np.rint(varied), 0, 255).astype(np.uint8)
    return recoloured
