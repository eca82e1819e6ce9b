"""`edgetl compress`: a smaller network that keeps its promise, or none."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from trained import (  # noqa: F401
    LOOSE,
    assert_same_weights,
    copy_of,
    draw,
    said,
    shapes,
    trained,
    trained_once,
)
from trained import quick as training
from trained import quick_compress as quick
from typer.testing import CliRunner

from edgetl.card import CARD_FILE, Model
from edgetl.cli import app
from edgetl.config import Block, CompressConfig, ExportConfig, PredictConfig, VerifyConfig
from edgetl.dataset import Role
from edgetl.errors import (
    CheckFailed,
    DataError,
    ExitCode,
    StorageError,
    Undecidable,
    UsageError,
    WeightsError,
)
from edgetl.keras import compressing
from edgetl.keras.attempts import AttemptFiles
from edgetl.keras.classifier import open_layers
from edgetl.keras.lessons import NO_LABEL, LessonPlan, make_lessons
from edgetl.keras.pruning import fit_head
from edgetl.pixels import spread_over
from edgetl.statistics import Verdict
from edgetl.steps import compress as compress_step
from edgetl.steps import shrinking, teaching
from edgetl.steps.compress import compress, same_dataset
from edgetl.steps.export import export
from edgetl.steps.predict import predict
from edgetl.steps.train import train
from edgetl.steps.verify import verify
from edgetl.vgg16 import multiplications


@pytest.fixture(scope="module")
def compressed(trained_once, tmp_path_factory):
    """A compressed model folder and what was told of it; not to be changed."""
    folder = tmp_path_factory.mktemp("compressed") / "small"
    return compress(Model.open(trained_once), folder, quick(keep=0.5))


def test_the_smaller_model_is_proven_against_the_larger_one(compressed, trained_once):
    model, told = compressed
    parent = Model.open(trained_once)
    assert told.exit_code == ExitCode.DONE
    assert model.card.network.channels == (32, 32, 64, 64)
    assert model.card.compression.parent_channels == (64, 64, 128, 128)
    assert model.card.compression.parent_keras_sha256 == parent.card.keras_sha256
    assert [parity.artifact for parity in model.card.compression.parity] == ["onnx-int8", "tflite-int8"]
    for parity in model.card.compression.parity:
        assert parity.verdict is Verdict.PASS
        assert parity.images == parent.card.reference.images
    assert told.attempts[0].chosen
    assert told.attempts[0].parameters < 0.3 * told.parent_parameters
    assert model.card.scores["keras"].images == parent.card.reference.images


def test_every_other_command_works_on_it(compressed, shapes, tmp_path):
    model, _ = compressed
    model = copy_of(model.folder, tmp_path / "small")
    model = model.update(lambda card: replace(card, data=replace(card.data, folder=str(shapes.resolve()))))
    model, exported = export(model, ExportConfig(precision="fp32,w8a32"))
    assert len(exported.artifacts) == 4
    model, verified = verify(model, VerifyConfig(max_drop=25))
    assert verified.exit_code == 0
    summary = predict(model, [str(shapes / "test")], PredictConfig(output=str(tmp_path / "rows.csv")))
    assert summary.images == 36


def test_its_trunk_is_a_source_to_train_from(compressed, shapes, tmp_path):
    small = compressed[0]
    source = {"weights": str(small.folder), "image_size": 32, "cut": None}
    model = train(shapes, tmp_path / "again", training(**source))
    assert model.card.network.channels == small.card.network.channels, "nothing names a lower cut"
    assert model.card.weights.name == small.card.name
    assert str(small.folder) not in (model.folder / CARD_FILE).read_text(), "cards travel: no paths of a home"
    assert model.card.input.mean_rgb == small.card.input.mean_rgb
    assert {score.giga_macs for score in model.card.training.cuts} == {
        multiplications(32, 32, None, Block.BLOCK2, (32, 32, 64, 64)) / 1e9
    }
    assert model.card.scores["keras"].accuracy > 0.8
    stages = [record.stage for record in model.card.training.history]
    assert stages.count("finetune") == 2, "there is a boundary below the head, and maps at it"
    _, exported = export(model, ExportConfig(precision="int8"))
    assert [artifact.name for artifact in exported.artifacts] == ["onnx-int8", "tflite-int8"]
    lower = train(shapes, tmp_path / "lower", training(**source | {"cut": Block.BLOCK1}))
    assert lower.card.network.channels == (32, 32)
    with pytest.raises(WeightsError, match="ends at block2; block3 is needed"):
        train(shapes, tmp_path / "higher", training(**source | {"cut": Block.BLOCK3}))


def test_a_trunk_without_head_is_its_own_start(compressed, shapes, tmp_path):
    """Before anything learns, the new network has the weights of the old one."""
    small = compressed[0]
    settings = {"weights": str(small.folder), "image_size": 32, "cut": None, "epochs_finetune": 0}
    model = train(shapes, tmp_path / "again", training(**settings))
    before, after = (open_layers(one).convolutions for one in (small, model))
    for old, new in zip(before, after, strict=True):
        for one, other in zip(old.get_weights(), new.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("images", "most"), [(0, 10), (3, 10), (10, 10), (11, 10), (4001, 4000), (59_000, 4000)]
)
def test_some_images_are_spread_over_all(images, most):
    some = spread_over(images, most)
    steps = np.diff(np.append(some, images)).tolist()
    assert len(some) == min(images, most)
    assert sum(steps) == images, "from the first to the last"
    assert set(steps) <= {images // max(1, len(some)), images // max(1, len(some)) + 1}


def test_a_head_begins_with_images_of_all_classes(trained_once, tmp_path, monkeypatch):
    """Images lie class by class, so the first of many are all of one class."""
    seen = []

    def fit(layers, pixels, wanted):
        seen.append(wanted.argmax(axis=1))
        fit_head(layers, pixels, wanted)

    monkeypatch.setattr(compressing, "HEAD_IMAGES", 9)
    monkeypatch.setattr(compressing, "fit_head", fit)
    compress(Model.open(trained_once), tmp_path / "small", quick(keep=0.5))
    assert [len(answers) for answers in seen] == [9, 9], "one for each kind of head"
    assert set(seen[0].tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("images", "multiplications", "epochs"),
    [
        (600, math.inf, 240),  # a search makes several: 2,400 steps each
        (600, 4e8, 240),
        (600, 8e7, 480),
        (600, 4e7, 960),
        (600, 1e6, 960),
        (1000, 4e7, 600),
        (2000, 4e7, 150),
        (4000, 4e7, 38),
        (60_000, 4e7, 30),
        (40, 4e7, 960),  # steps of one batch
    ],
)
def test_a_network_of_few_multiplications_learns_longer(images, multiplications, epochs):
    found = compressing.settings_of(CompressConfig(), images, multiplications).epochs
    assert found == pytest.approx(epochs, rel=0.05)
    assert compressing.settings_of(CompressConfig(epochs=7), images, multiplications).epochs == 7


@pytest.mark.parametrize(
    ("images", "multiplications", "pictures"),
    [
        (60_000, 1.1e9, 8),
        (2000, 1.1e9, 16),
        (600, 1.1e9, 90),
        (600, 15e9, 16),  # 224 pixels: a larger network that answers slowly
        (100, 1.1e9, 128),
        (0, 1.1e9, 128),
    ],
)
def test_few_images_are_shown_in_many_pictures_where_answers_come_soon(images, multiplications, pictures):
    config = CompressConfig()
    assert compressing.lesson_plan(config, images, multiplications, flip=True).pictures == pictures
    config = CompressConfig(pictures=5)
    assert compressing.lesson_plan(config, images, multiplications, flip=True).pictures == 5


def test_one_network_learns_longer_than_each_of_several(trained_once, tmp_path, monkeypatch):
    monkeypatch.setattr(compressing, "_STEPS", 8)
    monkeypatch.setattr(compressing, "_MOST_STEPS", 24)
    monkeypatch.setattr(compressing, "_LEAST_EPOCHS", 1)
    monkeypatch.setattr(shrinking, "MOST_ATTEMPTS", 1)
    parent = Model.open(trained_once)
    _, one = compress(parent, tmp_path / "one", quick(epochs=None, keep=0.5))
    _, several = compress(parent, tmp_path / "several", quick(epochs=None))
    assert one.attempts[0].epochs == 3 * several.attempts[0].epochs


def test_the_same_seed_gives_the_same_model(compressed, trained_once, tmp_path):
    again, _ = compress(Model.open(trained_once), tmp_path / "again", quick(keep=0.5))
    assert_same_weights(compressed[0].folder, again.folder)


def test_goals_decide_the_network(trained_once, tmp_path):
    model, told = compress(Model.open(trained_once), tmp_path / "small", quick(max_size="60KB", macs=8))
    (attempt,) = told.attempts
    assert attempt.size_bytes <= 60_000
    assert attempt.giga_macs <= 0.008
    for artifact in model.card.artifacts:
        assert artifact.size_bytes <= 60_000


def test_with_a_drop_alone_it_gets_smaller_until_the_drop_is_too_large(trained_once, tmp_path):
    model, told = compress(Model.open(trained_once), tmp_path / "small", quick(epochs=1))
    costs = [attempt.giga_macs for attempt in told.attempts]
    assert len(costs) >= 2
    assert costs == sorted(costs, reverse=costs[1] < costs[0])
    keeping = [attempt for attempt in told.attempts if not attempt.misses]
    assert [a for a in told.attempts if a.chosen] == [min(keeping, key=lambda attempt: attempt.latency_ms)]
    assert model.card.network.channels == next(a.widths for a in told.attempts if a.chosen)


@pytest.mark.parametrize("limits", [{"max_size": "3KB"}, {"macs": 0.1}, {"max_latency": 0.001}])
def test_what_cannot_be_kept_is_refused_with_what_can_before_long_work(
    limits, trained_once, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "edgetl.steps.workshop.lessons_of", lambda *_: pytest.fail("asked the larger network")
    )
    with pytest.raises(CheckFailed, match="smallest network there is"):
        compress(Model.open(trained_once), tmp_path / "small", quick(**limits))
    assert not (tmp_path / "small").exists()


def test_what_files_show_that_cannot_be_kept_is_refused_too(trained_once, tmp_path):
    """Weights are within the limit, and the file that holds them is not."""
    with said() as lines, pytest.raises(CheckFailed, match="smallest network there is"):
        compress(Model.open(trained_once), tmp_path / "small", quick(max_size="10KB"))
    assert any("before it learns" in line for line in lines), "no file was made"
    assert not (tmp_path / "small").exists()


def test_missed_goals_write_no_model_and_other_goals_need_no_training(trained_once, tmp_path, monkeypatch):
    parent, place = Model.open(trained_once), tmp_path / "small"
    strict = quick(keep=0.1, epochs=1, rate=0.0)
    monkeypatch.setattr("edgetl.quantize.search.Tuning.expected_upper", lambda *_: 0.9)
    model, told = compress(parent, place, strict)
    assert (model, told.exit_code) == (None, ExitCode.CHECK_FAILED)
    assert told.attempts[0].misses == ("drop",)
    assert not place.exists()
    monkeypatch.undo()
    monkeypatch.setattr("edgetl.steps.shrinking.distill", lambda *_: pytest.fail("trained again"))
    with said() as lines:
        again, _ = compress(parent, place, replace(strict, max_drop="90", resume=True))
    assert again is None or again.card.network.channels == told.attempts[0].widths
    assert any("try 1" in line for line in lines)


def test_where_the_trunk_ends_is_decided_by_short_trials(trained_once, tmp_path, monkeypatch):
    monkeypatch.setattr(compressing.Larger, "cuts", (Block.BLOCK1, Block.BLOCK2))
    with said() as lines:
        model, told = compress(Model.open(trained_once), tmp_path / "small", quick(macs=8))
    trials = dict(re.findall(r"up to (block\d): loss ([\d.]+)", "\n".join(lines)))
    assert set(trials) == {"block1", "block2"}
    best = min(trials, key=lambda cut: float(trials[cut]))
    assert model.card.network.cut == best
    assert len(told.attempts) == 1
    assert told.attempts[0].epochs == 3, "a trial is no try"


def test_an_interrupted_run_ends_as_an_undisturbed_one(compressed, trained_once, tmp_path, monkeypatch):
    parent, place = Model.open(trained_once), tmp_path / "small"
    monkeypatch.setattr("edgetl.keras.checkpoint.SECONDS_BETWEEN", 0.0)
    real, steps = AttemptFiles.checkpoint.fget, []

    def interrupting(record):
        steps.append(record)
        if len(steps) == 2:
            raise KeyboardInterrupt

    from edgetl.keras import distill as module

    monkeypatch.setattr(
        shrinking, "distill", lambda layers, run, _on_epoch: module.distill(layers, run, interrupting)
    )
    with pytest.raises(KeyboardInterrupt):
        compress(parent, place, quick(keep=0.5))
    monkeypatch.undo()
    assert real
    model, _ = compress(parent, place, quick(keep=0.5, resume=True))
    assert_same_weights(compressed[0].folder, model.folder)


def test_too_few_images_to_prove_anything_are_told_before_the_work(trained_once, tmp_path):
    with pytest.raises(Undecidable, match="certification images"):
        compress(Model.open(trained_once), tmp_path / "small", CompressConfig(max_drop="0.5"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.5, "widths": "16,16"}, "--keep and --widths"),
        ({"keep": 0.5, "max_size": "1MB"}, "--keep and --max-size"),
        ({"widths": "16,x"}, "no part of this network"),
        ({"widths": "16,16,16"}, "no part of this network"),
        ({"widths": "16,16,512,16"}, "no part of this network"),
        ({"max_drop": "no"}, "no loss of accuracy"),
    ],
)
def test_contradictions_are_refused(trained_once, tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        compress(
            Model.open(trained_once), tmp_path / "small", CompressConfig(**({"max_drop": LOOSE} | settings))
        )
    assert not list(tmp_path.iterdir())


def test_other_images_than_those_of_training_are_refused(trained, shapes, tmp_path):
    import shutil

    other = shutil.copytree(shapes, tmp_path / "data")
    draw(other / "train" / "circle" / "00.png", "circle", 4711)
    with pytest.raises(DataError, match=r"train images in .* are not those"):
        compress(trained, tmp_path / "small", quick(keep=0.5), other)
    with pytest.raises(DataError, match="is not here"):
        compress(trained, tmp_path / "small", quick(keep=0.5), tmp_path / "nowhere")


def test_images_without_labels_are_learnt_from_but_none_that_certifies(trained_once, shapes, tmp_path):
    extra = tmp_path / "extra"
    for number in range(5):
        draw(extra / "deep" / f"{number}.png", "square", 9000 + number)
    (extra / "copy.png").write_bytes(next((shapes / "test" / "circle").iterdir()).read_bytes())
    (extra / "broken.png").write_bytes(b"no image")
    with said() as lines:
        compress(Model.open(trained_once), tmp_path / "small", quick(keep=0.5, unlabelled=extra))
    assert (
        "5 images without labels, 1 known already, 0 near copies of certification images, 1 unreadable"
        in lines
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no readable images"):
        compress(Model.open(trained_once), tmp_path / "other", quick(keep=0.5, unlabelled=empty))


def shades(pixels):
    """A teacher who says how light an image is."""
    return np.tile(pixels.mean(axis=(1, 2, 3))[:, None], 3).astype(np.float32)


def test_lessons_keep_labels_where_images_are_not_mixed(trained, tmp_path):
    dataset = same_dataset(trained, trained.data_folder, CompressConfig(), tmp_path)
    train = dataset.roles[Role.TRAIN]
    plan = LessonPlan(3, CompressConfig().augment, flip=True, seed=0)
    lessons = make_lessons([train], plan, shades, tmp_path)
    count = len(train)
    assert (lessons.images, lessons.pictures) == (count, 3)
    np.testing.assert_array_equal(lessons.pixels[:count], train.pixels[:])
    np.testing.assert_array_equal(lessons.labels[: 2 * count], np.tile(train.labels, 2))
    assert set(lessons.labels[2 * count :].tolist()) == {NO_LABEL}
    some = np.array([0, count, 3 * count - 1])
    np.testing.assert_allclose(lessons.probabilities[some], shades(lessons.pixels[some]))


def test_what_was_asked_before_an_interruption_is_not_asked_again(trained, tmp_path):
    train = same_dataset(trained, trained.data_folder, CompressConfig(), tmp_path).roles[Role.TRAIN]
    plan, kept, asked = LessonPlan(4, CompressConfig().augment, flip=True, seed=0), [], []

    def counting(pixels):
        asked.append(len(pixels))
        return shades(pixels)

    whole = make_lessons([train], plan, counting, tmp_path, keep=kept.append)
    assert [len(answers) for answers in kept] == [n * len(train) for n in (1, 2, 3, 4)]
    assert sum(asked) == 4 * len(train)
    asked.clear()
    again = make_lessons([train], plan, counting, tmp_path, known=kept[1])
    assert sum(asked) == 2 * len(train)
    np.testing.assert_array_equal(again.probabilities, whole.probabilities)
    rows = np.arange(4 * len(train))
    np.testing.assert_array_equal(again.pixels[rows], whole.pixels[rows])
    np.testing.assert_array_equal(again.labels, whole.labels)


def test_a_disk_without_room_for_the_pictures_is_told_with_what_helps(trained, tmp_path):
    train = same_dataset(trained, trained.data_folder, CompressConfig(), tmp_path).roles[Role.TRAIN]
    with pytest.raises(StorageError, match="--pictures a smaller number than 1000000000"):
        make_lessons(
            [train], LessonPlan(10**9, CompressConfig().augment, flip=True, seed=0), shades, tmp_path
        )


def test_there_is_one_picture_however_little_time_there_is(trained, tmp_path):
    train = same_dataset(trained, trained.data_folder, CompressConfig(), tmp_path).roles[Role.TRAIN]
    plan = LessonPlan(4, CompressConfig().augment, flip=True, seed=0)
    lessons = make_lessons([train], plan, shades, tmp_path, is_enough=lambda: True)
    assert (lessons.pictures, len(lessons.probabilities), len(lessons.labels)) == (1, *[len(train)] * 2)


def test_limited_time_limits_the_pictures(trained_once, tmp_path, monkeypatch):
    monkeypatch.setattr(teaching, "_ASKING_SHARE", 0.0)
    with said() as lines:
        compress(Model.open(trained_once), tmp_path / "small", quick(keep=0.5, minutes=5))
    assert any("1 of 2 pictures of each image" in line for line in lines)


def test_learning_that_time_cut_short_says_so(trained_once, tmp_path, monkeypatch):
    monkeypatch.setattr(shrinking, "_ENDING_SHARE", 1.0)
    with said() as lines:
        compress(Model.open(trained_once), tmp_path / "small", quick(keep=0.5, minutes=5, epochs=7))
    assert "try 1: time was up after 1 of 7 epochs" in lines
    with said() as lines:
        compress(Model.open(trained_once), tmp_path / "other", quick(keep=0.5))
    assert not any("time was up" in line for line in lines)


def test_a_damaged_attempt_is_made_again(tmp_path, trained_once):
    card = Model.open(trained_once).card
    files = AttemptFiles(tmp_path, "ab" * 32)
    assert files.read(card.network, card.input) is None
    (tmp_path / f"{files.identity[:16]}.npz").write_bytes(b"damaged")
    assert files.read(card.network, card.input) is None


def test_the_command_tells_what_was_tried_and_proven(trained_once, tmp_path):
    arguments = ["compress", str(trained_once), "-o", str(tmp_path / "small"), "--max-drop", LOOSE]
    arguments += ["--keep", "0.5", "--epochs", "3", "--pictures", "2", "--rate", "1e-3"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "32-32-64-64" in shown.stdout
    assert "pass" in shown.stdout
    assert (tmp_path / "small" / CARD_FILE).is_file()
    taken = CliRunner().invoke(app, [*arguments, "--json"])
    assert taken.exit_code == ExitCode.USAGE
    assert "exists already" in json.loads(taken.stdout)["error"]
    assert compress_step.Compressed
