"""Demo: what it refuses, and the shipped images it copies. The whole run is in test_real_vgg16.py."""

import pytest

from edgetl.config import DemoConfig
from edgetl.errors import UsageError

pytest.importorskip("tf_keras")

from edgetl.dataset import list_images
from edgetl.steps import demo as step
from edgetl.steps.demo import MARKER, SAMPLES, STYLES, copy_samples, demo


class StoppedError(Exception):
    """In place of training."""


@pytest.fixture
def no_training(monkeypatch):
    """Let the demo end where training would begin."""

    def stop(*_):
        raise StoppedError

    monkeypatch.setattr(step, "train", stop)


def test_a_folder_of_somebody_else_is_refused(tmp_path, no_training, invoke):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="not an earlier demo"):
        demo(tmp_path / "photos", DemoConfig())
    (tmp_path / "file").write_text("mine")
    done = invoke("demo", "-o", tmp_path / "file")
    assert done.exit_code == 2
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "photos" / "mine.jpg").read_bytes() == b"x"


def test_an_earlier_demo_is_replaced(tmp_path, no_training):
    for _ in range(2):
        with pytest.raises(StoppedError):
            demo(tmp_path / "demo", DemoConfig())
        assert (tmp_path / "demo" / MARKER).is_file()
        assert not (tmp_path / "demo" / "old").exists()
        (tmp_path / "demo" / "old").mkdir()


def test_samples_are_copied_with_their_licences(tmp_path):
    folder = copy_samples(tmp_path / "data", STYLES)
    listing = list_images(folder, None)
    assert len(listing.labels) == 15
    assert len(listing.entries) == 2 * 618
    assert {entry.split for entry in listing.entries} == {"train", "val", "test"}
    licences = {path.name: path.read_text() for path in folder.glob("*LICENSE*")}
    assert {name.partition("-")[0] for name in licences} == set(STYLES)
    assert any("Apache License" in text for text in licences.values())
    assert any("Attribution 4.0" in text for text in licences.values())


def test_one_style_has_the_same_classes_and_splits_as_the_other(tmp_path):
    one, other = (list_images(copy_samples(tmp_path / style, (style,)), None) for style in STYLES)
    assert one.labels == other.labels

    def names(listing):
        return sorted(
            (entry.split, entry.label, entry.path.name.partition("-")[2]) for entry in listing.entries
        )

    assert names(one) == names(other)
    assert SAMPLES.is_dir()
