"""Short versions of the fault runs; benchmarks/batch_faults.py has the long ones."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INJECT = Path(__file__).parent / "inject.py"

pytestmark = pytest.mark.slow
may_mount = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mkfs.ext4") is None, reason="needs root to mount, and mkfs.ext4"
)


def inject(fault: str, count: int) -> dict:
    command = [sys.executable, str(INJECT), fault, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.stderr.write(done.stderr)  # why counts are what they are, where a test fails
    return json.loads(done.stdout.splitlines()[-1])


def test_kills_lose_nothing_and_double_nothing():
    counts = inject("kills", 60)
    assert counts["kills"] == 60
    assert counts["jobs"] > 0
    assert [counts[name] for name in ("rows lost", "rows twice", "digests differ", "other ends")] == [0] * 4


def test_signals_stop_a_job_that_can_be_resumed():
    counts = inject("stops", 12)
    assert counts["signals"] == 12
    assert [counts[name] for name in ("wrong exit codes", "digests differ")] == [0, 0]


@may_mount
def test_power_cuts_lose_nothing_that_was_committed():
    counts = inject("cuts", 10)
    assert counts["parts acknowledged"] > 0
    assert [counts[name] for name in ("parts lost", "digests differ")] == [0, 0]


@may_mount
def test_full_disks_lose_nothing_that_was_committed():
    counts = inject("disks", 12)
    assert counts["filled"] > 3
    assert counts["told the space needed"] == counts["filled"]
    assert [counts[name] for name in ("parts torn", "digests differ")] == [0, 0]


def test_damaged_images_have_a_row_each_and_kill_no_decoder():
    counts = inject("mutations", 1500)
    assert counts["rows"] == 1500
    assert counts["decoders that died"] == 0
    assert 100 < counts["refused"] < 1500


def test_memory_does_not_grow_with_the_number_of_images():
    counts = inject("memory", 6000)
    assert counts["images"] == 6000
    assert counts["peak, MiB"] < 600
    # Decoders that end before the job does make it fall; an image that stays, decoded, would be 12 MiB per 1,000.
    assert counts["slope of their own memory, MiB per 1,000 images"] < 6


def test_lost_nodes_of_a_cluster_lose_no_rows():
    pytest.importorskip("ray")
    counts = inject("ray", 2)
    assert counts["nodes killed"] == 2
    assert [counts[name] for name in ("rows lost", "rows twice", "digests differ")] == [0, 0, 0]


def test_actors_that_can_never_start_get_no_part():
    pytest.importorskip("ray")
    counts = inject("ghosts", 2)
    assert [counts[name] for name in ("rows lost", "rows twice", "digests differ")] == [0, 0, 0]
