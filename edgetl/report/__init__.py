"""One self-contained HTML page from a model card: `html.page` writes it, `charts` draws its pictures.

Here is what they draw from: everything known about each exported file in one record, in one sentence and in
table cells; numbers and small parts as HTML.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from edgetl.card import KERAS, Artifact, ModelCard
from edgetl.config import FASTEST_FIRST, Precision
from edgetl.results import Parity, Scores, Timing
from edgetl.statistics import Interval, Verdict, wilson_interval

SYMBOLS = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.UNDECIDED: "?"}
WORDS = {Verdict.PASS: "proven", Verdict.FAIL: "fails", Verdict.UNDECIDED: "undecided"}

HARDLY_LARGER = 1.05


@dataclass(frozen=True)
class Measured:
    """Everything the card knows about one artifact; None: not measured."""

    artifact: Artifact
    accuracy: float | None  # 0..1
    interval: Interval | None  # 95 %, of the accuracy
    parity: Parity | None
    timing: Timing | None

    @property
    def name(self) -> str:
        """The artifact's name."""
        return self.artifact.name

    @property
    def verdict(self) -> Verdict | None:
        """The parity verdict, if there is one."""
        return self.parity.verdict if self.parity else None


def measured(card: ModelCard) -> list[Measured]:
    """One record per artifact, in the card's order; parity of an earlier file of that name does not count."""
    rows = []
    for artifact in card.artifacts:
        parity = _of_this_file(card.parity.get(artifact.name), artifact)
        accuracy, interval = _accuracy(card, artifact.name, parity)
        rows.append(Measured(artifact, accuracy, interval, parity, card.timing.get(artifact.name)))
    return rows


def judged(card: ModelCard) -> list[Measured]:
    """The same with the parity that counts: against the larger network where the model comes from one."""
    rows = measured(card)
    if card.compression is None:
        return rows
    known = {parity.artifact: parity for parity in card.compression.parity}
    return [replace(row, parity=_of_this_file(known.get(row.name), row.artifact)) for row in rows]


def _of_this_file(parity: Parity | None, artifact: Artifact) -> Parity | None:
    return parity if parity and parity.artifact_sha256 == artifact.sha256 else None


def _accuracy(card: ModelCard, name: str, parity: Parity | None) -> tuple[float | None, Interval | None]:
    """As scored; else the full-precision count less the paired losses, exact as the images are the same."""
    scores, reference = card.scores.get(name), card.scores.get(KERAS)
    if scores and is_known(scores):
        return scores.accuracy, Interval(scores.accuracy_low, scores.accuracy_high)
    if not (parity and reference and is_known(reference)) or not 0 < parity.images == reference.images:
        return None, None
    right = round(reference.accuracy * reference.images) - parity.harmful + parity.helpful
    right = min(max(right, 0), parity.images)
    return right / parity.images, wilson_interval(right, parity.images)


def is_known(scores: Scores) -> bool:
    """Whether accuracy and interval are numbers."""
    return all(math.isfinite(v) for v in (scores.accuracy, scores.accuracy_low, scores.accuracy_high))


def percent(share: float) -> str:
    """A share 0..1 in percent; "n/a" where there is no number."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else "n/a"


def megabytes(size_bytes: int) -> str:
    """10^6 bytes, as disks and shops count."""
    return f"{size_bytes / 1e6:.{1 if size_bytes >= 1e6 else 2}f} MB"


def best_proven(rows: Sequence[Measured]) -> Measured | None:
    """The smallest file at parity; of files that are hardly larger, the one of the fastest precision."""
    proven = [row for row in rows if row.verdict is Verdict.PASS]
    limit = HARDLY_LARGER * min((row.artifact.size_bytes for row in proven), default=0)
    small = [row for row in proven if row.artifact.size_bytes <= limit]
    return min(small, key=lambda row: (FASTEST_FIRST.index(row.artifact.precision), row.name), default=None)


def points_lost(parity: Parity) -> float:
    """The bound of the drop, rounded up to 0.1 so that the rounded number is a bound too; never below 0."""
    upper = parity.drop_upper_points
    return math.ceil(max(upper, 0.0) * 10 - 1e-6) / 10 if math.isfinite(upper) else 100.0


def headline(card: ModelCard) -> str:
    """The whole card in one plain sentence; drops are against the larger network where there is one."""
    rows = judged(card)
    best = best_proven(rows)
    if best and best.parity:
        return f"{'; '.join([_proven(card, best, best.parity), *_not_proven(card, rows)])}."
    if any(row.verdict for row in rows):
        told = f"to be as good as {card.compression.parent}" if card.compression else "at parity"
        return f"No exported file is proven {told}: {'; '.join(_not_proven(card, rows))}."
    state = f"the exported files are {_unjudged(card)} yet" if rows else "nothing is exported yet"
    scores = card.scores.get(KERAS)
    if scores is None or not is_known(scores):
        return f"{f'Made from {card.compression.parent}' if card.compression else 'Trained'}; {state}."
    where = f"on {scores.images:,} images{_before(card)}"
    return f"Full precision: accuracy {interval_text(scores)} {where}; {state}."


def _before(card: ModelCard) -> str:
    """The accuracy of the larger network, if there is one."""
    known = card.compression
    if known is None or not math.isfinite(known.parent_accuracy):
        return ""
    return f", {known.parent} had {percent(known.parent_accuracy)}"


def _unjudged(card: ModelCard) -> str:
    return f"not compared with {card.compression.parent}" if card.compression else "not verified"


def interval_text(scores: Scores | Measured) -> str:
    """An accuracy with its 95 % interval, as "82.5 % (79.1-85.6)"; "n/a" where there is none."""
    low, high = _bounds(scores)
    if scores.accuracy is None or not math.isfinite(scores.accuracy):
        return "n/a"
    return f"{percent(scores.accuracy)} ({100 * low:.1f}-{100 * high:.1f})"


def _bounds(scores: Scores | Measured) -> tuple[float, float]:
    if isinstance(scores, Scores):
        return scores.accuracy_low, scores.accuracy_high
    return (scores.interval.low, scores.interval.high) if scores.interval else (math.nan, math.nan)


def _proven(card: ModelCard, best: Measured, parity: Parity) -> str:
    artifact = best.artifact
    whole = next((a for a in card.artifacts if a.name == f"{artifact.format}-{Precision.FP32}"), artifact)
    alone = whole is artifact or card.compression is not None  # the size of the larger network is not known
    sizes = [megabytes(a.size_bytes) for a in (whole, artifact)][alone:]
    accuracy = f"accuracy {interval_text(best)}, " if best.accuracy is not None else ""
    against = f" against {card.compression.parent}" if card.compression else ""
    loss = f"at most {points_lost(parity):.1f} points lost{against}: proven"
    return f"{artifact.name}: {' → '.join(sizes)}, {accuracy}{loss}"


def _not_proven(card: ModelCard, rows: Sequence[Measured]) -> list[str]:
    parts = []
    words = ((Verdict.FAIL, "fails"), (Verdict.UNDECIDED, "undecided"), (None, _unjudged(card)))
    for verdict, word in words:
        names = [row.name for row in rows if row.verdict is verdict]
        if names:
            parts.append(f"{word}: {', '.join(names)}")
    return parts


def number(value: float, digits: int, unit: str = "") -> str:
    """A number with its unit; "n/a" where there is none."""
    return f"{value:,.{digits}f}{unit}" if math.isfinite(value) else "n/a"


def two(first: str, second: str) -> str:
    """HTML with a small line of text below."""
    return first + (f"<small>{escape(second)}</small>" if second else "")


def meter(share: float) -> str:
    """A small bar that is filled by a share 0..1."""
    width = min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    return f'<span class="meter"><i style="width:{100 * width:.0f}%"></i></span>'


def facts(*facts: tuple[str, str]) -> str:
    """Names and texts side by side."""
    return "<dl>" + "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in facts) + "</dl>"


def hint(text: str, command: str = "") -> str:
    """What is missing, and the command that brings it."""
    return f'<p class="hint">{escape(text)}' + (f" <code>{escape(command)}</code></p>" if command else "</p>")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of HTML cells; on phones "stack" turns rows into cards that repeat the column names."""
    head = "".join(f"<th>{name}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f'<td data-name="{n}">{c}</td>' for n, c in zip(columns, row, strict=True)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll {kind}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def file_cells(row: Measured, *, verified: bool, timed: bool) -> list[str]:
    """One line of the table of exported files; whether it has columns for parity and for speed."""
    artifact = row.artifact
    spread = f"{100 * row.interval.low:.1f}-{100 * row.interval.high:.1f}" if row.interval else ""
    names = (
        f"<small>{escape(artifact.file)}</small><small><code>{escape(artifact.sha256[:12])}</code></small>"
    )
    accuracy = two(percent(row.accuracy), spread) if row.accuracy is not None else two("", "not scored")
    return [
        f"<b>{escape(artifact.name)}</b>{names}",
        *[_verdict(row)] * verified,
        _size(artifact),
        accuracy,
        *(_parity_cells(row) if verified else ()),
        *(_timing_cells(row) if timed else ()),
    ]


def _size(artifact: Artifact) -> str:
    stored = megabytes(artifact.size_bytes)
    return (
        stored if artifact.packed is None else two(stored, f"{megabytes(artifact.unpacked_bytes)} unpacked")
    )


def _verdict(row: Measured) -> str:
    if row.parity is None:
        return two("", "not verified")
    verdict, more = row.parity.verdict, row.parity.more_images
    note = f"promised: below {row.parity.max_drop_points:g} pt"
    note += f"; about {more:,} more images would decide" if more else ""
    return two(f'<span class="badge {verdict}">{SYMBOLS[verdict]} {WORDS[verdict]}</span>', note)


def _parity_cells(row: Measured) -> list[str]:
    parity = row.parity
    if parity is None:
        return [two("", "n/a")] * 3
    noise = f"SQNR {number(parity.sqnr_db, 1, ' dB')}" if math.isfinite(parity.sqnr_db) else ""
    return [
        two(number(parity.drop_points, 2), f"≤ {number(parity.drop_upper_points, 2)}"),
        two(percent(parity.agreement), f"{parity.harmful} worse, {parity.helpful} better"),
        two(number(parity.max_difference, 4), "identical" if parity.max_difference == 0 else noise),
    ]


def _timing_cells(row: Measured) -> list[str]:
    timing = row.timing
    if timing is None:
        return [two("", "n/a")] * 3
    return [
        two(number(timing.latency_p50_ms, 1, " ms"), f"p95 {number(timing.latency_p95_ms, 1, ' ms')}"),
        two(number(timing.images_per_second, 0), f"batch {timing.best_batch}"),
        number(timing.peak_memory_mib, 0, " MiB"),
    ]
