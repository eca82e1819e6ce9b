"""Accuracy on tuning images against what a network costs, of every smaller network that was trained."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from edgetl.report import percent
from edgetl.report.drawing import (
    Axis,
    Box,
    cost_ticks,
    label_near,
    level_lines,
    picture,
    round_step,
    text_at,
)
from edgetl.results import Attempt
from edgetl.statistics import Interval, wilson_interval

PARENT = "before"  # what the larger network is called in pictures
_RADIUS = 4.5
_WIDE_RANGE = 4.0  # times the least: more, and the axis is logarithmic


@dataclass(frozen=True)
class Point:
    """One network in the picture; shares are 0..1."""

    name: str
    cost: float
    accuracy: float
    interval: Interval  # 95 %, of the accuracy
    kind: str  # classes of the style sheet
    chosen: bool = False
    parent: bool = False


def interval_of(share: float, images: int) -> Interval | None:
    """The 95 % Wilson interval of a share 0..1 of so many images; None where there is no such share."""
    if images < 1 or not 0 <= share <= 1:
        return None
    return wilson_interval(round(share * images), images)


def parent_accuracy(attempts: Sequence[Attempt]) -> tuple[float, Interval] | None:
    """Of the larger network on the tuning images: exact, as flips are counted against it."""
    for one in attempts:
        if one.images > 0 and 0 <= one.tuning_accuracy <= 1:
            right = round(one.tuning_accuracy * one.images) + one.harmful - one.helpful
            if 0 <= right <= one.images:
                return right / one.images, wilson_interval(right, one.images)
    return None


def points(attempts: Sequence[Attempt], costs: Sequence[float], parent_cost: float) -> list[Point]:
    """What can be drawn: attempts by their number, then the larger network where its cost is known."""
    found = []
    for number, (one, cost) in enumerate(zip(attempts, costs, strict=True), 1):
        interval = interval_of(one.tuning_accuracy, one.images)
        if interval and math.isfinite(cost) and cost > 0:
            kind = "candidate" if one.misses else "candidate both"
            name = f"{number}, chosen" if one.chosen else str(number)
            found.append(Point(name, cost, one.tuning_accuracy, interval, kind, one.chosen))
    known = parent_accuracy(attempts)
    if known and found and math.isfinite(parent_cost) and parent_cost > 0:
        found.append(Point(PARENT, parent_cost, *known, "parent", parent=True))
    return found


def plot(known: Sequence[Point], parent: float, cost: str) -> str:
    """Accuracy with intervals against a cost (its name and unit); "" without points.

    `parent`: the accuracy of the larger network, a line where it is known.
    """
    if not known:
        return ""
    across, up = _axes(known, parent)
    drawn = [text_at(4, 16, "Accuracy on tuning images (%)", "strong"), *level_lines(up, across)]
    drawn += cost_ticks(across, up, f"{cost}, log scale" if across.logarithmic else cost)
    places = [(across.at(one.cost), up.at(100 * one.accuracy)) for one in known]
    reach = _RADIUS + 3
    taken: list[Box] = [(x - reach, y - reach, x + reach, y + reach) for x, y in places]
    if math.isfinite(parent):
        y = up.at(100 * parent)
        drawn.append(f'<path class="full" d="M{across.start:.1f} {y:.1f}H{across.end:.1f}"/>')
        drawn.append(text_at(across.end, 16, f"- - - {PARENT}", "muted", "end"))
        taken.append((across.start, y - 2, across.end, y + 2))
    for one, (x, _) in zip(known, places, strict=True):
        low, high = up.at(100 * one.interval.low), up.at(100 * one.interval.high)
        caps = f"M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"
        drawn.append(f'<path class="interval" d="M{x:.1f} {low:.1f}V{high:.1f}{caps}"/>')
        taken.append((x - 4, high, x + 4, low))
    drawn += [_mark(one, x, y) for one, (x, y) in zip(known, places, strict=True)]
    for one, (x, y) in zip(known, places, strict=True):
        kind = "halo good" if one.chosen else "halo"
        drawn.append(label_near(one.name, (x, y, _RADIUS + 3.5), taken, (across, up), kind))
    return picture(440, 300, f"accuracy on tuning images against {cost} of every network tried", drawn)


def _mark(one: Point, x: float, y: float) -> str:
    title = f"<title>{escape(f'{one.name}: {percent(one.accuracy)}, {one.cost:.3g}')}</title>"
    if one.parent:
        side = 1.8 * _RADIUS
        corner = f'x="{x - side / 2:.1f}" y="{y - side / 2:.1f}"'
        return f'<rect class="{one.kind}" {corner} width="{side:.1f}" height="{side:.1f}">{title}</rect>'
    ring = f'<circle class="around" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS + 3.5}"/>' if one.chosen else ""
    return f'<circle class="{one.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}">{title}</circle>{ring}'


def _axes(known: Sequence[Point], parent: float) -> tuple[Axis, Axis]:
    costs = [one.cost for one in known]
    least, most = min(costs), max(costs)
    if most > _WIDE_RANGE * least:
        across = Axis(least / 1.4, 1.4 * most, 48, 432, logarithmic=True)
    else:
        margin = 0.15 * (most - least) or 0.2 * most
        across = Axis(least - margin, most + margin, 48, 432)
    shares = [share for one in known for share in (one.interval.low, one.interval.high)]
    shares += [parent] if math.isfinite(parent) else []
    low, high = 100 * min(shares), 100 * max(shares)
    step = round_step(max(high - low, 0.1) / 5)
    low, high = step * math.floor(low / step), step * math.ceil(high / step)
    return across, Axis(low, max(high, low + step), 246, 46)
