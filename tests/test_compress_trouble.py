"""`edgetl compress` when it is interrupted, has too little time, or is asked for what cannot be."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from trained import draw, said, shapes, trained_once  # noqa: F401
from trained import quick as training
from trained import quick_compress as quick

from edgetl.card import Model
from edgetl.config import Block, CompressConfig, Format, Head, Precision
from edgetl.dataset import Images, Role
from edgetl.errors import DataError, ExitCode, UsageError
from edgetl.keras.classifier import open_layers
from edgetl.keras.compressing import Larger
from edgetl.keras.lessons import LessonPlan, make_lessons
from edgetl.quantize.goals import Goals
from edgetl.steps import compress as compress_step
from edgetl.steps import shrinking, teaching, workshop
from edgetl.steps.compress import compress
from edgetl.steps.making import Sources, Variant, build
from edgetl.steps.promise import Kept
from edgetl.steps.train import train


def failed(model, *_):
    return model, Kept((), (), (), (), ExitCode.CHECK_FAILED)


def interrupted(*_):
    raise KeyboardInterrupt


def test_what_was_not_proven_never_becomes_the_model(trained_once, tmp_path, monkeypatch):
    parent, place = Model.open(trained_once), tmp_path / "small"
    monkeypatch.setattr(compress_step, "keep", failed)
    assert compress(parent, place, quick(keep=0.5))[0] is None
    monkeypatch.setattr(compress_step, "keep", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compress(parent, place, quick(keep=0.5))
        assert not place.exists()
    monkeypatch.undo()
    model, told = compress(parent, place, quick(keep=0.5))
    assert told.exit_code == ExitCode.DONE
    assert model.card.compression.parity


def test_with_no_time_left_one_step_is_learnt(trained_once, tmp_path, monkeypatch):
    monkeypatch.setattr(shrinking, "_ENDING_SHARE", 1.0)
    _, told = compress(Model.open(trained_once), tmp_path / "small", quick(keep=0.9, minutes=5))
    assert [attempt.epochs for attempt in told.attempts] == [1]


@pytest.fixture(scope="module")
def flat(shapes, tmp_path_factory):
    """A model whose head reads the whole map."""
    settings = {"head": Head.FLATTEN, "epochs_head": 2, "epochs_finetune": 0}
    return train(shapes, tmp_path_factory.mktemp("flat") / "model", training(**settings))


def test_the_size_of_a_network_counts_its_head(flat):
    layers = open_layers(flat)
    larger = Larger(layers, (), None, None, None, None)
    own = layers.network
    content = build(Sources(layers, pixels_of(flat)), flat, Variant(Format.ONNX, Precision.INT8)).content
    counted = larger.int8_bytes(own.channels, own.cut)
    assert 0.9 < counted / len(content) < 1.1
    features = 8 * 8 * own.channels[-1]
    assert counted > features * own.hidden_units
    half = larger.multiplications(own.channels, own.cut) - larger.multiplications(
        (*own.channels[:-1], own.channels[-1] // 2), own.cut
    )
    assert half > features * own.hidden_units / 2


def pixels_of(model):
    dataset = compress_step.same_dataset(model, model.data_folder, quick(), model.folder)
    return dataset.roles[Role.CALIBRATION].pixels[:]


def test_a_head_that_reads_the_whole_map_shrinks_to_any_size(flat, tmp_path):
    whole = 64 * 128 * flat.card.network.hidden_units
    goal = whole // 4
    model, told = compress(flat, tmp_path / "small", quick(max_size=str(goal), max_drop="90"))
    assert told.attempts[0].size_bytes <= goal
    assert told.attempts[0].size_bytes > goal / 4, "the largest that is allowed, about"
    assert told.attempts[0].parameters < told.parent_parameters
    assert model.card.network.cut is flat.card.network.cut


@pytest.mark.parametrize("settings", [{"cut": Block.BLOCK1}, {"widths": "16,16"}])
def test_a_head_that_reads_the_whole_map_stays_where_it_is(flat, tmp_path, settings):
    with pytest.raises(UsageError, match="its head reads the whole map there"):
        compress(flat, tmp_path / "small", quick(**settings))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cut": Block.BLOCK5}, "cannot end after block5: this one ends after block2"),
        ({"format": "onxx"}, "no format"),
    ],
)
def test_what_cannot_be_is_told_before_the_work(trained_once, tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        compress(Model.open(trained_once), tmp_path / "small", quick(**settings))
    assert not list(tmp_path.iterdir())


def test_a_network_of_one_block_can_be_compressed(shapes, tmp_path):
    parent = train(shapes, tmp_path / "model", training(cut=Block.BLOCK1, epochs_finetune=0))
    _, told = compress(parent, tmp_path / "small", quick(macs=5, max_drop="90"))
    assert [attempt.widths for attempt in told.attempts] != []
    assert all(len(attempt.widths) == 2 for attempt in told.attempts)


def test_a_small_network_is_tried_larger_when_the_smallest_fails(trained_once, tmp_path, monkeypatch):
    parent, _ = compress(Model.open(trained_once), tmp_path / "parent", quick(widths="32,32,32,32"))
    monkeypatch.setattr("edgetl.quantize.search.Tuning.expected_upper", lambda *_: 0.9)
    _, told = compress(parent, tmp_path / "small", quick(epochs=1))
    widths = [attempt.widths for attempt in told.attempts]
    assert len(set(widths)) == len(widths) >= 2
    assert widths[0] == (16, 16, 16, 16)


def test_copies_of_certification_images_are_not_learnt_from(trained_once, shapes, tmp_path):
    parent, extra = Model.open(trained_once), tmp_path / "extra"
    extra.mkdir()
    for path in sorted((shapes / "test" / "circle").iterdir())[:3]:
        with Image.open(path) as image:
            image.convert("RGB").resize((80, 80)).save(extra / f"{path.stem}.jpg", quality=90)
    with pytest.raises(DataError, match="has not seen"):
        compress(parent, tmp_path / "small", quick(keep=0.5, unlabelled=extra))
    draw(extra / "new.png", "square", 9000)
    with said() as lines:
        compress(parent, tmp_path / "small", quick(keep=0.5, unlabelled=extra))
    found = [line for line in lines if "images without labels" in line]
    assert found == [
        "1 images without labels, 0 known already, 3 near copies of certification images, 0 unreadable"
    ]


def test_other_images_without_labels_are_learnt_anew(trained_once, tmp_path, monkeypatch):
    """As many as before, but others: what learnt from those is not taken for what learns from these."""
    parent, learnt = Model.open(trained_once), []
    real = shrinking.distill
    monkeypatch.setattr(shrinking, "distill", lambda *given: learnt.append(1) or real(*given))
    monkeypatch.setattr(compress_step, "keep", failed)
    for name, seed in (("one", 1), ("two", 2), ("two", 2)):
        draw(tmp_path / name / "new.png", "square", 9000 + seed)
        compress(parent, tmp_path / "small", quick(keep=0.5, unlabelled=tmp_path / name, resume=True))
    assert len(learnt) == 2


def test_an_interruption_while_asking_costs_no_picture(trained_once, tmp_path, monkeypatch):
    """A resume with the same limit asks for the rest, unless time had ended the asking."""
    parent, place = Model.open(trained_once), tmp_path / "small"
    settings = quick(keep=0.5, pictures=4, minutes=5)
    monkeypatch.setattr(compress_step, "keep", failed)
    real = teaching.AnswerFile.write

    def write(file, answers):
        real(file, answers)
        raise KeyboardInterrupt

    monkeypatch.setattr(teaching.AnswerFile, "write", write)
    with pytest.raises(KeyboardInterrupt):
        compress(parent, place, settings)
    monkeypatch.setattr(teaching.AnswerFile, "write", real)
    monkeypatch.setattr(teaching, "_ASKING_SHARE", 0.0)
    assert pictures_of(parent, place, replace(settings, resume=True)) == 1
    monkeypatch.setattr(teaching, "_ASKING_SHARE", 0.9)
    assert pictures_of(parent, place, replace(settings, resume=True)) == 1, "time had ended it"
    assert pictures_of(parent, place, replace(settings, resume=True, minutes=6)) == 4


def pictures_of(parent, place, settings):
    with said() as lines:
        compress(parent, place, settings)
    fewer = [line for line in lines if "pictures of each image: more" in line]
    return int(fewer[0].split()[0]) if fewer else 4


def test_answers_that_were_lost_are_asked_for_again(trained_once, tmp_path, monkeypatch):
    parent, place = Model.open(trained_once), tmp_path / "small"
    monkeypatch.setattr(compress_step, "keep", failed)
    settings = quick(keep=0.5, pictures=4, resume=True)
    assert pictures_of(parent, place, settings) == 4
    (tmp_path / "small.partial" / "attempts" / "answers.npz").write_bytes(b"damaged")
    assert pictures_of(parent, place, settings) == 4


def test_mirrored_pictures_are_for_networks_that_learnt_from_them(trained_once, tmp_path):
    """And for those made of them: a smaller one of a smaller one knows it, too."""
    parent = Model.open(trained_once)
    assert teaching.learnt_from_mirrored(parent.card) == (parent.card.training.settings["flip"] == "True")
    settings = parent.card.training.settings | {"flip": "False"}
    card = replace(parent.card, training=replace(parent.card.training, settings=settings))
    small, _ = compress(replace(parent, card=card), tmp_path / "small", quick(keep=0.5))
    assert not teaching.learnt_from_mirrored(small.card)


@pytest.mark.parametrize("flip", [True, False])
def test_every_second_picture_is_mirrored_or_none(flip, tmp_path):
    left = np.zeros((8, 32, 32, 3), np.uint8)
    left[:, :, :12] = 255
    names = tuple(f"{number:064x}" for number in range(8))
    source = Images(names, left, np.zeros(8, np.int64), names)

    def light(pixels):
        """How much of the light is on the left."""
        return (
            pixels[:, :, :16].sum(axis=(1, 2, 3), dtype=float)[:, None] / pixels.sum(axis=(1, 2, 3))[:, None]
        )

    lessons = make_lessons([source], LessonPlan(4, CompressConfig().augment, flip, 0), light, tmp_path)
    on_the_left = lessons.probabilities.reshape(4, 8) > 0.5
    assert on_the_left.all(axis=1).tolist() == [True, not flip, True, not flip]


def test_a_network_with_too_much_work_misses_that_goal(trained_once):
    """As a rival may, which is not made to fit."""
    goals = Goals(0.25, None, None, None)
    learnt = SimpleNamespace(giga_macs=0.3, size_bytes=1, latency_ms=1.0)
    for allowed, missed in ((None, ()), (400, ()), (300, ()), (50, ("macs",))):
        work = SimpleNamespace(config=quick(macs=allowed), goals=goals)
        assert workshop._misses(work, learnt, 0.1) == missed


def test_a_name_that_no_file_could_hold_is_told_before_the_work(trained_once, tmp_path):
    with pytest.raises(UsageError, match=r"small.*is not UTF-8"):
        compress(Model.open(trained_once), tmp_path / "small\udce9", quick(keep=0.5))
    assert not list(tmp_path.iterdir())
