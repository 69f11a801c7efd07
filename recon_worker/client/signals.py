"""`HeldSignals`: delays signals while something must not be interrupted.

Python runs signal handlers between any two instructions of the main thread: a Ctrl-C in the middle of `submit` would
leave a snapshot that is counted but stored nowhere.
"""

import signal
import threading
from types import FrameType
from typing import Any

_HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class HeldSignals:
    """Delivers signals that arrive inside `with` at its end. Does nothing outside the main thread.

    Signals that the process ignores stay ignored, except SIGINT: Lightning ignores it while callbacks flush, but a
    second Ctrl-C is meant to end the flush.
    """

    def __init__(self) -> None:
        self.arrived: list[int] = []
        """Pending signals, in order of arrival."""
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "HeldSignals":
        if threading.current_thread() is not threading.main_thread():
            return self
        try:
            for number in _HELD:
                self._hold(number)
        except BaseException:  # raised by a handler that was not replaced yet
            self._restore()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._restore()
        _deliver(self.arrived)

    def forget(self, number: int) -> None:
        """Drop a signal that has had its effect."""
        self.arrived = [one for one in self.arrived if one != number]

    def _hold(self, number: int) -> None:
        handler = signal.getsignal(number)
        if handler is None or (handler is signal.SIG_IGN and number != signal.SIGINT):
            return  # installed by non-Python code, or ignored
        self._handlers[number] = handler
        signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number not in self.arrived:
            self.arrived.append(number)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def _deliver(numbers: list[int]) -> None:
    """Raise each signal, even if the handler of an earlier one raises an exception."""
    if numbers:
        try:
            signal.raise_signal(numbers[0])
        finally:
            _deliver(numbers[1:])
