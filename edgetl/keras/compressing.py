"""From a trained network to smaller ones: which channels to keep, and learning from the larger network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgetl.card import Network
from edgetl.compression.selection import Ranking
from edgetl.compression.widths import Limit, Widths, aligned, parameters_of, within
from edgetl.config import Arithmetic, Block, CompressConfig, Head
from edgetl.dataset import Dataset, Images
from edgetl.errors import UsageError
from edgetl.features.latency import LatencyTable
from edgetl.keras.distill import DistillSettings
from edgetl.keras.inputs import in_batches
from edgetl.keras.lessons import LessonPlan, Lessons
from edgetl.keras.network import Array, Layers, copy_weights, features_model, make_layers
from edgetl.keras.pruning import cells, cut_after, enough_images, fit_head, pruned
from edgetl.keras.rates import resolved_arithmetic
from edgetl.measures import centred_logits
from edgetl.pixels import spread_over
from edgetl.vgg16 import conv_shapes, layer_multiplications

_LESSONS = 32_000  # pictures to learn from, about, for few images
_VERY_FEW = 1000  # images, that get all the time there is for more pictures and steps than usual
_LEAST_PICTURES, _USUAL_PICTURES, _MOST_PICTURES = 8, 16, 128
_ASKING = 6e13  # multiply-adds of the larger network for more than the usual number of pictures
_STEPS, _MOST_STEPS = 2400, 9600  # of training, about, for few images
_LEARNING = 2.5e13  # multiply-adds for all that is learnt from, where a network gets more steps
_LEAST_EPOCHS, _MOST_EPOCHS = 30, 240  # the most for `_STEPS`
HEAD_IMAGES = 4000  # that a head is fitted to at first
_FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False)
class Channels:
    """The trained network, and what its channels are good for and cost."""

    layers: Layers
    rankings: Sequence[Ranking]
    table: LatencyTable

    def within(
        self,
        cut: Block,
        *,
        multiplications: float | None = None,
        int8_bytes: float | None = None,
        latency_ms: float | None = None,
    ) -> Widths | None:
        """The channels of a network that ends after `cut` and keeps to these limits; None: there is none."""
        limits = [
            (lambda widths: self.multiplications(widths, cut), multiplications),
            (lambda widths: self.int8_bytes(widths, cut), int8_bytes),
            (self.table.of, latency_ms),
        ]
        known = [Limit(cost, most) for cost, most in limits if most is not None]
        if any(limit.most <= 0 for limit in known):
            return None
        return within(self.rankings[: len(conv_shapes(cut))], known)

    def multiplications(self, widths: Sequence[int], cut: Block) -> float:
        """Multiply-adds of one image in the convolutions and the first layer of the head."""
        spec = self.layers.spec
        convolutions = sum(layer_multiplications(spec.height, spec.width, cut, widths))
        return convolutions + self._head_weights(widths, cut)

    def int8_bytes(self, widths: Sequence[int], cut: Block) -> float:
        """Weights of the same layers in an int8 file, in which logits are made in float32."""
        each = 1 if self.layers.network.head is Head.FLATTEN else _FLOAT_BYTES
        return parameters_of(widths) + each * self._head_weights(widths, cut)

    def _head_weights(self, widths: Sequence[int], cut: Block) -> int:
        network = cut_after(self.layers.network, cut, widths)
        seen = cells(self.layers) * sum(network.block_channels[scale] for scale in network.scales)
        return seen * (network.hidden_units or network.classes)

    @property
    def cuts(self) -> tuple[Block, ...]:
        """Where a search may let a smaller network end."""
        lowest = max(Block.BLOCK2, *self.layers.network.scales[:1])
        possible = _possible_cuts(self.layers.network)
        return tuple(block for block in possible if block >= lowest) or possible[-1:]


@dataclass(frozen=True, eq=False)
class Larger(Channels):
    """The same, and what a smaller network learns from."""

    pixels: NDArray[np.uint8]  # that channels are ranked on
    lessons: Lessons
    dataset: Dataset

    @property
    def heads(self) -> tuple[Head, ...]:
        """How a smaller network may see its maps. A maximum teaches one place of each map, an average all."""
        head = self.layers.network.head
        return (head, Head.GAP) if head is Head.MAX else (head,)


def _possible_cuts(network: Network) -> tuple[Block, ...]:
    """Where a smaller network can end: a head that sees a map with a hidden layer stays where it is."""
    if network.head is Head.FLATTEN:
        return (network.cut,)
    return tuple(block for block in Block if block <= network.cut)


def lesson_plan(config: CompressConfig, images: int, multiplications: float, *, flip: bool) -> LessonPlan:
    """Many pictures of few images, few of many; the most of very few, where the larger network answers soon.

    multiplications: multiply-adds of the larger network for one image. flip: whether every second picture is
    mirrored.
    """
    images = max(1, images)
    least = int(np.clip(_LESSONS // images, _LEAST_PICTURES, _USUAL_PICTURES))
    asked = _ASKING * _patience(images) / (images * multiplications)
    pictures = config.pictures or int(np.clip(asked, least, _MOST_PICTURES))
    return LessonPlan(pictures, config.augment, flip, config.seed)


def _patience(images: int) -> float:
    """The share of the extra work that so many images get: what learns from many needs less of it."""
    return min(1.0, _VERY_FEW / images)


def settings_of(config: CompressConfig, images: int, multiplications: float = math.inf) -> DistillSettings:
    """How a smaller network is trained; with few images the longer the fewer multiply-adds it has."""
    most_steps = max(_STEPS, _MOST_STEPS * _patience(images))
    steps = float(np.clip(_LEARNING / (config.batch * multiplications), _STEPS, most_steps))
    most = _MOST_EPOCHS * steps / _STEPS
    epochs = config.epochs or int(np.clip(steps // -(-images // config.batch), _LEAST_EPOCHS, most))
    return DistillSettings(
        epochs=epochs,
        batch=config.batch,
        rate=config.rate,
        temperature=config.temperature,
        label_weight=config.label_weight,
        arithmetic=resolved_arithmetic(Arithmetic.AUTO),
        seed=config.seed,
    )


def refuse_cut(config: CompressConfig, larger: Layers) -> None:
    """Raise `UsageError`, before any work, for settings that name no part of the network."""
    widths = given_widths(config, larger)
    possible = _possible_cuts(larger.network)
    wanted = config.cut if widths is None else cut_of(widths)
    if wanted is None or wanted in possible:
        return
    option = "--cut" if widths is None else "--widths"
    why = "its head reads the whole map there" if larger.network.head is Head.FLATTEN else "it has no more"
    raise UsageError(
        f"A smaller network cannot end after {wanted}: this one ends after {possible[-1]}, and {why}.",
        f"Give {option} for {' or '.join(possible)}.",
    )


def cut_of(widths: Sequence[int]) -> Block:
    """The block after which a network with so many convolutions ends."""
    return next(block for block in Block if len(conv_shapes(block)) == len(widths))


def weights_in(layers: Layers) -> int:
    """Weights and biases of convolutions and head."""
    parts = (*layers.convolutions, *layers.head)
    return sum(int(np.prod(weight.shape)) for layer in parts for weight in layer.get_weights())


def given_widths(config: CompressConfig, larger: Layers) -> tuple[int, ...] | None:
    """The channels that settings name. Raises `UsageError` for what is no part of the network."""
    whole = larger.network.channels
    if config.keep is not None:
        return aligned([config.keep * width for width in whole])
    if config.widths is None:
        return None
    try:
        widths = tuple(int(part) for part in config.widths.split(","))
    except ValueError:
        widths = ()
    lengths = {len(conv_shapes(block)): block for block in Block}
    fits = len(widths) in lengths and all(0 < few <= many for few, many in zip(widths, whole, strict=False))
    if not fits or len(widths) > len(whole):
        raise UsageError(
            f"--widths {config.widths!r} is no part of this network.",
            f"Give one number for each convolution up to the end of a block, at most: "
            f"{','.join(map(str, whole))}.",
        )
    return widths


def start_of(larger: Larger, widths: Sequence[int], cut: Block) -> Layers:
    """The smaller network before it learns: channels chosen, weights fitted to what the larger computes."""
    kept = [ranking.kept(width) for ranking, width in zip(larger.rankings, widths, strict=False)]
    made = pruned(larger.layers, kept, larger.pixels, cut)
    _fit_head(larger, made)
    return made


def with_head(larger: Larger, start: Layers, head: Head) -> Layers:
    """The same trunk below another of `larger.heads`, fitted to what the larger computes."""
    made = make_layers(replace(start.network, head=head), start.spec)
    copy_weights(start, made)
    made.head[0].set_weights([np.zeros_like(weight) for weight in made.head[0].get_weights()])
    _fit_head(larger, made)
    return made


def _fit_head(larger: Larger, made: Layers) -> None:
    some = spread_over(larger.lessons.images, HEAD_IMAGES)
    pixels = larger.lessons.pixels[some]
    fit_head(made, pixels, _wanted(larger, some, pixels))


def _wanted(larger: Larger, some: NDArray[np.int64], pixels: NDArray[np.uint8]) -> Array:
    """What the first layer of the head should give for these images."""
    if larger.layers.network.head is not Head.FLATTEN:
        return centred_logits(larger.lessons.probabilities[some]).astype(np.float32)
    features = in_batches(features_model(larger.layers).predict_on_batch, pixels)
    kernel, bias = larger.layers.head[0].get_weights()
    return np.asarray(features @ kernel + bias, np.float32)


def pixels_for_ranking(layers: Layers, train: Images, seed: int) -> NDArray[np.uint8]:
    """Some training images."""
    count = enough_images(layers, len(train))
    some = np.sort(np.random.default_rng(seed).permutation(len(train))[:count])
    return train.pixels[some]
