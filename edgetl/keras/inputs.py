"""What each stage of training sees: activations of what is frozen, computed once, or varied images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetl.config import Block, Head
from edgetl.keras.activations import (
    LARGEST_HALF,
    CachedViews,
    Inputs,
    VariedPixels,
    Views,
    forward,
    in_batches,
    new_array,
    pooled_features,
    store_views,
)
from edgetl.keras.network import Layers, below, between
from edgetl.keras.schedule import Schedule

Array = NDArray[Any]


@dataclass(frozen=True)
class TrainingImages:
    """What the weights are fitted and chosen on. Pixels uint8 RGB [N, H, W, 3], labels int64 [N]."""

    train_pixels: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    tuning_pixels: NDArray[np.uint8]
    tuning_labels: NDArray[np.int64]


@dataclass(frozen=True)
class StageInputs:
    """One stage's view of the images."""

    train: Inputs
    tuning: Array  # [N, ...]


@dataclass(frozen=True)
class FeatureScale:
    """Per-channel standardisation in front of the head, folded away at the end."""

    factor: Array  # [C]
    offset: Array


def prepare_inputs(
    layers: Layers, images: TrainingImages, schedule: Schedule, folder: Path
) -> tuple[list[StageInputs], FeatureScale]:
    """The inputs of each stage, computing what is frozen only once, and the scale of the features."""
    boundaries = [stage.boundary for stage in schedule.stages]
    if boundaries[0] is None:
        channels = layers.convolutions[-1].filters
        varied = VariedPixels(images.train_pixels, schedule.augment, schedule.seed)
        unscaled = FeatureScale(np.ones(channels, np.float32), np.zeros(channels, np.float32))
        return [StageInputs(varied, images.tuning_pixels)] * len(boundaries), unscaled
    lowest = boundaries[-1] or boundaries[0]
    train = _stored(
        layers, lowest, images.train_pixels, schedule, views=schedule.views, file=folder / "train.npy"
    )
    tuning = _stored(layers, lowest, images.tuning_pixels, schedule, views=1, file=folder / "tuning.npy")
    head = _head_inputs(layers, lowest, train, tuning, folder)
    inputs = [head]
    if len(boundaries) > 1:
        if boundaries[1] is None:
            varied = VariedPixels(images.train_pixels, schedule.augment, schedule.seed)
            inputs.append(StageInputs(varied, images.tuning_pixels))
        else:
            inputs.append(StageInputs(CachedViews(train), tuning[0]))
    features = np.asarray(head.train.batch(np.arange(len(images.train_labels)), 0))
    return inputs, _standardisation(features)


def _stored(
    layers: Layers, boundary: Block, pixels: NDArray[np.uint8], schedule: Schedule, *, views: int, file: Path
) -> NDArray[np.float16]:
    varied = Views(views, schedule.augment, schedule.seed)
    return store_views(below(layers, boundary), pixels, varied, file)


def _head_inputs(
    layers: Layers, lowest: Block, train: NDArray[np.float16], tuning: NDArray[np.float16], folder: Path
) -> StageInputs:
    """What the head sees: averages [views, N, 1, 1, C] with pooling, whole maps for the flatten head."""
    rest = between(layers, lowest)
    if layers.network.head is Head.GAP:
        pooled = [pooled_features(rest, views)[:, :, None, None, :] for views in (train, tuning)]
        return StageInputs(CachedViews(pooled[0]), pooled[1][0])
    if lowest == layers.network.cut:
        return StageInputs(CachedViews(train), tuning[0])
    maps = new_array(folder / "maps.npy", (*train.shape[:2], *rest.output_shape[1:]))
    for number, view in enumerate(train):
        maps[number] = np.minimum(in_batches(lambda part: forward(rest, part), view), LARGEST_HALF)
    return StageInputs(CachedViews(maps), in_batches(lambda part: forward(rest, part), tuning[0]))


def _standardisation(features: Array) -> FeatureScale:
    """Zero mean and unit deviation per channel of [N, h, w, C]; channels that hardly move are left small."""
    flat = features.reshape(-1, features.shape[-1])
    mean, deviation = flat.mean(axis=0), flat.std(axis=0)
    deviation = np.maximum(deviation, 0.05 * deviation.mean() + 1e-6)
    return FeatureScale((1 / deviation).astype(np.float32), (-mean / deviation).astype(np.float32))
