"""TFLite files through LiteRT (XNNPACK on the CPU)."""

import os
import threading

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from edgetl.errors import ModelFolderError
from edgetl.quiet import native_output_hidden


class TFLiteClassifier:
    """A TFLite file that takes uint8 RGB [N, H, W, 3] and gives float32 probabilities [N, classes].

    The file's own batch size is 1; the interpreter is resized to the batch it is given and stays there until
    another size comes.
    """

    def __init__(self, content: bytes, threads: int = 0) -> None:
        try:
            with native_output_hidden():  # it announces its delegate
                self._interpreter = Interpreter(model_content=content, num_threads=threads or os.cpu_count())
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelFolderError(f"LiteRT refuses the model: {error}", "Export the model again.") from error
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._batch = 1
        self._one_at_a_time = threading.Lock()  # an interpreter is one set of buffers

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Classifier`."""
        with self._one_at_a_time:
            if len(pixels) != self._batch:
                self._interpreter.resize_tensor_input(self._input, pixels.shape)
                self._interpreter.allocate_tensors()
                self._batch = len(pixels)
            self._interpreter.set_tensor(self._input, np.ascontiguousarray(pixels))
            self._interpreter.invoke()
            return np.array(self._interpreter.get_tensor(self._output), np.float32)
