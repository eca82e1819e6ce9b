"""Training on several machines, here two processes of this one: the same model as alone, or a clear end."""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from trained import QUICK, assert_same_weights, draw, quick, shapes, weights_of  # noqa: F401

from edgetl.card import Model
from edgetl.config import Arithmetic, Unfreeze
from edgetl.errors import UsageError
from edgetl.keras.parallel import ALONE, Communication
from edgetl.steps.train import train
from edgetl.workers import Workers, read_workers

# What a worker runs: `edgetl`, with a short wait, a checkpoint after every epoch, and perhaps an end of its own.
WORKER = """
import os
from edgetl.cli import main
from edgetl.keras import checkpoint, parallel

finish_epoch = checkpoint.Checkpoint.finish_epoch
checkpoint.SECONDS_BETWEEN = 0
parallel.START_SECONDS = int(os.environ.get("START_SECONDS", "60"))

def finish_and_die(self, record, *rest):
    finish_epoch(self, record, *rest)
    if record.epoch == int(os.environ["DIES_AFTER"]) and record.stage == "finetune":
        os.kill(os.getpid(), 9)

if "DIES_AFTER" in os.environ:
    checkpoint.Checkpoint.finish_epoch = finish_and_die
main()
"""
# The last batch has one image, so one worker's share is empty. bfloat16 would make much of rounding.
TUNED = {"batch": 28, "epochs_finetune": 3, "arithmetic": Arithmetic.FLOAT32}


@dataclass(frozen=True)
class Ended:
    """How a worker ended."""

    code: int
    said: str


class Group:
    """Two workers on free ports of this machine."""

    def __init__(self, folder: Path, data: Path, **settings: object) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.data = folder, data
        self.options = [
            text
            for name, value in (QUICK | TUNED | settings).items()
            for text in (f"--{name.replace('_', '-')}", str(value))
        ]
        self.addresses = [f"localhost:{port}" for port in free_ports(2)]

    def model(self, index: int) -> Path:
        return self.folder / f"model{index}"

    def start(self, index: int, *options: str, data: Path | None = None, **environment: str):
        file = self.folder / f"workers{index}.json"
        file.write_text(json.dumps({"workers": self.addresses, "index": index}))
        told = ["train", data or self.data, "-o", self.model(index), "--workers-config", file]
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, *map(str, told), *self.options, *options],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *options: str) -> None:
        """Both to a good end."""
        for ended in ends(self.start(0, *options), self.start(1, *options)):
            assert ended.code == 0, ended.said


def ends(*processes: subprocess.Popen) -> list[Ended]:
    with ExitStack() as stack:
        for process in processes:
            stack.callback(process.kill)
        said = [process.communicate(timeout=100)[0] for process in processes]
        return [Ended(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def assert_as_alone(group: Group, alone: Model) -> None:
    """Both workers have the same model, and it is what one process makes."""
    assert_same_weights(group.model(0), group.model(1))
    for left, right in zip(weights_of(group.model(0)), weights_of(alone.folder), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4)
    models = [Model.open(group.model(index)).card.training for index in range(2)]
    wanted = alone.card.training
    for found in models:
        assert [(r.stage, r.epoch) for r in found.history] == [(r.stage, r.epoch) for r in wanted.history]
        assert (found.chosen_stage, found.chosen_epoch) == (wanted.chosen_stage, wanted.chosen_epoch)
        losses = [[record.train_loss, record.tuning_loss] for record in found.history]
        np.testing.assert_allclose(losses, [[r.train_loss, r.tuning_loss] for r in wanted.history], atol=1e-4)
        rights = [[record.train_accuracy, record.tuning_accuracy] for record in found.history]
        np.testing.assert_allclose(rights, [[r.train_accuracy, r.tuning_accuracy] for r in wanted.history])
    names = [f"{kind}{index}" for kind in ("model", "workers") for index in range(2)]
    assert sorted(path.stem for path in group.folder.iterdir()) == names


def test_two_workers_train_the_whole_trunk_as_one_does(shapes, tmp_path):
    group = Group(tmp_path / "group", shapes, unfreeze=Unfreeze.ALL)
    group.run()
    assert_as_alone(group, train(shapes, tmp_path / "alone", quick(**TUNED, unfreeze=Unfreeze.ALL)))


def test_a_lost_worker_ends_the_others_and_all_resume_to_the_same_model(shapes, tmp_path):
    group = Group(tmp_path / "group", shapes)
    survivor, killed = ends(group.start(0), group.start(1, DIES_AFTER="2"))
    assert (survivor.code, killed.code) == (1, -9)
    assert f"error: The connection to {group.addresses[1]} was lost" in " ".join(survivor.said.split())
    assert "start all again with --resume" in " ".join(survivor.said.split())
    assert "Traceback" not in survivor.said
    group.run("--resume")
    assert_as_alone(group, train(shapes, tmp_path / "alone", quick(**TUNED)))


def test_a_worker_that_never_starts_is_waited_for_in_vain(shapes, tmp_path):
    group = Group(tmp_path / "group", shapes)
    (ended,) = ends(group.start(0, START_SECONDS="3"))
    assert ended.code == 1
    assert f"error: Not all of {', '.join(group.addresses)} could be reached within 3 seconds." in ended.said
    assert "Start all of them" in ended.said
    assert not group.model(0).with_suffix(".partial").exists()


def test_workers_with_other_images_are_refused(shapes, tmp_path):
    other = shutil.copytree(shapes, tmp_path / "other")
    draw(other / "train" / "circle" / "00.png", "circle", 1000)
    group = Group(tmp_path / "group", shapes)
    for ended in ends(group.start(0), group.start(1, data=other)):
        assert ended.code == 1
        assert "error: Worker 0 and worker 1 do not have the same images and classes." in ended.said
        assert "Traceback" not in ended.said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be used"),
        ("{", "not JSON"),
        ('{"workers": ["a:1", "b:2"]}', "no missing fields"),
        ('{"workers": ["a:1", "b:2"], "index": 0, "task": 1}', "no unknown fields"),
        ('{"workers": ["a:1", "b:2"], "index": "0"}', "expected a whole number"),
        ('{"workers": "a:1", "index": 0}', "expected a list"),
        ('{"workers": ["a:1", "b"], "index": 0}', "'b', which is not host:port"),
        ('{"workers": ["a:1", "b:70000"], "index": 0}', "not host:port"),
        ('{"workers": ["a:1", "b:0"], "index": 0}', "not host:port"),
        ('{"workers": ["a:1", "grpc://b:2"], "index": 0}', "not host:port"),
        ('{"workers": ["a:1"], "index": 0}', "two workers or more"),
        ('{"workers": [], "index": 0}', "two workers or more"),
        ('{"workers": ["a:1", "a:1"], "index": 0}', "none of them twice"),
        ('{"workers": ["a:1", "b:2"], "index": 2}', "index 2.*0 to 1"),
        ('{"workers": ["a:1", "b:2"], "index": -1}', "index -1"),
    ],
)
def test_a_workers_file_that_cannot_be_is_refused(tmp_path, content, message):
    file = tmp_path / "workers.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=message) as refused:
        read_workers(file)
    assert refused.value.fix


def test_a_workers_file_is_read(tmp_path):
    file = tmp_path / "workers.json"
    file.write_text('{"workers": ["10.0.0.1:2222", "[::1]:2222", "trainer-3.local:65535"], "index": 2}')
    assert read_workers(file) == Workers(("10.0.0.1:2222", "[::1]:2222", "trainer-3.local:65535"), 2)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 5, 6, 32])
def test_the_shares_of_a_batch_are_the_batch(size, count):
    losses = np.arange(1.0, count + 1)
    shares = [Communication(index, size).share(count) for index in range(size)]
    assert sum(share.weight * losses[share.part].mean() for share in shares) == pytest.approx(losses.mean())
    counted = [losses[share.part] for share in shares if share.weight]
    np.testing.assert_array_equal(np.concatenate(counted), losses)
    assert all(len(losses[share.part]) > 0 for share in shares)


def test_one_worker_is_told_what_it_says():
    arrays = [np.arange(3.0, dtype=np.float32), np.empty((0, 2))]
    assert all(one is other for one, other in zip(ALONE.from_first(arrays), arrays, strict=True))
    assert ALONE.bytes_from_first(lambda: b"\x00\xff") == b"\x00\xff"
    assert ALONE.number_from_first(0.1) == 0.1
    ALONE.agree("anything", "value")
    ALONE.finish()
