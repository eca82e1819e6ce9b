"""Training in stages: a head on the frozen trunk, then the top of the trunk with it.

Everything is drawn from seeds that depend on stage and epoch only, so a run that was killed and resumed ends
where an undisturbed one does.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from edgetl.card import EpochRecord
from edgetl.config import ClassWeights, Optimizer
from edgetl.errors import EdgetlError
from edgetl.keras import tf, tf_keras
from edgetl.keras.activations import in_batches
from edgetl.keras.checkpoint import Checkpoint, Clock
from edgetl.keras.inputs import StageInputs, TrainingImages, prepare_inputs
from edgetl.keras.network import Layers, above, fold_feature_scale, fold_temperature
from edgetl.keras.schedule import FINETUNE_STAGE, Schedule, Stage
from edgetl.progress import Advance, say, task

Array = NDArray[Any]


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
    folder: Path,
    *,
    checkpoint: Checkpoint,
    on_epoch: Callable[[EpochRecord], None],
) -> Fitted:
    """Train `layers` in place. `folder` holds activations while it runs, `checkpoint` what a resume needs.

    Raises `StorageError` when the activations have no room, `EdgetlError` when training diverges.
    """
    tf_keras.utils.set_random_seed(schedule.seed)
    tf.config.experimental.enable_op_determinism()
    clock = Clock(schedule.minutes, checkpoint.state.seconds)
    inputs, scale = prepare_inputs(layers, images, schedule, folder)
    scaling = tf_keras.layers.Rescaling(scale.factor, offset=scale.offset, name="feature_scale")
    last = above(layers, schedule.stages[-1].boundary, scaling)
    tracked = last.trainable_variables
    checkpoint.restore(tracked)
    optimizer = None
    for number, stage in enumerate(schedule.stages):
        model = above(layers, stage.boundary, scaling)
        rate = _rate(stage, schedule, images)
        if stage.continues_optimizer and optimizer:
            optimizer.learning_rate = rate
        else:
            optimizer = _optimizer(rate, schedule)
        optimizer.build(model.trainable_variables)
        if number >= checkpoint.state.stage:
            run = StageRun(number, stage, model, optimizer, inputs[number], images, schedule, clock)
            _run_stage(run, tracked, checkpoint, on_epoch)
    checkpoint.use_best(tracked)
    temperature = fit_temperature(in_batches(last.predict_on_batch, inputs[-1].tuning), images.tuning_labels)
    fold_feature_scale(layers, scale.factor, scale.offset)
    fold_temperature(layers, temperature)
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

    @property
    def title(self) -> str:
        """For whoever watches."""
        return "fine-tuning the trunk" if self.stage.name == FINETUNE_STAGE else "training the head"

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return _steps(self.stage, self.schedule, self.images)


def _run_stage(
    run: StageRun, tracked: list[Any], checkpoint: Checkpoint, on_epoch: Callable[[EpochRecord], None]
) -> None:
    """Epochs until the stage ends, tuning stops getting better, or time is up; goes on where a kill was.

    The run's first epoch begins however little time there is: a network nobody trained is no result.
    """
    checkpoint.enter_stage(
        run.number, tracked, run.optimizer, again=run.number > 0 and not run.stage.continues_optimizer
    )
    step = _make_step(run.model, run.optimizer)
    with task(run.title, run.stage.epochs * run.steps) as advance:
        advance(checkpoint.state.epoch * run.steps)
        while checkpoint.state.epoch < run.stage.epochs and not _is_enough(run, checkpoint):
            started = time.monotonic()
            epoch = checkpoint.state.epoch
            loss, accuracy = _run_epoch(run, step, epoch, advance)
            tuning_loss, tuning_accuracy = _score(run.model, run.inputs.tuning, run.images.tuning_labels)
            seconds = round(time.monotonic() - started, 3)
            if not np.isfinite(tuning_loss):
                _refuse_divergence(run.stage)
            name = run.stage.name
            record = EpochRecord(name, epoch + 1, loss, accuracy, tuning_loss, tuning_accuracy, seconds)
            on_epoch(record)
            checkpoint.finish_epoch(record, tracked, run.optimizer, run.clock.seconds)


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
    run: StageRun, step: Callable[..., tuple[Any, Any]], epoch: int, advance: Advance
) -> tuple[float, float]:
    """One epoch, cut short when time is up; mean loss and accuracy over its images."""
    labels, batch = run.images.train_labels, run.schedule.batch
    weights = _image_weights(labels, run.schedule.class_weights)
    wanted = None if run.stage.steps_per_epoch is None else run.steps * batch
    order = epoch_order(len(labels), wanted, (run.schedule.seed, run.number, epoch))
    losses, correct, seen = 0.0, 0.0, 0
    for start in range(0, len(order), batch):
        positions = order[start : start + batch]
        loss, right = step(run.inputs.train.batch(positions, epoch), labels[positions], weights[positions])
        losses += float(loss) * len(positions)
        correct += float(right)
        seen += len(positions)
        advance(1)
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


def _make_step(model: Any, optimizer: Any) -> Callable[..., tuple[Any, Any]]:
    variables = model.trainable_variables

    def step(inputs: Any, labels: Any, weights: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses * weights)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        right = tf.equal(tf.argmax(logits, axis=1), labels)
        return loss, tf.reduce_sum(tf.cast(right, tf.float32))

    compiled: Callable[..., tuple[Any, Any]] = tf.function(step, reduce_retracing=True)
    return compiled


def _score(model: Any, inputs: Array, labels: NDArray[np.int64]) -> tuple[float, float]:
    """Cross-entropy in nats at the best temperature, not finite when training diverged, and accuracy.

    The network that ships is calibrated, so epochs are compared as if they were: confidence that grows too
    fast would otherwise end training before accuracy stops growing. Berta et al., "Rethinking early stopping:
    refine, then calibrate", 2025.
    """
    logits = in_batches(model.predict_on_batch, inputs).astype(np.float64)
    if np.isfinite(logits).all():
        logits /= fit_temperature(logits, labels)
    with np.errstate(over="ignore", invalid="ignore"):
        loss = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()
    return float(loss), float((logits.argmax(axis=1) == labels).mean())


def fit_temperature(logits: Array, labels: NDArray[np.int64]) -> float:
    """The T > 0 that minimises the loss of softmax(logits / T). Guo et al., ICML 2017.

    The labels are smoothed by 1 / (N + 2), as Platt (1999) does for two classes: a few images that are all
    right are no evidence for boundless confidence.
    """
    smoothing = 1 / (len(labels) + 2)

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        right = scaled[np.arange(len(labels)), labels]
        return float(-((1 - smoothing) * right + smoothing * scaled.mean(axis=1)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def _steps(stage: Stage, schedule: Schedule, images: TrainingImages) -> int:
    return stage.steps_per_epoch or -(-len(images.train_labels) // schedule.batch)


def _rate(stage: Stage, schedule: Schedule, images: TrainingImages) -> Any:
    """The learning rate over the steps of a stage: half a cosine, or Keras's old `decay=1e-6`."""
    schedules = tf_keras.optimizers.schedules
    if schedule.cosine:
        return schedules.CosineDecay(stage.rate, decay_steps=stage.epochs * _steps(stage, schedule, images))
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


def _image_weights(labels: NDArray[np.int64], kind: ClassWeights) -> NDArray[np.float32]:
    """One loss weight per image; mean 1. Balanced: each class weighs the same."""
    if kind is ClassWeights.NONE:
        return np.ones(len(labels), np.float32)
    counts = np.bincount(labels)
    return (len(labels) / (np.count_nonzero(counts) * counts[labels])).astype(np.float32)
