"""The pictures of the report: inline SVG whose colours come from the page's style sheet.

Lengths are pixels of the picture's own box; text is escaped here. Equal input gives equal text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from edgetl.card import EpochRecord, TrainingSummary
from edgetl.config import Format
from edgetl.report import SYMBOLS, Measured
from edgetl.results import Scores

MOST_MATRIX_CLASSES = 40  # more, and a cell is too small for its count
_TEXT_HEIGHT = 13.0
_LETTER_WIDTH = 6.9  # of the widest common interface font at 11.5 pixels
_MOST_NAME_LETTERS = 18
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Axis:
    """A line of `low`..`high` (log scale on request) drawn from pixel `start` to pixel `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The pixel of `value`."""
        low, high = (math.log(self.low), math.log(self.high)) if self.logarithmic else (self.low, self.high)
        position = math.log(value) if self.logarithmic else value
        return self.start + (position - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values inside the axis: 1, 2 or 5 times a power of ten apart; such values on a log scale."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            digits = (1, 2, 5) if self.high > 12 * self.low else (1, 1.5, 2, 3, 4, 5, 7)
            return [d * 10.0**p for p in powers for d in digits if self.low <= d * 10.0**p <= self.high]
        step = round_step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `least` (positive)."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9))


def bars(counts: Sequence[int], labels: Sequence[str]) -> str:
    """One small bar per class, with its count for whoever points at it."""
    width, height = 140 / max(len(counts), 1), 26.0
    gap = 1.5 if width > 4 else 0
    tallest = max(counts, default=0) or 1
    drawn = []
    for index, (count, label) in enumerate(zip(counts, labels, strict=False)):
        tall = height * count / tallest
        box = f'x="{index * width:.2f}" y="{height - tall:.2f}" width="{width - gap:.2f}" height="{tall:.2f}"'
        drawn.append(f'<rect class="bar" {box}><title>{escape(label)}: {count}</title></rect>')
    return _svg(140, height, "images per class", drawn, "bars")


def curves(training: TrainingSummary) -> list[str]:
    """Loss and accuracy of every epoch of all stages, one picture each; empty without a history."""
    history = training.history
    if not history:
        return []
    losses = [(record.train_loss, record.tuning_loss) for record in history]
    top = max([loss for pair in losses for loss in pair if math.isfinite(loss)], default=0.0) or 1.0
    step = round_step(top / 5)
    accuracies = [(100 * record.train_accuracy, 100 * record.tuning_accuracy) for record in history]
    return [
        _curve(training, "Loss (nats)", losses, step * math.ceil(top / step)),
        _curve(training, "Accuracy (%)", accuracies, 100),
    ]


def _curve(training: TrainingSummary, name: str, pairs: Sequence[tuple[float, float]], high: float) -> str:
    count, tuning = len(pairs), [pair[1] for pair in pairs]
    across = Axis(0.5, count + 0.5, 40, 432)
    up = Axis(0, high, 226, 42)
    drawn = [_text(4, 16, name, "strong"), *_grid(up, across), *_stages(training.history, across, up)]
    for kind, left, values in (("train", 262, [pair[0] for pair in pairs]), ("tuning", 346, tuning)):
        drawn += [f'<path class="{kind}" d="M{left} 12h22"/>', _text(left + 28, 16, kind)]
        drawn.append(_line(kind, values, across, up))
    keys = [(record.stage, record.epoch) for record in training.history]
    chosen = (training.chosen_stage, training.chosen_epoch)
    if chosen in keys and math.isfinite(tuning[keys.index(chosen)]):
        x, y = across.at(keys.index(chosen) + 1), up.at(tuning[keys.index(chosen)])
        drawn.append(f'<path class="kept" d="M{x:.1f} {up.start:.1f}V{up.end:.1f}"/>')
        drawn.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>')
        drawn.append(_text(min(max(x, 54), 418), up.end - 4, "kept", "halo good", "middle"))
    return _svg(440, 268, f"{name} of every epoch, training and tuning images", drawn)


def _grid(up: Axis, across: Axis) -> list[str]:
    drawn = []
    for tick in up.ticks():
        y = up.at(tick)
        drawn.append(f'<path class="grid" d="M{across.start:.1f} {y:.1f}H{across.end:.1f}"/>')
        drawn.append(_text(across.start - 6, y + 4, f"{round(tick, 9):g}", "muted", "end"))
    return drawn


def _stages(history: Sequence[EpochRecord], across: Axis, up: Axis) -> list[str]:
    """Ticks with the epoch inside its stage, the stage's name, and a line where a stage begins."""
    drawn, last_x, before = [], -math.inf, 0
    for stage, records in groupby(history, key=lambda record: record.stage):
        epochs = [record.epoch for record in records]
        step = max(1, round(round_step(len(history) / 8)))
        for index, epoch in enumerate(epochs):
            x = across.at(before + index + 1)
            if (index == 0 or epoch % step == 0) and x - last_x > 16:
                drawn.append(_text(x, up.start + 16, str(epoch), "muted", "middle"))
                last_x = x
        half = (len(stage) + 6) * _LETTER_WIDTH / 2
        middle = (across.at(before + 1) + across.at(before + len(epochs))) / 2
        middle = min(max(middle, across.start + half), across.end - half)
        drawn.append(_text(middle, up.start + 34, f"{stage} epoch", "muted", "middle"))
        if before:
            drawn.append(
                f'<path class="edge" d="M{across.at(before + 0.5):.1f} {up.start:.1f}V{up.end:.1f}"/>'
            )
        before += len(epochs)
    return drawn


def _line(kind: str, values: Sequence[float], across: Axis, up: Axis) -> str:
    """A line through the finite values, with dots where they are few; it breaks at others."""
    path, pen, dots = "", "M", []
    for index, value in enumerate(values):
        if not math.isfinite(value):
            pen = "M"
            continue
        x, y = across.at(index + 1), up.at(value)
        path += f"{pen}{x:.1f} {y:.1f}"
        pen = "L"
        dots.append(f'<circle class="dot-{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2"/>')
    line = f'<path class="{kind}" d="{path}"/>' if path else ""
    return line + "".join(dots if len(dots) <= 40 else [])


def confusion(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Truth in rows, answers in columns; a cell is as dark as its share of the row."""
    names = [_shortened(label) for label in labels]
    cell = min(34.0, max(21.0, 760 / max(len(names), 1)))
    edge = 30 + max(len(name) for name in names) * _LETTER_WIDTH
    side = edge + cell * len(names)
    drawn = [
        _text(edge, 12, "named by the network →", "muted"),
        _text(edge - 8, edge - 6, "truth ↓", "muted", "end"),
    ]
    for index, name in enumerate(names):
        middle = edge + (index + 0.5) * cell
        turned = f'transform="translate({middle + 4:.1f} {edge - 6:.1f}) rotate(-90)"'
        drawn.append(_text(edge - 8, middle + 4, name, "", "end"))
        drawn.append(f"<text {turned}>{escape(name)}</text>")
    for row, line in enumerate(counts):
        total = sum(line) or 1
        for column, count in enumerate(line):
            x, y = edge + column * cell, edge + row * cell
            drawn.append(_cell(x, y, cell, count=count, share=count / total, right=row == column))
    return _svg(side + 2, side + 2, "confusion matrix", drawn, "natural")


def _cell(x: float, y: float, side: float, *, count: int, share: float, right: bool) -> str:
    box = f'x="{x:.1f}" y="{y:.1f}" width="{side - 1:.1f}" height="{side - 1:.1f}"'
    if not count:
        return f'<rect class="none" {box}/>'
    kind = "right" if right else "wrong"
    ink = "inverse" if share > 0.5 else ""
    fill = f'<rect class="{kind}" {box} fill-opacity="{0.12 + 0.88 * share:.2f}"/>'
    return fill + _text(x + side / 2, y + side / 2 + 4, str(count), ink, "middle")


def _shortened(label: str) -> str:
    return label if len(label) <= _MOST_NAME_LETTERS else label[: _MOST_NAME_LETTERS - 1] + "…"


def point_names(known: Sequence[Measured]) -> list[str]:
    """Verdict, name and latency of every point of the scatter."""
    latencies = [row.timing.latency_p50_ms if row.timing else math.nan for row in known]
    signs = [f"{SYMBOLS[row.verdict]} " if row.verdict else "" for row in known]
    times = [f" {latency:.1f} ms" if math.isfinite(latency) else "" for latency in latencies]
    return [f"{sign}{row.name}{time}" for sign, row, time in zip(signs, known, times, strict=True)]


def scatter(known: Sequence[Measured], reference: Scores | None, width: float, names: Sequence[str]) -> str:
    """Size against accuracy with 95 % intervals of files with a known accuracy, by size; area: latency."""
    across, up = _scatter_axes(known, reference, width)
    drawn = [_text(4, 16, "Accuracy (%)", "strong"), *_grid(up, across), *_size_ticks(across, up)]
    places = _places(known, across, up)
    taken = [(x - r, y - r, x + r, y + r) for x, y, r in places]
    if reference:
        y = up.at(100 * reference.accuracy)
        drawn.append(f'<path class="full" d="M{across.start:.1f} {y:.1f}H{across.end:.1f}"/>')
        drawn.append(_text(across.end, 16, "- - - full precision", "muted", "end"))
        taken.append((across.start, y - 2, across.end, y + 2))
    for row, (x, _, _) in zip(known, places, strict=True):
        if row.interval:
            high, low = up.at(100 * row.interval.high), up.at(100 * row.interval.low)
            caps = f"M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"
            drawn.append(f'<path class="interval" d="M{x:.1f} {low:.1f}V{high:.1f}{caps}"/>')
            taken.append((x - 4, high, x + 4, low))
    points = [_point(row, *place) for row, place in zip(known, places, strict=True)]
    labels = [_label(name, place, taken, (across, up)) for name, place in zip(names, places, strict=True)]
    return _svg(width, up.start + 44, "size against accuracy of every file", [*drawn, *points, *labels])


def _scatter_axes(rows: Sequence[Measured], reference: Scores | None, width: float) -> tuple[Axis, Axis]:
    sizes = [max(row.artifact.size_bytes, 1) / 1e6 for row in rows]
    shares = [share for row in rows if row.interval for share in (row.interval.low, row.interval.high)]
    shares += [reference.accuracy] if reference else []
    least, most = 100 * min(shares), 100 * max(shares)
    step = round_step(max(most - least, 1) / 6)
    low, high = step * math.floor(least / step), step * math.ceil(most / step)
    across = Axis(min(sizes) / 1.5, max(sizes) * 2, 40, width - 8, logarithmic=True)
    return across, Axis(low, max(high, low + step), 310, 36)


def _size_ticks(across: Axis, up: Axis) -> list[str]:
    drawn, last_x = [], -math.inf
    for tick in across.ticks():
        x = across.at(tick)
        drawn.append(f'<path class="grid" d="M{x:.1f} {up.start:.1f}v4"/>')
        if x - last_x > 30:
            drawn.append(_text(x, up.start + 17, f"{tick:g}", "muted", "middle"))
            last_x = x
    middle = (across.start + across.end) / 2
    return [*drawn, _text(middle, up.start + 36, "Size (MB, log scale)", "muted", "middle")]


def _places(rows: Sequence[Measured], across: Axis, up: Axis) -> list[tuple[float, float, float]]:
    """Centre and radius of every point; points of nearly one size are moved apart, bars stay visible."""
    latencies = [row.timing.latency_p50_ms if row.timing else math.nan for row in rows]
    slowest = max((latency for latency in latencies if latency > 0), default=math.inf)
    places: list[tuple[float, float, float]] = []
    for row, latency in zip(rows, latencies, strict=True):
        x = across.at(max(row.artifact.size_bytes, 1) / 1e6)
        x = max(x, places[-1][0] + 12) if places else x
        radius = 3 + 6 * math.sqrt(latency / slowest) if latency > 0 else 5.0
        places.append((x, up.at(100 * (row.accuracy or 0.0)), radius))
    return places


def _point(row: Measured, x: float, y: float, radius: float) -> str:
    kind = f"point {row.verdict or 'unverified'}"
    if row.artifact.format is Format.ONNX:
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'
    side = radius * math.sqrt(math.pi)  # the area of the circle
    corner = f'x="{x - side / 2:.1f}" y="{y - side / 2:.1f}"'
    return f'<rect class="{kind}" {corner} width="{side:.1f}" height="{side:.1f}"/>'


def _label(text: str, place: tuple[float, float, float], taken: list[Box], axes: tuple[Axis, Axis]) -> str:
    """The name as near to its point as there is room, with a thin line to it; `taken` grows by its box."""
    x, y, radius = place
    across, up = axes
    choices = [
        (left, top, left + len(text) * _LETTER_WIDTH, top + _TEXT_HEIGHT)
        for aside in range(0, 120, 12)
        for left in (x + radius + 6 + aside, x - radius - 6 - aside - len(text) * _LETTER_WIDTH)
        for top in (y + step * _TEXT_HEIGHT / 2 for step in range(-41, 40, 2))
    ]
    # At the right where that costs little: names then read like a list.
    choices.sort(key=lambda box: abs(box[1] + _TEXT_HEIGHT / 2 - y) + max(box[0] - x, x - box[2] + 9))
    frame = (across.start, up.end, across.end, up.start)
    free = (b for b in choices if _inside(b, frame) and not any(_overlap(b, other) for other in taken))
    box = next(free, choices[0])
    taken.append(box)
    near, middle = (box[0] - 2 if box[0] > x else box[2] + 2), (box[1] + box[3]) / 2
    away = abs(middle - y) > 8 or abs(near - x) > radius + 8
    leader = f'<path class="leader" d="M{x:.1f} {y:.1f}L{near:.1f} {middle:.1f}"/>' if away else ""
    return leader + _text(box[0], box[3] - 3, text, "halo")


def _inside(box: Box, frame: Box) -> bool:
    return frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _overlap(one: Box, two: Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def _text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    extra = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor != "start" else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{extra}>{escape(content)}</text>'


def _svg(width: float, height: float, label: str, drawn: Sequence[str], kind: str = "") -> str:
    box = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    named = f'role="img" aria-label="{escape(label)}"'
    return f'<svg class="{kind or "chart"}" {box} {named}>{"".join(drawn)}</svg>'
