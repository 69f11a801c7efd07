"""Detects the death of the training process, saves its snapshots in memory, and limits the remaining time.

    watchdog thread: parent dead -> set an alarm -> `save_snapshots` -> bring the alarm forward

At the alarm the kernel ends the process, even if it hangs in a library that never releases the interpreter lock.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable

_POLL_S = 0.5
_SAVING_S = 60.0
"""Time for starting up and writing snapshots to disk, in addition to rendering and uploading."""
_GRACE_S = 2.0
"""Time for an orderly exit."""


class Watchdog:
    """Ends the process `linger_s` after the death of its parent, or a minute later while snapshots are unsaved.

    Args:
        parent: Process id of the training process.
        linger_s: Time for rendering and uploading after its death.
    """

    def __init__(self, parent: int, linger_s: float) -> None:
        self.save_snapshots: Callable[[], None] | None = None
        """Writes the snapshots in shared memory to disk; None until the spool is known."""
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
        """Start the countdown, once, after the training process has died. Returns the deadline (monotonic)."""
        with self._lock:
            if self._deadline == math.inf:
                self._deadline = time.monotonic() + self._linger_s
                signal.setitimer(signal.ITIMER_REAL, self._linger_s + _SAVING_S)
            return self._deadline

    def save(self) -> None:
        """Save the snapshots; the process may then be ended at any time without loss.

        Both threads call this: the main thread may hang, and the watchdog may run before the spool is known.
        """
        if self.save_snapshots is None:
            return
        self.save_snapshots()
        left_s = max(0.0, self.orphaned() - time.monotonic())  # `orphaned` can no longer set its later alarm
        signal.setitimer(signal.ITIMER_REAL, left_s + _GRACE_S)
