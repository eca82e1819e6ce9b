"""What all pictures of the report are made of: axes, texts, labels that find room, the SVG around them.

Lengths are pixels of the picture's own box; colours come from the page's style sheet; text is escaped here.
Equal input gives equal text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LETTER_WIDTH = 6.9  # pixels, of the widest common interface font at 11.5 pixels
_TEXT_HEIGHT = 13.0
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


def level_lines(up: Axis, across: Axis) -> list[str]:
    """A thin line and a number at every tick of the upward axis."""
    drawn = []
    for tick in up.ticks():
        y = up.at(tick)
        drawn.append(f'<path class="grid" d="M{across.start:.1f} {y:.1f}H{across.end:.1f}"/>')
        drawn.append(text_at(across.start - 6, y + 4, f"{round(tick, 9):g}", "muted", "end"))
    return drawn


def cost_ticks(across: Axis, up: Axis, name: str) -> list[str]:
    """Ticks of the axis below with numbers where they have room, and what it shows."""
    drawn, last_x = [], -math.inf
    for tick in across.ticks():
        x = across.at(tick)
        drawn.append(f'<path class="grid" d="M{x:.1f} {up.start:.1f}v4"/>')
        if x - last_x > 30:
            drawn.append(text_at(x, up.start + 18, f"{round(tick, 9):g}", "muted", "middle"))
            last_x = x
    middle = (across.start + across.end) / 2
    return [*drawn, text_at(middle, up.start + 38, name, "muted", "middle")]


def shortened(name: str, most_letters: int = 18) -> str:
    """A name that fits, with a mark where something was left out."""
    return name if len(name) <= most_letters else name[: most_letters - 1] + "…"


def label_near(
    text: str,
    place: tuple[float, float, float],
    taken: list[Box],
    axes: tuple[Axis, Axis],
    kind: str = "halo",
) -> str:
    """The name as near to its point as there is room, with a thin line to it; `taken` grows by its box."""
    x, y, radius = place
    across, up = axes
    choices = [
        (left, top, left + len(text) * LETTER_WIDTH, top + _TEXT_HEIGHT)
        for aside in range(0, 120, 12)
        for left in (x + radius + 6 + aside, x - radius - 6 - aside - len(text) * LETTER_WIDTH)
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
    return leader + text_at(box[0], box[3] - 3, text, kind)


def _inside(box: Box, frame: Box) -> bool:
    return frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _overlap(one: Box, two: Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def text_at(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """One line of text; `kind`: classes of the style sheet; `anchor`: start, middle or end of it is at x."""
    extra = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor != "start" else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{extra}>{escape(content)}</text>'


def picture(width: float, height: float, label: str, drawn: Sequence[str], kind: str = "") -> str:
    """The whole of an SVG; `label` is read out where it cannot be seen."""
    box = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    named = f'role="img" aria-label="{escape(label)}"'
    return f'<svg class="{kind or "chart"}" {box} {named}>{"".join(drawn)}</svg>'
