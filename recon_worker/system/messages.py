"""Messages on the terminal, whose failure never ends a training run or a `sync`; sizes as text."""

import functools
import logging
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

from recon_worker.system.handler_errors import raise_if_from_signal_handler

if TYPE_CHECKING:
    from tqdm import tqdm


def message_log(name: str) -> "logging.LoggerAdapter[logging.Logger]":
    """Return a logger that suppresses exceptions of its handlers, such as a closed stream.

    Args:
        name: Name of the module, as for `logging.getLogger`.
    """
    return _SafeLogger(logging.getLogger(name))


class _SafeLogger(logging.LoggerAdapter[logging.Logger]):
    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:  # noqa: ANN401
        """Log a message. The methods for all levels call this one."""
        try:
            self.logger.log(level, msg, *args, stacklevel=2, **kwargs)
        except Exception as error:  # user-defined handlers may raise anything
            raise_if_from_signal_handler(error)


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
        progress_bars()  # imports tqdm now: descriptors may run out later
        self._handlers_of = (logger, logging.getLogger())

    def emit(self, record: logging.LogRecord) -> None:
        others = [handler for logger in self._handlers_of for handler in logger.handlers if handler is not self]
        if others or sys.stderr is None:
            return
        progress_bars().write(self.format(record), file=sys.stderr)  # not bound earlier: Rich replaces sys.stderr


def progress_bars() -> "type[tqdm[Any]]":
    """Return the class for progress bars and messages above them: tqdm, if the application has used it.

    Otherwise a subclass with a lock of its own. The lock that tqdm creates at its first use fixes the start method of
    multiprocessing; an application that chooses it later would end with a RuntimeError.
    """
    # Imported here, because the worker, which imports this module, does not need it.
    from tqdm.std import TqdmDefaultWriteLock, tqdm  # type: ignore[attr-defined] # in no stub

    has_lock = hasattr(TqdmDefaultWriteLock, "mp_lock") or hasattr(tqdm, "_lock")  # the application may set another
    return tqdm if has_lock else _own_progress_bars()


@functools.cache
def _own_progress_bars() -> "type[tqdm[Any]]":
    from tqdm import tqdm

    class OwnBars(tqdm):  # type: ignore[type-arg] # not subscriptable at runtime
        monitor_interval = 0
        _instances: ClassVar[Any] = weakref.WeakSet()

    OwnBars.set_lock(threading.RLock())
    return OwnBars


def size_text(nbytes: int) -> str:
    """Format a size with a binary unit, for example `1.2 GiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes / 2**10:.1f} KiB"
