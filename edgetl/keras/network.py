"""VGG16 in pieces that share their weights: below a boundary, above it, and the whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetl.card import InputSpec, Network
from edgetl.config import Block, Head
from edgetl.errors import WeightsError
from edgetl.keras import tf_keras
from edgetl.vgg16 import blocks_up_to, by_block, conv_shapes, grid_side, map_size

Array = NDArray[np.float32]
HIDDEN_UNITS = 1024  # of the flatten head
LOGITS = "logits"


@dataclass(frozen=True)
class Layers:
    """The layer objects of one network; every model made from them shares their weights."""

    network: Network
    spec: InputSpec
    preprocess: Any
    blocks: dict[Block, tuple[Any, ...]]
    pools: dict[Block, tuple[Any, ...]]  # what turns each scale's map into flat features
    head: tuple[Any, ...]  # Dense layers; the last one is linear

    @property
    def convolutions(self) -> tuple[Any, ...]:
        """The convolution layers in order."""
        return tuple(
            layer for block in self.blocks.values() for layer in block if hasattr(layer, "kernel_size")
        )

    @property
    def features(self) -> int:
        """How many numbers the head sees."""
        height, width, _ = activation_shape(self, self.network.cut)
        cells = {Head.GRID: 4, Head.FLATTEN: height * width}.get(self.network.head, 1)
        return cells * sum(self.network.block_channels[scale] for scale in self.network.scales)

    @property
    def dense(self) -> tuple[Any, ...]:
        """The Dense layers of the head in order."""
        return self.head


def make_layers(network: Network, spec: InputSpec, seed: int = 0, arithmetic: str = "float32") -> Layers:
    """New layers with random weights: He initialisation for convolutions, Glorot for Dense.

    `arithmetic`: the type in which convolutions compute; weights and all else are float32.
    """
    keras = tf_keras.layers
    initial = tf_keras.initializers
    policy = "float32" if arithmetic == "float32" else f"mixed_{arithmetic}"
    blocks: dict[Block, tuple[Any, ...]] = {}
    for block, widths in by_block(network.channels, network.cut).items():
        convolutions = [
            keras.Conv2D(
                width, 3, padding="same", activation="relu", name=f"{block}_conv{number}", dtype=policy,
                kernel_initializer=initial.HeNormal(seed=seed + 100 * list(Block).index(block) + number),
            )
            for number, width in enumerate(widths, 1)
        ]  # fmt: skip
        blocks[block] = (*convolutions, keras.MaxPooling2D(name=f"{block}_pool", dtype=policy))
    head: tuple[Any, ...] = ()
    if network.head is Head.FLATTEN:
        hidden = keras.Dense(
            network.hidden_units,
            activation="relu",
            name="hidden",
            kernel_initializer=initial.GlorotUniform(seed=seed),
        )
        head = (hidden,)
    logits = keras.Dense(
        network.classes, name=LOGITS, kernel_initializer=initial.GlorotUniform(seed=seed + 1)
    )
    offset = [-spec.scale * mean for mean in spec.mean_rgb]
    preprocess = keras.Rescaling(spec.scale, offset=offset, name="preprocess")
    pools = {scale: _pools(network, spec, scale) for scale in network.scales}
    return Layers(network, spec, preprocess, blocks, pools, (*head, logits))


def _pools(network: Network, spec: InputSpec, scale: Block) -> tuple[Any, ...]:
    """What turns the map [N, h, w, C] after a block into features [N, D]."""
    keras = tf_keras.layers
    if network.head is Head.GAP:
        return (keras.GlobalAveragePooling2D(name=f"average_{scale}"),)
    if network.head is Head.MAX:
        return (keras.GlobalMaxPooling2D(name=f"maximum_{scale}"),)
    flatten = keras.Flatten(name=f"flatten_{scale}")
    if network.head is Head.FLATTEN:
        return (flatten,)
    height, width = map_size(spec.height, spec.width, scale)
    (kernel_y, stride_y), (kernel_x, stride_x) = grid_side(height), grid_side(width)
    quarters = keras.AveragePooling2D((kernel_y, kernel_x), (stride_y, stride_x), name=f"quarters_{scale}")
    return (quarters, flatten)


def whole(layers: Layers) -> Any:
    """The model that is saved and exported: uint8 RGB [N, H, W, 3] -> probabilities [N, classes]."""
    image = tf_keras.Input((layers.spec.height, layers.spec.width, 3), dtype="uint8", name="image")
    output = chain(_features(layers, layers.preprocess(image), None), layers.head)
    return tf_keras.Model(image, tf_keras.layers.Softmax(name="probabilities")(output), name="vgg16")


def features_model(layers: Layers) -> Any:
    """uint8 RGB [N, H, W, 3] -> what the head sees, [N, D]."""
    image = tf_keras.Input((layers.spec.height, layers.spec.width, 3), dtype="uint8", name="image")
    return tf_keras.Model(image, _features(layers, layers.preprocess(image), None))


def below(layers: Layers, boundary: Block) -> Any:
    """uint8 RGB [N, H, W, 3] -> activations after `boundary`'s pooling [N, h, w, C]."""
    image = tf_keras.Input((layers.spec.height, layers.spec.width, 3), dtype="uint8", name="image")
    wanted = [layer for block in blocks_up_to(boundary) for layer in layers.blocks[block]]
    return tf_keras.Model(image, chain(image, [layers.preprocess, *wanted]))


def above(layers: Layers, boundary: Block | None, feature_scale: Any) -> Any:
    """Activations after `boundary` (None: uint8 RGB) -> logits, with `feature_scale` before the head.

    The boundary is not above the lowest block that the head sees.
    """
    if boundary is None:
        start = tf_keras.Input((layers.spec.height, layers.spec.width, 3), dtype="uint8", name="image")
        value = layers.preprocess(start)
    else:
        start = tf_keras.Input(activation_shape(layers, boundary), name="activations")
        value = start
    features = _features(layers, value, boundary)
    return tf_keras.Model(start, chain(feature_scale(features), layers.head))


def _features(layers: Layers, value: Any, boundary: Block | None) -> Any:
    """What the head sees, [N, D], from the trunk's input or activations after `boundary`."""
    seen = []
    if boundary in layers.pools:
        seen.append(chain(value, layers.pools[boundary]))
    for block, steps in layers.blocks.items():
        if boundary is None or block > boundary:
            value = chain(value, steps)
            if block in layers.pools:
                seen.append(chain(value, layers.pools[block]))
    return seen[0] if len(seen) == 1 else tf_keras.layers.Concatenate(name="scales")(seen)


def all_blocks(layers: Layers) -> list[Any]:
    """Every layer of the trunk in order."""
    return [layer for block in layers.blocks.values() for layer in block]


def activation_shape(layers: Layers, boundary: Block) -> tuple[int, int, int]:
    """[h, w, C] after `boundary`'s pooling."""
    size = map_size(layers.spec.height, layers.spec.width, boundary)
    return *size, layers.network.block_channels[boundary]


def chain(value: Any, steps: Sequence[Any]) -> Any:
    """Apply layers one after the other."""
    for step in steps:
        value = step(value)
    return value


def check_reach(kernels: Sequence[Array], cut: Block) -> None:
    """Raise `WeightsError` if there are too few kernels for a trunk cut after `cut`."""
    if len(kernels) < len(conv_shapes(cut)):
        reach = next(block for block in Block if len(conv_shapes(block)) >= len(kernels))
        raise WeightsError(f"The trunk given ends at {reach}; {cut} is needed.", f"Add --cut {reach}.")


def set_trunk(layers: Layers, kernels: Sequence[Array], biases: Sequence[Array]) -> None:
    """Put HWIO kernels (RGB order) and biases into the convolutions. `WeightsError` if there are too few."""
    check_reach(kernels, layers.network.cut)
    for layer, kernel, bias in zip(layers.convolutions, kernels, biases, strict=False):
        if not layer.built:
            layer.build((None, None, None, kernel.shape[2]))
        layer.set_weights([kernel, bias])


def copy_weights(source: Layers, target: Layers) -> None:
    """Give `target` every weight of `source`, whatever either computes in."""
    whole(target).set_weights(whole(source).get_weights())


def load_network(network: Network, spec: InputSpec, path: str) -> Layers:
    """The layers of a saved `model.keras`: built by our code, only weights are read from the file."""
    layers = make_layers(network, spec)
    whole(layers).load_weights(path)
    return layers


def fold_feature_scale(layers: Layers, factor: Array, offset: Array) -> None:
    """Let the head compute on raw features what it computed on `features * factor + offset`, both [D]."""
    dense = layers.dense[0]
    kernel, bias = dense.get_weights()
    dense.set_weights([kernel * factor[:, None], bias + offset @ kernel])


def fold_temperature(layers: Layers, temperature: float) -> None:
    """Divide the logits by `temperature` inside the last Dense layer: no operation is added."""
    dense = layers.dense[-1]
    dense.set_weights([value / temperature for value in dense.get_weights()])
