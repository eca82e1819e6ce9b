"""`edgetl data`: the report and its advice."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from edgetl.cli import app
from edgetl.config import DataConfig
from edgetl.errors import DataError
from edgetl.records import from_json, to_json
from edgetl.results import DataReport
from edgetl.steps.advice import images_to_prove, smallest_provable_drop
from edgetl.steps.data import data


def write(path, seed, size=(40, 48), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pets"
    for number, name in enumerate(("cat", "dog")):
        for i in range(30):
            write(root / name / f"{i:02}.png", 100 * number + i)
    return root


def found(report, topic):
    return [finding for finding in report.findings if finding.topic == topic]


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_counts(folder):
    report = data(folder, DataConfig())
    assert (report.layout, report.images, report.imbalance) == ("flat", 60, 1.0)
    for one in report.classes:
        assert one.train + one.tuning + one.calibration + one.certification + one.kept_out == one.total == 30
    assert report.kinds.formats == {"PNG": 60}
    assert report.kinds.smallest == report.kinds.median == report.kinds.largest == (40, 48)


def test_the_report_survives_json(folder):
    (folder / "cat" / "broken.png").write_bytes(b"")
    report = data(folder, DataConfig())
    assert from_json(DataReport, to_json(report)) == report


def test_the_proof_needs_299_images(folder):
    assert images_to_prove(1.0) == 299
    assert images_to_prove(1.0, together=2) == 368
    assert smallest_provable_drop(299) < 1.0 < smallest_provable_drop(298)
    (finding,) = found(data(folder, DataConfig()), "certification")
    assert finding.status == "problem"
    assert "299" in finding.found


def test_unreadable_and_ignored_files(folder):
    (folder / "cat" / "empty.png").write_bytes(b"")
    (folder / "cat" / "text.jpg").write_text("not an image")
    (folder / "cat" / "notes.txt").touch()
    (folder / "stray.png").touch()
    (folder / ".DS_Store").touch()
    report = data(folder, DataConfig())
    assert [(file.path, file.reason) for file in report.unreadable] == [
        ("cat/empty.png", "empty"),
        ("cat/text.jpg", "not_an_image"),
    ]
    assert report.ignored_examples == ("cat/notes.txt", "stray.png")
    assert {finding.status for finding in found(report, "files")} == {"problem", "note"}
    result = run(folder)
    assert result.exit_code == 0
    for words in ("cat/empty.png", "not_an_image", "notes.txt"):
        assert words in result.stdout


def test_copies_and_wrong_labels(folder, tmp_path):
    root = tmp_path / "split"
    shutil.copytree(folder, root / "train")
    for number, name in enumerate(("cat", "dog")):
        for i in range(10):
            write(root / "test" / name / f"{i}.png", 5000 + 100 * number + i)
    shutil.copy(root / "train" / "cat" / "00.png", root / "test" / "cat" / "leak.png")
    shutil.copy(root / "train" / "cat" / "01.png", root / "test" / "dog" / "wrong.png")
    Image.open(root / "test" / "dog" / "3.png").save(root / "test" / "dog" / "again.jpg", quality=90)
    report = data(root, DataConfig())
    assert (report.leaking, report.disputed, report.repeated) == (1, 1, 1)
    assert [one.kept_out for one in report.classes] == [1, 2]
    first = report.pairs[0]
    assert (first.kind, first.same_label, first.leaks) == ("exact", False, True)
    assert {first.first, first.second} == {"train/cat/01.png", "test/dog/wrong.png"}
    (finding,) = [one for one in found(report, "labels") if one.status == "problem"]
    assert "test/dog/wrong.png" in finding.found
    assert report.findings[0].status == "problem"
    shown = run(root).stdout
    assert "across roles" in shown
    assert "across classes" in shown
    assert "kept out of certification: 3 images" in shown


def test_a_certification_class_that_is_all_copies_is_a_problem(folder, tmp_path):
    root = tmp_path / "split"
    shutil.copytree(folder, root / "train")
    for i in range(4):
        write(root / "test" / "cat" / f"{i}.png", 7000 + i)
        (root / "test" / "dog").mkdir(exist_ok=True)
        shutil.copy(root / "train" / "dog" / f"0{i}.png", root / "test" / "dog")
    assert "left in dog" in found(data(root, DataConfig()), "certification")[0].found


def test_imbalance_and_tiny_classes(folder):
    for i in range(4):
        write(folder / "newt" / f"{i}.png", 9000 + i)
    for i in range(20):
        write(folder / "dog" / f"more{i}.png", 9100 + i)
    report = data(folder, DataConfig())
    assert report.imbalance == 12.5
    statuses = [(finding.status, finding.found) for finding in found(report, "classes")]
    assert any(
        status == "problem" and "dog has 12 times as many images as newt" in text for status, text in statuses
    )
    assert any("newt (1)" in text for _, text in statuses)


def test_a_class_that_differs_in_more_than_its_subject(folder):
    for path in (folder / "dog").iterdir():
        Image.open(path).convert("L").save(path)
    (finding,) = found(data(folder, DataConfig()), "shortcuts")
    assert finding.found.startswith("Images are grey in dog, but not in cat")
    for path in list((folder / "dog").iterdir()):
        Image.open(path).convert("RGB").save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    assert {f.found.split(" in ")[0] for f in found(data(folder, DataConfig()), "shortcuts")} == {
        "Images are JPEG files",
        "Images are PNG files",
    }


def test_small_long_and_transparent_images(tmp_path):
    for number, name in enumerate(("cat", "dog")):
        for i in range(8):
            write(tmp_path / name / f"{i}.png", 100 * number + i, size=(60, 20), mode="RGBA")
    report = data(tmp_path, DataConfig())
    assert len(found(report, "sizes")) == 2
    assert report.kinds.transparent == 16


def test_frames_of_a_fixed_camera(tmp_path):
    random = np.random.default_rng(3)
    scene = random.integers(0, 240, (16, 16, 3))
    for i in range(60):
        path = tmp_path / ("empty" if i % 2 else "full") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        frame = np.clip(scene + random.integers(-4, 5, scene.shape), 0, 255).astype(np.uint8)
        Image.fromarray(frame).resize((64, 64), Image.Resampling.NEAREST).save(path)
    report = data(tmp_path, DataConfig())
    assert report.alike_by_nature == 60
    assert sum(one.kept_out for one in report.classes) == 0
    assert "fixed camera" in found(report, "copies")[0].found


def test_a_folder_of_split_data_sets(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "sets" / "red" / "train")
    for i in range(8):
        write(tmp_path / "sets" / "blue" / "train" / "cat" / f"{i}.png", 800 + i)
    (finding,) = found(data(tmp_path / "sets", DataConfig()), "layout")
    assert "itself divided" in finding.found


def test_unusable_folders_exit_with_1(tmp_path):
    (tmp_path / "cat").mkdir()
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "only one class" in result.stderr
    with pytest.raises(DataError):
        data(tmp_path, DataConfig())


def test_arguments_arrive(folder, monkeypatch):
    called = []

    def remember(*arguments):
        called.append(arguments)
        raise DataError("stop")

    monkeypatch.setattr("edgetl.steps.data.data", remember)
    run(folder, "--seed", "7", "--certification-share", "0.4", "--tuning-share", "0.1")
    assert called == [(folder, DataConfig(seed=7, certification_share=0.4, tuning_share=0.1))]


def test_json(folder):
    result = run(folder, "--json")
    assert result.exit_code == 0
    assert from_json(DataReport, result.stdout).images == 60
    result = run(folder / "none", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["exit_code"] == 1


def test_names_are_shown_as_they_are(folder):
    shutil.copytree(folder / "cat", folder / "[red]cat")
    (folder / "cat" / "[bold].png").write_bytes(b"")
    shown = run(folder).stdout
    assert "[red]cat" in shown
    assert "cat/[bold].png" in shown
