"""A small network learns what a larger one says.

Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015: the divergence from the larger
network's softened answers, and where labels are known a little of the usual loss. Everything is drawn from
seeds that depend on the epoch only, so a run that was killed and resumed ends where an undisturbed one does.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetl.card import EpochRecord
from edgetl.config import Arithmetic
from edgetl.dataset import Images
from edgetl.errors import EdgetlError
from edgetl.keras import tf, tf_keras
from edgetl.keras.checkpoint import Checkpoint, Clock
from edgetl.keras.inputs import in_batches
from edgetl.keras.lessons import Lessons
from edgetl.keras.network import Layers, above, copy_weights, make_layers
from edgetl.progress import say, standing
from edgetl.transfer.heads import losses_of

WARM_SHARE = 0.04  # of the steps, in which the rate rises
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class DistillSettings:
    """How the small network is trained."""

    epochs: int
    batch: int
    rate: float
    temperature: float
    label_weight: float  # of the usual loss beside the divergence, 0..1
    arithmetic: Arithmetic
    seed: int


@dataclass(frozen=True, eq=False)
class Distillation:
    """One training, and what it needs."""

    stage: str
    lessons: Lessons
    tuning: Images
    settings: DistillSettings
    checkpoint: Checkpoint
    clock: Clock
    started_seconds: float  # on the clock

    @property
    def steps(self) -> int:
        """In one epoch."""
        return -(-self.lessons.images // self.settings.batch)

    @property
    def began_seconds(self) -> float:
        """When its first epoch began, on the clock."""
        history = self.checkpoint.state.history
        return history[0].elapsed_seconds - history[0].seconds if history else self.started_seconds

    def share(self, steps_done: int) -> float:
        """Done of the steps or of the time, whichever is more."""
        limit = self.clock.limit_seconds
        begun = self.began_seconds
        by_steps = steps_done / (self.settings.epochs * self.steps)
        by_time = 0.0 if limit is None else (self.clock.seconds - begun) / max(1e-3, limit - begun)
        return min(1.0, max(by_steps, by_time))

    def rate(self, share: float) -> float:
        """A short rise, then half a cosine."""
        rising = min(1.0, (share + 1e-3) / WARM_SHARE)
        return self.settings.rate * rising * 0.5 * (1 + math.cos(math.pi * share))


def distill(layers: Layers, run: Distillation, on_epoch: Callable[[EpochRecord], None]) -> Layers:
    """New float32 layers with the weights of `layers` after training; all epochs, or until time is up.

    Raises `EdgetlError` when training diverges.
    """
    trained = make_layers(layers.network, layers.spec, run.settings.seed, run.settings.arithmetic)
    copy_weights(layers, trained)
    teach(above(trained, None, lambda features: features), run, on_epoch)
    plain = make_layers(layers.network, layers.spec)
    copy_weights(trained, plain)
    return plain


def teach(model: Any, run: Distillation, on_epoch: Callable[[EpochRecord], None]) -> None:
    """Train any Keras model, uint8 RGB [N, H, W, 3] -> logits, in place; all epochs, or until time is up.

    One step is made in any case. Raises `EdgetlError` when training diverges.
    """
    settings = run.settings
    tf_keras.utils.set_random_seed(settings.seed)
    tf.config.experimental.enable_op_determinism()
    variables = model.variables  # with those that are not trained: averages of batches
    optimizer = tf_keras.optimizers.Adam(settings.rate, global_clipnorm=LARGEST_GRADIENT)
    optimizer.build(model.trainable_variables)
    run.checkpoint.restore(variables)
    run.checkpoint.enter_stage(0, variables, optimizer, again=False)
    step = _make_step(model, optimizer, settings)
    total = settings.epochs * run.steps
    begun = int(run.share(run.checkpoint.state.epoch * run.steps) * total)
    with standing(f"{run.stage}, steps", total, begun) as show:
        while (epoch := run.checkpoint.state.epoch) < settings.epochs and not (epoch and run.clock.is_over()):
            started = time.monotonic()
            loss, agreement = _run_epoch(run, step, epoch, lambda done: show(int(run.share(done) * total)))
            logits = in_batches(model.predict_on_batch, run.tuning.pixels)
            losses, accuracy = losses_of(logits, run.tuning.labels)
            if not np.isfinite(losses).all() or not math.isfinite(loss):
                raise EdgetlError(
                    f"Distillation diverged: the loss is not a number (rate {settings.rate:g}).",
                    "Use a smaller --rate.",
                )
            record = EpochRecord(
                stage=run.stage,
                epoch=epoch + 1,
                train_loss=loss,
                train_accuracy=agreement,
                tuning_loss=float(losses.mean()),
                tuning_accuracy=accuracy,
                seconds=round(time.monotonic() - started, 3),
                elapsed_seconds=round(run.clock.seconds, 3),
            )
            on_epoch(record)
            run.checkpoint.finish_epoch(record, variables, optimizer, run.clock.seconds)
    if run.checkpoint.state.epoch < settings.epochs:
        say(f"{run.stage}: time was up after {run.checkpoint.state.epoch} of {settings.epochs} epochs")


def _run_epoch(
    run: Distillation, step: Callable[..., tuple[Any, Any]], epoch: int, show: Callable[[int], None]
) -> tuple[float, float]:
    """Every image once, each in one of its pictures; mean loss, and how often both name the same class."""
    lessons, batch = run.lessons, run.settings.batch
    order = np.random.default_rng((run.settings.seed, epoch)).permutation(lessons.images)
    loss, same, seen = 0.0, 0.0, 0
    for steps_done, start in enumerate(range(0, len(order), batch), epoch * run.steps):
        some = order[start : start + batch]
        rows = (epoch + some) % lessons.pictures * lessons.images + some
        rate = run.rate(run.share(steps_done))
        found, agreeing = step(lessons.pixels[rows], lessons.probabilities[rows], lessons.labels[rows], rate)
        loss, same, seen = loss + float(found) * len(some), same + float(agreeing), seen + len(some)
        show(steps_done + 1)
        if run.clock.is_over():
            break
    return loss / seen, same / seen


def _make_step(model: Any, optimizer: Any, settings: DistillSettings) -> Callable[..., tuple[Any, Any]]:
    """A function of pixels, the larger network's probabilities and labels that makes one step."""
    variables, warmth, share = model.trainable_variables, settings.temperature, settings.label_weight

    def step(pixels: Any, probabilities: Any, labels: Any, rate: Any) -> tuple[Any, Any]:
        taught = tf.math.log(tf.maximum(probabilities, np.finfo(np.float32).tiny)) / warmth
        with tf.GradientTape() as tape:
            logits = model(pixels, training=True)
            gap = tf.nn.log_softmax(taught) - tf.nn.log_softmax(logits / warmth)
            divergence = warmth**2 * tf.reduce_sum(tf.nn.softmax(taught) * gap, axis=1)
            known = tf.cast(labels >= 0, tf.float32)
            usual = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), logits)
            loss = tf.reduce_mean((1 - share * known) * divergence + share * known * usual)
        optimizer.learning_rate.assign(rate)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        same = tf.equal(tf.argmax(logits, axis=1), tf.argmax(probabilities, axis=1))
        return loss, tf.reduce_sum(tf.cast(same, tf.float32))

    compiled: Callable[..., tuple[Any, Any]] = tf.function(step, reduce_retracing=True)

    def with_rate(pixels: Any, probabilities: Any, labels: Any, rate: float) -> tuple[Any, Any]:
        return compiled(pixels, probabilities, labels, tf.constant(rate, tf.float32))

    return with_rate
