"""Starts as many threads as the limits of the machine permit."""

import threading
from collections.abc import Callable


def start_threads(number: int, target: Callable[[], object], name: str) -> int:
    """Start daemon threads with the same target; returns how many could be started.

    Raises:
        RuntimeError: None could be started.
    """
    for started in range(number):
        try:
            threading.Thread(target=target, name=f"{name}-{started}", daemon=True).start()
        except RuntimeError:  # the limit of threads or processes is reached
            if not started:
                raise
            return started
    return number
