"""Packed bytes come back as they were, or the file is refused; nothing unpacks to more than it may."""

import gzip
import subprocess
import sys

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from edgetl.choices import Packing
from edgetl.errors import MissingExtra, ModelFolderError
from edgetl.packing import pack, packer, unpack

CONTENT = bytes(range(256)) * 40
each_packing = pytest.mark.parametrize("packing", Packing)


@each_packing
@given(content=st.one_of(st.binary(max_size=3000), st.binary(max_size=20).map(lambda part: 2000 * part)))
def test_what_is_packed_comes_back(packing, content):
    assert unpack(pack(content, packing), packing, len(content), "file") == content


@each_packing
def test_another_process_packs_to_the_same_bytes(packing):
    code = (
        "import sys; from edgetl.choices import Packing; from edgetl.packing import pack\n"
        f"sys.stdout.buffer.write(pack(bytes(range(256)) * 40, Packing('{packing}')))"
    )
    assert subprocess.check_output([sys.executable, "-c", code]) == pack(CONTENT, packing)


def test_other_programs_read_the_streams():
    assert gzip.decompress(pack(CONTENT, Packing.GZ)) == CONTENT
    assert zstandard.decompress(pack(CONTENT, Packing.ZST)) == CONTENT
    assert pack(CONTENT, Packing.GZ)[3:8] == bytes(5), "no name, no time"


@each_packing
@given(data=st.data())
def test_a_truncated_stream_is_refused(packing, data):
    packed = pack(CONTENT, packing)
    end = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(ModelFolderError, match=r"^file cannot be unpacked") as caught:
        unpack(packed[:end], packing, len(CONTENT), "file")
    assert "Export the model again" in caught.value.fix


@each_packing
@given(data=st.data())
def test_a_changed_stream_is_refused_or_still_right(packing, data):
    """Some bits of a header mean nothing; whatever comes out is covered by a checksum."""
    packed = bytearray(pack(CONTENT, packing))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert unpack(bytes(packed), packing, len(CONTENT), "file") == CONTENT
    except ModelFolderError as refusal:
        assert refusal.fix  # noqa: PT017


@each_packing
@pytest.mark.parametrize("said", [0, 1, len(CONTENT) - 1, len(CONTENT) + 1, -1, 2**40])
def test_another_size_than_the_card_says_is_refused(packing, said):
    with pytest.raises(ModelFolderError, match=r"cannot be unpacked.*(bytes|model)"):
        unpack(pack(CONTENT, packing), packing, said, "file")


@each_packing
def test_what_follows_the_stream_is_refused(packing):
    packed = pack(CONTENT, packing)
    for more in (b"\0", packed):
        with pytest.raises(ModelFolderError, match="cannot be unpacked"):
            unpack(packed + more, packing, len(CONTENT), "file")


BOMB = """
import resource, sys
from edgetl.choices import Packing
from edgetl.errors import ModelFolderError
from edgetl.packing import unpack
import zstandard
packed = open(sys.argv[1], "rb").read()
resource.setrlimit(resource.RLIMIT_AS, (400_000_000, 400_000_000))
try:
    unpack(packed, Packing(sys.argv[2]), 1000, "file")
except ModelFolderError as refusal:
    print(refusal)
"""


@pytest.mark.parametrize("kind", ["gz", "zst", "zst that does not say its size"])
def test_a_bomb_takes_no_memory(kind, tmp_path):
    """A gigabyte of zeros is refused where 0.4 GB may be used."""
    path, parts, zeros = tmp_path / "bomb", 64, bytes(2**24)
    if kind == "gz":
        stream = gzip.GzipFile(path, "wb", 1)
    else:
        size = parts * len(zeros) if kind == "zst" else -1
        stream = zstandard.ZstdCompressor(level=1).stream_writer(path.open("wb"), size=size)
    with stream:
        for _ in range(parts):
            stream.write(zeros)
    command = [sys.executable, "-c", BOMB, path, kind.partition(" ")[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "file cannot be unpacked" in done.stdout
    assert "1000" in done.stdout


def test_without_zstandard_the_command_to_install_it_is_told(monkeypatch):
    packed = pack(CONTENT, Packing.ZST)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    for refused in (
        lambda: pack(CONTENT, Packing.ZST),
        lambda: packer(Packing.ZST),
        lambda: unpack(packed, Packing.ZST, len(CONTENT), "file"),
    ):
        with pytest.raises(MissingExtra) as caught:
            refused()
        assert "pip install 'edgetl[zst]'" in caught.value.fix
        assert "--packed gz" in caught.value.fix
    assert unpack(pack(CONTENT, Packing.GZ), Packing.GZ, len(CONTENT), "file") == CONTENT
