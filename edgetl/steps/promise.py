"""`edgetl export` with goals: a search on the tuning images, then one verdict from certification."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgetl.card import Artifact, Model
from edgetl.classifier import Classifier
from edgetl.config import ExportConfig, Format, Precision, VerifyConfig
from edgetl.engines import classifier_of, run_batches
from edgetl.errors import ExitCode, Undecidable
from edgetl.pixels import spread_over
from edgetl.progress import say
from edgetl.quantize.goals import Goals, precisions_by_format
from edgetl.quantize.noise import onnx_noise, tflite_noise
from edgetl.quantize.onnx_int8 import calibrate
from edgetl.quantize.ranges import covered
from edgetl.quantize.recipe import Origin, Recipe
from edgetl.quantize.search import Candidate, Seen, Tuning, look, search
from edgetl.reference import MOST_TUNING_IMAGES, check_roles_apart, read_tuning_images, tuning_answers
from edgetl.results import Explained, Parity, Tried
from edgetl.scoring import score
from edgetl.statistics import Verdict
from edgetl.steps.advice import images_to_prove
from edgetl.steps.making import Built, Sources, Variant, artifact_of, build, check_float, store
from edgetl.steps.verify import compare, exit_code_of, read_sample, remember, with_holm
from edgetl.vgg16 import layer_multiplications

COMPARED_IMAGES = 64
LEAST_COVERED = 0.99  # like images: 0.999 and more
LEAST_RUNS, TIMED_SECONDS = 5, 0.3
IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class Kept:
    """What came of it: files that keep to all goals, or none and why."""

    artifacts: tuple[Artifact, ...]
    tried: tuple[Tried, ...]
    explained: tuple[Explained, ...]
    parity: tuple[Parity, ...]
    exit_code: ExitCode


@dataclass(frozen=True)
class FloatNetwork:
    """A model folder, and what files are made from its full-precision network."""

    model: Model
    sources: Sources


def keep(
    model: Model, config: ExportConfig, goals: Goals, sources: Sources, judge: Model | None = None
) -> tuple[Model, Kept]:
    """For each format the best file that provably keeps to all goals; nothing is written that does not.

    `judge`: a model with the same roles whose full-precision network certification compares with, instead
    of the model's own; what rounding does is searched against the model's own in any case. Raises
    `Undecidable` before any work when so few certification images cannot carry the promise.
    """
    judge = judge or model
    check_roles_apart(judge)
    wanted = precisions_by_format(goals, config.format, config.precision)
    refuse_too_few(judge, goals, len(wanted))
    tuning = tuning_of(FloatNetwork(model, sources), config, goals, together=len(wanted))
    reached = _covered(sources, tuning)
    if reached < LEAST_COVERED:
        say(
            "the calibration images are unlike the tuning images: their ranges reach only "
            f"{100 * reached:.1f} % of the values in the worst layer; train with a larger --calibration-share"
        )
    searches = [
        Formats(model, config, goals, sources, form, precisions, tuning)
        for form, precisions in wanted.items()
    ]
    chosen = [best for best in [search.best() for search in searches] if best is not None]
    tried = [one for search in searches for one in search.told(chosen)]
    explained = [search.explain(built) for search in searches for built in search.losing()]
    model = model.update(lambda card: replace(card, tried=tuple(tried), explained=tuple(explained)))
    if not chosen:
        return model, Kept((), tuple(tried), tuple(explained), (), ExitCode.CHECK_FAILED)
    model, verdicts = _certify(model, config, goals, chosen, judge)
    tried = [_certified(one, verdicts) for one in tried]
    model = model.update(lambda card: replace(card, tried=tuple(tried)))
    passed = [parity.artifact for parity in verdicts if parity.verdict is Verdict.PASS]
    artifacts = tuple(model.artifact(name) for name in passed)
    return model, Kept(artifacts, tuple(tried), tuple(explained), verdicts, exit_code_of(verdicts))


def _covered(sources: Sources, tuning: Tuning) -> float:
    """The share of the tuning images' values that calibrated ranges reach, in the layer where it is least."""
    some = spread_over(len(tuning.pixels), COMPARED_IMAGES)
    seen = calibrate(sources.onnx, tuning.pixels[some]).activations
    return min(
        covered(known, own) for known, own in zip(sources.onnx_quantizer.activations, seen, strict=True)
    )


def _certified(tried: Tried, verdicts: Sequence[Parity]) -> Tried:
    """What a search chose is no longer chosen when certification did not prove it."""
    name = f"{tried.format}-{tried.precision}"
    verdict = next((parity.verdict for parity in verdicts if parity.artifact == name), Verdict.PASS)
    if not tried.chosen or verdict is Verdict.PASS:
        return tried
    outcome = "certification" if verdict is Verdict.FAIL else "certification, undecided"
    return replace(tried, chosen=False, misses=(outcome,))


def refuse_too_few(model: Model, goals: Goals, files: int) -> None:
    """Raise `Undecidable` where not even so many perfect files, judged together, could be proven."""
    points, have = 100 * goals.max_drop, model.card.reference.images
    needed = images_to_prove(points, files)
    if have >= needed:
        return
    each = "" if files == 1 else f" for {files} formats, which are judged together"
    one = ", or ask for one --format" if have >= images_to_prove(points) else ""
    raise Undecidable(
        f"A drop under {points:.3g} points needs at least {needed} certification images{each}, even if not "
        f"one of them turns wrong; this model has {have}.",
        f"Add {needed - have} labelled images and train again, promise less with --max-drop{one}.",
    )


def tuning_of(network: FloatNetwork, config: ExportConfig, goals: Goals, *, together: int) -> Tuning:
    """The tuning images with what the full-precision network says of them; `together`: files to certify."""
    model, sources = network.model, network.sources
    images = read_tuning_images(model, config.data or model.data_folder, MOST_TUNING_IMAGES)
    full = build(sources, model, Variant(Format.ONNX, Precision.FP32))
    check_float(model, full, config.threads)
    version = model.card.input.preprocessing_version
    known = tuning_answers(model.folder, model.card.keras_sha256, version, images.digests)
    probabilities = known.read()
    if probabilities is None:  # none are kept, or those of another network or other preprocessing
        classifier = classifier_of(full.content, Format.ONNX, Precision.FP32, config.threads)
        what = "reference of the tuning images"
        probabilities = run_batches(classifier, images.pixels, IMAGES_AT_ONCE, what)
    certified_on = model.card.reference.images
    return Tuning(images.pixels, images.labels, probabilities, goals.max_drop, certified_on, together)


@dataclass(frozen=True)
class Formats:
    """The search in one format; the workshop of `quantize.search`."""

    model: Model
    config: ExportConfig
    goals: Goals
    sources: Sources
    form: Format
    precisions: tuple[Precision, ...]
    tuning: Tuning
    made: dict[tuple[Recipe, Origin], Built] = field(default_factory=dict)
    looked_at: list[tuple[Built, Tried]] = field(default_factory=list)

    @property
    def layer_costs(self) -> Sequence[float]:
        """See `Workshop`."""
        spec, network = self.model.card.input, self.model.card.network
        return layer_multiplications(spec.height, spec.width, network.cut, network.channels)

    def build(self, recipe: Recipe, origin: Origin) -> bytes:
        """See `Workshop`."""
        variant = Variant(self.form, Precision.INT8, recipe, origin, self.config.packed)
        self.made[recipe, origin] = built = build(self.sources, self.model, variant)
        return built.content

    def run(self, content: bytes) -> Classifier:
        """See `Workshop`."""
        return classifier_of(content, self.form, Precision.INT8, self.config.threads)

    def best(self) -> Built | None:
        """The fastest file that keeps to all goals by the tuning images: int8 if any can."""
        if Precision.INT8 in self.precisions:
            search(self, self.tuning, self.goals.start, self._note_int8, self.sources.origin)
            found = self._fitting()
            if found:
                return found
        for precision in (Precision.W8A32, Precision.W8A16, Precision.FP16, Precision.FP32):
            if precision in self.precisions:
                variant = Variant(self.form, precision, origin=self.sources.origin, packed=self.config.packed)
                self._note(build(self.sources, self.model, variant))
        return self._fitting()

    def told(self, chosen: Sequence[Built]) -> Iterator[Tried]:
        """Everything looked at, what was chosen marked."""
        for built, tried in self.looked_at:
            yield replace(tried, chosen=any(built is one for one in chosen))

    def losing(self) -> list[Built]:
        """The first int8 file, if it loses too much."""
        first = [(built, tried) for built, tried in self.looked_at if tried.precision == Precision.INT8][:1]
        return [built for built, tried in first if "drop" in tried.misses]

    def explain(self, built: Built) -> Explained:
        """Which layers lose how much, on calibration images."""
        variant, names = built.variant, self.sources.names
        origin = self.sources.of(variant.origin)
        pixels = self.sources.calibration_pixels
        if self.form is Format.ONNX:
            layers = onnx_noise(origin.onnx_quantizer, built.content, names, pixels)
        else:
            layers = tflite_noise(origin.tflite_quantizer, built.content, names, pixels)
        return Explained(str(self.form), variant.in_words(names), layers)

    def _fitting(self) -> Built | None:
        fitting = [(tried.latency_ms, built) for built, tried in self.looked_at if not tried.misses]
        return min(fitting, key=lambda one: one[0])[1] if fitting else None

    def _note_int8(self, candidate: Candidate) -> None:
        self._note(self.made[candidate.recipe, candidate.origin], candidate.seen)

    def _note(self, built: Built, seen: Seen | None = None) -> None:
        """Look at a file, unless the search has, and take its time."""
        variant = built.variant
        classifier = classifier_of(built.content, self.form, variant.precision, self.config.threads)
        seen = seen or look(classifier, self.tuning)
        latency_ms = latency_of(classifier, self.tuning.pixels)
        tried = Tried(
            format=str(self.form),
            precision=str(variant.precision),
            recipe=variant.in_words(self.sources.names),
            size_bytes=len(built.stored),
            latency_ms=latency_ms,
            images=len(self.tuning.labels),
            images_run=seen.images_run,
            harmful=seen.harmful,
            helpful=seen.helpful,
            divergence=seen.divergence,
            expected_upper_points=100 * seen.expected_upper,
            misses=self.goals.misses(keeps=seen.keeps, size_bytes=len(built.stored), latency_ms=latency_ms),
            chosen=False,
        )
        self.looked_at.append((built, tried))
        verdict = f"misses {' and '.join(tried.misses)}" if tried.misses else "keeps to all goals"
        say(
            f"{variant.name}, {tried.recipe}: {seen.harmful} harmful and {seen.helpful} helpful flips among "
            f"{tried.images} tuning images, {latency_ms:.1f} ms, {tried.size_bytes / 1e6:.2f} MB: {verdict}"
        )


def latency_of(classifier: Classifier, pixels: NDArray[np.uint8]) -> float:
    """Milliseconds of one image, the median, after one that is not counted."""
    classifier(pixels[:1])
    times: list[float] = []
    until = time.perf_counter() + TIMED_SECONDS
    while len(times) < LEAST_RUNS or time.perf_counter() < until:
        started = time.perf_counter()
        classifier(pixels[:1])
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def _certify(
    model: Model, config: ExportConfig, goals: Goals, chosen: Sequence[Built], judge: Model
) -> tuple[Model, tuple[Parity, ...]]:
    """The only place of an export that opens certification images, when nothing is left to choose.

    Files that pass are stored.
    """
    sample = read_sample(judge, VerifyConfig(data=config.data))
    found, scores = [], {}
    for built in chosen:
        artifact = artifact_of(built)
        classifier = classifier_of(built.content, artifact.format, artifact.precision, config.threads)
        probabilities = run_batches(classifier, sample.pixels, IMAGES_AT_ONCE, f"certifying {artifact.name}")
        found.append(compare(artifact, sample, probabilities, model.card.labels, 100 * goals.max_drop))
        scores[artifact.name] = score(artifact.name, "certification", probabilities, sample.labels)
    verdicts = with_holm(found)
    passed = [parity for parity in verdicts if parity.verdict is Verdict.PASS]
    names = [parity.artifact for parity in passed]
    for built in chosen:
        if built.variant.name in names:
            model = store(model, built)
    return remember(model, passed, {name: scores[name] for name in names}), verdicts
