"""Holds signals back while something must not be cut in two.

Python runs signal handlers between any two instructions of the main thread: a Ctrl-C that lands in the middle of
`submit` would leave a snapshot that is counted and lies nowhere.
"""

import signal
import threading
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class HeldSignals:
    """Signals that arrive inside `with` take effect at its end. Elsewhere than in the main thread it does nothing.

    What the process ignores stays ignored, but for SIGINT: Lightning ignores that while callbacks flush, and a
    second Ctrl-C is meant to end the flush.
    """

    def __init__(self) -> None:
        self.arrived: list[int] = []
        """Signals that wait, in the order of their arrival."""
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "HeldSignals":
        if threading.current_thread() is not threading.main_thread():
            return self
        try:
            for name in _NAMES:
                self._hold(getattr(signal, name))
        except BaseException:  # a handler that was not replaced yet has raised
            self._restore()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._restore()
        _deliver(self.arrived)

    def forget(self, number: int) -> None:
        """Drop a signal that has been obeyed."""
        self.arrived = [one for one in self.arrived if one != number]

    def _hold(self, number: int) -> None:
        handler = signal.getsignal(number)
        if handler is None or (handler is signal.SIG_IGN and number != signal.SIGINT):
            return  # set by another language, or ignored
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
    """Each of them, even if the handler of an earlier one raises."""
    if numbers:
        try:
            signal.raise_signal(numbers[0])
        finally:
            _deliver(numbers[1:])
