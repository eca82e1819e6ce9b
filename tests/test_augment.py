"""Varied copies: seeded, of the same form, near the original, and of the strength that was asked for."""

import hashlib
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trained import draw_data  # noqa: F401 - it skips this module where TensorFlow is missing

from edgetl.config import Augment
from edgetl.keras.augment import DRAWS, VARIATIONS, View, vary

VARIED = [Augment.LIGHT, Augment.STRONG]


def photos(count=6, height=24, width=32):
    """Smooth colours with an off-centre bright spot, so that every change shows."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    spots = [np.exp(-((x - a) ** 2 + (y - b) ** 2) / 30) for a, b in random.integers(5, 14, (count, 2))]
    colours = random.integers(60, 160, (count, 1, 1, 3))
    return np.clip(colours * (0.5 + np.stack(spots)[..., None]), 0, 255).astype(np.uint8)


def varied(strength, seed=0, pixels=None):
    pixels = photos() if pixels is None else pixels
    return vary(pixels, strength, np.random.default_rng(seed).random((len(pixels), DRAWS)))


def digests_of(pixels):
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]


def use(monkeypatch, **changes):
    """Let LIGHT be nothing but these."""
    nothing = {field.name: 0 for field in fields(VARIATIONS[Augment.OFF])} | {"flip": False}
    monkeypatch.setitem(VARIATIONS, Augment.LIGHT, replace(VARIATIONS[Augment.OFF], **(nothing | changes)))


def test_off_is_the_image_itself():
    np.testing.assert_array_equal(varied(Augment.OFF), photos())
    assert len(varied(Augment.STRONG, pixels=photos()[:0])) == 0


@pytest.mark.parametrize("strength", VARIED)
def test_copies_are_seeded_and_of_the_same_form(strength):
    one, same, other = varied(strength), varied(strength), varied(strength, seed=1)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (one.shape, one.dtype) == (photos().shape, np.uint8)


def test_copies_of_one_image_differ_from_each_other():
    copies = varied(Augment.LIGHT, pixels=np.repeat(photos(1), 8, axis=0))
    assert len({copy.tobytes() for copy in copies}) == 8


def test_a_flip_mirrors_exactly(monkeypatch):
    use(monkeypatch, flip=True)
    images = np.repeat(photos(3), 8, axis=0)
    copies = varied(Augment.LIGHT, pixels=images)
    flipped = [np.array_equal(copy, image[:, ::-1]) for copy, image in zip(copies, images, strict=True)]
    kept = [np.array_equal(copy, image) for copy, image in zip(copies, images, strict=True)]
    assert all(np.logical_xor(flipped, kept))
    assert 4 <= sum(flipped) <= 20


def test_draws_in_the_middle_change_nothing_and_the_ends_go_equally_far(monkeypatch):
    """The numbers 0..1 are symmetric around no change; from 0.5 on, the first of them keeps left and right."""
    middle = np.full((6, DRAWS), 0.5)
    for strength in VARIED:
        np.testing.assert_array_equal(vary(photos(), strength, middle), photos())
    use(monkeypatch, brightness=20)
    low, high = (vary(photos(), Augment.LIGHT, np.full((6, DRAWS), end)) for end in (0.0, 1.0))
    np.testing.assert_array_equal(high.astype(int) - photos(), 20)
    np.testing.assert_array_equal(photos().astype(int) - low, np.minimum(photos(), 20))


def test_no_change_of_any_kind_is_the_image_itself(monkeypatch):
    use(monkeypatch)
    np.testing.assert_array_equal(varied(Augment.LIGHT), photos())


def test_a_shift_moves_content_and_mirrors_the_rim(monkeypatch):
    use(monkeypatch, shift=0.25)
    copies = varied(Augment.LIGHT)
    assert (copies != photos()).any(axis=(1, 2, 3)).all()
    assert copies.min() >= photos().min() - 1, "nothing black comes in from outside"


@pytest.mark.parametrize("change", ["brightness", "contrast", "saturation"])
def test_a_colour_change_moves_nothing(monkeypatch, change):
    use(monkeypatch, **{change: 20 if change == "brightness" else 0.3})
    for copy, image in zip(varied(Augment.LIGHT), photos(), strict=True):
        assert (copy != image).any()
        assert np.corrcoef(copy[..., 0].ravel(), image[..., 0].ravel())[0, 1] > 0.98


def test_strong_differs_more_than_light_and_means_stay_near():
    images = np.repeat(photos(), 20, axis=0)
    differences = []
    for strength in VARIED:
        copies = varied(strength, pixels=images)
        differences.append(np.abs(copies.astype(int) - images).mean())
        assert abs(copies.mean() - images.mean()) < 6
        brightness = VARIATIONS[strength].brightness
        means = np.abs(copies.mean(axis=(1, 2, 3)) - images.mean(axis=(1, 2, 3)))
        assert means.max() < brightness + 25
    assert differences[1] > 1.4 * differences[0] > 0


def test_view_zero_is_the_image_itself():
    images = photos()
    for strength in Augment:
        view = View(0, strength, 3)
        assert view.of(images, digests_of(images)) is images
        assert view.name == ""


@pytest.mark.parametrize("number", range(1, 7))
def test_odd_views_mirror_and_even_ones_do_not(monkeypatch, number):
    use(monkeypatch, flip=True)
    images = photos()
    wanted = images[:, :, ::-1] if number % 2 else images
    np.testing.assert_array_equal(View(number, Augment.LIGHT, 0).of(images, digests_of(images)), wanted)


def test_where_nothing_may_be_mirrored_odd_views_are_not_either(monkeypatch):
    use(monkeypatch, flip=False)
    np.testing.assert_array_equal(View(1, Augment.LIGHT, 0).of(photos(), digests_of(photos())), photos())


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=9),
    st.integers(1, 9),
    st.sampled_from(VARIED),
    st.integers(0, 3),
)
def test_a_view_of_an_image_does_not_depend_on_its_neighbours(chosen, number, strength, seed):
    images, view = photos(), View(number, strength, seed)
    together = view.of(images[chosen], [digests_of(images)[i] for i in chosen])
    for copy, i in zip(together, chosen, strict=True):
        alone = view.of(images[i : i + 1], digests_of(images)[i : i + 1])
        np.testing.assert_array_equal(copy, alone[0])


def test_a_view_depends_on_digest_number_strength_and_seed():
    images = np.repeat(photos(1), 2, axis=0)
    one, other = View(2, Augment.LIGHT, 0).of(images, ["a" * 64, "b" * 64])
    assert (one != other).any(), "the same pixels in files of other content"
    views = [
        View(number, strength, seed) for number in (2, 4) for strength in VARIED for seed in (0, 1)
    ]  # fmt: skip
    copies = {view.of(images[:1], ["a" * 64]).tobytes() for view in views}
    assert len(copies) == len({view.name for view in views}) == len(views)


def test_another_strength_of_the_same_name_is_another_view(monkeypatch):
    """Rows in the cache are found by the name: it must change when what LIGHT means does."""
    before = View(1, Augment.LIGHT, 0).name
    use(monkeypatch, shift=0.25)
    assert View(1, Augment.LIGHT, 0).name != before


def test_a_view_of_no_images():
    assert View(1, Augment.LIGHT, 0).of(photos()[:0], []).shape == photos()[:0].shape
