"""`edgetl report`: the page is whole, closed, escaped and the same every time; missing parts are said calmly."""

import hashlib
import json
import math
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from edgetl import images
from edgetl.card import (
    CARD_FILE,
    CutScore,
    DataSummary,
    EpochRecord,
    InputSpec,
    Model,
    ModelCard,
    Network,
    Reference,
    RoleSummary,
    TrainingSummary,
    TrunkOrigin,
)
from edgetl.card import Artifact as ArtifactRecord
from edgetl.card_versions import SCHEMA_VERSION
from edgetl.cli import app
from edgetl.config import Block, Format, Head, Packing, Precision, ReportConfig
from edgetl.errors import StorageError
from edgetl.measures import ClassScore, class_scores
from edgetl.records import to_json
from edgetl.report import cuts, headline, measured
from edgetl.report.charts import curves
from edgetl.report.drawing import Axis, round_step
from edgetl.report.html import page
from edgetl.report.words import cut_in_words, kept_in_words
from edgetl.results import Disagreement, Explained, LayerNoise, Parity, Scores, Timing, Tried
from edgetl.statistics import Verdict, wilson_interval
from edgetl.steps.report import report

LABELS = ("rose", "tulip", '<script>alert("x")</script>', "daisy & dandelion", "sunflower")
IMAGES = 400
VOID = {"meta", "br", "img"}
SIZES = {"fp32": 30_600_000, "fp16": 15_300_000, "int8": 7_750_000, "w8a32": 7_730_000, "w8a16": 7_800_000}


def make_scores(name, labels=LABELS, right=325):
    rng = np.random.default_rng(7)
    classes = len(labels)
    confusion = np.zeros((classes, classes), np.int64)
    for index in range(IMAGES):
        truth = index % classes
        confusion[truth, truth if index < right else rng.integers(classes)] += 1
    hits = int(confusion.trace())
    interval = wilson_interval(hits, IMAGES)
    return Scores(
        artifact=name,
        source="certification",
        images=IMAGES,
        loss=0.61,
        accuracy=hits / IMAGES,
        accuracy_low=interval.low,
        accuracy_high=interval.high,
        top5_accuracy=0.97,
        balanced_accuracy=0.82,
        calibration_error=0.031,
        per_class=tuple(class_scores(confusion)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def make_parity(name, verdict, drop, upper, sqnr=31.4):
    item = Disagreement(f"{LABELS[2]}/7.png", LABELS[2], LABELS[2], 0.61, "tulip", 0.55)
    other = Disagreement("rose/1.png", "rose", "tulip", 0.44, "rose", 0.47)
    return Parity(
        artifact=name,
        artifact_sha256=digest(name),
        images=IMAGES,
        source="certification images",
        agreement=0.985,
        harmful=4,
        helpful=2,
        drop_points=drop,
        drop_upper_points=upper,
        drop_lower_points=drop - 0.6,
        max_drop_points=1.0,
        max_difference=0.0 if math.isnan(sqnr) else 0.1234,
        mean_kl=0.002,
        sqnr_db=sqnr,
        p_value=0.01,
        p_adjusted=0.02,
        verdict=verdict,
        more_images=240 if verdict is Verdict.UNDECIDED else 0,
        instruction_set="AVX2",
        classes=(),
        disagreements=() if math.isnan(sqnr) else (item, other),
    )


def make_timing(name, latency):
    return Timing(name, 1, 40.0, latency, latency * 1.3, 8, 1900 / latency, 142.0, math.nan, 4, "Some CPU")


def digest(name):
    return hashlib.sha256(name.encode()).hexdigest()


def make_artifacts():
    made = []
    for form in Format:
        for precision in Precision:
            if (form, precision) != (Format.ONNX, Precision.W8A16):
                name = f"{form}-{precision}"
                size = SIZES[precision] + 40_000 * (form is Format.TFLITE)
                made.append(
                    ArtifactRecord(name, f"model.{name}", form, precision, digest(name), size, None, size, {})
                )
    return tuple(made)


def make_history():
    stages = [("head", n) for n in range(1, 17)] + [("finetune", n) for n in range(1, 5)]
    return tuple(
        EpochRecord(
            stage,
            n,
            2.3 / (i + 1),
            1 - 0.7 / (i + 1),
            0.5 + 1.2 / (i + 1),
            0.83 - 0.5 / (i + 1),
            1.0,
            i + 1.0,
        )
        for i, (stage, n) in enumerate(stages)
    )


def make_cuts(chosen=6):
    """Eighteen candidates: three cuts, one or two blocks, averages, maxima or quarters."""
    made = []
    for number, cut in enumerate((Block.BLOCK3, Block.BLOCK4, Block.BLOCK5)):
        below = tuple(Block)[number + 1]
        for scales in ((cut,), (below, cut)):
            for head in (Head.GAP, Head.MAX, Head.GRID):
                loss = 0.6 + 0.1 * abs(number - 1) + 0.02 * len(made)
                cost = (0.76, 1.14, 1.25)[number]
                made.append(CutScore(cut, head, scales, 512, cost, loss, 0.8, len(made) == chosen))
    return tuple(made)


def closed_form(training, finetuned):
    """The history of a head in closed form and so many epochs of fine-tuning, with the head kept."""
    stages = [("head", 1)] + [("finetune", n) for n in range(1, finetuned + 1)]
    history = tuple(EpochRecord(s, n, 0.1, 0.99, 0.5 + n / 100, 0.8, 1.0, 9.0) for s, n in stages)
    settings = {name: value for name, value in training.settings.items() if name != "stage head"}
    return replace(training, settings=settings, history=history, chosen_stage="head", chosen_epoch=1)


def bare_card(folder, labels=LABELS):
    """Trained, and nothing more."""
    roles = {
        name: RoleSummary(
            sum(range(count, count + len(labels))), tuple(range(count, count + len(labels))), "ab" * 32
        )
        for name, count in (("train", 40), ("tuning", 9), ("calibration", 5), ("certification", 30))
    }
    return ModelCard(
        schema_version=SCHEMA_VERSION,
        edgetl_version="0.1.0",
        created="2026-01-02T03:04:05+00:00",
        name="flowers",
        labels=labels,
        input=InputSpec(96, 96, (123.68, 116.779, 103.939), 1.0, (255, 255, 255), 1),
        network=Network(Block.BLOCK4, Head.GAP, (Block.BLOCK4,), 0, len(labels)),
        weights=TrunkOrigin("imagenet", "VGG16 trunk", "MIT; CC-BY 4.0", "cd" * 32),
        data=DataSummary(str(folder), "split folders", 0, roles, 1, 3, 0.12, 0.08, 0.25),
        training=TrainingSummary(
            {"recipe": "default", "minutes": "None", "cosine": "True", "stage head": "16 epochs"},
            (),
            make_history(),
            "finetune",
            1,
            1.29,
            0.4,
            {"tensorflow": "2.21.0", "numpy": "2.4.6"},
        ),
        compression=None,
        reference=Reference("reference.npz", "ef" * 32, IMAGES, 32),
        keras_sha256="01" * 32,
        artifacts=(),
        tried=(),
        explained=(),
        scores={"keras": make_scores("keras", labels)},
        parity={},
        timing={},
    )


def full_card(folder, labels=LABELS):
    """Nine artifacts: most proven, one failing, one undecided, one neither verified nor timed."""
    artifacts = make_artifacts()
    parity = {a.name: make_parity(a.name, Verdict.PASS, 0.1, 0.7) for a in artifacts[:-1]}
    parity["onnx-fp32"] = make_parity("onnx-fp32", Verdict.PASS, 0.0, 0.67, math.nan)
    parity["tflite-int8"] = make_parity("tflite-int8", Verdict.FAIL, 6.5, 8.9, 11.2)
    parity["tflite-w8a32"] = make_parity("tflite-w8a32", Verdict.UNDECIDED, 0.5, 1.4)
    timing = {a.name: make_timing(a.name, 4.0 + 5 * i) for i, a in enumerate(artifacts[:-1])}
    card = bare_card(folder, labels)
    scores = {**card.scores, "tflite-int8": make_scores("tflite-int8", labels, right=280)}
    return replace(card, artifacts=artifacts, parity=parity, timing=timing, scores=scores)


def write_model(folder, card):
    folder.mkdir()
    (folder / CARD_FILE).write_text(to_json(card), encoding="utf-8")
    return Model.open(folder)


def write_images(folder):
    for label in (LABELS[0], "script"):
        (folder / label).mkdir(parents=True)
    for name in ("rose/1.png",):
        (folder / name).write_bytes(images.encode_png(np.full((20, 30, 3), 90, np.uint8)))


class Reader(HTMLParser):
    """Refuses unbalanced tags; collects tags, attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["code"], ["pre"]):
            self.words.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def assert_sound(text):
    """What holds for every page, whatever the card."""
    reader = read(text)
    words = " ".join(reader.words)
    assert not re.search(r"\b(nan|None|inf)\b", words, re.IGNORECASE), words
    assert not re.search(r"(?<![a-z])nan(?![a-z])", text, re.IGNORECASE)
    assert not re.search(r"https?://|url\(|@import", text)
    assert "script" not in reader.tags
    assert not any(name.startswith("on") or name in ("href", "srcset") for name, _ in reader.attributes)
    assert all(value.startswith("data:image/jpeg") for name, value in reader.attributes if name == "src")
    assert "<td></td>" not in text
    assert "<tbody></tbody>" not in text
    return words


def test_full_page_is_sound_and_names_every_artifact(tmp_path):
    write_images(tmp_path / "data")
    model = write_model(tmp_path / "flowers", full_card(tmp_path / "data"))
    result = report(model, ReportConfig())
    text = (tmp_path / "flowers/report.html").read_text(encoding="utf-8")
    words = assert_sound(text)
    for artifact in model.card.artifacts:
        assert text.count(f"<b>{artifact.name}</b>") == 1
    for expected in ("✓ proven", "✗ fails", "? undecided", "240 more images", "not verified", "identical"):
        assert expected in words
    assert result.size_bytes == len(text.encode())
    assert result.thumbnails == 1
    assert result.data_found


def test_page_is_the_same_every_time(tmp_path):
    card = full_card(tmp_path)
    assert page(card, {}) == page(card, {})
    model = write_model(tmp_path / "m", card)
    for name in ("a.html", "b.html"):
        report(model, ReportConfig(output=tmp_path / name))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_text_of_the_card_is_escaped_everywhere(tmp_path):
    evil = '"><img src=x onerror=alert(1)>'
    card = full_card(tmp_path)
    card = replace(
        card,
        name=evil,
        labels=(evil, *LABELS[1:]),
        weights=TrunkOrigin(evil, evil, evil, evil),
        data=replace(card.data, layout=evil, roles={evil: card.data.roles["train"]}),
        training=replace(card.training, settings={evil: evil}, versions={evil: evil}, chosen_stage=evil),
        artifacts=tuple(replace(a, name=evil + a.name, file=evil, sha256=evil) for a in card.artifacts),
    )
    assert_sound(page(card, {}))
    assert evil not in page(card, {})


@pytest.mark.parametrize(
    ("drop", "hint"),
    [
        ({"artifacts": (), "parity": {}, "timing": {}}, "edgetl export flowers"),
        ({"parity": {}}, "edgetl verify flowers"),
        ({"timing": {}}, "edgetl bench flowers"),
        ({"scores": {}}, "edgetl eval flowers"),
        ({"scores": {}, "parity": {}, "timing": {}}, "edgetl verify flowers"),
    ],
)
def test_a_missing_part_is_a_hint(tmp_path, drop, hint):
    text = page(replace(full_card(tmp_path), **drop), None)
    assert_sound(text)
    assert hint in text


def test_data_folder_away_is_said(tmp_path):
    model = write_model(tmp_path / "m", full_card(tmp_path / "gone"))
    result = report(model, ReportConfig())
    text = (tmp_path / "m/report.html").read_text(encoding="utf-8")
    assert not result.data_found
    assert "data folder is not at hand" in assert_sound(text)
    assert str(tmp_path) not in text


def test_a_card_cannot_pick_pictures_outside_the_data_folder(tmp_path):
    (tmp_path / "data").mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(images.encode_png(np.zeros((9, 9, 3), np.uint8)))
    card = full_card(tmp_path / "data")
    stolen = [Disagreement(path, "a", "b", 0.5, "c", 0.5) for path in ("../secret.png", str(secret))]
    parity = replace(card.parity["onnx-int8"], disagreements=tuple(stolen))
    model = write_model(tmp_path / "m", replace(card, parity={"onnx-int8": parity}))
    assert report(model, ReportConfig()).thumbnails == 0


def test_numbers_that_are_missing_never_show_as_such(tmp_path):
    card = full_card(tmp_path)
    nan = math.nan
    empty = replace(make_scores("keras"), accuracy=nan, accuracy_low=nan, accuracy_high=nan)
    history = tuple(replace(r, train_loss=nan, tuning_accuracy=nan) for r in card.training.history[:2])
    parity = {n: replace(p, drop_points=nan, sqnr_db=nan, max_difference=nan) for n, p in card.parity.items()}
    timing = {n: replace(t, latency_p50_ms=nan, peak_memory_mib=nan) for n, t in card.timing.items()}
    card = replace(card, scores={"keras": empty}, parity=parity, timing=timing)
    card = replace(card, training=replace(card.training, history=history, temperature=nan, minutes=nan))
    assert_sound(page(card, {}))
    assert_sound(page(replace(card, training=replace(card.training, history=())), {}))
    again = full_card(tmp_path)
    assert_sound(
        page(replace(again, timing=timing, scores={"keras": replace(make_scores("keras"), loss=nan)}), {})
    )


def test_many_classes_get_a_list_instead_of_a_matrix(tmp_path):
    labels = tuple(f"class {index:03}" for index in range(120))
    text = page(full_card(tmp_path, labels), {})
    assert_sound(text)
    assert "Most frequent confusions" in text
    assert "confusion matrix" not in text
    assert "confusion matrix" in page(full_card(tmp_path), {})


def test_headline_says_what_is_known(tmp_path):
    card = full_card(tmp_path)
    assert headline(card) == (
        "onnx-int8: 30.6 MB → 7.8 MB, accuracy 83.8 % (79.8-87.0), at most 0.7 points lost: proven; "
        "fails: tflite-int8; undecided: tflite-w8a32; not verified: tflite-w8a16."
    )
    failing = {"tflite-int8": card.parity["tflite-int8"]}
    some = replace(
        card, artifacts=tuple(a for a in card.artifacts if a.name == "tflite-int8"), parity=failing
    )
    assert headline(some) == "No exported file is proven at parity: fails: tflite-int8."
    assert headline(replace(card, parity={})).endswith("the exported files are not verified yet.")
    assert headline(bare_card(tmp_path)).endswith("nothing is exported yet.")
    assert headline(replace(bare_card(tmp_path), scores={})) == "Trained; nothing is exported yet."


def test_parity_of_a_replaced_file_does_not_count(tmp_path):
    card = full_card(tmp_path)
    stale = tuple(replace(a, sha256="00" * 32) for a in card.artifacts)
    assert all(row.parity is None for row in measured(replace(card, artifacts=stale)))


def test_accuracy_without_scores_follows_from_the_paired_counts(tmp_path):
    card = full_card(tmp_path)
    row = next(row for row in measured(card) if row.name == "onnx-int8")
    reference = card.scores["keras"]
    assert row.accuracy == pytest.approx(reference.accuracy - 2 / IMAGES)
    assert row.interval.low < row.accuracy < row.interval.high
    scored = next(row for row in measured(card) if row.name == "tflite-int8")
    assert scored.accuracy == card.scores["tflite-int8"].accuracy


def test_the_printed_script_is_python_that_names_the_file(tmp_path):
    reader = page(replace(full_card(tmp_path), name="my flowers"), {})
    shell, script = (unescape(text) for text in re.findall(r"<pre>(.*?)</pre>", reader, re.DOTALL))
    assert "edgetl predict 'my flowers' photos/" in shell
    compile(script, "script", "exec")
    assert 'InferenceSession("model.onnx-int8")' in script
    assert "resize((96, 96)" in script


@pytest.mark.parametrize(
    ("packed", "reading"),
    [(Packing.GZ, "gzip.decompress(open("), (Packing.ZST, "zstandard.decompress(open(")],
)
def test_of_a_packed_file_both_sizes_are_shown_and_the_script_unpacks_it(tmp_path, packed, reading):
    card = full_card(tmp_path)
    artifacts = [
        replace(one, file=f"{one.file}.{packed}", packed=packed, size_bytes=one.size_bytes // 2)
        for one in card.artifacts
    ]
    shown = page(replace(card, artifacts=tuple(artifacts)), {})
    assert "7.8 MB unpacked" in shown
    script = unescape(re.findall(r"<pre>(.*?)</pre>", shown, re.DOTALL)[1])
    compile(script, "script", "exec")
    assert f'InferenceSession({reading}"model.onnx-int8.{packed}"' in script


def test_axis_ticks_are_round_and_inside():
    assert Axis(0, 2.5, 0, 100).ticks() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert Axis(3, 70, 0, 100, logarithmic=True).ticks() == [5, 10, 20, 50]
    assert [round_step(value) for value in (0.011, 0.2, 3, 7)] == pytest.approx([0.02, 0.2, 5, 10])


def test_one_epoch_is_drawn(tmp_path):
    training = bare_card(tmp_path).training
    for svg in curves(replace(training, history=training.history[:1])):
        read(svg)
        assert svg.count('class="dot-') == 2


@pytest.mark.parametrize("finetuned", [0, 1, 2, 30])
def test_a_head_in_closed_form_is_one_visible_point_beside_the_epochs(tmp_path, finetuned):
    training = closed_form(bare_card(tmp_path).training, finetuned)
    for svg in curves(training):
        words = read(svg).words
        assert words.count("head") == 1
        assert ("fine-tuning epoch" in words) == (finetuned > 0)
        assert svg.count('r="3.5"') == (4 if finetuned == 1 else 2)
        for path in re.findall(r'<path class="(?:train|tuning)" d="(M[^"]*)"', svg):
            assert path.count("M") == 1
        assert svg.count('class="ring"') == 1


def test_long_curves_have_no_dots_but_for_a_point_alone(tmp_path):
    for svg in curves(closed_form(bare_card(tmp_path).training, 60)):
        assert svg.count('class="dot-') == 2


def test_what_was_kept_is_said_in_words(tmp_path):
    training = bare_card(tmp_path).training
    assert kept_in_words(training) == "fine-tuning epoch 1, tuning loss 0.571 (head: 0.575)"
    head = closed_form(training, 3)
    assert kept_in_words(head) == "the head, tuning loss 0.510 (fine-tuning: 0.510)"
    assert kept_in_words(closed_form(training, 0)) == "the head, tuning loss 0.510"
    planned = replace(closed_form(training, 0), settings={"stage head": "1 epochs"})
    assert kept_in_words(planned) == "head epoch 1, tuning loss 0.510"
    assert kept_in_words(replace(training, history=())) == "fine-tuning epoch 1"


def test_where_the_trunk_was_cut_is_drawn_and_listed(tmp_path):
    card = full_card(tmp_path)
    with_cuts = replace(card, training=replace(card.training, cuts=make_cuts()))
    text = page(with_cuts, {})
    words = assert_sound(text)
    assert "Where the trunk was cut" in words
    assert "one standard error of that: cut after block4, averages of block4." in words
    for mark in ("circle", "polygon", "rect"):
        assert text.count(f'<{mark} class="candidate"') == text.count(f'<{mark} class="candidate both"') == 3
    assert text.count('class="around"') == 1
    assert text.count("✓ 0.720") == 1
    assert len(re.findall(r'<td data-name="Cut after">block[345]</td>', text)) == 6
    for few in ((), make_cuts()[6:7]):
        untold = page(replace(card, training=replace(card.training, cuts=few)), {})
        assert_sound(untold)
        assert "Where the trunk was cut" not in untold


@pytest.mark.parametrize("chosen", range(18))
def test_the_chosen_cut_is_named_beside_its_mark_and_inside_the_picture(chosen):
    svg = cuts.plot(make_cuts(chosen))
    x, y = map(float, re.search(r'class="around" cx="([\d.]+)" cy="([\d.]+)"', svg).groups())
    left, bottom = map(float, re.search(r'<text x="([\d.]+)" y="([\d.]+)" class="halo good"', svg).groups())
    assert 44 <= left <= 432 - 6 * 6.9
    assert 52 <= bottom <= 246
    assert abs(left - x) < 70
    assert abs(bottom - y) < 40


def test_cuts_of_one_cost_and_losses_that_are_no_numbers_are_drawn(tmp_path):
    card = bare_card(tmp_path)
    alike = make_cuts()[6:12]
    broken = tuple(replace(score, tuning_loss=math.nan, tuning_accuracy=math.nan) for score in alike)
    for some in (alike, alike[:2], broken, (*broken, *alike), make_cuts()[5:8]):
        assert_sound(page(replace(card, training=replace(card.training, cuts=some)), {}))
    assert cuts.plot(broken) == ""


@pytest.mark.parametrize(
    ("head", "scales", "expected"),
    [
        (Head.GAP, (Block.BLOCK4,), "cut after block4, averages of block4"),
        (Head.MAX, (Block.BLOCK4,), "cut after block4, maxima of block4"),
        (Head.GRID, (Block.BLOCK3, Block.BLOCK4), "cut after block4, quarters of block3 and block4"),
        (Head.FLATTEN, (Block.BLOCK4,), "cut after block4, every position of block4"),
    ],
)
def test_every_head_has_words(head, scales, expected):
    assert cut_in_words(Network(Block.BLOCK4, head, scales, 0, 5)) == expected


def make_tried(chosen=2):
    """Five variants of two formats; one too large, one that loses too much."""
    rows = [
        ("onnx", "int8", "plain", 9.8, 12, 3.4, ("drop",)),
        ("onnx", "int8", "equalized", 9.8, 2, 0.9, ()),
        ("onnx", "int8", "equalized; block1_conv1 in float", 11.2, 0, 0.4, ()),
        ("tflite", "int8", "plain", 7.4, 0, 0.4, ()),
        ("onnx", "fp32", "plain", 31.0, 0, 0.4, ("size", "latency")),
    ]
    return tuple(
        Tried(form, precision, recipe, 10**6, ms, 400, 96, harmful, 1, 0.01, upper, misses, number == chosen)
        for number, (form, precision, recipe, ms, harmful, upper, misses) in enumerate(rows)
    )


def test_what_a_search_for_goals_tried_is_drawn_and_listed(tmp_path):
    noise = LayerNoise("block1_conv1", math.nan, 41.25, 42.0)
    card = replace(full_card(tmp_path), tried=make_tried(), explained=(Explained("onnx", "plain", (noise,)),))
    text = page(card, {})
    words = assert_sound(text)
    assert "What the search for goals tried" in words
    assert text.count("✓ chosen") == text.count('circle class="candidate both"') == 1
    assert text.count("✗ misses drop") == 1
    assert "✗ misses size and latency" in words
    assert "equalized; block1_conv1 in float" in words
    assert "Where onnx-int8, plain, loses" in words
    assert "41.2 dB" in words
    for none in (make_tried(chosen=9), make_tried(chosen=9)[:1]):
        words = assert_sound(page(replace(card, tried=none), {}))
        assert "Nothing was proven to keep to all goals" in words
    assert "search for goals" not in page(full_card(tmp_path), {})
    odd = tuple(replace(one, latency_ms=math.nan, expected_upper_points=math.inf) for one in make_tried())
    assert_sound(page(replace(card, tried=odd), {}))
    none_lost = tuple(replace(one, expected_upper_points=0.0, latency_ms=5.0) for one in make_tried())
    assert_sound(page(replace(card, tried=none_lost), {}))


def test_a_head_that_was_fitted_twice_is_no_schedule(tmp_path):
    training = closed_form(full_card(tmp_path).training, 2)
    second = replace(training.history[0], epoch=2, tuning_loss=0.4)
    twice = replace(training, history=(training.history[0], second, *training.history[1:]), chosen_epoch=2)
    assert kept_in_words(twice).startswith("the head, tuning loss 0.400")
    for svg in curves(twice):
        assert " ".join(read(svg).words).count("head") == 1


def test_class_without_images_is_drawn(tmp_path):
    card = full_card(tmp_path)
    scores = card.scores["keras"]
    none = replace(
        scores,
        per_class=(ClassScore(0, 0.0, 0.0, 0.0), *scores.per_class[1:]),
        confusion=((0,) * len(LABELS), *scores.confusion[1:]),
    )
    assert_sound(page(replace(card, scores={"keras": none}), {}))


def test_command_prints_the_headline_and_json(tmp_path):
    model = write_model(tmp_path / "m", full_card(tmp_path / "gone"))
    shown = CliRunner().invoke(app, ["report", str(model.folder), "-o", str(tmp_path / "page.html")])
    assert shown.exit_code == 0, shown.output
    assert "proven; fails: tflite-int8" in shown.output
    assert (tmp_path / "page.html").stat().st_size > 10_000
    record = CliRunner().invoke(app, ["report", str(model.folder), "--json"])
    assert json.loads(record.stdout)["output"] == str(model.folder / "report.html")


def test_a_folder_as_output_is_refused(tmp_path):
    model = write_model(tmp_path / "m", bare_card(tmp_path))
    with pytest.raises(StorageError):
        report(model, ReportConfig(output=tmp_path))
