"""Messages on the terminal, whose failure never ends a training run or a `sync`; sizes as text."""

import contextlib
import logging
import sys
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


def show_messages(package: str) -> None:
    """Show the messages of a package from level INFO on stderr, as Lightning does with its own.

    A level or handlers that the application sets, before or after, take precedence. Calling this again has no effect.
    """
    logger = logging.getLogger(package)
    if not any(isinstance(handler, _AboveProgressBars) for handler in logger.handlers):
        logger.addHandler(_AboveProgressBars(logger))
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


class _AboveProgressBars(logging.Handler):
    """Prints above the progress bars of tqdm and Rich, unless the application has a handler of its own."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._handlers_of = (logger, logging.getLogger())

    def emit(self, record: logging.LogRecord) -> None:
        others = [handler for logger in self._handlers_of for handler in logger.handlers if handler is not self]
        if others or sys.stderr is None:
            return
        from tqdm import tqdm  # the worker, which imports this module, has no use for it

        tqdm.write(self.format(record), file=sys.stderr)  # not bound earlier: Rich replaces sys.stderr


def size_text(nbytes: int) -> str:
    """Format a size with a binary unit, for example `1.2 GiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes / 2**10:.1f} KiB"
