"""What all tries of `compress` share: goals, the larger network's answers, its channels, what layers cost."""

import time
from dataclasses import dataclass
from pathlib import Path

from edgetl.cache import parse_size
from edgetl.card import KERAS, ModelCard, Network
from edgetl.classifier import Classifier
from edgetl.compression.widths import aligned
from edgetl.config import Block, CompressConfig, ExportConfig
from edgetl.dataset import Dataset, Role
from edgetl.engines import run_batches
from edgetl.errors import CheckFailed, UsageError
from edgetl.features.latency import LatencyTable, measure
from edgetl.files import fingerprint, make_folder, write_atomically
from edgetl.keras.compressing import Channels, Larger, lesson_plan, pixels_for_ranking, settings_of
from edgetl.keras.distill import DistillSettings
from edgetl.keras.history import versions
from edgetl.keras.pruning import rankings
from edgetl.keras.workplace import ATTEMPTS
from edgetl.progress import say
from edgetl.quantize.goals import Goals, allowed_drop
from edgetl.quantize.search import Tuning
from edgetl.records import kept_record, to_json
from edgetl.results import Attempt, LayerCost
from edgetl.steps.promise import FloatNetwork, tuning_of
from edgetl.steps.teaching import TimeAllowed, learnt_from_mirrored, lessons_of, unlabelled, work_of
from edgetl.vgg16 import conv_shapes

NETWORK_GOALS = ("max_size", "max_latency", "macs")
IMAGES_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Work:
    """Everything the tries have in common."""

    config: CompressConfig
    goals: Goals
    parent: FloatNetwork  # the larger network
    dataset: Dataset
    larger: Larger
    tuning: Tuning  # with the larger network's answers
    settings: DistillSettings
    partial: Path
    began: float

    @property
    def seconds(self) -> float:
        """Since the command began."""
        return time.monotonic() - self.began

    @property
    def parent_accuracy(self) -> float:
        """On the certification images, 0..1."""
        return self.parent.model.card.scores[KERAS].accuracy

    @property
    def goals_in_words(self) -> str:
        """For people."""
        return _in_words(self.goals, self.config)

    def layer_costs(self, network: Network) -> tuple[LayerCost, ...]:
        """What each convolution costs before and after; one that is gone costs nothing."""
        table, before = self.larger.table, self.larger.layers.network.channels
        after = (*network.channels, *[0] * (len(before) - len(network.channels)))
        names = self.parent.sources.names
        times = zip(table.each(before), (*table.each(network.channels), *[0.0] * len(before)), strict=False)
        return tuple(
            LayerCost(name, many, few, ms_before, ms_after)
            for name, many, few, (ms_before, ms_after) in zip(names, before, after, times, strict=True)
        )


@dataclass(frozen=True)
class Learnt:
    """A trained network and what its int8 ONNX file costs, before its answers are looked at."""

    name: str  # for people
    student: str  # a rival's name, "" for a VGG16 with fewer channels
    widths: tuple[int, ...]
    parameters: int
    giga_macs: float
    size_bytes: int
    latency_ms: float
    epochs: int


def judged(work: Work, learnt: Learnt, classifier: Classifier) -> Attempt:
    """What the int8 file of a trained network does on the tuning images, against the larger network."""
    tuning = work.tuning
    probabilities = run_batches(classifier, tuning.pixels, IMAGES_AT_ONCE, f"{learnt.name} on tuning images")
    right = probabilities.argmax(axis=1) == tuning.labels
    before = tuning.probabilities.argmax(axis=1) == tuning.labels
    harmful, helpful = int((before & ~right).sum()), int((right & ~before).sum())
    upper = tuning.expected_upper(harmful, helpful)
    attempt = Attempt(
        student=learnt.student,
        widths=learnt.widths,
        parameters=learnt.parameters,
        giga_macs=learnt.giga_macs,
        size_bytes=learnt.size_bytes,
        latency_ms=learnt.latency_ms,
        epochs=learnt.epochs,
        tuning_accuracy=float(right.mean()),
        images=len(right),
        harmful=harmful,
        helpful=helpful,
        expected_upper_points=100 * upper,
        misses=_misses(work, learnt, upper),
        chosen=False,
    )
    say(
        f"{learnt.name}: {100 * attempt.tuning_accuracy:.1f} % of {attempt.images} tuning images right, "
        f"{harmful} harmful and {helpful} helpful flips: "
        + (f"misses {' and '.join(attempt.misses)}" if attempt.misses else "keeps to all goals")
    )
    return attempt


def _misses(work: Work, learnt: Learnt, upper: float) -> tuple[str, ...]:
    """Goals that a network does not keep to."""
    allowed, goals = work.config.macs, work.goals
    keeps = upper < goals.max_drop
    missed = goals.misses(keeps=keeps, size_bytes=learnt.size_bytes, latency_ms=learnt.latency_ms)
    return missed if allowed is None or 1e3 * learnt.giga_macs <= allowed else (*missed, "macs")


def identity_of(work: Work, what: object) -> str:
    """Of all that decides what training gives; `what`: the network, or what tells it from others."""
    lessons = work.larger.lessons
    return fingerprint(
        [
            *(f"{name} {number}" for name, number in versions().items()),
            work.parent.model.card.keras_sha256,
            repr((what, work.settings, lessons.pictures, work.config.augment, work.config.minutes)),
            *[digest for role in Role for digest in work.dataset.roles[role].digests],
            *lessons.digests,
        ]
    )


def refuse_contradictions(config: CompressConfig) -> None:
    """Raise `UsageError` for settings that cannot hold together."""
    exact = [name for name in ("keep", "widths") if getattr(config, name) is not None]
    limits = [name for name in (*NETWORK_GOALS, "cut") if getattr(config, name) is not None]
    if len(exact) == 2 or (exact and limits):
        both = " and ".join(f"--{name.replace('_', '-')}" for name in (exact + limits)[:2])
        raise UsageError(f"{both} each decide the channels.", "Give one of them.")


def goals_for(config: CompressConfig, card: ModelCard) -> Goals:
    """The goals in numbers. Raises `UsageError`."""
    return Goals(
        max_drop=allowed_drop(config.max_drop, card),
        max_size_bytes=None if config.max_size is None else parse_size(config.max_size),
        max_latency_ms=config.max_latency,
        target=None,
    )


def cuts_for(config: CompressConfig, channels: Channels) -> tuple[Block, ...]:
    """Where a smaller network may end."""
    return (config.cut,) if config.cut else channels.cuts


def smallest(cut: Block) -> tuple[int, ...]:
    """The fewest channels there are."""
    return aligned([1.0 for _ in conv_shapes(cut)])


def impossible(
    config: CompressConfig, goals: Goals, channels: Channels, *, size_bytes: float, latency_ms: float
) -> CheckFailed:
    """The error that not even the smallest network, which costs this, keeps to the limits."""
    cut = cuts_for(config, channels)[0]
    widths = smallest(cut)
    millions = channels.multiplications(widths, cut) / 1e6
    return CheckFailed(
        f"The smallest network there is, with {','.join(map(str, widths))} channels, takes at least "
        f"{latency_ms:.2f} ms, {size_bytes / 1e3:.0f} kB and {millions:.1f} million multiply-adds: "
        f"{_in_words(goals, config)} cannot be kept.",
        "Allow more time or size, or train at a smaller --image-size.",
    )


def _in_words(goals: Goals, config: CompressConfig) -> str:
    macs = "" if config.macs is None else f", at most {config.macs:g} million multiply-adds"
    return goals.in_words() + macs


def _refuse_impossible(config: CompressConfig, goals: Goals, channels: Channels) -> None:
    """Raise `CheckFailed` where weights or layers alone exceed the limits, before any long work."""
    cuts = cuts_for(config, channels)
    limits = {
        "multiplications": config.macs and 1e6 * config.macs,
        "int8_bytes": goals.max_size_bytes,
        "latency_ms": goals.max_latency_ms,
    }
    if all(channels.within(cut, **limits) is None for cut in cuts):
        widths = smallest(cuts[0])
        size_bytes, latency_ms = channels.int8_bytes(widths, cuts[0]), channels.table.of(widths)
        raise impossible(config, goals, channels, size_bytes=size_bytes, latency_ms=latency_ms)


def prepare(
    config: CompressConfig,
    goals: Goals,
    parent: FloatNetwork,
    dataset: Dataset,
    *,
    together: int,
    partial: Path,
    began: float,
) -> Work:
    """What all tries share: the larger network's answers, its channels ranked, and what layers cost.

    Raises `CheckFailed` where no network keeps to the limits.
    """
    layers = parent.sources.layers
    train = dataset.roles[Role.TRAIN]
    sources = [train]
    if config.unlabelled is not None:
        sources.append(unlabelled(config.unlabelled, dataset, partial))
    count = sum(len(source) for source in sources)
    card = parent.model.card
    plan = lesson_plan(config, count, work_of(card), flip=learnt_from_mirrored(card))
    settings = settings_of(config, count)
    say(f"plan: {count} images in {plan.pictures} pictures each")
    asked = ExportConfig(data=dataset.folder, threads=config.threads)
    tuning = tuning_of(parent, asked, goals, together=together)
    pixels = pixels_for_ranking(layers, train, config.seed)
    ranked = rankings(layers, pixels, config.seed)
    make_folder(partial / ATTEMPTS)
    table = _table(parent, partial)
    _refuse_impossible(config, goals, Channels(layers, ranked, table))
    lessons = lessons_of(parent, sources, plan, partial / ATTEMPTS, TimeAllowed(config.minutes, began))
    larger = Larger(layers, ranked, table, pixels, lessons, dataset)
    return Work(config, goals, parent, dataset, larger, tuning, settings, partial, began)


@dataclass(frozen=True)
class _StoredTable:
    """What layers cost when the command first ran: a resume must come to the same networks."""

    keras_sha256: str
    table: LatencyTable


def _table(parent: FloatNetwork, partial: Path) -> LatencyTable:
    """What layers cost on this machine, measured now or when the command that is resumed first ran."""
    path, identity = partial / ATTEMPTS / "layers.json", parent.model.card.keras_sha256
    known = kept_record(_StoredTable, path)
    if known is not None and known.keras_sha256 == identity:
        return known.table
    layers = parent.sources.layers
    table = measure(layers.spec, layers.network.cut)
    write_atomically(path, to_json(_StoredTable(identity, table)))
    return table
