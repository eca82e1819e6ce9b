"""What all tries of `compress` share: goals, the larger network's answers, its channels, what layers cost."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgetl import images
from edgetl.answers import AnswerFile
from edgetl.cache import parse_size
from edgetl.card import KERAS, ModelCard, Network
from edgetl.classifier import Classifier
from edgetl.config import CompressConfig, ExportConfig, Format, Precision
from edgetl.dataset import Dataset, Entry, Images, Role, read_images
from edgetl.engines import classifier_of, run_batches
from edgetl.errors import DataError, UsageError
from edgetl.features.latency import LatencyTable, measure
from edgetl.files import fingerprint, make_folder, write_atomically
from edgetl.keras.compressing import Larger, lesson_plan, pixels_for_ranking, settings_of
from edgetl.keras.distill import DistillSettings
from edgetl.keras.history import versions
from edgetl.keras.lessons import NO_LABEL, LessonPlan, Lessons, make_lessons
from edgetl.keras.pruning import rankings
from edgetl.keras.rates import has_fast_int8
from edgetl.keras.workplace import ATTEMPTS
from edgetl.progress import say
from edgetl.quantize.goals import Goals, allowed_drop
from edgetl.quantize.search import Tuning
from edgetl.records import RecordError, from_json, to_json
from edgetl.results import Attempt, LayerCost
from edgetl.steps.making import Variant, build
from edgetl.steps.promise import FloatNetwork, tuning_of
from edgetl.vgg16 import multiplications

NETWORK_GOALS = ("max_size", "max_latency", "macs")
IMAGES_AT_ONCE = 32
_ASKING_SHARE = 0.3  # of the time left, for the larger network's answers
_WORTH_INT8 = 1e12  # multiply-adds: less is not worth quantizing the larger network first


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
        macs = "" if self.config.macs is None else f", at most {self.config.macs:g} million multiply-adds"
        return self.goals.in_words() + macs

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
        misses=work.goals.misses(
            keeps=upper < work.goals.max_drop, size_bytes=learnt.size_bytes, latency_ms=learnt.latency_ms
        ),
        chosen=False,
    )
    say(
        f"{learnt.name}: {100 * attempt.tuning_accuracy:.1f} % of {attempt.images} tuning images right, "
        f"{harmful} harmful and {helpful} helpful flips: "
        + (f"misses {' and '.join(attempt.misses)}" if attempt.misses else "keeps to all goals")
    )
    return attempt


def identity_of(work: Work, what: object) -> str:
    """Of all that decides what training gives; `what`: the network, or what tells it from others."""
    lessons = work.larger.lessons
    return fingerprint(
        [
            *(f"{name} {number}" for name, number in versions().items()),
            work.parent.model.card.keras_sha256,
            repr((what, work.settings, lessons.pictures, work.config.augment, work.config.minutes)),
            *[digest for role in Role for digest in work.dataset.roles[role].digests],
            str(lessons.images),
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


def prepare(
    config: CompressConfig,
    goals: Goals,
    parent: FloatNetwork,
    dataset: Dataset,
    *,
    partial: Path,
    began: float,
) -> Work:
    """What all tries share: the larger network's answers, its channels ranked, and what layers cost."""
    layers = parent.sources.layers
    train = dataset.roles[Role.TRAIN]
    sources = [train] if config.unlabelled is None else [train, unlabelled(config.unlabelled, dataset)]
    count = sum(len(source) for source in sources)
    plan, settings = lesson_plan(config, count), settings_of(config, count)
    say(f"plan: {count} images in {plan.pictures} pictures each, {settings.epochs} epochs of learning a try")
    tuning = tuning_of(parent, ExportConfig(data=dataset.folder, threads=config.threads), goals)
    pixels = pixels_for_ranking(layers, train, config.seed)
    ranked = rankings(layers, pixels, config.seed)
    make_folder(partial / ATTEMPTS)
    table = _table(parent, partial)
    lessons = _lessons(parent, sources, plan, partial, _end_of_asking(config, began))
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
    if path.is_file():
        with suppress(RecordError):
            stored = from_json(_StoredTable, path.read_bytes())
            if stored.keras_sha256 == identity:
                return stored.table
    layers = parent.sources.layers
    table = measure(layers.spec, layers.network.cut)
    write_atomically(path, to_json(_StoredTable(identity, table)))
    return table


def _end_of_asking(config: CompressConfig, began: float) -> float | None:
    """By the monotonic clock; None: there is no limit."""
    if config.minutes is None:
        return None
    now = time.monotonic()
    return now + _ASKING_SHARE * (began + 60 * config.minutes - now)


def _lessons(
    parent: FloatNetwork, sources: Sequence[Images], plan: LessonPlan, partial: Path, end: float | None
) -> Lessons:
    """What to learn from; answers are kept for a resume. end: of asking, by the monotonic clock.

    Where time is limited, a resume asks no more: what learnt from fewer pictures must be found again.
    """
    digests = [digest for source in sources for digest in source.digests]
    parts = [parent.model.card.keras_sha256, repr(plan), *digests, *map(repr, versions().items())]
    file = AnswerFile(partial / ATTEMPTS / "answers.npz", fingerprint(parts))
    known = file.read()
    lessons = make_lessons(
        sources,
        plan,
        _teacher(parent, plan.pictures * len(digests)),
        partial,
        known=known,
        keep=file.write,
        is_enough=lambda: end is not None and (known is not None or time.monotonic() > end),
    )
    if lessons.pictures < plan.pictures:
        say(f"{lessons.pictures} of {plan.pictures} pictures of each image: more would take too long")
    return lessons


def _teacher(parent: FloatNetwork, pictures: int) -> Classifier:
    """The larger network in the engine that is fastest here."""
    spec, network = parent.model.card.input, parent.model.card.network
    work = pictures * multiplications(spec.height, spec.width, None, network.cut, network.channels)
    precision = Precision.INT8 if has_fast_int8() and work > _WORTH_INT8 else Precision.FP32
    built = build(parent.sources, parent.model, Variant(Format.ONNX, precision))
    return classifier_of(built.content, Format.ONNX, precision, 0)


def unlabelled(folder: Path, dataset: Dataset) -> Images:
    """All readable images at any depth of a folder, but none that certifies. Raises `DataError`."""
    paths = images.find([str(folder)]) if folder.is_dir() else []
    _, height, width, _ = dataset.roles[Role.TRAIN].pixels.shape
    found, _, skipped = read_images([Entry(path, NO_LABEL, "") for path in paths], folder, height, width)
    known = {digest for role in Role for digest in dataset.roles[role].digests}
    new = [position for position, digest in enumerate(found.digests) if digest not in known]
    if not new:
        raise DataError(
            f"{folder} has no readable images that the model has not seen.",
            "Name a folder of images, at any depth, or leave out --unlabelled.",
        )
    known_already = len(found.digests) - len(new)
    say(f"{len(new)} images without labels, {known_already} known already, {len(skipped)} unreadable")
    return Images(
        tuple(found.paths[i] for i in new),
        found.pixels[new],
        found.labels[new],
        tuple(found.digests[i] for i in new),
    )
