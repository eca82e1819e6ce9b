"""What training will do, stage by stage, with everything that the settings leave to the recipe decided."""

from dataclasses import dataclass, replace
from typing import TypeVar

from edgetl.config import (
    Arithmetic,
    Augment,
    Block,
    ClassWeights,
    FeaturePrecision,
    Head,
    Optimizer,
    Recipe,
    TrainConfig,
    Unfreeze,
)
from edgetl.errors import UsageError
from edgetl.keras.plan import Plan
from edgetl.transfer.cuts import Candidate

HEAD_STAGE, FINETUNE_STAGE = "head", "finetune"
CLASSIC_IMAGE_SIZE = 96
_PATIENCE, _PATIENCE_WITH_TIME = 3, 10  # epochs; with time given, the rate falls only towards its end
Value = TypeVar("Value")


@dataclass(frozen=True)
class Stage:
    """One stretch of training with one optimizer."""

    name: str
    boundary: (
        Block | None
    )  # the trunk up to here is frozen and its activations are computed once; None: nothing is
    epochs: int
    steps_per_epoch: int | None
    rate: float
    patience: int | None  # epochs without a better tuning loss before it ends; None: never
    continues_optimizer: bool  # the classic recipe's second stage goes on where the first stopped


@dataclass(frozen=True)
class Schedule:
    """Everything `train` decided."""

    recipe: Recipe
    head: Head
    cut: Block
    scales: tuple[Block, ...]
    stages: tuple[Stage, ...]  # of gradient descent; a head in closed form needs none
    batch: int
    optimizer: Optimizer
    arithmetic: Arithmetic
    cosine: bool
    weight_decay: float
    largest_gradient: float | None  # longer gradients are shortened to this norm
    augment: Augment
    flip: bool  # whether mirrored copies are among the varied ones
    views: int
    class_weights: ClassWeights
    minutes: float | None
    seed: int


def refuse_contradictions(config: TrainConfig) -> None:
    """Refuse settings that cannot hold together, before any image is read. Raises `UsageError`."""
    if config.recipe is Recipe.CLASSIC:
        _refuse_for_classic(config)
        return
    a_block = config.unfreeze not in {None, Unfreeze.NONE, Unfreeze.ALL}
    if config.cut and a_block and str(config.unfreeze) > str(config.cut):
        raise UsageError(
            f"--unfreeze {config.unfreeze} is above {config.cut}, the last block that is kept.",
            f"Use --unfreeze none, all or a block up to {config.cut}, or --cut {config.unfreeze}.",
        )
    if config.scales == 2 and (config.cut is Block.BLOCK1 or config.head is Head.FLATTEN):
        raise UsageError(
            "--scales 2 needs a block below the last one, and averages.",
            "Use --cut block2 or higher and --head gap, max or grid, or --scales 1.",
        )
    for name in ("epochs_head", "rate_head"):
        if config.head is not Head.FLATTEN and getattr(config, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{option} is for heads that are trained in epochs; this one is solved for at once.",
                f"Leave out {option}, or add --head flatten.",
            )


def _refuse_for_classic(config: TrainConfig) -> None:
    if config.unfreeze not in {None, Unfreeze.ALL}:
        raise UsageError(
            "--recipe classic trains the whole trunk.", "Leave out --unfreeze, or use the default recipe."
        )
    given = {
        "--scales": config.scales not in {None, 1},
        "--features": config.features is not FeaturePrecision.AUTO,
        "--shrink": config.shrink,
    }
    for option, is_given in given.items():
        if is_given:
            raise UsageError(
                f"--recipe classic has no frozen trunk that {option} could be about.",
                f"Leave out {option}, or use the default recipe.",
            )


def finetune_schedule(
    config: TrainConfig, plan: Plan, candidate: Candidate, *, penalty: float, mirrored: bool
) -> Schedule:
    """Fine-tuning after a head in closed form whose penalty is `penalty`."""
    boundary = plan.boundary_for(candidate)
    stage = Stage(
        name=FINETUNE_STAGE,
        boundary=boundary,
        epochs=plan.most_epochs,
        steps_per_epoch=config.steps_per_epoch,
        rate=_or(config.rate_finetune, plan.rate),
        patience=_or(config.patience, _PATIENCE if plan.minutes is None else _PATIENCE_WITH_TIME),
        continues_optimizer=False,
    )
    tunes = plan.epochs > 0 and boundary != candidate.cut
    return replace(
        _defaults(config, plan),
        head=candidate.head,
        cut=candidate.cut,
        scales=candidate.scales,
        stages=(stage,) if tunes else (),
        weight_decay=_or(config.weight_decay, penalty),
        flip=mirrored,
    )


def hidden_schedule(config: TrainConfig, plan: Plan, train_images: int) -> Schedule:
    """The default recipe with a hidden layer in the head: the head has no closed form and is a stage too."""
    cut = config.cut or plan.deepest
    candidate = Candidate(cut, Head.FLATTEN, (cut,))
    schedule = finetune_schedule(
        # The same prior on the weights whatever the number of images; 20 suits features of unit deviation.
        config,
        plan,
        candidate,
        penalty=min(0.1, 20 / train_images),
        mirrored=True,
    )
    head = Stage(
        name=HEAD_STAGE,
        boundary=cut,
        epochs=_or(config.epochs_head, 60),
        steps_per_epoch=config.steps_per_epoch,
        rate=_or(config.rate_head, 2e-2),
        patience=_or(config.patience, 10),
        continues_optimizer=False,
    )
    return replace(schedule, stages=(head, *schedule.stages))


def classic_schedule(config: TrainConfig) -> Schedule:
    """The widely copied Keras script: all trained at once with a small rate, 10 + 10 epochs of 100 steps."""
    first = Stage(
        name=HEAD_STAGE,
        boundary=None,
        epochs=_or(config.epochs_head, 10),
        steps_per_epoch=config.steps_per_epoch or 100,
        rate=_or(config.rate_head, 1e-4),
        patience=config.patience,
        continues_optimizer=False,
    )
    second = replace(
        first,
        name=FINETUNE_STAGE,
        epochs=_or(config.epochs_finetune, 10),
        rate=_or(config.rate_finetune, 1e-4),
        continues_optimizer=True,
    )
    cut = config.cut or Block.BLOCK5
    return Schedule(
        recipe=config.recipe,
        head=config.head or Head.FLATTEN,
        cut=cut,
        scales=(cut,),
        stages=(first, second) if second.epochs > 0 else (first,),
        batch=config.batch or 32,
        optimizer=config.optimizer or Optimizer.SGD,
        arithmetic=Arithmetic.FLOAT32 if config.arithmetic is Arithmetic.AUTO else config.arithmetic,
        cosine=False,
        weight_decay=_or(config.weight_decay, 0.0),
        largest_gradient=None,
        augment=config.augment or Augment.OFF,
        flip=True,
        views=config.views or 1,
        class_weights=config.class_weights,
        minutes=config.minutes,
        seed=config.seed,
    )


def _defaults(config: TrainConfig, plan: Plan) -> Schedule:
    """What does not depend on the images; head and cut are still to be filled in."""
    return Schedule(
        recipe=config.recipe,
        head=Head.GAP,
        cut=plan.deepest,
        scales=(plan.deepest,),
        stages=(),
        batch=plan.batch,
        optimizer=plan.optimizer,
        arithmetic=plan.arithmetic,
        cosine=True,
        weight_decay=0.0,
        largest_gradient=1.0,
        augment=plan.augment,
        flip=True,
        views=plan.views,
        class_weights=config.class_weights,
        minutes=config.minutes,
        seed=config.seed,
    )


def _or(given: Value | None, default: Value) -> Value:
    return default if given is None else given
