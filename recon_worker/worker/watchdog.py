"""Notices the death of the training process, saves the snapshots that it left in memory, and bounds the time left.

    watchdog thread: parent gone -> set an alarm -> `save_snapshots` -> bring the alarm forward

At the alarm the kernel ends the process, whatever it hangs in, even a library that never releases the interpreter lock.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable

_POLL_S = 0.5
_SAVING_S = 60.0
"""Time for starting up and for writing snapshots to disk, beyond the time for rendering and uploading."""
_GRACE_S = 2.0
"""Time for an orderly exit."""


class Watchdog:
    """Ends the process `linger_s` after the death of its parent, or a little later while snapshots are not saved yet.

    Args:
        parent: Process id of the training process.
        linger_s: Time for rendering and uploading after its death.
    """

    def __init__(self, parent: int, linger_s: float) -> None:
        self.save_snapshots: Callable[[], None] | None = None
        """Writes the snapshots in shared memory to disk; None until it is known where to."""
        self._parent, self._linger_s = parent, linger_s
        self._deadline, self._lock = math.inf, threading.Lock()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        while os.getppid() == self._parent:
            time.sleep(_POLL_S)
        self.orphaned()
        self.save()

    def orphaned(self) -> float:
        """Start the clock, if it is not running: the training process is dead. Returns the deadline (monotonic)."""
        with self._lock:
            if self._deadline == math.inf:
                self._deadline = time.monotonic() + self._linger_s
                signal.setitimer(signal.ITIMER_REAL, self._linger_s + _SAVING_S)
            return self._deadline

    def save(self) -> None:
        """Save the snapshots; the process may then be ended at any moment without a loss.

        Both threads call this: the main thread may hang, and the watchdog may be too early to know where to save.
        """
        if self.save_snapshots is None:
            return
        self.save_snapshots()
        left_s = max(0.0, self.orphaned() - time.monotonic())  # `orphaned` cannot set its later alarm any more
        signal.setitimer(signal.ITIMER_REAL, left_s + _GRACE_S)
