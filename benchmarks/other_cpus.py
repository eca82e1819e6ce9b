"""Does the same file classify the same on other CPUs? `python benchmarks/other_cpus.py WORK MODEL [MODEL ...]`.

Runs exported files under qemu-user: x86-64 with AVX2 but without VNNI, arm64 with and without dot products. Compares
the answers with the stored full-precision probabilities and with this machine's own answers of the same file. All it
makes is in WORK; what is there is used again, so a run that was cut off goes on, and one with more images adds them.
See docs/other-cpus.md.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import publish, table
from numpy.typing import NDArray
from other_cpus_child import batch_name, batches
from other_cpus_emulator import CPUS, USUAL, Emulated, set_up

from edgetl.card import Artifact, Model
from edgetl.config import Format, Precision, VerifyConfig
from edgetl.engines import open_classifier, run_batches
from edgetl.engines.onnx import EXACT_SUMS, sums_fit
from edgetl.errors import CheckFailed, EdgetlError, ExitCode, ModelFolderError, UsageError
from edgetl.images import PREPROCESSING_VERSION
from edgetl.machine import instruction_set
from edgetl.statistics import judge, paired_drop
from edgetl.steps.verify import CERTIFICATION, read_sample

CHILD = Path(__file__).with_name("other_cpus_child.py")
BATCH = 8  # images; also what is lost when a run is cut off
SEED = 0


@dataclass(frozen=True)
class Drawn:
    """Images in a random order that does not depend on how many are taken."""

    pixels: NDArray[np.uint8]  # [N, H, W, 3]
    labels: NDArray[np.int64]  # [N]
    reference: NDArray[np.float32]  # [N, classes] of the full-precision network
    source: str
    available: int


@dataclass(frozen=True)
class Compared:
    """A candidate's answers against others on the same images. Drops in points."""

    agreement: float  # share of equal top classes
    harmful: int
    helpful: int
    drop_points: float
    drop_upper_points: float
    verdict: str
    more_images: int
    max_difference: float


@dataclass(frozen=True)
class Row:
    """One file on one CPU."""

    model: str
    artifact: str
    cpu: str
    images: int
    accuracy: float
    against_reference: Compared
    against_here: Compared | None  # None: this machine itself


def main(arguments: list[str] | None = None) -> int:
    """Measure, publish, and give the exit code of `edgetl verify`."""
    chosen = parse(arguments)
    try:
        config = VerifyConfig(max_drop=chosen.max_drop, data=chosen.data, batch=BATCH, threads=1)
        models = [Model.open(folder) for folder in chosen.models]
        emulated = set_up(chosen.work / "qemu", [CPUS[name] for name in chosen.cpu or USUAL])
        rows = [row for model in models for row in measure(model, emulated, config, chosen)]
    except EdgetlError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    text = in_words(rows, emulated, chosen.max_drop)
    if chosen.only_print:
        print(text)
    else:
        section = "other-cpus" + (f"-{chosen.section}" if chosen.section else "")
        publish(section, f"The same file on other CPUs{chosen.section and ': ' + chosen.section}", text)
    return int(exit_code_of(rows))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for emulators, answers and logs")
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument(
        "--images", type=int, default=200, help="random certification images; 0: all (default 200)"
    )
    parser.add_argument("--artifact", action="append", help="may be repeated (default: every int8 file)")
    parser.add_argument(
        "--cpu", action="append", choices=sorted(CPUS), help=f"may be repeated (default: {USUAL})"
    )
    parser.add_argument("--max-drop", type=float, default=1.0, help="points, as of edgetl verify")
    parser.add_argument(
        "--data", type=Path, help="where the data folder is now (default: where it was at training)"
    )
    parser.add_argument("--section", default="", help="of docs/benchmarks.md, for more than one such table")
    parser.add_argument("--only-print", action="store_true", help="leave docs/benchmarks.md alone")
    return parser.parse_args(arguments)


def measure(
    model: Model, emulated: list[Emulated], config: VerifyConfig, chosen: argparse.Namespace
) -> list[Row]:
    """The rows of one model: each file here first, then on every emulated CPU."""
    drawn = draw(model, config, chosen.images)
    print(f"{model.card.name}: {len(drawn.labels)} of {drawn.available} {drawn.source}", flush=True)
    rows = []
    for artifact in files_of(model, chosen.artifact):
        classifier = open_classifier(model, artifact, config.threads)
        here = run_batches(classifier, drawn.pixels, config.batch, artifact.name)
        rows.append(row_of(model, artifact, instruction_set(), drawn, here, None, config.max_drop))
        for other in emulated:
            if other.cpu.as_it_comes and artifact.format is not Format.ONNX:
                continue  # LiteRT is opened as it comes
            there = answers(model, artifact, other, drawn, chosen.work)
            rows.append(row_of(model, artifact, other.cpu.words, drawn, there, here, config.max_drop))
    return rows


def draw(model: Model, config: VerifyConfig, images: int) -> Drawn:
    """A random subset, so that what is measured on it is an unbiased estimate; a larger one contains a smaller.

    Raises what reading the sample raises, and `ModelFolderError` for another version of the preprocessing.
    """
    if model.card.input.preprocessing_version != PREPROCESSING_VERSION:
        raise ModelFolderError(
            f"{model.folder} was made by preprocessing version {model.card.input.preprocessing_version}, "
            f"this edgetl has version {PREPROCESSING_VERSION}.",
            "Train again, or use the edgetl version that trained.",
        )
    if images < 0:
        raise UsageError(f"--images must be 0 or more, not {images}.", "0 takes all of them.")
    sample = read_sample(model, config)
    if sample.source != CERTIFICATION:
        print(f"the data folder of {model.folder} is not here: only its {sample.source} are used", flush=True)
    order = np.random.default_rng(SEED).permutation(len(sample.labels))[: images or None]
    return Drawn(
        sample.pixels[order],
        sample.labels[order],
        sample.probabilities[order],
        sample.source,
        len(sample.labels),
    )


def files_of(model: Model, names: list[str] | None) -> list[Artifact]:
    """The named artifacts, or those that compute in int8: only their arithmetic differs between CPUs."""
    if names:
        return [model.artifact(name) for name in names]
    found = [artifact for artifact in model.card.artifacts if artifact.precision is Precision.INT8]
    if not found:
        raise ModelFolderError(
            f"{model.folder} has no int8 file.",
            f"Run: edgetl export {model.folder}, or name others with --artifact.",
        )
    return found


def answers(
    model: Model, artifact: Artifact, other: Emulated, drawn: Drawn, work: Path
) -> NDArray[np.float32]:
    """Probabilities [N, classes] of a file on an emulated CPU. Raises `EdgetlError` when it ends early."""
    model.read(artifact)  # its hash is checked
    name = f"{model.card.name}-{artifact.name}-{other.cpu.name}"
    output = work / "answers" / f"{name}-{key_of(model, artifact, other, drawn)}"
    output.mkdir(parents=True, exist_ok=True)
    write_pixels(output / "pixels.npy", drawn.pixels)
    kind = "onnx" if artifact.format is Format.ONNX else "tflite"
    options = [f"--session-option={entry}" for entry in session_options(model, artifact, other)]
    paths = (model.folder / artifact.file, output / "pixels.npy", output)
    command = (*other.command, str(CHILD), kind, *map(str, paths), "--batch", str(BATCH), *options)
    print(f"{artifact.name} on {other.cpu.words}", flush=True)
    log = output / "errors.txt"
    with log.open("w") as errors:
        done = subprocess.run(command, env=other.environment, stderr=errors, check=False)
    if done.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        raise EdgetlError(
            f"{artifact.name} on {other.cpu.words} ended with {done.returncode}:\n{last}\n",
            f"Finished batches are kept in {output}; the same command goes on there. The whole log is {log}.",
        )
    check_seen(json.loads((output / "seen.json").read_text()), other)
    return gather(output, len(drawn.pixels))


def session_options(model: Model, artifact: Artifact, other: Emulated) -> tuple[str, ...]:
    """Those with which edgetl/engines/onnx.py opens the file, or none."""
    if other.cpu.as_it_comes:
        return ()
    floats = ("session.disable_quant_qdq=1",) if artifact.precision is Precision.W8A32 else ()
    exact = () if sums_fit(model.read(artifact)) else ("=".join(EXACT_SUMS),)
    return (*exact, *floats)


def key_of(model: Model, artifact: Artifact, other: Emulated, drawn: Drawn) -> str:
    """All that decides an answer to an image: answers of another file, CPU or version are never taken for these."""
    parts = (
        artifact.sha256, model.card.reference.sha256, drawn.source, str(PREPROCESSING_VERSION), str(SEED), str(BATCH),
        other.cpu.qemu, other.made_of, "defaults" if other.cpu.as_it_comes else "as edgetl opens it",
    )  # fmt: skip
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def write_pixels(path: Path, pixels: NDArray[np.uint8]) -> None:
    """What the child reads."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, pixels)
    part.replace(path)


def gather(output: Path, images: int) -> NDArray[np.float32]:
    """The batches of the first `images` images in order."""
    return np.concatenate([np.load(output / batch_name(*bounds)) for bounds in batches(images, BATCH)])


def check_seen(seen: dict[str, object], other: Emulated) -> None:
    """Raise `CheckFailed` when the program did not run on the CPU it was meant to run on."""
    features = set(seen["features"])
    wrong = (set(other.cpu.shows) - features) | (set(other.cpu.lacks) & features)
    if seen["machine"] != other.cpu.machine or wrong:
        raise CheckFailed(
            f"What was to be {other.cpu.words} was {seen['machine']}, with the wrong {', '.join(sorted(wrong))}.",
            "The results would be of another CPU. Is WORK/qemu what this script made? Remove it and run again.",
        )


def row_of(
    model: Model, artifact: Artifact, cpu: str, drawn: Drawn, answers: NDArray[np.float32],
    here: NDArray[np.float32] | None, max_drop: float,
) -> Row:  # fmt: skip
    """Both comparisons of one file on one CPU."""
    right = answers.argmax(axis=1) == drawn.labels
    return Row(
        model=model.card.name,
        artifact=artifact.name,
        cpu=cpu if here is not None else f"this machine ({cpu})",
        images=len(drawn.labels),
        accuracy=float(right.mean()),
        against_reference=compare(drawn.reference, answers, drawn.labels, max_drop),
        against_here=None if here is None else compare(here, answers, drawn.labels, max_drop),
    )


def compare(
    before: NDArray[np.float32], after: NDArray[np.float32], labels: NDArray[np.int64], max_drop: float
) -> Compared:
    """Two sets of probabilities [N, classes] of the same images; max_drop in points."""
    if before.shape != after.shape or not np.isfinite(after).all():
        raise CheckFailed(
            f"The file gives {after.shape} where {before.shape} probabilities are expected, "
            f"{int((~np.isfinite(after)).sum())} of them not finite.",
            "Export the model again.",
        )
    drop = paired_drop(before.argmax(axis=1) == labels, after.argmax(axis=1) == labels)
    verdict, more = judge(drop, max_drop / 100)
    return Compared(
        agreement=float((before.argmax(axis=1) == after.argmax(axis=1)).mean()),
        harmful=drop.harmful,
        helpful=drop.helpful,
        drop_points=100 * drop.drop,
        drop_upper_points=100 * drop.upper,
        verdict=verdict.value,
        more_images=more,
        max_difference=float(np.abs(before - after).max()),
    )


def in_words(rows: list[Row], emulated: list[Emulated], max_drop: float) -> str:
    """The section: what was done, and both tables."""
    played = ", ".join(dict.fromkeys(f"`-cpu {other.cpu.qemu}`" for other in emulated))
    return (
        "The same file, byte by byte, run by ONNX Runtime and LiteRT on this machine and on CPUs that qemu-user plays: "
        f"{played}; {emulated[0].made_of}. An emulator computes what such a CPU computes, so probabilities count; its "
        "speed means nothing and is not shown. The images are random certification images, the same in every line of "
        "a model. *Harmful*: only the other side is right; *helpful*: only this line is. *Drop*, *at most* (one-sided "
        f"95 % bound) and the verdict are those of `edgetl verify --max-drop {max_drop:g}`; (+N images): how many more "
        "would decide.\n\n"
        f"Against the full-precision network:\n\n{reference_table(rows)}\n\n"
        f"Against this machine's own answers of the same file:\n\n{here_table(rows)}"
    )


def reference_table(rows: list[Row]) -> str:
    """Each file on each CPU against full precision."""
    header = (
        "model", "file", "CPU", "images", "accuracy", "same top class", "harmful", "helpful", "drop", "at most", "verdict",
        "max abs dp",
    )  # fmt: skip
    return table(
        header,
        [(*_names(row), f"{100 * row.accuracy:.1f} %", *_figures(row.against_reference)) for row in rows],
    )


def here_table(rows: list[Row]) -> str:
    """Each file on each emulated CPU against this machine."""
    header = (
        "model", "file", "CPU", "images", "same top class", "harmful", "helpful", "drop", "at most", "verdict", "max abs dp",
    )  # fmt: skip
    return table(
        header, [(*_names(row), *_figures(row.against_here)) for row in rows if row.against_here is not None]
    )


def _names(row: Row) -> tuple[str, ...]:
    return row.model, row.artifact, row.cpu, f"{row.images:,}"


def _figures(found: Compared) -> tuple[str, ...]:
    more = f" (+{found.more_images:,} images)" if found.more_images else ""
    return (
        f"{100 * found.agreement:.1f} %",
        str(found.harmful),
        str(found.helpful),
        f"{found.drop_points:+.2f}",
        f"{found.drop_upper_points:.2f}",
        f"{found.verdict}{more}",
        f"{found.max_difference:.1e}" if found.max_difference else "0",
    )


def exit_code_of(rows: list[Row]) -> ExitCode:
    """3 when a file fails against full precision on some CPU, else 5 when one is undecided, else 0."""
    found = {row.against_reference.verdict for row in rows}
    if "fail" in found:
        return ExitCode.CHECK_FAILED
    return ExitCode.UNDECIDED if "undecided" in found else ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
