"""Ctrl-C is never lost: Python drops a KeyboardInterrupt that comes while a destructor or a callback runs."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def control_c_kept() -> Iterator[Callable[[], None]]:
    """Give a function that raises `KeyboardInterrupt` again if one was raised and did not arrive.

    Where Ctrl-C is ignored, as under nohup, or somebody else's, it stays so.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: None
        return
    pressed = False

    def press(_number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    def arrive() -> None:
        if pressed:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, press)
    try:
        yield arrive
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
