"""The cache of activations: never a wrong row, whatever is killed, damaged, full or run twice; and `edgetl cache`."""

import errno
import fcntl
import hashlib
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetl import api
from edgetl.cache import DEFAULT_LIMIT_BYTES, ActivationCache, Space, default_folder, parse_size
from edgetl.config import CacheConfig
from edgetl.errors import StorageError, UsageError
from edgetl.records import from_json
from edgetl.results import CacheUsage
from edgetl.steps.cache import cache as step

SHAPE = (3, 2, 4)
SPACE = Space("a trunk up to block3, 96 x 96 pixels", hashlib.sha256(b"a").hexdigest(), SHAPE)
OTHER = Space("another trunk", hashlib.sha256(b"b").hexdigest(), SHAPE)
PLENTY = 2**30


class Interrupted(Exception):  # noqa: N818 - nothing of ours went wrong
    """What ends a run before it is done."""


def key(name) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def keys(names) -> list[bytes]:
    return [key(name) for name in names]


def value(name, space=SPACE) -> np.ndarray:
    """What the network would give for an image of this name."""
    seed = int.from_bytes(hashlib.sha256(f"{space.identity} {name}".encode()).digest()[:8])
    return np.random.default_rng(seed).normal(size=space.row_shape).astype(np.float16)


def values(names, space=SPACE) -> np.ndarray:
    return np.stack([value(name, space) for name in names])


def fill(cache, names, space=SPACE) -> list:
    """Compute and store what is missing; returns the names that were. All rows are right afterwards."""
    names = list(names)
    with cache.rows(space, keys(names)) as rows:
        missing = rows.missing
        rows.reserve()
        if len(missing):
            rows.write(missing, values([names[i] for i in missing], space))
        assert rows.missing.tolist() == []
        assert np.array_equal(rows[:], values(names, space))
        return [names[i] for i in missing]


@pytest.fixture
def cache(tmp_path) -> ActivationCache:
    return ActivationCache(tmp_path / "cache", PLENTY)


def files(cache, suffix="rows", space=SPACE) -> list[Path]:
    return sorted(
        (cache.folder / space.identity[:16]).glob(f"*.{suffix}"), key=lambda path: path.stat().st_mtime
    )


def make_used(path: Path, days_ago: float) -> None:
    used_at = time.time() - days_ago * 24 * 3600
    os.utime(path.with_suffix(".index"), (used_at, used_at))


def flip_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def read_only(folder: Path):
    """Nobody, and root neither, may write into `folder` in this block."""
    places = [folder, *folder.rglob("*")]
    modes = [place.stat().st_mode for place in places]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)
        for place, mode in zip(places, modes, strict=True):
            if place.exists():
                place.chmod(mode)


@pytest.fixture
def open_folder():
    """A folder that every user may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="edgetl-test-"))
    folder.chmod(0o755)
    yield folder / "cache"
    shutil.rmtree(folder)


# Rows


def test_rows_come_back_in_any_order(cache):
    names = list(range(50))
    fill(cache, names)
    with cache.rows(SPACE, keys(names)) as rows:
        assert len(rows) == 50
        assert rows.shape == (50, *SHAPE)
        assert rows.missing.dtype == np.int64
        assert rows.missing.tolist() == []
        random = np.random.default_rng(0)
        for count in (0, 1, 7, 50, 120):
            positions = random.integers(0, 50, count)
            found = rows[positions]
            assert found.dtype == np.float16
            assert found.shape == (count, *SHAPE)
            assert np.array_equal(found, values(positions) if count else found)
        assert np.array_equal(rows[10:30:3], values(range(10, 30, 3)))
    shuffled = list(random.permutation(names))
    assert fill(cache, shuffled) == []


def test_rows_that_are_written_can_be_read_at_once_and_in_pieces(cache):
    names = list("abcdef")
    with cache.rows(SPACE, keys(names)) as rows:
        for part in ([4, 1], [0], [5, 3, 2]):
            rows.write(np.array(part), values([names[i] for i in part]))
            assert np.array_equal(rows[np.array(part)], values([names[i] for i in part]))
        rows.write(np.array([2]), values("z"))  # it has a row: this one is left out
        assert np.array_equal(rows[:], values(names))
    assert len(files(cache)) == 1


def test_equal_keys_are_computed_once(cache):
    names = ["a", "b", "a", "c", "b", "a"]
    with cache.rows(SPACE, keys(names)) as rows:
        assert rows.missing.tolist() == [0, 1, 3]
        rows.write(np.array([5, 1, 4, 3]), values(["a", "b", "b", "c"]))
        assert rows.missing.tolist() == []
        assert np.array_equal(rows[:], values(names))
    assert files(cache)[0].stat().st_size == 3 * SPACE.row_bytes


def test_only_what_is_new_is_missing(cache):
    fill(cache, "abc")
    assert fill(cache, "xbcy") == ["x", "y"]
    assert fill(cache, "yxcba") == []
    assert len(files(cache)) == len(files(cache, "index")) == 2


def test_spaces_share_nothing(cache):
    fill(cache, "abc")
    assert fill(cache, "abc", OTHER) == ["a", "b", "c"]
    shape = Space(SPACE.title, SPACE.identity, (25,))
    with cache.rows(shape, keys("abc")) as rows:  # other rows under the same identity are not taken either
        assert rows.missing.tolist() == [0, 1, 2]
    assert fill(cache, "abc") == []


def test_no_keys_and_rows_of_one_number(cache):
    with cache.rows(SPACE, []) as rows:
        rows.reserve()
        assert (len(rows), rows.missing.tolist(), rows[:].shape) == (0, [], (0, *SHAPE))
    scalar = Space("one number", OTHER.identity, ())
    assert fill(cache, "ab", scalar) == ["a", "b"]
    assert fill(cache, "ab", scalar) == []


def test_keys_that_end_in_zeros_differ(cache):
    pair = [bytes(32), b"\1" + bytes(31)]
    with cache.rows(SPACE, pair) as rows:
        rows.write(np.arange(2), values("ab"))
    with cache.rows(SPACE, pair[::-1]) as rows:
        assert np.array_equal(rows[:], values("ba"))


def test_our_own_mistakes_are_refused(cache):
    with pytest.raises(ValueError, match="32 bytes"):
        cache.rows(SPACE, [b"short"])
    with pytest.raises(ValueError, match="no space"):
        Space("t", "../../etc", SHAPE)
    with cache.rows(SPACE, keys("ab")) as rows:
        with pytest.raises(ValueError, match="not written yet"):
            rows[:]
        with pytest.raises(ValueError, match="expected float16"):
            rows.write(np.arange(2), values("ab").astype(np.float32))
        with pytest.raises(ValueError, match="expected float16"):
            rows.write(np.arange(2), values("a"))
    assert files(cache) == []


def test_nothing_is_written_where_nothing_is_reserved(cache):
    with cache.rows(SPACE, keys("ab")) as rows:
        assert rows.missing.tolist() == [0, 1]
    assert not cache.folder.exists()
    with cache.rows(SPACE, keys("ab")) as rows:
        rows.reserve()
        assert files(cache)[0].stat().st_size == 2 * SPACE.row_bytes
    assert files(cache) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, Interrupted])
def test_what_was_written_before_an_exception_is_kept(cache, interruption):
    def begin() -> None:
        with cache.rows(SPACE, keys("abcd")) as rows:
            rows.reserve()
            rows.write(np.array([0, 2]), values("ac"))
            raise interruption

    with pytest.raises(interruption):
        begin()
    assert files(cache)[0].stat().st_size == 2 * SPACE.row_bytes
    assert fill(cache, "abcd") == ["b", "d"]


def test_the_index_is_renewed_now_and_then(cache, monkeypatch):
    monkeypatch.setattr("edgetl.cache.SECONDS_BETWEEN", 0.0)
    with cache.rows(SPACE, keys("abcd")) as rows:
        rows.write(np.array([0, 1]), values("ab"))
        with cache.rows(SPACE, keys("abcd")) as at_the_same_time:
            assert at_the_same_time.missing.tolist() == [2, 3]
            assert np.array_equal(at_the_same_time[:2], values("ab"))


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([SPACE, OTHER]),
            st.lists(st.integers(0, 12), max_size=12),
            st.integers(0, 12),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_it_behaves_like_a_dictionary(runs):
    """Each run asks for some rows, computes at most so many of those that are missing, and may fail at the end."""
    with tempfile.TemporaryDirectory() as folder:
        cache, model = ActivationCache(Path(folder), PLENTY), set()
        for space, names, most, fails in runs:
            with suppress(Interrupted), cache.rows(space, keys(names)) as rows:
                wanted = [name for name in dict.fromkeys(names) if (space, name) not in model]
                assert [names[i] for i in rows.missing] == wanted
                for position in rows.missing[:most]:
                    rows.write(np.array([position]), values([names[position]], space))
                    model.add((space, names[position]))
                known = np.array([i for i, name in enumerate(names) if (space, name) in model], np.int64)
                expected = np.reshape([value(names[i], space) for i in known], (-1, *SHAPE))
                assert np.array_equal(rows[known], expected)
                if fails:
                    raise Interrupted


# Damage


@pytest.mark.parametrize("place", [0, 1, SPACE.row_bytes - 1])
def test_one_wrong_byte_costs_one_row(cache, place):
    fill(cache, "abcd")
    flip_byte(files(cache)[0], 2 * SPACE.row_bytes + place)
    assert fill(cache, "abcd") == ["c"]
    assert fill(cache, "abcd") == []  # although the damaged row is still there
    assert fill(cache, "dcba") == []


def test_a_row_that_is_damaged_while_in_use_is_told(cache):
    fill(cache, "abcd")
    with cache.rows(SPACE, keys("abcd")) as rows:
        flip_byte(files(cache)[0], SPACE.row_bytes)
        assert np.array_equal(rows[2:], values("cd"))
        with pytest.raises(StorageError, match="damaged on disk") as caught:
            rows[:]
        assert "again" in caught.value.fix
    assert fill(cache, "abcd") == ["b"]


def test_a_shortened_file_costs_the_rows_that_are_gone(cache):
    fill(cache, "abcd")
    os.truncate(files(cache)[0], 2 * SPACE.row_bytes + 5)
    assert cache.usage().damaged == (str(files(cache)[0].relative_to(cache.folder)),)
    assert fill(cache, "abcd") == ["c", "d"]


def damage_index(how: str, path: Path) -> None:
    content = path.read_bytes()
    other_version = content[:8] + (2).to_bytes(4, "little") + content[12:-32]
    changed = {
        "empty": b"",
        "shortened": content[:-1],
        "less an entry": content[:-36],
        "garbage": np.random.default_rng(1).bytes(len(content)),
        "a wrong byte": content[:80] + bytes([content[80] ^ 1]) + content[81:],
        "another version": other_version + hashlib.sha256(other_version).digest(),
    }
    path.write_bytes(changed[how])


@pytest.mark.parametrize(
    "how", ["empty", "shortened", "less an entry", "garbage", "a wrong byte", "another version"]
)
def test_a_damaged_index_costs_its_segment_and_nothing_else(cache, how):
    fill(cache, "ab")
    fill(cache, "abcd")
    damage_index(how, files(cache, "index")[0])
    assert fill(cache, "abcd") in (["a", "b"], ["c", "d"])
    assert fill(cache, "abcd") == []
    assert len(cache.usage().damaged) == 1


def test_an_index_of_other_rows_is_not_believed(cache):
    fill(cache, "ab")
    fill(cache, "xy", OTHER)
    shutil.copy(files(cache, "index", OTHER)[0], files(cache, "index")[0])
    assert fill(cache, "xyab") == ["x", "y", "a", "b"]
    fill(cache, "cd")
    first, second = files(cache, "index")[-2:]
    shutil.copy(first, second)  # of the same space: every row is checked
    fill(cache, "abcdxy")


def test_rows_or_index_alone_are_nothing(cache):
    fill(cache, "ab")
    files(cache)[0].unlink()
    assert fill(cache, "ab") == ["a", "b"]
    files(cache)[0].with_suffix(".index").unlink()
    assert fill(cache, "ab") == ["a", "b"]
    assert len(files(cache)) == 1
    assert cache.clear() > 0
    assert list(cache.folder.iterdir()) == [cache.folder / ".lock"]


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "\udce9", '{"version": 2}', '{"version": 1, "space": {}}']
)
def test_a_space_that_does_not_say_what_it_is_is_named_anew_and_till_then_left_alone(cache, content):
    fill(cache, "ab")
    named = files(cache)[0].parent / "space.json"
    good = named.read_text()
    named.write_text(content, errors="surrogateescape")
    assert cache.usage().foreign == (named.parent.name,)
    assert cache.clear() == 0
    assert fill(cache, "abc") == ["c"]
    assert named.read_text() == good


# Kills and full disks

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_cache import *
import edgetl.cache
edgetl.cache.SECONDS_BETWEEN = 0.0 if {commits} else 1000.0
names = range({count})
with ActivationCache(Path({folder!r}), PLENTY).rows(SPACE, keys(names)) as rows:
    rows.reserve()
    for name in names:
        rows.write(np.array([name]), values([name]))
        print(name, flush=True)
    sys.stdin.read()
"""


def start_writer(cache, *, count: int, commits: bool) -> "subprocess.Popen[str]":
    code = WRITER.format(
        tests=str(Path(__file__).parent), folder=str(cache.folder), count=count, commits=commits
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("commits", [True, False])
def test_a_killed_run_loses_little_and_its_reserved_space_is_given_back(cache, commits):
    with start_writer(cache, count=400, commits=commits) as writer:
        for _ in range(20):
            writer.stdout.readline()
        with cache.rows(SPACE, keys(range(400))):  # somebody writes: nothing is taken away
            assert files(cache)[0].stat().st_size == 400 * SPACE.row_bytes
        assert cache.usage().spaces[0].in_use
        assert cache.clear() == 0
        writer.send_signal(signal.SIGKILL)
    assert files(cache)[0].stat().st_size == 400 * SPACE.row_bytes
    assert cache.usage().damaged == (() if commits else (str(files(cache)[0].relative_to(cache.folder)),))
    with cache.rows(SPACE, keys(range(400))) as rows:
        stored = 400 - len(rows.missing)
        assert rows.missing.tolist() == list(range(stored, 400))
        assert (20 <= stored < 400) if commits else (stored == 0)
        assert np.array_equal(rows[:stored], values(range(stored)) if commits else rows[:0])
        assert sum(path.stat().st_size for path in files(cache)) == stored * SPACE.row_bytes
    fill(cache, range(400))


def test_runs_at_the_same_time_do_not_disturb_each_other(cache):
    fill(cache, range(10))
    writers = [start_writer(cache, count=60, commits=True) for _ in range(2)]
    for writer in writers:
        writer.communicate("", timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert fill(cache, range(60)) == []
    assert cache.usage().damaged == ()


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
def test_a_full_disk_is_told_and_costs_nothing_that_was_there(cache, monkeypatch, call):
    fill(cache, "ab")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, no_space)
        with pytest.raises(StorageError, match="the disk is full"):
            fill(cache, "abcd")
    assert fill(cache, "abcd") == ["c", "d"]
    assert sum(path.stat().st_size for path in files(cache)) == 4 * SPACE.row_bytes
    assert cache.usage().damaged == cache.usage().foreign == ()


def test_a_disk_that_fills_up_in_the_middle_keeps_what_was_written(cache, monkeypatch):
    really = os.pwrite

    def half(handle, buffer, offset):
        return really(handle, buffer[:7], offset) if offset < 2 * SPACE.row_bytes else no_space()

    def begin() -> None:
        with cache.rows(SPACE, keys("abcd")) as rows:
            rows.reserve()
            rows.write(np.array([0, 1]), values("ab"))
            rows.write(np.array([2, 3]), values("cd"))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        with pytest.raises(StorageError, match="the disk is full"):
            begin()
    assert fill(cache, "abcd") == ["c", "d"]


def test_a_limit_of_file_sizes_is_told(cache):
    fill(cache, "ab")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StorageError, match="larger than is allowed"):
            fill(cache, range(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert fill(cache, "ab") == []
    assert len(files(cache)) == 1


def test_a_disk_without_room_is_told_before_any_work(cache, monkeypatch):
    fill(cache, "ab")
    usage = type("Usage", (), {"free": 5})
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _folder: usage)
        with cache.rows(SPACE, keys("abcd")) as rows:
            with pytest.raises(StorageError, match=r"needs 0\.00 GiB for activations .* are free") as caught:
                rows.reserve()
            assert "EDGETL_CACHE_DIR" in caught.value.fix
    assert fill(cache, "ab") == []


def test_a_full_disk_makes_room_for_this_run(cache, monkeypatch):
    fill(cache, "ab", OTHER)
    usage = type("Usage", (), {"free": 0})
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _folder: usage)
        assert fill(cache, "cd") == ["c", "d"]
    assert files(cache, space=OTHER) == []


# Who may be evicted


def limited(cache, rows: int, segments: int) -> ActivationCache:
    """The same cache with room for so many rows in so many segments."""
    overhead = SPACE.segment_bytes(0)
    return ActivationCache(cache.folder, segments * overhead + rows * (SPACE.segment_bytes(1) - overhead))


def test_what_was_used_least_recently_goes_first(cache):
    small = limited(cache, rows=6, segments=3)
    for days_ago, names in ((3, "ab"), (2, "cd"), (1, "ef")):
        fill(small, names, OTHER)
        (own,) = [path for path in files(cache, "index", OTHER) if key(names[0]) in path.read_bytes()]
        make_used(own, days_ago)
    fill(small, "ab", OTHER)  # used again: now the second is the oldest
    fill(small, "xy")
    with cache.rows(OTHER, keys("abcdef")) as rows:
        assert rows.missing.tolist() == [2, 3]
    assert fill(small, "xy") == []
    assert cache.usage().size_bytes <= small.limit_bytes


def test_segments_in_use_are_never_evicted(cache):
    small = limited(cache, rows=4, segments=2)
    fill(small, "ab", OTHER)
    with small.rows(OTHER, keys("ab")) as used:
        fill(small, "cd")
        with small.rows(SPACE, keys("efg")) as rows:
            with pytest.raises(StorageError, match="of which are in use") as caught:
                rows.reserve()
            assert "--cache-limit" in caught.value.fix
            assert "edgetl cache --clear" in caught.value.fix
        assert np.array_equal(used[:], values("ab", OTHER))
        assert fill(small, "cd") == []  # nothing was evicted for nothing
    assert fill(small, "efg") == ["e", "f", "g"]


def test_a_run_never_evicts_what_it_uses_itself(cache):
    small = limited(cache, rows=4, segments=2)
    fill(small, "ab")
    make_used(files(cache)[0], 9)
    fill(small, "xy", OTHER)
    assert fill(small, "abcd") == ["c", "d"]
    assert files(cache, space=OTHER) == []
    assert fill(small, "abcd") == []


def test_a_run_that_is_larger_than_the_limit_is_refused_before_any_work(cache):
    fill(cache, "ab", OTHER)
    small = limited(cache, rows=2, segments=1)
    with small.rows(SPACE, keys("abc")) as rows, pytest.raises(StorageError, match="may hold") as caught:
        rows.reserve()
    needed = math.ceil(SPACE.segment_bytes(3) / 1e6)
    assert f"--cache-limit {needed}MB" in caught.value.fix
    assert fill(cache, "ab", OTHER) == []


def test_room_that_a_killed_run_reserved_is_taken_back_before_anything_is_evicted(cache):
    fill(cache, "ab", OTHER)
    make_used(files(cache, space=OTHER)[0], 9)
    fill(cache, "cd")
    os.truncate(files(cache)[0], PLENTY)
    fill(limited(cache, rows=6, segments=3), "ef", OTHER)
    assert fill(cache, "abef", OTHER) == []
    assert fill(cache, "cd") == []


# Read-only


def test_a_cache_that_may_only_be_read_is_read(open_folder):
    cache = ActivationCache(open_folder, PLENTY)
    fill(cache, "abcd")
    used_at = files(cache, "index")[0].stat().st_mtime_ns
    with read_only(open_folder):
        with cache.rows(SPACE, keys("dcb")) as rows:
            assert np.array_equal(rows[:], values("dcb"))
        usage = cache.usage()
        assert (usage.spaces[0].rows, usage.spaces[0].in_use) == (4, False)
        for refused in (lambda: fill(cache, "abcde"), cache.clear):
            with pytest.raises(StorageError, match="permission was denied"):
                refused()
    assert files(cache, "index")[0].stat().st_mtime_ns == used_at
    assert fill(cache, "abcd") == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Could not write"):
        fill(ActivationCache(tmp_path / "file" / "cache", PLENTY), "ab")


# Folder and sizes


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGETL_CACHE_DIR", str(tmp_path / "own"))
    assert default_folder() == tmp_path / "own" / "activations"
    monkeypatch.setenv("EDGETL_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "edgetl" / "activations"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "edgetl" / "activations"


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("20GB", 20 * 10**9),
        ("512MB", 512 * 10**6),
        ("4GiB", 4 * 2**30),
        (" 1.5 gib ", 3 * 2**29),
        ("2T", 2 * 10**12),
        ("3k", 3000),
        ("800000000", 800000000),
        ("7B", 7),
    ],
)
def test_sizes(text, size_bytes):
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "much", "GB", "-1GB", "0", "0.1", "1e9", "5iB", "1,5GB", "4 G B", "nan"]
)
def test_what_is_no_size_is_told_with_examples(text):
    with pytest.raises(UsageError, match="is not a size") as caught:
        parse_size(text)
    assert "20GB" in caught.value.fix


def test_the_limit_by_default():
    assert parse_size("10GiB") == DEFAULT_LIMIT_BYTES


# The command


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_empty_or_absent_cache_is_one_sentence(invoke, tmp_path):
    for folder in (tmp_path / "absent", tmp_path):
        for options in ([], ["--clear"], ["--limit", "1GB"]):
            told = invoke("cache", "--folder", folder, *options)
            assert told.exit_code == 0
            assert f"The cache in {folder} is empty; the next training run will fill it." in told.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_command_looks_where_training_stores(invoke, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGETL_CACHE_DIR", str(tmp_path))
    fill(ActivationCache(default_folder(), PLENTY), "ab")
    assert SPACE.title in invoke("cache").stdout
    assert api.cache().spaces[0].title == SPACE.title


def test_the_table(cache, invoke):
    fill(cache, "ab")
    fill(cache, "abc")
    make_used(files(cache)[0], 1)
    fill(cache, range(7), OTHER)
    with cache.rows(OTHER, keys(range(7))):
        lines = invoke("cache", "--folder", cache.folder).stdout.splitlines()
        as_json = from_json(CacheUsage, invoke("cache", "--folder", cache.folder, "--json").stdout)
    assert lines[0] == f"cache: {cache.folder}"
    assert lines[1].split() == ["activations", "of", "rows", "size", "last", "used", "in", "use"]
    by_title = {space.title: space for space in as_json.spaces}
    assert as_json == cache.usage() or by_title[OTHER.title].in_use
    for line in lines[2:4]:
        (title,) = [title for title in by_title if title in line]
        assert line.split()[-1] == ("yes" if title == OTHER.title else "no")
        assert f" {by_title[title].last_used[:16].replace('T', ' ')} UTC " in line
    assert by_title[SPACE.title].rows == 3
    assert by_title[SPACE.title].size_bytes == SPACE.segment_bytes(2) + SPACE.segment_bytes(1)
    assert lines[4].split()[:2] == ["all", "10"]
    assert as_json.size_bytes == sum(space.size_bytes for space in as_json.spaces)
    assert len(lines) == 5


def test_looking_changes_nothing(cache, invoke):
    fill(cache, "ab")
    damage_index("garbage", files(cache, "index")[0])
    (cache.folder / "notes.txt").write_text("mine")
    before = snapshot(cache.folder)
    told = invoke("cache", "--folder", cache.folder)
    assert "damaged or unfinished" in told.stdout
    assert "left alone: notes.txt" in told.stdout
    assert snapshot(cache.folder) == before


def test_clear_removes_what_nobody_uses(cache, invoke):
    fill(cache, "ab")
    fill(cache, "abc", OTHER)
    with cache.rows(SPACE, keys("ab")) as used:
        told = invoke("cache", "--folder", cache.folder, "--clear")
        assert told.exit_code == 0
        assert "freed: 0.00 MB. What is in use was kept." in told.stdout
        assert OTHER.title not in told.stdout
        assert np.array_equal(used[:], values("ab"))
    cleared = invoke("cache", "--folder", cache.folder, "--clear", "--json")
    assert json.loads(cleared.stdout)["freed_bytes"] == SPACE.segment_bytes(2)
    assert list(cache.folder.iterdir()) == [cache.folder / ".lock"]
    assert fill(cache, "ab") == ["a", "b"]


def test_clear_leaves_alone_what_it_did_not_make(cache):
    fill(cache, "ab")
    space = files(cache)[0].parent
    foreign = [
        cache.folder / "notes.txt",
        cache.folder / "0123456789abcdef" / "0123456789abcdef.rows",
        space / "photo.rows",
        space / "photo.jpg",
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    usage = step(CacheConfig(folder=cache.folder, clear=True))
    assert usage.freed_bytes == SPACE.segment_bytes(2)
    assert [path for path in foreign if path.exists()] == foreign
    assert files(cache) == [space / "photo.rows"]


def test_clear_older_than(cache, invoke):
    fill(cache, "ab")
    make_used(files(cache)[0], 8)
    fill(cache, "ab", OTHER)
    make_used(files(cache, space=OTHER)[0], 6)
    invoke("cache", "--folder", cache.folder, "--clear", "--older-than", 7)
    assert [space.title for space in cache.usage().spaces] == [OTHER.title]


def test_limit_removes_the_oldest_down_to_a_size(cache, invoke):
    for days_ago, space in ((2, SPACE), (1, OTHER)):
        fill(cache, "ab", space)
        make_used(files(cache, space=space)[0], days_ago)
    both = cache.usage().size_bytes
    assert "freed: 0.00 MB" in invoke("cache", "--folder", cache.folder, "--limit", both).stdout
    assert len(cache.usage().spaces) == 2
    told = invoke("cache", "--folder", cache.folder, "--limit", f"{both - 1}B", "--json")
    assert json.loads(told.stdout)["freed_bytes"] == SPACE.segment_bytes(2)
    assert [space.title for space in cache.usage().spaces] == [OTHER.title]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clear", "--limit", "1GB"], "contradict"),
        (["--older-than", "3"], "Add --clear"),
        (["--limit", "much"], "is not a size"),
        (["--limit", "0"], "is not a size"),
        (["--clear", "--older-than", "-1"], "--older-than"),
        (["--folder", __file__], "is a file"),
    ],
)
def test_contradictions_are_refused_before_anything_is_removed(cache, invoke, options, message):
    fill(cache, "ab")
    before = snapshot(cache.folder)
    told = invoke("cache", "--folder", cache.folder, *options)
    assert told.exit_code == 2
    assert message in told.output
    assert snapshot(cache.folder) == before


def test_a_cache_that_may_not_be_cleaned_is_told(open_folder):
    fill(ActivationCache(open_folder, PLENTY), "ab")
    with read_only(open_folder):
        assert step(CacheConfig(folder=open_folder)).spaces[0].rows == 2
        with pytest.raises(StorageError, match="permission was denied") as caught:
            step(CacheConfig(folder=open_folder, clear=True))
    assert caught.value.fix


def test_locks_of_other_processes_count(cache):
    fill(cache, "ab")
    with files(cache)[0].open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert cache.usage().spaces[0].in_use
        assert cache.clear() == 0
    assert not cache.usage().spaces[0].in_use
    assert cache.clear() > 0
