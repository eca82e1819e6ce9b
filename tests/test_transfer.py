"""Heads in closed form, where to cut the trunk, and where in a row which average is."""

import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

pytest.importorskip("scipy", reason="needs edgetl[train]")

from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from edgetl.card import InputSpec
from edgetl.config import Block, Head
from edgetl.transfer.cuts import LOWEST_CUT, Candidate, candidates, score_cuts
from edgetl.transfer.heads import (
    Images,
    alike,
    best_fit,
    feature_scale,
    fit_temperature,
    losses_of,
    penalties,
    scale_in_place,
)
from edgetl.transfer.layout import columns_of, parts_of, row_width
from edgetl.vgg16 import (
    block_below,
    blocks_up_to,
    conv_shapes,
    grid_side,
    map_shape,
    multiplications,
)

BLOCKS = tuple(Block)
POOLED = tuple(head for head in Head if head is not Head.FLATTEN)
SIDES = (32, 33, 48, 64, 96, 127, 224)


def spec_of(height, width=None):
    return InputSpec(height, width or height, (0.0, 0.0, 0.0), 1.0, (255, 255, 255), 1)


def clouds(count, width, classes=3, seed=0, distance=1.0):
    """Features of deviation 1 around a random centre for each class, float32 [count, width], and labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(0, distance / np.sqrt(width), (classes, width))
    features = random.normal(0, 1, (count, width)) + centres[labels]
    return features.astype(np.float32), labels


# the shape of VGG16


def test_the_convolutions_of_vgg16():
    shapes = conv_shapes(Block.BLOCK5)
    assert len(shapes) == 13
    assert shapes[:3] == ((3, 3, 3, 64), (3, 3, 64, 64), (3, 3, 64, 128))
    assert sum(np.prod(shape) + shape[3] for shape in shapes) == 14_714_688  # Keras: VGG16 without top
    assert [len(conv_shapes(block)) for block in BLOCKS] == [2, 4, 7, 10, 13]
    for block in BLOCKS:
        assert shapes[: len(conv_shapes(block))] == conv_shapes(block)


def test_multiplications_by_hand():
    """224 pixels: the sum over the 13 convolutions, as in the paper's table, is 15.35 giga."""
    by_hand = (
        224**2 * (3 * 64 + 64 * 64)
        + 112**2 * (64 * 128 + 128 * 128)
        + 56**2 * (128 * 256 + 2 * 256 * 256)
        + 28**2 * (256 * 512 + 2 * 512 * 512)
        + 14**2 * (3 * 512 * 512)
    ) * 9
    assert multiplications(224, 224, None, Block.BLOCK5) == by_hand == 15_346_630_656


def test_multiplications_after_odd_sides_have_been_halved():
    by_hand = 9 * (33 * 67 * (3 * 64 + 64 * 64) + 16 * 33 * (64 * 128 + 128 * 128) + 8 * 16 * 128 * 256)
    by_hand += 9 * 8 * 16 * 2 * 256 * 256
    assert multiplications(33, 67, None, Block.BLOCK3) == by_hand


@given(st.integers(32, 300), st.integers(32, 300), st.sampled_from(BLOCKS), st.sampled_from(BLOCKS))
def test_multiplications_add_up(height, width, one, other):
    low, high = min(one, other), max(one, other)
    parts = [multiplications(height, width, above, high) for above in (None, low)]
    assert multiplications(height, width, None, low) + parts[1] == parts[0]
    assert multiplications(height, width, high, low) == 0


def test_maps_and_neighbours():
    assert [block_below(block) for block in BLOCKS] == [None, *BLOCKS[:-1]]
    assert [blocks_up_to(block) for block in BLOCKS] == [BLOCKS[: n + 1] for n in range(5)]
    assert [map_shape(96, 80, block) for block in BLOCKS] == [
        (48, 40, 64),
        (24, 20, 128),
        (12, 10, 256),
        (6, 5, 512),
        (3, 2, 512),
    ]


@given(st.integers(2, 500))
def test_two_pools_cover_a_side_and_each_other_as_little_as_possible(side):
    kernel, stride = grid_side(side)
    assert (side - kernel) // stride + 1 == 2, "exactly two"
    assert stride + kernel == side, "nothing is left out"
    assert kernel - stride == side % 2, "only the middle of an odd side is in both"


# where what is in a row


@given(
    st.integers(32, 300),
    st.integers(32, 300),
    st.sets(st.sampled_from(BLOCKS), min_size=1).map(lambda blocks: tuple(sorted(blocks))),
    st.data(),
)
def test_columns_are_those_of_the_parts_in_the_order_asked_for(height, width, blocks, data):
    spec = spec_of(height, width)
    row = [
        (block, part.head, n) for block in blocks for part in parts_of(spec, block) for n in range(part.width)
    ]
    assert len(row) == row_width(spec, blocks)
    head = data.draw(st.sampled_from(POOLED))
    having = [block for block in blocks if head in {part.head for part in parts_of(spec, block)}]
    scales = data.draw(st.lists(st.sampled_from(having), min_size=1, unique=True)) if having else []
    if scales:
        columns = columns_of(spec, blocks, head, scales)
        channels = {block: map_shape(height, width, block)[2] for block in blocks}
        cells = 4 if head is Head.GRID else 1
        wanted = [(scale, head, n) for scale in scales for n in range(cells * channels[scale])]
        assert [row[column] for column in columns] == wanted


@pytest.mark.parametrize("sides", [(32, 32), (32, 96), (96, 32), (64, 64)])
def test_there_are_no_quarters_of_a_map_that_is_one_wide(sides):
    heads = {part.head for part in parts_of(spec_of(*sides), Block.BLOCK5)}
    assert heads == set(POOLED) - (set() if min(sides) >= 64 else {Head.GRID})


# scaling features


@given(st.integers(2, 40), st.integers(1, 700), st.integers(0, 9))
def test_features_become_alike_and_small(count, width, seed):
    random = np.random.default_rng(seed)
    features = (random.normal(0, 1, (count, width)) * random.uniform(0.5, 9, width)).astype(np.float32)
    scale, scaled = feature_scale(features), features.copy()
    scale_in_place(scaled, scale)
    assert_allclose(scaled, features * scale.factor + scale.offset, atol=1e-6)
    assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    assert (scaled.std(axis=0) <= np.sqrt(512 / width) * 1.001).all()
    assert scale.factor.dtype == scale.offset.dtype == scaled.dtype == np.float32


def test_features_that_hardly_move_are_not_blown_up():
    features = np.random.default_rng(0).normal(5, 1, (50, 512)).astype(np.float32)
    features[:, 7] = 5 + 1e-4 * features[:, 8]
    features[:, 9] = 3
    scale = feature_scale(features)
    scale_in_place(features, scale)
    assert features[:, 7].std() < 0.01
    assert np.abs(features[:, 9]).max() < 1e-3
    assert_allclose(np.delete(features, [7, 9], axis=1).std(axis=0), 1, atol=1e-3)


# heads


def objective_of(head, images, penalty):
    """In float64: weighted mean cross-entropy and penalty / 2 * |kernel|^2, the bias being free."""
    logits = images.features.astype(float) @ head.kernel.astype(float) + head.bias
    losses = -log_softmax(logits, axis=1)[np.arange(len(images.labels)), images.labels]
    weights = images.weights / images.weights.sum()
    return (weights * losses).sum() + penalty / 2 * (head.kernel.astype(float) ** 2).sum()


def by_scikit_learn(images, penalty):
    """The same optimum: there, C times the sum of the losses is weighed against |kernel|^2 / 2."""
    share = images.weights * len(images.labels) / images.weights.sum()
    model = LogisticRegression(C=1 / (len(images.labels) * penalty), tol=1e-9, max_iter=20000)
    return model.fit(images.features.astype(float), images.labels, sample_weight=share)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("penalty", [1.0, 0.05, 0.003])
@pytest.mark.parametrize(("count", "width"), [(40, 120), (150, 20), (64, 64)])
def test_a_head_is_what_scikit_learn_finds(count, width, penalty, weighted):
    features, labels = clouds(count, width, distance=2)
    weights = np.random.default_rng(1).uniform(0.1, 3, count).astype(np.float32)
    train = Images(features, labels, weights) if weighted else alike(features, labels)
    found = best_fit(train, alike(*clouds(30, width, seed=5)), 3, strengths=[penalty], iterations=500)
    model = by_scikit_learn(train, penalty)
    assert found.penalty == penalty
    probe = clouds(30, width, seed=7)[0]
    assert_allclose(softmax(found.head.logits(probe), axis=1), model.predict_proba(probe), atol=1e-2)
    theirs = type(found.head)(model.coef_.T.astype(np.float32), model.intercept_.astype(np.float32))
    assert objective_of(found.head, train, penalty) <= objective_of(theirs, train, penalty) + 1e-5


@given(st.integers(2, 60), st.integers(1, 40), st.integers(2, 5), st.floats(-3, 1), st.integers(0, 99))
@settings(max_examples=50)
def test_no_head_near_the_one_found_is_better(count, width, classes, power, seed):
    """Also for fewer images than features, one feature, two classes, and classes that nobody shows."""
    random = np.random.default_rng(seed)
    features = random.normal(0, 1, (count, width)).astype(np.float32)
    train = Images(
        features, random.integers(0, classes, count), random.uniform(0.2, 2, count).astype(np.float32)
    )
    penalty = 10**power
    found = best_fit(train, alike(features, train.labels), classes, strengths=[penalty], iterations=500)
    best = objective_of(found.head, train, penalty)
    assert found.head.kernel.shape == (width, classes)
    for size in (0.3, 0.03):
        for _ in range(5):
            near = type(found.head)(
                found.head.kernel + size * random.normal(0, 1, found.head.kernel.shape),
                found.head.bias + size * random.normal(0, 1, classes),
            )
            assert objective_of(near, train, penalty) >= best - 1e-5


def test_weights_count_as_so_many_images():
    features, labels = clouds(30, 8)
    times = np.arange(30) % 3 + 1
    repeated = alike(np.repeat(features, times, axis=0), np.repeat(labels, times))
    weighted = Images(features, labels, times.astype(np.float32))
    tuning = alike(*clouds(20, 8, seed=1))
    one, other = (
        best_fit(train, tuning, 3, strengths=[0.1], iterations=500) for train in (repeated, weighted)
    )
    assert_allclose(one.head.logits(features), other.head.logits(features), atol=5e-3)


def faint(count, seed, width=40):
    """Features whose three smallest decide, uncertainly: too strong a penalty hides them, too weak one overfits."""
    random = np.random.default_rng(seed)
    features = random.normal(0, 1, (count, width))
    labels = (features[:, :3] + random.normal(0, 1, (count, 3))).argmax(axis=1)
    return alike((features * np.linspace(0.4, 1.6, width)).astype(np.float32), labels)


def test_the_penalty_with_the_best_tuning_loss_is_found():
    """As trying each of them alone finds it."""
    train, tuning, strengths = faint(100, 0), faint(400, 1), [3, 0.3, 0.03, 3e-3, 3e-4, 3e-5]
    alone = {p: best_fit(train, tuning, 3, strengths=[p], iterations=500) for p in strengths}
    best = min(alone, key=lambda penalty: alone[penalty].tuning_loss)
    assert best not in {strengths[0], strengths[-1]}
    found = best_fit(train, tuning, 3, strengths=strengths, iterations=500)
    assert found.penalty == best
    assert found.tuning_loss == pytest.approx(alone[best].tuning_loss, abs=2e-3)


def test_the_path_goes_on_over_one_worse_penalty_but_not_over_two():
    """What was not tried cannot be chosen, however good."""
    train, tuning, good = faint(100, 0), faint(400, 1), 3e-3
    assert best_fit(train, tuning, 3, strengths=[0.3, 1e6, good]).penalty == good
    assert best_fit(train, tuning, 3, strengths=[0.3, 1e6, 1e7, good]).penalty == 0.3


def test_penalties_go_from_strong_to_weak_around_60_by_the_images():
    assert list(penalties(60)) == sorted(penalties(60), reverse=True)
    assert penalties(60)[0] == 10 > 1 == penalties(60)[2] > penalties(60)[-1]
    assert_allclose(penalties(600), np.array(penalties(60)) / 10)
    train, tuning = faint(100, 0), faint(400, 1)
    assert best_fit(train, tuning, 3).penalty in penalties(100)


def test_the_figures_of_a_fit_are_those_of_its_head():
    train, tuning = alike(*clouds(90, 10, distance=2)), alike(*clouds(45, 10, distance=2, seed=3))
    found = best_fit(train, tuning, 3)
    for images, losses, accuracy in (
        (tuning, found.tuning_losses.mean(), found.tuning_accuracy),
        (train, found.train_loss, found.train_accuracy),
    ):
        logits = images.features @ found.head.kernel + found.head.bias
        assert accuracy == np.mean(logits.argmax(axis=1) == images.labels)
        temperature = fit_temperature(logits, images.labels)
        wanted = -log_softmax(logits / temperature, axis=1)[np.arange(len(logits)), images.labels]
        assert losses == pytest.approx(wanted.mean(), abs=1e-5)
    assert found.tuning_losses.shape == (45,)
    assert found.tuning_loss == found.tuning_losses.mean()
    assert 0.5 < found.tuning_accuracy < 1
    assert found.head.logits(tuning.features).dtype == np.float32


def test_the_scale_folds_into_the_head():
    """What the exported network does: features as they are, through another kernel and bias."""
    features, labels = clouds(60, 12, distance=3)
    raw = features * np.linspace(1, 90, 12, dtype=np.float32) + 40
    scale, scaled = feature_scale(raw), raw.copy()
    scale_in_place(scaled, scale)
    head = best_fit(alike(scaled, labels), alike(scaled, labels), 3).head
    kernel, bias = head.kernel * scale.factor[:, None], head.bias + scale.offset @ head.kernel
    assert_allclose(raw @ kernel + bias, head.logits(scaled), atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 3.7, 1e4])
def test_constant_features_leave_the_shares_of_the_classes(value):
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    features = np.full((60, 5), value, np.float32)
    scale = feature_scale(features)
    scale_in_place(features, scale)
    assert np.isfinite(features).all()
    found = best_fit(alike(features, labels), alike(features, labels), 3)
    assert_allclose(softmax(found.head.logits(features), axis=1), [[1 / 2, 1 / 3, 1 / 6]] * 60, atol=5e-3)
    assert found.tuning_accuracy == 0.5


def test_one_constant_feature_among_others_changes_nothing():
    features, labels = clouds(60, 6, distance=3)
    more = np.concatenate([features, np.zeros((60, 1), np.float32)], axis=1)
    one, other = (best_fit(alike(x, labels), alike(x, labels), 3, iterations=500) for x in (features, more))
    assert_allclose(other.head.logits(more), one.head.logits(features), atol=2e-2)
    assert_allclose(other.head.kernel[-1], 0, atol=1e-6)


def test_a_class_that_tuning_lacks_and_one_that_training_lacks():
    features, labels = clouds(90, 10, classes=3, distance=3)
    tuning = alike(features[labels != 1], labels[labels != 1])
    found = best_fit(alike(features, labels), tuning, 3)
    assert found.head.kernel.shape == (10, 3)
    assert np.isfinite(found.tuning_losses).all()
    without = labels != 2
    found = best_fit(alike(features[without], labels[without]), alike(features, labels), 4)
    assert np.isfinite(found.tuning_losses).all()
    assert set(found.head.logits(features).argmax(axis=1)) <= {0, 1}


def test_two_classes_are_the_logistic_regression_of_their_difference():
    """softmax of two is the sigmoid of the difference, whose penalty is half as strong on each side."""
    features, labels = clouds(80, 15, classes=2, distance=2)
    penalty = 0.02
    found = best_fit(alike(features, labels), alike(features, labels), 2, strengths=[penalty], iterations=500)
    model = LogisticRegression(C=2 / (80 * penalty), tol=1e-9, max_iter=20000).fit(
        features.astype(float), labels
    )
    difference = found.head.kernel[:, 1] - found.head.kernel[:, 0]
    assert_allclose(difference, model.coef_[0], atol=2e-2)
    assert_allclose(found.head.kernel.sum(axis=1), 0, atol=1e-3)


@pytest.mark.parametrize(("count", "width"), [(80, 400), (400, 80)])
def test_copies_and_outliers_leave_a_head_as_scikit_learn_finds_it(count, width):
    """Inner products that are singular, of very unequal size: what float32 sums take for indefinite."""
    features, labels = clouds(count, width, distance=4)
    features[: count // 2] = features[count // 2 :]
    labels[: count // 2] = labels[count // 2 :]
    features[3] *= 3000
    train, probe = alike(features, labels), clouds(30, width, seed=7)[0]
    found = best_fit(train, alike(*clouds(30, width, seed=5)), 3, strengths=[1.0], iterations=2000)
    model = by_scikit_learn(train, 1.0)
    assert_allclose(softmax(found.head.logits(probe), axis=1), model.predict_proba(probe), atol=2e-2)


def test_one_feature_and_one_tuning_image():
    features = np.array([[-1.0], [-0.8], [0.9], [1.1]], np.float32)
    labels = np.array([0, 0, 1, 1])
    found = best_fit(alike(features, labels), alike(features[:1], labels[:1]), 2)
    assert (found.tuning_accuracy, found.train_accuracy) == (1.0, 1.0)


def test_more_rows_than_are_taken_at_once(monkeypatch):
    train, tuning = alike(*clouds(100, 12)), alike(*clouds(40, 12, seed=1))
    at_once = best_fit(train, tuning, 3)
    monkeypatch.setattr("edgetl.transfer.heads._ROWS_AT_ONCE", 7)
    assert_allclose(best_fit(train, tuning, 3).head.kernel, at_once.head.kernel, atol=1e-2)


@pytest.mark.parametrize("width", [40, 300])
def test_the_same_head_with_any_number_of_threads(width):
    train, tuning = alike(*clouds(120, width)), alike(*clouds(60, width, seed=1))
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            found.append(best_fit(train, tuning, 3))
    np.testing.assert_array_equal(found[0].head.kernel, found[1].head.kernel)
    np.testing.assert_array_equal(found[0].tuning_losses, found[1].tuning_losses)


# losses and the temperature


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_losses_of_training_that_diverged_are_not_finite_and_warn_of_nothing(value):
    logits = np.zeros((4, 3), np.float32)
    logits[1] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses, accuracy = losses_of(logits, np.array([0, 1, 2, 0]))
    assert not np.isfinite(losses).all()
    assert 0 <= accuracy <= 1


def test_losses_of_huge_logits_are_finite():
    logits = np.array([[3e38, -3e38], [-3e38, 3e38], [3e38, -3e38]], np.float32)
    losses, accuracy = losses_of(logits, np.array([0, 1, 1]))
    assert np.isfinite(losses).all()
    assert accuracy == pytest.approx(2 / 3)


def calibrated(count, classes=4, seed=0):
    """Logits whose softmax is the truth, and labels drawn from it."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, classes))
    labels = (softmax(logits, axis=1).cumsum(axis=1) > random.random((count, 1))).argmax(axis=1)
    return logits, labels


@pytest.mark.parametrize("factor", [0.25, 1.0, 5.0])
def test_the_temperature_that_logits_were_multiplied_by_is_found(factor):
    logits, labels = calibrated(20_000)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)


@given(st.floats(0.3, 3), st.integers(5, 200), st.integers(0, 50))
@settings(max_examples=40)
def test_the_loss_at_the_best_temperature_does_not_know_the_scale(factor, count, seed):
    logits, labels = calibrated(count, seed=seed)
    temperature = fit_temperature(logits, labels)
    if 0.2 < temperature < 5:
        assert fit_temperature(factor * logits, labels) == pytest.approx(factor * temperature, rel=1e-2)
        plain, scaled = (losses_of(x.astype(np.float32), labels)[0] for x in (logits, factor * logits))
        assert_allclose(scaled.mean(), plain.mean(), atol=1e-4)


def test_a_few_right_answers_are_no_evidence_for_boundless_confidence():
    few, many = (fit_temperature(np.eye(3)[np.arange(n) % 3], np.arange(n) % 3) for n in (6, 600))
    assert 0.1 < many < few < 1


# where to cut


def room_for(spec, block, head):
    height, width, _ = map_shape(spec.height, spec.width, block)
    return head is not Head.GRID or min(height, width) >= 2


def possible(spec, cut, head, scales, deepest):
    """All candidates by the rules alone, in no order."""
    cuts = [cut] if cut else [block for block in BLOCKS if LOWEST_CUT <= block <= deepest] or [deepest]
    for one, kind, count in product(cuts, [head] if head else POOLED, [scales] if scales else [1, 2]):
        seen = [one] if count == 1 else [block_below(one), one]
        if None not in seen and all(room_for(spec, scale, kind) for scale in seen):
            yield Candidate(one, kind, tuple(seen))


EVERYTHING = list(product(SIDES, [None, *BLOCKS], [None, *POOLED], [None, 1, 2], BLOCKS))


def test_candidates_are_all_that_the_settings_leave_open_cheapest_first():
    for side, cut, head, scales, deepest in EVERYTHING:
        spec = spec_of(side)
        found = candidates(spec, cut, head, scales, deepest)
        assert len(set(found)) == len(found)
        assert set(found) == set(possible(spec, cut, head, scales, deepest))
        costs = [multiplications(side, side, None, candidate.cut) for candidate in found]
        assert costs == sorted(costs)
        for candidate in found:
            assert candidate.scales[-1] is candidate.cut
            assert list(candidate.scales) == sorted(candidate.scales)
            assert len(columns_of(spec, candidate.scales, candidate.head, candidate.scales)) > 0


def test_the_default_at_32_pixels_has_no_quarters_of_block5():
    found = candidates(spec_of(32), None, None, None, Block.BLOCK5)
    assert {one.cut for one in found if one.head is Head.GRID} == {Block.BLOCK3, Block.BLOCK4}
    assert {one.cut for one in found if one.head is Head.GAP} == {Block.BLOCK3, Block.BLOCK4, Block.BLOCK5}
    assert found[0] == Candidate(Block.BLOCK3, Head.GAP, (Block.BLOCK3,))


def test_something_is_left_to_try_unless_asked_for_what_cannot_be():
    """Quarters of a map one wide, or a block below the first: whoever asks for these has to be refused."""
    for side, cut, head, scales, deepest in EVERYTHING:
        spec = spec_of(side)
        only = cut or (deepest if deepest < LOWEST_CUT else None)
        no_quarters = head is Head.GRID and only is not None and not room_for(spec, only, Head.GRID)
        impossible = no_quarters or (scales == 2 and only is Block.BLOCK1)
        assert bool(candidates(spec, cut, head, scales, deepest)) != impossible


TRIED = tuple(candidate for candidate in candidates(spec_of(64), None, None, 1, Block.BLOCK5) if candidate.head is not Head.MAX)  # fmt: skip
CUTS = [candidate.cut for candidate in TRIED]  # block3, block3, block4, block4, block5, block5
TRAIN_LABELS = np.arange(150) % 3


def features_like(quality, number, tuning_images):
    """Features of training and tuning images that are so good; those of equal quality and number are equal."""
    seed = int(1000 * quality) + number
    train = clouds(150, 20, seed=seed, distance=quality)[0]
    return train, clouds(tuning_images, 20, seed=seed + 10**6, distance=quality)[0]


def multiplications_to(block):
    return multiplications(64, 64, None, block)


def scored(qualities, numbers=(0,) * 6, tuning_images=120):
    """Scores of `TRIED` with features of these qualities."""
    made = {
        candidate: features_like(quality, number, tuning_images)
        for candidate, quality, number in zip(TRIED, qualities, numbers, strict=True)
    }
    advanced = []
    labels = TRAIN_LABELS, np.arange(tuning_images) % 3
    scores = score_cuts(TRIED, made.__getitem__, labels, multiplications_to, advanced.append)
    assert sum(advanced) == len(TRIED)
    assert sum(score.chosen for score in scores) == 1
    return scores


def chosen_of(scores):
    return [score.chosen for score in scores].index(True)


@pytest.mark.parametrize(
    ("qualities", "chosen"),
    [
        ((0.1, 0.1, 0.2, 6.0, 0.3, 0.2), 3),  # by far the best
        ((6.0, 6.0, 6.0, 6.0, 6.0, 6.0), 0),  # equal: the lowest cut, and its first
        ((0.1, 0.2, 0.2, 6.0, 6.0, 6.0), 3),  # the lower of the equal best
        ((0.1, 6.0, 6.0, 6.0, 6.0, 6.0), 1),  # a lower cut, though with the wider head
        ((0.1, 0.2, 0.3, 0.2, 6.0, 0.1), 4),
    ],
)
def test_the_lowest_cut_as_good_as_the_best_is_chosen(qualities, chosen):
    assert sorted(CUTS) == CUTS
    assert chosen_of(scored(qualities)) == chosen


@pytest.mark.parametrize("seed", range(15))
def test_as_good_is_within_one_standard_error_of_the_paired_difference(seed):
    """Candidates nearly alike: the choice follows from losses that are computed here once more."""
    random = np.random.default_rng(seed)
    qualities = 2.0 + 0.2 * random.permutation(6) * random.integers(0, 3)
    numbers = random.permutation(6).tolist()
    scores = scored(qualities, numbers)
    losses = []
    for quality, number in zip(qualities, numbers, strict=True):
        train, tuning = features_like(quality, number, 120)
        scale = feature_scale(train)
        for part in (train, tuning):
            scale_in_place(part, scale)
        fit = best_fit(alike(train, TRAIN_LABELS), alike(tuning, np.arange(120) % 3), 3, iterations=60)
        losses.append(fit.tuning_losses)
    assert_allclose([score.tuning_loss for score in scores], [loss.mean() for loss in losses])
    best = min(losses, key=np.mean)
    best_of_cuts = [min((0, 1), key=lambda i, j=j: losses[j + i].mean()) + j for j in (0, 2, 4)]
    near = [
        number
        for number in best_of_cuts
        if (losses[number] - best).mean() <= (losses[number] - best).std() / np.sqrt(120)
    ]
    assert chosen_of(scores) == near[0]


def test_the_same_scores_with_any_number_of_threads():
    made = {one: features_like(2.0, number, 120) for number, one in enumerate(TRIED)}
    labels = TRAIN_LABELS, np.arange(120) % 3

    def scores(threads):
        copied = lambda one: tuple(part.copy() for part in made[one])  # noqa: E731 - they are scaled in place
        return score_cuts(TRIED, copied, labels, multiplications_to, lambda _: None, threads=threads)

    assert scores(3) == scores(1)


def test_what_a_score_says():
    scores = scored((0.5, 0.5, 6.0, 6.0, 6.0, 6.0))
    assert [(score.cut, score.head, score.scales) for score in scores] == [
        (candidate.cut, candidate.head, candidate.scales) for candidate in TRIED
    ]
    for score in scores:
        assert score.features == 20
        assert score.giga_macs == multiplications(64, 64, None, score.cut) / 1e9
        assert 0 <= score.tuning_accuracy <= 1
        assert score.tuning_loss > 0
    assert scores[2].tuning_accuracy > scores[0].tuning_accuracy
    assert scores[2].tuning_loss < scores[0].tuning_loss


def test_one_tuning_image_still_gives_a_choice():
    scores = scored((2.0,) * 6, tuning_images=1)
    assert [score.tuning_accuracy in {0.0, 1.0} for score in scores] == [True] * len(TRIED)
    assert chosen_of(scores) is not None
