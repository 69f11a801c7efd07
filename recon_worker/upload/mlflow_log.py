"""MLflow logs errors of a database, with thirty lines of traceback, and raises them too: here each is reported once."""

import contextlib
import logging
import threading
from collections.abc import Iterator

_LOGS_AND_RAISES = "mlflow.store.db.utils"
_thread = threading.local()


@contextlib.contextmanager
def without_its_tracebacks() -> Iterator[None]:
    """For calls of MLflow by this thread whose errors are caught, and said in one line."""
    logging.getLogger(_LOGS_AND_RAISES).addFilter(_is_wanted)  # once, however often it is called
    before, _thread.catches = _catches(), True
    try:
        yield
    finally:
        _thread.catches = before


def _catches() -> bool:
    return getattr(_thread, "catches", False)


def _is_wanted(_: logging.LogRecord) -> bool:
    return not _catches()
