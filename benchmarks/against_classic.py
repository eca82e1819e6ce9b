"""The default recipe against the widely copied one, given the same minutes.

`python benchmarks/against_classic.py [WORK]` needs Debian's `dataset-fashion-mnist` and about 30 minutes.
"""

import sys
import tempfile
from pathlib import Path

from common import card, edgetl, publish, table
from fashion import write_folders

from edgetl.steps.demo import copy_samples

SIZE = "64"
TIMES = {"emoji": (1, 10), "Fashion-MNIST": (1, 3)}  # how often the default's time the classic recipe gets


def main() -> None:
    """Both recipes on both data sets; the classic one gets as long as the default took, and some times as long."""
    work = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    fashion = write_folders(work / "fashion-2000", train=200, val=50)
    emoji = work / "emoji"
    if not emoji.exists():
        copy_samples(emoji, ("noto", "twemoji"))
    rows = [
        row
        for name, data in (("emoji", emoji), ("Fashion-MNIST", fashion))
        for row in compare(name, data, work)
    ]
    header = ("data", "recipe", "training images", "minutes of training", "accuracy", "95 % interval")
    text = (
        f"{SIZE} pixels, ImageNet weights, same roles and seed. `--recipe classic` is stopped by `--minutes`: first at "
        "what the default took, then later.\n\n" + table(header, rows)
    )
    publish("classic", "The default recipe against the classic one", text)


def compare(name: str, data: Path, work: Path) -> list[tuple[str, ...]]:
    """Rows of one data set."""
    default = work / f"{name}-default"
    if not default.exists():
        edgetl("train", str(data), "-o", str(default), "--image-size", SIZE)
    minutes = card(default)["training"]["minutes"]
    rows = [row_of(name, "default", default)]
    for times in TIMES[name]:
        model = work / f"{name}-classic-{times}"
        if not model.exists():
            edgetl(
                "train", str(data), "-o", str(model), "--image-size", SIZE, "--recipe", "classic",
                "--minutes", f"{times * minutes:.3f}",
            )  # fmt: skip
        rows.append(row_of(name, f"classic, {times} x the time", model))
    return rows


def row_of(name: str, recipe: str, model: Path) -> tuple[str, ...]:
    """One line of the table."""
    found = card(model)
    scores = found["scores"]["keras"]
    return (
        name,
        recipe,
        str(found["data"]["roles"]["train"]["images"]),
        f"{found['training']['minutes']:.1f}",
        f"{100 * scores['accuracy']:.1f} %",
        f"{100 * scores['accuracy_low']:.1f} to {100 * scores['accuracy_high']:.1f}",
    )


if __name__ == "__main__":
    main()
