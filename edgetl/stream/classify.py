"""Batches of pixels become predictions: the same for few images, for jobs and on clusters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetl.errors import ModelFolderError
from edgetl.images import Pixels
from edgetl.refusals import Refused
from edgetl.rows import ClassProbability, Extra, Extras, Prediction, Status
from edgetl.stream.decode import Batch
from edgetl.stream.items import Item

Outputs = tuple[NDArray[np.float32], NDArray[np.float32] | None]
Engine = Callable[[Pixels], Outputs]


@dataclass(frozen=True)
class Network:
    """A loaded artifact: uint8 RGB [N, H, W, 3] to probabilities [N, classes], and [N, features] if asked."""

    name: str
    run: Engine
    labels: tuple[str, ...]
    top: int
    extras: Extras
    parallel: int  # calls at once that it takes, and that are worth it


def predictions(batch: Batch, network: Network) -> list[Prediction]:
    """One for each image, in order. Raises `ModelFolderError` when the network gives no probabilities."""
    if all(batch.refused):
        return [_refused(item, why) for item, why in zip(batch.items, batch.refused, strict=True) if why]
    probabilities, embeddings = _checked(network, batch.pixels)
    rows = []
    for index, (item, refused) in enumerate(zip(batch.items, batch.refused, strict=True)):
        if refused is not None:
            rows.append(_refused(item, refused))
            continue
        embedding = None if embeddings is None else embeddings[index]
        rows.append(_recognised(item, probabilities[index], embedding, network))
    return rows


def _checked(network: Network, pixels: Pixels) -> Outputs:
    probabilities, embeddings = network.run(pixels)
    expected = (len(pixels), len(network.labels))
    if probabilities.shape != expected or not np.isfinite(probabilities).all():
        raise ModelFolderError(
            f"{network.name} gave {probabilities.shape} values, not {expected} finite ones.",
            "Run edgetl export again.",
        )
    return probabilities, embeddings


def _recognised(
    item: Item,
    probabilities: NDArray[np.float32],
    embedding: NDArray[np.float32] | None,
    network: Network,
) -> Prediction:
    # Of equal classes the earlier one comes first, as argmax says.
    best: Sequence[int] = np.argsort(-probabilities, kind="stable")[: network.top].tolist()
    likely = tuple(ClassProbability(network.labels[i], float(probabilities[i])) for i in best)
    return Prediction(
        path=item.path,
        status=Status.OK,
        reason=None,
        detail=None,
        label=likely[0].label,
        probability=likely[0].probability,
        top=likely,
        probabilities=tuple(probabilities.tolist()) if Extra.PROBABILITIES in network.extras else None,
        embedding=None if embedding is None else tuple(embedding.tolist()),
    )


def _refused(item: Item, refused: Refused) -> Prediction:
    return Prediction(item.path, Status.REFUSED, refused.reason, refused.detail, None, None, ())
