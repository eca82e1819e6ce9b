"""How long a small network learns, and from how many pictures: the rung *800 kB, fast* of emoji and garments.

    python benchmarks/patience.py WORK

Needs Debian's `dataset-fashion-mnist`. Networks that are in WORK already are not made again; all of them take
two hours, their parents another two.
"""

import argparse
from pathlib import Path

from common import card, publish, table
from compression import Case, compressed, options_of, parent_of

RUNG = "800 kB, fast"
EMOJI, GARMENTS = Case("emoji", 64, 1), Case("fashion-2000", 64, 0)
OTHERS = (Case("emoji", 64, 0), Case("emoji", 64, 2))
MORE_GARMENTS = (Case("fashion-2000", 64, 1), Case("fashion-2000", 64, 2))
SHORT, DEFAULT = (16, 240), (None, None)  # pictures of each image, and epochs
LEARNING = (
    *((EMOJI, how) for how in (SHORT, (16, 960), (64, 240), (64, 960), DEFAULT)),
    *((case, how) for case in OTHERS for how in (SHORT, DEFAULT)),
    *((GARMENTS, how) for how in ((16, 82), (28, 301), DEFAULT)),
    *((case, DEFAULT) for case in MORE_GARMENTS),
)  # fmt: skip


def main() -> None:
    """One network of each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work
    rows = [row_of(case, work, *how) for case, how in LEARNING]
    header = (
        "case", "learning", "pictures", "epochs", "tuning loss", "agreement", "KL", "accuracy", "drop", "at most", "minutes",
    )  # fmt: skip
    text = (
        f"`edgetl compress {' '.join(options_of(EMOJI, RUNG))}`, the rung *{RUNG}* below: how many varied and mixed pictures of "
        "each image, and how many epochs. *Drop* and *at most* (exact one-sided 95 % bound, points), *agreement* and *KL* "
        "(nats): int8 ONNX files against the unpruned parent in full precision on the test images (emoji 464, garments 9,996). *Minutes*: "
        "of the whole command, some beside other work.\n\n" + table(header, rows)
    )
    publish("patience", "How long a small network learns", text)


def row_of(case: Case, work: Path, pictures: int | None, epochs: int | None) -> tuple[str, ...]:
    """What the card of one network says."""
    parent, options = parent_of(case, work), options_of(case, RUNG)
    if pictures is None:
        model = compressed(case, parent, RUNG, options)
    else:
        options += ["--pictures", str(pictures), "--epochs", str(epochs)]
        model = compressed(case, parent, f"{RUNG}, {pictures}-{epochs}", options)
    found = card(model)
    parity = next(one for one in found["compression"]["parity"] if one["artifact"] == "onnx-int8")
    history = found["training"]["history"]
    return (
        case.name, "default" if pictures is None else "as told", found["training"]["settings"]["pictures"], f"{len(history)}",
        f"{history[-1]['tuning_loss']:.3f}", f"{100 * parity['agreement']:.2f} %", f"{parity['mean_kl']:.3f}",
        f"{100 * found['scores']['onnx-int8']['accuracy']:.2f} %", f"{parity['drop_points']:+.2f}",
        f"{parity['drop_upper_points']:.2f}", f"{found['training']['minutes']:.1f}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
