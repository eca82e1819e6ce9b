"""The fastest int8 network that keeps a promise on the tuning images: cheapest repair first, float last.

No file is opened here: a search sees calibration and tuning images as arrays, and nothing of certification.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgetl.classifier import Classifier
from edgetl.measures import centred_logits, mean_kl
from edgetl.quantize.recipe import Origin, Recipe
from edgetl.statistics import ALPHA, exact_upper, tango_lower

IMAGES_AT_ONCE = 16
ALWAYS_SEEN = 64  # images of the smallest margins that every candidate runs: on them candidates are compared
SENSITIVITY_IMAGES = 16  # of the smallest margins, where noise shows
_SAFETY = 1.5  # how much further a logit may move on images not run than on those run
_MOST_DROPPED = 3  # layers that are tried in int8 again at the end


@dataclass(frozen=True, eq=False)
class Tuning:
    """What a search may choose by: images, truth, and what the full-precision network says.

    `promised` is the drop allowed, a share; `certified_on` how many images the verdict will come from;
    `together` how many files are certified at once, which leaves less room for chance to each.
    """

    pixels: NDArray[np.uint8]  # RGB [N, H, W, 3]
    labels: NDArray[np.int64]  # [N]
    probabilities: NDArray[np.float32]  # [N, classes]
    promised: float
    certified_on: int
    together: int = 1

    def expected_upper(self, harmful: int, helpful: int) -> float:
        """The bound of the drop, for all files, that certification will find if it sees these shares."""
        grown = -(-harmful * self.certified_on // len(self.labels))  # parts of an image count against it
        helping = helpful * self.certified_on // len(self.labels)
        return exact_upper(grown, helping, self.certified_on, ALPHA / self.together)


@dataclass(frozen=True)
class Seen:
    """How one candidate did on the tuning images."""

    images_run: int  # of the smallest margins; the rest is so far from flipping that it was not run
    harmful: int
    helpful: int
    divergence: float  # nats, mean KL on the images that every candidate runs
    expected_upper: float  # a share
    keeps: bool  # whether certification is expected to pass


def look(classifier: Classifier, tuning: Tuning) -> Seen:
    """Run a candidate on images by ascending margin until the rest cannot change the answer.

    A top class flips only where two logits together move by the margin. Stops when the margins left exceed
    what the logits were seen to move, or when the flips so far already refute the promise.
    """
    logits = centred_logits(tuning.probabilities)
    margins = margins_of(tuning)
    order = np.argsort(margins, kind="stable")
    count = len(order)
    harmful = helpful = run = 0
    moved, divergence = 0.0, 0.0
    found: list[NDArray[np.float32]] = []
    while run < count:
        some = order[run : run + IMAGES_AT_ONCE]
        found.append(classifier(tuning.pixels[some]))
        run += len(some)
        right = tuning.probabilities[some].argmax(axis=1) == tuning.labels[some]
        now = found[-1].argmax(axis=1) == tuning.labels[some]
        harmful, helpful = harmful + int((right & ~now).sum()), helpful + int((now & ~right).sum())
        moved = max(moved, float(np.abs(centred_logits(found[-1]) - logits[some]).max()))
        if run < min(ALWAYS_SEEN, count):
            continue
        out_of_reach = run < count and margins[order[run]] > 2 * _SAFETY * moved
        if out_of_reach or tango_lower(harmful, helpful, count) > tuning.promised:
            break
    first = order[:ALWAYS_SEEN]
    divergence = mean_kl(tuning.probabilities[first], np.concatenate(found)[: len(first)])
    upper = tuning.expected_upper(harmful, helpful)
    return Seen(run, harmful, helpful, divergence, upper, upper < tuning.promised)


def margins_of(tuning: Tuning) -> NDArray[np.float64]:
    """[N] how far the second logit is behind the first."""
    ordered = np.sort(centred_logits(tuning.probabilities), axis=1)
    margins: NDArray[np.float64] = ordered[:, -1] - ordered[:, -2]
    return margins


class Workshop(Protocol):
    """What makes candidates of one format."""

    @property
    def layer_costs(self) -> Sequence[float]:
        """Multiply-adds of each convolution, in order."""
        ...

    def build(self, recipe: Recipe, origin: Origin) -> bytes:
        """The file that a recipe makes of a network."""
        ...

    def run(self, content: bytes) -> Classifier:
        """The file's classifier."""
        ...


@dataclass(frozen=True, eq=False)
class Candidate:
    """One int8 network that was tried."""

    recipe: Recipe
    origin: Origin
    content: bytes
    seen: Seen


def search(
    shop: Workshop,
    tuning: Tuning,
    start: Recipe,
    tried: Callable[[Candidate], None],
    origin: Origin = Origin.TRAINED,
) -> Candidate | None:
    """The candidate with the fewest repairs and the fewest float layers that keeps the promise, or None.

    `tried` is told of every candidate. Plain int8 first; then the repairs that cost no speed, each kept if
    the divergence falls; then layers in float, those first whose damage is largest for the work they do;
    training with rounded numbers comes last, because it takes minutes. Thinned weights stay as they are, so
    what would change them is left out.
    """
    attempt = Attempts(shop, tuning, tried)
    best = attempt.make(start, origin)
    repairs = (_correct_biases, _clip) if origin is Origin.THINNED else (_equalize, _correct_biases, _clip)
    for repair in repairs:
        if best.seen.keeps:
            return best
        repaired = attempt.make(*repair(best))
        if repaired.seen.keeps or repaired.seen.divergence < best.seen.divergence:
            best = repaired
    if best.seen.keeps:
        return best
    found = _with_one_float_layer(attempt, start, origin) or _with_float_layers(attempt, best)
    if found is not None or origin is Origin.THINNED:
        return found
    retrained = attempt.make(replace(start, bias_corrected=True), Origin.RETRAINED)
    return retrained if retrained.seen.keeps else None


def _equalize(candidate: Candidate) -> tuple[Recipe, Origin]:
    return candidate.recipe, Origin.EQUALIZED


def _clip(candidate: Candidate) -> tuple[Recipe, Origin]:
    return replace(candidate.recipe, clipped=True), candidate.origin


def _correct_biases(candidate: Candidate) -> tuple[Recipe, Origin]:
    return replace(candidate.recipe, bias_corrected=True), candidate.origin


@dataclass(frozen=True)
class Attempts:
    """Candidates are made, looked at and reported in one way."""

    shop: Workshop
    tuning: Tuning
    tried: Callable[[Candidate], None]
    known: dict[tuple[Recipe, Origin], Candidate] = field(default_factory=dict)

    def make(self, recipe: Recipe, origin: Origin) -> Candidate:
        """Build and look, once."""
        if (recipe, origin) not in self.known:
            content = self.shop.build(recipe, origin)
            candidate = Candidate(recipe, origin, content, look(self.shop.run(content), self.tuning))
            self.known[recipe, origin] = candidate
            self.tried(candidate)
        return self.known[recipe, origin]


def _with_one_float_layer(attempt: Attempts, start: Recipe, origin: Origin) -> Candidate | None:
    """The network as it was but for its most harmful layer: a repair can move harm from there elsewhere."""
    plain = attempt.make(start, origin)
    damage, costs = sensitivity(attempt, plain), attempt.shop.layer_costs
    worst = max(range(len(costs)), key=lambda layer: damage[layer] / costs[layer])
    candidate = attempt.make(_floating(plain, [worst]), plain.origin)
    return candidate if candidate.seen.keeps else None


def _with_float_layers(attempt: Attempts, best: Candidate) -> Candidate | None:
    """The shortest prefix of the layers, most harmful for their work first, that has to stay float."""
    costs = attempt.shop.layer_costs
    first = attempt.make(replace(best.recipe, float_layers=(0,)), best.origin)
    if first.seen.keeps:
        return first
    damage = sensitivity(attempt, best)
    order = sorted(range(len(costs)), key=lambda layer: -damage[layer] / costs[layer])
    kept: Candidate | None = None
    low, high = 1, len(order) - 1  # of layers in float; all of them is no int8 network
    while low <= high:
        middle = (low + high) // 2
        candidate = attempt.make(_floating(best, order[:middle]), best.origin)
        if candidate.seen.keeps:
            kept, high = candidate, middle - 1
        else:
            low = middle + 1
    return kept and _without_needless(attempt, kept, damage)


def _floating(candidate: Candidate, layers: Sequence[int]) -> Recipe:
    return replace(candidate.recipe, float_layers=tuple(sorted(layers)))


def sensitivity(attempt: Attempts, candidate: Candidate) -> list[float]:
    """The divergence that each layer alone in int8 makes on a few images, nats."""
    count = len(attempt.shop.layer_costs)
    tuning = attempt.tuning
    some = np.argsort(margins_of(tuning), kind="stable")[:SENSITIVITY_IMAGES]
    found = []
    for layer in range(count):
        others = [other for other in range(count) if other != layer]
        content = attempt.shop.build(_floating(candidate, others), candidate.origin)
        found.append(mean_kl(tuning.probabilities[some], attempt.shop.run(content)(tuning.pixels[some])))
    return found


def _without_needless(attempt: Attempts, kept: Candidate, damage: Sequence[float]) -> Candidate:
    """Put the layers back into int8 that turn out not to matter, the least harmful for their work first."""
    costs = attempt.shop.layer_costs
    needed = sorted(kept.recipe.float_layers, key=lambda layer: damage[layer] / costs[layer])
    for layer in needed[: min(_MOST_DROPPED, len(needed) - 1)]:
        fewer = [other for other in kept.recipe.float_layers if other != layer]
        candidate = attempt.make(_floating(kept, fewer), kept.origin)
        if candidate.seen.keeps:
            kept = candidate
    return kept
