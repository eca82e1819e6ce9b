"""A trained network with fewer channels: chosen on images, what reads them fitted anew."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetl.card import Network
from edgetl.compression.selection import (
    Contributions,
    Ranking,
    contributions,
    rank,
    refit,
    together,
)
from edgetl.config import Block
from edgetl.keras import tf
from edgetl.keras.inputs import in_batches
from edgetl.keras.network import Array, Layers, chain, features_model, make_layers, whole
from edgetl.pixels import PixelRows
from edgetl.progress import task
from edgetl.vgg16 import by_block

MOST_MAP_BYTES = 2**28  # of one layer's activations in memory
MOST_IMAGES = 256
ROWS_PER_INPUT = 6  # rows of a least squares problem for each unknown of an output
LEAST_ROWS = 4096
RANKED_ROWS, RANKED_OUTPUTS = 2048, 64  # places, and channels of the next layer, that a ranking looks at
RIDGE = 1e-3
HEAD_RIDGE = 1e-1
_SMALLEST_SPREAD = 1e-3  # of a feature, as a share of that of all
Positions = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Maps:
    """What one convolution reads, [N, h, w, C], of the network as it was and as it has become."""

    before: Array
    after: Array


def enough_images(layers: Layers, available: int) -> int:
    """How many images pruning looks at."""
    spec = layers.spec
    each = 4 * spec.height * spec.width * max(layers.network.channels[:2])
    return max(8, min(available, MOST_IMAGES, MOST_MAP_BYTES // each))


def rankings(layers: Layers, pixels: NDArray[np.uint8], seed: int = 0) -> list[Ranking]:
    """How much each convolution's channels matter to what reads them: the next one, the head, or both.

    pixels: uint8 RGB [N, H, W, 3], see `enough_images`.
    """
    random = np.random.default_rng(seed)
    by_head = _read_by_head(layers, pixels, random)
    found: list[list[Contributions]] = [[] for _ in layers.convolutions]
    last_of = dict(
        zip(np.cumsum([len(steps) - 1 for steps in layers.blocks.values()]), layers.blocks, strict=True)
    )
    value = np.asarray(layers.preprocess(pixels), np.float32)
    with task("ranking channels", len(found)) as advance:
        for number, (layer, after) in enumerate(_steps_of(layers)):
            if number > 0:
                patches = _patches(value, _positions(value, RANKED_ROWS, random))
                kernel = layer.get_weights()[0]
                some = random.permutation(kernel.shape[3])[:RANKED_OUTPUTS]
                kernel = kernel[..., some].reshape(9, kernel.shape[2], -1)
                found[number - 1].append(contributions(patches, kernel))
            block = last_of.get(number + 1)
            if block in by_head:
                found[number].append(by_head[block])
            value = _in_parts(lambda some, layer=layer, after=after: chain(layer(some), after), value)
            advance(1)
    return [rank(together(parts)) for parts in found]


def _read_by_head(
    layers: Layers, pixels: NDArray[np.uint8], random: np.random.Generator
) -> dict[Block, Contributions]:
    """What the channels of each block that the head sees contribute to its first layer."""
    features = in_batches(features_model(layers).predict_on_batch, pixels)
    kernel = layers.head[0].get_weights()[0]
    kernel = kernel[:, random.permutation(kernel.shape[1])[:RANKED_OUTPUTS]]
    found, start = {}, 0
    for scale, channels in _scale_channels(layers).items():
        width = cells(layers) * channels
        seen = features[:, start : start + width]
        varying = (seen - seen.mean(axis=0)).reshape(len(seen), -1, channels)
        rows = kernel[start : start + width].reshape(-1, channels, kernel.shape[1])
        found[scale] = contributions(varying, rows)
        start += width
    return found


def _scale_channels(layers: Layers) -> dict[Block, int]:
    return {scale: layers.network.block_channels[scale] for scale in layers.network.scales}


def cells(layers: Layers) -> int:
    """Numbers that the head sees of each channel."""
    return layers.features // sum(_scale_channels(layers).values())


def pruned(
    layers: Layers, kept: Sequence[Positions], pixels: NDArray[np.uint8], cut: Block, seed: int = 0
) -> Layers:
    """A network cut after `cut` with only the channels `kept` of each convolution up to there.

    Each convolution is fitted to give what it gave, from the channels that are left before it; the head reads
    what is left, or is all zero where the cut is new. pixels: uint8 RGB [N, H, W, 3], see `enough_images`.
    """
    network = cut_after(layers.network, cut, [len(channels) for channels in kept])
    made = make_layers(network, layers.spec)
    whole(made)  # builds every layer
    random = np.random.default_rng(seed)
    start = np.asarray(layers.preprocess(pixels), np.float32)
    maps, inputs = Maps(start, start), np.arange(start.shape[-1])
    for (old, old_after), (new, new_after), outputs in zip(
        _steps_of(layers), _steps_of(made), kept, strict=False
    ):
        new.set_weights(_fitted(old, maps, inputs, outputs, random))
        maps = Maps(
            _in_parts(lambda some, old=old, after=old_after: chain(old(some), after), maps.before),
            _in_parts(lambda some, new=new, after=new_after: chain(new(some), after), maps.after),
        )
        inputs = outputs
    if cut is layers.network.cut:
        _copy_head(layers, made, kept)
    else:
        made.head[0].set_weights([np.zeros_like(weight) for weight in made.head[0].get_weights()])
    return made


def cut_after(network: Network, cut: Block, widths: Sequence[int]) -> Network:
    """The same network up to a block, with so many channels."""
    return replace(network, cut=cut, scales=_scales_below(network, cut), widths=tuple(widths))


def _scales_below(network: Network, cut: Block) -> tuple[Block, ...]:
    """As many blocks as the head saw before, the last of them `cut`."""
    order = list(Block)
    last = order.index(cut)
    first = max(0, last - len(network.scales) + 1)
    return tuple(order[first : last + 1])


def _steps_of(layers: Layers) -> list[tuple[Any, tuple[Any, ...]]]:
    """Each convolution with the pooling that follows it, if any."""
    found: list[tuple[Any, tuple[Any, ...]]] = []
    for steps in layers.blocks.values():
        *convolutions, pool = steps
        found += [(layer, ()) for layer in convolutions[:-1]]
        found.append((convolutions[-1], (pool,)))
    return found


def _fitted(
    layer: Any, maps: Maps, inputs: Positions, outputs: Positions, random: np.random.Generator
) -> list[Array]:
    """Kernel and bias for the channels that are left on either side."""
    kernel, bias = layer.get_weights()
    small = kernel[:, :, inputs][..., outputs]
    unknown = 9 * len(inputs)
    if len(inputs) == kernel.shape[2] and maps.before is maps.after:
        return [small, bias[outputs]]
    rows = max(LEAST_ROWS, ROWS_PER_INPUT * unknown)
    where = _positions(maps.before, rows, random)
    wanted = (
        _patches(maps.before, where).reshape(len(where), -1) @ kernel.reshape(-1, kernel.shape[3])[:, outputs]
    )
    seen = _patches(maps.after, where).reshape(len(where), -1)
    weights, shift = refit(seen, wanted, small.reshape(unknown, -1), RIDGE)
    return [weights.reshape(small.shape), bias[outputs] + shift]


def _positions(maps: Array, rows: int, random: np.random.Generator) -> Positions:
    """Random places [rows, 3]: image, row, column; each at most once."""
    count, height, width, _ = maps.shape
    whole = count * height * width
    chosen = random.permutation(whole)[:rows] if whole < 2**24 else random.integers(0, whole, rows)
    return np.stack(np.unravel_index(chosen, (count, height, width)), axis=1)


def _patches(maps: Array, where: Positions) -> Array:
    """[N, 9, C] the 3x3 neighbourhoods of places, zero beyond the borders."""
    _, height, width, channels = maps.shape
    found = np.zeros((len(where), 9, channels), np.float32)
    for number in range(9):
        y, x = where[:, 1] + number // 3 - 1, where[:, 2] + number % 3 - 1
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        found[inside, number] = maps[where[inside, 0], y[inside], x[inside]]
    return found


def _in_parts(compute: Any, values: Array) -> Array:
    return np.asarray(in_batches(lambda some: compute(tf.constant(some)).numpy(), values), np.float32)


def _head_rows(layers: Layers, kept: dict[Block, Positions]) -> Positions:
    """The rows of the first Dense kernel that read the channels kept of each block the head sees."""
    rows, start = [], 0
    for scale, width in _scale_channels(layers).items():
        rows += [start + cell * width + kept[scale] for cell in range(cells(layers))]
        start += cells(layers) * width
    return np.concatenate(rows)


def _copy_head(layers: Layers, made: Layers, kept: Sequence[Positions]) -> None:
    """Give the new head the rows of the old one that read what is left; exact for channels that were 0."""
    last = {block: channels[-1] for block, channels in by_block(kept, made.network.cut).items()}
    first, *others = layers.head
    kernel, bias = first.get_weights()
    made.head[0].set_weights([kernel[_head_rows(layers, last)], bias])
    for old, new in zip(others, made.head[1:], strict=True):
        new.set_weights(old.get_weights())


def fit_head(layers: Layers, pixels: PixelRows, wanted: Array) -> None:
    """Let the first Dense layer give `wanted` [N, units] as nearly as it can, from its own features.

    It is drawn to the weights it has, so that many features and few images do no harm.
    """
    features = in_batches(features_model(layers).predict_on_batch, pixels)
    spread = np.maximum(features.std(axis=0), _SMALLEST_SPREAD * features.std())
    dense = layers.head[0]
    kernel, _ = dense.get_weights()
    weights, bias = refit(features / spread, wanted, kernel * spread[:, None], HEAD_RIDGE)
    dense.set_weights([weights / spread[:, None], bias])
