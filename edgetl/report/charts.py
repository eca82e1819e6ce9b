"""The pictures of the report, but for the choice of a cut: see `cuts`."""

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

from edgetl.card import EpochRecord, TrainingSummary
from edgetl.config import Format
from edgetl.report import SYMBOLS, Measured
from edgetl.report.drawing import (
    LETTER_WIDTH,
    Axis,
    cost_ticks,
    label_near,
    level_lines,
    picture,
    round_step,
    shortened,
    text_at,
)
from edgetl.report.words import is_closed_form, stage_in_words
from edgetl.results import Scores

MOST_MATRIX_CLASSES = 40  # more, and a cell is too small for its count
_MOST_DOTS = 40  # epochs


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
    return picture(140, height, "images per class", drawn, "bars")


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
    drawn = [text_at(4, 16, name, "strong"), *level_lines(up, across), *_stages(training, across, up)]
    for kind, left, values in (("train", 262, [pair[0] for pair in pairs]), ("tuning", 346, tuning)):
        drawn += [f'<path class="{kind}" d="M{left} 12h22"/>', text_at(left + 28, 16, kind)]
        drawn += [_line(kind, values, run, across, up) for run in _runs(training.history)]
    keys = [(record.stage, record.epoch) for record in training.history]
    chosen = (training.chosen_stage, training.chosen_epoch)
    if chosen in keys and math.isfinite(tuning[keys.index(chosen)]):
        x, y = across.at(keys.index(chosen) + 1), up.at(tuning[keys.index(chosen)])
        drawn.append(f'<path class="kept" d="M{x:.1f} {up.start:.1f}V{up.end:.1f}"/>')
        drawn.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>')
        drawn.append(text_at(min(max(x, 54), 418), up.end - 6, "kept", "halo good", "middle"))
    return picture(440, 268, f"{name} of every epoch, training and tuning images", drawn)


def _runs(history: Sequence[EpochRecord]) -> list[range]:
    """The positions of each stage: what is before and after a change of stage is not one curve."""
    found, before = [], 0
    for _, records in groupby(history, key=lambda record: record.stage):
        found.append(range(before, before + len(list(records))))
        before = found[-1].stop
    return found


def _stages(training: TrainingSummary, across: Axis, up: Axis) -> list[str]:
    """Ticks with the epoch inside its stage, the stage's name, and a line where a stage begins."""
    drawn, last_x, history = [], -math.inf, training.history
    step = max(1, round(round_step(len(history) / 8)))
    for run in _runs(history):
        stage = history[run.start].stage
        closed = is_closed_form(training, stage)
        name = stage_in_words(stage) + ("" if closed else " epoch")
        for position in run:
            x, epoch = across.at(position + 1), history[position].epoch
            if not closed and (position == run.start or epoch % step == 0) and x - last_x > 16:
                drawn.append(text_at(x, up.start + 16, str(epoch), "muted", "middle"))
                last_x = x
        half = len(name) * LETTER_WIDTH / 2
        middle = (across.at(run.start + 1) + across.at(run.stop)) / 2
        middle = min(max(middle, across.start + half), across.end - half)
        drawn.append(text_at(middle, up.start + 34, name, "muted", "middle"))
        if run.start:
            x = across.at(run.start + 0.5)
            drawn.append(f'<path class="edge" d="M{x:.1f} {up.start:.1f}V{up.end:.1f}"/>')
    return drawn


def _line(kind: str, values: Sequence[float], run: range, across: Axis, up: Axis) -> str:
    """A line through the finite values of a run, with dots where they are few; it breaks at others.

    A value that no line reaches has a larger dot always.
    """
    path, dots = "", ""
    known = {position for position in run if math.isfinite(values[position])}
    for position in sorted(known):
        x, y = across.at(position + 1), up.at(values[position])
        joined = position - 1 in known
        path += f"{'L' if joined else 'M'}{x:.1f} {y:.1f}"
        alone = not joined and position + 1 not in known
        if alone or len(values) <= _MOST_DOTS:
            radius = 3.5 if alone else 2
            dots += f'<circle class="dot-{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
    line = f'<path class="{kind}" d="{path}"/>' if path else ""
    return line + dots


def confusion(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Truth in rows, answers in columns; a cell is as dark as its share of the row."""
    names = [shortened(label) for label in labels]
    cell = min(34.0, max(21.0, 760 / max(len(names), 1)))
    edge = 30 + max(len(name) for name in names) * LETTER_WIDTH
    side = edge + cell * len(names)
    drawn = [
        text_at(edge, 12, "named by the network →", "muted"),
        text_at(edge - 8, edge - 6, "truth ↓", "muted", "end"),
    ]
    for index, name in enumerate(names):
        middle = edge + (index + 0.5) * cell
        turned = f'transform="translate({middle + 4:.1f} {edge - 6:.1f}) rotate(-90)"'
        drawn.append(text_at(edge - 8, middle + 4, name, "", "end"))
        drawn.append(f"<text {turned}>{escape(name)}</text>")
    for row, line in enumerate(counts):
        total = sum(line) or 1
        for column, count in enumerate(line):
            x, y = edge + column * cell, edge + row * cell
            drawn.append(_cell(x, y, cell, count=count, share=count / total, right=row == column))
    return picture(side + 2, side + 2, "confusion matrix", drawn, "natural")


def _cell(x: float, y: float, side: float, *, count: int, share: float, right: bool) -> str:
    box = f'x="{x:.1f}" y="{y:.1f}" width="{side - 1:.1f}" height="{side - 1:.1f}"'
    if not count:
        return f'<rect class="none" {box}/>'
    kind = "right" if right else "wrong"
    ink = "inverse" if share > 0.5 else ""
    fill = f'<rect class="{kind}" {box} fill-opacity="{0.12 + 0.88 * share:.2f}"/>'
    return fill + text_at(x + side / 2, y + side / 2 + 4, str(count), ink, "middle")


def point_names(known: Sequence[Measured]) -> list[str]:
    """Verdict, name and latency of every point of the scatter."""
    latencies = [row.timing.latency_p50_ms if row.timing else math.nan for row in known]
    signs = [f"{SYMBOLS[row.verdict]} " if row.verdict else "" for row in known]
    times = [f" {latency:.1f} ms" if math.isfinite(latency) else "" for latency in latencies]
    return [f"{sign}{row.name}{time}" for sign, row, time in zip(signs, known, times, strict=True)]


def scatter(known: Sequence[Measured], reference: Scores | None, width: float, names: Sequence[str]) -> str:
    """Size against accuracy with 95 % intervals of files with a known accuracy, by size; area: latency."""
    across, up = _scatter_axes(known, reference, width)
    drawn = [
        text_at(4, 16, "Accuracy (%)", "strong"),
        *level_lines(up, across),
        *cost_ticks(across, up, "Size (MB, log scale)"),
    ]
    places = _places(known, across, up)
    taken = [(x - r, y - r, x + r, y + r) for x, y, r in places]
    if reference:
        y = up.at(100 * reference.accuracy)
        drawn.append(f'<path class="full" d="M{across.start:.1f} {y:.1f}H{across.end:.1f}"/>')
        drawn.append(text_at(across.end, 16, "- - - full precision", "muted", "end"))
        taken.append((across.start, y - 2, across.end, y + 2))
    for row, (x, _, _) in zip(known, places, strict=True):
        if row.interval:
            high, low = up.at(100 * row.interval.high), up.at(100 * row.interval.low)
            caps = f"M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"
            drawn.append(f'<path class="interval" d="M{x:.1f} {low:.1f}V{high:.1f}{caps}"/>')
            taken.append((x - 4, high, x + 4, low))
    points = [_point(row, *place) for row, place in zip(known, places, strict=True)]
    labels = [label_near(name, place, taken, (across, up)) for name, place in zip(names, places, strict=True)]
    return picture(width, up.start + 44, "size against accuracy of every file", [*drawn, *points, *labels])


def _scatter_axes(rows: Sequence[Measured], reference: Scores | None, width: float) -> tuple[Axis, Axis]:
    sizes = [max(row.artifact.size_bytes, 1) / 1e6 for row in rows]
    shares = [share for row in rows if row.interval for share in (row.interval.low, row.interval.high)]
    shares += [reference.accuracy] if reference else []
    least, most = 100 * min(shares), 100 * max(shares)
    step = round_step(max(most - least, 1) / 6)
    low, high = step * math.floor(least / step), step * math.ceil(most / step)
    across = Axis(min(sizes) / 1.5, max(sizes) * 2, 40, width - 8, logarithmic=True)
    return across, Axis(low, max(high, low + step), 310, 36)


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
