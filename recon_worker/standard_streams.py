"""Standard streams that are closed or replaced: a daemon's, `2>&-`, an application that logs what goes to stderr."""

import contextlib
import os
import sys


def shows_progress() -> bool:
    """Whether stderr is a terminal, on which a progress bar can be drawn."""
    try:
        return sys.stderr.isatty()
    except Exception:  # None, closed, or an object of the user's that has no such method, or one that raises
        return False


def print_whatever_it_is() -> None:
    """Have stdout escape what it cannot encode, as stderr does: a path may be any bytes, an encoding ASCII."""
    with contextlib.suppress(AttributeError, ValueError):  # it is closed, or not Python's own
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def occupy_descriptors() -> None:
    """Open what is closed of the descriptors 0 to 2, for nothing: else memory or a socket of ours would get the number.

    Whatever a library prints would land in it, and the worker's own stderr would take its place. Programs that are
    started from here have them too.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
