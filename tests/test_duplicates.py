"""Copies and near copies: what is found, what is not, and that likeness of everything does no harm."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgetl import duplicates
from edgetl.duplicates import MOST_MATCHES, exact_duplicates, find_copies, groups, near_duplicates

RANDOM = np.random.default_rng(11)


def picture(seed, side=96):
    """A smooth picture with edges: coarse noise enlarged, and a few boxes on it."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
    image = np.array(coarse.resize((side, side), Image.Resampling.BICUBIC))
    for _ in range(4):
        top, left = random.integers(0, side - 20, 2)
        image[top : top + 20, left : left + 20] = random.integers(0, 256, 3)
    return Image.fromarray(image)


def thumbnails(pictures):
    small = [np.array(one.resize((16, 16), Image.Resampling.BILINEAR)) for one in pictures]
    return np.stack(small).reshape(len(small), -1)


def near(small):
    return [tuple(pair) for pair in near_duplicates(small).tolist()]


def varied(image, count):
    """Images [count, D] that differ from this one by a few grey levels."""
    return np.clip(image + RANDOM.integers(-4, 5, (count, len(image))), 0, 255).astype(np.uint8)


def jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: jpeg(image, 75),
        lambda image: image.resize((48, 48), Image.Resampling.LANCZOS),
        lambda image: jpeg(image.resize((192, 192), Image.Resampling.BICUBIC), 75),
        lambda image: image.point(lambda value: min(255, value + 4)),
    ],
    ids=["re-encoded", "halved", "doubled", "brightened"],
)
def test_changed_copies_are_found(change):
    pictures = [picture(seed) for seed in range(30)]
    copies = [change(one) for one in pictures]
    expected = [(i, i + 30) for i in range(30)]
    assert near(thumbnails([*pictures, *copies])) == expected


def test_slightly_cropped_copies_are_mostly_found():
    pictures = [picture(seed, 200) for seed in range(30)]
    copies = [one.crop((1, 1, 199, 199)) for one in pictures]
    assert len(near_duplicates(thumbnails([*pictures, *copies]))) >= 27


def test_the_same_shape_with_another_print_or_colour_is_no_copy():
    plain = np.zeros((96, 96, 3), np.uint8)
    plain[10:90, 30:70] = 200
    printed = plain.copy()
    printed[40:55, 42:57] = 90
    red = plain * np.array([1, 0, 0], np.uint8)
    assert near(thumbnails([Image.fromarray(one) for one in (plain, printed, red)])) == []


def test_flat_images_match_only_in_their_colour():
    flat = np.full((5, 768), 100, np.uint8)
    flat[1] += 1
    flat[2] += 20
    flat[3:] = 7
    assert near(flat) == [(0, 1), (3, 4)]


def test_noise_on_black_is_flat():
    dark = RANDOM.integers(0, 3, (6, 768), np.uint8)
    assert len(near_duplicates(dark)) == 15


def test_no_and_one_image():
    assert near(np.empty((0, 768), np.uint8)) == []
    assert near(np.ones((1, 768), np.uint8)) == []


def test_pairs_across_tiles():
    many = RANDOM.integers(1, 255, (9000, 12), np.uint8)
    many[8999] = many[5] + 1
    many[1500] = many[8500] - 1
    found = near(many)
    assert {(5, 8999), (1500, 8500)} <= set(found)
    assert found == sorted(found)
    assert all(i < j for i, j in found)


def test_many_equal_images_give_one_pair_each():
    assert len(near_duplicates(np.ones((5000, 768), np.uint8))) == 4999


def test_matches_of_one_image_are_bounded_and_groups_stay_whole():
    found = near(varied(RANDOM.integers(0, 256, 768), 3000))
    assert len(found) <= 3000 * MOST_MATCHES
    assert groups(found) == [tuple(range(3000))]


def test_a_fixed_camera_is_a_scene_not_copies():
    scene = varied(RANDOM.integers(0, 256, 768), 60)
    labels = np.repeat([0, 1], 30)
    copies = find_copies([*map(str, range(59)), "0"], scene, labels)
    assert copies.exact == ((0, 59),)
    assert copies.near.shape == (0, 2)
    assert copies.groups == ((0, 59),)
    assert len(copies.scenes) == 1


def test_a_few_copies_among_many_images_are_no_scene():
    many = RANDOM.integers(0, 256, (200, 768), np.uint8)
    many[1:25] = varied(many[0], 24)
    copies = find_copies([str(i) for i in range(200)], many, np.zeros(200, np.int64))
    assert copies.scenes == ()
    assert copies.groups == (tuple(range(25)),)


def compared_one_by_one(small):
    """What `near_duplicates` promises for less than one tile, in whole numbers."""
    values = small.shape[1]
    whole = small.astype(np.int64)
    total = whole.sum(axis=1)
    covariances = (values * (whole @ whole.T) - np.outer(total, total)).astype(
        object
    )  # squares exceed 64 bits
    variance = covariances.diagonal()
    flat = variance < (2 * values) ** 2
    seen, pairs = {}, []
    first = [seen.setdefault(row.tobytes(), i) for i, row in enumerate(small)]
    pairs += [(first[i], i) for i in range(len(small)) if first[i] != i]
    distinct = sorted(seen.values())
    for number, i in enumerate(distinct):
        covariance = covariances[i]
        candidates = [
            j
            for j in distinct[number + 1 :]
            if (flat[i] and flat[j])
            or (
                not flat[i]
                and not flat[j]
                and covariance[j] > 0
                and (1000 * covariance[j]) ** 2 >= 985**2 * variance[i] * variance[j]
            )
        ]
        limit = 3 if flat[i] else 26
        close = [j for j in candidates[: 4 * MOST_MATCHES] if abs(whole[i] - whole[j]).max() <= limit]
        pairs += [(i, j) for j in close[:MOST_MATCHES]]
    return sorted(pairs)


@st.composite
def galleries(draw):
    """Up to 100 images around a few, some flat, some equal, correlations on both sides of the limit."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    values, count = draw(st.sampled_from([3, 12, 48, 300])), draw(st.integers(1, 100))
    bases = random.integers(0, 256, (draw(st.integers(1, 6)), values))
    bases[random.random(len(bases)) < 0.2] = random.integers(0, 256)
    noise = random.integers(-9, 10, (count, values)) * random.choice([0, 0.2, 1, 2], (count, 1))
    images = bases[random.integers(0, len(bases), count)] * random.choice([0.9, 1], (count, 1)) + noise
    return np.clip(images, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("few", [0, 1], ids=["all-pairs", "pair-by-pair"])
@given(small=galleries(), sketch=st.sampled_from([1, 2, 8, 64]))
def test_as_if_compared_one_by_one(few, small, sketch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_FEW", few)
        patch.setattr(duplicates, "_SKETCH", sketch)
        assert near(small) == compared_one_by_one(small)


@settings(max_examples=30)
@given(small=galleries(), columns=st.integers(1, 16))
def test_tiles_do_not_matter_where_matches_are_few(small, columns):
    with pytest.MonkeyPatch.context() as patch:
        for name, size in {
            "_ROWS": 16,
            "_COLUMNS": 64,
            "_COLUMNS_AT_ONCE": columns,
            "_PAIRS_AT_ONCE": 5,
        }.items():
            patch.setattr(duplicates, name, size)
        found = near(small)
    if len(small) <= MOST_MATCHES:
        assert found == compared_one_by_one(small)
    assert groups(found) == groups(compared_one_by_one(small))


def test_of_many_matches_the_first_are_kept():
    scene = np.concatenate(
        [varied(RANDOM.integers(0, 256, 48), 150), varied(RANDOM.integers(0, 256, 48), 150)]
    )
    assert near(scene) == compared_one_by_one(scene)
    far = scene.copy()
    far[10:290, 0] = np.where(np.arange(280) % 2, 0, 200)  # alike in all but one value
    assert near(far) == compared_one_by_one(far)


@given(st.lists(st.text("abc", max_size=2), max_size=30))
def test_exact_pairs_join_equal_digests_only(digests):
    pairs = exact_duplicates(digests)
    assert all(digests[i] == digests[j] and i < j for i, j in pairs)
    assert len(pairs) == len(digests) - len(set(digests))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=30))
def test_groups_are_connected_and_apart(pairs):
    found = groups(pairs)
    where = {member: number for number, group in enumerate(found) for member in group}
    assert sum(map(len, found)) == len(where) == len({node for pair in pairs for node in pair})
    assert all(where[i] == where[j] for i, j in pairs)
    assert found == sorted(found)
    for group in found:
        reached = {group[0]}
        for _ in group:
            reached |= {node for pair in pairs if set(pair) & reached for node in pair}
        assert reached == set(group)
