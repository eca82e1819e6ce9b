"""What `export --cluster` and `--sparsity` ask of weights, and whether a file has it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetl.compression.levels import Limit, limit_of
from edgetl.config import ExportConfig
from edgetl.errors import CheckFailed
from edgetl.keras.network import Layers
from edgetl.keras.rounding import LEVELS


@dataclass(frozen=True)
class Thinning:
    """How weights are limited; None: not in that way."""

    clusters: int | None
    sparsity: float | None

    def in_words(self) -> str:
        """For people."""
        parts = [] if self.clusters is None else [f"{self.clusters} levels a layer"]
        if self.sparsity is not None:
            parts.append(f"{100 * self.sparsity:g} % zeros")
        return ", ".join(parts)

    def limits(self, layers: Layers) -> list[Limit]:
        """One for each layer but the last Dense, which stays float.

        They are of 8 bits also where weights will have 7: as 127 is prime, none of its levels is halfway
        between two of 64, where rounding errors would decide, and all channels round alike.
        """
        weighted = (*layers.convolutions, *layers.head[:-1])
        return [limit_of(layer.get_weights()[0], self.clusters, self.sparsity, LEVELS) for layer in weighted]

    def check(self, kernels: list[NDArray[np.int8]]) -> None:
        """Raise `CheckFailed` unless the int8 kernels of a file have as few levels and as many zeros."""
        for kernel in kernels:
            levels, zeros = len(np.unique(kernel)), np.count_nonzero(kernel == 0)
            if levels > (self.clusters or levels) or zeros < (self.sparsity or 0) * kernel.size:
                raise CheckFailed(
                    f"A kernel {list(kernel.shape)} has {levels} levels and {zeros} zeros in the int8 file; "
                    f"{self.in_words()} was asked for.",
                    "This is a fault in the conversion; please report it with the model's card.json.",
                )


def thinning_of(config: ExportConfig) -> Thinning | None:
    """What settings ask for, if anything."""
    if config.cluster is None and config.sparsity is None:
        return None
    return Thinning(config.cluster, config.sparsity)
