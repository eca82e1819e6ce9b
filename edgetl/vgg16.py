"""The shape of VGG16, whoever computes it.

Simonyan & Zisserman, "Very Deep Convolutional Networks", ICLR 2015, configuration D, without dense layers.
"""

import itertools
import math
from collections.abc import Sequence
from typing import TypeVar

from edgetl.config import Block

Value = TypeVar("Value")
COLOURS = 3  # channels of the image

BLOCK_WIDTHS = {  # channels of each 3x3 convolution
    Block.BLOCK1: (64, 64),
    Block.BLOCK2: (128, 128),
    Block.BLOCK3: (256, 256, 256),
    Block.BLOCK4: (512, 512, 512),
    Block.BLOCK5: (512, 512, 512),
}


def blocks_up_to(last: Block) -> tuple[Block, ...]:
    """block1 .. last."""
    order = tuple(Block)
    return order[: order.index(last) + 1]


def block_below(block: Block) -> Block | None:
    """The block before `block`; None before the first."""
    order = tuple(Block)
    return order[order.index(block) - 1] if block is not order[0] else None


def widths_up_to(last: Block) -> tuple[int, ...]:
    """Channels of each of VGG16's convolutions up to a block."""
    return tuple(width for block in blocks_up_to(last) for width in BLOCK_WIDTHS[block])


def by_block(values: Sequence[Value], last: Block) -> dict[Block, tuple[Value, ...]]:
    """What belongs to each convolution up to a block, block by block."""
    ordered = iter(values)
    return {block: tuple(itertools.islice(ordered, len(BLOCK_WIDTHS[block]))) for block in blocks_up_to(last)}


def conv_shapes(last: Block, widths: Sequence[int] | None = None) -> tuple[tuple[int, int, int, int], ...]:
    """HWIO kernel shapes of all convolutions up to a block.

    `widths`: their channels where these are not VGG16's; perhaps those of further ones, which do not count.
    """
    whole = widths_up_to(last)
    outputs = tuple(widths or whole)[: len(whole)]
    inputs = (COLOURS, *outputs[:-1])
    return tuple((3, 3, before, after) for before, after in zip(inputs, outputs, strict=True))


def map_size(height: int, width: int, block: Block) -> tuple[int, int]:
    """[h, w] of the activations after `block`'s pooling, for an input of so many pixels."""
    halvings = len(blocks_up_to(block))
    return height >> halvings, width >> halvings


def map_shape(
    height: int, width: int, block: Block, widths: Sequence[int] | None = None
) -> tuple[int, int, int]:
    """[h, w, C] of the activations after `block`'s pooling, for an input of so many pixels."""
    return *map_size(height, width, block), conv_shapes(block, widths)[-1][3]


def multiplications(
    height: int, width: int, above: Block | None, last: Block, widths: Sequence[int] | None = None
) -> float:
    """Multiply-adds of one image through the blocks above `above` (None: all) up to `last`, forward."""
    frozen = len(conv_shapes(above)) if above else 0
    return sum(layer_multiplications(height, width, last, widths)[frozen:])


def layer_multiplications(
    height: int, width: int, last: Block, widths: Sequence[int] | None = None
) -> tuple[float, ...]:
    """Multiply-adds of one image through each convolution up to `last`, forward."""
    shapes = by_block(conv_shapes(last, widths), last)
    return tuple(
        float((height >> number) * (width >> number) * math.prod(shape))
        for number, block in enumerate(shapes)
        for shape in shapes[block]
    )


def grid_side(side: int) -> tuple[int, int]:
    """Kernel and stride that pool `side` >= 2 positions to two, overlapping in the middle of an odd side."""
    return math.ceil(side / 2), side // 2
