"""ONNX files through ONNX Runtime on the CPU."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgetl.engines.embedding import with_embedding
from edgetl.engines.messages import parts
from edgetl.errors import ModelFolderError
from edgetl.machine import int8_sums_may_saturate

ERRORS_ONLY = 3  # of onnxruntime's log levels
# Kernels whose sums do not saturate. With VNNI none does, and these take three to four times as long.
EXACT_SUMS = ("session.x64quantprecision", "1")
SUMS, SUMS_FIT = "edgetl.sums", "fit into 16 bits"  # of the metadata of files that need no such kernels
_MODEL_METADATA, _KEY, _VALUE = 14, 1, 2  # onnx.proto3


def session_of(content: bytes, threads: int = 0, float_weights: bool = False) -> onnxruntime.InferenceSession:
    """A session made from bytes, never from a path: no external data can be pulled in.

    `float_weights` turns int8 weights into float32 once, at load, for files that compute in float anyway;
    left alone, ONNX Runtime would do it again for every batch.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    if int8_sums_may_saturate() and not sums_fit(content):
        options.add_session_config_entry(*EXACT_SUMS)
    if float_weights:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a family of its own without a common base
        raise ModelFolderError(
            f"ONNX Runtime refuses the model: {error}", "Export the model again."
        ) from error


def sums_fit(content: bytes) -> bool:
    """Whether the file says that its weights are small enough for the fast kernels of every CPU."""
    for entry in parts(memoryview(content), _MODEL_METADATA):
        if bytes(next(parts(entry, _KEY), b"")) == SUMS.encode():
            return bytes(next(parts(entry, _VALUE), b"")) == SUMS_FIT.encode()
    return False


class OnnxClassifier:
    """An ONNX file that takes uint8 RGB [N, H, W, 3] and gives float32 probabilities [N, classes]."""

    def __init__(self, content: bytes, threads: int = 0, float_weights: bool = False) -> None:
        self._session = session_of(content, threads, float_weights)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Classifier`."""
        (probabilities,) = self._session.run(None, {self._input: pixels})
        return np.asarray(probabilities, np.float32)


class OnnxEmbedder:
    """An ONNX file that also gives what its last layer sees, float32 [N, features]."""

    def __init__(self, content: bytes, threads: int = 0, float_weights: bool = False) -> None:
        grown, self._name = with_embedding(content)
        self._session = session_of(grown, threads, float_weights)
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def __call__(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """uint8 RGB [N, H, W, 3] to probabilities [N, classes] and embeddings [N, features]."""
        outputs = self._session.run([self._output, self._name], {self._input: pixels})
        probabilities, embeddings = (np.asarray(output, np.float32) for output in outputs)
        return probabilities, embeddings.reshape(len(pixels), -1)
