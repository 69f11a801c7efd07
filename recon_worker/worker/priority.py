"""CPU priority of the worker: low while training runs, normal once training only waits for the flush.

A process cannot raise its priority again, but on Linux each thread has its own priority. Heavy work therefore runs in
low-priority (`nice`) threads while its callers wait and, once the priority is restored, in the callers themselves. Work
in progress, one image or one upload, ends in the thread in which it began.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

_NICENESS = 10
_AUTOGROUP = Path("/proc/self/autogroup")
"""With autogroup scheduling Linux divides CPU time between sessions first: `nice` of a thread alone has no effect."""
_TRIES, _WAIT_S = 10, 0.1
"""The kernel allows one change per 0.1 s."""
_T = TypeVar("_T")


class LowPriority:
    """Runs heavy work at low priority until `restore`. Thread-safe.

    Args:
        threads: Largest number of concurrent callers.
    """

    def __init__(self, threads: int) -> None:
        self._restored = threading.Event()
        self._pool = ThreadPoolExecutor(threads, "low-priority", initializer=os.nice, initargs=(_NICENESS,))
        _set_autogroup(_NICENESS)

    def run(self, work: Callable[[], _T]) -> _T:
        """Run the work and return its result; exceptions propagate.

        If no thread can be started, and none is free, it runs in the calling thread, at normal priority.
        """
        if self._restored.is_set():
            return work()
        result = Future[_T]()
        try:
            self._pool.submit(_run, work, [result]).result()
        except BrokenExecutor:  # `nice` failed
            raise
        except RuntimeError:  # the limit of threads is reached; the work is nevertheless queued for running threads
            if result.cancel():
                return work()
        try:
            return result.result()
        finally:
            del result  # ends a reference cycle with the traceback, as in `_run`

    def restore(self) -> None:
        """Run all further work at normal priority."""
        if not self._restored.is_set():
            self._restored.set()
            _set_autogroup(0)


def _run(work: Callable[[], _T], results: "list[Future[_T]]") -> None:
    """Run the work, unless its result, the only one in the list, is cancelled. The pool must not keep the result."""
    result = results.pop()
    if result.set_running_or_notify_cancel():
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)
            del result


def _set_autogroup(niceness: int) -> None:
    with contextlib.suppress(OSError):  # the kernel has no autogroups, or a container forbids it
        for _ in range(_TRIES):
            try:
                _AUTOGROUP.write_text(f"{niceness}")
            except BlockingIOError:
                time.sleep(_WAIT_S)
            else:
                return
