"""Images behind addresses: listed like folders, fetched ahead, and refused by name when they cannot be had."""

import functools
import http.server
import json
import sys
import threading
from pathlib import Path

import pytest
from tiny import make_image, make_tiny_model

from edgetl.card import Model
from edgetl.config import PredictConfig
from edgetl.errors import DataError, MissingExtra
from edgetl.images import Refusal
from edgetl.steps.predict import predict
from edgetl.stream.items import Kind
from edgetl.stream.remote import fetch, is_address, remote_items
from edgetl.stream.sources import inputs_of, items_of

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def bucket(tmp_path):
    """Eighty red images, one text and one hidden among them, in the memory file system."""
    system = fsspec.filesystem("memory")
    content = make_image(tmp_path / "red.png", "red").read_bytes()
    for number in range(80):
        system.pipe(f"/bucket/deep/{number:03d}.png", content)
    system.pipe("/bucket/text.txt", b"no image")
    system.pipe("/bucket/broken.jpg", b"no image")
    yield "memory://bucket/"
    system.rm("/bucket", recursive=True)


def test_addresses_are_told_from_paths():
    assert is_address("s3://bucket/a.png")
    assert is_address("https://example.org/a.png")
    assert not is_address("C:/a.png")
    assert not is_address("photos/a.png")
    assert not is_address("a://")


def test_a_folder_a_pattern_and_a_file(bucket):
    assert len(list(remote_items(bucket))) == 81
    assert len(list(remote_items(f"{bucket}deep/00*.png"))) == 10
    (item,) = remote_items(f"{bucket}deep/007.png")
    assert item.kind is Kind.REMOTE
    assert fetch(item).startswith(b"\x89PNG")


def test_a_job_over_addresses(model, bucket, tmp_path):
    output = tmp_path / "rows.jsonl"
    summary = predict(model, [bucket, f"{bucket}absent.png"], PredictConfig(output=str(output)))
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert (summary.images, summary.refused, summary.per_label) == (82, 2, {"red": 80})
    assert rows[0]["path"] == "memory:///bucket/broken.jpg"
    assert [row["reason"] for row in rows if row["reason"]] == ["not_an_image", "missing"]


def test_what_changed_since_it_was_listed_is_refused(bucket):
    item = next(remote_items(bucket))
    fsspec.filesystem("memory").pipe("/bucket/broken.jpg", b"longer than before")
    assert fetch(item).reason is Refusal.CHANGED


def test_http(model, tmp_path):
    folder = tmp_path / "served"
    make_image(folder / "red.png", "red")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_arguments) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        output = tmp_path / "rows.jsonl"
        predict(model, [f"{address}/red.png", f"{address}/no.png"], PredictConfig(output=str(output)))
    finally:
        server.shutdown()
        server.server_close()
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["label"] for row in rows] == ["red", None]
    assert rows[1]["reason"] == "missing"


def test_unknown_kinds_of_address_are_data_errors():
    with pytest.raises(DataError, match="no known kind"):
        list(items_of(inputs_of(["nothing-of-the-kind://a/b.png"], None)))


def test_without_fsspec_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtra, match=r"edgetl\[remote\]"):
        list(items_of(inputs_of(["s3://bucket/a.png"], None)))


def test_paths_that_look_odd_stay_paths(tmp_path):
    path = make_image(tmp_path / "http:" / "a.png", "red")
    assert [Path(item.path) for item in items_of(inputs_of([str(path)], None))] == [path]
