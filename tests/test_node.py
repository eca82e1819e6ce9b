"""A node of a cluster: rows of parts, whatever calls overlap, and what it cannot do told to whoever asked."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny import make_photos, make_tiny_model

from edgetl.card import Model
from edgetl.config import PredictConfig
from edgetl.errors import DataError
from edgetl.rows import read_parquet
from edgetl.steps.predict import predict
from edgetl.stream import pool
from edgetl.stream.limits import slots_of
from edgetl.stream.node import Node, Work
from edgetl.stream.pool import Decoding
from edgetl.stream.sources import inputs_of, items_of

COUNT, BATCH = 90, 8


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"), COUNT)


@pytest.fixture
def node(model):
    spec, (artifact,) = model.card.input, model.card.artifacts
    how = Decoding(
        spec.height, spec.width, spec.background_rgb, True, 1, slots_of(BATCH, spec.height * spec.width * 3),
        2**28, 30.0,
    )  # fmt: skip
    work = Work(model.read(artifact), artifact, model.card.labels, PredictConfig(), how, BATCH, 16)
    opened = Node(work)
    yield opened
    opened.close()


@pytest.fixture
def hired(monkeypatch) -> list[object]:
    """Decoders that were started."""
    made: list[object] = []
    original = pool.Pool._hire
    monkeypatch.setattr(pool.Pool, "_hire", lambda self: (made.append(self), original(self)))
    return made


def numbered(photos: Path):
    return list(enumerate(items_of(inputs_of([str(photos)], None))))


def test_overlapping_calls_have_the_rows_of_a_job_and_one_decoder(model, photos, tmp_path, hired, node):
    predict(model, [str(photos)], PredictConfig(output=str(tmp_path / "rows.parquet"), workers=0))
    plan = numbered(photos)
    parts = [plan[first : first + 16] for first in range(0, 80, 16)]
    with ThreadPoolExecutor(3) as callers:
        found = list(callers.map(node.classify, parts))
    rows = [row for part, _ in found for row in part]
    assert rows == read_parquet(tmp_path / "rows.parquet")[:80]
    assert len(hired) == 1
    assert sum(meter.classified for _, meter in found) == sum(row["label"] is not None for row in rows)
    assert sum(meter.refused for _, meter in found) == sum(row["label"] is None for row in rows) > 0


def test_the_end_of_a_plan_need_not_fill_a_batch(photos, node):
    plan = numbered(photos)
    for part in (plan[80:], plan[4:20], plan[:16]):  # nor a part begin with one; and another may follow
        rows, _ = node.classify(part)
        assert [row["path"] for row in rows] == [item.path for _, item in part]


def test_a_node_that_sees_no_image_says_so(photos, tmp_path, node):
    for path in photos.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    plan = numbered(tmp_path)[:16]
    for path in list(tmp_path.iterdir()):
        path.unlink()
    with pytest.raises(DataError, match="sees none of 16 images"):
        node.classify(plan)
    assert len(node.classify(numbered(photos)[:16])[0]) == 16


def test_what_ends_the_decoders_is_told_to_every_call(photos, monkeypatch, node):
    def broken(_self):
        raise RuntimeError("no more processes")

    node.classify(numbered(photos)[:16])
    monkeypatch.setattr(pool.Pool, "_feed", broken)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no more processes"):
            node.classify(numbered(photos)[16:32])
