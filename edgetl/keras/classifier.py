"""The full-precision network as a `Classifier`."""

import zipfile

import numpy as np
from numpy.typing import NDArray

from edgetl.card import Model
from edgetl.errors import ModelFolderError
from edgetl.files import sha256_of
from edgetl.keras.network import Layers, load_network, whole


class KerasClassifier:
    """`model.keras`: uint8 RGB [N, H, W, 3] -> float32 probabilities [N, classes]."""

    def __init__(self, layers: Layers) -> None:
        self._model = whole(layers)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Classifier`."""
        return np.asarray(self._model.predict_on_batch(pixels), np.float32)


def open_layers(model: Model) -> Layers:
    """The layers of a model folder's full-precision network. Raises `ModelFolderError`."""
    path = model.keras_file
    if not path.is_file():
        raise ModelFolderError(
            f"{model.folder} has no {path.name}: it is an exported model without its full-precision network.",
            "Use one of its artifacts, or the folder that it was exported from.",
        )
    if sha256_of(path) != model.card.keras_sha256:
        raise ModelFolderError(
            f"{path} is not the file that training wrote (its SHA-256 differs).", "Train again."
        )
    try:
        return load_network(model.card.network, model.card.input, str(path))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelFolderError(f"{path} cannot be read: {error}", "Train again.") from error
