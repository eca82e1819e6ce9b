"""Quantization-aware training: the weights learn to live on the grid of an int8 file.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, section 3: forward with rounded numbers, backward as if nothing had been rounded. The quantizers
are those of the TensorFlow Model Optimization Toolkit. Its wrappers are not used: they begin with ranges of
-6..6, which a slow average leads to where the activations are, and clip everything until then. Here every
range is given.

What is taught is the full-precision network's own answer (Hinton et al., "Distilling the Knowledge in a
Neural Network", 2015), so nothing new is learnt. Labels beside it, a higher temperature, and ranges that are
trained as well made no difference when they were tried.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetl.card import InputSpec
from edgetl.compression.levels import Limit, limited
from edgetl.keras import tf, tf_keras
from edgetl.keras.checkpoint import Clock
from edgetl.keras.inputs import in_batches
from edgetl.keras.network import Layers, above, copy_weights, make_layers, whole
from edgetl.keras.rounding import LEVELS, SMALLEST_RANGE, RoundedLayer, Rounding
from edgetl.measures import mean_kl
from edgetl.pixels import PixelRows
from edgetl.progress import say, standing

Array = NDArray[np.float32]
WARM_SHARE = 0.04  # of the steps, in which the rate rises, as in `fit`
CHECKED_IMAGES = 64  # on which epochs are compared with each other and with the beginning
# Adam makes whole steps of any gradient. Where the loss changes by less than this many nats when a weight
# changes by its own size, that would be noise made large: a network that int8 does not harm would be harmed.
SMALLEST_GRADIENT = 1e-4
LARGEST_GRADIENT = 1.0  # of all together, in the same unit


@dataclass(frozen=True, eq=False)
class QatImages:
    """What is trained on; what the images really show is not asked."""

    pixels: PixelRows  # uint8 RGB [N, H, W, 3]
    probabilities: Array  # [N, classes] of the full-precision network


@dataclass(frozen=True)
class QatSettings:
    """How it is trained.

    `rate` is a share: of the largest weight of a 3x3 kernel for its weights, of itself for a bias. So it
    suits networks whose channels are of whatever size.
    """

    epochs: int = 5
    seconds: float | None = None  # the same seed gives the same weights only if time does not run out
    batch: int = 16
    rate: float = 1e-3
    levels: int = LEVELS  # 64 for `Recipe.reduced`
    seed: int = 0


def fake_quantized(
    layers: Layers,
    highs: Sequence[float],
    *,
    levels: int = LEVELS,
    image_range: tuple[float, float] | None = None,
) -> Any:
    """A model like `whole` that computes in float32 what the int8 file of `layers` does in integers.

    highs: of each convolution's activations, behind its ReLU. image_range: of the preprocessed calibration
    images; without it, of all images there could be. The last Dense layer stays float, and so does what a
    hidden one makes, though not its weights. Raises `ValueError` for highs that are not those of a network
    like this.
    """
    rounded, _ = _rounded_layers(layers, highs, levels, image_range)
    return whole(rounded)


def quantization_aware(
    layers: Layers,
    images: QatImages,
    settings: QatSettings,
    highs: Sequence[float],
    *,
    image_range: tuple[float, float] | None = None,
    limits: Sequence[Limit] = (),
) -> Layers:
    """New float32 layers whose int8 file, made with the ranges `highs`, is nearer to the network taught.

    The trained weights are not rounded; an export rounds them as training did. Of the epochs the one counts
    after which the divergence is least; if training never makes it less, the weights are those of `layers`.
    `highs` and `image_range` as in `fake_quantized`. The export has to use the same: weights that learnt to
    live with clipped activations are worse off with ranges measured anew. `limits` of the weights, for all
    layers but the last Dense, are kept while training, and by what is returned whether it got better or not.

    Raises `EdgetlError` when training diverges, `ValueError` for highs or images of another network.
    """
    if not 0 < len(images.pixels) == len(images.probabilities):
        raise ValueError("quantization-aware training needs images, and probabilities for each")
    tf_keras.utils.set_random_seed(settings.seed)
    tf.config.experimental.enable_op_determinism()
    rounded, own = _rounded_layers(layers, highs, settings.levels, image_range, limits)
    model = above(rounded, None, lambda features: features)
    optimizer = tf_keras.optimizers.Adam(epsilon=SMALLEST_GRADIENT, global_clipnorm=LARGEST_GRADIENT)
    optimizer.build(model.trainable_variables)
    got_better = _train(Run(model, optimizer, images, settings, Clock(settings.seconds, 0.0)))
    trained = make_layers(layers.network, layers.spec)
    copy_weights(layers, trained)
    if got_better:
        for target, source in zip((*trained.convolutions, *trained.head), own, strict=True):
            target.set_weights(source.trained)
    return with_limits(trained, limits) if limits else trained


def with_limits(layers: Layers, limits: Sequence[Limit]) -> Layers:
    """New layers whose weights keep to limits, one for each layer but the last Dense; nothing is trained."""
    made = make_layers(layers.network, layers.spec)
    copy_weights(layers, made)
    for layer, limit in zip((*made.convolutions, *made.head[:-1]), limits, strict=True):
        kernel, bias = layer.get_weights()
        layer.set_weights([limited(kernel, limit), bias])
    return made


def _rounded_layers(
    layers: Layers,
    highs: Sequence[float],
    levels: int,
    image_range: tuple[float, float] | None,
    limits: Sequence[Limit] = (),
) -> tuple[Layers, list[RoundedLayer]]:
    """`layers` with others in place of all that have weights, and those in order."""
    convolutions = layers.convolutions
    if len(highs) != len(convolutions) or not all(0 <= high < math.inf for high in highs):
        raise ValueError(f"{len(convolutions)} finite ranges are needed, not {list(highs)}")
    whole(layers)  # builds those that are not
    roundings = [Rounding(levels, max(float(high), SMALLEST_RANGE)) for high in highs]
    roundings[0] = replace(roundings[0], reads=image_range or _largest_image_range(layers.spec))
    roundings += [Rounding(levels)] * (len(layers.head) - 1)
    if limits:
        roundings = [replace(one, limit=limit) for one, limit in zip(roundings, limits, strict=True)]
    roundings.append(Rounding())
    weighted = (*convolutions, *layers.head)
    made = {
        layer.name: RoundedLayer(layer, rounding) for layer, rounding in zip(weighted, roundings, strict=True)
    }
    blocks = {
        block: tuple(made.get(layer.name, layer) for layer in steps) for block, steps in layers.blocks.items()
    }
    head = tuple(made[layer.name] for layer in layers.head)
    return replace(layers, blocks=blocks, head=head), list(made.values())


def _largest_image_range(spec: InputSpec) -> tuple[float, float]:
    """Of preprocessed images in which every level of every channel occurs; 0 is always in it."""
    ends = [spec.scale * (level - mean) for level in (0, 255) for mean in spec.mean_rgb]
    return min(0.0, *ends), max(0.0, *ends)


@dataclass(frozen=True)
class Run:
    """One training."""

    model: Any  # uint8 RGB -> logits
    optimizer: Any
    images: QatImages
    settings: QatSettings
    clock: Clock

    @property
    def steps(self) -> int:
        """In all epochs; the last of each may have fewer images."""
        return self.settings.epochs * -(-len(self.images.pixels) // self.settings.batch)

    def share(self, steps_done: int) -> float:
        """Done of the steps or of the time, whichever is more."""
        limit = self.clock.limit_seconds
        by_time = 0.0 if limit is None else self.clock.seconds / max(limit, 1e-3)
        return min(1.0, max(steps_done / self.steps, by_time))

    def set_rate(self, steps_done: int) -> None:
        """A short rise, then half a cosine."""
        share = self.share(steps_done)
        rising = min(1.0, (share + 1 / self.steps) / WARM_SHARE)
        self.optimizer.learning_rate = self.settings.rate * rising * 0.5 * (1 + math.cos(math.pi * share))

    def divergence(self) -> float:
        """Mean KL(full precision || rounded) of some images, nats."""
        random = np.random.default_rng(self.settings.seed)
        some = random.permutation(len(self.images.pixels))[:CHECKED_IMAGES]
        logits = in_batches(self.model.predict_on_batch, self.images.pixels[some])
        return mean_kl(self.images.probabilities[some], tf.nn.softmax(logits).numpy())


def _train(run: Run) -> bool:
    """Train the model's variables and leave them as they were best. False: nothing got better."""
    variables = run.model.trainable_variables
    before = run.divergence()
    least, best = before, [variable.numpy() for variable in variables]
    step = _make_step(run.model, run.optimizer)
    with _progress(run) as show:
        for epoch in range(run.settings.epochs):
            if run.clock.is_over():
                break
            _run_epoch(run, step, epoch, show)
            now = run.divergence()
            if _has_diverged(now, before, run):
                break
            if now < least:
                least, best = now, [variable.numpy() for variable in variables]
    for variable, value in zip(variables, best, strict=True):
        variable.assign(value)
    say(f"quantization-aware training: divergence {before:.2g} nats before, {least:.2g} after")
    return least < before


def _has_diverged(now: float, before: float, run: Run) -> bool:
    """Whether a network is farther off than it was, and than one that knows nothing can be."""
    knows_nothing = math.log(run.images.probabilities.shape[1])
    if now <= max(before, knows_nothing):  # not so when it is not a number
        return False
    say(
        f"quantization-aware training diverged: {now:.3g} nats from the full-precision network, "
        f"{before:.3g} before (rate {run.settings.rate:g}); what was best until then is kept"
    )
    return True


@contextmanager
def _progress(run: Run) -> Iterator[Callable[[int], None]]:
    """Takes how many steps are done; shows more where time will end it before the steps do."""
    with standing("quantization-aware training", run.steps) as show:
        yield lambda steps_done: show(int(run.share(steps_done) * run.steps))


def _run_epoch(run: Run, step: Callable[..., None], epoch: int, show: Callable[[int], None]) -> None:
    """Every image once, in an order of its own; cut short when time is up."""
    images, batch = run.images, run.settings.batch
    order = np.random.default_rng((run.settings.seed, epoch)).permutation(len(images.pixels))
    steps_before = epoch * run.steps // run.settings.epochs
    for steps_done, start in enumerate(range(0, len(order), batch), steps_before):
        some = order[start : start + batch]
        run.set_rate(steps_done)
        step(images.pixels[some], images.probabilities[some])
        show(steps_done + 1)
        if run.clock.is_over():
            break


def _make_step(model: Any, optimizer: Any) -> Callable[..., None]:
    """A function of images and the probabilities to be learnt that makes one step."""
    variables = model.trainable_variables

    def step(pixels: Any, probabilities: Any) -> None:
        with tf.GradientTape() as tape:
            own = tf.nn.log_softmax(model(pixels, training=True))
            taught = tf.math.log(tf.maximum(probabilities, np.finfo(np.float32).tiny))
            divergence = tf.reduce_mean(tf.reduce_sum(probabilities * (taught - own), axis=1))
        optimizer.apply_gradients(zip(tape.gradient(divergence, variables), variables, strict=True))

    compiled: Callable[..., None] = tf.function(step, reduce_retracing=True)
    return compiled
