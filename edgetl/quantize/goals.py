"""What an export has to keep to, and which files come into question for it."""

from dataclasses import dataclass

from edgetl.cache import parse_size
from edgetl.card import KERAS, ModelCard
from edgetl.config import ExportConfig, Format, Precision, Target
from edgetl.errors import ModelFolderError, UsageError
from edgetl.quantize.recipe import Recipe
from edgetl.quantize.targets import wanted_pairs

USUAL_DROP = "1.0"  # points, where only other goals are given
_ONLY = {Target.BROWSER: Format.ONNX, Target.MEDIAPIPE: Format.TFLITE}


@dataclass(frozen=True)
class Goals:
    """`max_drop` is a share of the images; the other limits may be absent."""

    max_drop: float
    max_size_bytes: int | None
    max_latency_ms: float | None
    target: Target | None

    @property
    def start(self) -> Recipe:
        """Where the search begins: 7-bit weights where sums of 8-bit products could saturate."""
        return Recipe(reduced=self.target in {Target.X64, Target.BROWSER})

    def misses(self, *, keeps: bool, size_bytes: int, latency_ms: float) -> tuple[str, ...]:
        """Which goals a variant misses."""
        found = [] if keeps else ["drop"]
        if self.max_size_bytes is not None and size_bytes > self.max_size_bytes:
            found.append("size")
        if self.max_latency_ms is not None and latency_ms > self.max_latency_ms:
            found.append("latency")
        return tuple(found)

    def in_words(self) -> str:
        """For people."""
        parts = [f"drop under {100 * self.max_drop:.3g} points"]
        if self.max_size_bytes is not None:
            parts.append(f"at most {self.max_size_bytes / 1e6:.3g} MB")
        if self.max_latency_ms is not None:
            parts.append(f"at most {self.max_latency_ms:g} ms for an image")
        return ", ".join(parts) + (f", for {self.target}" if self.target else "")


def goals_of(config: ExportConfig, card: ModelCard) -> Goals | None:
    """The goals that settings name; None: there are none, every file asked for is made."""
    if (config.max_drop, config.max_size, config.max_latency, config.target) == (None, None, None, None):
        return None
    return Goals(
        max_drop=allowed_drop(config.max_drop or USUAL_DROP, card),
        max_size_bytes=None if config.max_size is None else parse_size(config.max_size),
        max_latency_ms=config.max_latency,
        target=config.target,
    )


def allowed_drop(text: str, card: ModelCard) -> float:
    """A share of the images: 1.0 means one point, 1% a hundredth of the full-precision accuracy.

    Raises `UsageError` for anything else.
    """
    relative = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        value = float("nan")
    if not 0.0001 <= value < 1:
        raise UsageError(
            f"--max-drop {text!r} is no loss of accuracy.",
            "Give points from 0.01 up, such as 1.0, or a share of the accuracy, such as 1%.",
        )
    if not relative:
        return value
    if KERAS not in card.scores:
        raise ModelFolderError("The card has no full-precision accuracy.", "Run edgetl evaluate first.")
    return value * card.scores[KERAS].accuracy


def formats_for(goals: Goals, wanted: str) -> list[Format]:
    """The formats that are asked for and suit the target. Raises `UsageError` when none does."""
    asked = list(dict.fromkeys(form for form, _ in wanted_pairs(wanted, None)))
    only = _ONLY.get(goals.target) if goals.target else None
    suiting = [form for form in asked if only in {None, form}]
    if not suiting:
        raise UsageError(f"--target {goals.target} takes {only} files.", f"Add --format {only}.")
    return suiting


def precisions_by_format(
    goals: Goals, formats: str, precisions: str | None
) -> dict[Format, tuple[Precision, ...]]:
    """What a search may end with: formats that suit the target, each with the precisions asked for.

    Raises `UsageError` when nothing is left, and like `wanted_pairs`.
    """
    pairs = wanted_pairs(",".join(formats_for(goals, formats)), precisions)
    return {form: tuple(p for other, p in pairs if other is form) for form, _ in pairs}
