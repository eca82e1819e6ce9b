"""What images without labels are worth to `edgetl compress`: the emoji set, and the emoji it leaves out.

    python benchmarks/unlabelled.py WORK PACKAGES

PACKAGES holds the two npm tarballs that scripts/make_samples.py names (`npm pack`). Three seeds; parents and
networks that `compression.py WORK emoji-64-SEED --rung "800 kB, fast"` left in WORK are not made again, so
that each is compared with one that differs in `--unlabelled` only. About ten minutes a seed, more with parents.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, card, publish, table
from compression import Case, compressed, options_of, parent_of

sys.path.append(str(ROOT / "scripts"))
from make_samples import (
    FAMILY,
    STYLES,
    base,
    drawn_by_all,
    flat,
    nearly_equal,
    plan,
    read_package,
    thumbnail,
    verified,
    write,
)

RUNG = "800 kB, fast"
PLAIN = ("--pictures", "16", "--epochs", "240")
TAUGHT = ("--pictures", "10", "--epochs", "50")  # about as many steps, of more images
SEEDS = (0, 1, 2)


def main() -> None:
    """Both ways with every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("packages", type=Path)
    asked = parser.parse_args()
    more = asked.work / "emoji-left-out"
    if not more.exists():
        write_left_out(asked.packages, more)
    count = sum(1 for _ in more.rglob("*.png"))
    cases = [Case("emoji", 64, seed) for seed in SEEDS]
    rows = [row for case in cases for row in rows_of(case, asked.work, more, count)]
    header = ("seed", "unlabelled", "MB", "file", "accuracy", "drop", "at most", "epochs")
    text = (
        f"`edgetl compress {' '.join(options_of(cases[0], RUNG))}`, the rung *{RUNG}* of the emoji cases below but with fewer steps, the "
        f"same number without `--unlabelled` ({' '.join(PLAIN)}) and with it ({' '.join(TAUGHT)}): {count:,} emoji of "
        "the same two styles that are in no class, or beyond the 48 that a class has. None is a "
        "variant or nearly a copy of a test or tuning image. *Drop* and *at most* (exact one-sided 95 % bound, points): of "
        "int8 files against the unpruned parent in full precision on the test images of the samples.\n\n"
        + table(header, rows)
    )
    publish("unlabelled", "Images without labels", text)


def rows_of(case: Case, work: Path, more: Path, count: int) -> list[tuple[str, ...]]:
    """What the card says of both networks of one seed."""
    parent = parent_of(case, work)
    options = options_of(case, RUNG)
    plain = compressed(case, parent, f"{RUNG}, 16-240", [*options, *PLAIN])
    taught = compressed(
        case, parent, f"{RUNG}, 10-50 unlabelled", [*options, *TAUGHT, "--unlabelled", str(more)]
    )
    rows: list[tuple[str, ...]] = []
    for model, images in ((plain, "0"), (taught, f"{count:,}")):
        found = card(model)
        sizes = {artifact["name"]: artifact["size_bytes"] for artifact in found["artifacts"]}
        for parity in found["compression"]["parity"]:
            name = parity["artifact"]
            rows.append(
                (
                    f"{case.seed}", images, f"{sizes[name] / 1e6:.2f}", name,
                    f"{100 * found['scores'][name]['accuracy']:.2f} %", f"{parity['drop_points']:+.2f}",
                    f"{parity['drop_upper_points']:.2f}", f"{len(found['training']['history'])}",
                )
            )  # fmt: skip
    return rows


def write_left_out(packages: Path, folder: Path) -> None:
    """Every emoji of both styles that the samples leave out, but none like a test or tuning image."""
    partial = folder.with_name(folder.name + ".partial")
    files = {style: read_package(verified(style, packages), style) for style in STYLES}
    chosen = plan(files)
    emoji = drawn_by_all(files)
    held_out = [one for one in emoji if one["image"] in chosen and chosen[one["image"]][0] != "train"]
    known = {key for one in held_out for key in identities(one)}
    others = [one for one in emoji if one["image"] not in chosen and not known & set(identities(one))]
    for style in STYLES:
        images = files[style]
        seen, drawn = (thumbnails(images, some) for some in (held_out, others))
        alike = nearly_equal(flat(drawn), flat(seen)) | nearly_equal(flat(drawn[:, :, ::-1]), flat(seen))
        for one, is_copy in zip(others, alike.any(axis=1), strict=True):
            if not is_copy:
                write(partial / style.name / one["image"], images[one["image"]])
    partial.rename(folder)


def thumbnails(images: dict[str, bytes], some: list[dict[str, Any]]) -> np.ndarray:
    """Of some emoji in one style, [N, 16, 16, 3]."""
    return np.stack([thumbnail(images[one["image"]]) for one in some])


def identities(one: dict[str, Any]) -> list[str]:
    """What an emoji shares with its variants."""
    return [base(one["unified"]), FAMILY.get(one["short_name"], one["short_name"])]


if __name__ == "__main__":
    main()
