"""The report page: one HTML file without scripts or network, in the order a reader asks."""

import base64
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import assert_never

from edgetl.card import KERAS, Artifact, ModelCard
from edgetl.config import Format, Packing, Precision
from edgetl.report import (
    Measured,
    best_proven,
    charts,
    cuts,
    facts,
    file_cells,
    headline,
    hint,
    interval_text,
    is_known,
    judged,
    measured,
    megabytes,
    meter,
    number,
    percent,
    points_lost,
    table,
    two,
)
from edgetl.report.compression import compressed, saving, times_in_words
from edgetl.report.search import searched
from edgetl.report.style import STYLE
from edgetl.report.words import cut_in_words, kept_in_words, learnt_in_words, role_in_words
from edgetl.results import Disagreement, Scores

MOST_ROWS = 40  # longer lists are folded
MOST_SHOTS = 36
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # nothing is fetched, no script runs


def page(card: ModelCard, thumbnails: Mapping[str, bytes] | None) -> str:
    """The whole page. `thumbnails`: JPEG files by image path; None: the data folder is not at hand."""
    rows, scores = measured(card), card.scores.get(KERAS)
    scores = scores if scores and is_known(scores) else None
    sections = (
        ("What it is", _identity(card)),
        ("What compression left", compressed(card)),
        ("Data", _data(card)),
        ("Training", _training(card)),
        ("Accuracy", _accuracy(card, scores)),
        ("Exported files", _artifacts(card, rows) + searched(card)),
        ("Size, accuracy and speed", _plot(card, rows, scores)),
        ("Where they disagree", _gallery(card, rows, thumbnails)),
        ("Run it", _usage(card, judged(card))),
    )
    body = "\n".join(
        f"<section><h2>{title}</h2>{content}</section>" for title, content in sections if content
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(card.name)} - model report</title><style>{STYLE}</style></head>\n"
        f"<body><main>{_opening(card, judged(card), scores)}\n{body}\n{_footer(card, rows)}"
        "</main></body></html>\n"
    )


def _opening(card: ModelCard, rows: Sequence[Measured], scores: Scores | None) -> str:
    best, known = best_proven(rows), card.compression
    tiles = [(f"{len(card.labels):,}", "classes")]
    if scores:
        tiles.append((percent(scores.accuracy), f"accuracy at full precision, {scores.images:,} images"))
    if best and best.parity:
        tiles.append((megabytes(best.artifact.size_bytes), f"{best.name}, the best proven file"))
        against = f" against {known.parent}" if known else ""
        lost = f"points of accuracy lost{against}, 95 % bound"
        tiles.append((f"≤ {points_lost(best.parity):.1f}", lost))
        if best.timing and math.isfinite(best.timing.latency_p50_ms):
            tiles.append((number(best.timing.latency_p50_ms, 1, " ms"), "for one image, median"))
    if known and saving(card) >= 1.05:
        tiles.append((times_in_words(saving(card)), f"fewer multiply-adds than {known.parent}"))
    drawn = "".join(f'<div class="tile"><b>{escape(a)}</b>{escape(b)}</div>' for a, b in tiles)
    verdicts = {row.verdict for row in rows if row.verdict}
    kind = "pass" if best else str(verdicts.pop()) if len(verdicts) == 1 else "undecided" if verdicts else ""
    return (
        f'<p class="kind">Model report</p><h1>{escape(card.name)}</h1>'
        f'<p class="lead {kind}">{escape(headline(card))}</p><div class="tiles">{drawn}</div>'
    )


def _identity(card: ModelCard) -> str:
    spec, network, origin = card.input, card.network, card.weights
    more = len(card.labels) - MOST_ROWS
    mean = ", ".join(f"{value:g}" for value in spec.mean_rgb)
    scale = f" * {spec.scale:g}" if spec.scale != 1 else ""
    hidden = f", {network.hidden_units} hidden units" if network.hidden_units else ""
    widths = f"; channels {'-'.join(map(str, network.widths))}" if network.widths else ""
    known = card.compression
    parents = (
        [("Compressed from", f"{known.parent}, SHA-256 {known.parent_keras_sha256[:12]}")] if known else []
    )
    return facts(
        ("Labels", ", ".join(card.labels[:MOST_ROWS]) + (f" and {more:,} more" if more > 0 else "")),
        (
            "Input",
            f"uint8 RGB, 0 to 255, [N, {spec.height}, {spec.width}, 3]; resized, not cropped",
        ),
        ("Inside the graph", f"(x - [{mean}]){scale}, then the network, then softmax"),
        ("Output", f"float32 probabilities [N, {network.classes}]"),
        ("Transparency", f"composited on RGB {', '.join(str(value) for value in spec.background_rgb)}"),
        ("Network", f"VGG16 {cut_in_words(network)}{hidden}{widths}"),
        *parents,
        ("Trunk", f"{origin.name}: {origin.source}; SHA-256 {origin.sha256[:12]}"),
        ("Trunk licence", origin.licence),
    )


def _data(card: ModelCard) -> str:
    data = card.data
    lines = [
        [
            two(escape(name), role_in_words(name, compressed=card.compression is not None)),
            charts.bars(role.per_class, card.labels),
            f"{min(role.per_class, default=0):,} to {max(role.per_class, default=0):,}",
            f"{role.images:,}",
            f"<code>{escape(role.fingerprint[:12])}</code>",
        ]
        for name, role in data.roles.items()
    ]
    roles = table(("Role", "Images per class", "Range", "Images", "Fingerprint"), lines, "stack words")
    columns = zip(card.labels, *(role.per_class for role in data.roles.values()), strict=False)
    counts = [[escape(label), *(f"{count:,}" for count in line)] for label, *line in columns]
    details = table(("Class", *(escape(name) for name in data.roles)), counts, "compact")
    leaking = f"copies or near copies of images in other roles: {data.leaking:,}"
    return (
        f"<p>Layout: {escape(data.layout)}; seed {data.seed}. Unreadable images: {data.unreadable:,}. "
        f"Kept out of certification as {leaking}.</p>{roles}"
        f"<details><summary>Images of each class in numbers</summary>{details}</details>"
    )


def _training(card: ModelCard) -> str:
    training = card.training
    shown = {"None": "not set", "True": "yes", "False": "no"}
    settings = [[escape(k.replace("_", " ")), escape(shown.get(v, v))] for k, v in training.settings.items()]
    figures = "".join(f"<figure>{svg}</figure>" for svg in charts.curves(training))
    known = card.compression
    taught = f"<p>{escape(learnt_in_words(known))}</p>" if known else ""
    return (
        f"{taught}<p>Kept: {escape(kept_in_words(training))}. "
        f"Calibration temperature {number(training.temperature, 2)}, folded into the last layer. "
        f"{'Compressing' if known else 'Training'} took {number(training.minutes, 1)} minutes.</p>"
        f'<div class="pair">{figures or hint("No epoch was recorded.")}</div>{cuts.choice(card)}'
        f"<details><summary>All settings</summary>{table(('Setting', 'Value'), settings, 'compact')}"
        "</details>"
    )


def _accuracy(card: ModelCard, scores: Scores | None) -> str:
    if scores is None:
        return _missing(card, "The full-precision network is not scored yet.", "eval")
    ranked = sorted(zip(scores.per_class, card.labels, strict=False), key=lambda pair: (pair[0].f1, pair[1]))
    lines = [
        [escape(label), f"{c.images:,}", percent(c.precision), percent(c.recall), meter(c.f1) + percent(c.f1)]
        for c, label in ranked
    ]
    classes = table(("Class, weakest first", "Images", "Precision", "Recall", "F1"), lines, "compact")
    if len(lines) > MOST_ROWS:
        classes = f"<details><summary>All {len(lines):,} classes</summary>{classes}</details>"
    where = f"95 % interval, on {scores.images:,} {scores.source} images"
    figures = facts(
        ("Top-1 accuracy", f"{interval_text(scores)}, {where}"),
        ("Top-5 accuracy", percent(scores.top5_accuracy)),
        ("Balanced accuracy", f"{percent(scores.balanced_accuracy)}, the mean recall of all classes"),
        ("Calibration error", f"{percent(scores.calibration_error)} between confidence and accuracy"),
        ("Loss", number(scores.loss, 3, " nats")),
    )
    confusions = _confusions(card, scores)
    what = "smaller network in full precision" if card.compression else "full-precision network"
    return f"<p>Of the {what}.</p>{figures}<h3>Per class</h3>{classes}{confusions}"


def _confusions(card: ModelCard, scores: Scores) -> str:
    wrong = [
        (count, truth, answer)
        for truth, line in zip(card.labels, scores.confusion, strict=False)
        for answer, count in zip(card.labels, line, strict=False)
        if count and truth != answer
    ]
    wrong.sort(key=lambda item: (-item[0], item[1:]))
    if not wrong:
        return "<h3>Confusions</h3><p>No image is taken for another class.</p>"
    if len(card.labels) > charts.MOST_MATRIX_CLASSES:
        lines = [[escape(truth), escape(answer), f"{count:,}"] for count, truth, answer in wrong[:20]]
        pairs = table(("Truth", "Taken for", "Images"), lines, "words compact")
        return f"<h3>Most frequent confusions</h3>{pairs}"
    often = ", ".join(f"{escape(truth)} taken for {escape(answer)} ({n})" for n, truth, answer in wrong[:3])
    drawing = charts.confusion(scores.confusion, card.labels)
    return f'<h3>Confusions</h3><p>Most frequent: {often}.</p><figure class="scroll">{drawing}</figure>'


def _artifacts(card: ModelCard, rows: Sequence[Measured]) -> str:
    if not rows:
        return _missing(card, "Nothing is exported yet.", "export")
    verified, timed = any(row.parity for row in rows), any(row.timing for row in rows)
    columns = ["File", *["Parity"] * verified, "Size", "Accuracy"]
    columns += ("Drop, points", "Same answer", "max |Δp|") * verified
    columns += ("Latency", "Images/s", "Memory") * timed
    lines = [file_cells(row, verified=verified, timed=timed) for row in rows]
    drawn = _which_parity(card) if verified else ""
    drawn += table(columns, lines, "stack words" if verified else "stack")
    if not all(row.parity for row in rows):
        text = "Some files are not verified yet." if verified else "Parity is not verified yet."
        drawn += _missing(card, text, "verify")
    if not all(row.timing for row in rows):
        text = "Some files are not timed yet." if timed else "Speed is not measured yet."
        drawn += _missing(card, text, "bench")
    return drawn


def _which_parity(card: ModelCard) -> str:
    """Which network files are compared with, where there could be two."""
    if card.compression is None:
        return ""
    parent = escape(card.compression.parent)
    return f"<p>Compared with the smaller network in full precision; with {parent}: see above.</p>"


def _plot(card: ModelCard, rows: Sequence[Measured], scores: Scores | None) -> str:
    known = sorted((row for row in rows if row.interval), key=lambda row: (row.artifact.size_bytes, row.name))
    if not known:
        return _missing(card, "Drawn once exported files are verified.", "verify" if rows else "export")
    names = charts.point_names(known)
    wide = charts.scatter(known, scores, 960, names)
    narrow = charts.scatter(known, scores, 380, [str(number) for number, _ in enumerate(names, 1)])
    items = "".join(f"<li>{escape(name)}</li>" for name in names)
    timings = [row.timing for row in rows if row.timing]
    legend = f"Circles: ONNX; squares: TFLite{'; larger: slower' if timings else ''}. Bars: 95 % intervals. "
    machine = f" Measured on {escape(timings[0].cpu)}, {timings[0].threads} threads." if timings else ""
    return (
        f'<figure><div class="wide">{wide}</div><div class="narrow">{narrow}<ol>{items}</ol></div>'
        f"<figcaption>{legend}Files of about one size are drawn apart.{machine}</figcaption></figure>"
    )


def _gallery(card: ModelCard, rows: Sequence[Measured], thumbnails: Mapping[str, bytes] | None) -> str:
    if not any(row.parity for row in rows):
        return _missing(card, "Known once exported files are verified.", "verify" if rows else "export")
    by_path: dict[str, list[tuple[str, Disagreement]]] = {}
    for row in rows:
        for item in row.parity.disagreements if row.parity else ():
            by_path.setdefault(item.path, []).append((row.name, item))
    if not by_path:
        return "<p>Every verified file names the same class as the full-precision network on every image.</p>"
    ranked = sorted(by_path.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:MOST_SHOTS]
    away = "" if thumbnails is not None else hint("The data folder is not at hand: the images are not shown.")
    shots = "".join(_shot(path, items, thumbnails) for path, items in ranked)
    return (
        f"<p>{len(ranked)} of {len(by_path)} recorded images for which an exported file names another class "
        f'than the full-precision network.</p>{away}<div class="shots">{shots}</div>'
    )


def _shot(
    path: str, items: Sequence[tuple[str, Disagreement]], thumbnails: Mapping[str, bytes] | None
) -> str:
    first = items[0][1]
    picture = "" if thumbnails is None else '<div class="blank"></div>'
    if thumbnails and path in thumbnails:
        encoded = base64.b64encode(thumbnails[path]).decode()
        picture = f'<img alt="" src="data:image/jpeg;base64,{encoded}">'
    answers = [("full precision", first.reference, first.reference_probability)]
    answers += [(name, item.candidate, item.candidate_probability) for name, item in items]
    lines = ""
    for name, label, probability in answers:
        kind, symbol = ("right", "✓") if label == first.truth else ("wrong", "✗")
        answer = f'<span class="{kind}">{symbol} {escape(label)}</span> {number(probability, 2)}'
        lines += f"<dt>{escape(name)}</dt><dd>{answer}</dd>"
    title = two(f"<b>{escape(first.truth)}</b>", path)
    return f'<div class="shot">{picture}<div>{title}<dl>{lines}</dl></div></div>'


_SATURATION = """<p>On x86-64 CPUs without VNNI set the session option
<code>session.x64quantprecision</code> to 1, as edgetl does: with ONNX Runtime's defaults int8 sums saturate
there, and accuracy is lost.</p>"""


def _usage(card: ModelCard, rows: Sequence[Measured]) -> str:
    folder, spec = shlex.quote(card.name), card.input
    onnx = [row for row in rows if row.artifact.format is Format.ONNX]
    best = best_proven(onnx) or next(iter(onnx), None)
    if best is None:
        return _missing(card, "There is no ONNX file yet.", "export")
    package, content = _reading(best.artifact)
    script = f"""import json
{package}import numpy as np
import onnxruntime
from PIL import Image
labels = json.load(open("card.json", encoding="utf-8"))["labels"]
session = onnxruntime.InferenceSession({content})
image = Image.open("photo.jpg").convert("RGB")
image = image.resize(({spec.width}, {spec.height}), Image.Resampling.BILINEAR)
pixels = np.asarray(image, np.uint8)[np.newaxis]  # RGB, 0 to 255, [1, {spec.height}, {spec.width}, 3]
(probabilities,) = session.run(None, {{session.get_inputs()[0].name: pixels}})
print(labels[probabilities[0].argmax()], float(probabilities[0].max()))"""
    commands = f"""edgetl predict {folder} photos/ -o predictions.parquet
edgetl verify {folder}  # the parity proof again, on this machine
edgetl bench {folder}"""
    saturation = _SATURATION if best.artifact.precision is Precision.INT8 else ""
    return (
        f"<pre>{escape(commands)}</pre><p>Or without edgetl, inside the model folder, "
        f"with numpy, Pillow and onnxruntime:</p><pre>{escape(script)}</pre>{saturation}"
    )


def _reading(artifact: Artifact) -> tuple[str, str]:
    """Python for the name, or the content, of a file, and what it has to import for that."""
    file = json.dumps(artifact.file)
    match artifact.packed:
        case None:
            return "", file
        case Packing.GZ:
            return "import gzip\n", f'gzip.decompress(open({file}, "rb").read())'
        case Packing.ZST:
            return "import zstandard\n", f'zstandard.decompress(open({file}, "rb").read())'
        case never:
            assert_never(never)


def _footer(card: ModelCard, rows: Sequence[Measured]) -> str:
    parts = [f"Model made {card.created[:10]} with edgetl {card.edgetl_version}"]
    parts += [f"{name} {version}" for name, version in sorted(card.training.versions.items())]
    parts.append(f"image preparation version {card.input.preprocessing_version}")
    parts += sorted({f"parity measured with {row.parity.instruction_set}" for row in rows if row.parity})
    return f"<footer>{escape(' · '.join(parts))}</footer>"


def _missing(card: ModelCard, text: str, step: str) -> str:
    return hint(text, f"edgetl {step} {shlex.quote(card.name)}")
