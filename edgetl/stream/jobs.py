"""From a request to rows: which way images go, and a job from its folder to its summary."""

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgetl.cache import parse_size
from edgetl.card import Artifact, InputSpec, Model
from edgetl.config import BatchEngine, Format, PredictConfig
from edgetl.engines import classifier_of, embedder_of
from edgetl.errors import needing
from edgetl.progress import say
from edgetl.results import PredictionSummary
from edgetl.rows import STANDARD_OUTPUT, Extra
from edgetl.stream import decode, finish, journal, tuning
from edgetl.stream.classify import Engine, Network
from edgetl.stream.decode import Batch
from edgetl.stream.items import Item
from edgetl.stream.job import Job, begin_job, open_job, settings_of
from edgetl.stream.limits import Limits, limits_of, slots_of
from edgetl.stream.plan import Plan, read_plan
from edgetl.stream.pool import Decoding
from edgetl.stream.run import Classified, Meter, classified, fill
from edgetl.stream.sources import Inputs, Loaded, loaded

FEW = 64  # images that are not worth the start of other processes
PARTIAL_SUFFIX = ".partial"
_MOST_PIXELS = 16 * 96 * 96  # of a batch; larger ones take memory, and time until a wish to stop is heard
_LARGEST_BATCH = 16
_LONGEST_BATCH_SECONDS = 1.5  # so that a wish to stop is heard soon


@dataclass(frozen=True)
class Ready:
    """A model and the loaded artifact that will run."""

    model: Model
    artifact: Artifact
    network: Network


def network_of(
    content: bytes, artifact: Artifact, labels: tuple[str, ...], config: PredictConfig, parallel: int
) -> Network:
    """Load an artifact's bytes. Raises as `classifier_of` and `embedder_of`.

    `parallel` 1: all threads work on one batch. More: ONNX Runtime has one thread for each of several
    batches; nobody waits for another thread, which saves a third of the CPU time of small networks. LiteRT's
    interpreter takes one call at a time.
    """
    extras = [Extra.PROBABILITIES] * config.probabilities + [Extra.EMBEDDING] * config.embeddings
    parallel = parallel if artifact.format is Format.ONNX else 1
    threads = 1 if parallel > 1 else config.threads
    if config.embeddings:
        engine: Engine = embedder_of(content, artifact.format, artifact.precision, threads)
    else:
        classifier = classifier_of(content, artifact.format, artifact.precision, threads)
        engine = lambda pixels: (classifier(pixels), None)  # noqa: E731 - two lines for no name
    return Network(artifact.name, engine, labels, config.top, tuple(extras), parallel)


def is_folder(output: str) -> bool:
    """Whether an output is a folder of parts."""
    return output.endswith("/") or (Path(output) / journal.JOB_FILE).is_file()


def folder_of(output: str) -> Path | None:
    """Where the job for an output lives: the output itself, or beside the file; None for standard output."""
    if output == STANDARD_OUTPUT:
        return None
    return Path(output) if is_folder(output) else Path(output + PARTIAL_SUFFIX)


def is_begun(folder: Path) -> bool:
    """Whether a folder holds a job."""
    return (folder / journal.JOB_FILE).is_file()


def decoding(
    ready: Ready, config: PredictConfig, workers: int, batch: int, decoder_bytes: int = 0
) -> Decoding:
    """How images are decoded for a model."""
    spec = ready.model.card.input
    return Decoding(
        height=spec.height,
        width=spec.width,
        background=spec.background_rgb,
        draft=not config.exact_decoding,
        workers=workers,
        slots=slots_of(batch, spec.height * spec.width * 3),
        memory_bytes=decoder_bytes,
        timeout_seconds=config.timeout,
    )


def batches(
    ready: Ready, tasks: Iterator[Loaded], batch: int, is_few: bool, config: PredictConfig
) -> Iterator[Batch]:
    """Batches for rows that are kept nowhere but in the output."""
    if config.workers == 0 or (is_few and config.workers is None):
        how = decoding(ready, config, config.threads or os.cpu_count() or 1, batch)
        return decode.in_threads(tasks, how, batch, lambda: False)
    limits = limits_of(_memory_bytes(config), config.workers)
    how = decoding(ready, config, limits.workers, batch, limits.decoder_bytes)
    return decode.in_processes(tasks, how, batch, lambda: False)


def run(folder: Path, ready: Ready, inputs: Inputs, config: PredictConfig) -> PredictionSummary:
    """Begin the job of a folder or go on with it, to its end. Raises as `predict` of `edgetl.steps`."""
    with journal.sole_writer(folder):
        settings = settings_of(ready.model, ready.artifact, inputs, config)
        job = open_job(folder, settings, config)
        is_new = job is None
        limits = limits_of(_memory_bytes(config), config.workers or None, job.decoder_bytes if job else None)
        if job is None:
            with _discarding(folder):
                _look_for_cluster(config)
                choose = functools.partial(_choose_batch, folder, ready, config, limits)
                job = begin_job(folder, settings, inputs, choose, limits.decoder_bytes)
        with closing(journal.Journal(folder)) as opened:
            if not is_new:
                lost = f"; {opened.dropped} damaged parts are made again" if opened.dropped else ""
                say(f"going on with {folder}: {opened.rows} of {job.planned} rows are there{lost}")
            in_threads = config.workers == 0 or (is_new and config.workers is None and job.planned <= FEW)
            known = tuning.remembered(ready.artifact.sha256)
            if known is not None:
                ready = replace(ready, network=_with_threads(ready.network, config, known.threads))
                limits = replace(limits, workers=min(config.workers or known.workers, limits.workers))
            how = decoding(ready, config, limits.workers, job.batch, limits.decoder_bytes)
            summary = _complete(_Run(folder, opened, job, ready, config, how, in_threads))
        if folder != Path(config.output):
            journal.discard(folder)
        return summary


@dataclass(frozen=True)
class _Run:
    """All that a job needs while it runs."""

    folder: Path
    journal: journal.Journal
    job: Job
    ready: Ready
    config: PredictConfig
    how: Decoding
    in_threads: bool


def _complete(run: _Run) -> PredictionSummary:
    meter = Meter()
    resumed = run.journal.rows
    extras = run.ready.network.extras
    shard_rows = max(run.config.shard_rows // run.job.batch, 1) * run.job.batch

    def rows(missing: list[range], wants_to_stop: Callable[[], bool]) -> Iterator[Classified]:
        plan = read_plan(run.folder / journal.PLAN_FILE, run.job.plan_sha256, missing)
        if run.config.engine is BatchEngine.RAY:
            return _on_ray(run, plan, shard_rows, meter, wants_to_stop)
        way = decode.in_threads if run.in_threads else decode.in_processes
        found = way(loaded(plan, run.config.column), run.how, run.job.batch, wants_to_stop)
        return classified(found, run.ready.network, meter)

    with _place(run):  # before signals are handled: Ray has handlers of its own
        fill(run.journal, run.job.planned, rows, meter, extras=extras, shard_rows=shard_rows)
    seconds, speed = meter.seconds, meter.images_per_second
    totals = finish.finish(run.journal, run.job)
    if run.folder != Path(run.config.output):
        finish.write_file(run.journal, run.config.output, extras)
    return PredictionSummary(
        artifact=run.ready.artifact.name,
        images=totals.rows,
        refused=totals.refused,
        output=run.config.output,
        seconds=seconds,
        images_per_second=speed,
        per_label=totals.per_label,
        skipped=totals.skipped,
        resumed=resumed,
        limit=meter.limit,
        digest=totals.digest,
    )


def _look_for_cluster(config: PredictConfig) -> None:
    """Before hours of listing files, and before a folder belongs to a job that cannot begin."""
    if config.engine is BatchEngine.RAY:
        with needing("ray", "Predicting on a cluster"):
            from edgetl.stream.on_ray import knock
        knock(config.address)


def _place(run: _Run) -> AbstractContextManager[None]:
    if run.config.engine is BatchEngine.LOCAL or run.journal.rows == run.job.planned:
        return nullcontext()
    with needing("ray", "Predicting on a cluster"):
        from edgetl.stream.on_ray import cluster
    return cluster(run.config.address)


def _on_ray(
    run: _Run,
    plan: Iterator[tuple[int, Item]],
    shard_rows: int,
    meter: Meter,
    wants_to_stop: Callable[[], bool],
) -> Iterator[Classified]:
    from edgetl.stream import on_ray
    from edgetl.stream.node import Work

    artifact = run.ready.artifact
    work = Work(
        content=run.ready.model.read(artifact),
        artifact=artifact,
        labels=run.ready.model.card.labels,
        config=run.config,
        how=replace(run.how, workers=1),
        batch=run.job.batch,
        shard_rows=shard_rows,
    )
    return on_ray.classified(work, plan, meter, wants_to_stop)


def _memory_bytes(config: PredictConfig) -> int | None:
    return parse_size(config.memory) if config.memory else None


def usual_batch(spec: InputSpec) -> int:
    """A power of two up to 16."""
    most = max(_MOST_PIXELS // (spec.height * spec.width), 1)
    return int(min(2 ** (most.bit_length() - 1), _LARGEST_BATCH))


@contextmanager
def _discarding(folder: Path) -> Iterator[None]:
    """What fails before a job has begun leaves nothing."""
    try:
        yield
    except BaseException:
        journal.discard(folder)
        raise


def _with_threads(network: Network, config: PredictConfig, threads: int) -> Network:
    parallel = network.parallel if config.threads else min(threads, network.parallel)
    return replace(network, parallel=parallel)


def _choose_batch(folder: Path, ready: Ready, config: PredictConfig, limits: Limits, plan: Plan) -> int:
    """As told, as tuned for this machine (now, or earlier), or as usual."""
    if config.tune:
        _tune(folder, ready, config, limits, plan)
    known = tuning.remembered(ready.artifact.sha256)
    return config.batch or (known.batch if known else _batch_for(ready.network, ready.model.card.input))


def _tune(folder: Path, ready: Ready, config: PredictConfig, limits: Limits, plan: Plan) -> None:
    spec = ready.model.card.input
    sample = range(min(plan.rows, tuning.SAMPLE_IMAGES))

    def batches_of(workers: int, batch: int) -> Iterator[Batch]:
        tasks = loaded(read_plan(folder / journal.PLAN_FILE, plan.sha256, [sample]), config.column)
        how = decoding(ready, config, workers, batch, limits.decoder_bytes)
        return decode.in_processes(tasks, how, batch, lambda: False)

    found = tuning.tune(ready.network, (spec.height, spec.width), limits.workers, batches_of)
    tuning.remember(ready.artifact.sha256, found)


def _batch_for(network: Network, spec: InputSpec) -> int:
    """The usual, or fewer on a machine where they would take longer than a person waits."""
    one = np.zeros((1, spec.height, spec.width, 3), np.uint8)
    network.run(one)
    started = time.perf_counter()
    network.run(one)
    seconds = max(time.perf_counter() - started, 1e-6)
    batch = usual_batch(spec)
    while batch > 1 and batch * seconds > _LONGEST_BATCH_SECONDS:
        batch //= 2
    return batch
