"""What the last export with goals tried: every variant in a picture and in a table."""

import math
from collections.abc import Sequence
from html import escape

from edgetl.card import ModelCard
from edgetl.report import megabytes, number, table, two
from edgetl.report.drawing import Axis, Box, cost_ticks, label_near, level_lines, picture, text_at
from edgetl.results import Explained, Tried

_RADIUS = 4.5
_LEAST_POINTS = 0.02  # drawn as this, where the bound is smaller


def searched(card: ModelCard) -> str:
    """The heading, a picture and a table as HTML; nothing where nothing was searched."""
    if not card.tried:
        return ""
    chosen = [one for one in card.tried if one.chosen]
    outcome = (
        "Filled: the fastest of each format that keeps to all goals, which certification then proved."
        if chosen
        else "Nothing was proven to keep to all goals, so no file was written."
    )
    if card.compression:
        outcome += " Flips here are against this smaller network in full precision: what rounding adds."
    return (
        f'<h3>What the search for goals tried</h3><div class="pair"><figure>{plot(card.tried)}</figure><div>'
        f"<p>{len(card.tried)} variants were compared on {card.tried[0].images:,} tuning images: the drop "
        "that certification should prove if it sees the same shares of flips, against the time of one "
        f"image on the machine that exported. {outcome}</p></div></div>{_list(card.tried)}"
        f"{''.join(_layers(one) for one in card.explained)}"
    )


def _layers(explained: Explained) -> str:
    """Where plain int8 loses, for whoever wants to know why it was not enough."""
    lines = [
        [
            escape(one.layer),
            *(number(value, 1, " dB") for value in (one.sqnr_in_db, one.sqnr_out_db, one.sqnr_alone_db)),
        ]
        for one in explained.layers
    ]
    names = ("Layer", "Signal to noise of what it reads", "of what it gives", "alone")
    return (
        f"<p>Where {escape(explained.format)}-int8, {escape(explained.recipe)}, loses: signal to "
        "quantization noise. Alone: what the layer makes of noiseless input.</p>"
        f"{table(names, lines, 'compact')}"
    )


def _list(found: Sequence[Tried]) -> str:
    order = sorted(found, key=lambda one: (len(one.misses), one.latency_ms))
    lines = [
        [
            f"<b>{escape(one.format)}-{escape(one.precision)}</b><small>{escape(one.recipe)}</small>",
            _outcome(one),
            megabytes(one.size_bytes),
            number(one.latency_ms, 1, " ms"),
            two(f"{one.harmful} / {one.helpful}", f"of {one.images:,}, {one.images_run:,} run"),
            number(one.expected_upper_points, 2),
        ]
        for one in order
    ]
    names = ("Variant", "Goals", "Size", "One image", "Harmful / helpful flips", "Drop at most (points)")
    return table(names, lines, "words")


def _outcome(one: Tried) -> str:
    if one.misses:
        return f'<span class="badge fail">✗ misses {escape(" and ".join(one.misses))}</span>'
    return '<span class="badge pass">✓ chosen</span>' if one.chosen else "keeps"


def plot(found: Sequence[Tried]) -> str:
    """The expected bound of the drop against the time of one image, both on log scales."""
    known = [one for one in found if one.latency_ms > 0 and math.isfinite(one.expected_upper_points)]
    if not known:
        return ""
    times = [one.latency_ms for one in known]
    drops = [max(one.expected_upper_points, _LEAST_POINTS) for one in known]
    across = Axis(min(times) / 1.3, 1.3 * max(times), 52, 432, logarithmic=True)
    up = Axis(min(drops) / 1.5, 1.5 * max(drops), 246, 52, logarithmic=True)
    drawn = [
        text_at(4, 16, "Drop at most (points)", "strong"),
        *level_lines(up, across),
        *cost_ticks(across, up, "One image (ms)"),
    ]
    places = [(across.at(time), up.at(drop)) for time, drop in zip(times, drops, strict=True)]
    reach = _RADIUS + 3
    taken: list[Box] = [(x - reach, y - reach, x + reach, y + reach) for x, y in places]
    for one, (x, y) in zip(known, places, strict=True):
        kind = "candidate both" if one.chosen else "candidate"
        told = f"{one.format}-{one.precision}, {one.recipe}: {number(one.latency_ms, 1)} ms"
        place = f'cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}"'
        drawn.append(f'<circle class="{kind}" {place}><title>{escape(told)}</title></circle>')
    for one, (x, y) in zip(known, places, strict=True):
        if one.chosen:
            name = f"{one.format}-{one.precision}"
            drawn.append(label_near(name, (x, y, _RADIUS + 2), taken, (across, up), "halo good"))
    return picture(440, 300, "expected drop against the time of one image, of every variant tried", drawn)
