"""The search for int8: repairs before float, few looks, nothing needless in float, and no certification image."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetl.quantize.recipe import Origin, Recipe
from edgetl.quantize.search import ALWAYS_SEEN, Candidate, Seen, Tuning, look, search
from edgetl.statistics import ALPHA, exact_p, exact_upper, holm

LAYERS = 13
IMAGES, CLASSES = 400, 5


def softmax(logits):
    shown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (shown / shown.sum(axis=1, keepdims=True)).astype(np.float32)


def tuning_of(promised=0.02, certified_on=2000, seed=0, spread=3.0):
    """Images whose pixels hold their own number, so that a classifier knows which logits to disturb."""
    random = np.random.default_rng(seed)
    logits = spread * random.normal(0, 1, (IMAGES, CLASSES))
    labels = np.where(random.random(IMAGES) < 0.9, logits.argmax(axis=1), random.integers(0, CLASSES, IMAGES))
    pixels = np.arange(IMAGES).astype("<u4").view(np.uint8).reshape(IMAGES, 1, 1, 4)[..., :3]
    return Tuning(pixels, labels, softmax(logits), promised, certified_on), logits


def numbers_of(pixels):
    return pixels[:, 0, 0, 0].astype(int) + 256 * pixels[:, 0, 0, 1].astype(int)


@dataclass
class NoisyWorkshop:
    """Each layer in int8 adds noise of its own size to the logits; repairs shrink what they are good for."""

    logits: np.ndarray
    noise: tuple[float, ...]  # of each layer
    repaired_by: dict[str, float] = field(default_factory=dict)  # factors of all noise
    built: list[tuple[Recipe, Origin]] = field(default_factory=list)
    layer_costs: tuple[float, ...] = (1.0,) * LAYERS

    def build(self, recipe, origin):
        self.built.append((recipe, origin))
        done = {
            "equalized": origin is not Origin.TRAINED,
            "retrained": origin is Origin.RETRAINED,
            "clipped": recipe.clipped,
            "bias_corrected": recipe.bias_corrected,
        }
        factor = np.prod([size for name, size in self.repaired_by.items() if done[name]])
        random = np.random.default_rng(1)
        disturbed = self.logits.copy()
        for layer, size in enumerate(self.noise):
            own = random.normal(0, 1, self.logits.shape)
            if layer not in recipe.float_layers:
                disturbed += factor * size * own
        return disturbed.tobytes()

    def run(self, content):
        logits = np.frombuffer(content).reshape(self.logits.shape)
        return lambda pixels: softmax(logits[numbers_of(pixels)])


def searched(noise, repaired_by=None, start=None, **tuning_settings):
    tuning, logits = tuning_of(**tuning_settings)
    shop = NoisyWorkshop(logits, tuple(noise), repaired_by or {})
    tried: list[Candidate] = []
    found = search(shop, tuning, start or Recipe(), tried.append)
    return found, tried, shop


QUIET = [0.001] * LAYERS


def test_plain_int8_that_keeps_the_promise_is_taken_at_once():
    found, tried, shop = searched(QUIET, start=Recipe(reduced=True))
    assert (found.recipe, found.origin) == (Recipe(reduced=True), Origin.TRAINED)
    assert len(tried) == len(shop.built) == 1


@pytest.mark.parametrize("repair", ["equalized", "clipped", "bias_corrected"])
def test_the_repair_that_helps_is_enough_and_no_layer_stays_float(repair):
    found, _, _ = searched([0.8] * LAYERS, {repair: 0.001})
    assert found.recipe.float_layers == ()
    done = {"equalized": found.origin is Origin.EQUALIZED, "clipped": found.recipe.clipped, "bias_corrected": found.recipe.bias_corrected}  # fmt: skip
    assert done[repair]


def test_a_repair_that_makes_it_worse_is_dropped():
    found, tried, _ = searched([0.8] * LAYERS, {"equalized": 3.0, "clipped": 0.001})
    assert len(tried) == 4
    assert found.origin is Origin.TRAINED
    assert found.recipe.clipped


@pytest.mark.parametrize("layer", range(LAYERS))
def test_the_one_layer_that_breaks_it_stays_float_and_no_other(layer):
    noise = list(QUIET)
    noise[layer] = 5.0
    found, tried, _ = searched(noise)
    assert found.recipe.float_layers == (layer,)
    assert found.seen.keeps
    assert len(tried) <= 4 + 1 + 4 + 3, "plain and repairs, the first layer, a bisection, what was needless"


def test_layers_that_cost_much_and_harm_little_go_back_into_int8():
    """With three noisy layers among quiet ones exactly those stay float."""
    noise = list(QUIET)
    for layer in (2, 7, 12):
        noise[layer] = 4.0
    found, _, _ = searched(noise)
    assert found.recipe.float_layers == (2, 7, 12)


def test_training_with_rounding_is_the_last_resort():
    found, tried, _ = searched([9.0] * LAYERS, {"retrained": 1e-4}, start=Recipe(reduced=True))
    assert (found.recipe, found.origin) == (Recipe(reduced=True, bias_corrected=True), Origin.RETRAINED)
    assert found is tried[-1]
    assert [candidate.origin for candidate in tried].count(Origin.RETRAINED) == 1


@pytest.mark.parametrize("noisy", [(3,), (1, 6), (0, 5, 9), (2, 7, 12)])
def test_nothing_is_looked_at_twice(noisy):
    noise = list(QUIET)
    for layer in noisy:
        noise[layer] = 4.0
    _, tried, _ = searched(noise)
    looked_at = [(candidate.recipe, candidate.origin) for candidate in tried]
    assert len(looked_at) == len(set(looked_at))


def test_nothing_is_found_where_every_layer_breaks_it():
    found, tried, _ = searched([9.0] * LAYERS)
    assert found is None
    assert all(not candidate.seen.keeps for candidate in tried)


@given(st.lists(st.floats(0, 4), min_size=LAYERS, max_size=LAYERS), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_what_is_found_keeps_the_promise_and_little_is_looked_at(noise, seed):
    found, tried, _ = searched(noise, seed=seed)
    assert len(tried) <= 12
    if found is not None:
        assert found.seen.keeps
        assert found in tried
        assert len(found.recipe.float_layers) < LAYERS


def whole_look(classifier, tuning):
    """Every image run, the slow and certain way."""
    right = tuning.probabilities.argmax(axis=1) == tuning.labels
    now = classifier(tuning.pixels).argmax(axis=1) == tuning.labels
    return int((right & ~now).sum()), int((now & ~right).sum())


@given(st.floats(0, 1.5), st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_images_left_out_would_not_have_flipped(noise, seed):
    """Noise that is alike for all images, as rounding is: those not run agree."""
    tuning, logits = tuning_of(promised=0.99, seed=seed)
    disturbed = logits + noise * np.random.default_rng(seed + 1).uniform(-1, 1, logits.shape)
    classifier = lambda pixels: softmax(disturbed[numbers_of(pixels)])  # noqa: E731
    seen = look(classifier, tuning)
    assert (seen.harmful, seen.helpful) == whole_look(classifier, tuning)
    assert seen.expected_upper == exact_upper(5 * seen.harmful, 5 * seen.helpful, 2000)


def test_few_images_are_run_where_little_moves():
    tuning, logits = tuning_of()
    seen = look(lambda pixels: softmax(logits[numbers_of(pixels)] + 1e-4), tuning)
    assert seen.images_run == ALWAYS_SEEN
    assert (seen.harmful, seen.helpful, seen.keeps) == (0, 0, True)
    assert seen.divergence == pytest.approx(0, abs=1e-6)


def test_a_hopeless_candidate_is_given_up_early():
    tuning, _ = tuning_of()
    seen = look(lambda pixels: softmax(np.zeros((len(pixels), CLASSES))), tuning)
    assert seen.images_run < IMAGES / 2
    assert not seen.keeps


def test_files_that_are_certified_together_leave_less_to_chance():
    """What is seen of the tuning images, if certification sees it too: Holm asks twice as much of one of two."""
    alone, _ = tuning_of(promised=0.02, certified_on=IMAGES)
    both = replace(alone, together=2)
    passing = [flips for flips in range(20) if alone.expected_upper(flips, 0) < alone.promised]
    passing_both = [flips for flips in range(20) if both.expected_upper(flips, 0) < both.promised]
    assert 0 < len(passing_both) < len(passing)
    for flips in range(len(passing) + 1):
        p = exact_p(flips, 0, IMAGES, alone.promised)
        assert (p <= ALPHA) == (flips in passing)
        assert (max(holm([p, p])) <= ALPHA) == (flips in passing_both)


def test_fewer_images_than_are_always_seen():
    tuning, logits = tuning_of()
    few = Tuning(tuning.pixels[:9], tuning.labels[:9], tuning.probabilities[:9], 0.02, 2000)
    seen = look(lambda pixels: softmax(logits[numbers_of(pixels)]), few)
    assert isinstance(seen, Seen)
    assert seen.images_run == 9
