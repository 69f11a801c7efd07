"""`held_signals` delays signals during operations that must not be interrupted; `sigpipe_blocked` prevents SIGPIPE.

Python runs signal handlers between any two instructions of the main thread: a Ctrl-C in the middle of `submit` could
leave a snapshot that is counted but not stored.
"""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_HELD: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_LIBC = ctypes.CDLL(None)
_SIGACTION_BYTES = 512
"""More than a `struct sigaction` has on any system."""


@contextmanager
def held_signals(*also: int) -> Iterator[list[int]]:
    """Delay signals until the end of the `with` block. Does nothing outside the main thread.

    Signals that the process ignores stay ignored, except SIGINT: Lightning ignores it while callbacks flush, but a
    second Ctrl-C should end the flush.

    Args:
        also: Further signals to delay. SIGALRM is not delayed by default: any delayed signal ends a flush, and this one
            may arrive periodically.

    Yields:
        Pending signals in order of arrival; a signal removed from the list is not delivered.
    """
    arrived: list[int] = []
    handlers: dict[int, tuple[Any, ctypes.Array[ctypes.c_char]]] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if number not in arrived:
            arrived.append(number)

    try:
        for number in (*_HELD, *also) if threading.current_thread() is threading.main_thread() else ():
            handler = signal.getsignal(number)  # None: installed by non-Python code
            if handler is not None and (handler is not signal.SIG_IGN or number == signal.SIGINT):
                action = ctypes.create_string_buffer(_SIGACTION_BYTES)
                _LIBC.sigaction(number, None, action)
                handlers[number] = handler, action
                signal.signal(number, note)
        yield arrived
    finally:
        for number, (handler, action) in handlers.items():
            signal.signal(number, handler)
            _LIBC.sigaction(number, action, None)  # `getsignal` does not know the handler of `faulthandler.register`
        _deliver(arrived)


@contextmanager
def sigpipe_blocked() -> Iterator[None]:
    """Block SIGPIPE in this thread: a write to a dead worker then raises BrokenPipeError.

    Python ignores this signal, but many programs restore its default, for `| head`, and it would end the training.
    """
    pipe = {signal.SIGPIPE}
    was_pending, before = signal.SIGPIPE in signal.sigpending(), signal.pthread_sigmask(signal.SIG_BLOCK, pipe)
    try:
        yield
    finally:
        if not was_pending and signal.SIGPIPE in signal.sigpending():
            signal.sigwait(pipe)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _deliver(numbers: list[int]) -> None:
    """Raise each signal, even if the handler of an earlier one raises an exception."""
    if numbers:
        try:
            signal.raise_signal(numbers[0])
        finally:
            _deliver(numbers[1:])
