"""How a trained network becomes int8: which repairs are applied, and what stays in float."""

from dataclasses import dataclass
from enum import StrEnum


class Origin(StrEnum):
    """Which float network is quantized; all compute the same, or nearly."""

    TRAINED = "trained"
    EQUALIZED = "equalized"  # channels of like size
    RETRAINED = "retrained"  # equalized, and then trained with rounded weights and activations
    THINNED = "thinned"  # weights with few levels or many zeros, for the sake of packed files


@dataclass(frozen=True)
class Recipe:
    """What a quantizer is asked to do beyond plain static int8 (per-channel weights, per-tensor activations).

    What changes the float network is not here but an `Origin`: it quantizes like any other.
    """

    clipped: bool = False  # activation ranges with the least expected squared error instead of the extremes
    bias_corrected: bool = False  # biases take back the mean error that rounding the weights makes
    reduced: bool = False  # weights of 7 bits: no sum of two products saturates on x86-64 without VNNI
    float_layers: tuple[int, ...] = ()  # numbers of convolutions, from 0, that stay float; ascending
