"""Make models/demo with the shipped commands and the shipped images: `python scripts/make_demo_model.py`.

VGG16 up to block3 on the Noto emoji, so that the int8 files are small enough for the repository. The
full-precision network is left out; its probabilities stay in reference.npz for `edgetl verify models/demo`.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "demo"
LEFT_OUT = ("model.keras", ".card.lock")


def edgetl(*arguments: str) -> None:
    """Run one command from the repository's top folder."""
    subprocess.run([sys.executable, "-m", "edgetl", *arguments], check=True, cwd=ROOT)


def main() -> None:
    """Train, export, verify, then remove what does not ship."""
    shutil.rmtree(MODEL, ignore_errors=True)
    edgetl("train", "edgetl/samples/noto", "-o", "models/demo", "--image-size", "64", "--cut", "block3")
    edgetl("export", "models/demo", "--precision", "int8")
    edgetl("verify", "models/demo", "--max-drop", "3")
    for name in LEFT_OUT:
        (MODEL / name).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
