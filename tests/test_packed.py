"""`edgetl export --packed`: smaller files that every command reads as if they were not packed."""

import gzip
import hashlib
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from trained import copy_of, exported_once, said, shapes, trained, trained_once  # noqa: F401

from edgetl.card import Model
from edgetl.config import BenchConfig, EvalConfig, ExportConfig, Packing, PredictConfig, VerifyConfig
from edgetl.engines import open_classifier
from edgetl.errors import MissingExtra, ModelFolderError
from edgetl.packing import pack
from edgetl.reference import read_reference
from edgetl.steps.bench import bench
from edgetl.steps.evaluate import evaluate
from edgetl.steps.export import export
from edgetl.steps.predict import predict
from edgetl.steps.verify import verify

each_packing = pytest.mark.parametrize("packing", Packing)


def packed_copy(model: Model, packing: Packing) -> Model:
    """The model with every file packed as `export --packed` does it, without the time of exporting again."""

    def change(card):
        made = []
        for one in card.artifacts:
            content = pack(model.read(one), packing)
            (model.folder / f"{one.file}.{packing}").write_bytes(content)
            (model.folder / one.file).unlink()
            made.append(
                replace(
                    one,
                    file=f"{one.file}.{packing}",
                    sha256=hashlib.sha256(content).hexdigest(),
                    size_bytes=len(content),
                    packed=packing,
                )
            )
        return replace(card, artifacts=tuple(made))

    return model.update(change)


@each_packing
@pytest.mark.slow
def test_files_are_named_described_and_answer_as_before(trained, exported_once, packing):
    plain = Model.open(exported_once)
    settings = ExportConfig(precision="fp16,int8", packed=packing)
    with said() as lines:
        model, _ = export(trained, settings)
    pixels = read_reference(model).pixels
    assert {one.file for one in model.card.artifacts} == {
        f"model_{precision}.{form}.{packing}" for precision in ("fp16", "int8") for form in ("onnx", "tflite")
    }
    for one in model.card.artifacts:
        stored = (model.folder / one.file).read_bytes()
        before = plain.artifact(one.name)
        assert (one.size_bytes, one.packed) == (len(stored), packing)
        assert one.sha256 == hashlib.sha256(stored).hexdigest()
        assert one.unpacked_bytes == len(model.read(one)) == before.size_bytes == before.unpacked_bytes
        assert one.size_bytes < one.unpacked_bytes
        assert "level" in one.details["packer"]
        assert model.read(one) == plain.read(before)
        np.testing.assert_array_equal(
            open_classifier(model, one)(pixels), open_classifier(plain, before)(pixels)
        )
    assert any(f"model_int8.onnx.{packing}" in line and "MB unpacked" in line for line in lines)
    again, _ = export(model, settings)
    assert again.card.artifacts == model.card.artifacts


def test_the_packed_file_replaces_the_plain_one_and_the_other_way_round(trained):
    for packed, file in ((None, "model.onnx"), ("zst", "model.onnx.zst"), ("gz", "model.onnx.gz")) * 2:
        settings = ExportConfig(format="onnx", precision="fp32", packed=packed and Packing(packed))
        trained, _ = export(trained, settings)
        assert [one.file for one in trained.card.artifacts] == [file]
        assert [path.name for path in trained.folder.glob("model*.onnx*")] == [file]


@each_packing
def test_every_command_reads_packed_files(trained_once, exported_once, shapes, tmp_path, packing):
    model = packed_copy(copy_of(exported_once, tmp_path / "model"), packing)
    plain = Model.open(exported_once)
    images = [str(shapes / "test")]
    for name in ("onnx-int8", "tflite-int8"):
        rows = []
        for number, one in enumerate((plain, model)):
            output = tmp_path / f"{name}-{number}.jsonl"
            predict(one, images, PredictConfig(artifact=name, output=str(output)))
            rows.append([json.loads(line)["probability"] for line in output.read_text().splitlines()])
        assert rows[0] == rows[1]
        scored = evaluate(model, None, EvalConfig(artifact=name))
        assert scored.artifact == name
        _, verified = verify(model, VerifyConfig(artifact=name, max_drop=50, data=shapes))
        assert verified.parity[0].artifact_sha256 == model.artifact(name).sha256
        _, timed = bench(model, BenchConfig(artifact=name, seconds=0.05))
        assert timed.timings[0].size_bytes == model.artifact(name).size_bytes


def test_a_changed_packed_file_is_refused_before_it_is_unpacked(exported_once, tmp_path):
    model = packed_copy(copy_of(exported_once, tmp_path / "model"), Packing.GZ)
    artifact = model.artifact("onnx-int8")
    path = model.folder / artifact.file
    path.write_bytes(gzip.compress(bytes(1000)))
    with pytest.raises(ModelFolderError, match="SHA-256 differs"):
        open_classifier(model, artifact)


def test_a_card_that_states_another_size_is_refused(exported_once, tmp_path, invoke):
    model = packed_copy(copy_of(exported_once, tmp_path / "model"), Packing.ZST)
    smaller = [replace(one, unpacked_bytes=one.unpacked_bytes - 1) for one in model.card.artifacts]
    model = model.update(lambda card: replace(card, artifacts=tuple(smaller)))
    done = invoke("verify", model.folder, "--max-drop", "50")
    assert done.exit_code == 1
    assert "cannot be unpacked" in done.stderr
    assert "Export the model again" in done.stderr


def test_zst_without_its_package_is_refused_before_any_work(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtra, match="packed gz"):
        export(trained, ExportConfig(packed=Packing.ZST))
    assert trained.card.artifacts == ()


def test_the_command_shows_both_sizes(trained, invoke):
    done = invoke("export", trained.folder, "-f", "onnx", "-p", "fp32", "--packed", "gz")
    assert done.exit_code == 0, done.stderr
    assert "model.onnx.gz" in done.stdout
    assert "unpacked" in done.stdout
    assert invoke("export", trained.folder, "--packed", "zip").exit_code == 2


def test_goals_mean_the_packed_size(trained, shapes):
    """A limit between the sizes of both; nothing would be small enough unpacked."""
    plain, _ = export(trained, ExportConfig(format="onnx", precision="int8"))
    whole = plain.artifact("onnx-int8").size_bytes
    packed, _ = export(trained, ExportConfig(format="onnx", precision="int8", packed=Packing.ZST))
    limit = (whole + packed.artifact("onnx-int8").size_bytes) // 2
    goals = ExportConfig(
        format="onnx", precision="int8", max_drop="40", max_size=f"{limit}B", packed=Packing.ZST
    )
    model, exported = export(trained, goals)
    assert exported.parity[0].artifact_sha256 == model.artifact("onnx-int8").sha256
    assert [one.file for one in exported.artifacts] == ["model_int8.onnx.zst"]
    assert exported.tried[0].size_bytes == model.artifact("onnx-int8").size_bytes <= limit
    _, missed = export(trained, replace(goals, packed=None))
    assert missed.artifacts == ()
    assert "size" in missed.tried[0].misses
