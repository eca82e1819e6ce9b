"""Folders become four roles that are kept apart."""

import os
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgetl import images
from edgetl.config import DataConfig
from edgetl.dataset import (
    Role,
    assign_roles,
    divide,
    list_images,
    load,
    read_files,
    read_images,
    role_fingerprint,
)
from edgetl.duplicates import Copies
from edgetl.errors import DataError, StorageError, UsageError
from edgetl.files import sha256_of
from edgetl.pixels import StoredPixels
from edgetl.roles import keep_out

ROLES = {role.value for role in Role}


def write(path, seed, size=(80, 96)):
    """A PNG of smooth noise that no other seed resembles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def flat_folder(root, classes=("cat", "dog"), images=12, first=0):
    for number, name in enumerate(classes):
        for i in range(images):
            write(root / name / f"{i:03}.png", first + 1000 * number + i)
    return root


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for number, split in enumerate(("train", "val", "test")):
        flat_folder(root / split, images=8, first=10_000 * number)
    return root


def near_pairs(folder, side):
    listing = list_images(folder)
    read = read_files(listing.entries, folder, side, side)
    pairs = divide(listing, read, DataConfig()).copies.near.tolist()
    return [tuple(sorted(read.images.paths[i] for i in pair)) for pair in pairs]


def refused(folder, config=None):
    with pytest.raises(DataError) as caught:
        load(folder, 8, 8, config or DataConfig())
    assert caught.value.fix
    return caught.value.what


# Listing


def test_split_folders(divided):
    listing = list_images(divided)
    assert (listing.layout, listing.labels) == ("split folders", ("cat", "dog"))
    assert [entry.split for entry in listing.entries] == ["train"] * 16 + ["val"] * 16 + ["test"] * 16
    assert [entry.label for entry in listing.entries[:16]] == [0] * 8 + [1] * 8


def test_a_flat_folder_may_have_a_class_named_train(tmp_path):
    listing = list_images(flat_folder(tmp_path, ("bus", "test", "train")))
    assert (listing.layout, listing.labels) == ("flat", ("bus", "test", "train"))


def test_images_may_lie_deeper_and_names_may_look_like_patterns(tmp_path):
    write(tmp_path / "[a]*" / "2020" / "may" / "1.png", 1)
    write(tmp_path / "b" / "1.png", 2)
    write(tmp_path / ".hidden" / "1.png", 3)
    listing = list_images(tmp_path)
    assert listing.labels == ("[a]*", "b")
    assert len(listing.entries) == 2


def test_a_class_map_fixes_the_order(tmp_path):
    root = flat_folder(tmp_path / "data", images=4)
    (tmp_path / "map.txt").write_text("\ufeffdog\n\ncat\n", encoding="utf-8")
    listing = list_images(root, tmp_path / "map.txt")
    assert listing.labels == ("dog", "cat")
    assert {entry.path.parent.name: entry.label for entry in listing.entries} == {"dog": 0, "cat": 1}


@pytest.mark.parametrize("text", ["cat\ncat\ndog\n", "cat\n", "cat\ndog\ncow\n", None, b"\xff\xfe\xff"])
def test_a_class_map_that_does_not_fit(tmp_path, text):
    root = flat_folder(tmp_path / "data", images=4)
    if text is not None:
        (tmp_path / "map.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match="map"):
        list_images(root, tmp_path / "map.txt")


def test_folders_that_cannot_be_used(tmp_path, divided):
    assert "not a folder" in refused(tmp_path / "none")
    assert "no class folders" in refused(tmp_path)
    (tmp_path / "cat").mkdir()
    assert "only one class" in refused(tmp_path)
    (tmp_path / "dog").mkdir()
    assert "no images" in refused(tmp_path)
    for i in range(4):
        write(tmp_path / "cat" / f"{i}.png", i)
    assert "fewer than 4 images: dog (0)" in refused(tmp_path)

    shutil.copytree(divided, tmp_path / "no-train", ignore=shutil.ignore_patterns("train"))
    assert "no class folders in train/" in refused(tmp_path / "no-train")
    shutil.copytree(divided, tmp_path / "strange")
    (tmp_path / "strange" / "extra").mkdir()
    assert "also extra" in refused(tmp_path / "strange")
    shutil.copytree(divided, tmp_path / "lacking")
    shutil.rmtree(tmp_path / "lacking" / "test" / "dog")
    assert "lacks classes that train/ has: dog" in refused(tmp_path / "lacking")
    shutil.copytree(divided, tmp_path / "surplus")
    (tmp_path / "surplus" / "val" / "cow").mkdir()
    assert "without training images: cow" in refused(tmp_path / "surplus")
    shutil.copytree(divided, tmp_path / "hollow")
    shutil.rmtree(tmp_path / "hollow" / "test" / "dog")
    (tmp_path / "hollow" / "test" / "dog").mkdir()
    assert "for certification is left in: dog" in refused(tmp_path / "hollow")


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def closed(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", closed)
    assert "cannot be listed: Permission denied" in refused(tmp_path)


def test_names_that_are_not_utf8(tmp_path):
    root = flat_folder(tmp_path / "data")
    (root / "cat" / "000.png").rename(root / "cat" / os.fsdecode(b"\xff.png"))
    loaded = load(root, 8, 8, DataConfig())
    (skipped,) = loaded.skipped
    assert (skipped.path, skipped.reason) == ("cat/\\udcff.png", "name")
    (root / os.fsdecode(b"\xff")).mkdir()
    assert "not UTF-8" in refused(root)


@pytest.mark.parametrize("name", ["two\nlines", "two\rlines", "two\u2028lines"])
def test_class_names_with_line_breaks(tmp_path, name):
    root = flat_folder(tmp_path / "data")
    (root / name).mkdir()
    assert "has a line break" in refused(root)


# Roles


@st.composite
def divisions(draw):
    sizes = draw(st.lists(st.integers(4, 60), min_size=2, max_size=5))
    labels = np.array(
        draw(st.permutations([i for i, size in enumerate(sizes) for _ in range(size)])), np.int64
    )
    config = DataConfig(
        seed=draw(st.integers(0, 5)),
        tuning_share=draw(st.floats(0.02, 0.5)),
        calibration_share=draw(st.floats(0.01, 0.5)),
        certification_share=draw(st.floats(0.02, 0.8)),
    )
    ends = draw(st.lists(st.integers(0, len(labels)), max_size=12, unique=True).map(sorted))
    order = np.random.default_rng(config.seed).permutation(len(labels))
    together = [order[a:b].tolist() for a, b in pairwise(ends)]
    return labels, config, together


@settings(deadline=None)
@given(divisions())
def test_every_class_is_in_every_role_whatever_the_shares(division):
    labels, config, together = division
    roles = assign_roles(labels, [""] * len(labels), config, together)
    assert set(roles) == ROLES
    for label in np.unique(labels):
        assert set(roles[labels == label]) == ROLES
    np.testing.assert_array_equal(roles, assign_roles(labels, [""] * len(labels), config, together))


@settings(deadline=None)
@given(divisions())
def test_no_group_spans_certification_and_another_role_without_being_kept_out(division):
    labels, config, together = division
    roles = assign_roles(labels, [""] * len(labels), config, together)
    copies = Copies((), (), tuple(tuple(sorted(group)) for group in together), ())
    outside = keep_out(roles, labels, copies).all()
    for group in together:
        counted = [i for i in group if roles[i] == Role.CERTIFICATION.value and i not in outside]
        assert len(counted) <= 1
        assert not counted or all(roles[i] == Role.CERTIFICATION.value for i in group)


def test_shares_are_met():
    labels = np.repeat([0, 1], 500)
    config = DataConfig(certification_share=0.25, tuning_share=0.12, calibration_share=0.08)
    roles = assign_roles(labels, [""] * 1000, config)
    counts = {role: int(np.sum(roles == role)) for role in ROLES}
    assert counts == {"certification": 250, "tuning": 120, "calibration": 50, "train": 580}
    assert np.any(roles != assign_roles(labels, [""] * 1000, DataConfig(seed=1)))


@pytest.mark.parametrize("classes", [2, 10, 30])
def test_calibration_is_at_most_256_images(classes):
    labels = np.repeat(np.arange(classes), 20_000 // classes)
    roles = assign_roles(labels, ["train"] * len(labels), DataConfig(calibration_share=0.5))
    assert 256 - classes <= np.sum(roles == Role.CALIBRATION.value) <= 256


def test_given_splits_are_kept():
    splits = ["train"] * 20 + ["val"] * 5 + ["test"] * 5
    roles = assign_roles(np.zeros(30, np.int64), splits, DataConfig())
    assert set(roles[:20]) == {"train", "calibration"}
    assert set(roles[20:25]) == {"tuning"}
    assert set(roles[25:]) == {"certification"}


def test_groups_get_one_role_where_the_class_is_large_enough():
    labels = np.zeros(200, np.int64)
    together = [tuple(range(i, i + 5)) for i in range(0, 200, 5)]
    roles = assign_roles(labels, [""] * 200, DataConfig(), together)
    assert all(len({str(roles[i]) for i in group}) == 1 for group in together)
    assert set(roles) == ROLES


def test_shares_that_leave_nothing_are_refused(tmp_path, divided):
    greedy = DataConfig(tuning_share=0.5, certification_share=0.5)
    with pytest.raises(UsageError, match="no images for training"):
        load(flat_folder(tmp_path), 8, 8, greedy)
    assert load(divided, 8, 8, greedy)


@given(st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), max_size=5), st.randoms())
def test_fingerprints_do_not_depend_on_the_order(digests, random):
    shuffled = digests.copy()
    random.shuffle(shuffled)
    assert role_fingerprint(shuffled) == role_fingerprint(digests)
    assert role_fingerprint([*digests, "0" * 64]) != role_fingerprint(digests)


# Loading


def test_loading_keeps_pixels_labels_and_names_together(tmp_path):
    root = flat_folder(tmp_path)
    loaded = load(root, 10, 14, DataConfig())
    everything = {}
    for role, found in loaded.roles.items():
        assert len(found) == len(found.labels) == len(found.digests) == len(found.pixels)
        for i, path in enumerate(found.paths):
            everything[path] = role
            expected = Image.open(root / path).resize((14, 10), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(found.pixels[i], np.array(expected))
            assert found.digests[i] == sha256_of(root / path)
            assert loaded.labels[found.labels[i]] == path.split("/")[0]
    assert len(everything) == sum(map(len, loaded.roles.values())) == 24


def test_pixels_on_the_disk_are_those_in_memory(tmp_path):
    root, scratch = flat_folder(tmp_path / "data"), tmp_path / "scratch"
    scratch.mkdir()
    shutil.copy(root / "cat" / "003.png", root / "cat" / "copy.png")
    (root / "cat" / "000.png").write_bytes(b"no image")
    in_memory, on_disk = load(root, 10, 14, DataConfig()), load(root, 10, 14, DataConfig(), scratch=scratch)
    assert list(scratch.iterdir()) == []
    assert replace(in_memory, roles={}) == replace(on_disk, roles={})
    for role in Role:
        one, other = in_memory.roles[role], on_disk.roles[role]
        assert (one.paths, one.digests) == (other.paths, other.digests)
        assert one.labels.tolist() == other.labels.tolist()
        assert isinstance(other.pixels, StoredPixels)
        np.testing.assert_array_equal(one.pixels, other.pixels[:])


def test_a_disk_without_room_is_said_before_any_image_is_opened(tmp_path, monkeypatch):
    root = flat_folder(tmp_path / "data")
    monkeypatch.setattr(images, "examine_many", None)
    with pytest.raises(StorageError, match=r"24 images .* take [0-9.]+ GiB in .*; [0-9.]+ are free"):
        load(root, 2**20, 2**20, DataConfig(), scratch=tmp_path)
    with pytest.raises(StorageError, match="not there"):
        load(root, 8, 8, DataConfig(), scratch=tmp_path / "none")


def test_roles_do_not_depend_on_the_image_size(tmp_path):
    root = flat_folder(tmp_path)
    write(root / "cat" / "copy.png", 1, size=(160, 192))
    small, large = (load(root, side, side, DataConfig()) for side in (8, 96))
    assert near_pairs(root, 8) == near_pairs(root, 96) == [("cat/001.png", "cat/copy.png")]
    for role in Role:
        assert small.roles[role].paths == large.roles[role].paths


def test_copies_are_kept_out_of_certification(tmp_path, divided):
    root = tmp_path / "data"
    shutil.copytree(divided, root)
    shutil.copy(root / "train" / "cat" / "000.png", root / "test" / "cat" / "exact.png")
    shutil.copy(root / "test" / "cat" / "003.png", root / "test" / "cat" / "twice.png")
    Image.open(root / "val" / "dog" / "001.png").save(root / "test" / "dog" / "near.jpg", quality=90)
    loaded = load(root, 32, 32, DataConfig())
    assert loaded.leaking == ("test/cat/exact.png", "test/cat/twice.png", "test/dog/near.jpg")
    assert not set(loaded.leaking) & set(loaded.roles[Role.CERTIFICATION].paths)
    assert len(loaded.roles[Role.CERTIFICATION]) == 16
    assert ("test/dog/near.jpg", "val/dog/001.png") in near_pairs(root, 32)


def test_one_picture_in_two_classes_is_kept_out(tmp_path, divided):
    root = tmp_path / "data"
    shutil.copytree(divided, root)
    shutil.copy(root / "test" / "cat" / "003.png", root / "test" / "dog" / "003-too.png")
    loaded = load(root, 32, 32, DataConfig())
    assert loaded.leaking == ("test/cat/003.png", "test/dog/003-too.png")


def test_a_test_folder_of_copies_is_refused(tmp_path, divided):
    shutil.copytree(divided / "train", tmp_path / "train")
    shutil.copytree(divided / "train", tmp_path / "test")
    assert "No certification image is left: all copy" in refused(tmp_path)


def test_unreadable_files_are_left_out_and_named(tmp_path):
    root = flat_folder(tmp_path)
    (root / "cat" / "000.png").write_bytes(b"")
    loaded = load(root, 8, 8, DataConfig())
    assert [(file.path, file.reason) for file in loaded.skipped] == [("cat/000.png", "empty")]
    for i in range(9):
        (root / "cat" / f"{i:03}.png").write_bytes(b"no image")
    assert "cat/000.png (not_an_image)" in refused(root)


def test_read_images_tells_positions(tmp_path):
    entries = list_images(flat_folder(tmp_path, images=4)).entries
    (tmp_path / "cat" / "001.png").unlink()
    found, kept, skipped = read_images(entries, tmp_path, 8, 8)
    assert kept == [0, 2, 3, 4, 5, 6, 7]
    assert found.paths[1] == "cat/002.png"
    assert skipped[0].reason == "missing"


def test_too_large_for_memory_is_said(tmp_path):
    entries = list_images(flat_folder(tmp_path, images=4)).entries
    with pytest.raises(DataError, match="GiB of memory"):
        read_images(entries, tmp_path, 2**24, 2**24)
