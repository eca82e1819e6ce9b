"""How fast this machine is, measured in a second before anything is decided."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgetl import images
from edgetl.card import InputSpec
from edgetl.config import Arithmetic, Block, FeaturePrecision
from edgetl.engines.onnx import session_of
from edgetl.features.graph import INPUT, TrunkWeights, averages_of, only, trunk_graph
from edgetl.listing import Entry
from edgetl.machine import has_bfloat16, instruction_set
from edgetl.vgg16 import conv_shapes, multiplications

_SIDE, _BATCH, _ROUNDS = 64, 4, 3
_MOST_READ = 32  # images
# Ratios to float32 inference in ONNX Runtime, as benchmarks/rates.py measures them.
_INT8_GAIN = {"x86-64 AVX512-VNNI": 3.3, "x86-64 AVX-VNNI": 3.0, "aarch64 dotprod": 2.5}
_TRAINING_SHARE = 0.85
_BFLOAT16_GAIN = 1.5


@dataclass(frozen=True)
class Rates:
    """What one second is worth."""

    images_read: float  # decoded, resized and compared
    forward: float  # multiply-adds of float32 inference

    def features(self, precision: FeaturePrecision) -> float:
        """Multiply-adds of the frozen trunk in a second."""
        return self.forward * (
            _INT8_GAIN.get(instruction_set(), 1.0) if precision is FeaturePrecision.INT8 else 1.0
        )

    def training(self, arithmetic: Arithmetic) -> float:
        """Multiply-adds of training in a second, forward and backward."""
        return self.forward * _TRAINING_SHARE * (_BFLOAT16_GAIN if arithmetic is Arithmetic.BFLOAT16 else 1.0)


def measure_rates(entries: Sequence[Entry], side: int, threads: int = 2) -> Rates:
    """Read some of the images and run a small trunk of random weights."""
    step = max(1, len(entries) // _MOST_READ)
    paths = [entry.path for entry in entries[::step]][:_MOST_READ]
    started = time.perf_counter()
    read = sum(1 for _ in images.examine_many(paths, side, side, threads=threads))
    reading = time.perf_counter() - started
    return Rates(read / max(reading, 1e-6), _forward_rate())


def _forward_rate() -> float:
    """The best of a few rounds: a pause of the machine is not its speed."""
    random = np.random.default_rng(0)
    shapes = conv_shapes(Block.BLOCK3)
    kernels = tuple((0.05 * random.standard_normal(shape)).astype(np.float32) for shape in shapes)
    weights = TrunkWeights(kernels, tuple(np.zeros(shape[3], np.float32) for shape in shapes))
    spec = InputSpec(_SIDE, _SIDE, (0.0, 0.0, 0.0), 1 / 255, (255, 255, 255), 1)
    asked = [averages_of(Block.BLOCK3)]
    session = session_of(only(trunk_graph(weights, spec, Block.BLOCK3), asked).SerializeToString())
    pixels = random.integers(0, 256, (_BATCH, _SIDE, _SIDE, 3), np.uint8)
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        session.run(asked, {INPUT: pixels})
        seconds.append(time.perf_counter() - started)
    return _BATCH * multiplications(_SIDE, _SIDE, None, Block.BLOCK3) / min(seconds)


def resolved_arithmetic(wanted: Arithmetic) -> Arithmetic:
    """What `auto` means on this machine."""
    if wanted is not Arithmetic.AUTO:
        return wanted
    return Arithmetic.BFLOAT16 if has_bfloat16() else Arithmetic.FLOAT32


def has_fast_int8() -> bool:
    """Whether this CPU has instructions for int8 convolutions."""
    return instruction_set() in _INT8_GAIN
