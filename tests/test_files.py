"""Nobody ever reads half a file, and what the disk refuses is told in plain words."""

import errno
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetl.errors import StorageError
from edgetl.files import (
    TEMPORARY_PREFIX,
    fingerprint,
    locked,
    make_folder,
    remove_leftovers,
    replacing,
    sha256_of,
    storing,
    write_atomically,
)

REFUSALS = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "quota",
    errno.EROFS: "read-only",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EEXIST: "not a folder",
    errno.ENOTDIR: "not a folder",
    errno.EISDIR: "folder",
    errno.ENAMETOOLONG: "too long",
    errno.EFBIG: "larger",
    errno.EIO: "error",
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@given(content=st.binary(max_size=300) | st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
def test_what_is_written_is_read_back(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("written") / "file"
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)


def test_missing_folders_are_made_and_an_old_file_is_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert names(path.parent) == ["file.json"]


def test_the_temporary_file_lies_beside_the_target_and_has_its_suffix(tmp_path):
    with replacing(tmp_path / "model.keras") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".keras"
        assert temporary.name.startswith(TEMPORARY_PREFIX)
        temporary.write_text("new")
    assert names(tmp_path) == ["model.keras"]


def test_a_failure_inside_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise ValueError("the writer failed")

    with pytest.raises(ValueError, match="the writer failed"):
        fail_half_way()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["touch", "write_bytes", "replace"])
def test_refusals_of_the_disk_become_errors_with_a_fix(tmp_path, monkeypatch, call, number):
    path = tmp_path / "file"
    path.write_text("old")

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, call, refuse)
        with pytest.raises(StorageError, match=REFUSALS[number]) as caught:
            write_atomically(path, b"new")
    assert str(path) in caught.value.what
    assert caught.value.fix
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_disk_that_fills_up_at_fsync_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="full"):
            write_atomically(path, b"new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_disk_that_cannot_sync_folders_is_good_enough(tmp_path, monkeypatch):
    really = os.fsync

    def only_files(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        really(handle)

    monkeypatch.setattr(os, "fsync", only_files)
    write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_other_errors_of_the_system_are_our_bugs_and_stay_as_they_are(tmp_path):
    with pytest.raises(OSError, match="Too many open files") as caught, storing(tmp_path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert not isinstance(caught.value, StorageError)


def test_a_real_refusal_keeps_the_old_file(tmp_path):
    """The system stops this process from writing more than 4 KiB into a file, as a full disk would."""
    path = tmp_path / "file"
    path.write_text("old")
    code = (
        "import resource, sys; from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "from edgetl.errors import StorageError; from edgetl.files import write_atomically\n"
        "try:\n    write_atomically(Path(sys.argv[1]), bytes(100_000))\n"
        "except StorageError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"Could not write {path}" in done.stdout
    assert "larger than is allowed" in done.stdout
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="not a folder"):
        make_folder(tmp_path / "file")
    with pytest.raises(StorageError, match="not a folder"):
        write_atomically(tmp_path / "file" / "card.json", "new")
    with pytest.raises(StorageError, match="folder"):
        write_atomically(tmp_path, "a folder has this name")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_mode_is_what_the_umask_leaves(tmp_path, mask, mode):
    """Not 0600 as temporary files have: the service that runs a model is seldom who copied it."""
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "file", "new")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from edgetl.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "file"
    path.write_text("old")
    subprocess.run([sys.executable, "-c", code, path], check=False)
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["file"]


def _count_up(folder: str) -> None:
    path = Path(folder) / "count"
    for _ in range(25):
        with locked(Path(folder) / "lock"):
            path.write_text(str(int(path.read_text()) + 1))


def test_only_one_process_at_a_time_holds_a_lock(tmp_path):
    (tmp_path / "count").write_text("0")
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(_count_up, [str(tmp_path)] * 4)
    assert (tmp_path / "count").read_text() == "100"


def test_a_lock_is_given_back_when_the_block_fails(tmp_path):
    for _ in range(2):
        with pytest.raises(PermissionError, match="not the lock's"), locked(tmp_path / "lock"):
            raise PermissionError(errno.EACCES, "not the lock's")


def test_a_lock_that_cannot_be_made_is_told(tmp_path):
    with pytest.raises(StorageError, match="folder"), locked(tmp_path):
        pass


@given(content=st.binary(max_size=100))
def test_sha256_tells_files_apart(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("hashed")
    (folder / "a").write_bytes(content)
    (folder / "b").write_bytes(content + b"\0")
    assert sha256_of(folder / "a") != sha256_of(folder / "b")


parts = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8))


@given(first=parts, second=parts)
def test_fingerprints_agree_only_for_equal_lists(first, second):
    assert (fingerprint(first) == fingerprint(second)) is (first == second)


def test_fingerprints_know_where_a_text_ends_and_bear_any_file_name():
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    assert fingerprint([]) != fingerprint([""])
    assert fingerprint([os.fsdecode(b"\xe9")]) != fingerprint(["\xe9"])


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs Linux's /proc")
def test_a_folder_that_takes_no_files_is_refused_in_words():
    with pytest.raises(StorageError, match=r"takes no files|permission"):
        write_atomically(Path("/proc/page.html"), "text")
