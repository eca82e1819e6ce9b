"""Training in stages: a head on the frozen trunk, then the top of the trunk with it.

Everything is drawn from seeds that depend on stage and epoch only, so a run that was killed and resumed ends
where an undisturbed one does.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgetl.card import EpochRecord
from edgetl.config import Optimizer
from edgetl.errors import EdgetlError
from edgetl.keras import tf, tf_keras
from edgetl.keras.checkpoint import Checkpoint, Clock
from edgetl.keras.inputs import StageInputs, TrainingImages, in_batches
from edgetl.keras.linear import image_weights
from edgetl.keras.network import Layers, above, fold_feature_scale, fold_temperature
from edgetl.keras.parallel import Communication
from edgetl.keras.schedule import FINETUNE_STAGE, Schedule, Stage
from edgetl.progress import say, standing
from edgetl.transfer.heads import FeatureScale, LinearHead, fit_temperature, losses_of

Array = NDArray[Any]
WARM_SHARE = 0.04  # of a stage, in which the rate rises: the head is good already, large steps would undo it


@dataclass(frozen=True)
class ReadyHead:
    """A head that has a closed form."""

    head: LinearHead
    tuning_logits: Array  # [N, classes]
    records: tuple[EpochRecord, ...]  # how it came about; the last is its own


@dataclass(frozen=True)
class Start:
    """Where gradient descent begins: the scale of the features, and the head if it is there already."""

    scale: FeatureScale
    ready: ReadyHead | None = None


@dataclass(frozen=True)
class Fitted:
    """How training went; the weights are in the layers."""

    history: tuple[EpochRecord, ...]
    chosen_stage: str
    chosen_epoch: int
    temperature: float
    minutes: float


def fit(
    layers: Layers,
    images: TrainingImages,
    schedule: Schedule,
    inputs: list[StageInputs],
    start: Start,
    *,
    checkpoint: Checkpoint,
    clock: Clock,
    communication: Communication,
    on_epoch: Callable[[EpochRecord], None],
) -> Fitted:
    """Train `layers` in place: the head given by `start`, then the stages of `schedule` on their `inputs`.

    Raises `EdgetlError` when training diverges.
    """
    tf_keras.utils.set_random_seed(schedule.seed)
    tf.config.experimental.enable_op_determinism()
    scaling = tf_keras.layers.Rescaling(start.scale.factor, offset=start.scale.offset, name="feature_scale")
    lowest = layers.network.scales[0]
    last = above(layers, schedule.stages[-1].boundary if schedule.stages else lowest, scaling)
    tracked = last.trainable_variables
    if start.ready is not None:
        layers.dense[0].set_weights([start.ready.head.kernel, start.ready.head.bias])
        if not checkpoint.state.history:
            checkpoint.keep(start.ready.records, tracked, on_epoch)
    checkpoint.restore(tracked)
    communication.equalize(tracked)
    optimizer = None
    for number, stage in enumerate(schedule.stages):
        model = above(layers, stage.boundary, scaling)
        rate = _rate(stage, schedule, images, clock)
        if stage.continues_optimizer and optimizer:
            optimizer.learning_rate = rate
        else:
            optimizer = _optimizer(rate, schedule)
        optimizer.build(model.trainable_variables)
        if number >= checkpoint.state.stage:
            run = StageRun(
                number, stage, model, optimizer, inputs[number], images, schedule, clock, communication
            )
            _run_stage(run, tracked, checkpoint, on_epoch)
    checkpoint.use_best(tracked)
    if start.ready is not None and not schedule.stages:
        logits = start.ready.tuning_logits
    else:
        logits = in_batches(last.predict_on_batch, inputs[-1].tuning)
    temperature = communication.number_from_first(fit_temperature(logits, images.tuning.labels))
    fold_feature_scale(layers, start.scale.factor, start.scale.offset)
    fold_temperature(layers, temperature)
    communication.equalize(tracked)  # processors that differ round differently
    clock.read()
    communication.finish()
    state = checkpoint.state
    return Fitted(state.history, state.best_stage, state.best_epoch, temperature, clock.seconds / 60)


@dataclass(frozen=True)
class StageRun:
    """Everything one stage needs."""

    number: int
    stage: Stage
    model: Any
    optimizer: Any
    inputs: StageInputs
    images: TrainingImages
    schedule: Schedule
    clock: Clock
    communication: Communication

    @property
    def title(self) -> str:
        """For whoever watches."""
        return "fine-tuning the trunk" if self.stage.name == FINETUNE_STAGE else "training the head"

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return _steps(self.stage, self.schedule, self.images)

    def set_rate(self, steps_done: int, began_seconds: float) -> None:
        """A short rise, then half a cosine that ends with the last step or the time, whichever is first."""
        limit = self.clock.limit_seconds
        if not self.schedule.cosine or limit is None:
            return
        by_steps = steps_done / (self.stage.epochs * self.steps)
        by_time = (self.clock.seconds - began_seconds) / max(1e-3, limit - began_seconds)
        share = min(1.0, max(by_steps, by_time))
        rising = min(1.0, (share + 1e-3) / WARM_SHARE)
        self.optimizer.learning_rate = self.stage.rate * rising * 0.5 * (1 + math.cos(math.pi * share))


def _run_stage(
    run: StageRun, tracked: list[Any], checkpoint: Checkpoint, on_epoch: Callable[[EpochRecord], None]
) -> None:
    """Epochs until the stage ends, tuning stops getting better, or time is up; goes on where a kill was.

    The run's first epoch begins however little time there is: a network nobody trained is no result.
    """
    checkpoint.enter_stage(
        run.number, tracked, run.optimizer, again=run.number > 0 and not run.stage.continues_optimizer
    )
    step = _make_step(run.model, run.optimizer, run.communication)
    before = [r.elapsed_seconds for r in checkpoint.state.history if r.stage != run.stage.name]
    began = before[-1] if before else 0.0
    with _progress(run, began, checkpoint.state.epoch * run.steps) as show:
        while checkpoint.state.epoch < run.stage.epochs and not _is_enough(run, checkpoint):
            started = time.monotonic()
            epoch = checkpoint.state.epoch
            loss, accuracy = _run_epoch(run, step, epoch, began, show)
            own_logits = in_batches(run.model.predict_on_batch, run.inputs.tuning)
            (logits,) = run.communication.from_first([own_logits])
            losses, tuning_accuracy = losses_of(logits, run.images.tuning.labels)
            if not np.isfinite(losses).all():
                _refuse_divergence(run.stage)
            run.clock.read()
            record = EpochRecord(
                stage=run.stage.name,
                epoch=epoch + 1,
                train_loss=loss,
                train_accuracy=accuracy,
                tuning_loss=float(losses.mean()),
                tuning_accuracy=tuning_accuracy,
                seconds=round(time.monotonic() - started, 3),
                elapsed_seconds=round(run.clock.seconds, 3),
            )
            on_epoch(record)
            checkpoint.finish_epoch(record, tracked, run.optimizer, run.clock.seconds)


@contextmanager
def _progress(run: StageRun, began_seconds: float, steps_begun: int) -> Iterator[Callable[[int], None]]:
    """Takes how many steps are done; shows seconds where time decides how many there will be."""
    limit = run.clock.limit_seconds
    if limit is None:
        with standing(run.title, run.stage.epochs * run.steps, steps_begun) as show:
            yield show
        return
    total = max(1, round(limit - began_seconds))

    def seconds() -> int:
        return min(total, int(run.clock.seconds - began_seconds))

    with standing(f"{run.title}, seconds", total, seconds()) as show:
        yield lambda _steps_done: show(seconds())


def _is_enough(run: StageRun, checkpoint: Checkpoint) -> bool:
    """Whether time is up, or the stage has stopped getting better."""
    if run.clock.is_over() and checkpoint.state.history:
        say(f"{run.title}: time is up")
        return True
    patience = run.stage.patience
    if patience is not None and checkpoint.epochs_without_gain(run.stage.name) >= patience:
        say(f"{run.title}: no better tuning loss for {patience} epochs, stopped")
        return True
    return False


def _run_epoch(
    run: StageRun,
    step: Callable[..., tuple[Any, Any]],
    epoch: int,
    began_seconds: float,
    show: Callable[[int], None],
) -> tuple[float, float]:
    """One epoch, cut short when time is up; mean loss and accuracy over its images."""
    labels, batch = run.images.train.labels, run.schedule.batch
    weights = image_weights(labels, run.schedule.class_weights)
    wanted = None if run.stage.steps_per_epoch is None else run.steps * batch
    order = epoch_order(len(labels), wanted, (run.schedule.seed, run.number, epoch))
    losses, correct, seen = 0.0, 0.0, 0
    for steps_done, start in enumerate(range(0, len(order), batch), epoch * run.steps):
        positions = order[start : start + batch]
        run.set_rate(steps_done, began_seconds)
        share = run.communication.share(len(positions))
        mine = positions[share.part]
        inputs = run.inputs.train.batch(positions, epoch, share.part)
        loss, right = step(inputs, labels[mine], share.weight * weights[mine])
        losses += float(loss) * len(positions)
        correct += float(right)
        seen += len(positions)
        show(steps_done + 1)
        if run.clock.is_over():
            break
    return losses / seen, correct / seen


def _refuse_divergence(stage: Stage) -> NoReturn:
    option = "--rate-finetune" if stage.name == FINETUNE_STAGE else "--rate-head"
    raise EdgetlError(
        f"Training diverged: the loss is not a number (stage {stage.name}, rate {stage.rate:g}).",
        f"Use a smaller {option}.",
    )


def epoch_order(count: int, wanted: int | None, seed: tuple[int, ...]) -> NDArray[np.int64]:
    """The images of one epoch: every image once, or `wanted` of them, going round and round."""
    random = np.random.default_rng(seed)
    rounds = 1 if wanted is None else -(-wanted // count)
    return np.concatenate([random.permutation(count) for _ in range(rounds)])[:wanted]


def _make_step(model: Any, optimizer: Any, communication: Communication) -> Callable[..., tuple[Any, Any]]:
    """A function of images, labels and weights that makes one step; gives the loss and how many were right.

    Images of weight 0 do not count.
    """
    variables = model.trainable_variables

    def step(inputs: Any, labels: Any, weights: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses * weights)
        right = tf.logical_and(tf.equal(tf.argmax(logits, axis=1), labels), weights > 0)
        count = tf.reduce_sum(tf.cast(right, tf.float32))
        *gradients, loss, count = communication.sum([*tape.gradient(loss, variables), loss, count])
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss, count

    compiled: Callable[..., tuple[Any, Any]] = tf.function(step, reduce_retracing=True)
    return compiled


def _steps(stage: Stage, schedule: Schedule, images: TrainingImages) -> int:
    return stage.steps_per_epoch or -(-len(images.train.labels) // schedule.batch)


def _rate(stage: Stage, schedule: Schedule, images: TrainingImages, clock: Clock) -> Any:
    """The learning rate over the steps of a stage: half a cosine, or Keras's old `decay=1e-6`."""
    schedules = tf_keras.optimizers.schedules
    if schedule.cosine and clock.limit_seconds is not None:
        return stage.rate  # set anew before every step, see `StageRun.set_rate`
    if schedule.cosine:
        steps = stage.epochs * _steps(stage, schedule, images)
        warm = round(WARM_SHARE * steps)
        if warm == 0:
            return schedules.CosineDecay(stage.rate, steps)
        return schedules.CosineDecay(0.0, steps - warm, warmup_target=stage.rate, warmup_steps=warm)
    return schedules.InverseTimeDecay(stage.rate, decay_steps=1, decay_rate=1e-6)


def _optimizer(rate: Any, schedule: Schedule) -> Any:
    decay = schedule.weight_decay or None
    if schedule.optimizer is Optimizer.ADAM:
        made = tf_keras.optimizers.Adam(rate, weight_decay=decay, global_clipnorm=schedule.largest_gradient)
    else:
        made = tf_keras.optimizers.SGD(
            rate, momentum=0.9, nesterov=True, weight_decay=decay, global_clipnorm=schedule.largest_gradient
        )
    if decay is not None:
        made.exclude_from_weight_decay(var_names=["bias"])
    return made
