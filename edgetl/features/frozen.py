"""The frozen trunk: what it makes of an image is computed once, whoever asks, and kept in the cache."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgetl.cache import ActivationCache, Rows, Space
from edgetl.card import InputSpec
from edgetl.config import Block, FeaturePrecision
from edgetl.engines.onnx import session_of
from edgetl.features.graph import INPUT, TrunkWeights, averages_of, continuing, maps_of, only, trunk_graph
from edgetl.files import fingerprint
from edgetl.machine import instruction_set
from edgetl.progress import task
from edgetl.quantize.onnx import to_int8
from edgetl.transfer.layout import row_width
from edgetl.vgg16 import map_shape, multiplications

LARGEST_HALF = 65504.0  # float16
IMAGES_AT_ONCE = 32
_VERSION = "3"  # of what the rows mean; another one shares nothing with earlier caches

Extractor = Callable[[NDArray[Any]], list[NDArray[np.float32]]]


@dataclass(frozen=True)
class Calibration:
    """The images that set the ranges of an int8 trunk."""

    pixels: NDArray[np.uint8]  # RGB [N, H, W, 3]
    fingerprint: str


@dataclass(frozen=True)
class FrozenTrunk:
    """Convolutions that do not change, in the precision in which they are computed."""

    name: str  # for people
    weights: TrunkWeights
    spec: InputSpec
    precision: FeaturePrecision  # fp32 or int8
    calibration: Calibration
    cache: ActivationCache
    threads: int = 0
    made: dict[tuple[str | None, ...], Extractor] = field(default_factory=dict, repr=False, compare=False)

    def maps_space(self, boundary: Block) -> Space:
        """Rows are activations [h, w, C] after `boundary`."""
        return self._space(f"activations after {boundary}", boundary, self._shape(boundary))

    def pooled_space(self, blocks: tuple[Block, ...]) -> Space:
        """Rows are averages and maxima of these blocks, see `transfer.layout`."""
        title = f"pooled {', '.join(blocks)}"
        return self._space(title, blocks[-1], (row_width(self.spec, blocks, self.weights.widths),))

    def _shape(self, boundary: Block) -> tuple[int, int, int]:
        return map_shape(self.spec.height, self.spec.width, boundary, self.weights.widths)

    def multiplications_to(self, block: Block) -> float:
        """Multiply-adds of one image through the trunk up to a block."""
        return multiplications(self.spec.height, self.spec.width, None, block, self.weights.widths)

    def _space(self, title: str, last: Block, shape: tuple[int, ...]) -> Space:
        spec, precision = self.spec, self.precision
        engine = version("onnxruntime")
        known = [_VERSION, title, repr(shape), repr(spec), precision, engine, self.weights.digests[last]]
        ranges = ""
        if precision is FeaturePrecision.INT8:  # whose sums can saturate where there is no VNNI
            known += [self.calibration.fingerprint, instruction_set()]
            ranges = f" ({self.calibration.fingerprint[:6]})"
        full_title = f"{self.name}, {title}, {spec.width} x {spec.height} pixels, {precision}{ranges}"
        return Space(full_title, fingerprint(known), shape)

    def extractor(self, names: Sequence[str], start: Block | None = None) -> Extractor:
        """A function from a batch (images, or activations after `start`) to the outputs with these names.

        Nothing else is computed.
        """
        wanted = (start, *names)
        if wanted not in self.made:
            graph = self.graph if start is None else continuing(self.graph, self._shape(start), start)
            self.made[wanted] = _running(only(graph, names), self.threads)
        return self.made[wanted]

    @cached_property
    def graph(self) -> onnx.ModelProto:
        """The whole trunk in its precision."""
        graph = trunk_graph(self.weights, self.spec, self.weights.last)
        return to_int8(graph, self.calibration.pixels) if self.precision is FeaturePrecision.INT8 else graph


def _running(graph: onnx.ModelProto, threads: int) -> Extractor:
    session = session_of(graph.SerializeToString(), threads)

    def extract(batch: NDArray[Any]) -> list[NDArray[np.float32]]:
        found: list[NDArray[np.float32]] = session.run(None, {INPUT: batch})
        return found

    return extract


@dataclass(frozen=True)
class Filling:
    """Stored rows that one pass over images brings up to date, and from what."""

    maps: tuple[Block, Rows] | None
    averages: tuple[tuple[Block, ...], Rows] | None
    source: tuple[Block, Rows] | None  # complete activations of a lower boundary; None: images


def fill(
    trunk: FrozenTrunk, filling: Filling, images_at: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
) -> None:
    """Compute what is missing in one pass. `images_at` gives the images of so many positions, views applied.

    Raises `StorageError` before any work when the cache or the disk is too small.
    """
    targets: list[tuple[list[str], Rows]] = []
    if filling.maps:
        targets.append(([maps_of(filling.maps[0])], filling.maps[1]))
    if filling.averages:
        targets.append(([averages_of(block) for block in filling.averages[0]], filling.averages[1]))
    targets = [(names, rows) for names, rows in targets if len(rows.missing) > 0]
    if not targets:
        return
    for _, rows in targets:
        rows.reserve()
    missing = np.unique(np.concatenate([rows.missing for _, rows in targets]))
    wanted = [name for names, _ in targets for name in names]
    extract = trunk.extractor(wanted, filling.source[0] if filling.source else None)
    with task(f"running {len(missing)} images through the frozen trunk", len(missing)) as advance:
        for start in range(0, len(missing), IMAGES_AT_ONCE):
            positions = missing[start : start + IMAGES_AT_ONCE]
            source = filling.source
            batch = source[1][positions].astype(np.float32) if source else images_at(positions)
            found = dict(zip(wanted, extract(batch), strict=True))
            for names, rows in targets:
                values = np.concatenate([found[name] for name in names], axis=-1)
                rows.write(positions, np.minimum(values, LARGEST_HALF).astype(np.float16))
            advance(len(positions))
    for _, rows in targets:
        rows.commit()


def keys_of(digests: Sequence[str], views: Sequence[str]) -> list[bytes]:
    """One key for each view (outer) and image (inner): position view * N + image."""
    return [hashlib.sha256(f"{digest} {view}".encode()).digest() for view in views for digest in digests]
