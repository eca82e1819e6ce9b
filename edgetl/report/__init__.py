"""One self-contained HTML page from a model card: `html.page` writes it, `charts` draws its pictures.

Here is what they draw from: everything known about each exported file in one record, in one sentence and in
table cells; numbers and small parts as HTML; the style sheet.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
        parity = card.parity.get(artifact.name)
        if parity and parity.artifact_sha256 != artifact.sha256:
            parity = None
        accuracy, interval = _accuracy(card, artifact.name, parity)
        rows.append(Measured(artifact, accuracy, interval, parity, card.timing.get(artifact.name)))
    return rows


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
    """The whole card in one plain sentence."""
    rows = measured(card)
    best = best_proven(rows)
    if best and best.parity:
        return f"{'; '.join([_proven(card, best, best.parity), *_not_proven(rows)])}."
    if any(row.verdict for row in rows):
        return f"No exported file is proven at parity: {'; '.join(_not_proven(rows))}."
    state = "nothing is exported yet" if not rows else "the exported files are not verified yet"
    scores = card.scores.get(KERAS)
    if scores is None or not is_known(scores):
        return f"Trained; {state}."
    return f"Full precision: accuracy {interval_text(scores)} on {scores.images:,} images; {state}."


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
    sizes = [megabytes(a.size_bytes) for a in (whole, artifact)][whole is artifact :]
    accuracy = f"accuracy {interval_text(best)}, " if best.accuracy is not None else ""
    loss = f"at most {points_lost(parity):.1f} points lost: proven"
    return f"{artifact.name}: {' → '.join(sizes)}, {accuracy}{loss}"


def _not_proven(rows: Sequence[Measured]) -> list[str]:
    parts = []
    for verdict, word in ((Verdict.FAIL, "fails"), (Verdict.UNDECIDED, "undecided"), (None, "not verified")):
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


# Wide screens, phones (760 pixels) and paper; dark only on screens, so that prints are never dark.
STYLE = """
:root{color-scheme:light dark;--paper:#fbfbf9;--card:#fff;--ink:#1d2126;--soft:#5b636d;--line:#e2e4e1;
--wash:#f1f2ee;--blue:#2a5c9a;--orange:#b9541a;--good:#18764a;--bad:#b3261e;--unsure:#8a5d00}
@media screen and (prefers-color-scheme:dark){:root{--paper:#14171a;--card:#1b1f24;--ink:#e7e9ea;
--soft:#9ea7b0;--line:#2f353c;--wash:#22272d;--blue:#7fb0ee;--orange:#f0a26c;--good:#62cf98;--bad:#ff8b81;
--unsure:#e5b94a}}*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
overflow-wrap:break-word}main{max-width:1040px;margin:0 auto;padding:44px 24px 28px}h1{font-size:30px;
line-height:1.2;margin:0 0 14px;letter-spacing:-.015em}h2{font-size:20px;margin:52px 0 12px;padding-top:14px;
border-top:1px solid var(--line);break-after:avoid}h3{font-size:15px;margin:28px 0 8px;break-after:avoid}
p{margin:8px 0;max-width:72ch}.kind{color:var(--soft);font-size:14px;margin:0 0 6px}.lead{font-size:18px;
line-height:1.5;border-left:4px solid var(--blue);padding:2px 0 2px 16px;max-width:66ch}
.lead.pass{border-color:var(--good)}.lead.fail{border-color:var(--bad)}
.lead.undecided{border-color:var(--unsure)}.tiles{display:grid;grid-template-columns:repeat(auto-fit,
minmax(150px,1fr));gap:12px;margin:22px 0}.tile,.shot{background:var(--card);border:1px solid var(--line);
border-radius:8px;padding:12px 14px;break-inside:avoid}.tile b{display:block;font-size:22px;line-height:1.3;
font-weight:600;font-variant-numeric:tabular-nums}.tile,small,figcaption{color:var(--soft);font-size:13px}
.tile b{color:var(--ink)}small{display:block;line-height:1.4}dl{display:grid;
grid-template-columns:minmax(120px,max-content) 1fr;gap:6px 22px;margin:12px 0}dt{color:var(--soft)}
dd{margin:0;min-width:0}.scroll{overflow-x:auto;margin:12px 0}table{border-collapse:collapse;width:100%;
font-size:14px;font-variant-numeric:tabular-nums}th{font-weight:500;color:var(--soft);font-size:13px;
vertical-align:bottom}th,td{text-align:right;padding:7px 0 7px 13px;border-bottom:1px solid var(--line);
vertical-align:top}th:first-child,td:first-child{text-align:left;padding-left:0}tr{break-inside:avoid}
td{white-space:nowrap}td:first-child,.words td:nth-child(2){white-space:normal;overflow-wrap:anywhere;
min-width:14ch;max-width:26ch}.compact{max-width:720px}.shot dl{grid-template-columns:max-content 1fr;
gap:0 10px;margin:6px 0 0}.words td:nth-child(2),.words th:nth-child(2){text-align:left}
.meter{display:inline-block;width:72px;height:7px;border-radius:2px;background:var(--wash);margin-right:8px}
.meter i{display:block;height:100%;border-radius:2px;background:var(--blue)}.badge{font-weight:600;
white-space:nowrap}.pass .badge,.badge.pass{color:var(--good)}.badge.fail{color:var(--bad)}
.badge.undecided{color:var(--unsure)}.right{color:var(--good)}.wrong{color:var(--bad)}code,
pre{font:13px/1.55 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{background:var(--wash);border-radius:8px;padding:12px 14px;overflow-x:auto;margin:10px 0}
.hint{background:var(--wash);border-radius:8px;padding:10px 14px;color:var(--soft)}
.hint code{color:var(--ink)}figure{margin:14px 0;break-inside:avoid}.pair{display:grid;
grid-template-columns:1fr 1fr;gap:12px 28px}svg{display:block;overflow:visible}svg.chart{width:100%;
height:auto}svg.bars{width:100%;max-width:140px;height:auto}svg text{font-size:11.5px;fill:var(--ink);
font-variant-numeric:tabular-nums}svg .muted{fill:var(--soft)}svg .strong{font-weight:600}
svg .inverse{fill:var(--paper)}svg text.good{fill:var(--good)}svg .halo{paint-order:stroke;
stroke:var(--paper);stroke-width:3px;stroke-linejoin:round}svg path{fill:none;stroke-width:1.5;
stroke-linejoin:round}svg .grid{stroke:var(--line);stroke-width:1}svg .train{stroke:var(--blue);
stroke-dasharray:5 3}svg .tuning{stroke:var(--orange);stroke-width:2}svg .dot-train,svg .bar{fill:var(--blue)}
svg .dot-tuning{fill:var(--orange)}svg .edge,svg .full{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 4}
svg .full{stroke-dasharray:5 4}svg .kept{stroke:var(--good);stroke-width:1}svg .ring{fill:var(--paper);
stroke:var(--good);stroke-width:2.5}svg .none{fill:var(--wash);fill-opacity:.6}svg .right{fill:var(--blue)}
svg .wrong{fill:var(--orange)}svg .interval,svg .leader{stroke:var(--soft);stroke-width:1}
svg .leader{stroke-width:.6}svg .point{stroke:var(--paper);stroke-width:1.5;fill:var(--blue)}
svg .candidate{fill:var(--paper);stroke:var(--blue);stroke-width:1.5}svg .both{fill:var(--blue)}
svg .around{fill:none;stroke:var(--good);stroke-width:2}svg .pass{fill:var(--good)}svg .fail{fill:var(--bad)}
svg .undecided{fill:var(--unsure)}.narrow{display:none}.shots{display:grid;
grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:12px}.shot{display:flex;
gap:12px;font-size:13px;line-height:1.45}.shot>div{min-width:0}.shot img,.shot .blank{flex:none;width:84px;
height:84px;object-fit:contain;border-radius:4px;background:var(--wash)}
.shot dl{grid-template-columns:max-content 1fr;gap:0 10px;margin:6px 0 0}summary{cursor:pointer;
color:var(--soft);font-size:14px;margin:10px 0}footer{margin-top:52px;padding-top:14px;
border-top:1px solid var(--line);color:var(--soft);font-size:13px}
@media(max-width:760px){main{padding:26px 16px}h1{font-size:25px}.lead{font-size:17px}
.pair{grid-template-columns:1fr}dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:8px}.wide{display:none}
.narrow{display:block}.stack thead{display:none}.stack table,.stack tbody{display:block}
.stack tr{display:grid;grid-template-columns:1fr 1fr 1fr;gap:8px 16px;border-bottom:1px solid var(--line);
padding:14px 0}.stack td{border:0;padding:0;text-align:left!important}.stack td:first-child{grid-column:1/-1;
max-width:none}.stack td:not(:first-child)::before{content:attr(data-name);display:block;color:var(--soft);
font-size:12px}th,td{padding-left:12px}.shot dl{grid-template-columns:max-content 1fr;gap:0 10px;
margin:6px 0 0}.shot dd{margin:0}.meter{display:none}td:first-child,.words td:nth-child(2){min-width:9ch}
.pair svg,.narrow svg{max-width:480px}.narrow ol{font-size:14px;color:var(--soft)}}
@media print{body{font-size:10.5pt;background:#fff}main{padding:0;max-width:none}.scroll{overflow:visible}
.pair{grid-template-columns:1fr 1fr}.narrow{display:none}.wide{display:block}pre{white-space:pre-wrap}
svg{max-width:100%;height:auto}}
"""
