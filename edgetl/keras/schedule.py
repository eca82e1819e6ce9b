"""What training will do, decided: settings and recipe become one record that goes into the card."""

from dataclasses import dataclass, replace
from typing import TypeVar

from edgetl.config import Augment, Block, ClassWeights, Head, Optimizer, Recipe, TrainConfig, Unfreeze
from edgetl.errors import UsageError

HEAD_STAGE = "head"
FINETUNE_STAGE = "finetune"
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
    stages: tuple[Stage, ...]
    batch: int
    optimizer: Optimizer
    cosine: bool
    weight_decay: float
    largest_gradient: float | None  # longer gradients are shortened to this norm
    augment: Augment
    views: int
    class_weights: ClassWeights
    minutes: float | None
    seed: int


BLOCK5_FROM_PIXELS = 160  # below, block5's map is 1 to 4 positions wide and block4 transfers better


def decide(config: TrainConfig, train_images: int) -> Schedule:
    """Fill in what the user left to the recipe; `train_images` sets the strength of the default weight decay.

    Raises `UsageError` as `refuse_contradictions` does.
    """
    refuse_contradictions(config)
    if config.recipe is Recipe.CLASSIC:
        return _classic(config)
    cut = _cut(config)
    unfreeze = config.unfreeze or (Unfreeze.ALL if cut is Block.BLOCK1 else Unfreeze(cut.value))
    epochs = _or(config.epochs_finetune, 8)
    head = Stage(
        name=HEAD_STAGE,
        boundary=cut,
        epochs=_or(config.epochs_head, 60),
        steps_per_epoch=config.steps_per_epoch,
        rate=_or(config.rate_head, 2e-2),
        patience=_or(config.patience, 10),
        continues_optimizer=False,
    )
    finetune = Stage(
        name=FINETUNE_STAGE,
        boundary=None if unfreeze is Unfreeze.ALL else _boundary(unfreeze, cut),
        epochs=epochs,
        steps_per_epoch=config.steps_per_epoch,
        rate=_or(config.rate_finetune, 3e-4),
        patience=_or(config.patience, 3),
        continues_optimizer=False,
    )
    augment = config.augment or Augment.LIGHT
    return Schedule(
        recipe=config.recipe,
        head=config.head or Head.GAP,
        cut=cut,
        stages=(head, finetune) if epochs > 0 and finetune.boundary != cut else (head,),
        batch=config.batch,
        optimizer=config.optimizer,
        cosine=True,
        # The same prior on the weights whatever the number of images; 20 suits features of unit deviation.
        weight_decay=_or(config.weight_decay, min(0.1, 20 / train_images)),
        largest_gradient=1.0,
        augment=augment,
        views=config.views or (1 if augment is Augment.OFF else 4),
        class_weights=config.class_weights,
        minutes=config.minutes,
        seed=config.seed,
    )


def refuse_contradictions(config: TrainConfig) -> None:
    """Refuse settings that cannot hold together, before any image is read. Raises `UsageError`."""
    if config.recipe is Recipe.CLASSIC:
        if config.unfreeze not in {None, Unfreeze.ALL}:
            raise UsageError(
                "--recipe classic trains the whole trunk.", "Leave out --unfreeze, or use the default recipe."
            )
        return
    cut = _cut(config)
    if config.unfreeze not in {None, Unfreeze.NONE, Unfreeze.ALL} and str(config.unfreeze) > str(cut):
        raise UsageError(
            f"--unfreeze {config.unfreeze} is above {cut}, the last block that is kept.",
            f"Use --unfreeze none, all or a block up to {cut}, or --cut {config.unfreeze}.",
        )


def _cut(config: TrainConfig) -> Block:
    """The last block that is kept, by the default recipe."""
    return config.cut or (Block.BLOCK5 if config.image_size >= BLOCK5_FROM_PIXELS else Block.BLOCK4)


def _classic(config: TrainConfig) -> Schedule:
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
    return Schedule(
        recipe=config.recipe,
        head=config.head or Head.FLATTEN,
        cut=config.cut or Block.BLOCK5,
        stages=(first, second) if second.epochs > 0 else (first,),
        batch=config.batch,
        optimizer=config.optimizer,
        cosine=False,
        weight_decay=_or(config.weight_decay, 0.0),
        largest_gradient=None,
        augment=config.augment or Augment.OFF,
        views=config.views or 1,
        class_weights=config.class_weights,
        minutes=config.minutes,
        seed=config.seed,
    )


def _boundary(unfreeze: Unfreeze, cut: Block) -> Block:
    """The last frozen block below the lowest trainable one; all that is kept, for `none`."""
    if unfreeze is Unfreeze.NONE:
        return cut
    order = tuple(Block)
    return order[order.index(Block(unfreeze.value)) - 1]


def _or(given: Value | None, default: Value) -> Value:
    return default if given is None else given
