"""Handles standard streams closed or replaced by a daemon, by `2>&-`, or by an application with its own stderr."""

import os
import sys


def shows_progress() -> bool:
    """Return whether stderr is a terminal that can show a progress bar."""
    try:
        return sys.stderr.isatty()
    except Exception:  # None, closed, or a user's object without a working `isatty`
        return False


def occupy_descriptors() -> None:
    """Open /dev/null on each closed descriptor from 0 to 2; child processes inherit it.

    Otherwise shared memory or a socket would get one of these numbers. Libraries would then print into it, and the
    worker would replace it with its own stderr.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
