"""Which channels to keep: least squares, Taylor's criterion or the largest filters; at once or in rounds.

`python benchmarks/channels.py WORK [--epochs 20]` needs Debian's `dataset-fashion-mnist` and about an hour. All
small networks have the same channels and the same epochs; only what a line names differs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import publish, table
from distillation import SIDE, WIDTHS, Bench, asked_and_measured, prepared
from numpy.typing import NDArray

from edgetl.card import Model
from edgetl.compression.selection import Ranking
from edgetl.compression.widths import aligned
from edgetl.config import CompressConfig
from edgetl.dataset import Images, Role
from edgetl.keras import tf, tf_keras
from edgetl.keras.compressing import HEAD_IMAGES, Larger, start_of
from edgetl.keras.network import Layers, chain, copy_weights, make_layers, whole
from edgetl.keras.pruning import fit_head, rankings
from edgetl.measures import centred_logits
from edgetl.pixels import spread_over
from edgetl.steps.workshop import Work
from edgetl.vgg16 import by_block

Positions = NDArray[np.int64]
LEAST, TAYLOR, LARGEST = "least squares", "Taylor", "largest filters"
BATCH = 64
IMITATION_RATE = 1e-3


def main() -> None:
    """Every line, then the section."""
    asked, rows, card = asked_and_measured(__doc__, "channels", measured)
    header = ("chosen by", "begins and learns", "tuning", "test", "drop", "at most")
    text = (
        f"Fashion-MNIST, {card.data.roles['train'].images:,} training images, {SIDE} pixels, channels "
        f"{'-'.join(map(str, WIDTHS))} of {'-'.join(map(str, card.network.channels))}, {asked.epochs} epochs in "
        "all, one seed: differences of 0.3 points are chance. *Fitted*: every convolution anew in closed form to "
        "what it gave; otherwise weights stay as they were. The head is fitted in every line. *Drop* and *at most* "
        "(exact one-sided 95 % bound) of float networks on test images, in points against the parent. Taylor: the "
        "mean over images of |activation x gradient| summed over places (Molchanov et al., ICLR 2017), with labels; "
        "largest filters: sums of absolute weights (Li et al., ICLR 2017). *Two rounds*: half the way, half the "
        "epochs, ranked anew, the rest. *Blocks first*: half the epochs the trunk imitates the larger network's "
        "maps after every block, half it learns as usual.\n\n" + table(header, [row[:-1] for row in rows])
    )
    publish("channels", "Which channels to keep", text)


def measured(parent: Path, work: Path, epochs: int) -> list[tuple[str, ...]]:
    """One line for each criterion and way, before and after learning."""
    bench = Bench(prepared(Model.open(parent), CompressConfig(epochs=epochs), work))
    ranked = {
        LEAST: bench.work.larger.rankings,
        TAYLOR: by_taylor(bench.work),
        LARGEST: by_filters(bench.work.larger.layers),
    }
    rows = []
    for criterion, order in ranked.items():
        larger = replace(bench.work.larger, rankings=order)
        for way, make in {"fitted": fitted, "left as they were": left}.items():
            start = make(larger)
            rows.append(bench.row(criterion, f"{way}, before it learns", start, None))
            rows.append(bench.row(criterion, way, start, {}))
    other: dict[str, Callable[[Bench, int], Layers]] = {
        "fitted, two rounds": in_rounds,
        "fitted, blocks first": blocks_first,
    }
    for way, make_last in other.items():
        rows.append(bench.row_of(LEAST, way, lambda make_last=make_last: make_last(bench, epochs // 2)))
    return rows


def fitted(larger: Larger) -> Layers:
    """As `edgetl compress` begins."""
    return start_of(larger, WIDTHS, larger.layers.network.cut)


def left(larger: Larger) -> Layers:
    """The same channels with the weights they had; the head alone is fitted."""
    kept = kept_of(larger.rankings, WIDTHS)
    made = make_layers(replace(larger.layers.network, widths=WIDTHS), larger.layers.spec)
    whole(made)
    inputs = np.arange(3)
    for old, new, outputs in zip(larger.layers.convolutions, made.convolutions, kept, strict=True):
        kernel, bias = old.get_weights()
        new.set_weights([kernel[:, :, inputs][..., outputs], bias[outputs]])
        inputs = outputs
    made.head[0].set_weights([np.zeros_like(weight) for weight in made.head[0].get_weights()])
    some = spread_over(larger.lessons.images, HEAD_IMAGES)
    wanted = centred_logits(larger.lessons.probabilities[some]).astype(np.float32)
    fit_head(made, larger.lessons.pixels[some], wanted)
    return made


def kept_of(order: Sequence[Ranking], widths: Sequence[int]) -> list[Positions]:
    """The channels of each layer."""
    return [ranking.kept(width) for ranking, width in zip(order, widths, strict=True)]


def in_rounds(bench: Bench, epochs: int) -> Layers:
    """Half the way and half the epochs, ranked anew, then the rest."""
    larger = bench.work.larger
    cut, before = larger.layers.network.cut, larger.layers.network.channels
    halfway = aligned([math.sqrt(many * few) for many, few in zip(before, WIDTHS, strict=True)])
    medium = bench.trained(start_of(larger, halfway, cut), {"epochs": epochs})
    again = replace(larger, layers=medium, rankings=rankings(medium, larger.pixels))
    return bench.trained(start_of(again, WIDTHS, cut), {"epochs": epochs})


def blocks_first(bench: Bench, epochs: int) -> Layers:
    """The trunk learns to give the larger network's maps after every block; then all learns as usual."""
    larger = bench.work.larger
    start = fitted(larger)
    kept = by_block(kept_of(larger.rankings, WIDTHS), larger.layers.network.cut)
    channels = [outputs[-1] for outputs in kept.values()]
    learnt = make_layers(start.network, start.spec)
    copy_weights(start, learnt)
    imitate(learnt, maps_of(larger.layers), channels, bench.work, epochs)
    some = spread_over(larger.lessons.images, HEAD_IMAGES)
    wanted = centred_logits(larger.lessons.probabilities[some]).astype(np.float32)
    fit_head(learnt, larger.lessons.pixels[some], wanted)
    return bench.trained(learnt, {"epochs": epochs})


def imitate(
    layers: Layers, teacher: tf_keras.Model, channels: list[Positions], work: Work, epochs: int
) -> None:
    """Least relative squared error of the maps after all blocks, on the pictures of each epoch."""
    model, lessons = maps_of(layers), work.larger.lessons
    variables = model.trainable_variables
    steps = -(-lessons.images // BATCH)
    rate = tf_keras.optimizers.schedules.CosineDecay(IMITATION_RATE, epochs * steps)
    optimizer = tf_keras.optimizers.Adam(rate, global_clipnorm=1.0)

    @tf.function(reduce_retracing=True)
    def step(pixels: tf.Tensor) -> None:
        wanted = [
            tf.gather(found, some, axis=3) for found, some in zip(teacher(pixels), channels, strict=True)
        ]
        with tf.GradientTape() as tape:
            parts = [
                tf.reduce_sum(tf.square(mine - theirs)) / tf.reduce_sum(tf.square(theirs))
                for mine, theirs in zip(model(pixels), wanted, strict=True)
            ]
            loss = tf.add_n(parts)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    for epoch in range(epochs):
        order = np.random.default_rng((0, epoch)).permutation(lessons.images)
        for first in range(0, len(order), BATCH):
            some = order[first : first + BATCH]
            step(tf.constant(lessons.pixels[(epoch + some) % lessons.pictures * lessons.images + some]))


def maps_of(layers: Layers) -> tf_keras.Model:
    """uint8 RGB [N, H, W, 3] -> the maps after all blocks."""
    image = tf_keras.Input((layers.spec.height, layers.spec.width, 3), dtype="uint8")
    value, maps = layers.preprocess(image), []
    for steps in layers.blocks.values():
        value = chain(value, steps)
        maps.append(value)
    return tf_keras.Model(image, maps)


def by_taylor(work: Work) -> list[Ranking]:
    """Channels by what the loss would change without them, to first order."""
    layers, train = work.larger.layers, work.dataset.roles[Role.TRAIN]
    some = np.sort(np.random.default_rng(0).permutation(len(train))[: len(work.larger.pixels)])
    parts = [taylor(layers, train, some[first : first + BATCH]) for first in range(0, len(some), BATCH)]
    return [ranking_of(np.sum(of_layer, axis=0)) for of_layer in zip(*parts, strict=True)]


def taylor(layers: Layers, train: Images, some: Positions) -> list[NDArray[np.float32]]:
    """[C] of each convolution: sums over these images."""
    maps = []
    with tf.GradientTape() as tape:
        value = layers.preprocess(tf.constant(train.pixels[some]))
        features = []
        for block, steps in layers.blocks.items():
            for step in steps:
                value = step(value)
                if hasattr(step, "kernel_size"):
                    tape.watch(value)
                    maps.append(value)
            if block in layers.pools:
                features.append(chain(value, layers.pools[block]))
        logits = chain(tf.concat(features, axis=1), layers.head)
        labels = tf.constant(train.labels[some])
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    slopes = tape.gradient(loss, maps)
    return [
        np.abs((found.numpy() * slope.numpy()).sum(axis=(1, 2))).sum(axis=0)
        for found, slope in zip(maps, slopes, strict=True)
    ]


def by_filters(layers: Layers) -> list[Ranking]:
    """Channels by the sums of absolute weights of their filters."""
    return [ranking_of(np.abs(layer.get_weights()[0]).sum(axis=(0, 1, 2))) for layer in layers.convolutions]


def ranking_of(worth: NDArray[np.floating]) -> Ranking:
    """Most worth first; the curve is of no use here."""
    return Ranking(np.argsort(-worth, kind="stable"), np.zeros(len(worth)))


if __name__ == "__main__":
    main()
