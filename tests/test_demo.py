"""`edgetl demo`: the shipped images, its own folder only, and a closing table from the card."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
from tiny import make_tiny_model

from edgetl.config import BenchConfig, DemoConfig, EvalConfig, VerifyConfig
from edgetl.errors import UsageError

if find_spec("tensorflow") is None:
    pytest.skip("needs edgetl[train]", allow_module_level=True)

from edgetl.listing import check_classes, list_images
from edgetl.steps.bench import bench
from edgetl.steps.demo import MARKER, SAMPLES, STYLES, copy_samples, demo, summary_rows
from edgetl.steps.evaluate import evaluate
from edgetl.steps.verify import verify


def test_the_samples_make_a_data_folder_with_their_licences(tmp_path):
    data = copy_samples(tmp_path / "data", STYLES)
    listing = list_images(data)
    check_classes(listing)
    assert listing.layout == "split folders"
    assert len(listing.labels) == 15
    assert len(listing.entries) == len(list(SAMPLES.rglob("*.png")))
    for style in STYLES:
        assert (data / f"{style}-LICENSE.txt").read_text()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "photos.txt").write_text("dear to somebody")
    with pytest.raises(UsageError, match="not an earlier demo"):
        demo(tmp_path, DemoConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["photos.txt"]


def test_an_earlier_demo_is_replaced(tmp_path, monkeypatch):
    class Stop(Exception):  # noqa: N818 - not an error
        pass

    def stop(*_):
        raise Stop

    monkeypatch.setattr("edgetl.steps.demo.train", stop)
    for _ in range(2):
        with pytest.raises(Stop):
            demo(tmp_path / "demo", DemoConfig())
        assert (tmp_path / "demo" / MARKER).is_file()
        assert not (tmp_path / "demo" / "old").exists()
        (tmp_path / "demo" / "old").touch()


def test_the_closing_table_is_what_the_card_holds(tmp_path):
    model = make_tiny_model(tmp_path / "model", with_reference=True)
    scores = evaluate(model, None, EvalConfig())
    model.keras_file.write_bytes(b"1234")
    model, _ = verify(model, VerifyConfig(max_drop=100))
    model, benched = bench(model, BenchConfig(seconds=0.05))
    model = model.update(lambda card: replace(card, scores=card.scores | {"keras": scores}))
    full, exported = summary_rows(model)
    assert (full.size_bytes, full.accuracy, full.verdict, full.latency_p50_ms) == (4, 1.0, "", None)
    assert (exported.artifact, exported.drop_points, exported.verdict) == ("onnx-fp32", 0.0, "pass")
    assert exported.latency_p50_ms == benched.timings[0].latency_p50_ms
