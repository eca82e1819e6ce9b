"""The shape of VGG16, whoever computes it.

Simonyan & Zisserman, "Very Deep Convolutional Networks", ICLR 2015, configuration D, without dense layers.
"""

import math

from edgetl.config import Block

BLOCK_WIDTHS = {  # channels of each 3x3 convolution
    Block.BLOCK1: (64, 64),
    Block.BLOCK2: (128, 128),
    Block.BLOCK3: (256, 256, 256),
    Block.BLOCK4: (512, 512, 512),
    Block.BLOCK5: (512, 512, 512),
}
_KERNEL = 9  # weights of a 3x3 kernel for each pair of channels


def blocks_up_to(last: Block) -> tuple[Block, ...]:
    """block1 .. last."""
    order = tuple(Block)
    return order[: order.index(last) + 1]


def block_below(block: Block) -> Block | None:
    """The block before `block`; None before the first."""
    order = tuple(Block)
    return order[order.index(block) - 1] if block is not order[0] else None


def conv_shapes(last: Block) -> tuple[tuple[int, int, int, int], ...]:
    """HWIO kernel shapes of all convolutions up to a block."""
    channels = 3
    shapes = []
    for block in blocks_up_to(last):
        for width in BLOCK_WIDTHS[block]:
            shapes.append((3, 3, channels, width))
            channels = width
    return tuple(shapes)


def map_shape(height: int, width: int, block: Block) -> tuple[int, int, int]:
    """[h, w, C] of the activations after `block`'s pooling, for an input of so many pixels."""
    halvings = len(blocks_up_to(block))
    return height >> halvings, width >> halvings, BLOCK_WIDTHS[block][-1]


def multiplications(height: int, width: int, above: Block | None, last: Block) -> float:
    """Multiply-adds of one image through the blocks above `above` (None: all) up to `last`, forward."""
    frozen = len(conv_shapes(above)) if above else 0
    return sum(layer_multiplications(height, width, last)[frozen:])


def layer_multiplications(height: int, width: int, last: Block) -> tuple[float, ...]:
    """Multiply-adds of one image through each convolution up to `last`, forward."""
    found, channels = [], 3
    for number, block in enumerate(blocks_up_to(last)):
        positions = (height >> number) * (width >> number)
        for out in BLOCK_WIDTHS[block]:
            found.append(float(positions * _KERNEL * channels * out))
            channels = out
    return tuple(found)


def grid_side(side: int) -> tuple[int, int]:
    """Kernel and stride that pool `side` >= 2 positions to two, overlapping in the middle of an odd side."""
    return math.ceil(side / 2), side // 2
