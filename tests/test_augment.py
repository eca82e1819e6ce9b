"""Varied copies: seeded, of the same form, near the original, and of the strength that was asked for."""

from dataclasses import fields, replace

import numpy as np
import pytest
from trained import draw_data  # noqa: F401 - it skips this module where TensorFlow is missing

from edgetl.config import Augment
from edgetl.keras.augment import VARIATIONS, vary


def photos(count=6, height=24, width=32):
    """Smooth colours with an off-centre bright spot, so that every change shows."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    spots = [np.exp(-((x - a) ** 2 + (y - b) ** 2) / 30) for a, b in random.integers(5, 14, (count, 2))]
    colours = random.integers(60, 160, (count, 1, 1, 3))
    return np.clip(colours * (0.5 + np.stack(spots)[..., None]), 0, 255).astype(np.uint8)


def varied(strength, seed=0, pixels=None):
    return vary(photos() if pixels is None else pixels, strength, np.random.default_rng(seed))


def use(monkeypatch, **changes):
    """Let LIGHT be nothing but these."""
    nothing = {field.name: 0 for field in fields(VARIATIONS[Augment.OFF])} | {"flip": False}
    monkeypatch.setitem(VARIATIONS, Augment.LIGHT, replace(VARIATIONS[Augment.OFF], **(nothing | changes)))


def test_off_is_the_image_itself():
    np.testing.assert_array_equal(varied(Augment.OFF), photos())
    assert len(varied(Augment.STRONG, pixels=photos()[:0])) == 0


@pytest.mark.parametrize("strength", [Augment.LIGHT, Augment.STRONG])
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
    for strength in (Augment.LIGHT, Augment.STRONG):
        copies = varied(strength, pixels=images)
        differences.append(np.abs(copies.astype(int) - images).mean())
        assert abs(copies.mean() - images.mean()) < 6
        brightness = VARIATIONS[strength].brightness
        means = np.abs(copies.mean(axis=(1, 2, 3)) - images.mean(axis=(1, 2, 3)))
        assert means.max() < brightness + 25
    assert differences[1] > 1.4 * differences[0] > 0
