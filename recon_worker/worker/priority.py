"""The worker's priority: low while the training runs, that of any process once all that is left is to be flushed.

A process cannot raise its priority again, but on Linux each thread has one of its own. So heavy work is handed to
threads that have stepped back (`nice`), whose callers wait; and once there is a hurry the callers do it themselves.
What has begun ends where it began: one picture, or one upload.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

_NICENESS = 10
_AUTOGROUP = Path("/proc/self/autogroup")
"""Linux may share the processors out by session first, where the priority of a thread has no say."""
_TRIES, _WAIT_S = 10, 0.1
"""Changing it is allowed once in 0.1 s."""
_T = TypeVar("_T")


class Pace:
    """See above.

    Args:
        threads: How many callers there are at a time.
    """

    def __init__(self, threads: int) -> None:
        self._hurried, self._thread = threading.Event(), threading.local()
        self._aside = ThreadPoolExecutor(threads, "stepped-back")
        _set_autogroup(_NICENESS)

    def run(self, work: Callable[[], _T]) -> _T:
        """Do heavy work, and return or raise what it does."""
        return work() if self._hurried.is_set() else self._aside.submit(self._step_back_and, work).result()

    def hurry(self) -> None:
        """From now on the work has the priority of a normal process."""
        if not self._hurried.is_set():
            self._hurried.set()
            _set_autogroup(0)

    def _step_back_and(self, work: Callable[[], _T]) -> _T:
        if not hasattr(self._thread, "niceness"):
            self._thread.niceness = os.nice(_NICENESS)
        return work()


def _set_autogroup(niceness: int) -> None:
    with contextlib.suppress(OSError):  # there is none, or a container forbids it
        for _ in range(_TRIES):
            try:
                _AUTOGROUP.write_text(f"{niceness}")
            except BlockingIOError:
                time.sleep(_WAIT_S)
            else:
                return
