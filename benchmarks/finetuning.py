"""What helps fine-tuning on a few hundred images: each idea alone, against the head in closed form.

`python benchmarks/finetuning.py WORK` needs Debian's `dataset-fashion-mnist` and about half an hour. The loop is
the one of `edgetl.keras.fit`, written out here so that ideas which did not prove themselves need not live there.
"""

import math
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import publish, table
from fashion import write_folders

from edgetl.cache import ActivationCache
from edgetl.card import InputSpec, Network
from edgetl.config import Augment, Block, ClassWeights, FeaturePrecision, TrainConfig
from edgetl.dataset import Dataset, Role, load, role_fingerprint
from edgetl.features.frozen import Calibration, FrozenTrunk
from edgetl.features.graph import TrunkWeights
from edgetl.images import PREPROCESSING_VERSION, WHITE
from edgetl.keras import tf, tf_keras
from edgetl.keras.inputs import StageInputs, TrainingImages, in_batches
from edgetl.keras.linear import Gallery, Linear, LinearSettings, fit_linear, stage_inputs, views_of
from edgetl.keras.network import Layers, above, below, make_layers, set_trunk
from edgetl.keras.weights import load_trunk
from edgetl.steps.demo import copy_samples
from edgetl.transfer.cuts import candidates
from edgetl.transfer.heads import losses_of
from edgetl.vgg16 import block_below

SIDES = {"emoji": 96, "Fashion-MNIST": 64}
BATCH, VIEWS, LARGEST_GRADIENT = 32, 4, 1.0
AVERAGES = (0.3, 0.5, 0.7)  # share of the fine-tuned weights when they are averaged with those before


@dataclass(frozen=True)
class Idea:
    """One way to fine-tune the top block."""

    name: str
    rate: float = 1e-3
    adam: bool = False
    epochs: int = 8
    warm: float = 0.0  # share of the steps in which the rate rises
    mixup: float = 0.0  # of activations and labels, Beta(mixup, mixup)
    smoothing: float = 0.0  # of labels
    falling: float = 1.0  # factor of the rate from each layer to the one below


IDEAS = (
    Idea("SGD"),
    Idea("SGD, a third of the rate", rate=3e-4),
    Idea("warm-up over a tenth of the steps", warm=0.1),
    Idea("mixup 0.3 of activations", mixup=0.3),
    Idea("label smoothing 0.1", smoothing=0.1),
    Idea("rates falling by 0.7 from layer to layer", rate=2e-3, falling=0.7),
    Idea("Adam, warm-up", rate=3e-5, adam=True, warm=0.1),
    Idea("mixup, warm-up, twice the epochs and rate", rate=2e-3, warm=0.1, mixup=0.3, epochs=16),
)


FOUND = (
    "\n\nThe head in closed form has the smallest or nearly the smallest tuning loss. What gains most on test images, "
    "0.86 points on emoji (4 of 464) and 0.44 on Fashion-MNIST, gains nothing on the other data set, or is worse by "
    "tuning loss, the only figure that `edgetl train` may choose by. So the loop has a short warm-up, a cosine rate "
    "and shortened gradients, and its weights are kept only where their tuning loss is smaller; mixup, label "
    "smoothing, falling rates and averaging did not prove themselves and are not part of it."
)


@dataclass(frozen=True)
class Bench:
    """One data set, its linear model, and what fine-tuning starts from."""

    name: str
    dataset: Dataset
    layers: Layers
    model: Any  # activations -> logits
    inputs: StageInputs
    linear: Linear
    certification: Any  # activations of the certification images


def main() -> None:
    """Every idea on both data sets."""
    work = Path(sys.argv[1])
    emoji = work / "emoji"
    if not emoji.exists():
        copy_samples(emoji, ("noto", "twemoji"))
    fashion = write_folders(work / "fashion-2000", train=200, val=50)
    rows: list[tuple[str, ...]] = []
    for name, data in (("emoji", emoji), ("Fashion-MNIST", fashion)):
        with ExitStack() as opened:
            bench = prepare(name, data, work, opened)
            start = [variable.numpy() for variable in bench.model.trainable_variables]
            rows.append((name, "head alone", *scores(bench), "", ""))
            print(rows[-1], flush=True)
            for idea in IDEAS:
                rows += tried(bench, idea, start)
    header = ("data", "idea", "tuning loss", "tuning", "test", "largest epoch gain in tuning loss", "s")
    text = (
        f"The top block and the head, from the head in closed form and {VIEWS} stored views of each image; cosine "
        "rate to zero, gradients shortened to 1, bfloat16. Losses in nats at the best temperature. *Averaged*: "
        "weights between those before and after fine-tuning (share of the latter); of the three shares the one with "
        "the smallest tuning loss. Accuracies in percent; test images are the certification images.\n\n"
        + table(header, rows)
        + FOUND
    )
    publish("finetuning", "What helps fine-tuning on small data", text)


def prepare(name: str, data: Path, work: Path, opened: ExitStack) -> Bench:
    """Features, cut, head in closed form, and activations below the top block."""
    side, trunk = SIDES[name], load_trunk(TrainConfig())
    dataset = load(data, side, side, TrainConfig())
    calibration = dataset.roles[Role.CALIBRATION]
    frozen = FrozenTrunk(
        "imagenet trunk", TrunkWeights(trunk.kernels, trunk.biases), InputSpec(side, side, trunk.mean_rgb, trunk.scale, WHITE, PREPROCESSING_VERSION),
        FeaturePrecision.FP32, Calibration(calibration.pixels[:], role_fingerprint(calibration.digests)),
        ActivationCache(work / "finetuning-cache", 10 * 2**30),
    )  # fmt: skip
    images = TrainingImages(dataset.roles[Role.TRAIN], dataset.roles[Role.TUNING])
    gallery = Gallery(frozen, images, opened)
    tried_cuts = candidates(frozen.spec, None, None, None, Block.BLOCK5)
    settings = LinearSettings(VIEWS, Augment.LIGHT, ClassWeights.NONE, 0)
    began = time.monotonic()
    linear = fit_linear(gallery, tried_cuts, settings, None, lambda: time.monotonic() - began)
    chosen = linear.candidate
    boundary = block_below(chosen.cut)
    network = Network(chosen.cut, chosen.head, chosen.scales, 0, len(dataset.labels))
    layers = make_layers(network, frozen.spec, 0, "bfloat16")
    set_trunk(layers, trunk.kernels, trunk.biases)
    scaling = tf_keras.layers.Rescaling(linear.scale.factor, offset=linear.scale.offset)
    model = above(layers, boundary, scaling)
    layers.dense[0].set_weights([linear.fit.head.kernel, linear.fit.head.bias])
    views = views_of(VIEWS, Augment.LIGHT, 0, mirrored=linear.mirrored)
    inputs = stage_inputs(gallery, views, boundary)
    certification = dataset.roles[Role.CERTIFICATION].pixels
    return Bench(
        name,
        dataset,
        layers,
        model,
        inputs,
        linear,
        in_batches(below(layers, boundary).predict_on_batch, certification),
    )


def tried(bench: Bench, idea: Idea, start: list[np.ndarray]) -> list[tuple[str, ...]]:
    """Two lines: the idea, and its weights averaged with those before."""
    set_weights(bench, start)
    began = time.perf_counter()
    best = run(bench, idea)
    seconds = f"{time.perf_counter() - began:.0f}"
    lines = [(bench.name, idea.name, *scores(bench), f"{bench.linear.fit.tuning_loss - best:+.3f}", seconds)]
    after = [variable.numpy() for variable in bench.model.trainable_variables]
    mixed = {
        share: [(1 - share) * one + share * other for one, other in zip(start, after, strict=True)]
        for share in AVERAGES
    }
    losses = {}
    for share, weights in mixed.items():
        set_weights(bench, weights)
        losses[share] = tuning_scores(bench)[0]
    best_share = min(losses, key=losses.__getitem__)
    set_weights(bench, mixed[best_share])
    lines.append((bench.name, f"{idea.name}, averaged {best_share}", *scores(bench), "", ""))
    for line in lines:
        print(line, flush=True)
    return lines


def run(bench: Bench, idea: Idea) -> float:
    """Fine-tune in place; the smallest tuning loss of any epoch."""
    labels = bench.dataset.roles[Role.TRAIN].labels
    classes = len(bench.dataset.labels)
    random = np.random.default_rng(0)
    steps = idea.epochs * -(-len(labels) // BATCH)
    step, rate = make_step(bench, idea), tf.Variable(0.0)
    done, losses = 0, []
    for epoch in range(idea.epochs):
        order = random.permutation(len(labels))
        for begin in range(0, len(order), BATCH):
            some = order[begin : begin + BATCH]
            inputs = bench.inputs.train.batch(some, epoch)
            wanted = np.eye(classes, dtype=np.float32)[labels[some]]
            wanted = wanted * (1 - idea.smoothing) + idea.smoothing / classes
            if idea.mixup:
                share, other = random.beta(idea.mixup, idea.mixup), random.permutation(len(some))
                inputs = (share * inputs + (1 - share) * inputs[other]).astype(np.float32)
                wanted = (share * wanted + (1 - share) * wanted[other]).astype(np.float32)
            rising = min(1.0, (done + 1) / max(1.0, idea.warm * steps))
            rate.assign(idea.rate * rising * 0.5 * (1 + math.cos(math.pi * done / steps)))
            step(tf.constant(inputs), tf.constant(wanted, tf.float32), rate)
            done += 1
        losses.append(tuning_scores(bench)[0])
    return min(losses)


def make_step(bench: Bench, idea: Idea) -> Any:
    """One step of gradient descent, with a rate of its own for each layer."""
    variables = bench.model.trainable_variables
    depth = len(bench.layers.convolutions)
    kernel_of = {id(layer.kernel): n for n, layer in enumerate(bench.layers.convolutions)}
    kernel_of |= {id(layer.bias): n for n, layer in enumerate(bench.layers.convolutions)}
    factors = [idea.falling ** (depth - 1 - kernel_of.get(id(v), depth - 1)) for v in variables]
    first = [tf.Variable(tf.zeros_like(variable)) for variable in variables]
    second = [tf.Variable(tf.zeros_like(variable)) for variable in variables]
    count, penalty = tf.Variable(0.0), bench.linear.fit.penalty

    @tf.function(reduce_retracing=True)
    def step(inputs: Any, wanted: Any, rate: Any) -> None:
        with tf.GradientTape() as tape:
            logits = bench.model(inputs, training=True)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(wanted, logits))
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, variables), LARGEST_GRADIENT)
        count.assign_add(1.0)
        for variable, gradient, one, two, factor in zip(
            variables, gradients, first, second, factors, strict=True
        ):
            uphill = (
                gradient + penalty * variable if variable is variables[-2] else gradient
            )  # the head's kernel
            one.assign((0.9 * one + 0.1 * uphill) if idea.adam else (0.9 * one + uphill))
            two.assign(0.999 * two + 0.001 * uphill * uphill)
            if idea.adam:
                change = (one / (1 - 0.9**count)) / (tf.sqrt(two / (1 - 0.999**count)) + 1e-8)
            else:
                change = uphill + 0.9 * one
            variable.assign_sub(rate * factor * change)

    return step


def set_weights(bench: Bench, values: list[np.ndarray]) -> None:
    """Put these values into what is trained."""
    for variable, value in zip(bench.model.trainable_variables, values, strict=True):
        variable.assign(value)


def tuning_scores(bench: Bench) -> tuple[float, float]:
    """Loss and accuracy on the tuning images."""
    logits = in_batches(bench.model.predict_on_batch, bench.inputs.tuning)
    losses, accuracy = losses_of(logits, bench.dataset.roles[Role.TUNING].labels)
    return float(losses.mean()), float(accuracy)


def scores(bench: Bench) -> tuple[str, str, str]:
    """Tuning loss, tuning accuracy and test accuracy as shown."""
    loss, accuracy = tuning_scores(bench)
    found = in_batches(bench.model.predict_on_batch, bench.certification).argmax(axis=1)
    right = (found == bench.dataset.roles[Role.CERTIFICATION].labels).mean()
    return f"{loss:.4f}", f"{100 * accuracy:.1f}", f"{100 * right:.2f}"


if __name__ == "__main__":
    main()
