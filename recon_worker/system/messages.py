"""What this project says. A message that cannot be said must not end what it is about: the training, or a `sync`."""

import contextlib
import logging
from typing import Any


def message_log(name: str) -> "logging.LoggerAdapter[logging.Logger]":
    """As `logging.getLogger`; what a handler raises, as one does whose stream is closed, is left out.

    Args:
        name: Of the module.
    """
    return _Log(logging.getLogger(name))


class _Log(logging.LoggerAdapter[logging.Logger]):
    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:  # noqa: ANN401
        """See `message_log`."""
        with contextlib.suppress(Exception):  # a handler may be the user's, and raise anything
            self.logger.log(level, msg, *args, stacklevel=2, **kwargs)


def size_text(nbytes: int) -> str:
    """Such as 1.2 GiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes / 2**10:.1f} KiB"
