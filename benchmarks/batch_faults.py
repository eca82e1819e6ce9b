"""What faults cost batch jobs, at full length (about an hour): `python benchmarks/batch_faults.py`.

Needs root for power cuts and full disks, mkfs.ext4, and Pillow's source package from the package index for its test
images; what is not possible here is said in the table. A number multiplies all counts: `batch_faults.py 0.1`.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from common import ROOT, publish, table

INJECT = ROOT / "tests" / "faults" / "inject.py"
COUNTS = {"kills": 1000, "stops": 100, "cuts": 100, "disks": 64, "mutations": 10_000, "memory": 100_000}
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
    factor = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        images = corpus(Path(scratch))
        for fault, count in COUNTS.items():
            command = [sys.executable, str(INJECT), fault, str(max(int(count * factor), 1))]
            if fault == "mutations" and images is not None:
                command += ["--corpus", str(images)]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode != 0:
                last = (done.stderr.strip() or "no message").splitlines()[-1]
                rows.append((fault, f"could not run: {last}"))
                continue
            counts = json.loads(done.stdout.splitlines()[-1])
            rows.append((fault, "; ".join(f"{name}: {_shown(value)}" for name, value in counts.items())))
            print(rows[-1], flush=True)
    text = (
        "Jobs of `edgetl predict` that were hurt and then went on (tests/faults/inject.py). kills: SIGKILL of a job of "
        "4,000 images at random moments, every fourth time of a decoder first; stops: SIGINT, SIGTERM, SIGHUP; cuts: "
        "ext4 frozen, copied and mounted again; disks: tmpfs of growing size; mutations: damaged images of all formats "
        "after the test images of Pillow's source package; memory: small images with models/demo, proportional set "
        "size of all processes.\n\n"
    )
    publish("batch-faults", "Batch jobs under faults", text + table(("fault", "counts"), rows))


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{number:,} {name}" for name, number in value.items())
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


if __name__ == "__main__":
    main()
