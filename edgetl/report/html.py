"""The report page: one HTML file without scripts or network, in the order a reader asks."""

import base64
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from html import escape

from edgetl.card import KERAS, ModelCard
from edgetl.config import Format
from edgetl.report import STYLE, SYMBOLS, WORDS, Measured, charts, headline, interval_text, is_known, measured
from edgetl.report import facts, hint, megabytes, meter, number, percent, smallest_proven, table, two
from edgetl.results import Disagreement, Scores

ROLE_USES = {
    "train": "fits the weights",
    "tuning": "chooses epoch and temperature",
    "calibration": "sets quantization ranges",
    "certification": "measures accuracy and parity",
}
MOST_ROWS = 40  # longer tables are folded
MOST_SHOTS = 36
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # nothing is fetched, no script runs


def page(card: ModelCard, thumbnails: Mapping[str, bytes] | None) -> str:
    """The whole page. `thumbnails`: JPEG files by image path; None: the data folder is not at hand."""
    rows, scores = measured(card), card.scores.get(KERAS)
    scores = scores if scores and is_known(scores) else None
    sections = (
        ("What it is", _identity(card)),
        ("Data", _data(card)),
        ("Training", _training(card)),
        ("Accuracy", _accuracy(card, scores)),
        ("Exported files", _artifacts(card, rows)),
        ("Size, accuracy and speed", _plot(card, rows, scores)),
        ("Where they disagree", _gallery(card, rows, thumbnails)),
        ("Run it", _usage(card, rows)),
    )
    body = "\n".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(card.name)} - model report</title><style>{STYLE}</style></head>\n"
        f"<body><main>{_opening(card, rows, scores)}\n{body}\n{_footer(card, rows)}</main></body></html>\n"
    )


def _opening(card: ModelCard, rows: Sequence[Measured], scores: Scores | None) -> str:
    best = smallest_proven(rows)
    tiles = [(f"{len(card.labels):,}", "classes")]
    if scores:
        tiles.append((percent(scores.accuracy), f"accuracy at full precision, {scores.images:,} images"))
    if best and best.parity:
        tiles.append((megabytes(best.artifact.size_bytes), f"{best.name}, the smallest proven file"))
        tiles.append((f"≤ {max(best.parity.drop_upper_points, 0.0):.1f} points", "lost, 95 % bound"))
        if best.timing and math.isfinite(best.timing.latency_p50_ms):
            tiles.append((number(best.timing.latency_p50_ms, 1, " ms"), "for one image, median"))
    drawn = "".join(f'<div class="tile"><b>{escape(a)}</b>{escape(b)}</div>' for a, b in tiles)
    verdicts = {row.verdict for row in rows if row.verdict}
    kind = "pass" if best else str(verdicts.pop()) if len(verdicts) == 1 else "undecided" if verdicts else ""
    return (
        f'<p class="kind">Model report</p><h1>{escape(card.name)}</h1>'
        f'<p class="lead {kind}">{escape(headline(card))}</p><div class="tiles">{drawn}</div>'
    )


def _identity(card: ModelCard) -> str:
    spec, network, origin = card.input, card.network, card.weights
    mean = ", ".join(f"{value:g}" for value in spec.mean_rgb)
    scale = f" * {spec.scale:g}" if spec.scale != 1 else ""
    pooling = f"{network.hidden_units} hidden units" if network.hidden_units else "global average pooling"
    return facts(
        ("Labels", ", ".join(card.labels)),
        ("Input", f"uint8 RGB, 0 to 255, [N, {spec.height}, {spec.width}, 3]; resized bilinearly, not cropped"),
        ("Inside the graph", f"(x - [{mean}]){scale}, then the network, then softmax"),
        ("Output", f"float32 probabilities [N, {network.classes}]"),
        ("Transparency", f"composited on RGB {', '.join(str(value) for value in spec.background_rgb)}"),
        ("Network", f"VGG16 up to {network.cut}, {network.head} head ({pooling})"),
        ("Trunk", f"{origin.name}: {origin.source}; SHA-256 {origin.sha256[:12]}"),
        ("Trunk licence", origin.licence),
    )


def _data(card: ModelCard) -> str:
    data = card.data
    lines = [
        [
            two(escape(name), ROLE_USES.get(name, "")),
            charts.bars(role.per_class, card.labels),
            f"{min(role.per_class, default=0):,} to {max(role.per_class, default=0):,}",
            f"{role.images:,}",
            f"<code>{escape(role.fingerprint[:12])}</code>",
        ]
        for name, role in data.roles.items()
    ]
    roles = table(("Role", "Images of each class", "Per class", "Images", "Fingerprint"), lines, "stack words")
    columns = zip(card.labels, *(role.per_class for role in data.roles.values()), strict=False)
    counts = [[escape(label), *(f"{count:,}" for count in line)] for label, *line in columns]
    details = table(("Class", *(escape(name) for name in data.roles)), counts, "compact")
    return (
        f"<p>Layout: {escape(data.layout)}; seed {data.seed}. Unreadable images: {data.unreadable:,}. Kept out of "
        f"certification as copies or near copies of images in other roles: {data.leaking:,}.</p>{roles}"
        f"<details><summary>Images of each class in numbers</summary>{details}</details>"
    )


def _training(card: ModelCard) -> str:
    training = card.training
    shown = {"None": "not set", "True": "yes", "False": "no"}
    settings = [[escape(k.replace("_", " ")), escape(shown.get(v, v))] for k, v in training.settings.items()]
    figures = "".join(f"<figure>{svg}</figure>" for svg in charts.curves(training))
    return (
        f"<p>Kept: {escape(training.chosen_stage)} epoch {training.chosen_epoch}, chosen on the tuning images. "
        f"Calibration temperature {number(training.temperature, 2)}, folded into the last layer. "
        f"Training took {number(training.minutes, 1)} minutes.</p>"
        f'<div class="pair">{figures or hint("No epoch was recorded.")}</div>'
        f"<details><summary>All settings</summary>{table(('Setting', 'Value'), settings, 'compact')}</details>"
    )


def _accuracy(card: ModelCard, scores: Scores | None) -> str:
    if scores is None:
        return hint("The full-precision network is not scored yet.", f"edgetl eval {_folder(card)}")
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
    return f"<p>Of the full-precision network.</p>{figures}<h3>Per class</h3>{classes}{_confusions(card, scores)}"


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
        return f"<h3>Most frequent confusions</h3>{table(('Truth', 'Taken for', 'Images'), lines, 'words compact')}"
    often = ", ".join(f"{escape(truth)} taken for {escape(answer)} ({n})" for n, truth, answer in wrong[:3])
    drawing = charts.confusion(scores.confusion, card.labels)
    return f'<h3>Confusions</h3><p>Most frequent: {often}.</p><figure class="scroll">{drawing}</figure>'


def _artifacts(card: ModelCard, rows: Sequence[Measured]) -> str:
    if not rows:
        return hint("Nothing is exported yet.", f"edgetl export {_folder(card)}")
    columns, cells, hints, kind = ["File", "Size", "Accuracy"], [_file_cells(row) for row in rows], "", "stack"
    if any(row.parity for row in rows):
        columns, kind = ["File", "Parity", *columns[1:], "Drop, points", "Same answer", "max |Δp|"], "stack words"
        cells = [[c[0], _verdict(row), *c[1:], *_parity_cells(row)] for c, row in zip(cells, rows, strict=True)]
    else:
        hints += hint("Parity is not verified yet.", f"edgetl verify {_folder(card)}")
    if any(row.timing for row in rows):
        columns += ["Latency", "Images/s", "Memory"]
        cells = [[*c, *_timing_cells(row)] for c, row in zip(cells, rows, strict=True)]
    else:
        hints += hint("Speed is not measured yet.", f"edgetl bench {_folder(card)}")
    return table(columns, cells, kind) + hints


def _file_cells(row: Measured) -> list[str]:
    artifact = row.artifact
    spread = f"{100 * row.interval.low:.1f}-{100 * row.interval.high:.1f}" if row.interval else ""
    names = f"<small>{escape(artifact.file)}</small><small><code>{escape(artifact.sha256[:12])}</code></small>"
    accuracy = two(percent(row.accuracy), spread) if row.accuracy is not None else two("", "not scored")
    return [f"<b>{escape(artifact.name)}</b>{names}", megabytes(artifact.size_bytes), accuracy]


def _verdict(row: Measured) -> str:
    if row.parity is None:
        return two("", "not verified")
    verdict, more = row.parity.verdict, row.parity.more_images
    note = f"allowed: {row.parity.max_drop_points:g} points"
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


def _plot(card: ModelCard, rows: Sequence[Measured], scores: Scores | None) -> str:
    wide, narrow = (charts.scatter(rows, scores, width) for width in (960, 380))
    if not wide:
        step = "verify" if rows else "export"
        return hint("Drawn once the exported files are verified.", f"edgetl {step} {_folder(card)}")
    timings = [row.timing for row in rows if row.timing]
    legend = f"Circles: ONNX; squares: TFLite{'; larger: slower' if timings else ''}. Bars: 95 % intervals. "
    machine = f" Measured on {escape(timings[0].cpu)}, {timings[0].threads} threads." if timings else ""
    return (
        f'<figure><div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
        f"<figcaption>{legend}Files of about one size are drawn apart.{machine}</figcaption></figure>"
    )


def _gallery(card: ModelCard, rows: Sequence[Measured], thumbnails: Mapping[str, bytes] | None) -> str:
    if not any(row.parity for row in rows):
        step = "verify" if rows else "export"
        return hint("Known once the exported files are verified.", f"edgetl {step} {_folder(card)}")
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
        f"<p>Images for which an exported file names another class than the full-precision network: "
        f'{len(ranked)} of {len(by_path)} recorded.</p>{away}<div class="shots">{shots}</div>'
    )


def _shot(path: str, items: Sequence[tuple[str, Disagreement]], thumbnails: Mapping[str, bytes] | None) -> str:
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


def _usage(card: ModelCard, rows: Sequence[Measured]) -> str:
    folder, spec = _folder(card), card.input
    predict = f"edgetl predict {folder} photos/ -o predictions.parquet"
    onnx = [row for row in rows if row.artifact.format is Format.ONNX]
    best = smallest_proven(onnx) or next(iter(onnx), None)
    if best is None:
        return hint("There is no ONNX file yet.", f"edgetl export {folder} --format onnx") + f"<pre>{escape(predict)}</pre>"
    script = f"""import json
import numpy as np
import onnxruntime
from PIL import Image

labels = json.load(open("card.json", encoding="utf-8"))["labels"]
session = onnxruntime.InferenceSession({json.dumps(best.artifact.file)})
image = Image.open("photo.jpg").convert("RGB").resize(({spec.width}, {spec.height}), Image.Resampling.BILINEAR)
pixels = np.asarray(image, np.uint8)[np.newaxis]  # RGB, 0 to 255, [1, {spec.height}, {spec.width}, 3]
(probabilities,) = session.run(None, {{session.get_inputs()[0].name: pixels}})
print(labels[probabilities[0].argmax()], float(probabilities[0].max()))"""
    commands = f"{predict}\nedgetl verify {folder}  # the parity proof again, on this machine\nedgetl bench {folder}"
    return (
        f"<pre>{escape(commands)}</pre><p>Or without edgetl, inside the model folder, "
        f"with numpy, Pillow and onnxruntime:</p><pre>{escape(script)}</pre>"
    )


def _footer(card: ModelCard, rows: Sequence[Measured]) -> str:
    parts = [f"Model made {card.created[:10]} with edgetl {card.edgetl_version}"]
    parts += [f"{name} {version}" for name, version in sorted(card.training.versions.items())]
    parts.append(f"image preparation version {card.input.preprocessing_version}")
    parts += sorted({f"parity measured with {row.parity.instruction_set}" for row in rows if row.parity})
    return f"<footer>{escape(' · '.join(parts))}</footer>"


def _folder(card: ModelCard) -> str:
    return shlex.quote(card.name)
