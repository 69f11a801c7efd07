"""Sees in the worker that the training process is dead; then has its snapshots kept, and bounds the time that is left.

thread: parent gone -> the kernel's alarm -> `keep` (snapshots from memory to files)
at the alarm the kernel ends the process, whatever it hangs in: also a library that never gives the interpreter back
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable

_POLL_S = 0.5
_WRITING_S = 60.0
"""What starting up and writing snapshots to disk may take beyond the time that there is for pictures."""
_GRACE_S = 2.0
"""What an end in good order takes."""


class Watchdog:
    """See above. The process must have ended `linger_s` after the death of its parent.

    Args:
        parent: Process id of the training process.
        linger_s: Time for rendering and uploading after its death.
    """

    def __init__(self, parent: int, linger_s: float) -> None:
        self.keep: Callable[[], None] = lambda: None
        """Called from this thread when the training process is dead."""
        self._parent, self._linger_s = parent, linger_s
        self.deadline, self._lock = math.inf, threading.Lock()
        """When (monotonic) that time is over; infinite while the training process lives."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        while os.getppid() == self._parent:
            time.sleep(_POLL_S)
        self.orphaned()
        self.keep()

    def orphaned(self) -> float:
        """The training process is dead, whoever notices first; when (monotonic) the time is over."""
        with self._lock:
            if self.deadline == math.inf:
                self.deadline = time.monotonic() + self._linger_s
                self._end_after(_WRITING_S)
            return self.deadline

    def kept(self) -> None:
        """Nothing lies in memory only: whenever the process ends now, nothing is lost."""
        self.orphaned()
        with self._lock:
            self._end_after(_GRACE_S)

    def _end_after(self, more_s: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, max(0.0, self.deadline - time.monotonic()) + more_s)
