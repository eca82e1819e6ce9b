"""Other CPUs on an x86-64 Debian: qemu-user, and for arm64 a small Debian with Python and the engines' wheels.

Everything is unpacked into one folder; nothing is installed and nothing outside that folder is changed.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgetl.errors import EdgetlError, UsageError

READY = ".ready"  # in a folder that is complete; holds what it was made from
WHEELS = ("numpy", "onnxruntime", "ai-edge-litert")  # all that the engines import at run time
WHEEL_PLATFORMS = (
    "manylinux_2_28_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux_2_17_aarch64",
    "manylinux2014_aarch64",
)
QEMU_PACKAGES = ("qemu-user-static",)  # needs no library of this machine
ARM_PACKAGES = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libstdc++6", "libgcc-s1",
    "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libuuid1", "libcrypt1", "media-types",
)  # fmt: skip
NEEDS = "This needs Debian 12 on x86-64 with apt-get and dpkg, root not required; it was tried nowhere else."
NETWORK = (
    "Check that apt-get and pip reach their sources (proxy, sources list, pip configuration) and run the same command "
    "again: finished parts are kept. Without a network, copy WORK/qemu from a machine that has one."
)


@dataclass(frozen=True)
class Cpu:
    """A CPU that qemu can play, and how to see from inside that it does."""

    name: str  # on the command line
    words: str
    machine: str
    qemu: str  # of -cpu
    shows: tuple[str, ...]  # features as numpy names them
    lacks: tuple[str, ...]
    part: str = ""  # of /proc/cpuinfo on arm64
    as_it_comes: bool = False  # ONNX Runtime with its defaults, not as edgetl opens it


HASWELL = Cpu(
    name="haswell",
    words="x86-64 AVX2, no VNNI (Haswell)",
    machine="x86_64",
    qemu="Haswell",
    shows=("AVX2",),
    lacks=("AVX512F", "AVX512VNNI"),
)
ARM64 = Cpu(
    name="arm64",
    words="arm64 dotprod (Cortex-A76)",
    machine="aarch64",
    qemu="cortex-a76",
    shows=("ASIMDDP",),
    lacks=("SVE",),
    part="0xd0b",
)
OTHERS = (
    HASWELL,
    replace(
        HASWELL,
        name="haswell-plain",
        words="Haswell, ONNX Runtime's defaults",
        as_it_comes=True,
    ),
    ARM64,
    replace(
        ARM64,
        name="arm64-old",
        words="arm64, no dotprod (Cortex-A72)",
        qemu="cortex-a72",
        shows=("ASIMD",),
        lacks=("ASIMDDP",),
        part="0xd08",
    ),
    # Without SME: that of qemu 7.2 makes LiteRT compute nonsense, that of 10.0 does not.
    replace(ARM64, name="arm64-i8mm", words="arm64 i8mm", qemu="max,sve=off,sme=off", part="0xd40"),
)
CPUS = {cpu.name: cpu for cpu in OTHERS}
USUAL = ("haswell", "arm64", "arm64-old")


@dataclass(frozen=True)
class Emulated:
    """A CPU that is ready: put a Python script and its arguments behind `command`."""

    cpu: Cpu
    command: tuple[str, ...]
    environment: dict[str, str]
    made_of: str  # versions that decide what it computes


def set_up(folder: Path, cpus: Sequence[Cpu]) -> list[Emulated]:
    """Fetch what is missing in `folder` and say what; a complete folder needs no network."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise UsageError(f"This is {platform.system()} on {platform.machine()}.", NEEDS)
    folder = folder.resolve()
    qemu = once(folder / "bin", " ".join(QEMU_PACKAGES), _make_qemu)
    versions = _installed(WHEELS)
    if any(cpu.machine == "aarch64" for cpu in cpus):
        once(folder / "arm64" / "sysroot", " ".join(ARM_PACKAGES), _make_sysroot)
        once(folder / "arm64" / "site", " ".join(versions), lambda site: _make_site(site, versions))
    made_of = ", ".join((_release(qemu), *versions))
    return [_emulated(folder, cpu, made_of) for cpu in cpus]


def _release(qemu: Path) -> str:
    """Such as "qemu 7.2.22"."""
    first = run([str(qemu / "qemu-x86_64-static"), "--version"], NEEDS).splitlines()[0]
    return f"qemu {first.split()[2]}"


def _installed(names: Iterable[str]) -> list[str]:
    try:
        return [f"{name}=={importlib.metadata.version(name)}" for name in names]
    except importlib.metadata.PackageNotFoundError as error:
        raise EdgetlError(f"{error.name} is not installed.", "Run make setup, then use its .venv.") from error


def once(folder: Path, recipe: str, build: Callable[[Path], None]) -> Path:
    """A folder that `build` fills, whole or not at all, and again only when its recipe is another."""
    ready = folder / READY
    if ready.is_file() and ready.read_text() == recipe:
        return folder
    print(f"making {folder}: {recipe}", flush=True)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    build(partial)
    (partial / READY).write_text(recipe)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def _make_qemu(target: Path) -> None:
    unpack(QEMU_PACKAGES, "amd64", target)
    for machine in ("x86_64", "aarch64"):
        name = f"qemu-{machine}-static"
        (target / "usr/bin" / name).rename(target / name)
    shutil.rmtree(target / "usr")  # thirty other CPUs


def _make_sysroot(target: Path) -> None:
    unpack(ARM_PACKAGES, "arm64", target)


def _make_site(target: Path, versions: Iterable[str]) -> None:
    """The versions that are installed here, for the other CPU."""
    platforms = [part for name in WHEEL_PLATFORMS for part in ("--platform", name)]
    run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary", ":all:", "--implementation", "cp", "--python-version", "3.11", *platforms,
            "--target", str(target), *versions,
        ],
        NETWORK,
    )  # fmt: skip


def unpack(packages: Sequence[str], architecture: str, target: Path) -> None:
    """Debian packages of an architecture, downloaded and unpacked with lists and caches of their own."""
    apt = target.with_name(target.name + ".apt")
    for name in ("lists/partial", "cache/archives/partial", "packages"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Update::Error-Mode": "any",
        "APT::Sandbox::User": "root",  # the folder may be closed to apt's own user
        "Debug::NoLocking": "1",
        "Dir::State::Lists": apt / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": apt / "cache",
    }
    command = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
    run([*command, "update"], NETWORK)
    run([*command, "download", *packages], NETWORK, apt / "packages")
    for package in sorted((apt / "packages").glob("*.deb")):
        run(["dpkg", "-x", str(package), str(target)], NEEDS)
    shutil.rmtree(apt)


def run(command: Sequence[str], fix: str, folder: Path | None = None) -> str:
    """What a command prints. Raises `EdgetlError` with its last lines when it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise EdgetlError(f"{command[0]} is not on this machine.", NEEDS) from error
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise EdgetlError(f"{' '.join(command[:3])} ... ended with {done.returncode}:\n{last}\n", fix)
    return done.stdout


def _emulated(folder: Path, cpu: Cpu, made_of: str) -> Emulated:
    qemu = (str(folder / "bin" / f"qemu-{cpu.machine}-static"), "-cpu", cpu.qemu)
    common = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONUTF8": "1", "PYTHONNOUSERSITE": "1"}
    if cpu.machine == "x86_64":  # this very Python; behind its link, for qemu does not know environments
        packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        environment = common | {"PYTHONPATH": os.pathsep.join(sorted(packages))}
        return Emulated(cpu, (*qemu, os.path.realpath(sys.executable)), environment, made_of)
    root = _root_of(folder / "arm64", cpu)
    environment = common | {"PYTHONPATH": str(folder / "arm64/site"), "PYTHONHOME": str(root / "usr")}
    return Emulated(cpu, (*qemu, "-L", str(root), str(root / "usr/bin/python3.11")), environment, made_of)


def _root_of(folder: Path, cpu: Cpu) -> Path:
    """The sysroot with a /proc/cpuinfo of this CPU: without one, libraries that look for cores crash.

    It decides which core is assumed; which instructions there are, programs learn from qemu itself.
    """
    root = folder / cpu.name
    online = root / "sys/devices/system/cpu"
    for place in (root / "proc", online):
        place.mkdir(parents=True, exist_ok=True)
    for entry in sorted((folder / "sysroot").iterdir()):
        link = root / entry.name
        if entry.name != READY and not link.is_symlink():
            link.symlink_to(Path("..") / "sysroot" / entry.name)
    (root / "proc/cpuinfo").write_text(
        "processor\t: 0\nBogoMIPS\t: 100.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: 0x1\nCPU part\t: {cpu.part}\nCPU revision\t: 1\n"
    )
    for name in ("possible", "present"):
        (online / name).write_text("0\n")
    return root
