"""What a network with fewer channels has left of the one it came from, and whether it is as good."""

import math
from collections.abc import Sequence
from html import escape

from edgetl.card import Compression, ModelCard
from edgetl.config import Block
from edgetl.report import (
    file_cells,
    hint,
    judged,
    megabytes,
    number,
    percent,
    table,
    two,
)
from edgetl.report.drawing import Axis, picture, shortened, text_at
from edgetl.report.pareto import PARENT, Point, interval_of, parent_accuracy, plot, points
from edgetl.results import Attempt, LayerCost
from edgetl.statistics import Interval
from edgetl.vgg16 import conv_shapes, layer_multiplications

_ROW_HEIGHT, _BAR_HEIGHT = 21.0, 13.0
_MOST_LAYER_LETTERS = 13


def compressed(card: ModelCard) -> str:
    """The whole section as HTML; nothing for a model that was trained."""
    known = card.compression
    if known is None:
        return ""
    return f"<p>{_summary(card, known)}</p>{_verdicts(card, known)}{_tried(card, known)}{_layers(known)}"


def saving(card: ModelCard) -> float:
    """How many times fewer multiply-adds than before; NaN where the card does not tell."""
    if card.compression is None:
        return math.nan
    return _multiply_adds(card, card.compression.parent_channels) / _multiply_adds(
        card, card.network.channels
    )


def _multiply_adds(card: ModelCard, channels: Sequence[int]) -> float:
    """Of one image through convolutions with so many channels; NaN if those are no part of VGG16."""
    last = _last(channels)
    if last is None:
        return math.nan
    return sum(layer_multiplications(card.input.height, card.input.width, last, channels))


def _weights(channels: Sequence[int]) -> int | None:
    """Weights and biases of such convolutions."""
    last = _last(channels)
    return None if last is None else sum(math.prod(s) + s[-1] for s in conv_shapes(last, channels))


def _last(channels: Sequence[int]) -> Block | None:
    """The block that so many convolutions end with."""
    if min(channels, default=0) < 1:
        return None
    return next((block for block in Block if len(conv_shapes(block)) == len(channels)), None)


def _summary(card: ModelCard, known: Compression) -> str:
    """What is left, in plain words."""
    layers = _timed(known)
    after_ms, before_ms = sum(layer.after_ms for layer in layers), sum(layer.before_ms for layer in layers)
    time = (
        f"In int8 the convolutions take {_ms(after_ms)} instead of {_ms(before_ms)} for an image, by what "
        "such layers took on the machine that compressed it. "
    )
    return f"{_left(card, known)}{time if layers else ''}Asked for: {escape(known.goals)}."


def _left(card: ModelCard, known: Compression) -> str:
    before, after = _weights(known.parent_channels), _weights(card.network.channels)
    if before is None or after is None:
        return ""
    times = saving(card)
    fewer = f"{times_in_words(times)} fewer multiply-adds" if times >= 1.05 else "as many multiply-adds"
    now, then = (
        f"{_multiply_adds(card, channels) / 1e9:.3g}"
        for channels in (card.network.channels, known.parent_channels)
    )
    return (
        f"{_millions(after)} of {_millions(before)} million convolution weights of {escape(known.parent)} "
        f"are left; {fewer} ({now} instead of {then} billion an image). "
    )


def times_in_words(times: float) -> str:
    """A ratio, as "25 times"; with one digit more where it is small."""
    return f"{times:,.0f} times" if times >= 10 else f"{times:.1f} times"


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g}" if count < 1e8 else f"{count / 1e6:,.0f}"


def _ms(value: float) -> str:
    return number(value, 1 if value >= 10 else 2, " ms")


def _timed(known: Compression) -> Sequence[LayerCost]:
    """The layers, if all of them have times."""
    whole = all(math.isfinite(one.before_ms) and math.isfinite(one.after_ms) for one in known.layers)
    return known.layers if whole else ()


def _verdicts(card: ModelCard, known: Compression) -> str:
    rows = judged(card)
    compared, others = [row for row in rows if row.parity], [row.name for row in rows if not row.parity]
    heading = f"<h3>Against {escape(known.parent)}</h3>"
    if not compared:
        return heading + hint(f"No exported file is compared with {known.parent}.")
    images = compared[0].parity.images if compared[0].parity else 0
    interval = interval_of(known.parent_accuracy, images)
    before = f"{percent(known.parent_accuracy)} ({_spread(interval)})" if interval else "n/a"
    columns = ("File", "Verdict", "Size", "Accuracy", "Drop, points", "Same answer", "max |Δp|")
    lines = [file_cells(row, verified=True, timed=False) for row in compared]
    rest = f" Not compared: {escape(', '.join(others))}." if others else ""
    return (
        f"{heading}<p>Image by image, on {images:,} certification images; {escape(known.parent)} in full "
        f"precision has an accuracy of {before} there.{rest}</p>{table(columns, lines, 'stack words')}"
    )


def _tried(card: ModelCard, known: Compression) -> str:
    attempts = known.attempts
    if not attempts:
        return ""
    layers = _timed(known)
    before_ms = sum(layer.before_ms for layer in layers) if layers else math.nan
    accuracy = parent_accuracy(attempts)
    level = accuracy[0] if accuracy else math.nan
    speed = points(attempts, [one.latency_ms for one in attempts], before_ms)
    sizes = points(attempts, [one.size_bytes / 1e6 for one in attempts], math.nan)
    figures = [plot(speed, level, "One image (ms)"), plot(sizes, level, "int8 ONNX file (MB)")]
    drawn = "".join(f"<figure>{figure}</figure>" for figure in figures if figure)
    figure = f'<div class="pair">{drawn}</div><small>{_legend(known, speed)}</small>' if drawn else ""
    return f"<h3>What was tried</h3><p>{_count(attempts)}</p>{figure}{_list(card, known, before_ms)}"


def _count(attempts: Sequence[Attempt]) -> str:
    count = f"{len(attempts)} networks were" if len(attempts) > 1 else "One network was"
    own = [one for one in attempts if not one.student]
    fastest = "; chosen is the fastest that keeps to all goals" if len(own) > 1 else "; it keeps to all goals"
    if any(one.chosen and one.misses for one in attempts):
        fastest = "; they could not tell whether it keeps the drop, so certification decided"
    elif len(own) < len(attempts):
        fastest = "; chosen is the fastest that keeps to all goals and is no rival with a name"
    chosen = any(one.chosen for one in attempts)
    return (
        f"{count} trained and compared with the larger one on {attempts[0].images:,} tuning images, as int8 "
        f"ONNX files{fastest if chosen else ''}. Worse: right before, wrong now. Drop at most: what "
        "certification should then prove of all formats together, in points."
    )


def _legend(known: Compression, drawn: Sequence[Point]) -> str:
    parent = escape(known.parent)
    parts = ["Bars: 95 % intervals", f"dashed: {parent}"]
    if drawn[-1:] and drawn[-1].parent:
        parts.append(f"square: {parent}, by the times of its convolutions")
    if any(one.misses for one in known.attempts):
        parts.append("hollow: misses a goal")
    return f"{'; '.join(parts)}."


def _list(card: ModelCard, known: Compression, before_ms: float) -> str:
    lines = [_line(index, one) for index, one in enumerate(known.attempts, 1)]
    accuracy = parent_accuracy(known.attempts)
    weights = _weights(known.parent_channels)
    before = [
        two(f"<b>{escape(known.parent)}</b>", _joined(known.parent_channels)),
        PARENT,
        "n/a" if weights is None else two(f"{_millions(weights)} M", "convolutions"),
        number(_multiply_adds(card, known.parent_channels) / 1e9, 3, " · 10⁹"),
        "n/a",
        two(number(before_ms, 2, " ms"), "convolutions" if math.isfinite(before_ms) else ""),
        two(percent(accuracy[0]), _spread(accuracy[1])) if accuracy else "n/a",
        "n/a",
        "n/a",
    ]
    names = ("Channels", "Goals", "Weights", "Multiply-adds", "Size", "One image", "Accuracy")
    columns = (*names, "Worse / better", "Drop at most")
    return table(columns, [*lines, before], "stack words")


def _line(index: int, one: Attempt) -> list[str]:
    return [
        two(f"<b>{index}</b>", escape(one.student) or _joined(one.widths)),
        _outcome(one),
        f"{_millions(one.parameters)} M",
        number(one.giga_macs, 3, " · 10⁹"),
        megabytes(one.size_bytes),
        number(one.latency_ms, 2, " ms"),
        two(percent(one.tuning_accuracy), _spread(interval_of(one.tuning_accuracy, one.images))),
        two(f"{one.harmful} / {one.helpful}", f"of {one.images:,}"),
        number(one.expected_upper_points, 2),
    ]


def _outcome(one: Attempt) -> str:
    if one.chosen and one.misses:
        return two('<span class="badge pass">✓ chosen</span>', "certification decided")
    if one.misses:
        return two('<span class="badge fail">✗ misses</span>', " and ".join(one.misses))
    return '<span class="badge pass">✓ chosen</span>' if one.chosen else "keeps"


def _spread(interval: Interval | None) -> str:
    return f"{100 * interval.low:.1f}-{100 * interval.high:.1f}" if interval else ""


def _joined(channels: Sequence[int]) -> str:
    return "-".join(map(str, channels))


def _layers(known: Compression) -> str:
    """Two pictures: channels and milliseconds of each layer, before and after."""
    if not known.layers:
        return ""
    channels = [(float(one.channels_before), float(one.channels_after)) for one in known.layers]
    widths = [f"{one.channels_before} → {one.channels_after or 'gone'}" for one in known.layers]
    times = [(one.before_ms, one.after_ms) for one in known.layers]
    digits = 2 if any(one.before_ms >= 1 for one in known.layers) else 3
    spent = [
        f"{number(one.before_ms, digits)} → {number(one.after_ms, digits) if one.channels_after else 'gone'}"
        for one in known.layers
    ]
    names = [one.layer for one in known.layers]
    gone = sum(1 for one in known.layers if one.channels_after == 0)
    told = f" The last {'one is' if gone == 1 else f'{gone} are'} gone." if gone else ""
    return (
        f"<h3>Layer by layer</h3><p>Milliseconds are of one image in int8 on the machine that compressed "
        f'it, as its layers were measured.{told}</p><div class="pair">'
        f"<figure>{_bars('Channels', names, channels, widths)}</figure>"
        f"<figure>{_bars('Milliseconds', names, times, spent)}</figure></div>"
    )


def _bars(title: str, names: Sequence[str], pairs: Sequence[tuple[float, float]], told: Sequence[str]) -> str:
    """A wide bar for each layer before and a narrow one in it after, with both numbers at the right."""
    most = max((value for pair in pairs for value in pair if math.isfinite(value)), default=0.0) or 1.0
    across, top = Axis(0, most, 94, 344), 34.0
    drawn = [text_at(4, 16, title, "strong"), *_key(274, "before"), *_key(354, "after")]
    for index, (name, pair, text) in enumerate(zip(names, pairs, told, strict=True)):
        middle = top + (index + 0.5) * _ROW_HEIGHT
        drawn.append(text_at(88, middle + 4, shortened(name, _MOST_LAYER_LETTERS), "muted", "end"))
        for kind, value, tall in (("before", pair[0], _BAR_HEIGHT), ("bar", pair[1], _BAR_HEIGHT - 6)):
            if math.isfinite(value) and value > 0:
                wide = max(across.at(value) - across.start, 1.0)
                box = f'x="{across.start:.1f}" y="{middle - tall / 2:.1f}" width="{wide:.1f}" height="{tall}"'
                drawn.append(f'<rect class="{kind}" {box}><title>{escape(f"{name}: {text}")}</title></rect>')
        drawn.append(text_at(436, middle + 4, text, "", "end"))
    return picture(440, top + len(names) * _ROW_HEIGHT + 6, f"{title} of each layer, before and after", drawn)


def _key(x: float, word: str) -> list[str]:
    kind, tall = ("before", _BAR_HEIGHT) if word == "before" else ("bar", _BAR_HEIGHT - 6)
    box = f'x="{x:.1f}" y="{12 - tall / 2:.1f}" width="22" height="{tall}"'
    return [f'<rect class="{kind}" {box}/>', text_at(x + 28, 16, word)]
