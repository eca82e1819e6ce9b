"""TFLite Model Metadata: what is written is read back, and the model still computes the same."""

import dataclasses
import io
import zipfile
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgetl.errors import DataError, ModelFolderError
from edgetl.metadata.tflite import LABELS_FILE, METADATA_ENTRY, TFLiteMetadata, add_metadata, read_metadata

SIDE = 4
METADATA = TFLiteMetadata(
    name="Flowers",
    description="Äpfel & 花.",
    version="1.2",
    author="A. B.",
    license="Apache-2.0",
    labels=("a", "b c", "犬"),
)
LABELS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"), min_size=1)


def tiny_model(classes: int = 3) -> bytes:
    """uint8 [batch, 4, 4, 3] -> cast -> mean over the image -> dense -> softmax -> float32 [batch, classes]."""
    weights = np.random.default_rng(0).normal(0, 0.02, (classes, 3)).astype(np.float32)
    contents = [None, np.array([1, 2], np.int32), weights, np.zeros(classes, np.float32)]
    operators = [
        _operator(0, [0], 1, schema.BuiltinOptions.CastOptions, schema.CastOptionsT()),
        _operator(1, [1, 2], 3, schema.BuiltinOptions.ReducerOptions, schema.ReducerOptionsT()),
        _operator(
            2, [3, 4, 5], 6, schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT()
        ),
        _operator(3, [6], 7, schema.BuiltinOptions.SoftmaxOptions, schema.SoftmaxOptionsT(beta=1.0)),
    ]
    names = ("CAST", "MEAN", "FULLY_CONNECTED", "SOFTMAX")
    codes = [getattr(schema.BuiltinOperator, name) for name in names]
    main = schema.SubGraphT(tensors=_tensors(classes), inputs=[0], outputs=[7], operators=operators)
    signature = schema.SignatureDefT(
        signatureKey="serving_default",
        inputs=[schema.TensorMapT(name="image", tensorIndex=0)],
        outputs=[schema.TensorMapT(name="probabilities", tensorIndex=7)],
    )
    model = schema.ModelT(
        version=3,
        operatorCodes=[
            schema.OperatorCodeT(deprecatedBuiltinCode=c, builtinCode=c, version=1) for c in codes
        ],
        subgraphs=[main],
        buffers=[schema.BufferT(data=None if c is None else c.view(np.uint8).ravel()) for c in contents],
        signatureDefs=[signature],
    )
    return packed(model)


def packed(model: schema.ModelT) -> bytes:
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensors(classes):
    return [
        _tensor("image", [1, SIDE, SIDE, 3], schema.TensorType.UINT8, signature=[-1, SIDE, SIDE, 3]),
        _tensor("float", [1, SIDE, SIDE, 3]),
        _tensor("axes", [2], schema.TensorType.INT32, buffer=1),
        _tensor("mean", [1, 3]),
        _tensor("weights", [classes, 3], buffer=2),
        _tensor("bias", [classes], buffer=3),
        _tensor("logits", [1, classes]),
        _tensor("probabilities", [1, classes]),
    ]


def _tensor(name, shape, dtype=schema.TensorType.FLOAT32, buffer=0, signature=None):
    return schema.TensorT(name=name, shape=shape, type=dtype, buffer=buffer, shapeSignature=signature)


def _operator(code, inputs, output, options_type, options):
    return schema.OperatorT(
        opcodeIndex=code,
        inputs=inputs,
        outputs=[output],
        builtinOptionsType=options_type,
        builtinOptions=options,
    )


def probabilities(model: bytes, pixels: np.ndarray) -> np.ndarray:
    """uint8 [N, 4, 4, 3] -> float32 [N, classes], as one batch."""
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.resize_tensor_input(0, pixels.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(0, pixels)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


MODEL = tiny_model()


def test_what_is_written_is_read_back():
    assert read_metadata(add_metadata(MODEL, METADATA)) == METADATA


@given(
    text=st.text(st.characters(exclude_categories=["Cs"])), labels=st.lists(LABELS, min_size=3, max_size=3)
)
def test_any_text_and_any_labels_come_back(text, labels):
    metadata = dataclasses.replace(METADATA, name=text, description=text, labels=tuple(labels))
    assert read_metadata(add_metadata(MODEL, metadata)) == metadata


def test_the_file_is_also_a_zip_with_the_labels(tmp_path: Path):
    path = tmp_path / "model.tflite"
    path.write_bytes(add_metadata(MODEL, METADATA))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [LABELS_FILE]
        assert archive.getinfo(LABELS_FILE).compress_type == zipfile.ZIP_STORED
        assert archive.read(LABELS_FILE).decode() == "a\nb c\n犬\n"


def test_zip_offsets_count_from_the_start_of_the_model():
    marked = add_metadata(MODEL, METADATA)
    with zipfile.ZipFile(io.BytesIO(marked)) as archive:
        start = archive.getinfo(LABELS_FILE).header_offset
    assert marked[start : start + 4] == b"PK\x03\x04"
    # The offset as stored, 22 bytes before the end: `zipfile` would forgive one that ignores the model.
    directory = int.from_bytes(marked[-6:-2], "little")
    assert marked[directory : directory + 4] == b"PK\x01\x02"
    assert int.from_bytes(marked[directory + 42 : directory + 46], "little") == start


@pytest.mark.parametrize("batch", [1, 7])
def test_the_model_computes_the_same(batch):
    pixels = np.random.default_rng(1).integers(0, 256, (batch, SIDE, SIDE, 3), dtype=np.uint8)
    expected = probabilities(MODEL, pixels)
    assert expected.shape == (batch, 3)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(probabilities(add_metadata(MODEL, METADATA), pixels), expected)


def test_signatures_and_input_details_stay():
    before, after = (Interpreter(model_content=m) for m in (MODEL, add_metadata(MODEL, METADATA)))
    assert after.get_signature_list() == before.get_signature_list() != {}
    assert list(after.get_input_details()[0]["shape_signature"]) == [-1, SIDE, SIDE, 3]


def test_other_metadata_entries_stay():
    tree = schema.ModelT.InitFromPackedBuf(MODEL, 0)
    tree.buffers.append(schema.BufferT(data=np.frombuffer(b"1.5.0", np.uint8)))
    tree.metadata = [schema.MetadataT(name="min_runtime_version", buffer=len(tree.buffers) - 1)]
    marked = schema.ModelT.InitFromPackedBuf(add_metadata(packed(tree), METADATA), 0)
    entries = {entry.name.decode(): bytes(marked.buffers[entry.buffer].data) for entry in marked.metadata}
    assert list(entries) == ["min_runtime_version", METADATA_ENTRY]
    assert entries["min_runtime_version"] == b"1.5.0"
    assert entries[METADATA_ENTRY][4:8] == b"M001"


def test_the_same_bytes_every_time():
    assert add_metadata(MODEL, METADATA) == add_metadata(MODEL, METADATA)


@pytest.mark.parametrize("label", ["", "two\nlines", "carriage\rreturn", "nul\0", "\udcff"])
def test_labels_that_do_not_fit_a_line_are_refused(label):
    with pytest.raises(DataError, match="Rename its folder"):
        add_metadata(MODEL, dataclasses.replace(METADATA, labels=("a", label, "c")))


@pytest.mark.parametrize("labels", [(), ("a", "b"), ("a", "b", "c", "d")])
def test_a_label_for_each_class_and_no_more(labels):
    with pytest.raises(ModelFolderError, match=f"3 classes, and there are {len(labels)} labels"):
        add_metadata(MODEL, dataclasses.replace(METADATA, labels=labels))


def test_metadata_is_not_added_twice():
    with pytest.raises(ModelFolderError, match="already"):
        add_metadata(add_metadata(MODEL, METADATA), METADATA)


@pytest.mark.parametrize("read", [read_metadata, lambda model: add_metadata(model, METADATA)])
@pytest.mark.parametrize("model", [b"", b"\x08\x00\x00\x00ONNX", b"PK\x05\x06" + bytes(18)])
def test_other_files_are_refused(read, model):
    with pytest.raises(ModelFolderError, match="Not a TFLite model"):
        read(model)


def test_a_model_without_metadata_says_so():
    with pytest.raises(ModelFolderError, match="has no metadata"):
        read_metadata(MODEL)


def test_a_model_that_lost_its_zip_keeps_its_name():
    marked = add_metadata(MODEL, METADATA)
    with zipfile.ZipFile(io.BytesIO(marked)) as archive:
        start = archive.getinfo(LABELS_FILE).header_offset
    assert read_metadata(marked[:start]) == dataclasses.replace(METADATA, labels=())


@given(data=st.data())
def test_damage_is_never_our_bug(data):
    marked = add_metadata(MODEL, METADATA)
    if data.draw(st.booleans(), "cut"):
        marked = marked[: data.draw(st.integers(0, len(marked) - 1))]
    else:
        at = data.draw(st.integers(0, len(marked) - 1))
        marked = marked[:at] + bytes([data.draw(st.integers(0, 255))]) + marked[at + 1 :]
    try:
        read_metadata(marked)
    except ModelFolderError as error:
        assert error.what  # noqa: PT017 - damage may also hit bytes that nothing reads
