"""Time of a whole `edgetl export --max-drop` of a 96-pixel VGG16: `python benchmarks/promise_time.py WORK`.

Three networks on the shipped emoji of both styles: the whole trunk with a head, the cut that `edgetl train` chooses,
and a goal that plain int8 cannot reach, so that the search has to go on.
"""

import sys
from pathlib import Path

from common import card, edgetl, publish, table

from edgetl.steps.demo import copy_samples

LIMIT_SECONDS = 300
CASES = (
    ("the whole of VGG16 (block5)", ("--cut", "block5"), ("--max-drop", "3.0")),
    ("the cut that train chooses", (), ("--max-drop", "3.0")),
    ("the same, at most 1 MB: out of reach", (), ("--max-drop", "3.0", "--max-size", "1MB")),
)


def main() -> None:
    """Train heads, which is not timed, and time the exports."""
    work = Path(sys.argv[1])
    data = work / "emoji"
    if not data.exists():
        copy_samples(data, ("noto", "twemoji"))
    rows = []
    for number, (words, cut, goals) in enumerate(CASES):
        model = work / f"promise-{number}"
        if not model.exists():
            edgetl(
                "train", str(data), "-o", str(model), "--image-size", "96", "--views", "1", "--unfreeze", "none", *cut
            )  # fmt: skip
        done = edgetl("export", str(model), *goals, check=False)
        found = card(model)
        written = ", ".join(artifact["name"] for artifact in found["artifacts"]) or "nothing"
        certification = found["data"]["roles"]["certification"]["images"]
        rows.append(
            (
                words,
                " ".join(goals),
                f"{certification}",
                str(len(found["tried"])),
                str(done.exit_code),
                written,
                f"{done.wall_seconds:.0f}",
            )
        )
        print(rows[-1], flush=True)
    text = (
        "Whole commands, TensorFlow's start, search and certification included, both formats. Target: under "
        f"{LIMIT_SECONDS} s.\n\n"
    )
    header = ("network", "goals", "certification images", "files tried", "exit code", "written", "seconds")
    publish("promise-time", "How long a promise takes", text + table(header, rows))


if __name__ == "__main__":
    main()
