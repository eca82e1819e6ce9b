"""`edgetl drift`: results in every form, planted shifts that are found, and no shift that is not."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image, ImageEnhance, ImageFilter
from scipy.stats import binom
from tiny import LABELS, make_tiny_model

import edgetl
from edgetl import reading
from edgetl.card import Model
from edgetl.config import DriftConfig
from edgetl.drifting import ALPHA, DriftVerdict
from edgetl.errors import DataError, Undecidable
from edgetl.reading import read_results
from edgetl.steps.drift import CERTIFICATION, REFERENCE_TOO_SMALL, drift, moved_classes

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "models" / "demo"
SAMPLES = ROOT / "edgetl" / "samples"
FORMS = (".parquet", ".csv", ".jsonl")
MOST_ALARMS = int(binom.ppf(0.999, 100, ALPHA))  # of 100 runs at this level, but for 1 series in 1,000
NOT_DRIFTED, DRIFTED, CANNOT_TELL = DriftVerdict


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return make_tiny_model(tmp_path_factory.mktemp("drift") / "model", with_reference=True)


@pytest.fixture(scope="module")
def demo() -> Model:
    return Model.open(DEMO)


def outputs(rows: int, seed: int = 0, mix=(1, 1, 1), sharpness: float = 4.0) -> np.ndarray:
    """Probabilities [rows, 3] as a classifier of three classes gives them."""
    random = np.random.default_rng(seed)
    classes = random.choice(3, rows, p=np.array(mix) / sum(mix))
    logits = random.normal(0, 1, (rows, 3)) + sharpness * np.eye(3)[classes]
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


def predictions(probabilities: np.ndarray, labels=LABELS, top: int = 1, refused: int = 0) -> list[dict]:
    """Rows as `edgetl.rows` describes them."""
    found = []
    for number, row in enumerate(probabilities):
        likely = [{"label": labels[i], "probability": float(row[i])} for i in np.argsort(-row)[:top]]
        found.append(
            {
                "path": f"{number}.png",
                "status": "ok",
                "reason": None,
                "detail": None,
                **likely[0],
                "top": likely,
            }
        )
    gone = {"path": "gone.png", "status": "refused", "reason": "missing", "detail": "It is not there."}
    return found + refused * [gone | {"label": None, "probability": None, "top": []}]


def write(path: Path, rows: list[dict], **columns) -> Path:
    """Rows in any form, with further columns of lists."""
    extra = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    lists = [{k: None if v is None else list(map(float, v)) for k, v in more.items()} for more in extra]
    whole = [row | more for row, more in zip(rows, lists, strict=True)] if columns else rows
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(whole, schema=_schema(columns)), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in whole))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, _schema(columns).names)
            writer.writeheader()
            writer.writerows(
                {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in whole
            )
    return path


def _schema(columns) -> pa.Schema:
    texts = dict.fromkeys(("path", "status", "reason", "detail", "label"), pa.string())
    likely = pa.struct({"label": pa.string(), "probability": pa.float32()})
    numbers = {"probability": pa.float32(), "top": pa.list_(likely)}
    return pa.schema(texts | numbers | dict.fromkeys(columns, pa.list_(pa.float32())))


def read(path: Path, labels=LABELS, most: int = 1000):
    return read_results(path, labels, most, np.random.default_rng(0))


# --- reading


@pytest.mark.parametrize("suffix", FORMS)
def test_every_form_is_read_alike(tmp_path, suffix):
    rows = outputs(300)
    sample = read(write(tmp_path / f"rows{suffix}", predictions(rows, top=2, refused=7)))
    assert (sample.rows, sample.refused, sample.top) == (300, 7, 2)
    assert sample.classes.tolist() == np.bincount(rows.argmax(axis=1), minlength=3).tolist()
    assert sample.confidences.sum() == 300
    assert sample.mean_confidence == pytest.approx(rows.max(axis=1).mean(), abs=1e-6)
    expected = np.sort(rows.max(axis=1))
    np.testing.assert_allclose(np.sort(sample.outputs.max(axis=1)), expected, atol=1e-6)


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("name", ["embedding", "embeddings"])
def test_probabilities_and_embeddings_are_read_where_they_are(tmp_path, suffix, name):
    rows, wide = outputs(50), np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    columns = {"probabilities": [*rows, None], name: [*wide, None]}
    path = write(tmp_path / f"rows{suffix}", predictions(rows, refused=1), **columns)
    sample = read(path)
    assert (sample.top, sample.refused) == (3, 1)
    np.testing.assert_allclose(np.sort(sample.outputs, axis=0), np.sort(rows, axis=0), atol=1e-6)
    np.testing.assert_allclose(np.sort(sample.embeddings, axis=0), np.sort(wide, axis=0), atol=1e-5)


def test_a_folder_of_parts_is_one_result(tmp_path):
    rows = outputs(90)
    for part in range(3):
        write(tmp_path / f"part-{part:05}.parquet", predictions(rows[30 * part : 30 * part + 30]))
    (tmp_path / "journal.jsonl").write_text("{}")
    whole = read(write(tmp_path / "whole.csv", predictions(rows)))
    parts = read(tmp_path)
    assert parts.rows == 90
    assert parts.classes.tolist() == whole.classes.tolist()


@pytest.mark.parametrize("suffix", FORMS)
def test_only_some_rows_are_kept_and_each_is_as_likely(tmp_path, suffix):
    """More rows than one batch of Parquet; what comes last is kept as often as what comes first."""
    rows = outputs(3000)
    rows = rows[np.argsort(rows.max(axis=1))]
    sample = read(write(tmp_path / f"rows{suffix}", predictions(rows)), most=400)
    assert (sample.rows, len(sample.outputs)) == (3000, 400)
    late = (rows.max(axis=1) > np.median(rows.max(axis=1))).mean()
    kept = (sample.outputs.max(axis=1) > np.median(rows.max(axis=1))).mean()
    assert kept == pytest.approx(late, abs=0.1)


def test_wide_embeddings_are_kept_for_fewer_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_MOST_NUMBERS", 8 * 100)
    path = write(tmp_path / "rows.jsonl", predictions(outputs(20)), embeddings=np.ones((20, 100)))
    sample = read(path)
    assert sample.embeddings.shape == (8, 100)
    assert len(sample.outputs) == 20


def test_a_class_may_have_any_name(tmp_path):
    labels = ("NA", "null", 'a,"b"\nc')
    for suffix in FORMS:
        sample = read(write(tmp_path / f"rows{suffix}", predictions(outputs(60), labels, top=2)), labels)
        assert (sample.rows, sample.top) == (60, 2)
        assert (sample.classes > 0).all()


BROKEN = {
    "other class": ('{"status": "ok", "label": "mauve", "probability": 0.5}', "the class 'mauve'"),
    "no class": ('{"status": "ok", "label": null, "probability": 0.5}', "does not have"),
    "no probability": ('{"status": "ok", "label": "red"}', "numbers from 0 to 1"),
    "probability of 2": ('{"status": "ok", "label": "red", "probability": 2}', "numbers from 0 to 1"),
    "no status": ('{"label": "red", "probability": 0.5}', "without status"),
    "few classes": (
        '{"status": "ok", "label": "red", "probability": 0.5, "probabilities": [0.5, 0.5]}',
        "of other than its 3 classes",
    ),
    "other class in top": (
        '{"status": "ok", "label": "red", "probability": 0.5, "top": [{"label": "x", "probability": 1}]}',
        "of other than its 3 classes",
    ),
    "not JSON": ("status,label", "cannot be read"),
    "empty": ("", "cannot be read"),
}


@pytest.mark.parametrize(("line", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_result_is_refused_in_words(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n" if line else "")
    with pytest.raises(DataError, match=message):
        read(path)


def test_files_that_cannot_be_results_are_refused_in_words(tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "rows.xlsx").write_bytes(b"")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "cut.parquet": "cannot be read",
        "rows.xlsx": "no known suffix",
        "other.csv": "without status",
        "empty": "has no files",
        "missing.csv": "not found",
    }.items():
        with pytest.raises(DataError, match=message):
            read(tmp_path / name)


# --- comparing


def compare(model: Model, tmp_path: Path, before, now, **settings):
    """Drift between two lists of predictions."""
    config = DriftConfig(reference=write(tmp_path / "before.parquet", before), **settings)
    return drift(model, write(tmp_path / "now.parquet", now), config)


def test_no_shift_between_two_weeks(model, tmp_path):
    found = compare(model, tmp_path, predictions(outputs(600, 1)), predictions(outputs(600, 2)))
    assert found.verdict is NOT_DRIFTED
    assert [aspect.name for aspect in found.aspects] == ["classes", "confidence", "outputs"]
    assert all(aspect.verdict is NOT_DRIFTED and aspect.rows_needed == 0 for aspect in found.aspects)
    assert found.notes == ()


def test_another_mix_of_classes_is_found_and_named(model, tmp_path):
    found = compare(
        model, tmp_path, predictions(outputs(400, 1)), predictions(outputs(400, 2, mix=(1, 1, 4)))
    )
    assert found.verdict is DRIFTED
    assert found.aspects[0].verdict is DRIFTED
    assert found.classes[0].label == LABELS[2]
    assert found.classes[0].difference_low > 0.15


def test_lower_confidence_is_found(model, tmp_path):
    found = compare(
        model, tmp_path, predictions(outputs(400, 1)), predictions(outputs(400, 2, sharpness=2.5))
    )
    verdicts = {aspect.name: aspect.verdict for aspect in found.aspects}
    assert verdicts["confidence"] is DRIFTED
    assert found.mean_confidence < found.reference_mean_confidence


def test_more_refused_images_are_found(model, tmp_path):
    before, now = predictions(outputs(500, 1), refused=5), predictions(outputs(500, 2), refused=100)
    found = compare(model, tmp_path, before, now)
    assert {a.name: a.verdict for a in found.aspects}["refused"] is DRIFTED
    assert (found.refused_share, found.reference_refused_share) == pytest.approx((100 / 600, 5 / 505))


def test_embeddings_show_what_outputs_do_not(model, tmp_path):
    random, rows = np.random.default_rng(3), outputs(300, 1)
    for name, shift in {"before": 0.0, "same": 0.0, "moved": 0.6}.items():
        wide = random.normal(shift, 1, (300, 12))
        write(tmp_path / f"{name}.parquet", predictions(rows), embedding=wide)
    config = DriftConfig(reference=tmp_path / "before.parquet")
    same, moved = (drift(model, tmp_path / f"{name}.parquet", config) for name in ("same", "moved"))
    assert {a.name: a.verdict for a in same.aspects}["embeddings"] is not DRIFTED
    assert [a.name for a in moved.aspects if a.verdict is DRIFTED] == ["embeddings"]
    assert moved.verdict is DRIFTED
    against_model = drift(model, tmp_path / "moved.parquet", DriftConfig())
    assert any("embeddings were not compared" in note for note in against_model.notes)


def test_few_rows_cannot_tell_and_say_how_many_can(model, tmp_path):
    found = compare(model, tmp_path, predictions(outputs(2000, 1)), predictions(outputs(20, 2)))
    assert found.verdict is CANNOT_TELL
    confidence = found.aspects[1]
    assert confidence.verdict is CANNOT_TELL
    assert 50 < confidence.rows_needed < 500


def test_a_small_reference_is_told(model, tmp_path):
    found = drift(model, write(tmp_path / "rows.csv", predictions(outputs(500))), DriftConfig())
    assert found.reference == CERTIFICATION
    small = [aspect for aspect in found.aspects if aspect.rows_needed == REFERENCE_TOO_SMALL]
    assert all(aspect.reference_rows_needed > aspect.reference_rows for aspect in small)
    assert small or found.verdict is DRIFTED


def test_full_probabilities_are_compared_with_what_others_hold(model, tmp_path):
    rows = outputs(400, 1)
    before = write(tmp_path / "full.parquet", predictions(rows), probabilities=rows)
    now = write(tmp_path / "top.parquet", predictions(rows))
    found = drift(model, now, DriftConfig(reference=before))
    assert found.aspects[2].compared == "class and largest probability"
    assert found.aspects[2].distances[0].value == pytest.approx(0, abs=1e-3)


def test_the_same_command_says_the_same(model, tmp_path):
    before, now = predictions(outputs(300, 1)), predictions(outputs(300, 2, sharpness=3))
    assert compare(model, tmp_path, before, now) == compare(model, tmp_path, before, now)


def test_an_unfinished_folder_is_told(model, tmp_path):
    (tmp_path / "now").mkdir()
    write(tmp_path / "now" / "part-0.parquet", predictions(outputs(100)))
    (note, _) = drift(model, tmp_path / "now", DriftConfig()).notes
    assert "_SUCCESS" in note


def test_nothing_classified_is_undecidable(model, tmp_path):
    with pytest.raises(Undecidable, match="3 images were refused"):
        drift(model, write(tmp_path / "rows.csv", predictions(outputs(0), refused=3)), DriftConfig())


def test_moved_classes_of_a_worked_example():
    first, second = moved_classes(("a", "b", "c"), np.array([50, 50, 0]), np.array([30, 70, 0]))
    assert (first.label, first.reference_share, first.share) == ("a", 0.5, 0.3)
    assert (second.label, second.share) == ("b", 0.7)
    # Newcombe's hybrid of Wilson's (0.4038, 0.5962) and (0.2189, 0.3958), by hand
    low = -0.2 - np.hypot(0.3 - 0.2189, 0.5962 - 0.5)
    high = -0.2 + np.hypot(0.3958 - 0.3, 0.5 - 0.4038)
    assert (first.difference_low, first.difference_high) == pytest.approx((low, high), abs=2e-4)


# --- the command


def test_exit_codes_and_what_is_printed(model, tmp_path, invoke):
    weeks = {
        "before": outputs(600, 1),
        "same": outputs(600, 2),
        "other": outputs(600, 3, mix=(1, 1, 5)),
        "few": outputs(12, 4),
    }
    paths = {name: write(tmp_path / f"{name}.csv", predictions(rows)) for name, rows in weeks.items()}
    for name, code, verdict in (
        ("same", 0, "not drifted"),
        ("other", 3, "drifted"),
        ("few", 5, "cannot tell"),
    ):
        result = invoke("drift", model.folder, paths[name], "--reference", paths["before"])
        assert result.exit_code == code, result.output
        assert result.stdout.endswith(f"verdict: {verdict}\n")
        as_json = invoke("drift", model.folder, paths[name], "--reference", paths["before"], "--json")
        assert (as_json.exit_code, json.loads(as_json.stdout)["verdict"]) == (code, verdict)
    assert "12 images are too few; with about" in result.stdout


def test_a_change_that_is_smaller_than_allowed_is_told(model, tmp_path, invoke):
    before = write(tmp_path / "before.csv", predictions(outputs(4000, 1)))
    now = write(tmp_path / "now.csv", predictions(outputs(4000, 2, mix=(1, 1, 1.3))))
    result = invoke("drift", model.folder, now, "--reference", before)
    assert "classes: a change is proven, and proven to be smaller than allowed" in result.stdout


def test_from_python(model, tmp_path):
    path = write(tmp_path / "rows.csv", predictions(outputs(100)))
    found = edgetl.open(model.folder).drift(str(path), DriftConfig(seed=1))
    assert found.rows == 100


# --- planted shifts in real images, by the shipped model


SHIFTS = {
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.4),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
}


def opaque(path: Path) -> Image.Image:
    image = Image.open(path).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def changed(folder: Path, change) -> Path:
    """The certification images after a change."""
    for path in sorted((SAMPLES / "noto" / "test").glob("*/*.png")):
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        change(opaque(path)).save(target)
    return folder


def predicted(invoke, images: Path, output: Path) -> Path:
    assert invoke("predict", DEMO, images, "-o", output).exit_code == 0
    return output


@pytest.mark.parametrize("suffix", FORMS)
def test_certification_images_have_not_drifted(demo, suffix, tmp_path, invoke):
    rows = predicted(invoke, SAMPLES / "noto" / "test", tmp_path / f"rows{suffix}")
    found = drift(demo, rows, DriftConfig())
    assert (found.verdict, found.rows) == (NOT_DRIFTED, 232)


@pytest.mark.parametrize("name", SHIFTS)
def test_a_changed_camera_is_found(name, demo, tmp_path, invoke):
    images = changed(tmp_path / "images", SHIFTS[name])
    found = drift(demo, predicted(invoke, images, tmp_path / "rows.parquet"), DriftConfig())
    assert found.verdict is DRIFTED


def test_another_style_is_found(demo, tmp_path, invoke):
    rows = predicted(invoke, SAMPLES / "twemoji" / "test", tmp_path / "rows.csv")
    assert drift(demo, rows, DriftConfig()).verdict is DRIFTED


def test_another_mix_of_real_classes_is_found(demo, tmp_path, invoke):
    few = [SAMPLES / "noto" / "test" / label for label in ("flag", "face", "food", "sky")]
    assert invoke("predict", DEMO, *few, "-o", tmp_path / "rows.csv").exit_code == 0
    found = drift(demo, tmp_path / "rows.csv", DriftConfig())
    assert found.verdict is DRIFTED
    assert found.aspects[0].verdict is DRIFTED


@pytest.mark.slow
def test_no_shift_is_seldom_called_drifted(demo, tmp_path, invoke):
    """100 times, the certification images' rows are divided in two at random."""
    predicted(invoke, SAMPLES / "noto" / "test", tmp_path / "all.parquet")
    table = pa.parquet.read_table(tmp_path / "all.parquet")
    random, verdicts = np.random.default_rng(0), []
    for run in range(100):
        order = random.permutation(len(table))
        for name, part in (("before", order[:116]), ("now", order[116:])):
            pa.parquet.write_table(table.take(part), tmp_path / f"{name}.parquet")
        config = DriftConfig(reference=tmp_path / "before.parquet", seed=run)
        verdicts.append(drift(demo, tmp_path / "now.parquet", config).verdict)
    alarms = verdicts.count(DRIFTED)
    assert alarms <= MOST_ALARMS, f"{alarms} of 100 runs were called drifted"
