"""`edgetl export`: the trained network becomes ONNX and TFLite files, in every precision or to goals."""

from dataclasses import dataclass

from edgetl.card import Artifact, Model
from edgetl.config import ExportConfig, Packing, Precision
from edgetl.errors import ExitCode
from edgetl.files import remove_leftovers
from edgetl.keras.classifier import open_layers
from edgetl.packing import pack, packer
from edgetl.progress import say, task
from edgetl.quantize.goals import goals_of
from edgetl.quantize.targets import CALIBRATED, wanted_pairs
from edgetl.reference import read_calibration_pixels
from edgetl.results import Explained, Parity, Tried
from edgetl.steps.making import Built, Sources, Variant, build, check_float, store
from edgetl.steps.promise import keep
from edgetl.steps.thinning import Thinning, thinning_of


@dataclass(frozen=True)
class Exported:
    """What `export` made; with goals also what was tried, and the verdicts."""

    model: str
    artifacts: tuple[Artifact, ...]
    goals: str = ""
    tried: tuple[Tried, ...] = ()
    explained: tuple[Explained, ...] = ()
    parity: tuple[Parity, ...] = ()
    exit_code: int = int(ExitCode.DONE)


def export(model: Model, config: ExportConfig) -> tuple[Model, Exported]:
    """Make the artifacts one after the other; each is complete, and in the card, before the next begins.

    With goals: make only files that are proven to keep to all of them. Raises `UsageError` for pairs that do
    not exist, `DataError` when calibration or tuning images are missing, `ModelFolderError`, `StorageError`,
    `CheckFailed` when a float file does not compute what Keras does, and `Undecidable` when no verdict could
    pass with so few certification images.
    """
    goals = goals_of(config, model.card)
    pairs = wanted_pairs(config.format, config.precision)
    if config.packed is not None:
        packer(config.packed)  # refuses before any work
    remove_leftovers(model.folder)
    thinning = thinning_of(config)
    folder = config.data or model.data_folder
    pixels = None
    needed = goals is not None or any(precision in CALIBRATED for _, precision in pairs)
    if needed or (thinning and (config.data or folder.is_dir())):
        pixels = read_calibration_pixels(model, folder, config.calibration_images)
    if thinning:
        say(_what_thinning_is(thinning, config))
    sources = Sources(open_layers(model), pixels, goals is not None and goals.start.reduced, thinning)
    if goals:
        model, kept = keep(model, config, goals, sources)
        return model, Exported(
            model=str(model.folder),
            artifacts=kept.artifacts,
            goals=goals.in_words(),
            tried=kept.tried,
            explained=kept.explained,
            parity=kept.parity,
            exit_code=int(kept.exit_code),
        )
    made = []
    with task("exporting", len(pairs)) as advance:
        for form, precision in pairs:
            built = build(
                sources, model, Variant(form, precision, origin=sources.origin, packed=config.packed)
            )
            if precision is Precision.FP32:
                check_float(model, built, config.threads, sources.thinned.layers if thinning else None)
            model = store(model, built)
            made.append(model.artifact(built.variant.name))
            say(f"{made[-1].file}: {size_in_words(made[-1])}{_if_packed(thinning, built)}")
            advance(1)
    return model, Exported(str(model.folder), tuple(made))


def size_in_words(artifact: Artifact) -> str:
    """The size that is stored, and what it is in memory where that differs."""
    stored = f"{artifact.size_bytes / 1e6:.2f} MB"
    return stored if artifact.packed is None else f"{stored}, {artifact.unpacked_bytes / 1e6:.2f} MB unpacked"


def _what_thinning_is(thinning: Thinning, config: ExportConfig) -> str:
    if config.packed is not None:
        return f"{thinning.in_words()}: packed files get smaller; no engine gets faster by it"
    return (
        f"{thinning.in_words()}: only packed files get smaller by it, and no engine gets faster; "
        "add --packed gz or zst, unless what sends the files packs them"
    )


def _if_packed(thinning: Thinning | None, built: Built) -> str:
    """What a file that was thinned, but not packed, would weigh on its way."""
    if thinning is None or built.variant.packed is not None:
        return ""
    return f", {len(pack(built.content, Packing.GZ)) / 1e6:.2f} MB as .gz; as fast as before"
