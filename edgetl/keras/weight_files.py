"""Convolutions out of the files that trained networks come in. Only numbers are read, never code."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import load_file

from edgetl.errors import WeightsError

Array = NDArray[np.float32]
Convolution = tuple[Array, Array]  # kernel HWIO [3, 3, in, out] and bias [out]
TORCHVISION_POSITIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def read_layers(path: Path) -> list[Convolution]:
    """The 3x3 convolutions of a file, in layer order, whatever they make up. Raises `WeightsError`."""
    readers: dict[str, Callable[[Path], list[Convolution]]] = {
        ".h5": _read_h5,
        ".keras": _read_keras,
        ".onnx": _read_onnx,
        ".safetensors": _read_safetensors,
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise WeightsError(
            f"{path} has an unknown ending.",
            "Known: .h5, .weights.h5, .keras, .onnx, .safetensors, or a model folder.",
        )
    try:
        return readers[suffix](path)
    except WeightsError:
        raise
    except Exception as error:  # h5py, zipfile, protobuf and safetensors each raise what they like
        raise WeightsError(
            f"{path} cannot be read as a {suffix} file: {error}", "Check that the file is whole."
        ) from error


def _read_h5(source: Path | io.BytesIO) -> list[Convolution]:
    """From any of Keras's HDF5 layouts: saved weights or whole models, old and new, nested or not."""
    found: dict[str, dict[int, Array]] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and "optimizer" not in name and item.ndim in {1, 4}:
            found.setdefault(name.rpartition("/")[0], {})[item.ndim] = np.asarray(item, np.float32)

    with h5py.File(source, "r") as file:
        file.visititems(visit)
        order = _layer_order(file)
    ordered = sorted(found.items(), key=lambda pair: (_place(pair[0], order), _natural(pair[0])))
    return [
        (parts[4], parts[1]) for _, parts in ordered if set(parts) == {1, 4} and parts[4].shape[:2] == (3, 3)
    ]


def _layer_order(file: h5py.File) -> list[str]:
    """The names of the layers as older layouts list them; newer ones number the layers instead."""
    names = file.get("model_weights", file).attrs.get("layer_names", ())
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _place(name: str, order: list[str]) -> int:
    """Where the layer that a dataset belongs to stands in the order; behind all when it is not listed."""
    layer = name.removeprefix("model_weights/").partition("/")[0]
    return order.index(layer) if layer in order else len(order)


def _natural(name: str) -> list[tuple[int, str]]:
    """conv2d_2 before conv2d_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read_keras(path: Path) -> list[Convolution]:
    with zipfile.ZipFile(path) as archive:
        return _read_h5(io.BytesIO(archive.read("model.weights.h5")))


def _read_onnx(path: Path) -> list[Convolution]:
    """From the Conv nodes, OIHW turned to HWIO."""
    graph = onnx.load_model_from_string(path.read_bytes()).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    layers = []
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and set(node.input[1:]) <= set(tensors):
            kernel, bias = (_onnx_array(tensors[name], path) for name in node.input[1:])
            if kernel.shape[2:] == (3, 3):
                layers.append((_from_oihw(kernel), bias))
    return layers


def _onnx_array(tensor: onnx.TensorProto, path: Path) -> Array:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise WeightsError(
            f"{path} keeps its weights in another file.", "Save it as one file (onnx.save, up to 2 GB)."
        )
    return np.asarray(numpy_helper.to_array(tensor), np.float32)


def _read_safetensors(path: Path) -> list[Convolution]:
    """From torchvision's names `features.N.weight` (OIHW) and `features.N.bias`."""
    tensors = load_file(path)
    present = [n for n in TORCHVISION_POSITIONS if f"features.{n}.weight" in tensors]
    return [
        (
            _from_oihw(np.asarray(tensors[f"features.{n}.weight"], np.float32)),
            np.asarray(tensors[f"features.{n}.bias"], np.float32),
        )
        for n in present
    ]


def _from_oihw(kernel: Array) -> Array:
    return np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))
