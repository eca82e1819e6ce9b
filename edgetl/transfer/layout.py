"""Where in a row of pooled features the averages of each block are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetl.card import InputSpec
from edgetl.config import Block, Head
from edgetl.vgg16 import map_shape

GRID_CELLS = 4  # 2 x 2


@dataclass(frozen=True)
class Part:
    """One block, pooled in one way: `width` columns of a row."""

    block: Block
    head: Head
    width: int


def parts_of(spec: InputSpec, block: Block, widths: Sequence[int] | None = None) -> tuple[Part, ...]:
    """Average and maximum over the whole map and, where it has room for them, averages over its quarters.

    `widths`: channels of the trunk's convolutions where these are not VGG16's.
    """
    height, width, channels = map_shape(spec.height, spec.width, block, widths)
    whole = Part(block, Head.GAP, channels), Part(block, Head.MAX, channels)
    return (*whole, Part(block, Head.GRID, GRID_CELLS * channels)) if min(height, width) >= 2 else whole


def row_width(spec: InputSpec, blocks: Sequence[Block], widths: Sequence[int] | None = None) -> int:
    """Columns of a row that holds every average of these blocks."""
    return sum(part.width for block in blocks for part in parts_of(spec, block, widths))


def columns_of(
    spec: InputSpec,
    blocks: Sequence[Block],
    head: Head,
    scales: Sequence[Block],
    widths: Sequence[int] | None = None,
) -> NDArray[np.int64]:
    """The columns, in rows of `blocks`, of what `head` sees of the blocks `scales`, in the head's order."""
    found: dict[tuple[Block, Head], NDArray[np.int64]] = {}
    start = 0
    for block in blocks:
        for part in parts_of(spec, block, widths):
            found[part.block, part.head] = np.arange(start, start + part.width)
            start += part.width
    return np.concatenate([found[scale, head] for scale in scales])
