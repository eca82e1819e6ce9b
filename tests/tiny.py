"""A whole model folder in milliseconds, without TensorFlow: a real ONNX network that knows colours."""

import hashlib
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageColor

from edgetl import images
from edgetl.card import (
    CARD_FILE,
    REFERENCE_FILE,
    Artifact,
    DataSummary,
    EpochRecord,
    InputSpec,
    Model,
    ModelCard,
    Network,
    Reference,
    RoleSummary,
    TrainingSummary,
    TrunkOrigin,
    with_artifact,
)
from edgetl.card_versions import SCHEMA_VERSION
from edgetl.config import Block, DataConfig, Format, Head, Precision
from edgetl.dataset import Dataset, Role, load, role_fingerprint
from edgetl.engines.onnx import OnnxClassifier
from edgetl.files import sha256_of, write_atomically
from edgetl.records import to_json
from edgetl.reference import write_reference
from edgetl.results import Parity
from edgetl.statistics import Verdict

LABELS = ("blue", "green", "red")
IMAGES_PER_SPLIT = {"train": 8, "val": 4, "test": 6}  # of each class, in a data folder
PHOTO_COLOURS = ("red", "green", "blue")
OPSET = 17
IR_VERSION = 8


def colour_of(label: str) -> tuple[int, int, int]:
    """The RGB colour that a class is named after (any CSS colour name)."""
    return ImageColor.getrgb(label)[:3]


def tiny_onnx(labels=LABELS, sharpness: float = 8.0) -> bytes:
    """An ONNX file: uint8 [N, H, W, 3] -> float32 [N, classes], softmax of the nearness to each class's colour."""
    colours = np.array([colour_of(label) for label in labels], np.float32) / 255
    weights = {
        "kernel": 2 * sharpness / 255 * colours.T,
        "bias": -sharpness * (colours**2).sum(axis=1),  # with the kernel: minus the squared distance
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "kernel"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(labels)])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def make_tiny_model(folder: Path, labels=LABELS, size: int = 8, with_reference: bool = False) -> Model:
    """A complete model folder with one artifact, onnx-fp32, that tells images of the colours `labels` apart.

    `with_reference`: also make `folder`/../data (train/, val/, test/, see `make_data`) and a real reference of its
    test images; otherwise the card names a reference of no images.
    """
    folder.mkdir(parents=True)
    content = tiny_onnx(labels)
    if with_reference:
        data = make_data(folder.parent / "data", labels)
        dataset = load(data, size, size, DataConfig())
        assert not dataset.leaking, "the generated images must not look like copies of each other"
        summary, reference = _summarise(dataset), _write_real_reference(folder, dataset, content)
    else:
        summary = DataSummary("../data", "split folders", 0, {}, 0, 0, 0.12, 0.08, 0.25)
        write_atomically(folder / REFERENCE_FILE, b"")
        reference = Reference(REFERENCE_FILE, sha256_of(folder / REFERENCE_FILE), 0, 0)
    write_atomically(folder / CARD_FILE, to_json(_card(folder.name, labels, size, summary, reference)))
    return add_onnx(Model.open(folder), Precision.FP32, content)


def add_onnx(model: Model, precision: Precision, content: bytes) -> Model:
    """The model with `content` as its ONNX artifact of that precision, whatever it really is."""
    name = f"onnx-{precision}"
    write_atomically(model.folder / f"{name}.onnx", content)
    digest = hashlib.sha256(content).hexdigest()
    artifact = Artifact(
        name,
        f"{name}.onnx",
        Format.ONNX,
        precision,
        digest,
        len(content),
        None,
        len(content),
        {"opset": str(OPSET)},
    )
    return model.update(lambda card: with_artifact(card, artifact))


def add_parity(model: Model, name: str, verdict: Verdict) -> Model:
    """The model with a recorded verdict on one artifact."""
    parity = Parity(
        artifact=name,
        artifact_sha256=model.artifact(name).sha256,
        images=18,
        source="certification images",
        agreement=1.0,
        harmful=0,
        helpful=0,
        drop_points=0.0,
        drop_upper_points=0.5,
        drop_lower_points=-0.5,
        max_drop_points=1.0,
        max_difference=0.0,
        mean_kl=0.0,
        sqnr_db=float("nan"),
        p_value=0.01,
        p_adjusted=0.02,
        verdict=verdict,
        more_images=0,
        instruction_set="avx2",
        classes=(),
        disagreements=(),
    )
    return model.update(lambda card: replace(card, parity=card.parity | {name: parity}))


def make_image(path: Path, label: str, seed: int = 0, side: int = 24) -> Path:
    """A PNG file of the class's colour under a pattern of greys that depends on the seed."""
    greys = np.random.default_rng(seed).integers(0, 256, (4, 4, 1))
    blocks = (0.7 * np.array(colour_of(label)) + 0.3 * greys).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST).save(path, "PNG")
    return path


def make_photos(folder: Path, count: int) -> Path:
    """Images 000.png and so on, red, green and blue by turns; of every seven the fourth is no image."""
    for number in range(count):
        path = folder / f"{number:03d}.png"
        if number % 7 == 3:
            path.write_bytes(b"no image %d" % number)
        else:
            make_image(path, PHOTO_COLOURS[number % 3], number)
    return folder


def make_data(folder: Path, labels=LABELS) -> Path:
    """A data folder train/, val/, test/ with `IMAGES_PER_SPLIT` images of each class, no two alike."""
    seed = 0
    for split, count in IMAGES_PER_SPLIT.items():
        for label in labels:
            for number in range(count):
                seed += 1
                make_image(folder / split / label / f"{number}.png", label, seed)
    return folder


def _write_real_reference(folder: Path, dataset: Dataset, content: bytes) -> Reference:
    certification = dataset.roles[Role.CERTIFICATION]
    probabilities = OnnxClassifier(content)(certification.pixels)
    stored = write_reference(folder / REFERENCE_FILE, certification, probabilities, dataset.labels, seed=0)
    return Reference(REFERENCE_FILE, sha256_of(folder / REFERENCE_FILE), len(certification), stored)


def _summarise(dataset: Dataset) -> DataSummary:
    roles = {}
    for role, members in dataset.roles.items():
        counts = np.bincount(members.labels, minlength=len(dataset.labels))
        roles[role.value] = RoleSummary(
            len(members), tuple(counts.tolist()), role_fingerprint(members.digests)
        )
    return DataSummary(str(dataset.folder.resolve()), dataset.layout, 0, roles, 0, 0, 0.12, 0.08, 0.25)


def _card(name: str, labels, size: int, data: DataSummary, reference: Reference) -> ModelCard:
    epoch = EpochRecord("head", 1, 0.2, 0.9, 0.3, 0.8, 1.0, 1.0)
    return ModelCard(
        schema_version=SCHEMA_VERSION,
        edgetl_version="0.1.0",
        created="2026-01-01T00:00:00+00:00",
        name=name,
        labels=tuple(labels),
        input=InputSpec(size, size, (0.0, 0.0, 0.0), 1.0, images.WHITE, images.PREPROCESSING_VERSION),
        network=Network(Block.BLOCK1, Head.GAP, (Block.BLOCK1,), 0, len(labels)),
        weights=TrunkOrigin("colours", "tests/tiny.py", "Apache-2.0", "0" * 64),
        data=data,
        training=TrainingSummary({"seed": "0"}, (), (epoch,), "head", 1, 1.0, 0.1, {"numpy": np.__version__}),
        compression=None,
        reference=reference,
        keras_sha256="0" * 64,
        artifacts=(),
        tried=(),
        explained=(),
        scores={},
        parity={},
        timing={},
    )


@contextmanager
def hearing_control_c():
    """Children that are started meanwhile hear SIGINT, also where whoever runs the tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
