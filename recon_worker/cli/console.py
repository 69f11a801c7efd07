"""What the program `recon-worker` reports: its exit code, and log messages on stderr."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `recon-worker`. The highest of several runs counts."""

    meaning: str
    """One line for `--help`."""

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    DONE = 0, "everything is done"
    LEFT = 1, "something is left or damaged; nothing is lost, try again"
    ERROR = 2, "wrong usage, an unreadable spool, or one that names a server which you must permit"
    BUSY = 3, "another process works on the spool"


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Print warnings and errors of this package to stderr.

    Those of urllib3 are omitted, as the uploader reports retries itself; so are Python warnings about library code, one
    of which would end the program with PYTHONWARNINGS=error.
    """
    handler, package = logging.StreamHandler(), logging.getLogger("recon_worker")
    handler.setFormatter(logging.Formatter("recon-worker: %(message)s"))
    package.addHandler(handler)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        package.removeHandler(handler)
