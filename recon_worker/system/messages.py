"""Logging that never raises, as a failing log handler must not end a training or a `sync`; sizes as text."""

import contextlib
import logging
from typing import Any


def message_log(name: str) -> "logging.LoggerAdapter[logging.Logger]":
    """Return a logger that suppresses exceptions of its handlers, such as a closed stream.

    Args:
        name: Name of the module, as for `logging.getLogger`.
    """
    return _SafeLogger(logging.getLogger(name))


class _SafeLogger(logging.LoggerAdapter[logging.Logger]):
    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:  # noqa: ANN401
        """Log a message. The methods for all levels call this one."""
        with contextlib.suppress(Exception):  # user-defined handlers may raise anything
            self.logger.log(level, msg, *args, stacklevel=2, **kwargs)


def size_text(nbytes: int) -> str:
    """Format a size with a binary unit, for example `1.2 GiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes / 2**10:.1f} KiB"
