"""Pixels in a file are the same as pixels in memory, and leave nothing behind."""

import errno
import gc
import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetl.engines import run_batches
from edgetl.errors import DataError, StorageError
from edgetl.pixels import InMemory, OnDisk, StoredPixels, split_rows

COUNT = 23
PIXELS = np.random.default_rng(5).integers(0, 256, (COUNT, 3, 5, 3), np.uint8)


def fill(room, pixels=PIXELS):
    for number, image in enumerate(pixels):
        room.put(number, image)
    return room.first(len(pixels))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return fill(OnDisk(tmp_path_factory.mktemp("scratch"), COUNT, 3, 5))


def positions(count):
    return st.lists(st.integers(-count, count - 1), max_size=40).map(
        lambda chosen: np.array(chosen, np.int64)
    )


@st.composite
def keys(draw, count):
    ends = st.none() | st.integers(-count - 3, count + 3)
    steps = st.none() | st.integers(-4, 4).filter(bool)
    return draw(
        st.builds(slice, ends, ends, steps)
        | (positions(count) if count else st.nothing())
        | st.lists(st.booleans(), min_size=count, max_size=count).map(lambda mask: np.array(mask, bool))
    )


@settings(max_examples=300)
@given(st.data())
def test_whatever_is_taken_is_what_an_array_gives(stored, data):
    array = PIXELS
    for _ in range(data.draw(st.integers(0, 3))):
        chosen = data.draw(positions(len(array))) if len(array) else np.empty(0, np.int64)
        array, stored = array[chosen], stored.select(chosen.tolist())
    key = data.draw(keys(len(array)))
    taken, expected = stored[key], array[key]
    assert (len(stored), stored.shape, stored.dtype) == (len(array), array.shape, array.dtype)
    assert (taken.dtype, taken.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(taken, expected)


def test_one_image_and_all_of_them_one_by_one(stored):
    np.testing.assert_array_equal(stored[-1], PIXELS[-1])
    np.testing.assert_array_equal(np.stack(list(stored)), PIXELS)
    with pytest.raises(IndexError):
        stored[COUNT]


def test_neighbours_are_read_at_once(stored, monkeypatch):
    sizes = []
    read = os.preadv

    def counted(handle, buffers, offset):
        sizes.append(len(buffers[0]) // PIXELS[0].size)
        return read(handle, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    np.testing.assert_array_equal(stored[4:12], PIXELS[4:12])
    np.testing.assert_array_equal(stored[np.array([7, 8, 9, 2, 3])], PIXELS[[7, 8, 9, 2, 3]])
    assert sizes == [8, 3, 2]


def test_reading_goes_on_where_the_system_stopped(tmp_path, monkeypatch):
    read, write = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda handle, buffers, offset: read(handle, [buffers[0][:7]], offset))
    monkeypatch.setattr(os, "pwrite", lambda handle, content, offset: write(handle, content[:7], offset))
    np.testing.assert_array_equal(fill(OnDisk(tmp_path, COUNT, 3, 5))[:], PIXELS)


def test_a_file_that_became_shorter_is_noticed(tmp_path):
    pixels = fill(OnDisk(tmp_path, COUNT, 3, 5))
    os.ftruncate(pixels._file._handle, 10)
    with pytest.raises(OSError, match="shorter"):
        pixels[:]


def test_nothing_is_left(tmp_path):
    room = OnDisk(tmp_path, COUNT, 3, 5)
    assert list(tmp_path.iterdir()) == []
    pixels = fill(room)
    handle, part = pixels._file._handle, pixels.select([3, 1])
    assert os.fstat(handle).st_nlink == 0
    del room, pixels
    gc.collect()
    np.testing.assert_array_equal(part[:], PIXELS[[3, 1]])
    del part
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_space_is_taken_at_once(tmp_path):
    room = OnDisk(tmp_path, 100, 30, 30)
    assert os.fstat(room._file._handle).st_blocks * 512 >= 100 * 30 * 30 * 3


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tmp_path, monkeypatch, call):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match="the disk is full"):
        fill(OnDisk(tmp_path, COUNT, 3, 5))
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_said_with_what_is_there(tmp_path):
    with pytest.raises(StorageError, match=r"take 3[0-9.]+ GiB in .*; [0-9.]+ are free") as caught:
        OnDisk(tmp_path, 2**40, 1, 1)
    assert caught.value.fix
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="GiB of memory"):
        InMemory(2**40, 2**8, 2**8)


@given(st.permutations(range(COUNT)), st.lists(st.integers(0, COUNT), min_size=2, max_size=5).map(sorted))
def test_parts_are_the_same_in_memory_and_on_the_disk(stored, order, ends):
    parts = [order[start:end] for start, end in pairwise(ends)]
    in_memory = split_rows(PIXELS.copy(), parts)
    on_disk = split_rows(stored, parts)
    for chosen, array, rows in zip(parts, in_memory, on_disk, strict=True):
        assert isinstance(rows, StoredPixels)
        np.testing.assert_array_equal(array, PIXELS[chosen])
        np.testing.assert_array_equal(rows[:], PIXELS[chosen])


def test_an_empty_room(tmp_path):
    for room in (OnDisk(tmp_path, 0, 3, 5), InMemory(0, 3, 5)):
        assert room.first(0)[:].shape == (0, 3, 5, 3)


def test_classifiers_take_batches_from_the_disk(stored):
    def means(batch):
        assert isinstance(batch, np.ndarray)
        return batch.mean(axis=(1, 2), dtype=np.float32)

    found = run_batches(means, stored, 4, "testing")
    np.testing.assert_array_equal(found, run_batches(means, PIXELS, 4, "testing"))
