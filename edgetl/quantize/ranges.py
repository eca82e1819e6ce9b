"""What calibration sees of activations, kept so that ranges can be chosen again without another pass."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 2048
LEVELS = 255  # steps of an unsigned 8-bit range
_SHARES = np.linspace(1.0, 0.1, 91)  # of the largest value, where clipping is tried


@dataclass(eq=False)
class Activation:
    """One tensor behind a ReLU, over all calibration images seen so far.

    The histogram reaches from 0 to a power of two, which doubles when a larger value comes: the order of the
    images does not matter.
    """

    channels: int
    high: float = 0.0
    images: int = 0
    top: float = 2.0**-20  # upper end of the histogram
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    channel_highs: NDArray[np.float32] = field(init=False)  # [C]
    _channel_sums: NDArray[np.float64] = field(init=False)  # [C] of the means of images

    def __post_init__(self) -> None:
        """Nothing seen yet."""
        self.channel_highs = np.zeros(self.channels, np.float32)
        self._channel_sums = np.zeros(self.channels)

    @property
    def channel_means(self) -> NDArray[np.float32]:
        """[C] means over images and places."""
        return (self._channel_sums / max(1, self.images)).astype(np.float32)

    def add(self, values: NDArray[np.float32]) -> None:
        """Look at activations [N, C, H, W].

        Raises `ValueError` for another number of channels and for numbers below 0 or not finite.
        """
        if values.ndim != 4 or values.shape[1] != self.channels or values.size == 0:
            raise ValueError(f"activations [N, {self.channels}, H, W] are needed, not {list(values.shape)}")
        highs = values.max(axis=(0, 2, 3))
        # A comparison with something that is not a number is false.
        if not (values.min() >= 0 and np.isfinite(highs).all()):
            raise ValueError("activations behind a ReLU are finite and at least 0")
        self.high = max(self.high, float(highs.max()))
        while self.high >= self.top:
            self.top *= 2
            self.counts = np.concatenate(
                [self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)]
            )
        for image in values:  # one at a time: the indices need twice the memory of the numbers
            # The histogram's end is above every value, so no index leaves it. A power of two scales exactly.
            indices = (image * np.float32(BINS / self.top)).astype(np.int32).ravel(order="K")
            self.counts += np.bincount(indices, minlength=BINS)
        self.images += len(values)
        self.channel_highs = np.maximum(self.channel_highs, highs)
        self._channel_sums += values.mean(axis=(2, 3), dtype=np.float64).sum(axis=0)

    def clipped_high(self) -> float:
        """The upper end of the 8-bit range [0, t] of least expected squared error; at most `high`."""
        if self.high <= 0:
            return self.high
        ends = _SHARES * self.high
        return float(ends[int(np.argmin(self.squared_errors(ends)))])

    def squared_errors(self, ends: NDArray[np.float64]) -> NDArray[np.float64]:
        """[T] expected squared errors of the 8-bit ranges that reach from 0 to `ends` [T].

        Below its end a range costs a twelfth of the squared step for every number but those of the first bin:
        they are zeros, which are exact, or far less than half a step. Above, the whole distance to the end.
        """
        centres = (np.arange(BINS) + 0.5) * (self.top / BINS)
        shares = self.counts / max(1, self.counts.sum())
        beyond = np.maximum(centres[None] - ends[:, None], 0)
        rounding = (1 - shares[0]) * (ends / LEVELS) ** 2 / 12
        errors: NDArray[np.float64] = (beyond**2) @ shares + rounding
        return errors


def tap_means(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """[C, 3, 3] means of what each tap of a 3x3 convolution, padded with zeros, reads from maps [C, H, W].

    A tap at the side reads zeros along a border: at 6 x 6 places its mean is a sixth less than the middle's.
    """
    _, height, width = maps.shape
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
    rows = [padded[:, y : y + height, x : x + width].mean(axis=(1, 2)) for y in range(3) for x in range(3)]
    return np.stack(rows, axis=1).reshape(len(maps), 3, 3)


def covered(calibrated: Activation, seen: Activation) -> float:
    """The share of the values seen, but for those that are 0, that a calibrated range reaches; 0..1."""
    beyond = np.arange(BINS) * (seen.top / BINS) >= calibrated.high
    values = int(seen.counts[1:].sum())
    return 1.0 - float(seen.counts[1:][beyond[1:]].sum() / values) if values else 1.0
