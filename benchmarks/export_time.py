"""Time of the whole export matrix for a 224-pixel VGG16: `python benchmarks/export_time.py [WORK]`."""

import sys
import tempfile
from pathlib import Path

from common import ROOT, card, edgetl, publish, table

LIMIT_SECONDS = 180


def main() -> None:
    """Train a head quickly (accuracy does not matter here), then time the export with 200 calibration images."""
    work = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    model = work / "export-224"
    if not model.exists():
        edgetl(
            "train", str(ROOT / "edgetl/samples/noto"), "-o", str(model), "--image-size", "224", "--views", "1",
            "--unfreeze", "none", "--epochs-head", "5", "--calibration-share", "0.5", "--tuning-share", "0.1",
        )  # fmt: skip
    done = edgetl("export", str(model))
    everything = edgetl("export", str(model), "--precision", "fp32,fp16,int8,w8a32,w8a16")
    calibration = card(model)["data"]["roles"]["calibration"]["images"]
    rows = [
        (
            artifact["name"],
            f"{artifact['size_bytes'] / 1e6:.1f}",
            artifact["details"].get("calibration images", ""),
        )
        for artifact in card(model)["artifacts"]
    ]
    text = (
        f"`edgetl export` of a whole VGG16 (block5, 14.7 million weights) at 224 pixels with {calibration} calibration "
        f"images, TensorFlow's start included: **{done.wall_seconds:.0f} s** for the 8 default files, "
        f"{everything.wall_seconds:.0f} s with w8a16. Target: under {LIMIT_SECONDS} s.\n\n"
    )
    publish("export", "Export at 224 pixels", text + table(("file", "MB", "calibration images"), rows))


if __name__ == "__main__":
    main()
