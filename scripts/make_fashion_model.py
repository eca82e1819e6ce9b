"""Make models/fashion: VGG16 on 1,840 images of Fashion-MNIST, compressed. About 20 minutes.

`python scripts/make_fashion_model.py` needs Debian's `dataset-fashion-mnist`. The full-precision network is
left out; its probabilities stay in reference.npz.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "fashion"
MODEL = ROOT / "models" / "fashion"
EPOCHS = 41  # half of the default: figures of other CPUs in docs/benchmarks.md are of this file
LEFT_OUT = ("model.keras", ".card.lock")

sys.path.insert(0, str(ROOT / "benchmarks"))
from fashion import write_folders  # noqa: E402


def edgetl(*arguments: str) -> None:
    """Run one command from the repository's top folder."""
    subprocess.run([sys.executable, "-m", "edgetl", *arguments], check=True, cwd=ROOT)


def main() -> None:
    """Train and compress, then remove what does not ship."""
    data, parent = write_folders(WORK / "data", train=200, val=50), WORK / "parent"
    if not parent.exists():
        epochs = ("--epochs-finetune", "40", "--patience", "40")
        edgetl("train", str(data), "-o", str(parent), "--image-size", "64", *epochs)
    shutil.rmtree(MODEL, ignore_errors=True)
    goals = ("--max-drop", "1.0", "--max-size", "800KB", "--macs", "50")
    edgetl("compress", str(parent), "-o", str(MODEL), *goals, "--epochs", str(EPOCHS))
    for name in LEFT_OUT:
        (MODEL / name).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
