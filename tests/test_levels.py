"""Few levels and many zeros: as promised, and with the least error there can be."""

import warnings
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgetl.compression.levels import largest, limit_of, limited, shared_levels

kernels = arrays(
    np.float32,
    st.tuples(*[st.integers(1, 4)] * 2),
    elements=st.floats(-8, 8, width=32, allow_subnormal=False),
)
ENDS = (-4, 4)  # of the small grid on which everything can be tried


def error(counts, levels) -> float:
    points = np.arange(len(counts)) - len(counts) // 2
    return float((counts * np.square(points[:, None] - np.array(levels)).min(axis=1)).sum())


@given(
    counts=arrays(np.int64, 9, elements=st.integers(0, 50)),
    clusters=st.integers(3, 6),
    fixed=st.sampled_from([ENDS, (-4, 0, 4)]),
)
def test_no_other_levels_have_a_smaller_error(counts, clusters, fixed):
    found = shared_levels(counts, clusters, fixed)
    assert len(found) <= clusters
    assert set(fixed) <= set(found)
    others = [level for level in range(-4, 5) if level not in fixed]
    free = min(clusters - len(fixed), len(others))
    best = min(error(counts, (*fixed, *some)) for some in combinations(others, free))
    assert error(counts, found) == best


def test_fewer_clusters_than_fixed_levels_are_refused():
    with pytest.raises(ValueError, match="2 clusters cannot hold the 3"):
        shared_levels(np.ones(9, np.int64), 2, (-4, 0, 4))


@given(kernel=kernels, clusters=st.none() | st.integers(4, 20), sparsity=st.none() | st.floats(0.05, 0.95), levels=st.sampled_from([64, 127]))  # fmt: skip
def test_limited_weights_become_few_int8_numbers_and_stay_themselves(kernel, clusters, sparsity, levels):
    limit = limit_of(kernel, clusters, sparsity, levels)
    made = limited(kernel, limit)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    highest = np.abs(made).max(axis=0)
    scales = np.where(highest > 0, highest / levels, 1)  # as quantizers choose them
    int8 = made / scales
    if clusters is not None:
        np.testing.assert_allclose(int8, np.rint(int8), atol=1e-3)
        assert len(np.unique(np.rint(int8))) <= clusters
    if sparsity is not None:
        assert np.count_nonzero(made == 0) >= sparsity * made.size
    np.testing.assert_array_equal(limited(made, limit), made)
    if clusters is None and sparsity is None:
        np.testing.assert_array_equal(made, kernel)


@given(kernel=kernels, sparsity=st.floats(0.05, 0.95))
def test_what_becomes_zero_is_not_larger_than_what_is_kept(kernel, sparsity):
    kept = largest(kernel, sparsity)
    assert np.count_nonzero(~kept) == int(np.ceil(sparsity * kernel.size))
    if kept.any():
        assert np.abs(kernel[~kept]).max() <= np.abs(kernel[kept]).min()


def test_the_toolkit_keeps_the_same_weights():
    """tensorflow_model_optimization: constant sparsity, where no two weights are equal."""
    tf_keras = pytest.importorskip("edgetl.keras").tf_keras
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_model_optimization as toolkit
    layer = tf_keras.layers.Conv2D(8, 3)
    schedule = toolkit.sparsity.keras.ConstantSparsity(0.6, 0)
    pruned = toolkit.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)
    pruned.build((None, 9, 9, 5))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 5, 8)).astype(np.float32)
    layer.set_weights([kernel, np.zeros(8, np.float32)])
    pruned.pruning_step.assign(0)
    pruned.pruning_obj.conditional_mask_update()
    mask = pruned.pruning_vars[0][1].numpy()
    np.testing.assert_array_equal(mask.astype(bool), largest(kernel, 0.6))
