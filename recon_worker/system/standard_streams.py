"""Handles standard streams closed or replaced by a daemon, by `2>&-`, or by an application with its own stderr."""

import os
import sys
from typing import Literal


def shows_progress(stream: Literal["stdout", "stderr"] = "stderr") -> bool:
    """Return whether a standard stream is a terminal that can show a progress bar.

    False while Rich shows a bar of its own: the streams with which it replaces these print each carriage return as a
    line.
    """
    try:
        current = getattr(sys, stream)
        return current is getattr(sys, f"__{stream}__") and current.isatty()
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
