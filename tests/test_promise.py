"""`edgetl export` with goals: kept and proven, or refused with the nearest misses, and no look at certification."""

import json
import math
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from trained import SIDE, copy_of, said, shapes, trained, trained_once  # noqa: F401

from edgetl.card import Model
from edgetl.config import ExportConfig, Format, Precision, Target, VerifyConfig
from edgetl.engines import classifier_of
from edgetl.engines.onnx import sums_fit
from edgetl.errors import DataError, ModelFolderError, Undecidable, UsageError
from edgetl.files import write_atomically
from edgetl.keras.classifier import KerasClassifier, open_layers
from edgetl.quantize.goals import Goals, allowed_drop, goals_of, precisions_by_format
from edgetl.quantize.recipe import Origin, Recipe
from edgetl.records import from_json, to_json
from edgetl.reference import (
    TUNING_ANSWERS_FILE,
    TUNING_FILE,
    FileList,
    read_calibration_pixels,
    read_reference,
    tuning_answers,
    tuning_sample,
)
from edgetl.statistics import ALPHA, Verdict, drop_of, exact_p, holm
from edgetl.steps import export as export_step
from edgetl.steps import promise
from edgetl.steps.advice import images_to_prove
from edgetl.steps.export import export
from edgetl.steps.making import Sources, Variant, build
from edgetl.steps.promise import refuse_too_few
from edgetl.steps.verify import verify

LOOSE = "20"  # points: what the few certification images of the drawn shapes can prove


def promised(model, **settings):
    return export(model, ExportConfig(**({"max_drop": LOOSE} | settings)))


@pytest.fixture(scope="module")
def kept(trained_once, tmp_path_factory):
    """A model exported with goals, and what came of it; not to be changed."""
    return promised(copy_of(trained_once, tmp_path_factory.mktemp("kept") / "model"))


def test_the_best_file_of_each_format_is_proven_and_stored(kept):
    model, exported = kept
    assert exported.exit_code == 0
    assert [artifact.name for artifact in exported.artifacts] == ["onnx-int8", "tflite-int8"]
    for parity in exported.parity:
        assert parity.verdict is Verdict.PASS
        assert parity.p_value <= parity.p_adjusted <= 0.05
        assert parity.images == model.card.reference.images
        assert model.card.parity[parity.artifact] == parity
        assert model.card.scores[parity.artifact].images == parity.images
    assert model.card.tried == exported.tried
    assert [tried.format for tried in exported.tried if tried.chosen] == ["onnx", "tflite"]
    assert {artifact.name for artifact in model.card.artifacts} == {"onnx-int8", "tflite-int8"}
    assert "drop under 20 points" in exported.goals
    certified_on = model.card.reference.images
    for tried in exported.tried:
        harmful = math.ceil(tried.harmful * certified_on / tried.images)
        helpful = tried.helpful * certified_on // tried.images
        upper = drop_of(harmful, helpful, certified_on, ALPHA / 2).upper
        assert tried.expected_upper_points == pytest.approx(100 * upper)


def test_verify_comes_to_the_same_verdict(kept, tmp_path):
    model, exported = kept
    _, verified = verify(copy_of(model.folder, tmp_path / "model"), VerifyConfig(max_drop=float(LOOSE)))
    assert verified.exit_code == 0
    assert [(one.artifact, one.verdict, one.harmful) for one in verified.parity] == [
        (one.artifact, one.verdict, one.harmful) for one in exported.parity
    ]


def test_everything_tried_is_told_with_its_costs(kept):
    for tried in kept[1].tried:
        assert 0 < tried.images_run <= tried.images
        assert tried.size_bytes > 0
        assert tried.latency_ms > 0
        assert (tried.recipe, tried.misses) == ("plain", ())
        assert tried.divergence >= 0


def test_a_search_opens_no_certification_image(trained, monkeypatch):
    """Watched by Python's audit hooks: files are opened by the search and before it, then by the verdict."""
    model = trained
    reference = read_reference(model)
    certification = {str((model.data_folder / path).resolve()) for path in reference.paths}
    opened: list[str] = []
    watching = [True]

    def watch(event, arguments):
        if watching[0] and event == "open" and isinstance(arguments[0], str):
            opened.append(arguments[0])

    sys.addaudithook(watch)
    certify = promise._certify
    before: list[set[str]] = []

    def now(*given):
        before.append(certification & set(opened))
        opened.clear()
        return certify(*given)

    monkeypatch.setattr(promise, "_certify", now)
    promised(model, format="onnx")
    watching[0] = False
    assert before == [set()]
    assert certification <= set(opened), "the hook sees what the verdict opens"


def tuning_of(model):
    config = ExportConfig(max_drop=LOOSE)
    pixels = read_calibration_pixels(model, model.data_folder, 50)
    network = promise.FloatNetwork(model, Sources(open_layers(model), pixels))
    return promise.tuning_of(network, config, goals_of(config, model.card), together=1)


def test_a_search_takes_the_full_precision_answers_from_training(trained, monkeypatch):
    ran = []
    run = promise.run_batches
    monkeypatch.setattr(promise, "run_batches", lambda *given: ran.append(given[-1]) or run(*given))
    kept = tuning_of(trained)
    assert ran == []
    assert len(kept.probabilities) == len(kept.labels) == len(kept.pixels) > 0
    (trained.folder / TUNING_ANSWERS_FILE).unlink()
    computed = tuning_of(trained)
    assert ran == ["reference of the tuning images"]
    np.testing.assert_allclose(kept.probabilities, computed.probabilities, atol=1e-5)
    assert np.array_equal(kept.pixels, computed.pixels)


@pytest.mark.parametrize("change", ["another network", "other preprocessing", "other images", "damaged"])
def test_answers_that_are_not_of_this_network_and_these_images_are_not_taken(trained, change):
    kept = tuning_of(trained)
    wrong = np.roll(kept.probabilities, 1, axis=1)
    listed = from_json(FileList, (trained.folder / TUNING_FILE).read_bytes())
    some = tuning_sample(len(listed.paths), trained.card.data.seed)
    digests = [listed.digests[i] for i in some]
    version = trained.card.input.preprocessing_version
    file = tuning_answers(trained.folder, trained.card.keras_sha256, version, digests)
    np.testing.assert_array_equal(file.read(), kept.probabilities)
    if change == "another network":
        tuning_answers(trained.folder, "0" * 64, version, digests).write(wrong)
    elif change == "other preprocessing":
        tuning_answers(trained.folder, trained.card.keras_sha256, version - 1, digests).write(wrong)
    elif change == "other images":
        tuning_answers(trained.folder, trained.card.keras_sha256, version, digests[::-1]).write(wrong)
    else:
        file.path.write_bytes(file.path.read_bytes()[:-100])
    np.testing.assert_allclose(tuning_of(trained).probabilities, kept.probabilities, atol=1e-5)


def test_a_goal_that_cannot_be_met_fails_with_the_nearest_misses_and_writes_nothing(trained):
    before = sorted(path.name for path in trained.folder.iterdir())
    model, exported = promised(trained, max_size="1KB", format="onnx")
    assert exported.exit_code == 3
    assert exported.artifacts == exported.parity == exported.explained == ()
    assert {tried.precision for tried in exported.tried} == {"int8", "w8a32", "fp16", "fp32"}
    assert all(tried.misses == ("size",) for tried in exported.tried)
    assert not any(tried.chosen for tried in exported.tried)
    assert sorted(path.name for path in model.folder.iterdir() if path.name != ".card.lock") == before
    assert model.card.tried == exported.tried


def test_size_and_latency_are_goals(trained):
    _, exported = promised(trained, max_latency=0.001, format="onnx", precision="fp32")
    assert exported.exit_code == 3
    assert [tried.misses for tried in exported.tried] == [("latency",)]
    _, exported = promised(trained, max_latency=1e5, max_size="1GB", format="onnx", precision="fp32")
    assert [artifact.name for artifact in exported.artifacts] == ["onnx-fp32"]


def test_too_few_certification_images_are_refused_before_any_work(trained, monkeypatch):
    monkeypatch.setattr(promise, "read_tuning_images", None)
    have = trained.card.reference.images
    with pytest.raises(Undecidable, match=f"this model has {have}") as caught:
        promised(trained, max_drop="1.0")
    assert caught.value.exit_code == 5
    needed = images_to_prove(1.0, together=2)
    assert f"at least {needed} certification images" in caught.value.what
    assert f"Add {needed - have} labelled images" in caught.value.fix


def test_two_formats_are_judged_together_and_need_more_images(trained, monkeypatch):
    """Not one image turns wrong in either file: with one image less both are undecided."""
    monkeypatch.setattr(promise, "read_tuning_images", None)
    goals = Goals(0.01, None, None, None)

    def with_images(count):
        reference = replace(trained.card.reference, images=count)
        return replace(trained, card=replace(trained.card, reference=reference))

    alone, needed = images_to_prove(1.0), images_to_prove(1.0, together=2)
    for count, verdict in ((needed, Verdict.PASS), (needed - 1, Verdict.UNDECIDED)):
        p = exact_p(0, 0, count, 0.01)
        assert (holm([p, p])[0] <= ALPHA) == (verdict is Verdict.PASS)
    refuse_too_few(with_images(needed), goals, 2)
    refuse_too_few(with_images(alone), goals, 1)
    with pytest.raises(Undecidable, match="for 2 formats, which are judged together") as caught:
        refuse_too_few(with_images(alone), goals, 2)
    assert "ask for one --format" in caught.value.fix
    with pytest.raises(Undecidable) as caught:
        refuse_too_few(with_images(alone - 1), goals, 2)
    assert "--format" not in caught.value.fix


def test_what_certification_did_not_prove_is_not_chosen(trained):
    _, exported = promised(trained, format="onnx")
    (tried,), (parity,) = exported.tried, exported.parity
    assert tried.chosen
    assert promise._certified(tried, exported.parity) == tried
    failed = promise._certified(tried, [replace(parity, verdict=Verdict.FAIL)])
    assert (failed.chosen, failed.misses) == (False, ("certification",))
    undecided = promise._certified(tried, [replace(parity, verdict=Verdict.UNDECIDED)])
    assert (undecided.chosen, undecided.misses) == (False, ("certification, undecided",))


def test_a_precision_that_one_format_lacks_is_searched_in_the_other():
    goals = Goals(0.01, None, None, None)
    both = precisions_by_format(goals, "onnx,tflite", "int8,w8a16")
    assert both == {
        Format.ONNX: (Precision.INT8,),
        Format.TFLITE: (Precision.INT8, Precision.W8A16),
    }
    assert list(precisions_by_format(goals, "onnx,tflite", "w8a16")) == [Format.TFLITE]
    with pytest.raises(UsageError, match="onnx has no w8a16"):
        precisions_by_format(goals, "onnx", "w8a16")


def test_a_slow_precision_is_made_when_it_is_asked_for(trained):
    _, exported = promised(trained, format="tflite", precision="w8a16")
    assert [tried.precision for tried in exported.tried] == ["w8a16"]


@pytest.mark.parametrize(
    ("target", "formats", "recipe"),
    [
        (Target.X64, ["onnx", "tflite"], "7-bit weights"),
        (Target.X64_VNNI, ["onnx", "tflite"], "plain"),
        (Target.ARM64, ["onnx", "tflite"], "plain"),
        (Target.BROWSER, ["onnx"], "7-bit weights"),
        (Target.MEDIAPIPE, ["tflite"], "plain"),
    ],
)
def test_a_target_decides_formats_and_weights(trained, target, formats, recipe):
    model, exported = promised(trained, target=target)
    assert [artifact.name for artifact in exported.artifacts] == [f"{form}-int8" for form in formats]
    fits = [sums_fit(model.read(one)) for one in exported.artifacts if one.format is Format.ONNX]
    assert fits == [recipe == "7-bit weights"] * formats.count("onnx"), "what engines without VNNI go by"
    recipes = {"onnx": recipe, "tflite": "plain"}
    assert all(tried.recipe == recipes[tried.format] for tried in exported.tried)
    assert str(target) in exported.goals


def test_a_target_that_does_not_take_the_format_is_refused(trained):
    with pytest.raises(UsageError, match="--target mediapipe takes tflite files"):
        promised(trained, target=Target.MEDIAPIPE, format="onnx")


def test_a_drop_is_points_or_a_share_of_the_accuracy(trained_once):
    card = Model.open(trained_once).card
    accuracy = card.scores["keras"].accuracy
    assert allowed_drop("1.0", card) == 0.01
    assert allowed_drop(" 2.5 % ", card) == pytest.approx(0.025 * accuracy)
    for wrong in ("", "much", "0", "-1", "nan", "100", "0.001"):
        with pytest.raises(UsageError, match="is no loss of accuracy"):
            allowed_drop(wrong, card)


def test_without_goals_there_are_none(trained_once):
    card = Model.open(trained_once).card
    assert goals_of(ExportConfig(), card) is None
    goals = goals_of(ExportConfig(target=Target.X64), card)
    assert (goals.max_drop, goals.start) == (0.01, Recipe(reduced=True))
    assert goals_of(ExportConfig(max_size="2MB"), card).max_size_bytes == 2_000_000


def test_calibration_images_unlike_the_others_are_told(trained, monkeypatch):
    with said() as lines:
        promised(trained, format="onnx")
    assert not any("unlike the tuning images" in line for line in lines)
    grey = np.full((8, SIDE, SIDE, 3), 118, np.uint8)  # about the mean: nothing stirs
    monkeypatch.setattr(export_step, "read_calibration_pixels", lambda *_: grey)
    with said() as lines:
        promised(trained, format="onnx")
    assert any(
        re.search(r"unlike the tuning images: their ranges reach only [\d.]+ %", line) for line in lines
    )


def test_tuning_images_that_are_not_there_are_asked_for(trained, tmp_path):
    with pytest.raises(DataError, match="images are not in"):
        promised(trained, data=tmp_path)


def test_a_certification_image_among_those_that_choose_is_refused(trained):
    reference = read_reference(trained)
    listed = from_json(FileList, (trained.folder / TUNING_FILE).read_bytes())
    digests = (reference.digests[0], *listed.digests[1:])
    write_atomically(trained.folder / TUNING_FILE, to_json(replace(listed, digests=digests)))
    with pytest.raises(ModelFolderError, match="does not list the tuning images"):
        promised(trained)
    from edgetl.dataset import role_fingerprint

    def forge(card):
        role = replace(card.data.roles["tuning"], fingerprint=role_fingerprint(digests))
        return replace(card, data=replace(card.data, roles={**card.data.roles, "tuning": role}))

    with pytest.raises(ModelFolderError, match="1 certification images are tuning images too"):
        promised(trained.update(forge))


def test_the_command_shows_what_was_tried_and_the_verdict(trained, invoke):
    result = invoke("export", trained.folder, "--max-drop", LOOSE, "--format", "onnx")
    assert result.exit_code == 0
    assert re.search(r"onnx-int8 +plain .* chosen", result.stdout)
    assert re.search(r"onnx-int8 .* pass", result.stdout)
    assert "goals: drop under 20 points" in result.stdout
    missed = invoke("export", trained.folder, "--max-drop", LOOSE, "--max-size", "1KB", "--format", "onnx")
    assert missed.exit_code == 3
    assert "no file was written" in missed.stdout
    few = invoke("export", trained.folder, "--max-drop", "0.5", "--json")
    assert few.exit_code == json.loads(few.stdout)["exit_code"] == 5


def test_json_has_everything(trained, invoke):
    told = json.loads(
        invoke("export", trained.folder, "--max-drop", LOOSE, "--format", "onnx", "--json").stdout
    )
    assert told["exit_code"] == 0
    assert told["tried"][0]["precision"] == "int8"
    assert told["parity"][0]["verdict"] == "pass"
    assert np.isfinite(told["tried"][0]["latency_ms"])


def test_the_search_of_one_precision_only(trained):
    _, exported = promised(trained, precision="w8a32", format="tflite")
    assert [artifact.precision for artifact in exported.artifacts] == [Precision.W8A32]
    assert [artifact.format for artifact in exported.artifacts] == [Format.TFLITE]


def test_training_with_rounding_is_a_source_of_its_own(trained):
    """Another network than the equalized one, with the same answers or nearly."""
    pixels = read_calibration_pixels(trained, trained.data_folder, 50)
    sources = Sources(open_layers(trained), pixels)
    assert sources.of(Origin.TRAINED) is sources
    assert sources.of(Origin.EQUALIZED) is sources.equalized
    variant = Variant(Format.ONNX, Precision.INT8, Recipe(bias_corrected=True), Origin.RETRAINED)
    built = build(sources, trained, variant)
    assert built.details["recipe"] == "equalized; trained with rounding; biases corrected"
    answers = classifier_of(built.content, Format.ONNX, Precision.INT8)(pixels)
    wanted = KerasClassifier(sources.layers)(pixels)
    assert (answers.argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.9
