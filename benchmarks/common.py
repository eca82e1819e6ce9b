"""What the benchmarks share: the machine in words, running commands, and rewriting one section of the page."""

import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
EDGETL = (sys.executable, "-m", "edgetl")
WARM_SECONDS = 0.25


@dataclass(frozen=True)
class Run:
    """One finished command."""

    exit_code: int
    output: str
    wall_seconds: float
    cpu_seconds: float  # user and system, with children


def run(*command: str, check: bool = True) -> Run:
    """Run a command and count its time. With `check`, an unexpected exit code ends the benchmark."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if check and done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return Run(done.returncode, done.stdout, wall, cpu)


def edgetl(*arguments: str, check: bool = True) -> Run:
    """Run an edgetl command in a process of its own."""
    return run(*EDGETL, *arguments, check=check)


def seconds_alone(run: Callable[[], object]) -> float:
    """Of one run, after a quarter second of the same.

    Where several files run in turn, threads of the one before wait for work in a busy loop and take a CPU: a
    fast network seems half as fast right after another.
    """
    until = time.perf_counter() + WARM_SECONDS
    while time.perf_counter() < until:
        run()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def card(model: Path) -> dict:
    """A model folder's card."""
    return json.loads((model / "card.json").read_text(encoding="utf-8"))


def machine() -> str:
    """The machine in one line."""
    from edgetl.machine import cpu_name, instruction_set

    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cpu_name()} ({instruction_set()}), {os.cpu_count()} CPUs, {memory_gib:.0f} GiB, "
        f"{platform.system()}, Python {platform.python_version()}"
    )


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(section: str, title: str, text: str) -> None:
    """Put a section into docs/benchmarks.md, replacing its earlier version, and print it."""
    body = (
        f"<!-- {section} -->\n## {title}\n\n{text.strip()}\n\nMachine: {machine()}.\n<!-- end {section} -->"
    )
    page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else HEAD
    pattern = re.compile(rf"<!-- {section} -->.*?<!-- end {section} -->", re.DOTALL)
    page = pattern.sub(lambda _: body, page) if pattern.search(page) else f"{page.rstrip()}\n\n{body}\n"
    PAGE.write_text(page, encoding="utf-8")
    print(body)


HEAD = """# Measurements

Every section is written by a script in `benchmarks/`; run it and the section is replaced. Times are from shared
machines: compare within a table, not between tables.
"""
