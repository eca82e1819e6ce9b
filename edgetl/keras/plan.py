"""The plan: what fits into the time, and how long it will take, said before the work begins."""

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from edgetl.cache import ActivationCache
from edgetl.config import (
    Arithmetic,
    Augment,
    Block,
    FeaturePrecision,
    Head,
    Optimizer,
    TrainConfig,
    Unfreeze,
)
from edgetl.errors import StorageError, UsageError
from edgetl.files import storing
from edgetl.keras.rates import Rates, has_fast_int8, resolved_arithmetic
from edgetl.listing import Listing
from edgetl.reference import MOST_TUNING_IMAGES
from edgetl.roles import MOST_CALIBRATION_IMAGES
from edgetl.transfer.cuts import LOWEST_CUT, MOST_SCORED, Candidate
from edgetl.transfer.layout import GRID_CELLS
from edgetl.vgg16 import block_below, blocks_up_to, map_shape, multiplications

DEFAULT_SIDE = 96
SMALLER_SIDES = (96, 80, 64, 48, 32)  # that a budget may choose
MANY_IMAGES = 20_000  # from here the whole trunk is trained, on images that are varied anew
SOME_IMAGES = 5_000  # from here two blocks are trained
LEAST_TUNED_SIDE = 64  # pixels; with few images a head alone on larger pictures is better than less
_VIEWS = 4
_FEW_EPOCHS, _EPOCHS, _MOST_EPOCHS = 4, 8, 30
_STARTING_SECONDS = 8.0  # imports, the probe, making graphs
_QUANTIZING_SECONDS = 6.0
_HEAD_SECONDS = 5.0  # comparing cuts, copies and penalties on a thousand images
_HEAD_SECONDS_PER_VIEW = 1e-3  # fitting the head on one more picture
_ENDING_SECONDS = 4.0
_HALF_BYTES = 2  # of a float16 number
_MOST_POOLED = 4  # blocks that heads are tried on: the cuts, and the block below the lowest
_TOLERANCE = 1.05  # how much too long a plan may look: training adjusts its epochs to what is left


@dataclass(frozen=True)
class Work:
    """How many images there are to each end, as far as is known before they are read."""

    total: int
    train: int
    tuning: int
    certification: int


@dataclass(frozen=True)
class Plan:
    """What training will do, and the seconds each part is expected to take."""

    image_size: int
    features: FeaturePrecision
    views: int
    augment: Augment
    deepest: Block  # the highest block that may be kept
    widths: tuple[int, ...]  # channels of the trunk's convolutions where they are not VGG16's
    unfreeze: Unfreeze | None  # None: so many blocks below the cut as `depth` says
    depth: int
    epochs: int  # expected
    most_epochs: int  # that training may take if it has the time
    batch: int
    optimizer: Optimizer
    rate: float
    arithmetic: Arithmetic
    expected_seconds: dict[str, float]
    minutes: float | None

    @property
    def seconds(self) -> float:
        """Expected in all."""
        return sum(self.expected_seconds.values())

    @property
    def ending_seconds(self) -> float:
        """What has to be left when training ends."""
        return self.expected_seconds["reference"]

    @property
    def tunes(self) -> bool:
        """Whether there is a fine-tuning stage at all."""
        return self.epochs > 0 and self.unfreeze is not Unfreeze.NONE

    def lines(self) -> list[str]:
        """The plan in words."""
        parts = ", ".join(f"{name} {_duration(s)}" for name, s in self.expected_seconds.items() if s >= 1)
        views = f"{self.views} view{'s' if self.views > 1 else ''} of each image"
        budget = "" if self.minutes is None else f" of {self.minutes:g} min allowed"
        size = f"{self.image_size} x {self.image_size} pixels"
        return [
            f"plan: {size}, trunk in {self.features}, {views}, {self._tuning_in_words()}",
            f"expected time: up to about {_duration(self.seconds)}{budget} ({parts})",
        ]

    def _tuning_in_words(self) -> str:
        if not self.tunes:
            return "no fine-tuning"
        if self.unfreeze is None:
            what = "the top block" if self.depth == 1 else f"the top {self.depth} blocks"
        else:
            what = "the whole trunk" if self.unfreeze is Unfreeze.ALL else f"all from {self.unfreeze} up"
        return f"about {self.epochs} epochs of fine-tuning {what} in {self.arithmetic}"

    def boundary_for(self, candidate: Candidate) -> Block | None:
        """Up to where the trunk stays frozen; None: nowhere. Never above a block that the head sees."""
        if self.unfreeze is Unfreeze.NONE:
            return candidate.cut
        if self.unfreeze is Unfreeze.ALL:
            return None
        if self.unfreeze is not None and self.unfreeze.value <= candidate.cut.value:
            boundary = block_below(Block(self.unfreeze.value))
        else:
            boundary = candidate.cut
            for _ in range(self.depth):
                boundary = boundary and block_below(boundary)
        lowest = candidate.scales[0]
        return boundary if boundary is None or boundary <= lowest else lowest


def estimate_work(listing: Listing, config: TrainConfig) -> Work:
    """Counts by the folders' names and the shares."""
    total = len(listing.entries)
    certification = sum(entry.split == "test" for entry in listing.entries)
    tuning = sum(entry.split == "val" for entry in listing.entries)
    certification = certification or round(config.certification_share * total)
    tuning = tuning or round(config.tuning_share * total)
    train = max(1, total - certification - tuning)
    train -= min(MOST_CALIBRATION_IMAGES, round(config.calibration_share * train))
    return Work(total, train, tuning, certification)


@dataclass(frozen=True)
class Situation:
    """What a plan depends on beside the settings."""

    work: Work
    rates: Rates
    deepest: Block  # the highest block that may be kept
    widths: tuple[int, ...] = ()  # channels of the trunk's convolutions where they are not VGG16's


def make_plan(config: TrainConfig, situation: Situation) -> Plan:
    """The most that the time allows, or the default. Raises `UsageError` when no plan fits the time.

    Fine-tuning on smaller pictures comes before a head alone on larger ones, though not on very small ones
    where there are few.
    """
    if config.minutes is None:
        return _plan(config, situation, config.image_size or DEFAULT_SIDE)
    budget = 60 * config.minutes
    sides = (config.image_size,) if config.image_size else SMALLER_SIDES
    many = situation.work.train >= MANY_IMAGES
    asked = bool(config.image_size or config.unfreeze or config.epochs_finetune)
    for side in sides:
        plan = _plan(config, situation, side)
        if side < LEAST_TUNED_SIDE and not many and not asked:
            break
        if config.epochs_finetune is None:
            plan = _with_epochs_for(plan, situation, budget)
        if plan.tunes and plan.seconds <= _TOLERANCE * budget:
            return plan
    least = [_plan(config, situation, side) for side in sides]
    if config.unfreeze not in {None, Unfreeze.NONE} and not config.epochs_finetune:
        least = [replace(plan, epochs=_FEW_EPOCHS, most_epochs=_MOST_EPOCHS) for plan in least]
    elif not config.epochs_finetune:
        least = [replace(plan, unfreeze=Unfreeze.NONE, epochs=0) for plan in least]
    if config.views is None:
        least += [replace(plan, views=1) for plan in least]
    candidates = [estimated(plan, situation) for plan in least]
    for plan in candidates:
        if plan.seconds <= _TOLERANCE * budget:
            return plan
    least_minutes = math.ceil(10 * min(plan.seconds for plan in candidates) / 60) / 10
    raise UsageError(
        f"{config.minutes:g} minutes are too few for {situation.work.total} images on this machine: "
        f"the least is about {least_minutes:g}{' at this --image-size' if config.image_size else ''}.",
        f"Give --minutes {least_minutes:g} or more, or use fewer images.",
    )


def _plan(config: TrainConfig, situation: Situation, side: int) -> Plan:
    """The default plan at one image size."""
    work = situation.work
    many = work.train >= MANY_IMAGES
    augment = config.augment or Augment.LIGHT
    unfreeze = config.unfreeze or (Unfreeze.ALL if many else None)
    if config.epochs_finetune == 0:
        unfreeze = Unfreeze.NONE
    optimizer = config.optimizer or (Optimizer.ADAM if many else Optimizer.SGD)
    epochs = config.epochs_finetune or (_FEW_EPOCHS if many else _EPOCHS)
    plan = Plan(
        image_size=side,
        features=config.features,
        views=1 if augment is Augment.OFF else config.views or (1 if many else _VIEWS),
        augment=augment,
        deepest=situation.deepest,
        widths=situation.widths,
        unfreeze=unfreeze,
        depth=1 if work.train < SOME_IMAGES else 2,
        epochs=0 if unfreeze is Unfreeze.NONE else epochs,
        most_epochs=0 if unfreeze is Unfreeze.NONE else epochs,
        batch=config.batch or (64 if many else 32),
        optimizer=optimizer,
        rate=2e-4 if optimizer is Optimizer.ADAM else 1e-3,
        arithmetic=resolved_arithmetic(config.arithmetic),
        expected_seconds={},
        minutes=config.minutes,
    )
    return estimated(replace(plan, features=_feature_precision(plan, work)), situation)


def _with_epochs_for(plan: Plan, situation: Situation, budget: float) -> Plan:
    """As many epochs as fit; none where too few would to be worth beginning."""
    if not plan.tunes:
        return plan
    without = estimated(replace(plan, epochs=0), situation)
    one = estimated(replace(plan, epochs=1), situation).expected_seconds["fine-tuning"]
    fitting = min(int((budget - without.seconds) / max(one, 1e-3)), _MOST_EPOCHS)
    large = situation.work.train >= MANY_IMAGES and plan.image_size > SMALLER_SIDES[-1]
    epochs = fitting if fitting >= (_EPOCHS if large else _FEW_EPOCHS) else 0
    return estimated(replace(plan, epochs=epochs, most_epochs=_MOST_EPOCHS), situation)


def _feature_precision(plan: Plan, work: Work) -> FeaturePrecision:
    """int8 where the CPU is made for it, and where it saves more than making it costs."""
    if plan.features is not FeaturePrecision.AUTO:
        return plan.features
    pictures = plan.views * work.train + work.tuning
    side = plan.image_size
    worth = pictures * multiplications(side, side, None, min(plan.deepest, Block.BLOCK4), plan.widths) > 1e12
    return FeaturePrecision.INT8 if has_fast_int8() and worth else FeaturePrecision.FP32


def estimated(plan: Plan, situation: Situation) -> Plan:
    """The plan with the seconds that its parts should take."""
    work, rates, side = situation.work, situation.rates, plan.image_size
    cut = min(plan.deepest, Block.BLOCK4)
    whole = multiplications(side, side, None, plan.deepest, plan.widths)
    pictures = plan.views * work.train + work.tuning
    quantizing = _QUANTIZING_SECONDS if plan.features is FeaturePrecision.INT8 else 0.0
    thousands = min(work.train, MOST_SCORED) / 1000
    answered = work.certification + min(work.tuning, MOST_TUNING_IMAGES)
    seconds = {
        "starting": _STARTING_SECONDS,
        "reading": work.total / rates.images_read,
        "features": quantizing + pictures * whole / rates.features(plan.features),
        "head": _HEAD_SECONDS * max(0.5, thousands) + _HEAD_SECONDS_PER_VIEW * plan.views * work.train,
        "fine-tuning": 0.0,
        "reference": _ENDING_SECONDS + answered * whole / rates.forward,
    }
    boundary = plan.boundary_for(Candidate(cut, Head.GAP, (cut,)))
    if plan.tunes and boundary != cut:
        step = multiplications(side, side, boundary, cut, plan.widths)
        training = 3 * step / rates.training(plan.arithmetic)
        seconds["fine-tuning"] = plan.epochs * (work.train * training + work.tuning * step / rates.forward)
    return replace(plan, expected_seconds=seconds)


def check_room(plan: Plan, work: Work, cache: ActivationCache, *, shrink: bool) -> Plan:
    """The plan, or with `shrink` a smaller one, whose activations have room.

    Raises `StorageError` before any work with the size that is needed.
    """
    free = min(cache.limit_bytes, _free_bytes(cache.folder) + cache.usage().size_bytes)
    while needed_bytes(plan, work) > free:
        smaller = _smaller(plan) if shrink else None
        if smaller is None:
            raise StorageError(
                f"The plan needs about {_size(needed_bytes(plan, work))} for activations; "
                f"the cache {cache.folder} can have {_size(free)}.",
                "Add --shrink for a smaller plan, use fewer --views or a smaller --image-size, raise "
                "--cache-limit, free disk space, or name another disk with --cache-folder.",
            )
        plan = smaller
    return plan


def _smaller(plan: Plan) -> Plan | None:
    if plan.views > 1:
        return replace(plan, views=max(1, plan.views // 2))
    if plan.tunes and plan.unfreeze is not Unfreeze.ALL:
        return replace(plan, unfreeze=Unfreeze.NONE, epochs=0)
    return None


def _free_bytes(folder: Path) -> int:
    """On the disk where `folder` is or will be."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    with storing(folder):
        return shutil.disk_usage(existing).free


def needed_bytes(plan: Plan, work: Work) -> int:
    """Of activations on the disk, at most."""
    pictures = plan.views * work.train + work.tuning
    side, pooled = plan.image_size, blocks_up_to(plan.deepest)[-_MOST_POOLED:]
    channels = sum(map_shape(side, side, block, plan.widths)[2] for block in pooled)
    averages = _HALF_BYTES * (2 + GRID_CELLS) * channels  # average, maximum and quarters of each
    cuts = [cut for cut in Block if LOWEST_CUT <= cut <= plan.deepest] or [plan.deepest]
    boundaries = [plan.boundary_for(Candidate(cut, Head.GAP, (cut,))) for cut in cuts] if plan.tunes else []
    shapes = [map_shape(side, side, boundary, plan.widths) for boundary in boundaries if boundary]
    maps = _HALF_BYTES * max((math.prod(shape) for shape in shapes), default=0)
    return pictures * (averages + maps)


def _size(size_bytes: int) -> str:
    mib = max(0, size_bytes) / 2**20
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
