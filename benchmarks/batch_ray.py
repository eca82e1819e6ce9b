"""One Ray node against two, each bound to one CPU of this machine: `python benchmarks/batch_ray.py`."""

import logging
import os
import statistics
import sys
import tempfile
from pathlib import Path

from batch import make_small
from common import ROOT, publish, table

COUNT = 8_000  # some work, as actors take seconds to start
ROUNDS = 3


def bound_to(cpu: int, pids: list[int]) -> None:
    """Whatever these processes start later is bound too."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {cpu})


def job(photos: Path, output: Path, address: str | None):
    """The whole command but for the start of Python, on a cluster or, without an address, on this machine."""
    from edgetl.card import Model
    from edgetl.config import BatchEngine, PredictConfig
    from edgetl.steps.predict import predict

    engine = BatchEngine.RAY if address else BatchEngine.LOCAL
    config = PredictConfig(output=f"{output}/", engine=engine, address=address, shard_rows=256)
    return predict(Model.open(ROOT / "models" / "demo"), [str(photos)], config)


def main() -> None:
    """Add and remove the second node between jobs, several rounds."""
    import ray
    from ray.cluster_utils import Cluster

    if (os.cpu_count() or 1) < 2:
        sys.exit("two CPUs are needed")
    os.environ |= {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    logging.disable(logging.WARNING)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})

    def add(cpu: int):
        node = cluster.add_node(num_cpus=1)
        bound_to(cpu, [process.process.pid for kind in node.all_processes.values() for process in kind])
        return node

    add(0)
    found: dict[str, list[float]] = {"one node": [], "two nodes": []}
    digests = set()
    with tempfile.TemporaryDirectory() as scratch:
        photos = make_small(Path(scratch) / "photos", COUNT)
        digests.add(job(photos, Path(scratch) / "local", None).digest)
        for number in range(ROUNDS):
            for name, seconds in found.items():
                second = add(1) if name == "two nodes" else None
                summary = job(photos, Path(scratch) / f"{number} {name}", cluster.address)
                seconds.append(summary.seconds)
                digests.add(summary.digest)
                print(name, summary.seconds, file=sys.stderr, flush=True)
                if second is not None:
                    cluster.remove_node(second)
    ray.shutdown()
    cluster.shutdown()
    ratios = [one / two for one, two in zip(found["one node"], found["two nodes"], strict=True)]
    rows = [
        (name, f"{statistics.median(values):.1f}", f"{COUNT / statistics.median(values):.0f}")
        for name, values in found.items()
    ]
    text = (
        f"{COUNT:,} JPEG files of 128 x 128 with models/demo, nodes of one CPU each on this machine, {ROUNDS} rounds in "
        "turn; seconds from the first actor asked for to the last row committed, so the start of actors counts. "
        f"{'All digests equal that of the local engine' if len(digests) == 1 else 'DIGESTS DIFFER'}. "
        f"Two nodes are {statistics.median(ratios):.2f} times as fast as one (each round: "
        f"{', '.join(f'{ratio:.2f}' for ratio in ratios)}).\n\n"
    )
    publish(
        "batch-ray",
        "Batch inference on a Ray cluster",
        text + table(("cluster", "seconds", "images/s"), rows),
    )


if __name__ == "__main__":
    main()
