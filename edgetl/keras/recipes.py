"""The two recipes: every image through everything in every epoch, or nothing twice and to a plan."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetl.card import CutScore, EpochRecord, Network
from edgetl.config import Arithmetic, Block, Head, TrainConfig, Unfreeze
from edgetl.dataset import Dataset, Role, load, role_fingerprint
from edgetl.features.frozen import Calibration, FrozenTrunk
from edgetl.features.graph import TrunkWeights
from edgetl.files import fingerprint, storing, write_atomically
from edgetl.keras.checkpoint import Checkpoint, Clock
from edgetl.keras.fit import Fitted, ReadyHead, Start, fit
from edgetl.keras.history import HISTORY_FILE, history_csv, identity_of, members_of
from edgetl.keras.inputs import StageInputs, TrainingImages, VariedPixels
from edgetl.keras.linear import (
    Gallery,
    Linear,
    LinearSettings,
    fit_linear,
    map_scale,
    stage_inputs,
    views_of,
)
from edgetl.keras.network import HIDDEN_UNITS, Layers, check_reach, copy_weights, make_layers, set_trunk
from edgetl.keras.parallel import ALONE, Communication
from edgetl.keras.plan import Plan
from edgetl.keras.planning import cache_of, plan_for, spec_of
from edgetl.keras.schedule import (
    CLASSIC_IMAGE_SIZE,
    Schedule,
    classic_schedule,
    finetune_schedule,
    hidden_schedule,
)
from edgetl.keras.sharing import of_first
from edgetl.keras.tensorboard import curves_writer
from edgetl.keras.weights import Trunk
from edgetl.keras.workplace import CHECKPOINT_FILE
from edgetl.machine import cores
from edgetl.progress import say
from edgetl.records import from_json
from edgetl.transfer.cuts import LOWEST_CUT, LOWEST_TUNED_CUT, candidates
from edgetl.transfer.heads import FeatureScale
from edgetl.vgg16 import conv_shapes


@dataclass(frozen=True)
class Run:
    """What one `train` was asked for, and where it works."""

    config: TrainConfig
    data: Path
    partial: Path  # the working folder
    trunk: Trunk
    began: float  # time.monotonic() when the command began
    communication: Communication = ALONE

    @property
    def seconds(self) -> float:
        """Since the command began."""
        return time.monotonic() - self.began


@dataclass(frozen=True)
class Trained:
    """The network, in float32, and how it came about."""

    layers: Layers
    dataset: Dataset
    schedule: Schedule
    plan: Plan | None
    cuts: tuple[CutScore, ...]
    fitted: Fitted


def train_classic(run: Run) -> Trained:
    """Every image through the whole network, forward and back, in every epoch."""
    config, schedule = run.config, classic_schedule(run.config)
    dataset = _read(run, config.image_size or CLASSIC_IMAGE_SIZE)
    _tell_stages(schedule)
    layers = _untrained(run, dataset, schedule)
    inputs = [_pixel_inputs(dataset, schedule) for _ in schedule.stages]
    width = layers.features
    start = Start(FeatureScale(np.ones(width, np.float32), np.zeros(width, np.float32)))
    limit = 60 * config.minutes if config.minutes else None
    fitted = _fit(run, layers, dataset, schedule, inputs=inputs, start=start, limit_seconds=limit)
    return Trained(_in_float32(layers, schedule.arithmetic), dataset, schedule, None, (), fitted)


def train_by_plan(run: Run) -> Trained:
    """Features once, a head in closed form, then what the plan has time for."""
    config = run.config
    plan = _plan(run)
    dataset = _read(run, plan.image_size)
    with ExitStack() as open_rows:
        gallery = Gallery(_frozen_trunk(run, plan, dataset), _pictures(dataset), open_rows)
        if config.head is Head.FLATTEN:
            linear = None
            schedule = hidden_schedule(config, plan, len(gallery.images.train))
            views = views_of(plan.views, plan.augment, config.seed, mirrored=True)
        else:
            linear = _linear(run, plan, gallery)
            schedule = finetune_schedule(
                config, plan, linear.candidate, penalty=linear.fit.penalty, mirrored=linear.mirrored
            )
            views = linear.views
        _tell_stages(schedule)
        layers = _untrained(run, dataset, schedule)
        inputs = [
            _pixel_inputs(dataset, schedule)
            if stage.boundary is None
            else stage_inputs(gallery, views, stage.boundary)
            for stage in schedule.stages
        ]
        start = _start(run, linear, inputs, layers)
        limit = 60 * plan.minutes - plan.ending_seconds if plan.minutes else None
        fitted = _fit(run, layers, dataset, schedule, inputs=inputs, start=start, limit_seconds=limit)
    cuts = linear.cuts if linear else ()
    return Trained(_in_float32(layers, schedule.arithmetic), dataset, schedule, plan, cuts, fitted)


def _plan(run: Run) -> Plan:
    """The plan that worker 0 makes for all, told to whoever watches."""
    if run.config.cut:
        check_reach(run.trunk.kernels, run.config.cut)
    plan = from_json(
        Plan,
        run.communication.bytes_from_first(lambda: plan_for(run.config, run.data, run.partial, run.trunk)),
    )
    for line in plan.lines():
        say(line)
    return plan


def _read(run: Run, side: int) -> Dataset:
    dataset = load(run.data, side, side, run.config, threads=cores(), scratch=run.partial)
    counts = ", ".join(f"{len(dataset.roles[role])} {role.value}" for role in Role)
    say(f"{len(dataset.labels)} classes; images: {counts}")
    if dataset.skipped:
        say(f"{len(dataset.skipped)} files could not be read and are left out (see: edgetl data)")
    if dataset.leaking:
        say(f"{len(dataset.leaking)} images copy others and are kept out of certification")
    run.communication.agree("images and classes", fingerprint([*dataset.labels, *members_of(dataset)]))
    return dataset


def _pictures(dataset: Dataset) -> TrainingImages:
    return TrainingImages(dataset.roles[Role.TRAIN], dataset.roles[Role.TUNING])


def _frozen_trunk(run: Run, plan: Plan, dataset: Dataset) -> FrozenTrunk:
    calibration = dataset.roles[Role.CALIBRATION]
    return FrozenTrunk(
        name=f"{run.trunk.origin.name} trunk",
        weights=TrunkWeights(run.trunk.kernels, run.trunk.biases),
        spec=spec_of(run.trunk, plan.image_size),
        precision=plan.features,
        calibration=Calibration(calibration.pixels[:], role_fingerprint(calibration.digests)),
        cache=cache_of(run.config),
    )


def _linear(run: Run, plan: Plan, gallery: Gallery) -> Linear:
    config = run.config
    lowest = LOWEST_TUNED_CUT if plan.tunes and plan.unfreeze is Unfreeze.ALL else LOWEST_CUT
    tried = candidates(
        gallery.trunk.spec, config.cut, config.head, config.scales, plan.deepest, lowest=lowest
    )
    settings = LinearSettings(plan.views, plan.augment, config.class_weights, config.seed)
    likely = Block.BLOCK3 if plan.tunes and plan.unfreeze is None and plan.deepest > Block.BLOCK3 else None
    own = fit_linear(gallery, tried, settings, likely, lambda: run.seconds)
    return of_first(own, settings, run.communication)


def _start(run: Run, linear: Linear | None, inputs: list[StageInputs], layers: Layers) -> Start:
    if linear is not None:
        return Start(linear.scale, ReadyHead(linear.fit.head, linear.tuning_logits, linear.records))
    own = map_scale(inputs[0], layers.features)
    scale = FeatureScale(*run.communication.from_first([own.factor, own.offset]))
    return Start(scale)


def _untrained(run: Run, dataset: Dataset, schedule: Schedule) -> Layers:
    """The network with the pretrained trunk and a new head."""
    side = dataset.roles[Role.TRAIN].pixels.shape[1]
    hidden = HIDDEN_UNITS if schedule.head is Head.FLATTEN else 0
    widths = run.trunk.widths[: len(conv_shapes(schedule.cut))]
    network = Network(schedule.cut, schedule.head, schedule.scales, hidden, len(dataset.labels), widths)
    layers = make_layers(network, spec_of(run.trunk, side), run.config.seed, schedule.arithmetic)
    set_trunk(layers, run.trunk.kernels, run.trunk.biases)
    return layers


def _pixel_inputs(dataset: Dataset, schedule: Schedule) -> StageInputs:
    train, tuning = dataset.roles[Role.TRAIN], dataset.roles[Role.TUNING]
    varied = VariedPixels(train.pixels, schedule.augment, schedule.flip, schedule.seed)
    return StageInputs(varied, tuning.pixels)


def _fit(
    run: Run,
    layers: Layers,
    dataset: Dataset,
    schedule: Schedule,
    *,
    inputs: list[StageInputs],
    start: Start,
    limit_seconds: float | None,
) -> Fitted:
    """The stages, with a checkpoint, curves and a history file in the working folder."""
    communication = run.communication
    identity = identity_of(run.trunk.origin.sha256, layers, dataset, schedule)
    communication.agree("data, settings and versions of packages", identity)
    checkpoint = Checkpoint(run.partial / CHECKPOINT_FILE, identity, run.config.resume, communication)
    clock = Clock(limit_seconds, checkpoint.state.seconds + run.seconds, communication)
    curves = run.config.tensorboard if communication.is_first else None
    with storing(run.partial), curves_writer(curves) as write_curves:

        def on_epoch(record: EpochRecord) -> None:
            write_curves(record)
            history = history_csv((*checkpoint.state.history, record))
            write_atomically(run.partial / HISTORY_FILE, history)

        pictures = _pictures(dataset)
        return fit(
            layers,
            pictures,
            schedule,
            inputs,
            start,
            checkpoint=checkpoint,
            clock=clock,
            communication=communication,
            on_epoch=on_epoch,
        )


def _in_float32(layers: Layers, arithmetic: Arithmetic) -> Layers:
    """The same weights in layers that compute in float32, as everything that is made from them does."""
    if arithmetic is Arithmetic.FLOAT32:
        return layers
    plain = make_layers(layers.network, layers.spec)
    copy_weights(layers, plain)
    return plain


def _tell_stages(schedule: Schedule) -> None:
    for stage in schedule.stages:
        frozen = stage.boundary or "nothing"
        arithmetic = (
            "" if schedule.arithmetic is Arithmetic.FLOAT32 else f", computed in {schedule.arithmetic}"
        )
        say(f"stage {stage.name}: up to {stage.epochs} epochs, trunk frozen up to {frozen}{arithmetic}")
