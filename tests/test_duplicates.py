"""Copies and near copies: what is found, what is not, and that likeness of everything does no harm."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

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
    return np.stack(small).reshape(len(small), -1).astype(np.float32)


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
    assert near_duplicates(thumbnails([*pictures, *copies])) == expected


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
    assert near_duplicates(thumbnails([Image.fromarray(one) for one in (plain, printed, red)])) == []


def test_flat_images_match_only_in_their_colour():
    flat = np.full((5, 768), 100, np.float32)
    flat[1] += 1
    flat[2] += 20
    flat[3:] = 7
    assert near_duplicates(flat) == [(0, 1), (3, 4)]


def test_noise_on_black_is_flat():
    dark = RANDOM.integers(0, 3, (6, 768)).astype(np.float32)
    assert len(near_duplicates(dark)) == 15


def test_no_and_one_image():
    assert near_duplicates(np.empty((0, 768), np.float32)) == []
    assert near_duplicates(np.ones((1, 768), np.float32)) == []


def test_pairs_across_tiles():
    many = RANDOM.integers(0, 256, (9000, 12)).astype(np.float32)
    many[8999] = np.clip(many[5] + 1, 0, 255)
    many[1500] = np.clip(many[8500] - 1, 0, 255)
    found = near_duplicates(many)
    assert {(5, 8999), (1500, 8500)} <= set(found)
    assert found == sorted(found)
    assert all(i < j for i, j in found)


def test_many_equal_images_give_one_pair_each():
    assert len(near_duplicates(np.ones((5000, 768), np.float32))) == 4999


def test_matches_of_one_image_are_bounded_and_groups_stay_whole():
    scene = RANDOM.integers(0, 256, 768) + RANDOM.integers(-4, 5, (3000, 768))
    found = near_duplicates(scene.astype(np.float32))
    assert len(found) <= 3000 * MOST_MATCHES
    assert groups(found) == [tuple(range(3000))]


def test_a_fixed_camera_is_a_scene_not_copies():
    scene = (RANDOM.integers(0, 256, 768) + RANDOM.integers(-4, 5, (60, 768))).astype(np.float32)
    labels = np.repeat([0, 1], 30)
    copies = find_copies([*map(str, range(59)), "0"], scene, labels)
    assert copies.exact == ((0, 59),)
    assert copies.near == ()
    assert copies.groups == ((0, 59),)
    assert len(copies.scenes) == 1


def test_a_few_copies_among_many_images_are_no_scene():
    many = RANDOM.integers(0, 256, (200, 768)).astype(np.float32)
    many[1:25] = np.clip(many[0] + RANDOM.integers(-4, 5, (24, 768)), 0, 255)
    copies = find_copies([str(i) for i in range(200)], many, np.zeros(200, np.int64))
    assert copies.scenes == ()
    assert copies.groups == (tuple(range(25)),)


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
