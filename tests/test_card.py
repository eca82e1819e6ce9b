"""A model folder opens as what it is or not at all, and nobody's result is lost."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import add_onnx, add_parity, make_tiny_model, tiny_onnx

from edgetl.card import CARD_FILE, Model, ModelCard, chosen_artifacts, with_artifact
from edgetl.card_versions import OLDEST_VERSION, SCHEMA_VERSION
from edgetl.config import Format, Precision
from edgetl.errors import ModelFolderError, UsageError
from edgetl.results import Timing
from edgetl.statistics import Verdict

TIMING = Timing("", 1, 1.0, 1.0, 1.0, 1, 1.0, 1.0, 1.0, 1, "cpu")


@pytest.fixture
def model(tmp_path) -> Model:
    return make_tiny_model(tmp_path / "model")


def change_card(model: Model, **changes) -> None:
    path = model.folder / CARD_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_model_opens_as_it_was_written(model):
    assert Model.open(model.folder) == model


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ModelFolderError, match=r"has no card\.json") as caught:
        Model.open(tmp_path)
    assert "edgetl train" in caught.value.fix


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ModelFolderError, match="does not exist"):
        Model.open(tmp_path / "modle")


def test_a_training_that_was_interrupted_is_named(tmp_path):
    (tmp_path / "model.partial").mkdir()
    with pytest.raises(ModelFolderError, match="not finished") as caught:
        Model.open(tmp_path / "model")
    assert "--resume" in caught.value.fix


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("", "not JSON"),
        ("[]", "the file: expected an object"),
        (f'{{"schema_version": {SCHEMA_VERSION}}}', "no missing fields"),
    ],
)
def test_a_damaged_card_is_refused(model, content, place):
    (model.folder / CARD_FILE).write_text(content)
    with pytest.raises(ModelFolderError, match=place) as caught:
        Model.open(model.folder)
    assert caught.value.fix


def test_a_wrong_value_is_named_with_its_place(model):
    change_card(model, labels=["blue", 3, "red"])
    with pytest.raises(ModelFolderError, match=r"labels\[1\]: expected a text, found 3"):
        Model.open(model.folder)


@pytest.mark.parametrize("other", [{}, {"invented_later": True}], ids=["same fields", "other fields"])
@pytest.mark.parametrize("version", [OLDEST_VERSION - 1, SCHEMA_VERSION + 1])
def test_another_version_is_refused_as_that_whatever_its_fields(model, version, other):
    change_card(model, schema_version=version, **other)
    with pytest.raises(ModelFolderError, match=f"schema version {version}; this edgetl reads"):
        Model.open(model.folder)


@pytest.mark.parametrize("version", range(OLDEST_VERSION, SCHEMA_VERSION))
def test_a_card_of_an_older_version_is_read_as_this_one_would_have_written_it(model, version):
    plain = json.loads((model.folder / CARD_FILE).read_text())
    for artifact in plain["artifacts"]:
        del artifact["packed"], artifact["unpacked_bytes"]
    if version == 2:
        del plain["compression"], plain["network"]["widths"]
        for share in ("tuning_share", "calibration_share", "certification_share"):
            del plain["data"][share]
    (model.folder / CARD_FILE).write_text(json.dumps(plain | {"schema_version": version}))
    assert Model.open(model.folder).card == model.card


@pytest.mark.parametrize("artifacts", [None, [3], [{"name": "onnx-int8"}]])
def test_a_damaged_card_of_an_older_version_is_refused_too(model, artifacts):
    change_card(model, schema_version=3, artifacts=artifacts)
    with pytest.raises(ModelFolderError, match="artifacts"):
        Model.open(model.folder)


def test_a_card_that_may_not_be_read(model, monkeypatch):
    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelFolderError, match="Permission denied"):
        Model.open(model.folder)


def test_an_update_starts_from_the_disk_and_not_from_memory(model):
    elsewhere = Model.open(model.folder)
    elsewhere.update(lambda card: replace(card, name="changed elsewhere"))
    updated = model.update(lambda card: replace(card, created="now"))
    assert (updated.card.name, updated.card.created) == ("changed elsewhere", "now")
    assert Model.open(model.folder) == updated


def test_an_update_that_fails_changes_nothing(model):
    before = (model.folder / CARD_FILE).read_bytes()

    def fail(_card: ModelCard) -> ModelCard:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        model.update(fail)
    assert (model.folder / CARD_FILE).read_bytes() == before
    assert not list(model.folder.glob(".edgetl-tmp-*"))


def _add_timings(folder: Path, names: list[str]) -> None:
    model = Model.open(folder)  # once, so that only `update` can see the others' changes
    for name in names:
        model.update(lambda card, name=name: replace(card, timing=card.timing | {name: TIMING}))


def test_processes_that_update_at_once_lose_nothing(model):
    names = [[f"{worker}-{number}" for number in range(10)] for worker in range(4)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(_add_timings, [(model.folder, each) for each in names])
    assert set(Model.open(model.folder).card.timing) == {name for each in names for name in each}


def test_a_new_artifact_drops_what_was_measured_on_the_old_one(model):
    model = add_onnx(model, Precision.INT8, tiny_onnx())
    for name in ("onnx-fp32", "onnx-int8"):
        model = add_parity(model, name, Verdict.PASS)
        model = model.update(lambda card, name=name: replace(card, timing=card.timing | {name: TIMING}))
    fresh = add_onnx(model, Precision.INT8, tiny_onnx(sharpness=4)).card
    assert [artifact.name for artifact in fresh.artifacts] == ["onnx-fp32", "onnx-int8"]
    assert set(fresh.parity) == set(fresh.timing) == {"onnx-fp32"}


def test_artifacts_are_ordered_by_format_and_precision(model):
    card = model.card
    for form, precision in [
        (Format.TFLITE, Precision.FP32),
        (Format.ONNX, Precision.INT8),
        (Format.ONNX, Precision.FP16),
    ]:
        made = replace(card.artifacts[0], name=f"{form}-{precision}", format=form, precision=precision)
        card = with_artifact(card, made)
    assert [made.name for made in card.artifacts] == ["onnx-fp32", "onnx-fp16", "onnx-int8", "tflite-fp32"]


def test_a_file_is_read_only_as_it_was_exported(model):
    artifact = model.artifact("onnx-fp32")
    path = model.folder / artifact.file
    content = path.read_bytes()
    assert model.read(artifact) == content
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(ModelFolderError, match="SHA-256 differs"):
        model.read(artifact)
    path.unlink()
    with pytest.raises(ModelFolderError, match="missing"):
        model.read(artifact)


@pytest.mark.parametrize("file", ["../secret.onnx", "/etc/passwd", "sub/../../secret.onnx", ""])
def test_a_card_cannot_name_files_elsewhere(model, file):
    (model.folder.parent / "secret.onnx").write_bytes(b"")
    artifact = replace(model.artifact("onnx-fp32"), file=file)
    with pytest.raises(ModelFolderError, match="outside"):
        model.read(artifact)


def test_an_unknown_artifact_is_answered_with_the_known_ones(model):
    with pytest.raises(UsageError, match="no artifact called 'onnx-int4'") as caught:
        model.artifact("onnx-int4")
    assert caught.value.fix == "It has: onnx-fp32."


def test_all_artifacts_or_the_named_one(model):
    both = add_onnx(model, Precision.INT8, tiny_onnx())
    assert [artifact.name for artifact in chosen_artifacts(both, None)] == ["onnx-fp32", "onnx-int8"]
    assert [artifact.name for artifact in chosen_artifacts(both, "onnx-int8")] == ["onnx-int8"]
    empty = model.update(lambda card: replace(card, artifacts=()))
    with pytest.raises(ModelFolderError, match="no exported artifacts"):
        chosen_artifacts(empty, None)
    with pytest.raises(UsageError, match="no artifact called"):
        chosen_artifacts(empty, "onnx-fp32")


def test_the_data_folder_may_lie_beside_the_model_or_anywhere(model):
    assert model.data_folder == model.folder.parent / "data"
    moved = model.update(lambda card: replace(card, data=replace(card.data, folder="/data/flowers")))
    assert moved.data_folder == Path("/data/flowers")
