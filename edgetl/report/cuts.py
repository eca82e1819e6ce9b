"""Where the trunk was cut: every candidate in a picture and in a table."""

import math
from collections.abc import Sequence
from html import escape

from edgetl.card import CutScore, ModelCard
from edgetl.config import Head
from edgetl.report import number, percent, table, two
from edgetl.report.drawing import Axis, Box, cost_ticks, label_near, level_lines, picture, round_step, text_at
from edgetl.report.words import cut_in_words, head_in_words, seen_in_words

_RADIUS = 4.5
_SPACING = 12.0  # pixels between candidates that cost the same


def choice(card: ModelCard) -> str:
    """The heading, a picture and a table as HTML; nothing where there was nothing to choose."""
    cuts = card.training.cuts
    if len(cuts) < 2:
        return ""
    images = card.data.roles["tuning"].images if "tuning" in card.data.roles else 0
    among = f"the {images:,} tuning images" if images else "the tuning images"
    chosen = next((f": {cut_in_words(score)}" for score in cuts if score.chosen), "")
    return (
        f'<h3>Where the trunk was cut</h3><div class="pair"><figure>{plot(cuts)}</figure><div>'
        f"<p>A linear head was fitted on what each of {len(cuts)} candidates gives, and all were compared on "
        f"{among}. Chosen is the smallest loss, or the best of a lower cut if it is within "
        f"one standard error of that{escape(chosen)}.</p><p>Circles: averages over the map; triangles: "
        "maxima; squares: averages over its quarters. Filled: the head sees two blocks. Candidates that cost "
        "the same are "
        f"drawn side by side.</p></div></div>{_list(cuts)}"
    )


def _list(cuts: Sequence[CutScore]) -> str:
    """A line for each set of blocks, a column for each way to look at them."""
    heads = list(dict.fromkeys(score.head for score in cuts))
    lines = []
    for scales in dict.fromkeys(score.scales for score in cuts):
        found = {score.head: score for score in cuts if score.scales == scales}
        one = next(iter(found.values()))
        cells = [_cell(found[head]) if head in found else "n/a" for head in heads]
        lines.append(
            [escape(one.cut), escape(" and ".join(scales)), number(one.giga_macs, 2, " · 10⁹"), *cells]
        )
    names = [head_in_words(head).capitalize() for head in heads]
    return (
        "<p>Tuning loss, and below it accuracy and how many features the head sees:</p>"
        f"{table(('Cut after', 'Head sees', 'Multiply-adds', *names), lines, 'words')}"
    )


def _cell(score: CutScore) -> str:
    loss = number(score.tuning_loss, 3)
    if score.chosen:
        loss = f'<span class="badge pass">✓ {loss}</span>'
    return two(loss, f"{percent(score.tuning_accuracy)}, {score.features:,}")


def plot(cuts: Sequence[CutScore]) -> str:
    """Tuning loss against multiply-adds; those without a finite loss are left out."""
    known = [score for score in cuts if math.isfinite(score.tuning_loss) and score.giga_macs > 0]
    if not known:
        return ""
    across, up = _axes(known)
    drawn = [
        text_at(4, 16, "Tuning loss (nats)", "strong"),
        *level_lines(up, across),
        *_costs(known, across, up),
    ]
    places = [
        (across.at(score.giga_macs) + _aside(score, known), up.at(score.tuning_loss)) for score in known
    ]
    reach = _RADIUS + 3
    taken: list[Box] = [(x - reach, y - reach, x + reach, y + reach) for x, y in places]
    for score, (x, y) in zip(known, places, strict=True):
        drawn.append(_mark(score, x, y))
    for score, (x, y) in zip(known, places, strict=True):
        if score.chosen:
            drawn.append(f'<circle class="around" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS + 3.5}"/>')
            drawn.append(label_near("chosen", (x, y, _RADIUS + 3.5), taken, (across, up), "halo good"))
    return picture(440, 300, "tuning loss against multiply-adds of every place to cut the trunk", drawn)


def _axes(known: Sequence[CutScore]) -> tuple[Axis, Axis]:
    costs, losses = [score.giga_macs for score in known], [score.tuning_loss for score in known]
    margin = 0.12 * (max(costs) - min(costs)) or 0.2 * max(costs)
    step = round_step(max(max(losses) - min(losses), 0.01) / 5)
    low, high = step * math.floor(min(losses) / step), step * math.ceil(max(losses) / step)
    return (
        Axis(min(costs) - margin, max(costs) + margin, 44, 432),
        Axis(low, max(high, low + step), 246, 52),
    )


def _costs(known: Sequence[CutScore], across: Axis, up: Axis) -> list[str]:
    """A line for each cut with its name above, and ticks."""
    drawn = []
    for cut, cost in sorted({(score.cut, score.giga_macs) for score in known}):
        x = across.at(cost)
        drawn.append(f'<path class="edge" d="M{x:.1f} {up.start:.1f}V{up.end:.1f}"/>')
        drawn.append(text_at(x, up.end - 8, cut, "muted", "middle"))
    return [*drawn, *cost_ticks(across, up, "Multiply-adds of one image (10⁹)")]


def _aside(score: CutScore, known: Sequence[CutScore]) -> float:
    """Pixels to move a candidate beside those that cost the same."""
    equal = [other for other in known if other.giga_macs == score.giga_macs]
    return _SPACING * (equal.index(score) - (len(equal) - 1) / 2)


def _mark(score: CutScore, x: float, y: float) -> str:
    kind = "candidate both" if len(score.scales) > 1 else "candidate"
    told = f"cut after {score.cut}, {seen_in_words(score)}: {number(score.tuning_loss, 3)}"
    title = f"<title>{escape(told)}</title>"
    if score.head is Head.GRID:
        side = 1.8 * _RADIUS
        corner = f'x="{x - side / 2:.1f}" y="{y - side / 2:.1f}"'
        return f'<rect class="{kind}" {corner} width="{side:.1f}" height="{side:.1f}">{title}</rect>'
    if score.head is Head.MAX:
        corners = f"{x:.1f},{y - 5.2:.1f} {x + 5:.1f},{y + 3.8:.1f} {x - 5:.1f},{y + 3.8:.1f}"
        return f'<polygon class="{kind}" points="{corners}">{title}</polygon>'
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}">{title}</circle>'
