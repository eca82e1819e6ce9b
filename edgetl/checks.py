"""What no statistic can be computed from is refused with `ValueError`."""

import numpy as np
from numpy.typing import NDArray


def check_count(count: float, total: float, name: str) -> None:
    """Refuse counts outside 0..total, and a total of nothing."""
    if not total > 0:
        raise ValueError(f"there must be at least one image, not {total}")
    if not 0 <= count <= total:
        raise ValueError(f"{name} must lie in 0..{total}, not {count}")


def check_table(harmful: float, helpful: float, images: float) -> None:
    """Refuse discordant images that are more than all."""
    check_count(harmful, images, "harmful")
    check_count(helpful, images, "helpful")
    # Fractional counts that add up to all images may exceed them by rounding.
    if harmful + helpful > images * (1 + 1e-9):
        raise ValueError(f"harmful {harmful} and helpful {helpful} together exceed images {images}")


def check_between(value: float, above: float, below: float, name: str) -> None:
    """Refuse a value outside the open interval."""
    if not above < value < below:
        raise ValueError(f"the {name} must lie between {above:g} and {below:g}, not {value}")


def check_pair(first: NDArray[np.generic], second: NDArray[np.generic]) -> None:
    """Refuse arrays of different shapes or without elements."""
    if first.shape != second.shape:
        raise ValueError(f"both arrays must have the same shape, not {first.shape} and {second.shape}")
    if first.size == 0:
        raise ValueError("there must be at least one image, the arrays are empty")


def check_labels(labels: NDArray[np.integer], classes: int) -> None:
    """Refuse anything but one array of class numbers."""
    if labels.size == 0:
        raise ValueError("there must be at least one image, the arrays are empty")
    if labels.ndim != 1 or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be one array of class numbers in 0..{classes - 1}")
