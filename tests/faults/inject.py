"""Faults for jobs, and what they cost: `python tests/faults/inject.py kills 1000`; prints counts as JSON.

Each function makes a job, hurts it, lets the same command go on, and counts rows. tests/faults/test_faults.py runs
short versions, benchmarks/batch_faults.py those that are published.
"""

# ruff: noqa: E402, T201, B023 - a script beside the tests; loop variables are used at once

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import numpy as np
from PIL import Image
from tiny import make_tiny_model

from edgetl.card import Model
from edgetl.config import BatchEngine, PredictConfig
from edgetl.errors import StorageError
from edgetl.rows import read_parquet
from edgetl.steps.predict import predict
from edgetl.stream.journal import Journal

ROWS = 64  # of a part


def photos_in(folder: Path, count: int, distinct: int = 200) -> Path:
    """Small JPEG files; links to each other, so that millions would fit. Some are no images."""
    folder.mkdir(parents=True)
    colours = np.random.default_rng(0).integers(0, 256, (distinct, 6, 6, 3), dtype=np.uint8)
    for number in range(count):
        path = folder / f"{number:07d}.jpg"
        if number >= distinct:
            path.hardlink_to(folder / f"{number % distinct:07d}.jpg")
        elif number % 17 == 5:
            path.write_bytes(b"no image")
        else:
            Image.fromarray(colours[number]).resize((48, 48)).save(path, quality=90)
    return folder


def config_for(output: Path, **settings) -> PredictConfig:
    return PredictConfig(
        **{"output": f"{output}/", "shard_rows": ROWS, "workers": 0, "threads": 1, **settings}
    )


def undisturbed(model: Model, photos: Path, scratch: Path) -> str:
    output = scratch / "undisturbed"
    return predict(model, [str(photos)], config_for(output)).digest


def wrong_rows(output: Path, photos: Path) -> tuple[int, int]:
    """Rows that are missing, and rows that are there twice."""
    paths = [row["path"] for part in sorted(output.glob("part-*")) for row in read_parquet(part)]
    return len(set(map(str, photos.iterdir())) - set(paths)), len(paths) - len(set(paths))


def forked(work: Callable[[], object], output: Path) -> int:
    """Start `work` in a process group of its own; what it prints goes to a file."""
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):
            os.setpgid(child, child)
        return child
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started this may have had them ignored
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    handle = os.open(output.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    code = 9
    try:
        work()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except StorageError as error:
        print(error, flush=True)
        code = 1
    except BaseException:  # noqa: BLE001 - whoever reads the log has to know
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kills(count: int, scratch: Path, images: int = 4000) -> dict:
    """SIGKILL at random moments: of the whole job, or (every fourth) of one of its decoders."""
    model, photos = make_tiny_model(scratch / "model"), photos_in(scratch / "photos", images)
    expected, chance = undisturbed(model, photos, scratch), random.Random(0)
    done = {"kills": 0, "decoders killed": 0, "jobs": 0, "rows lost": 0, "rows twice": 0, "digests differ": 0}
    failures = 0
    output = scratch / "job-0"
    while done["kills"] < count:
        workers = 2 if done["kills"] % 4 == 3 else 0
        child = forked(lambda: predict(model, [str(photos)], config_for(output, workers=workers)), output)
        time.sleep(chance.uniform(0.0, 1.2 if workers else 0.6))
        if workers:
            done["decoders killed"] += _kill_a_decoder(child, chance)
            time.sleep(chance.uniform(0.0, 0.3))
        finished = os.waitpid(child, os.WNOHANG)
        if finished[0] == 0:
            os.killpg(child, signal.SIGKILL)
            done["kills"] += 1
            code = ended(child)
        else:
            code = os.waitstatus_to_exitcode(finished[1])
        if code == 0:
            lost, twice = wrong_rows(output, photos)
            done["rows lost"] += lost
            done["rows twice"] += twice
            done["digests differ"] += json.loads((output / "_SUCCESS").read_text())["digest"] != expected
            done["jobs"] += 1
            shutil.rmtree(output)
            output = scratch / f"job-{done['jobs']}"
        elif code != -signal.SIGKILL:
            failures += 1
            print(f"exit code {code}:\n{output.with_suffix('.log').read_text()}", file=sys.stderr)
    return done | {"other ends": failures}


def _kill_a_decoder(parent: int, chance: random.Random) -> int:
    try:
        children = Path(f"/proc/{parent}/task").glob("*/children")
        found = [int(child) for listed in children for child in listed.read_text().split()]
        os.kill(chance.choice(found), signal.SIGKILL)
    except (OSError, IndexError):
        return 0
    return 1


def stops(count: int, scratch: Path, images: int = 3000) -> dict:
    """SIGINT, SIGTERM and SIGHUP by turns: how long until the end, and with what exit code."""
    model, photos = make_tiny_model(scratch / "model"), photos_in(scratch / "photos", images)
    expected, chance = undisturbed(model, photos, scratch), random.Random(0)
    done = {"signals": 0, "wrong exit codes": 0, "jobs": 0, "digests differ": 0, "slowest stop, s": 0.0}
    output = scratch / "job-0"
    while done["signals"] < count:
        workers = done["signals"] % 2
        child = forked(lambda: predict(model, [str(photos)], config_for(output, workers=workers)), output)
        time.sleep(chance.uniform(0.2, 1.0))
        number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[done["signals"] % 3]
        os.killpg(child, number)
        started = time.monotonic()
        code = ended(child)
        done["slowest stop, s"] = round(max(done["slowest stop, s"], time.monotonic() - started), 2)
        done["signals"] += 1
        if code == 0:
            done["digests differ"] += json.loads((output / "_SUCCESS").read_text())["digest"] != expected
            done["jobs"] += 1
            shutil.rmtree(output)
            output = scratch / f"job-{done['jobs']}"
        elif code not in (130, -number):  # before the command listens, the signal itself ends it
            done["wrong exit codes"] += 1
    summary = predict(model, [str(photos)], config_for(output))
    return done | {"digests differ": done["digests differ"] + (summary.digest != expected)}


@contextlib.contextmanager
def mounted(*arguments: str, at: Path):
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", *arguments, str(at)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True, capture_output=True)


def cuts(count: int, scratch: Path, images: int = 4000) -> dict:
    """Power cuts: a job on ext4 in a file is frozen, the file copied, and the copy mounted as after a restart."""
    model, photos = make_tiny_model(scratch / "model"), photos_in(scratch / "photos", images)
    expected, chance = undisturbed(model, photos, scratch), random.Random(0)
    disk, copy, place = scratch / "disk", scratch / "copy", scratch / "mounted"
    acknowledged = scratch / "acknowledged"
    done = {"cuts": 0, "parts acknowledged": 0, "parts lost": 0, "jobs resumed": 0, "digests differ": 0}
    commit = Journal.commit

    def telling(journal, first, *rest):
        commit(journal, first, *rest)
        with acknowledged.open("a") as file:
            file.write(f"{first}\n")

    Journal.commit = telling
    while done["cuts"] < count:
        with disk.open("wb") as file:
            file.truncate(48 * 2**20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
        acknowledged.write_text("")
        with mounted("-o", "loop", str(disk), at=place):
            child = forked(lambda: predict(model, [str(photos)], config_for(place / "job")), scratch / "run")
            time.sleep(chance.uniform(0.1, 1.2))
            os.killpg(child, signal.SIGSTOP)
            known = acknowledged.read_text().split()
            shutil.copyfile(disk, copy)
            os.killpg(child, signal.SIGKILL)
            ended(child)
        with mounted("-o", "loop", str(copy), at=place):
            job = place / "job"
            there = {str(first) for first in _parts_of(job)}
            done["cuts"] += 1
            done["parts acknowledged"] += len(known)
            done["parts lost"] += len(set(known) - there)
            if done["cuts"] % 5 == 0:  # resuming takes longer than cutting
                digest = predict(model, [str(photos)], config_for(job)).digest
                done["jobs resumed"] += 1
                done["digests differ"] += digest != expected
    Journal.commit = commit
    return done


def _parts_of(job: Path) -> list[int]:
    if not (job / "_job.json").is_file():
        return []
    journal = Journal(job)
    journal.close()
    return list(journal.parts)


def disks(count: int, scratch: Path, images: int = 3000) -> dict:
    """Disks of growing size that fill up; each job then goes on after the disk was made larger."""
    model, photos = make_tiny_model(scratch / "model"), photos_in(scratch / "photos", images)
    expected, place = undisturbed(model, photos, scratch), scratch / "mounted"
    done = {"disks": 0, "filled": 0, "told the space needed": 0, "parts torn": 0, "digests differ": 0}
    for step in range(count):
        kibibytes = 48 + step * 480 // count
        with mounted("-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", at=place):
            code = ended(
                forked(lambda: predict(model, [str(photos)], config_for(place / "job")), scratch / "run")
            )
            done["disks"] += 1
            if code == 1:
                done["filled"] += 1
                done["told the space needed"] += "MB" in (scratch / "run.log").read_text() or not list(
                    (place / "job").glob("part-*")
                )
            subprocess.run(["mount", "-o", "remount,size=16m", str(place)], check=True)
            known = _parts_of(place / "job")
            done["parts torn"] += len(list((place / "job").glob("part-*"))) - len(known)
            done["digests differ"] += (
                predict(model, [str(photos)], config_for(place / "job")).digest != expected
            )
    return done


def mutations(count: int, scratch: Path, corpus: Path | None = None) -> dict:
    """Damaged images of all formats, and those of `corpus` if given: a row each, and no decoder dies."""
    from edgetl.stream.pool import Pool

    folder = scratch / "images"
    folder.mkdir()
    files = [] if corpus is None else sorted(path for path in corpus.rglob("*") if path.is_file())
    chance = random.Random(0)
    seeds = _seeds(scratch)
    for number in range(count):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 4, 32))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        (folder / f"{number:06d}.jpg").write_bytes(data)
    listed = scratch / "list"
    names = [*map(str, files), *map(str, sorted(folder.iterdir()))]
    listed.write_bytes(b"\0".join(map(os.fsencode, names)) + b"\0")
    deaths = []
    lose = Pool._lose
    Pool._lose = lambda pool, worker, reason: (deaths.append(str(reason)), lose(pool, worker, reason))
    model = make_tiny_model(scratch / "model")
    with listed.open("rb") as stdin:
        os.dup2(stdin.fileno(), 0)
        sys.stdin = os.fdopen(0)
        summary = predict(model, ["-"], config_for(scratch / "job", workers=2, timeout=20))
    told = json.loads((scratch / "job" / "_SUCCESS").read_text())
    return {
        "files of the corpus": len(files),
        "mutations": count,
        "rows": summary.images,
        "refused": summary.refused,
        "decoders that died": len(deaths),
        "reasons": told["per_reason"],
    }


def _seeds(scratch: Path) -> list[bytes]:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    kinds = [
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}),
        ("BMP", {}), ("GIF", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}), ("TIFF", {"compression": "jpeg"}),
    ]  # fmt: skip
    found = []
    for form, options in kinds:
        path = scratch / "seed"
        picture.save(path, form, **options)
        found.append(path.read_bytes())
    return found


def memory(count: int, scratch: Path) -> dict:
    """Memory of the job and its decoders over `count` small images with the shipped int8 model."""
    photos = photos_in(scratch / "photos", count)
    demo = Path(__file__).parents[2] / "models" / "demo"
    command = [sys.executable, "-m", "edgetl", "predict", str(demo), str(photos), "-o", f"{scratch}/job/"]
    started = time.monotonic()
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    samples = []
    while run.poll() is None:
        samples.append((time.monotonic() - started, *_tree_mib(run.pid)))
        time.sleep(0.25)
    seconds = time.monotonic() - started
    steady = np.array([sample for sample in samples if sample[0] > seconds * 0.4 and sample[1] > 0])
    slope, _ = np.polyfit(steady[:, 0] / seconds * count / 1000, steady[:, 2], 1)
    return {
        "images": json.loads((scratch / "job" / "_SUCCESS").read_text())["rows"],
        "exit code": run.returncode,
        "peak, MiB": round(max(sample[1] for sample in samples)),
        "slope of their own memory, MiB per 1,000 images": round(float(slope), 4),
        "images/s": round(count / seconds, 1),
    }


def _tree_mib(pid: int) -> tuple[float, float]:
    """A process and its children: resident memory, libraries counted again and again; and what is theirs alone.

    Not the proportional set size: it moves when other programs that share libraries come and go.
    """
    resident = own = 0.0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                resident += int(line.split()[1]) / 1024
            if line.startswith("RssAnon:"):
                own += int(line.split()[1]) / 1024
        for listed in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in listed.read_text().split():
                more = _tree_mib(int(child))
                resident, own = resident + more[0], own + more[1]
    return resident, own


def ray_nodes(count: int, scratch: Path, images: int = 4000) -> dict:
    """Nodes of a Ray cluster are killed and replaced while a job runs on it."""
    import threading

    from ray.cluster_utils import Cluster

    model, photos = make_tiny_model(scratch / "model"), photos_in(scratch / "photos", images)
    expected, chance = undisturbed(model, photos, scratch), random.Random(0)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    done = {"nodes killed": 0, "jobs": 0, "rows lost": 0, "rows twice": 0, "digests differ": 0}
    while done["nodes killed"] < count or done["jobs"] == 0:
        output = scratch / f"job-{done['jobs']}"
        config = config_for(output, engine=BatchEngine.RAY, address=cluster.address)
        digests = []
        job = threading.Thread(target=lambda: digests.append(predict(model, [str(photos)], config).digest))
        job.start()
        while job.is_alive():
            job.join(chance.uniform(1.0, 6.0))
            if job.is_alive() and done["nodes killed"] < count:
                cluster.remove_node(nodes.pop(chance.randrange(len(nodes))), allow_graceful=False)
                nodes.append(cluster.add_node(num_cpus=1))
                done["nodes killed"] += 1
        lost, twice = wrong_rows(output, photos)
        done["jobs"] += 1
        done["rows lost"] += lost
        done["rows twice"] += twice
        done["digests differ"] += digests != [expected]
    cluster.shutdown()
    return done


def ghosts(count: int, scratch: Path) -> dict:
    """Ray counts CPUs that are not there, as those of a node just lost: actors on them can never start."""
    import ray

    model, photos = make_tiny_model(scratch / "model"), photos_in(scratch / "photos", 200)
    expected = undisturbed(model, photos, scratch)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    ray.cluster_resources = lambda: {"CPU": 1.0 + count}
    digest = predict(model, [str(photos)], config_for(scratch / "job", engine=BatchEngine.RAY)).digest
    lost, twice = wrong_rows(scratch / "job", photos)
    ray.shutdown()
    return {
        "ghosts": count,
        "rows lost": lost,
        "rows twice": twice,
        "digests differ": int(digest != expected),
    }


FAULTS = {
    "ray": ray_nodes,
    "ghosts": ghosts,
    "kills": kills,
    "stops": stops,
    "cuts": cuts,
    "disks": disks,
    "mutations": mutations,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("fault", choices=FAULTS)
    parser.add_argument("count", type=int)
    parser.add_argument("--corpus", type=Path)
    given = parser.parse_args()
    extra = {"corpus": given.corpus} if given.corpus else {}
    with tempfile.TemporaryDirectory() as scratch:
        result = FAULTS[given.fault](given.count, Path(scratch), **extra)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
