"""Standard streams that are closed or replaced, as by a daemon, by `2>&-`, or by an application with its own stderr."""

import contextlib
import os
import sys


def shows_progress() -> bool:
    """Whether stderr is a terminal, on which a progress bar can be drawn."""
    try:
        return sys.stderr.isatty()
    except Exception:  # None, closed, or an object of the user's that has no such method, or one that raises
        return False


def escape_unencodable_output() -> None:
    """Have stdout escape what it cannot encode, as stderr does: a path can hold any bytes, and ASCII few letters."""
    with contextlib.suppress(AttributeError, ValueError):  # it is closed, or not Python's own
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def occupy_descriptors() -> None:
    """Open /dev/null at each of the descriptors 0 to 2 that is closed; child processes inherit it.

    Otherwise shared memory or a socket of ours would get the number: whatever a library prints would land in it, and in
    the worker its own stderr would replace it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
