"""What faults cost batch jobs, at full length (about an hour): `python benchmarks/batch_faults.py`.

Needs root for power cuts and full disks, mkfs.ext4, and Pillow's source package from the package index for its test
images; what is not possible here is said in the table. Names of faults run only those and keep the other rows.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from common import PAGE, ROOT, publish, table

INJECT = ROOT / "tests" / "faults" / "inject.py"
COUNTS = {
    "kills": 1000,
    "stops": 100,
    "cuts": 100,
    "disks": 64,
    "mutations": 10_000,
    "memory": 100_000,
    "ray": 20,
}
PILLOW = "pillow==13.0.0"


def corpus(folder: Path) -> Path | None:
    """The images that Pillow tests itself with; None where they cannot be had."""
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(folder),
    ]  # fmt: skip
    if subprocess.run([*command, PILLOW], check=False, capture_output=True).returncode != 0:
        return None
    with tarfile.open(next(folder.glob("pillow-*.tar.gz"))) as packed:
        packed.extractall(folder, filter="data")
    return next(folder.glob("pillow-*/Tests/images"))


def main() -> None:
    """Run one fault after the other and publish the counts."""
    wanted = sys.argv[1:] or list(COUNTS)
    rows = _published()
    with tempfile.TemporaryDirectory() as scratch:
        images = corpus(Path(scratch)) if "mutations" in wanted else None
        for fault in wanted:
            command = [sys.executable, str(INJECT), fault, str(COUNTS[fault])]
            if images is not None and fault == "mutations":
                command += ["--corpus", str(images)]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode == 0:
                counts = json.loads(done.stdout.splitlines()[-1])
                rows[fault] = "; ".join(f"{name}: {_shown(value)}" for name, value in counts.items())
            else:
                rows[fault] = f"could not run: {(done.stderr.strip() or 'no message').splitlines()[-1]}"
            print(fault, rows[fault], flush=True)
    text = (
        "Jobs of `edgetl predict` that were hurt and then went on (tests/faults/inject.py). kills: SIGKILL of a job of "
        "4,000 images at random moments, every fourth time of a decoder first; stops: SIGINT, SIGTERM, SIGHUP; cuts: "
        "ext4 frozen, copied and mounted again; disks: tmpfs of growing size; mutations: damaged images of all formats "
        "after the test images of Pillow's source package; memory: small images with models/demo, resident "
        "memory of all processes; ray: nodes of a cluster of two killed.\n\n"
    )
    publish("batch-faults", "Batch jobs under faults", text + table(("fault", "counts"), list(rows.items())))


def _published() -> dict[str, str]:
    """The rows of an earlier run."""
    section = PAGE.read_text(encoding="utf-8").partition("<!-- batch-faults -->")[2].partition("<!-- end")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {fault: counts for fault, counts in lines if fault in COUNTS}


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{number:,} {name}" for name, number in value.items())
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


if __name__ == "__main__":
    main()
