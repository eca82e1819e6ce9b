"""A process that only decodes, so that an image which kills, hangs or bloats it costs one row.

`edgetl.stream.pool` starts it as `python -m edgetl.stream.worker SETTINGS`. It reads tasks from a socket, one
message each, puts pixels where the task says in memory that it shares with its parent, and answers in a few
bytes. It holds no state that is worth anything.
"""

import ctypes
import json
import mmap
import os
import resource
import signal
import sys
import traceback
from dataclasses import astuple, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from edgetl.images import prepare_bytes
from edgetl.records import from_json
from edgetl.refusals import NO_MEMORY, Refused
from edgetl.stream.items import Item, Kind, read

READY = b"ready"
FAILED = b"failed "  # and a traceback: our bug
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Settings:
    """What a decoder is told once. File descriptors are inherited."""

    socket: int
    memory: int  # shared: uint8 [slots, height, width, 3]
    height: int
    width: int
    background: tuple[int, int, int]
    draft: bool
    memory_bytes: int  # what it may take for one image


def pack(slot: int, item: Item, content: bytes | None) -> bytes:
    """A task as a message: a line of JSON, then the bytes of an image that it does not read itself."""
    return json.dumps([slot, content is not None, *astuple(item)]).encode("ascii") + b"\n" + (content or b"")


def unpack(message: bytes) -> tuple[int, Item, bytes | None]:
    """The inverse of `pack`."""
    head, _, content = message.partition(b"\n")
    slot, has_content, path, kind, *rest = json.loads(head)
    return slot, Item(path, Kind(kind), *rest), content if has_content else None


def main() -> None:
    """Serve until the parent closes the socket."""
    settings = from_json(Settings, sys.argv[1])
    _settle(settings.memory_bytes)
    shape = (-1, settings.height, settings.width, 3)
    with mmap.mmap(settings.memory, 0) as memory:
        slots = np.frombuffer(memory, np.uint8).reshape(shape)
        connection = Connection(settings.socket)
        connection.send_bytes(READY)
        while True:
            try:
                message = connection.recv_bytes()
            except EOFError:
                os._exit(0)  # the parent is done; nothing here needs to be put away
            connection.send_bytes(_answer(message, settings, slots))


def _answer(message: bytes, settings: Settings, slots: np.ndarray) -> bytes:
    try:
        slot, item, content = unpack(message)
        data = read(item) if content is None else content
        if isinstance(data, Refused):
            return _refusal(data)
        pixels = prepare_bytes(data, settings.height, settings.width, settings.background, settings.draft)
        if isinstance(pixels, Refused):
            return _refusal(pixels)
        slots[slot] = pixels
    except MemoryError:
        return _refusal(NO_MEMORY)
    except Exception:  # noqa: BLE001 - handed to the parent, which raises it
        return FAILED + traceback.format_exc().encode()
    return b""


def _refusal(refused: Refused) -> bytes:
    return json.dumps([refused.reason, refused.detail]).encode("ascii")


def _settle(memory_bytes: int) -> None:
    """Leave signals to the parent, die with it, leave no core file, and take no more memory than is given."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        limit = _data_bytes() + memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _data_bytes() -> int:
    """What this process has taken already."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
