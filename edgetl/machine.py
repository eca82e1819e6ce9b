"""What this machine is, as far as results depend on it."""

import platform
from pathlib import Path


def instruction_set() -> str:
    """Such as "x86-64 AVX512-VNNI"."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    if platform.machine() == "aarch64":
        return "aarch64 dotprod" if "asimddp" in text else "aarch64"
    for flag, name in (("avx512_vnni", "AVX512-VNNI"), ("avx_vnni", "AVX-VNNI"), ("avx2", "AVX2")):
        if flag in text:
            return f"x86-64 {name}"
    return platform.machine()


def cpu_name() -> str:
    """The processor's own name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
