"""Standard streams that are closed or replaced: a daemon's, `2>&-`, an application that logs what goes to stderr."""

import os
import sys


def shows_progress() -> bool:
    """Whether stderr is a terminal, on which a progress bar can be drawn."""
    try:
        return sys.stderr.isatty()
    except Exception:  # None, closed, or an object of the user's that has no such method, or one that raises
        return False


def occupy_descriptors() -> None:
    """Open what is closed of the descriptors 0 to 2, for nothing: else memory or a socket of ours would get the number.

    Whatever a library prints would land in it, and the worker's own stderr would take its place.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
