"""What this machine is, as far as results depend on it. Linux tells; elsewhere less is known."""

import os
import platform
import time
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_MEMORY_INFO = Path("/proc/meminfo")
_OWN_STATUS = Path("/proc/self/stat")
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


def instruction_set() -> str:
    """Such as "x86-64 AVX512-VNNI", "x86-64 AVX2" or "aarch64 dotprod": what decides how int8 is computed."""
    text = _read(_CPU_INFO)
    if platform.machine() == "aarch64":
        return "aarch64 dotprod" if "asimddp" in text else "aarch64"
    for flag, name in (("avx512_vnni", "AVX512-VNNI"), ("avx_vnni", "AVX-VNNI"), ("avx2", "AVX2")):
        if flag in text:
            return f"x86-64 {name}"
    return platform.machine()


def int8_sums_may_saturate() -> bool:
    """Whether usual int8 kernels add two products in 16 bits: on x86-64, unless it is known to have VNNI."""
    return platform.machine().lower() in {"x86_64", "amd64"} and "VNNI" not in instruction_set()


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 numbers itself."""
    text = _read(_CPU_INFO)
    return "avx512_bf16" in text or "amx_bf16" in text


def seconds_since_start() -> float:
    """Of this process; 0 where the system does not tell."""
    try:
        after_boot = int(_read(_OWN_STATUS).rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - after_boot
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def cpu_name() -> str:
    """The processor's own name."""
    for line in _read(_CPU_INFO).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib() -> float:
    """Memory that this process may use, GiB (2^30 bytes): machine's or container's; 0 where unknown."""
    lines = _read(_MEMORY_INFO).splitlines()
    limits = [int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemTotal:")]
    container = _read(_MEMORY_LIMIT).strip()
    if container.isdigit():
        limits.append(int(container) / 2**30)
    return min(limits, default=0.0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
