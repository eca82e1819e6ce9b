"""All 60,000 training images of Fashion-MNIST under a budget: `edgetl train --minutes`.

`python benchmarks/fashion_all.py WORK [MINUTES]` needs Debian's `dataset-fashion-mnist`. A model that WORK holds
from an earlier run is not trained again.
"""

import sys
from pathlib import Path

from common import card, edgetl, publish, table
from fashion import write_folders

TUNING_SHARE = "0.03"  # of 60,000 is plenty


def main() -> None:
    """Train, then say what came of it and how the time went."""
    work = Path(sys.argv[1])
    minutes = sys.argv[2] if len(sys.argv) > 2 else "30"
    data = write_folders(work / "fashion-all", train=6000, val=0)
    model = work / f"fashion-all-{minutes}"
    if not model.exists():
        edgetl(
            "train", str(data), "-o", str(model), "--minutes", minutes, "--tuning-share", TUNING_SHARE,
            "--cache-folder", str(model) + "-cache",
        )  # fmt: skip
    found = card(model)
    training, scores = found["training"], found["scores"]["keras"]
    rows = [
        (
            f"{record['stage']} {record['epoch']}",
            f"{record['elapsed_seconds'] / 60:.1f}",
            f"{record['train_loss']:.3f}",
            f"{100 * record['tuning_accuracy']:.2f} %",
        )
        for record in training["history"]
    ]
    text = (
        f"`edgetl train --minutes {minutes}` on the 60,000 training images ({found['data']['roles']['train']['images']:,} "
        f"of them fit weights, {found['data']['roles']['tuning']['images']:,} choose). The plan chose "
        f"{found['input']['width']} pixels. Kept: {training['chosen_stage']} epoch {training['chosen_epoch']}. "
        f"On {scores['images']:,} test images (those that copy training images are left out): "
        f"**{100 * scores['accuracy']:.2f} %** (95 % interval {100 * scores['accuracy_low']:.2f} to "
        f"{100 * scores['accuracy_high']:.2f}), {training['minutes']:.1f} minutes from pressing enter to the end of "
        "training, reading the images included.\n\n"
        + table(("stage and epoch", "minutes since the start", "training loss", "tuning accuracy"), rows)
    )
    publish("fashion-all", "All of Fashion-MNIST under a budget", text)


if __name__ == "__main__":
    main()
