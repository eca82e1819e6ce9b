"""How often `edgetl drift` finds planted shifts, and how often none: `python benchmarks/drift.py`.

Images are the shipped test emoji, moved, scaled and mirrored at random, through the shipped model. Each run draws a
reference and results anew from them, with replacement, so that without a shift both are samples of one world.
"""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from common import ROOT, publish, table
from PIL import Image, ImageEnhance, ImageFilter
from scipy.stats import binom

from edgetl import images
from edgetl.card import Model
from edgetl.config import DriftConfig
from edgetl.drifting import ALPHA, DriftVerdict
from edgetl.engines import open_classifier, run_batches
from edgetl.steps.drift import drift
from edgetl.steps.predict import default_artifact

VARIANTS = 8  # of each image
RUNS, RUNS_WITHOUT = 20, 100
SIZES = ((232, 100), (232, 300), (232, 1000), (1000, 1000))  # reference, results
SHIFTS = {
    "brightness": {f"x {part}": lambda image, part=part: ImageEnhance.Brightness(image).enhance(part) for part in (0.8, 0.6, 0.4)},
    "blur": {f"{radius} pixels": lambda image, radius=radius: image.filter(ImageFilter.GaussianBlur(radius)) for radius in (0.5, 1, 2)},
}  # fmt: skip
OTHER_STYLE = (0.25, 0.5, 1.0)
MIX = (2, 4, 8)  # times as many of one class


def main() -> None:
    """Draw from worlds with and without shifts, count verdicts."""
    started = time.perf_counter()
    model = Model.open(ROOT / "models" / "demo")
    noto = probabilities(model, "noto", lambda image: image)
    rows = [("none", "", *cells(model, noto, drawing(noto), RUNS_WITHOUT))]
    for kind, strength, draw in shifts(model, noto):
        rows.append((kind, strength, *cells(model, noto, draw, RUNS)))
    publish("drift", "Drift that is found", text(rows, time.perf_counter() - started))


def shifts(model: Model, noto: np.ndarray):
    """Every planted shift: its kind, its strength, and what draws results from its world."""
    for kind, strengths in SHIFTS.items():
        for name, change in strengths.items():
            yield kind, name, drawing(probabilities(model, "noto", change))
    twemoji = probabilities(model, "twemoji", lambda image: image)
    for part in OTHER_STYLE:
        yield "new domain", f"{part:.0%} in the other style", mixing(noto, twemoji, part)
    for times in MIX:
        weights = np.where(noto.argmax(axis=1) == model.card.labels.index("flag"), times, 1.0)
        yield "class mix", f"{times} x as many flags", drawing(noto, weights)


def drawing(world: np.ndarray, weights: np.ndarray | None = None):
    """What draws rows of a world with replacement."""
    shares = None if weights is None else weights / weights.sum()
    return lambda random, size: world[random.choice(len(world), size, p=shares)]


def mixing(world: np.ndarray, other: np.ndarray, part: float):
    """What draws rows of two worlds."""

    def draw(random: np.random.Generator, size: int) -> np.ndarray:
        count = random.binomial(size, part)
        return np.concatenate([drawing(other)(random, count), drawing(world)(random, size - count)])

    return draw


def probabilities(model: Model, style: str, change) -> np.ndarray:
    """What the model says about variants of the test images of a style after a change: float32 [N, classes]."""
    random, spec, pixels = np.random.default_rng(0), model.card.input, []
    for path in sorted((ROOT / "edgetl" / "samples" / style / "test").glob("*/*.png")):
        prepared = images.prepare(path, spec.height, spec.width, spec.background_rgb)
        image = Image.fromarray(prepared)
        pixels += [np.asarray(change(varied(image, random))) for _ in range(VARIANTS)]
    classifier = open_classifier(model, default_artifact(model))
    return run_batches(classifier, np.stack(pixels), 32, style)


def varied(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """An image moved by up to 3 pixels, scaled by up to a tenth, mirrored half of the time, on white."""
    scale, (right, down) = random.uniform(0.9, 1.1), random.uniform(-3, 3, 2)
    middle = image.width / 2
    mirror = random.choice([-1, 1])
    across = (mirror * scale, 0, middle - mirror * scale * middle + right)
    along = (0, scale, middle - scale * middle + down)
    return image.transform(
        image.size, Image.Transform.AFFINE, (*across, *along), Image.Resampling.BILINEAR, fillcolor="white"
    )


def cells(model: Model, noto: np.ndarray, draw, runs: int) -> list[str]:
    """For each size, how many runs are called drifted, and how many not."""
    told = []
    for sizes in SIZES:
        verdicts = Counter(one_run(model, noto, draw, sizes, seed) for seed in range(runs))
        drifted, unchanged = verdicts[DriftVerdict.DRIFTED], verdicts[DriftVerdict.NOT_DRIFTED]
        told.append(f"{drifted} / {unchanged} of {runs}")
    print(*told, file=sys.stderr, flush=True)
    return told


def one_run(model: Model, noto: np.ndarray, draw, sizes: tuple[int, int], seed: int) -> DriftVerdict:
    """The verdict on results drawn from a world, against a reference drawn from the world without a shift."""
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as place:
        before, now = Path(place) / "before.parquet", Path(place) / "now.parquet"
        write(before, drawing(noto)(random, sizes[0]), model.card.labels)
        write(now, draw(random, sizes[1]), model.card.labels)
        return drift(model, now, DriftConfig(reference=before, seed=seed)).verdict


def write(path: Path, rows: np.ndarray, labels: tuple[str, ...]) -> None:
    """The columns of results that drift reads, as predict writes them without further options."""
    names = [labels[place] for place in rows.argmax(axis=1)]
    columns = {"status": ["ok"] * len(rows), "label": names, "probability": rows.max(axis=1)}
    pa.parquet.write_table(pa.table(columns), path)


def text(rows: list[tuple[str, ...]], seconds: float) -> str:
    """The section of the page."""
    header = ("shift", "strength", *(f"{results} against {reference}" for reference, results in SIZES))
    most = int(binom.ppf(0.999, RUNS_WITHOUT, ALPHA))
    return (
        "The shipped model on variants of the shipped test images, tolerance 0.1; rows hold class and largest "
        "probability, as `edgetl predict` writes them. Each cell: runs called *drifted* / *not drifted*; the rest is "
        "*cannot tell*. A weak shift is called *not drifted* where it is proven to be smaller than the tolerance. "
        "Columns: images in the results against images in the reference, both drawn anew in each run.\n\n"
        + table(header, rows)
        + f"\n\nWithout a shift, at most 5 of 100 runs are to be called drifted; a sound test exceeds {most} in one of "
        f"1,000 tables. All runs took {seconds / 60:.0f} minutes."
    )


if __name__ == "__main__":
    main()
