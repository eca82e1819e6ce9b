"""A decoder with weak spots: files whose content is a command kill, hang or bloat it.

Put on the path of worker processes as `sitecustomize`, it stands for the parsers' own faults, which nobody can
order. The code that is tested is what runs in production; only `prepare_bytes` of the workers is wrapped.
"""

import os
import signal
import sys
import time
from pathlib import Path

SITE = """
import sys
sys.path.insert(0, {folder!r})
import killers
killers.install()
"""


def site_folder(folder: Path) -> Path:
    """A folder for PYTHONPATH that brings the weak spots into every new Python that is a decoder."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE.format(folder=str(Path(__file__).parent)))
    return folder


def install() -> None:
    """Only in decoder processes."""
    if "edgetl.stream.worker" not in sys.orig_argv:
        return
    import edgetl.images

    prepare = edgetl.images.prepare_bytes

    def weak(data, *arguments):
        _obey(data)
        return prepare(data, *arguments)

    edgetl.images.prepare_bytes = weak


def _obey(data: bytes) -> None:
    match data[:16].split(b"\n")[0]:
        case b"SEGFAULT":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"ABORT":
            os.abort()
        case b"HANG":
            while True:
                time.sleep(1)
        case b"BLOAT":
            hoard = [bytearray(64 * 2**20) for _ in range(200)]
            hoard.clear()
        case b"BUG":
            raise ZeroDivisionError("a bug of ours")
