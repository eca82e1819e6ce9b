"""Making the plan of a run, keeping it for a resume, and refusing what cannot work before the work."""

from dataclasses import dataclass, fields
from pathlib import Path

from edgetl import images
from edgetl.cache import ActivationCache, default_folder, parse_size
from edgetl.card import InputSpec
from edgetl.config import Block, Head, TrainConfig
from edgetl.errors import ModelFolderError, UsageError
from edgetl.files import fingerprint, write_atomically
from edgetl.keras.plan import Plan, Situation, check_room, estimate_work, estimated, make_plan
from edgetl.keras.rates import measure_rates
from edgetl.keras.weights import Trunk
from edgetl.keras.workplace import PLAN_FILE
from edgetl.listing import Listing, check_classes, list_images
from edgetl.machine import cores
from edgetl.progress import say
from edgetl.records import RecordError, from_json, to_json
from edgetl.transfer.cuts import candidates
from edgetl.vgg16 import conv_shapes

_FREE = {  # what a resume may change
    "minutes", "resume", "overwrite", "tensorboard", "cache_folder", "cache_limit", "shrink",
    "workers_config", "class_map", "weights", "allow_download",
}  # fmt: skip


@dataclass(frozen=True)
class StoredPlan:
    """A plan and the settings that it was made for."""

    settings: str  # their fingerprint
    plan: Plan


def plan_for(config: TrainConfig, data: Path, partial: Path, trunk: Trunk) -> bytes:
    """The stored plan of an interrupted run, or a new one, as JSON.

    Raises `ModelFolderError` when the stored one cannot be read or was made for other settings, else like
    `make_plan` and `check_room`.
    """
    file = partial / PLAN_FILE
    if config.resume and file.is_file():
        try:
            stored = from_json(StoredPlan, file.read_bytes())
        except (OSError, RecordError) as error:
            raise ModelFolderError(
                f"The plan {file} cannot be read: {error}.", "Start again without --resume."
            ) from error
        if stored.settings != _fingerprint_of(config):
            raise ModelFolderError(
                "The interrupted run had other data or settings.",
                "Give the same DATA and options as before, or start again without --resume.",
            )
        say("going on with the plan of the interrupted run")
        return to_json(stored.plan).encode()
    listing = list_images(data, config.class_map)
    check_classes(listing)
    plan = _new_plan(config, listing, trunk)
    write_atomically(file, to_json(StoredPlan(_fingerprint_of(config), plan)))
    return to_json(plan).encode()


def _fingerprint_of(config: TrainConfig) -> str:
    """Of the settings that decide what training does; identity, checked later, covers data and weights."""
    return fingerprint(
        f"{field.name} {getattr(config, field.name)}" for field in fields(config) if field.name not in _FREE
    )


def _new_plan(config: TrainConfig, listing: Listing, trunk: Trunk) -> Plan:
    deepest = config.cut or next(block for block in Block if len(conv_shapes(block)) >= len(trunk.kernels))
    work = estimate_work(listing, config)
    rates = measure_rates(listing.entries, config.image_size or 64, threads=cores())
    situation = Situation(work, rates, deepest, trunk.widths)
    plan = make_plan(config, situation)
    spec = spec_of(trunk, plan.image_size)
    if config.head is not Head.FLATTEN and not candidates(
        spec, config.cut, config.head, config.scales, deepest
    ):
        raise UsageError(
            f"Nothing is left to choose: at {plan.image_size} pixels the maps after {deepest} are too small "
            f"for --head {config.head or 'gap'} with --scales {config.scales or 1}.",
            "Use a larger --image-size, another --cut, --head gap or --scales 1.",
        )
    return estimated(check_room(plan, work, cache_of(config), shrink=config.shrink), situation)


def cache_of(config: TrainConfig) -> ActivationCache:
    """The cache that the settings name."""
    return ActivationCache(config.cache_folder or default_folder(), parse_size(config.cache_limit))


def spec_of(trunk: Trunk, side: int) -> InputSpec:
    """What a network with this trunk takes."""
    return InputSpec(side, side, trunk.mean_rgb, trunk.scale, images.WHITE, images.PREPROCESSING_VERSION)
