"""Which formats and precisions exist together."""

from edgetl.config import Format, Precision
from edgetl.errors import UsageError

SUPPORTED: dict[Format, tuple[Precision, ...]] = {
    Format.ONNX: (Precision.FP32, Precision.FP16, Precision.INT8, Precision.W8A32),
    Format.TFLITE: (Precision.FP32, Precision.FP16, Precision.INT8, Precision.W8A32, Precision.W8A16),
}
# By default w8a16 is left out: LiteRT has no fast int16 convolution, and it ran 70 times slower than fp32.
BY_DEFAULT = {form: tuple(p for p in SUPPORTED[form] if p is not Precision.W8A16) for form in SUPPORTED}
CALIBRATED = (Precision.INT8, Precision.W8A16)


def wanted_pairs(formats: str, precisions: str | None) -> list[tuple[Format, Precision]]:
    """The (format, precision) pairs of two comma separated lists. Raises `UsageError` with the valid ones.

    Without precisions: all that make sense. A precision that one format lacks is made for the other; one that
    none of the formats has is refused.
    """
    chosen = [Format(_known(word, list(Format), "format")) for word in _words(formats)]
    if precisions is None:
        return [(form, precision) for form in chosen for precision in BY_DEFAULT[form]]
    asked = [Precision(_known(word, list(Precision), "precision")) for word in _words(precisions)]
    pairs = [(form, precision) for form in chosen for precision in asked if precision in SUPPORTED[form]]
    for precision in asked:
        if all(pair[1] is not precision for pair in pairs):
            raise UsageError(f"{'/'.join(chosen)} has no {precision}.", f"Valid pairs: {valid_pairs()}.")
    return pairs


def valid_pairs() -> str:
    """All supported pairs as one line."""
    return "; ".join(f"{form}: {', '.join(SUPPORTED[form])}" for form in SUPPORTED)


def _words(text: str) -> list[str]:
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise UsageError("Nothing to export.", f"Valid pairs: {valid_pairs()}.")
    return words


def _known(word: str, known: list[str], what: str) -> str:
    if word not in known:
        raise UsageError(f"There is no {what} called {word!r}.", f"Valid pairs: {valid_pairs()}.")
    return word
