"""What a job is: written when it begins, and compared when it is taken up again."""

import datetime as dt
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgetl import images
from edgetl.card import Artifact, Model
from edgetl.config import Format, PredictConfig
from edgetl.errors import StorageError, UsageError
from edgetl.files import fingerprint, write_atomically
from edgetl.records import RecordError, from_json, to_json
from edgetl.stream.journal import JOB_FILE, PLAN_FILE
from edgetl.stream.plan import Plan, write_plan
from edgetl.stream.sources import Inputs, items_of

_FORMAT = 1


@dataclass(frozen=True)
class Job:
    """A job's `_job.json`."""

    format: int
    created: str  # UTC, ISO 8601
    settings: dict[str, str]  # all that decides rows, by name, in words; equal or it is another job
    batch: int  # images that are classified together
    decoder_bytes: int  # memory for decoding one image
    planned: int
    plan_sha256: str


def settings_of(model: Model, artifact: Artifact, inputs: Inputs, config: PredictConfig) -> dict[str, str]:
    """Everything that decides what the rows of a job are."""
    spec = model.card.input
    engine = {Format.ONNX: "onnxruntime", Format.TFLITE: "ai-edge-litert"}[artifact.format]
    return {
        "artifact": artifact.name,
        "its SHA-256": artifact.sha256,
        "labels": fingerprint(model.card.labels)[:16],
        "input": f"{spec.width} x {spec.height}, background {spec.background_rgb}",
        "images": " ".join(map(repr, inputs.names)),
        "column": str(inputs.column),
        "list on standard input": hashlib.sha256(inputs.listed).hexdigest()[:16] if inputs.listed else "",
        "working folder": os.fsencode(Path.cwd()).decode("utf-8", "backslashreplace"),
        "top": str(config.top),
        "probabilities": str(config.probabilities),
        "embeddings": str(config.embeddings),
        "exact decoding": str(config.exact_decoding),
        "timeout": f"{config.timeout:g} s",
        "preparation of images": f"version {images.PREPROCESSING_VERSION}",
        "Pillow": images.codec_versions()["Pillow"],
        engine: _version(engine),
    }


def open_job(folder: Path, settings: dict[str, str], config: PredictConfig) -> Job | None:
    """The job of a folder, None where there is none yet. Raises `UsageError` where it is another one."""
    path = folder / JOB_FILE
    if not path.is_file():
        _refuse_strange(folder)
        return None
    try:
        job = from_json(Job, path.read_bytes())
    except (OSError, RecordError) as error:
        raise StorageError(
            f"{path} cannot be read: {error}.", "Delete the folder, or choose another output."
        ) from error
    wanted = settings | ({} if config.batch is None else {"batch": str(config.batch)})
    begun = job.settings | {"batch": str(job.batch)}
    differences = [
        f"{name} was {begun.get(name, 'nothing')}, is {value}"
        for name, value in wanted.items()
        if begun.get(name) != value
    ]
    if job.format != _FORMAT or differences:
        raise UsageError(
            f"{folder} holds another job: {'; '.join(differences) or 'of another edgetl'}.",
            "Ask for the same again to go on with it, choose another output, or delete the folder.",
        )
    return job


def begin_job(
    folder: Path,
    settings: dict[str, str],
    inputs: Inputs,
    batch_for: Callable[[Plan], int],
    decoder_bytes: int,
) -> Job:
    """Plan a job and write it down. Raises what listing the images raises, and `StorageError`.

    `batch_for` is asked, once the plan is there, how many images are classified together.
    """
    plan = write_plan(folder / PLAN_FILE, items_of(inputs))
    created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    job = Job(_FORMAT, created, settings, batch_for(plan), decoder_bytes, plan.rows, plan.sha256)
    write_atomically(folder / JOB_FILE, to_json(job))
    return job


def _refuse_strange(folder: Path) -> None:
    """A folder of somebody else's files takes no job."""
    strange = [path.name for path in folder.iterdir() if not path.name.startswith(("_", ".", "part-"))]
    if strange:
        raise UsageError(
            f"{folder} holds other files, such as {strange[0]}.", "Name a folder that is new or empty."
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
