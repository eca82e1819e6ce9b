"""`edgetl report` of a compressed model: what is left, against what it came from, and all that was tried."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import IMAGES, assert_sound, bare_card, full_card, make_parity, read

from edgetl.card import Compression
from edgetl.config import Block
from edgetl.report import best_proven, headline, judged
from edgetl.report.compression import compressed, saving
from edgetl.report.html import page
from edgetl.report.pareto import parent_accuracy, plot, points
from edgetl.results import Attempt, LayerCost
from edgetl.statistics import Verdict, wilson_interval
from edgetl.vgg16 import conv_shapes, widths_up_to

PARENT_CHANNELS = widths_up_to(Block.BLOCK4)
CHANNELS = (16, 16, 32, 32, 48, 48, 64, 80, 80, 96)
SHORTER = CHANNELS[:7]
EVIL = '"><img src=x onerror=alert(1)>'


def attempt(widths=CHANNELS, latency_ms=2.0, harmful=9, misses=(), *, chosen=False):
    return Attempt(
        widths, 261_000, 0.0523, 312_000, latency_ms, 30, (370 - harmful) / IMAGES, IMAGES, harmful, 4, 0.9,
        misses, chosen,
    )  # fmt: skip


def make_layers(after=CHANNELS):
    names = [f"block{b}_conv{c}" for b, many in enumerate((2, 2, 3, 3), 1) for c in range(1, many + 1)]
    kept = (*after, *[0] * (len(names) - len(after)))
    return tuple(
        LayerCost(name, before, few, 1.5, 0.25 if few else 0.0)
        for name, before, few in zip(names, PARENT_CHANNELS, kept, strict=True)
    )


def small_card(folder, **changes):
    """Two of nine files are judged against the larger network; one passes."""
    card = full_card(folder)
    attempts = (attempt(latency_ms=3.0), attempt(chosen=True), attempt(SHORTER, 1.0, 31, ("drop", "size")))
    verdicts = (
        make_parity("onnx-int8", Verdict.PASS, 0.5, 0.84),
        make_parity("tflite-int8", Verdict.UNDECIDED, 0.8, 1.3),
    )
    known = Compression(
        parent="big flowers",
        parent_folder="../big",
        parent_keras_sha256="23" * 32,
        parent_channels=PARENT_CHANNELS,
        parent_accuracy=0.84,
        goals="drop under 1 points",
        settings={},
        attempts=attempts,
        layers=make_layers(),
        parity=verdicts,
    )
    return replace(
        card,
        network=replace(card.network, widths=CHANNELS),
        compression=replace(known, **changes),
    )


def test_the_section_tells_what_is_left_of_the_larger_network(tmp_path):
    words = assert_sound(page(small_card(tmp_path), {}))
    assert "0.252 of 7.64 million convolution weights of big flowers are left; 22 times fewer" in words
    assert "(0.118 instead of 2.56 billion an image)" in words
    assert "take 2.50 ms instead of 15.0 ms for an image" in words
    assert "Asked for: drop under 1 points." in words
    assert "Compressing took" in words
    assert "It learnt the answers of big flowers." in words
    assert "chooses cut" not in words
    assert "channels 16-16-32-32-48-48-64-80-80-96" in words


def test_a_trained_model_has_no_such_section(tmp_path):
    assert compressed(full_card(tmp_path)) == ""
    assert "What compression left" not in page(full_card(tmp_path), {})
    assert math.isnan(saving(full_card(tmp_path)))


def test_the_headline_is_about_the_drop_against_the_larger_network(tmp_path):
    card = small_card(tmp_path)
    assert headline(card) == (
        "onnx-int8: 7.8 MB, accuracy 83.8 % (79.8-87.0), at most 0.9 points lost against big flowers: proven; "
        "undecided: tflite-int8; not compared with big flowers: onnx-fp32, onnx-fp16, onnx-w8a32, "
        "tflite-fp32, tflite-fp16, tflite-w8a32, tflite-w8a16."
    )
    assert best_proven(judged(card)).parity.drop_upper_points == 0.84
    some = replace(card, artifacts=tuple(a for a in card.artifacts if a.name == "tflite-int8"))
    assert (
        headline(some) == "No exported file is proven to be as good as big flowers: undecided: tflite-int8."
    )
    stale = replace(card, artifacts=tuple(replace(a, sha256="00" * 32) for a in card.artifacts))
    assert headline(stale).endswith(
        ", big flowers had 84.0 %; the exported files are not compared with big flowers yet."
    )
    assert headline(replace(card, artifacts=(), scores={})) == (
        "Made from big flowers; nothing is exported yet."
    )
    for one in (some, stale, replace(card, artifacts=(), scores={})):
        assert_sound(page(one, None))


def test_everything_tried_is_drawn_and_listed(tmp_path):
    text = compressed(small_card(tmp_path))
    words = " ".join(read(text).words)
    assert "3 networks were trained and compared" in words
    assert text.count('circle class="candidate both"') == 4  # two that keep to the goals, in two pictures
    assert text.count('circle class="candidate"') == 2
    assert text.count('class="around"') == text.count("2, chosen</text>") == 2
    assert text.count('rect class="parent"') == 1  # its size is not known
    assert text.count("✓ chosen") == text.count("✗ misses") == 1
    assert "drop and size" in words
    interval = wilson_interval(361, IMAGES)
    assert f"{100 * interval.low:.1f}-{100 * interval.high:.1f}" in words
    for widths in (CHANNELS, SHORTER, PARENT_CHANNELS):
        assert "-".join(map(str, widths)) in words


def test_the_larger_network_is_drawn_where_its_counts_put_it():
    accuracy, interval = parent_accuracy([attempt(harmful=9)])
    assert accuracy == pytest.approx((361 + 9 - 4) / IMAGES)
    assert interval == wilson_interval(366, IMAGES)
    found = points([attempt()], [2.0], 15.0)
    assert [point.cost for point in found] == [2.0, 15.0]
    assert found[-1].accuracy == accuracy
    assert parent_accuracy([]) is None


def test_costs_far_apart_are_drawn_on_a_log_scale():
    near, far = (points([attempt(), attempt()], [1.0, cost], math.nan) for cost in (2.0, 20.0))
    assert "log scale" not in plot(near, math.nan, "One image (ms)")
    assert "One image (ms), log scale" in plot(far, math.nan, "One image (ms)")


@given(
    st.lists(
        st.tuples(
            st.floats(min_value=1e-3, max_value=1e5),
            st.integers(min_value=0, max_value=IMAGES),
            st.integers(min_value=0, max_value=20),
        ),
        min_size=1,
        max_size=6,
    ),
    st.floats(min_value=1e-3, max_value=1e5) | st.just(math.nan),
)
def test_all_points_are_inside_the_picture(rows, parent_ms):
    attempts = [
        replace(attempt(latency_ms=ms, harmful=harmful), tuning_accuracy=right / IMAGES)
        for ms, right, harmful in rows
    ]
    known = parent_accuracy(attempts)
    found = points(attempts, [one.latency_ms for one in attempts], parent_ms)
    svg = plot(found, known[0] if known else math.nan, "One image (ms)")
    read(svg)
    assert "nan" not in svg
    places = re.findall(r'<circle class="candidate[^"]*" cx="([\d.-]+)" cy="([\d.-]+)"', svg)
    assert len(places) == len(rows)
    for x, y in places:
        assert 48 <= float(x) <= 432
        assert 46 <= float(y) <= 246
    for low, high in re.findall(r'class="interval" d="M[\d.]+ ([\d.-]+)V([\d.-]+)', svg):
        assert 46 <= float(high) <= float(low) <= 246


def test_layers_are_drawn_before_and_after_and_gone_ones_are_said(tmp_path):
    text = compressed(small_card(tmp_path))
    assert text.count('rect class="before"') == text.count('rect class="bar"') == 2 * (10 + 1)  # and the keys
    assert "512 → 96</text>" in text
    assert "1.50 → 0.25</text>" in text
    assert "gone" not in text
    quick = tuple(replace(layer, before_ms=0.0462, after_ms=0.0281) for layer in make_layers())
    assert "0.046 → 0.028</text>" in compressed(small_card(tmp_path, layers=quick))
    card = small_card(tmp_path, layers=make_layers(SHORTER))
    shorter = replace(card, network=replace(card.network, widths=SHORTER, cut=Block.BLOCK3))
    text = compressed(shorter)
    assert text.count('rect class="before"') == 2 * (10 + 1)
    assert text.count('rect class="bar"') == 2 * (7 + 1)
    assert text.count("512 → gone</text>") == text.count("1.50 → gone</text>") == 3
    assert "The last 3 are gone." in text
    assert "0.079 of 7.64 million" in text
    assert_sound(page(shorter, None))


def test_one_network_and_none_and_no_verdict_are_told(tmp_path):
    one = assert_sound(page(small_card(tmp_path, attempts=(attempt(chosen=True),)), {}))
    assert "One network was trained" in one
    assert "it keeps to all goals" in one
    none = assert_sound(page(small_card(tmp_path, attempts=(), layers=(), parity=()), {}))
    assert "What was tried" not in none
    assert "Layer by layer" not in none
    assert "No exported file is compared with big flowers." in none


def test_numbers_that_are_missing_never_show_as_such(tmp_path):
    nan, inf = math.nan, math.inf
    odd = [
        replace(attempt(), tuning_accuracy=nan),
        replace(attempt(), latency_ms=nan, giga_macs=nan, expected_upper_points=inf),
        replace(attempt(), images=0, tuning_accuracy=0.0),
        replace(attempt(), latency_ms=0.0, size_bytes=0),
        replace(attempt(), tuning_accuracy=1.0, harmful=5, helpful=0),
    ]
    layers = make_layers()
    untimed = tuple(replace(layer, before_ms=nan, after_ms=nan) for layer in layers)
    partly = (replace(layers[0], after_ms=nan), *layers[1:])
    still = tuple(replace(layer, before_ms=0.0, after_ms=0.0) for layer in layers)
    for some in (*([one] for one in odd), odd, [*odd, attempt(chosen=True)]):
        assert_sound(page(small_card(tmp_path, attempts=tuple(some)), {}))
    for some in (untimed, partly, still):
        words = assert_sound(page(small_card(tmp_path, layers=some, parent_accuracy=nan), {}))
        assert ("In int8 the convolutions take" in words) == (some is still)
    for channels in ((), (64,), (0,) * 10):
        words = assert_sound(page(small_card(tmp_path, parent_channels=channels), {}))
        assert "convolution weights of" not in words
        assert "fewer multiply-adds" not in words


def test_texts_of_the_card_are_escaped(tmp_path):
    layers = (replace(make_layers()[0], layer=EVIL),)
    card = small_card(tmp_path, parent=EVIL, goals=EVIL, layers=layers, attempts=(attempt(misses=(EVIL,)),))
    for one in (card, replace(card, artifacts=())):
        text = page(one, {})
        assert_sound(text)
        assert "<img src=x" not in text


@given(st.lists(st.integers(min_value=1, max_value=64), min_size=2, max_size=2))
def test_the_saving_is_that_of_the_multiply_adds(channels):
    card = bare_card("data")
    known = small_card("data", parent_channels=(64, 64)).compression
    card = replace(card, compression=known, network=replace(card.network, widths=tuple(channels)))
    (_, _, a, b), (_, _, _, c) = conv_shapes(Block.BLOCK1, channels)
    assert saving(card) == pytest.approx((3 * 64 + 64 * 64) / (a * b + b * c))


def test_a_network_that_tuning_images_could_not_judge_is_left_to_certification(tmp_path):
    card = small_card(tmp_path)
    known = card.compression
    attempts = tuple(replace(one, misses=("drop",) if one.chosen else one.misses) for one in known.attempts)
    shown = page(replace(card, compression=replace(known, attempts=attempts)), {})
    assert "certification decided" in shown
    assert "fastest that keeps to all goals" not in shown
