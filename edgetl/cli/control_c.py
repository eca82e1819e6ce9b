"""Ctrl-C is never lost, and never comes where it does harm.

TensorFlow's C++ calls Python back, and cannot bear what is raised there: a KeyboardInterrupt was dropped,
became a TypeError, or ended the process with SIGSEGV, about once in 200 times during training. Python itself
drops what is raised in destructors.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_FRAGILE = ("tensorflow.", "tf_keras.")  # modules in whose midst nothing is raised
_IMPORTING = "importlib._bootstrap"  # takes seconds, and is Python throughout


class ControlC:
    """Whether Ctrl-C was pressed while a command ran."""

    def __init__(self) -> None:
        self.pressed = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Raise `KeyboardInterrupt` when it is pressed: at once, or within TensorFlow with the next `arrive`.

        Pressed again it is raised at once wherever that is. Where Ctrl-C is ignored, as under nohup, or
        somebody else's, it stays so.
        """
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def arrive(self) -> None:
        """Raise what was not raised when Ctrl-C was pressed, or did not arrive."""
        if self.pressed:
            raise KeyboardInterrupt

    def _press(self, _number: int, frame: FrameType | None) -> None:
        again, self.pressed = self.pressed, True
        if again or not _is_fragile(frame):
            raise KeyboardInterrupt


def _is_fragile(frame: FrameType | None) -> bool:
    """Whether one of the modules above is at work, importing apart."""
    found = False
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name == _IMPORTING:
            return False
        found = found or name.startswith(_FRAGILE)
        frame = frame.f_back
    return found
