"""The search of `compress`: which smaller network, trained until all goals are kept or tries run out."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from edgetl.card import Model
from edgetl.classifier import Classifier
from edgetl.config import Block, Format, Precision
from edgetl.dataset import Role
from edgetl.engines import classifier_of, run_batches
from edgetl.keras.attempts import AttemptFiles, Made
from edgetl.keras.checkpoint import Checkpoint, Clock
from edgetl.keras.compressing import cut_of, given_widths, settings_of, start_of, weights_in, with_head
from edgetl.keras.distill import Distillation, distill
from edgetl.keras.network import Layers
from edgetl.keras.workplace import ATTEMPTS
from edgetl.measures import mean_kl
from edgetl.progress import say
from edgetl.results import Attempt
from edgetl.statistics import tango_lower
from edgetl.steps.making import Sources, Variant, build
from edgetl.steps.promise import latency_of
from edgetl.steps.workshop import (
    IMAGES_AT_ONCE,
    NETWORK_GOALS,
    Learnt,
    Work,
    cuts_for,
    identity_of,
    impossible,
    judged,
    smallest,
)

FIRST_SHARE = 1 / 12  # of the multiply-adds, for the first try where only the drop is limited
STEP = 2.0  # between tries
MOST_ATTEMPTS = 4
_MOST_BUILT = 6  # networks until one keeps to size and time
TRIAL_STEPS = 320  # of learning, about, before one of several networks is chosen
_TRIAL_SHARE = 0.1  # of the time left, for each of them
_ENDING_SHARE = 0.15  # of the time allowed, for the proof


@dataclass(frozen=True, eq=False)
class Start:
    """A smaller network before it has learnt, as an int8 ONNX file."""

    layers: Layers
    size_bytes: int
    latency_ms: float
    divergence: float  # nats, from the larger network, on tuning images


def search(work: Work) -> tuple[Made | None, tuple[Attempt, ...]]:
    """Try until one keeps to all goals and a smaller one does not; the fastest of those that keep to them.

    Where none does by the tuning images, but they are too few to tell, certification may decide about the
    one that comes nearest.
    """
    found: list[tuple[Made, Attempt]] = []
    for start in _starts(work, found):
        found.append(_try(work, start, len(found) + 1))
    keeping = [number for number, (_, attempt) in enumerate(found) if not attempt.misses]
    best = min(keeping, key=lambda number: found[number][1].latency_ms, default=None)
    if best is None:
        open_ones = [number for number, (_, attempt) in enumerate(found) if _is_open(work, attempt)]
        best = min(open_ones, key=lambda number: found[number][1].expected_upper_points, default=None)
    attempts = tuple(replace(attempt, chosen=number == best) for number, (_, attempt) in enumerate(found))
    return (None if best is None else found[best][0]), attempts


def _is_open(work: Work, attempt: Attempt) -> bool:
    """Whether all that an attempt misses is a drop that the tuning images do not prove to be too large."""
    if attempt.misses != ("drop",):
        return False
    return tango_lower(attempt.harmful, attempt.helpful, attempt.images) <= work.goals.max_drop


def _starts(work: Work, found: Sequence[tuple[Made, Attempt]]) -> Iterator[Start]:
    """One network where goals or settings decide it; else networks by what became of those before."""
    config = work.config
    widths = given_widths(config, work.larger.layers)
    if widths is not None:
        yield _measured(work, widths, cut_of(widths))
        return
    if _is_decided(work):
        yield _most_promising(work, 1e6 * config.macs if config.macs else None) or _refuse(work)
        return
    network = work.larger.layers.network
    whole = work.larger.multiplications(network.channels, network.cut)
    share = FIRST_SHARE
    start = _most_promising(work, share * whole)
    if start is None:
        start = _smallest(work)
        share = work.larger.multiplications(start.layers.network.channels, start.layers.network.cut) / whole
    yield start
    keeps = not found[-1][1].misses
    while len(found) < MOST_ATTEMPTS and not _is_over(work, len(found)):
        share = share / STEP if keeps else share * STEP
        start = _most_promising(work, share * whole) if share <= 1 else None
        if start is None:
            return
        yield start
        if (not found[-1][1].misses) != keeps:
            return


def _is_decided(work: Work) -> bool:
    """Whether goals or settings decide the network, so that there is one try."""
    return any(getattr(work.config, name) is not None for name in (*NETWORK_GOALS, "keep", "widths"))


def _is_over(work: Work, tried: int) -> bool:
    """Whether another try like those before would take too long."""
    allowed = work.config.minutes
    return allowed is not None and work.seconds * (tried + 1) / tried > 60 * allowed


def _most_promising(work: Work, most_macs: float | None) -> Start | None:
    """The largest network within the limits; of several places to end it the one that learns fastest."""
    cuts = cuts_for(work.config, work.larger)
    starts = [start for start in (_within(work, cut, most_macs) for cut in cuts) if start is not None]
    if len(starts) < 2:
        return starts[0] if starts else None
    return min(starts, key=lambda start: _loss_after_trial(work, start))


def _loss_after_trial(work: Work, start: Start) -> float:
    """Of the last epoch of a little learning; tuning images are often too few to tell two starts apart."""
    steps = -(-work.larger.lessons.images // work.config.batch)
    epochs = min(work.settings.epochs, -(-TRIAL_STEPS // steps))
    short = replace(work, settings=replace(work.settings, epochs=epochs))
    cut = start.layers.network.cut
    files = AttemptFiles(work.partial / ATTEMPTS, identity_of(short, ("trial", start.layers.network)))
    end = _limit_seconds(work)
    limit = None if end is None else work.seconds + _TRIAL_SHARE * max(0.0, end - work.seconds)
    made = _learnt(short, start, f"trial up to {cut}", files, limit)
    loss = made.history[-1].train_loss if made.history else math.inf
    say(f"up to {cut}: loss {loss:.4f} after a short trial")
    return loss


def _smallest(work: Work) -> Start:
    """The network with the fewest channels."""
    cut = cuts_for(work.config, work.larger)[0]
    return _measured(work, smallest(cut), cut)


def _refuse(work: Work) -> NoReturn:
    """Raise `CheckFailed`: the files of not even the smallest network keep to the limits."""
    start = _smallest(work)
    raise impossible(
        work.config, work.goals, work.larger, size_bytes=start.size_bytes, latency_ms=start.latency_ms
    )


def _within(work: Work, cut: Block, most_macs: float | None) -> Start | None:
    """A network whose file keeps to size and time; estimates learn from files that were made."""
    goals = work.goals
    bytes_more, slower = 0.0, 1.0
    for _ in range(_MOST_BUILT):
        widths = work.larger.within(
            cut,
            multiplications=most_macs,
            int8_bytes=None if goals.max_size_bytes is None else goals.max_size_bytes - bytes_more,
            latency_ms=None if goals.max_latency_ms is None else goals.max_latency_ms / slower,
        )
        if widths is None:
            return None
        start = _measured(work, widths, cut)
        if not goals.misses(keeps=True, size_bytes=start.size_bytes, latency_ms=start.latency_ms):
            return start
        bytes_more = start.size_bytes - work.larger.int8_bytes(widths, cut)
        slower = max(slower * 1.02, start.latency_ms / work.larger.table.of(widths))
    return None


def _measured(work: Work, widths: Sequence[int], cut: Block) -> Start:
    """A network before it learns, with the head that is nearest already, and what its int8 file costs."""
    larger, layers = work.larger, start_of(work.larger, widths, cut)
    others = [with_head(larger, layers, head) for head in larger.heads[1:]]
    return min((_costs(work, one) for one in (layers, *others)), key=lambda start: start.divergence)


def _costs(work: Work, layers: Layers) -> Start:
    network = layers.network
    size_bytes, classifier = _int8(work, layers)
    probabilities = run_batches(
        classifier, work.tuning.pixels, IMAGES_AT_ONCE, "looking at a smaller network"
    )
    latency_ms = latency_of(classifier, work.tuning.pixels)
    divergence = mean_kl(work.tuning.probabilities, probabilities)
    say(
        f"{_widths_in_words(network.channels)} channels, {network.head} head: {size_bytes / 1e3:.0f} kB and "
        f"{latency_ms:.2f} ms in int8, {divergence:.3f} nats from the larger network before it learns"
    )
    return Start(layers, size_bytes, latency_ms, divergence)


def _int8(work: Work, layers: Layers) -> tuple[int, Classifier]:
    """Bytes of the plain int8 ONNX file, and what runs it."""
    parent = work.parent.model
    candidate = Model(work.partial, replace(parent.card, network=layers.network))
    sources = Sources(layers, work.parent.sources.pixels)
    content = build(sources, candidate, Variant(Format.ONNX, Precision.INT8)).content
    return len(content), classifier_of(content, Format.ONNX, Precision.INT8, work.config.threads)


def _try(work: Work, start: Start, number: int) -> tuple[Made, Attempt]:
    """Train one network and see what its int8 file does on tuning images."""
    network = start.layers.network
    multiplications = work.larger.multiplications(network.channels, network.cut)
    if _is_decided(work):  # there will be no other, so that time is left to learn
        work = replace(work, settings=settings_of(work.config, work.larger.lessons.images, multiplications))
    say(f"try {number}: {work.settings.epochs} epochs of learning, up to {network.cut}")
    files = AttemptFiles(work.partial / ATTEMPTS, identity_of(work, network))
    made = _learnt(work, start, f"try {number}", files, _limit_seconds(work))
    _, classifier = _int8(work, made.layers)
    learnt = Learnt(
        name=f"try {number}",
        student="",
        widths=network.channels,
        parameters=weights_in(made.layers),
        giga_macs=multiplications / 1e9,
        size_bytes=start.size_bytes,
        latency_ms=start.latency_ms,
        epochs=len(made.history),
    )
    return made, judged(work, learnt, classifier)


def _learnt(work: Work, start: Start, stage: str, files: AttemptFiles, limit_seconds: float | None) -> Made:
    """The network after learning, unless that has been done."""
    made = files.read(start.layers.network, start.layers.spec)
    if made is not None:
        return made
    checkpoint = Checkpoint(files.checkpoint, files.identity, work.config.resume)
    clock = Clock(limit_seconds, checkpoint.state.seconds + work.seconds)
    tuning = work.dataset.roles[Role.TUNING]
    run = Distillation(
        stage, work.larger.lessons, tuning, work.settings, checkpoint, clock, started_seconds=clock.seconds
    )
    made = Made(distill(start.layers, run, lambda _record: None), checkpoint.state.history)
    files.write(made)
    return made


def _limit_seconds(work: Work) -> float | None:
    """When the try that begins now has to end: half of what is left, or all where there is one try."""
    if work.config.minutes is None:
        return None
    end = 60 * work.config.minutes * (1 - _ENDING_SHARE)
    return end if _is_decided(work) else work.seconds + max(1.0, (end - work.seconds) / 2)


def _widths_in_words(widths: Sequence[int]) -> str:
    return "-".join(map(str, widths))
