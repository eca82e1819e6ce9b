"""VGG16 in pieces that share their weights: below a boundary, above it, and the whole.

Simonyan & Zisserman, "Very Deep Convolutional Networks", ICLR 2015, configuration D, without dense layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetl.card import InputSpec, Network
from edgetl.config import Block, Head
from edgetl.errors import WeightsError
from edgetl.keras import tf_keras

BLOCK_WIDTHS = {  # channels of each 3x3 convolution
    Block.BLOCK1: (64, 64),
    Block.BLOCK2: (128, 128),
    Block.BLOCK3: (256, 256, 256),
    Block.BLOCK4: (512, 512, 512),
    Block.BLOCK5: (512, 512, 512),
}
Array = NDArray[np.float32]
HIDDEN_UNITS = 1024  # of the flatten head
LOGITS = "logits"


def blocks_up_to(last: Block) -> tuple[Block, ...]:
    """block1 .. last."""
    order = tuple(Block)
    return order[: order.index(last) + 1]


def conv_shapes(last: Block) -> tuple[tuple[int, int, int, int], ...]:
    """HWIO kernel shapes of all convolutions up to a block."""
    channels = 3
    shapes = []
    for block in blocks_up_to(last):
        for width in BLOCK_WIDTHS[block]:
            shapes.append((3, 3, channels, width))
            channels = width
    return tuple(shapes)


@dataclass(frozen=True)
class Layers:
    """The layer objects of one network; every model made from them shares their weights."""

    network: Network
    spec: InputSpec
    preprocess: Any
    blocks: dict[Block, tuple[Any, ...]]
    head: tuple[Any, ...]  # pooling or flattening, then Dense layers; the last one is linear

    @property
    def convolutions(self) -> tuple[Any, ...]:
        """The convolution layers in order."""
        return tuple(
            layer for block in self.blocks.values() for layer in block if hasattr(layer, "kernel_size")
        )

    @property
    def dense(self) -> tuple[Any, ...]:
        """The Dense layers of the head in order."""
        return tuple(layer for layer in self.head if hasattr(layer, "units"))


def make_layers(network: Network, spec: InputSpec, seed: int = 0) -> Layers:
    """New layers with random weights: He initialisation for convolutions, Glorot for Dense."""
    keras = tf_keras.layers
    initial = tf_keras.initializers
    blocks: dict[Block, tuple[Any, ...]] = {}
    for block in blocks_up_to(network.cut):
        convolutions = [
            keras.Conv2D(
                width, 3, padding="same", activation="relu", name=f"{block}_conv{number}",
                kernel_initializer=initial.HeNormal(seed=seed + 100 * list(Block).index(block) + number),
            )
            for number, width in enumerate(BLOCK_WIDTHS[block], 1)
        ]  # fmt: skip
        blocks[block] = (*convolutions, keras.MaxPooling2D(name=f"{block}_pool"))
    if network.head is Head.GAP:
        head: tuple[Any, ...] = (keras.GlobalAveragePooling2D(name="average"),)
    else:
        hidden = keras.Dense(
            network.hidden_units,
            activation="relu",
            name="hidden",
            kernel_initializer=initial.GlorotUniform(seed=seed),
        )
        head = (keras.Flatten(name="flatten"), hidden)
    logits = keras.Dense(
        network.classes, name=LOGITS, kernel_initializer=initial.GlorotUniform(seed=seed + 1)
    )
    offset = [-spec.scale * mean for mean in spec.mean_rgb]
    preprocess = keras.Rescaling(spec.scale, offset=offset, name="preprocess")
    return Layers(network, spec, preprocess, blocks, (*head, logits))


def whole(layers: Layers) -> Any:
    """The model that is saved and exported: uint8 RGB [N, H, W, 3] -> probabilities [N, classes]."""
    image = tf_keras.Input((layers.spec.height, layers.spec.width, 3), dtype="uint8", name="image")
    output = chain(image, [layers.preprocess, *all_blocks(layers), *layers.head])
    return tf_keras.Model(image, tf_keras.layers.Softmax(name="probabilities")(output), name="vgg16")


def below(layers: Layers, boundary: Block) -> Any:
    """uint8 RGB [N, H, W, 3] -> activations after `boundary`'s pooling [N, h, w, C]."""
    image = tf_keras.Input((layers.spec.height, layers.spec.width, 3), dtype="uint8", name="image")
    wanted = [layer for block in blocks_up_to(boundary) for layer in layers.blocks[block]]
    return tf_keras.Model(image, chain(image, [layers.preprocess, *wanted]))


def between(layers: Layers, boundary: Block) -> Any:
    """Activations after `boundary` -> activations after the last block."""
    start = tf_keras.Input(activation_shape(layers, boundary), name="activations")
    return tf_keras.Model(start, chain(start, blocks_above(layers, boundary)))


def above(layers: Layers, boundary: Block | None, feature_scale: Any) -> Any:
    """Activations after `boundary` (None: uint8 RGB) -> logits, with `feature_scale` before the head."""
    if boundary is None:
        start = tf_keras.Input((layers.spec.height, layers.spec.width, 3), dtype="uint8", name="image")
        body = [layers.preprocess, *all_blocks(layers)]
    else:
        height, width, channels = activation_shape(layers, boundary)
        pools = layers.network.head is Head.GAP  # then any size will do, also one that is pooled already
        start = tf_keras.Input(
            (None, None, channels) if pools else (height, width, channels), name="activations"
        )
        body = blocks_above(layers, boundary)
    return tf_keras.Model(start, chain(start, [*body, feature_scale, *layers.head]))


def all_blocks(layers: Layers) -> list[Any]:
    """Every layer of the trunk in order."""
    return [layer for block in layers.blocks.values() for layer in block]


def blocks_above(layers: Layers, boundary: Block) -> list[Any]:
    """The trunk's layers after `boundary`."""
    return [layer for block in layers.blocks if block > boundary for layer in layers.blocks[block]]


def activation_shape(layers: Layers, boundary: Block) -> tuple[int, int, int]:
    """[h, w, C] after `boundary`'s pooling."""
    halvings = len(blocks_up_to(boundary))
    return (layers.spec.height >> halvings, layers.spec.width >> halvings, BLOCK_WIDTHS[boundary][-1])


def chain(value: Any, steps: Sequence[Any]) -> Any:
    """Apply layers one after the other."""
    for step in steps:
        value = step(value)
    return value


def set_trunk(layers: Layers, kernels: Sequence[Array], biases: Sequence[Array]) -> None:
    """Put HWIO kernels (RGB order) and biases into the convolutions. `WeightsError` if there are too few."""
    if len(kernels) < len(layers.convolutions):
        reach = next(block for block in Block if len(conv_shapes(block)) >= len(kernels))
        raise WeightsError(
            f"The trunk given ends at {reach}; {layers.network.cut} is needed.", f"Add --cut {reach}."
        )
    for layer, kernel, bias in zip(layers.convolutions, kernels, biases, strict=False):
        if not layer.built:
            layer.build((None, None, None, kernel.shape[2]))
        layer.set_weights([kernel, bias])


def load_network(network: Network, spec: InputSpec, path: str) -> Layers:
    """The layers of a saved `model.keras`: built by our code, only weights are read from the file."""
    layers = make_layers(network, spec)
    whole(layers).load_weights(path)
    return layers


def fold_feature_scale(layers: Layers, factor: Array, offset: Array) -> None:
    """Let the head compute on raw features what it computed on `features * factor + offset`, both [C]."""
    dense = layers.dense[0]
    kernel, bias = dense.get_weights()
    positions = len(kernel) // len(factor)  # of a flattened map; 1 with pooling
    factors, offsets = np.tile(factor, positions), np.tile(offset, positions)
    dense.set_weights([kernel * factors[:, None], bias + offsets @ kernel])


def fold_temperature(layers: Layers, temperature: float) -> None:
    """Divide the logits by `temperature` inside the last Dense layer: no operation is added."""
    dense = layers.dense[-1]
    dense.set_weights([value / temperature for value in dense.get_weights()])
