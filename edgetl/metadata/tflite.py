"""TFLite Model Metadata: the names, value ranges and labels that MediaPipe Tasks reads from a `.tflite` file.

    file := flatbuffer "TFL3" | zip
              |                 labels.txt, one class name per line, UTF-8
              Model.metadata[] += {name "TFLITE_METADATA", buffer -> flatbuffer "M001" (ModelMetadata)}

Slot numbers come from `metadata_schema.fbs` 1.5.0 (tensorflow/tflite-support and google-ai-edge/mediapipe,
Apache-2.0): a field's slot is its place in its table, and a union takes two. Needs `edgetl[tflite]`. Write
metadata last: converters and quantizers that rewrite a model drop the zip.

MediaPipe 1.2.2 opens a classifier whose input is uint8 [1, H, W, 3] (quantized or not, batch resizable or
not) and whose output is float32 or uint8 [1, classes]. It refuses int8 inputs and outputs, float inputs
without normalization, other batch sizes and a compressed zip; a wrong number of labels fails at the first
image.
"""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers.table import Table

from edgetl.errors import DataError, ModelFolderError

LABELS_FILE: Final = "labels.txt"
METADATA_ENTRY: Final = "TFLITE_METADATA"
MODEL_IDENTIFIER: Final = b"TFL3"
METADATA_IDENTIFIER: Final = b"M001"
# The schema asks for the newest version among the fields in use; all of ours are as old as the schema.
MIN_PARSER_VERSION: Final = "1.0.0"
# flatbuffers' internals: offsets are uint32; a vtable is two uint16 sizes, then a uint16 for each slot.
_OFFSET_BYTES: Final = 4
_VTABLE_HEADER_BYTES: Final = 4
_SLOT_BYTES: Final = 2
# What flatbuffers (first line) and zipfile (second) raise on bytes that make no sense.
_DAMAGE: Final = (
    *(struct.error, IndexError, TypeError, ValueError),
    *(zipfile.BadZipFile, EOFError, RuntimeError),
)


class _ModelMetadata(IntEnum):
    NAME = 0
    DESCRIPTION = 1
    VERSION = 2
    SUBGRAPHS = 3
    AUTHOR = 4
    LICENSE = 5
    MIN_PARSER_VERSION = 7


class _SubgraphMetadata(IntEnum):
    INPUTS = 2
    OUTPUTS = 3


class _TensorMetadata(IntEnum):
    NAME = 0
    DESCRIPTION = 1
    CONTENT = 3
    STATS = 5
    ASSOCIATED_FILES = 6


class _Content(IntEnum):
    PROPERTIES_TYPE = 0
    PROPERTIES = 1


class _ContentType(IntEnum):
    FEATURE = 1
    IMAGE = 2


class _ImageProperties(IntEnum):
    COLOR_SPACE = 0


class _ColorSpace(IntEnum):
    RGB = 1


class _Stats(IntEnum):
    MAX = 0
    MIN = 1


class _AssociatedFile(IntEnum):
    NAME = 0
    DESCRIPTION = 1
    TYPE = 2


class _FileType(IntEnum):
    TENSOR_AXIS_LABELS = 2


# What a table's slot holds; a table is a mapping from its slots. An enum value takes one byte.
Node: TypeAlias = "str | IntEnum | tuple[float, ...] | TableNode | list[TableNode]"
TableNode: TypeAlias = Mapping[IntEnum, Node]


@dataclass(frozen=True)
class TFLiteMetadata:
    """What a `.tflite` classifier says about itself; `labels` are in output order."""

    name: str
    description: str
    version: str
    author: str
    license: str
    labels: tuple[str, ...]


def add_metadata(model: bytes, metadata: TFLiteMetadata) -> bytes:
    """The classifier `model` with `metadata` and `labels.txt`; what it computes stays the same.

    `model`: one uint8 [1, H, W, 3] RGB input, one [1, classes] output of probabilities, under 2 GB.
    Raises `DataError` for labels that do not fit a line each, `ModelFolderError` for a model that is not
    TFLite, has metadata already, or has other than `len(metadata.labels)` classes.
    """
    labels = _label_lines(metadata.labels)
    if _metadata_buffer(_checked(model, MODEL_IDENTIFIER)) is not None:
        raise ModelFolderError("The TFLite model has metadata already.", "Start from the model without it.")
    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    _bring_inside(tree, model)
    main = tree.subgraphs[0]
    classes = int(main.tensors[main.outputs[0]].shape[-1])
    if classes != len(metadata.labels):
        raise ModelFolderError(
            f"The TFLite model has {classes} classes, and there are {len(metadata.labels)} labels.",
            "Export the model again from its own folder.",
        )
    return _with_zip(_with_buffer(tree, _model_metadata(metadata), len(model)), {LABELS_FILE: labels})


def read_metadata(model: bytes) -> TFLiteMetadata:
    """The metadata in the `.tflite` file `model`; fields it leaves out are empty.

    Raises `ModelFolderError` when there is none or the file is damaged.
    """
    try:
        buffer = _metadata_buffer(_checked(model, MODEL_IDENTIFIER))
        if buffer is None:
            raise ModelFolderError("The TFLite model has no metadata.", "Export it again.")
        root_at = int.from_bytes(_checked(buffer, METADATA_IDENTIFIER)[:_OFFSET_BYTES], "little")
        root = Table(buffer, root_at)
        return TFLiteMetadata(
            name=_text(root, _ModelMetadata.NAME),
            description=_text(root, _ModelMetadata.DESCRIPTION),
            version=_text(root, _ModelMetadata.VERSION),
            author=_text(root, _ModelMetadata.AUTHOR),
            license=_text(root, _ModelMetadata.LICENSE),
            labels=_read_labels(model),
        )
    except _DAMAGE as error:
        raise ModelFolderError(f"The TFLite model is damaged: {error}.", "Export it again.") from error


def _checked(flatbuffer: bytes, identifier: bytes) -> bytes:
    """`flatbuffer`, when it carries `identifier`; `ModelFolderError` otherwise."""
    if flatbuffer[4:8] != identifier:
        raise ModelFolderError(f"Not a TFLite model: no {identifier.decode()} at byte 4.", "Export it again.")
    return flatbuffer


def _label_lines(labels: Sequence[str]) -> bytes:
    """`labels` as UTF-8 lines; readers split at line ends and drop an empty last line."""
    for label in labels:
        if not label or any(character in label for character in "\n\r\0"):
            raise DataError(f"The label {label!r} is empty or has a line break.", "Rename its folder.")
    try:
        return "".join(f"{label}\n" for label in labels).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"A label is not Unicode text: {error}.", "Rename its folder.") from error


def _model_metadata(metadata: TFLiteMetadata) -> bytes:
    """The `ModelMetadata` flatbuffer, "M001"."""
    subgraph: TableNode = {
        _SubgraphMetadata.INPUTS: [_image_input()],
        _SubgraphMetadata.OUTPUTS: [_probability_output()],
    }
    root: TableNode = {
        _ModelMetadata.NAME: metadata.name,
        _ModelMetadata.DESCRIPTION: metadata.description,
        _ModelMetadata.VERSION: metadata.version,
        _ModelMetadata.SUBGRAPHS: [subgraph],
        _ModelMetadata.AUTHOR: metadata.author,
        _ModelMetadata.LICENSE: metadata.license,
        _ModelMetadata.MIN_PARSER_VERSION: MIN_PARSER_VERSION,
    }
    builder = flatbuffers.Builder()
    builder.Finish(_write_table(builder, root), METADATA_IDENTIFIER)
    return bytes(builder.Output())


def _image_input() -> TableNode:
    """`TensorMetadata` of an RGB image; without normalization, which readers ask of float inputs only."""
    return {
        _TensorMetadata.NAME: "image",
        _TensorMetadata.DESCRIPTION: "RGB image of the input's height and width, 0 to 255.",
        _TensorMetadata.CONTENT: {
            _Content.PROPERTIES_TYPE: _ContentType.IMAGE,
            _Content.PROPERTIES: {_ImageProperties.COLOR_SPACE: _ColorSpace.RGB},
        },
        _TensorMetadata.STATS: {_Stats.MAX: (255.0,), _Stats.MIN: (0.0,)},
    }


def _probability_output() -> TableNode:
    """`TensorMetadata` of class probabilities; MediaPipe calls its result by this name."""
    labels: TableNode = {
        _AssociatedFile.NAME: LABELS_FILE,
        _AssociatedFile.DESCRIPTION: "Class names, one per line.",
        _AssociatedFile.TYPE: _FileType.TENSOR_AXIS_LABELS,
    }
    return {
        _TensorMetadata.NAME: "probability",
        _TensorMetadata.DESCRIPTION: "Probability of each class, in the order of the labels.",
        _TensorMetadata.CONTENT: {_Content.PROPERTIES_TYPE: _ContentType.FEATURE, _Content.PROPERTIES: {}},
        _TensorMetadata.STATS: {_Stats.MAX: (1.0,), _Stats.MIN: (0.0,)},
        _TensorMetadata.ASSOCIATED_FILES: [labels],
    }


def _write_table(builder: flatbuffers.Builder, table: TableNode) -> int:
    """Put `table` and all below it into `builder`; its offset."""
    # A flatbuffer is written from its leaves up: a table cannot be open while another is written.
    leaves = {
        slot: value if isinstance(value, IntEnum) else _write(builder, value) for slot, value in table.items()
    }
    builder.StartObject(max(leaves, default=-1) + 1)
    for slot, value in leaves.items():
        if isinstance(value, IntEnum):
            builder.PrependInt8Slot(slot, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    return int(builder.EndObject())


def _write(builder: flatbuffers.Builder, value: str | tuple[float, ...] | TableNode | list[TableNode]) -> int:
    """Put a value that is stored by offset into `builder`; its offset."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, tuple):
        return int(builder.CreateNumpyVector(np.asarray(value, np.float32)))
    if isinstance(value, Mapping):
        return _write_table(builder, value)
    offsets = [_write_table(builder, item) for item in value]
    builder.StartVector(_OFFSET_BYTES, len(offsets), _OFFSET_BYTES)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _bring_inside(tree: schema.ModelT, model: bytes) -> None:
    """Take in the buffers that a large model keeps behind its flatbuffer: packing would lose them."""
    for buffer in tree.buffers:
        if buffer.offset > 1:  # 0: inside; 1: the writer's mark for "not set yet"
            buffer.data = np.frombuffer(model, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0


def _with_buffer(tree: schema.ModelT, payload: bytes, size_bytes: int) -> bytes:
    """The model `tree`, of about `size_bytes`, packed with one more metadata entry that holds `payload`."""
    # An array is copied whole; a list would be packed byte by byte.
    tree.buffers.append(schema.BufferT(data=np.frombuffer(payload, np.uint8)))
    entry = schema.MetadataT(name=METADATA_ENTRY, buffer=len(tree.buffers) - 1)
    tree.metadata = [*(tree.metadata or ()), entry]
    builder = flatbuffers.Builder(size_bytes + len(payload))
    builder.Finish(tree.Pack(builder), MODEL_IDENTIFIER)
    return bytes(builder.Output())


def _with_zip(model: bytes, files: Mapping[str, bytes]) -> bytes:
    """`model` followed by a zip of `files`; the same bytes at any time on any system.

    Stored, not deflated: MediaPipe refuses a compressed zip. Offsets count from the start of the model.
    """
    stream = io.BytesIO(model)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.create_system = 3  # Unix, on Windows too
            member.external_attr = 0o644 << 16
            archive.writestr(member, content)
    return stream.getvalue()


def _metadata_buffer(model: bytes) -> bytes | None:
    """The bytes of the model's `TFLITE_METADATA` buffer; None without such an entry."""
    root = schema.Model.GetRootAs(model, 0)
    for index in range(root.MetadataLength()):
        entry = root.Metadata(index)
        if entry.Name() == METADATA_ENTRY.encode():
            buffer = root.Buffers(entry.Buffer())
            return b"" if buffer.DataIsNone() else bytes(buffer.DataAsNumpy())
    return None


def _text(table: Table, slot: int) -> str:
    """A string field; empty when absent."""
    place = table.Offset(_VTABLE_HEADER_BYTES + _SLOT_BYTES * slot)
    return str(table.String(table.Pos + place).decode()) if place else ""


def _read_labels(model: bytes) -> tuple[str, ...]:
    """The lines of `labels.txt` in the zip at the end of `model`; none without one."""
    stream = io.BytesIO(model)
    if not zipfile.is_zipfile(stream):
        return ()
    with zipfile.ZipFile(stream) as archive:
        if LABELS_FILE not in archive.namelist():
            return ()
        # Not splitlines: it also splits at characters that a label may have, such as U+2028.
        return tuple(archive.read(LABELS_FILE).decode().removesuffix("\n").split("\n"))
